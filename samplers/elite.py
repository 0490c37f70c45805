"""All told points in order of merit, kept so while points come in."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paretune.pareto import Array
from paretune.ranking import crowding


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Some points from the best to the last: trial `numbers`, `ranks` (0 is the front) and `crowding` distances,
    one each, and `values` (n, objectives).
    """

    numbers: NDArray[np.int64]
    ranks: NDArray[np.int64]
    crowding: Array
    values: Array


class Elite:
    """Points by constrained domination (Deb et al. 2002, NSGA-II, https://doi.org/10.1109/4235.996017).

    Feasible points come before infeasible ones, these in order of violation; feasible ones front by front, those of one
    front by crowding distance, then by number. What it answers depends on the points alone, not on the order they
    came in.
    """

    def __init__(self) -> None:
        self._numbers: list[NDArray[np.int64]] = []  # of the feasible points, front by front
        self._values: list[Array] = []
        self._infeasible: list[tuple[float, int, tuple[float, ...]]] = []  # by violation

    def add(self, numbers: Sequence[int], values: Array, violations: Sequence[float]) -> None:
        """Take in points by trial number: `values` (n, objectives), all minimised; a violation above 0 is one."""
        for row in np.lexsort(values.T[::-1]):  # in this order a point pushes none of the others back
            if violations[row] > 0:
                insort(self._infeasible, (violations[row], numbers[row], tuple(values[row])))
            else:
                self._insert(np.array([numbers[row]]), values[row : row + 1])

    def select(self, size: int) -> Selection:
        """The best `size` points, or all if there are fewer."""
        parts, rank, left = [], -1, size
        for rank, (numbers, values) in enumerate(zip(self._numbers, self._values, strict=True)):
            if left <= 0:
                break
            parts.append(_best(numbers, values, rank, left))
            left -= len(numbers)
        last = 0.0
        for violation, number, row in self._infeasible[: max(left, 0)]:
            rank, last = rank + (violation > last), violation
            parts.append(_best(np.array([number]), np.array([row]), rank, 1))
        return _joined(parts)

    def _insert(self, numbers: NDArray[np.int64], values: Array) -> None:
        """Put one feasible point into its front; those it beats there move to the next front, and so on."""
        rank = bisect_left(self._values, True, key=lambda front: not _beaten(values, front)[0])
        while len(numbers):
            if rank == len(self._values):
                self._numbers.append(numbers)
                self._values.append(values)
                return
            front, known = self._values[rank], self._numbers[rank]
            beaten = _beaten(front, values)
            self._values[rank] = np.vstack([front[~beaten], values])
            self._numbers[rank] = np.concatenate([known[~beaten], numbers])
            numbers, values, rank = known[beaten], front[beaten], rank + 1


def _best(numbers: NDArray[np.int64], values: Array, rank: int, size: int) -> Selection:
    """The best of one front."""
    order = np.argsort(numbers)
    distance = crowding(values[order])
    best = np.argsort(-distance, kind="stable")[:size]
    rows = order[best]
    ranks = np.full(len(rows), rank)
    return Selection(numbers=numbers[rows], ranks=ranks, crowding=distance[best], values=values[rows])


def _joined(parts: Sequence[Selection]) -> Selection:
    if not parts:
        none = np.empty(0, dtype=np.int64)
        return Selection(numbers=none, ranks=none, crowding=np.empty(0), values=np.empty((0, 0)))
    return Selection(
        numbers=np.concatenate([part.numbers for part in parts]), ranks=np.concatenate([part.ranks for part in parts]),
        crowding=np.concatenate([part.crowding for part in parts]), values=np.vstack([part.values for part in parts]),
    )  # fmt: skip


def _beaten(points: Array, rivals: Array) -> NDArray[np.bool_]:
    """Which of `points` (n, objectives) are dominated by one of `rivals` (m, objectives)."""
    no_worse = np.all(rivals[None] <= points[:, None], axis=2)
    better = np.any(rivals[None] < points[:, None], axis=2)
    return np.asarray(np.any(no_worse & better, axis=1), dtype=np.bool_)
