"""Seconds per stage of a trial, and the moment at which it has to stop."""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from paretune.errors import OutOfTime

T = TypeVar("T")


@dataclass
class Clock:
    """Seconds per stage, and the moment at which a trial has to stop."""

    deadline: float = math.inf
    stages: dict[str, float] = field(default_factory=dict)
    inner: float = 0.0  # seconds of the stages inside the present one

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside the block to `name`, but for what a stage inside it takes."""
        start, outside, self.inner = time.perf_counter(), self.inner, 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.stages[name] = self.stages.get(name, 0.0) + spent - self.inner
            self.inner = outside + spent

    def tick(self) -> None:
        """Raise if the time is up."""
        if time.monotonic() > self.deadline:
            raise OutOfTime("it outlasted study.trial_minutes and was stopped at a batch")

    def watched(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, with a look at the time before each."""
        for batch in batches:
            self.tick()
            yield batch
