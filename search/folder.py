"""A study's folder: one writer at a time, files written whole or not at all."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from paretune.errors import ParetuneError
from paretune.files import write_text
from paretune.search.journal import JOURNAL

EFFECTS = "effects.json"  # what single decisions cost


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; it is let go when the process ends, however it ends.

    Raises:
        ParetuneError: another live process holds it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParetuneError(f"results_dir: {folder} cannot be made ({error.strerror})") from error
    owner = folder / ".owner"
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        who = owner.read_text().strip() if owner.exists() else "another process"
        raise ParetuneError(f"{folder} is being written by {who}; wait for it or choose another study.name") from None
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        # Optuna's own lock is a link that outlives a killed process by 30 s; ours proves that nobody is alive.
        (folder / f"{JOURNAL}.lock").unlink(missing_ok=True)
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` as indented JSON in one step."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ParetuneError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParetuneError(f"{path.parent} is not the folder of a study: {path.name} is missing") from None
    except ValueError as error:
        raise ParetuneError(f"{path} is damaged ({error})") from error


def kept_folder(folder: Path, number: int) -> Path:
    """Where the packed weights of a trial are."""
    return folder / "trials" / str(number)


def forget(folder: Path) -> None:
    """Delete what belongs to a study that is no longer in the journal: its curves, weights and confirmations."""
    for name in ("curves.json", "alike.json", EFFECTS, "confirmations.json"):
        (folder / name).unlink(missing_ok=True)
    drop_kept(folder, set())


def drop_kept(folder: Path, wanted: set[int]) -> None:
    """Delete the packed weights of every trial that is not in `wanted`."""
    for path in (folder / "trials").glob("*"):
        if path.name not in map(str, wanted):
            shutil.rmtree(path, ignore_errors=True)
