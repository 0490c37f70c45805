"""The front of a study's rows while it runs."""

from collections.abc import Mapping, Sequence

import numpy as np

from paretune.findings import Trial
from paretune.pareto import Array, nondominated


def front_of(rows: Sequence[Trial], objectives: Sequence[str]) -> list[Trial]:
    """The finished, feasible rows that nothing dominates; neither copies nor repeats are among them."""
    whole = [row for row in rows if row.status == "done" and row.feasible]
    done = [row for row in whole if row.same_as is None and row.kind != "repeat"]
    mask = nondominated(points_of([row.values for row in done], objectives))
    return [row for row, on_front in zip(done, mask, strict=True) if on_front]


def points_of(values: Sequence[Mapping[str, float]], objectives: Sequence[str]) -> Array:
    """The objectives of some trials, one row each."""
    rows = [[each[name] for name in objectives] for each in values]
    return np.array(rows, dtype=float).reshape(len(rows), len(objectives))
