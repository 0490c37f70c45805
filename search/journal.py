"""Optuna's journal file, for the one process that holds the folder's lock; other tools can open it as ever."""

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from paretune.errors import ParetuneError

JOURNAL = "study.journal"


class Journal(BaseJournalBackend):
    """The log lines of `path`, read in one go and appended without a lock of its own.

    Parameters are not flushed to the disk one by one, which takes longer than asking: a killed process loses nothing by
    that, and after a power cut the unfinished trial is asked again and, asks being reproducible, gets the same answers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen, self._offset = 0, 0  # log lines read so far, and where the next one starts

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The logs from that number on; a last line that is still being written is left for the next call.

        Raises:
            ParetuneError: a line is damaged; the message names it.
        """
        if log_number_from != self._seen:
            self._seen, self._offset = 0, 0
        with self._path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        fresh = fresh[: fresh.rfind(b"\n") + 1]
        logs = self._parsed(fresh.splitlines())
        skip = log_number_from - self._seen
        self._seen, self._offset = self._seen + len(logs), self._offset + len(fresh)
        yield from logs[skip:]

    def _parsed(self, lines: list[bytes]) -> list[dict[str, Any]]:
        try:
            logs: list[dict[str, Any]] = json.loads(b"[" + b",".join(lines) + b"]")  # twice as fast as line by line
            if len(logs) == len(lines) and all("op_code" in log for log in logs):
                return logs
        except (ValueError, TypeError):
            pass
        number = self._seen + next((i for i, line in enumerate(lines) if not _whole(line)), 0) + 1
        raise ParetuneError(
            f"{self._path} line {number} is damaged; restore the file, or keep the first {number - 1} lines "
            "to go on from there"
        )

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add one line per log."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            if not all("param_name" in log for log in logs):
                os.fsync(file.fileno())


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection inside: it would look through a million fresh objects again and again and find nothing."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def replayed(path: Path) -> JournalStorage:
    """Optuna's storage over the journal, with everything in it read.

    Optuna parses the distribution of every stored parameter anew, 100,000 times in a long study for a hundred
    different ones, and that is a third of the time. While it reads, the parser remembers; if a later Optuna keeps it
    elsewhere, reading is slower and nothing else.
    """
    module: Any = sys.modules[JournalStorage.__module__]
    parse = getattr(module, "json_to_distribution", None)
    if parse is None:
        return JournalStorage(Journal(path))
    module.json_to_distribution = cache(parse)
    try:
        with collector_paused():
            return JournalStorage(Journal(path))
    finally:
        module.json_to_distribution = parse


def mend_journal(path: Path) -> str:
    """Make the file if there is none, and cut a last line that a killed process left unfinished.

    Returns what was done, or "". Damage further up is found when the lines are read.
    """
    path.touch()
    content = path.read_bytes()
    body = content.removesuffix(b"\n")
    start = body.rfind(b"\n") + 1
    if not content or (content.endswith(b"\n") and _whole(body[start:])):
        return ""
    with path.open("rb+") as file:
        file.truncate(start)
    return f"the last line of {path} was unfinished and has been cut"


def _whole(line: bytes) -> bool:
    try:
        log = json.loads(line)
    except ValueError:
        return False
    return isinstance(log, dict) and "op_code" in log
