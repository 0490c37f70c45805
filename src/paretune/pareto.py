"""Fronts, hypervolumes and knees over plain arrays. Smaller is better in every column."""

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

    Exact for any number of objectives by slicing the last one (Fonseca et al. 2006,
    https://doi.org/10.1109/CEC.2006.1688440); meant for two or three.
    """
    reference = np.asarray(reference, dtype=float)
    points = np.asarray(points, dtype=float).reshape(-1, len(reference))
    points = points[(points < reference).all(axis=1)]
    if not len(points):
        return 0.0
    points = np.unique(points[nondominated(points)], axis=0)
    if len(reference) == 1:
        return float(reference[0] - points.min())
    if len(reference) == 2:
        x, y = points[:, 0], points[:, 1]
        widths = np.append(x[1:], reference[0]) - x
        return float(np.sum(widths * (reference[1] - y)))
    points = points[np.argsort(points[:, -1], kind="stable")]
    tops = np.append(points[1:, -1], reference[-1])
    depths = tops - points[:, -1]
    slices = (hypervolume(points[: i + 1, :-1], reference[:-1]) for i in range(len(points)))
    return float(sum(area * depth for area, depth in zip(slices, depths, strict=True)))


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
