"""Fronts, hypervolumes and knees over plain arrays. Smaller is better in every column."""

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def nondominated(points: Array) -> NDArray[np.bool_]:
    """A mask over the rows of `points` (n, objectives): True where no other row is at least as good
    everywhere and better somewhere. Equal rows are all kept. Rows with NaN are never kept.
    """
    points = np.asarray(points, dtype=float)
    usable = np.asarray(~np.isnan(points).any(axis=1), dtype=np.bool_)
    keep: NDArray[np.bool_] = usable.copy()
    order = np.lexsort(points.T[::-1])
    front = np.empty((0, points.shape[1]))
    for row in order[usable[order]]:
        point = points[row]
        beaten = (front <= point).all(axis=1) & (front < point).any(axis=1)
        if beaten.any():
            keep[row] = False
        else:
            front = np.vstack([front, point])
    return keep


def hypervolume(points: Array, reference: Array) -> float:
    """The volume dominated by `points` (n, objectives) and bounded by `reference` (objectives,).

    Exact. Up to three objectives are swept along the last one over a staircase of the first two, about n log n
    steps; every further objective is sliced (Fonseca et al. 2006, https://doi.org/10.1109/CEC.2006.1688440).
    """
    reference = np.asarray(reference, dtype=float)
    points = np.asarray(points, dtype=float).reshape(-1, len(reference))
    points = points[(points < reference).all(axis=1)]
    if not len(points):
        return 0.0
    if len(reference) <= 3:
        return _swept(points, reference)
    points = np.unique(points[nondominated(points)], axis=0)
    points = points[np.argsort(points[:, -1], kind="stable")]
    tops = np.append(points[1:, -1], reference[-1])
    depths = tops - points[:, -1]
    slices = (hypervolume(points[: i + 1, :-1], reference[:-1]) for i in range(len(points)))
    return float(sum(area * depth for area, depth in zip(slices, depths, strict=True)))


def added(point: Array, front: Array, reference: Array) -> float:
    """The volume between `point` (objectives,) and `reference` that no row of `front` (n, objectives) covers.

    What the others cover of that box is a hypervolume too (While et al. 2012, "WFG",
    https://doi.org/10.1109/TEVC.2010.2077298), over few steps because most points clip to the same.
    """
    return float(np.prod(reference - point)) - hypervolume(np.maximum(front, point), reference)


def _swept(points: Array, reference: Array) -> float:
    """The volume of one to three objectives; all `points` lie below `reference`."""
    # Fewer than three objectives are three with last ones that are always 0 below 1: one sweep serves all.
    missing = 3 - len(reference)
    rows = np.hstack([points, np.zeros((len(points), missing))])
    right, high, deep = np.append(reference, np.ones(missing)).tolist()
    rows = rows[np.lexsort(rows.T)]
    tops = np.append(rows[1:, 2], deep)
    stairs, area, volume = [(-np.inf, high), (right, -np.inf)], 0.0, 0.0
    for (x, y, bottom), top in zip(rows.tolist(), tops.tolist(), strict=True):
        area += _climb(stairs, x, y)
        volume += area * (top - bottom)
    return float(volume)


def _climb(stairs: list[tuple[float, float]], x: float, y: float) -> float:
    """The area that (x, y) adds to a staircase, which then holds it.

    `stairs` is ascending in x and never ascending in y; its first and last step are the edges of the box.
    """
    start = end = bisect_left(stairs, (x, y))
    left, ceiling, gained = x, stairs[start - 1][1], 0.0
    while ceiling > y:
        gained += (stairs[end][0] - left) * (ceiling - y)
        (left, ceiling), end = stairs[end], end + 1
    if end > start:
        stairs[start : end - 1] = [(x, y)]
    return gained


def normalise(points: Array) -> Array:
    """Every column of `points` (n, objectives) measured from its best value in units of the distance from there to
    its upper quartile, so that one extreme point does not set the scale. A constant column becomes 0.
    """
    best = points.min(axis=0)
    span = np.quantile(points, 0.75, axis=0) - best
    span = np.where(span > 0, span, np.ptp(points, axis=0))
    scaled: Array = (points - best) / np.where(span > 0, span, 1.0)
    return scaled


def knee(points: Array) -> int:
    """The row of a front (n, objectives) with the best trade-off of the first objective against the others' mean.

    After normalising, that is the row with the smallest sum of the two, the one furthest below the line through
    the extremes (Das 1999, https://doi.org/10.1007/s001580050111). Costs rise and fall together, so several of them
    are one side of the trade. Ties go to the first row.
    """
    scaled = normalise(np.asarray(points, dtype=float))
    return int(np.argmin(scaled[:, 0] + scaled[:, 1:].mean(axis=1)))
