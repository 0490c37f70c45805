"""How much quality a group costs at every pruning rate: measured once, read by the knee rule and by the report."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The quality metric (an error, smaller is better) when only `group` loses `ratios[i]` of its channels.

    `ratios` ascend from 0. `chance` is the error of guessing.
    """

    group: str
    criterion: str
    ratios: tuple[float, ...]
    errors: tuple[float, ...]
    chance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Knee:
    """The rate read off a curve.

    `ratio` is the one to use; `found` is what Kneedle said (None: it found no knee); `note` says what the guard did, or is empty.
    """

    group: str
    ratio: float
    found: float | None
    note: str
