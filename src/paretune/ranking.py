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
    """The crowding distance of every row of one front (n, objectives): infinite at the ends of an objective, larger
    where neighbours are further away (Deb et al. 2002, https://doi.org/10.1109/4235.996017).
    """
    points = np.asarray(points, dtype=float)
    found = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]] if len(order) else 0.0
        if span > 0:
            found[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
        if len(order):
            found[order[[0, -1]]] = np.inf
    return found


def spread(points: Array, first: int = 0) -> list[int]:
    """The rows of `points` (n, objectives) from `first` on, each the one furthest from all before it (an ε-net):
    however early one stops, the rows taken cover the whole set. Columns are scaled to their range; ties go to the
    first row.

    As Salinas et al. 2021 order a front in MO-ASHA, https://arxiv.org/abs/2106.12639.
    """
    points = np.asarray(points, dtype=float)
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
        found += [int(rows[place]) for place in spread(np.nan_to_num(points[rows]), first)]
    return found
