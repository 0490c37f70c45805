"""Where a trial is looked at on its way, and who says whether it goes on."""

from collections.abc import Callable
from dataclasses import dataclass

Judge = Callable[[int, float], str | None]


def nobody(epochs: int, score: float) -> str | None:
    """Lets every trial go on, unjudged."""
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """A trial is scored after each of `epochs` (of its recovery, the last one aside).

    `judge(epochs, score)` answers None if it does not judge there, "" if the trial goes on, and else why it stops.
    """

    epochs: tuple[int, ...] = ()
    judge: Judge = nobody

    def looks(self, epochs: int, length: int) -> bool:
        """True if a trial of `length` epochs is looked at after `epochs`: never at its end."""
        return epochs in self.epochs and epochs < length


class Stopped(Exception):
    """A trial that its judge took for hopeless; the text says why."""
