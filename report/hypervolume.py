"""How much of the objective space a study has covered, trial after trial."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from paretune.findings import Findings, Trial
from paretune.pareto import Array, hypervolume


def hypervolumes(findings: Findings) -> tuple[float, ...]:
    """The normalised hypervolume after each trial, one share in [0, 1] per trial, never falling.

    Only finished, feasible trials count; objectives are divided by the reference, so 1 would be a
    model with no error and no cost.
    """
    counted = {trial.number for trial in findings.candidates}
    front, covered, curve = np.empty((0, len(findings.names))), 0.0, []
    for trial, point in zip(findings.trials, _scaled(findings, findings.trials), strict=True):
        # Most trials stop here: nothing is recomputed for a point that adds nothing. NaN fails `< 1` too.
        if trial.number in counted and (point < 1).all() and not (front <= point).all(axis=1).any():
            # What others cover of the box above the point is a hypervolume too (While et al. 2012, "WFG",
            # https://doi.org/10.1109/TEVC.2010.2077298), over few steps because most points clip to the same.
            covered += float(np.prod(1 - point)) - _volume(np.maximum(front, point))
            front = np.vstack([front[~(point <= front).all(axis=1)], point])
        curve.append(covered)
    return tuple(curve)


def covered_by(findings: Findings, trials: Sequence[Trial]) -> float:
    """The normalised hypervolume of the feasible ones among `trials`."""
    counted = {trial.number for trial in findings.candidates}
    points = _scaled(findings, [trial for trial in trials if trial.number in counted])
    return hypervolume(points, np.ones(len(findings.names)))


def _scaled(findings: Findings, trials: Sequence[Trial]) -> Array:
    corner = np.array([findings.reference.get(name, np.nan) for name in findings.names], dtype=float)
    scaled: Array = findings.points(trials) / np.where(corner > 0, corner, np.nan)
    return scaled


def _volume(points: Array) -> float:
    """The volume between `points` and the corner (1, ..., 1)."""
    size = points.shape[1]
    if not len(points) or size > 3:
        return hypervolume(points, np.ones(size))
    # Two objectives are three with a last one that is always 0: one sweep serves both.
    rows = np.hstack([points, np.zeros((len(points), 3 - size))])
    rows = rows[np.lexsort(rows.T)]
    tops = np.append(rows[1:, 2], 1.0)
    stairs, area, volume = [(1.0, 0.0)], 0.0, 0.0
    for (x, y, bottom), top in zip(rows.tolist(), tops.tolist(), strict=True):
        area += _climb(stairs, x, y)
        volume += area * (top - bottom)
    return volume


def _climb(stairs: list[tuple[float, float]], x: float, y: float) -> float:
    """The area that (x, y) adds to a staircase of mutually non-dominated points, which then holds it.

    `stairs` is ascending in x and descending in y, and ends with (1, 0), the edge of the box.
    """
    at = bisect_left(stairs, (x, y))
    ceiling = stairs[at - 1][1] if at else 1.0
    if ceiling <= y:
        return 0.0
    gained, left, end = 0.0, x, at
    while True:
        right, step = stairs[end]
        gained += (right - left) * (ceiling - y)
        if step < y or right >= 1.0:
            break
        left, ceiling, end = right, step, end + 1
    del stairs[at:end]
    insort(stairs, (x, y))
    return gained
