"""Orders among points of several objectives: who goes on, who becomes a parent. Smaller is better in every column."""

import numpy as np
from numpy.typing import NDArray

from paretune.pareto import Array, nondominated


def ranks(points: Array) -> NDArray[np.int64]:
    """The front of every row of `points` (n, objectives): 0 if nothing dominates it, 1 if only rows of front 0 do, and
    so on. Rows with NaN come last.

    Deb et al. 2002, NSGA-II, https://doi.org/10.1109/4235.996017.
    """
    points = np.asarray(points, dtype=float)
    found = np.full(len(points), -1, dtype=np.int64)
    left, rank = np.arange(len(points)), 0
    while len(left):
        mask = nondominated(points[left])
        if not mask.any():  # only rows with NaN are left
            mask = np.ones(len(left), dtype=np.bool_)
        found[left[mask]] = rank
        left, rank = left[~mask], rank + 1
    return found


def crowding(points: Array) -> Array:
    """The crowding distance of every row of one front (n, objectives): infinite at both ends of an objective, larger
    where neighbours are further away (Deb et al. 2002, https://doi.org/10.1109/4235.996017).

    Of rows equal in an objective the first is its end. A constant objective has no ends and tells nothing, unless all
    are constant: then one of the rows is as good as another, and the first is infinite.
    """
    points = finite(points)
    found = np.zeros(len(points))
    for column in points.T[np.ptp(points, axis=0) > 0] if len(points) else ():
        order = np.argsort(column, kind="stable")
        last = order[np.searchsorted(column[order], column[order[-1]])]  # the first of the rows with the largest value
        found[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / (column[last] - column[order[0]])
        found[[order[0], last]] = np.inf
    if len(found) and not found.any():
        found[0] = np.inf
    return found


def spread(points: Array, first: int = 0) -> list[int]:
    """The rows of `points` (n, objectives) from `first` on, each the one furthest from all before it (an ε-net):
    however early one stops, the rows taken cover the whole set. Columns are scaled to their range; ties go to the
    first row.

    As Salinas et al. 2021 order a front in MO-ASHA, https://arxiv.org/abs/2106.12639.
    """
    points = finite(points)
    if not len(points):
        return []
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    order, distance = [first], np.full(len(points), np.inf)
    for _ in range(len(points) - 1):
        distance = np.minimum(distance, ((scaled - scaled[order[-1]]) ** 2).sum(axis=1))
        distance[order[-1]] = -1.0
        order.append(int(np.argmax(distance)))
    return order


def order(points: Array) -> list[int]:
    """All rows of `points` (n, objectives) from the best to the last: front by front, each front spread out, from
    its best first objective on.
    """
    points = np.asarray(points, dtype=float)
    fronts, found = ranks(points), []
    for rank in range(int(fronts.max(initial=-1)) + 1):
        rows = np.flatnonzero(fronts == rank)
        first = int(np.argmin(np.nan_to_num(points[rows, 0], nan=np.inf)))
        found += [int(rows[place]) for place in spread(points[rows], first)]
    return found


def finite(points: Array) -> Array:
    """`points` with the infinite one range of its column beyond the finite ones; NaN counts as the worst."""
    points = np.array(points, dtype=float)
    for column in points.T:
        usable = column[np.isfinite(column)]
        low, high = (usable.min(), usable.max()) if len(usable) else (0.0, 0.0)
        far = (high - low) or 1.0
        np.nan_to_num(column, copy=False, nan=high + far, posinf=high + far, neginf=low - far)
    return points
