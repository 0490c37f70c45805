"""One axis of a chart: how far it reaches, whether it is logarithmic, where its ticks are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from paretune.findings import Objective
from paretune.report.text import label

PADDING = 0.06  # of the axis, free on both ends, so that no mark is cut off


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A metric drawn from `low` to `high`, both inside what the axis shows."""

    name: str
    title: str
    unit: str
    log: bool
    low: float
    high: float

    def place(self, value: float) -> float:
        """Where `value` lies on the axis, 0 at `low` and 1 at `high`."""
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)


def axis(objective: Objective, values: Iterable[float]) -> Axis:
    """The axis that holds `values`; logarithmic if they are positive and span more than a decade."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    log = low > 0 and high / low > 10
    if log:
        pad = (high / low) ** PADDING
        low, high = low / pad, high * pad
    else:
        pad = PADDING * ((high - low) or abs(high) or 1.0)
        low, high = low - pad, high + pad
    return Axis(name=objective.name, title=label(objective.name), unit=objective.unit, log=log, low=low, high=high)


def ticks(axis: Axis, most: int = 7) -> tuple[float, ...]:
    """Round numbers within the axis, ascending, about `most` of them and never two more."""
    if not axis.log:
        return _linear_ticks(axis, most)
    decades = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [step * 10.0**power for power in decades for step in steps]
        inside = tuple(value for value in found if axis.low <= value <= axis.high)
        if len(inside) <= most:
            break
    return inside[:: math.ceil(len(inside) / most)]


def _linear_ticks(axis: Axis, most: int) -> tuple[float, ...]:
    raw = (axis.high - axis.low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= raw * (1 - 1e-9))
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return tuple(index * step for index in range(first, last + 1))
