"""Progress lines on a terminal: trials, best hypervolume, failures, time left. Silent anywhere else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from paretune.findings import Trial


class Watch:
    """What to call after every trial."""

    def __init__(self, bar: Progress | None, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("trials", total=total, volume=0.0, stopped=0, failures=0) if bar else None

    def show(self, rows: list[Trial], volume: Callable[[], float]) -> None:
        """Draw the state of the study; the normalised hypervolume is only asked for if somebody looks."""
        if self._bar is not None and self._task is not None:
            failures = sum(row.status == "failed" for row in rows)
            stopped = sum(row.status == "stopped" for row in rows)
            self._bar.update(self._task, completed=len(rows), volume=volume(), stopped=stopped, failures=failures)


@contextmanager
def measuring() -> Iterator[Callable[[int, int], None]]:
    """What to call with (done, total) while sensitivities are measured; draws if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (
        TextColumn("sensitivities"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sensitivities", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=done < total)


@contextmanager
def progress(total: int) -> Iterator[Watch]:
    """A watch that draws on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield Watch(None, total)
        return
    columns = (
        TextColumn("trials"), MofNCompleteColumn(), BarColumn(),
        TextColumn("hypervolume {task.fields[volume]:.4f}"), TextColumn("stopped {task.fields[stopped]}"),
        TextColumn("failures {task.fields[failures]}"), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Watch(bar, total)
