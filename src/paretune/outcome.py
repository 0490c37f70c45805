"""What a trial found, or the reason it found nothing."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["done", "failed", "over_budget"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A score on the way: the quality after `epochs` of recovery (0 is straight after recalibration)."""

    epochs: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of one trial.

    `values` holds every static cost and, when the status is "done", the quality metric on `val`.
    `seconds` says where the time went, stage by stage. `notes` say what a rule decided on its own, in words.
    """

    status: Status
    values: dict[str, float]
    rungs: tuple[Rung, ...] = ()
    seconds: dict[str, float]
    reason: str = ""
    notes: tuple[str, ...] = ()
