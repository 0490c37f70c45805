"""What a trial found, or the reason it found nothing."""

from dataclasses import dataclass
from typing import Literal

from paretune.records import quiet

Status = Literal["done", "failed", "over_budget", "stopped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A score on the way: the quality after `epochs` of recovery (0 is straight after recalibration).

    `judged` says that the trial had to be good enough here to go on.
    """

    epochs: int
    score: float
    judged: bool = quiet(False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of one trial: "stopped" is one that a rung took for hopeless.

    `values` holds every static cost and, when the status is "done", the quality metric on `val`.
    `seconds` says where the time went, stage by stage. `notes` say what a rule decided on its own, in words.
    """

    status: Status
    values: dict[str, float]
    rungs: tuple[Rung, ...] = ()
    seconds: dict[str, float]
    reason: str = ""
    notes: tuple[str, ...] = ()
