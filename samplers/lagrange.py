"""From what single decisions harm to a spread of points along the whole front, before anything is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from math import ceil

import numpy as np
from numpy.typing import NDArray

from paretune.errors import ParetuneError
from paretune.pareto import Array, nondominated
from paretune.ranking import spread

Point = tuple[int, ...]
Costs = Callable[[Point], Sequence[float]]
Pairs = Mapping[tuple[int, int, int, int], float]
Limits = Sequence[float | None]

RATES = 400  # values of λ on a grid
ANCHORS = 3  # points of a walk, at least, at which all options are priced
SKEWS = (1.0, 4.0, 16.0)  # how much more one cost of a pair counts than the other
PATIENCE = 4  # tables without a better point before the search under a limit ends
TRIES = 16  # pairs of changes priced at a point, at most
NOTHING = 1e-9  # a share of a cost below which a saving is rounding


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What each option of one decision adds to the loss beyond the mildest, which comes first with 0. Options are in
    the order of rising compression; noise may make a harm negative, NaN or infinite.
    """

    name: str
    harm: tuple[float, ...]


@dataclass(kw_only=True)
class Problem:
    """Decisions and what they cost; every point is priced once.

    Harm adds up over decisions, with `pairs` (decision, option, decision, option) on top. `costs` are exact, positive
    and need not add up: a layer's bytes are products of what its neighbours keep. `limits` are the largest allowed.
    """

    harms: Array
    costs: Costs
    limits: Limits
    pairs: Pairs
    known: dict[Point, Array] = field(default_factory=dict)
    priced: set[Point] = field(default_factory=set)

    @cached_property
    def mildest(self) -> Point:
        """Every decision at its first option."""
        return (0,) * len(self.harms)

    @cached_property
    def bounds(self) -> Array:
        """The limits, infinite where there is none."""
        return np.array([np.inf if limit is None else limit for limit in self.limits])

    @cached_property
    def options(self) -> NDArray[np.int64]:
        """How many options each decision has."""
        found: NDArray[np.int64] = np.isfinite(self.harms).sum(axis=1)
        return found

    @property
    def table(self) -> int:
        """How many calls it takes to price all options at one point."""
        return int((self.options - 1).sum()) + 1

    def cost(self, point: Point) -> Array:
        """The exact costs of `point`."""
        if point not in self.known:
            self.known[point] = np.asarray(self.costs(point), dtype=float)
        return self.known[point]

    def prices(self, point: Point) -> Array:
        """The costs (decisions, options, costs) when one decision of `point` alone takes another option, in units of
        the mildest point's.
        """
        self.priced.add(point)
        unit, here = self.cost(self.mildest), self.cost(point)
        found = np.tile(here, (*self.harms.shape, 1))
        for at, option in np.argwhere(np.isfinite(self.harms)).tolist():
            if option != point[at]:
                found[at, option] = self.cost((*point[:at], option, *point[at + 1 :]))
        return found / unit

    def added(self, point: Point) -> Array:
        """The harm (decisions, options) of each option next to what the others of `point` are set to."""
        found = self.harms.copy()
        for (a, one, b, other), harm in self.pairs.items():
            found[a, one] += harm * (point[b] == other)
            found[b, other] += harm * (point[a] == one)
        return found

    def total(self, points: Sequence[Point]) -> Array:
        """The harm of every point."""
        rows = np.array(points, dtype=np.int64).reshape(len(points), len(self.harms))
        found = self.harms[np.arange(rows.shape[1]), rows].sum(axis=1)
        for (a, one, b, other), harm in self.pairs.items():
            found += harm * ((rows[:, a] == one) & (rows[:, b] == other))
        return np.asarray(found, dtype=float)

    def fits(self, point: Point) -> bool:
        """True if `point` is within the limits."""
        return bool((self.cost(point) <= self.bounds).all())

    def best(self) -> tuple[Point | None, float]:
        """The least harmful known point within the limits whose options are not priced, and its harm; None if none."""
        points = [point for point in self.known if point not in self.priced and self.fits(point)]
        if not points:
            return None, np.inf
        harms = self.total(points)
        return points[int(np.argmin(harms))], float(harms.min())

    def front(self) -> tuple[list[Point], Array]:
        """The feasible points priced so far that none of them dominates, by rising harm, with their harm and costs
        (points, 1 + costs). Of equal ones the milder stands.
        """
        points = [point for point in sorted(self.known, key=sum) if self.fits(point)]
        if not points:
            return [], np.empty((0, 1 + len(self.bounds)))
        rows = np.column_stack([self.total(points), [self.known[point] for point in points]])
        _, first = np.unique(rows.round(12), axis=0, return_index=True)
        kept = first[nondominated(rows[first])]
        kept = kept[np.argsort(rows[kept, 0], kind="stable")]
        return [points[at] for at in kept], rows[kept]


def seeds(
    decisions: Sequence[Decision],
    costs: Costs,
    *,
    count: int = 24,
    limits: Limits,
    pairs: Pairs = {},  # noqa: B006
    calls: int = 10_000,
) -> list[Point]:
    """At most `count` different points (an option of every decision) within `limits`, spread along the front of harm
    and costs that single harms promise; the least harmful first, then the cheapest by each cost.

    For several mixtures of the costs, argmin over points of harm + λ · cost is followed from small to large λ. Prices
    of single changes are exact at anchors along the way and taken to add up in between, about `calls` calls of `costs`
    in all (never fewer than eight tables of all options); then every point that was priced may be chosen. The mildest
    point is left out unless it alone is left. Fewer points, or none, come back if no more are on the front within the
    limits. No randomness.

    λ weighs costs, not their logarithms: each point that is best for harm + λ · log cost is, log being concave, also
    best for harm + λ' · cost, but not the other way round.

    Everett 1963, Generalized Lagrange multiplier method, https://doi.org/10.1287/opre.11.3.399; for bit allocation
    Shoham and Gersho 1988, https://doi.org/10.1109/29.90373.

    Raises:
        ParetuneError: as many limits as costs are needed.
    """
    problem = Problem(harms=settled([one.harm for one in decisions]), costs=costs, limits=limits, pairs=pairs)
    if count < 1:
        return []
    if len(problem.cost(problem.mildest)) != len(limits):
        raise ParetuneError(
            f"There are {len(problem.cost(problem.mildest))} costs but {len(limits)} limits; "
            "give one limit or null per cost."
        )
    rates = _explore(problem, calls)
    if not problem.fits(problem.mildest):
        _tighten(problem, rates, calls)
    _fill(problem, count, calls)
    points, rows = problem.front()
    if len(points) > 1 and problem.mildest in points:
        rows = np.delete(rows, points.index(problem.mildest), axis=0)
        points.remove(problem.mildest)
    return [points[at] for at in _chosen(rows, count, _scale(problem.harms))]


def settled(harms: Sequence[Sequence[float]]) -> Array:
    """Harms (decisions, options) that are fit to be added up; infinite where a decision has no such option.

    More compression never harms less (a running maximum, from 0): less would be noise. A network that is destroyed is
    no better or worse for how far its loss ran away, so that NaN and infinity count as the largest finite harm, and
    harms above T = decisions × the typical harm of a strongest option grow as T · (1 + log(harm / T)) only.
    """
    found = np.full((len(harms), max(map(len, harms), default=1)), np.inf)
    usual = np.array([value for row in harms for value in row if np.isfinite(value)])
    worst = usual.max(initial=0.0) or 1.0
    for at, row in enumerate(harms):
        plain = np.nan_to_num(np.array(row, dtype=float), nan=worst, posinf=worst, neginf=0.0)
        found[at, : len(row)] = np.maximum.accumulate(np.maximum(plain - plain[0], 0.0))
    most = len(harms) * _scale(found)
    high = np.isfinite(found) & (found > most)
    found[high] = most * (1 + np.log(found[high] / most))
    return found


def choices(harms: Array, prices: Array, rates: Array) -> NDArray[np.int64]:
    """The options (rates, decisions) that minimise harm + rate · price when both (decisions, options) add up. Of equal
    ones the milder is taken.
    """
    scores = harms[None] + rates[:, None, None] * prices[None]
    found: NDArray[np.int64] = scores.argmin(axis=2)
    return found


def mixtures(costs: int, most: int) -> Array:
    """Weights (mixtures, costs) that add up to 1, about `most` of them at most: all costs alike, each alone, pairs
    alike, pairs one of which counts 4 or 16 times as much. Groups are whole or left out, the first is always in.
    """
    alone = np.eye(costs)
    groups = [np.full((1, costs), 1 / costs), alone if costs > 1 else alone[:0]]
    for skew in SKEWS:
        ways = [(a, b) for a, b in combinations(range(costs), 2) if skew > 1 or costs > 2]
        both = ways + [(b, a) for a, b in ways if skew > 1]
        rows = [(skew * alone[a] + alone[b]) / (1 + skew) for a, b in both]
        groups.append(np.array(rows).reshape(len(rows), costs))
    sizes = np.cumsum([len(group) for group in groups])
    return np.vstack(groups[: max(1, int((sizes <= most).sum()))])


def _explore(problem: Problem, calls: int) -> Array:
    """Walks along all mixtures of the costs and gives the grid of λ; what it prices stays in `problem`."""
    tables = max(8, int(0.75 * calls / problem.table)) - 2
    weights = mixtures(len(problem.limits), tables // ANCHORS)
    strongest = tuple((problem.options - 1).tolist())
    ends = [(problem.added(point), problem.prices(point), point) for point in (problem.mildest, strongest)]
    for row in weights:
        rates = _rates([(harm, price @ row, point) for harm, price, point in ends])
        _walk(problem, row, rates, tables // len(weights))
    return _rates([(harm, price.mean(axis=2), point) for harm, price, point in ends])


def _walk(problem: Problem, weights: Array, rates: Array, anchors: int) -> None:
    """Follows the best point over rising `rates`, all options priced anew at `anchors` points: first where the limits
    begin to hold, then whenever the share of changes that is left to each anchor has been made.
    """
    point = problem.mildest
    for left in range(anchors, 0, -1):
        found = choices(problem.added(point), problem.prices(point) @ weights, rates)
        first = _first_within(problem, found)
        if not problem.fits(point):
            point = tuple(found[first].tolist())
            continue
        changes = np.concatenate([[0], np.cumsum((found[first + 1 :] != found[first:-1]).sum(axis=1))])
        stop = first + int(np.searchsorted(changes, ceil(changes[-1] / left)))
        for options in np.unique(found[first : stop + 1], axis=0).tolist():
            problem.cost(tuple(options))
        point, rates = tuple(found[stop].tolist()), rates[stop:]
        if not changes[-1]:
            return


def _first_within(problem: Problem, found: NDArray[np.int64]) -> int:
    """The first row of `found` (rates, decisions; by rising rate) within the limits; the last if none is."""
    low, high = 0, len(found) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if problem.fits(tuple(found[middle].tolist())) else (middle + 1, high)
    return low


def _rates(ends: Sequence[tuple[Array, Array, Point]]) -> Array:
    """A log grid of λ from where nothing that harms is worth it to where everything is at its cheapest."""
    found = []
    for harms, prices, point in ends:
        at = np.arange(len(harms)), np.array(point, dtype=np.int64)
        harm, saved = harms - harms[at][:, None], prices[at][:, None] - prices
        pays = np.isfinite(harm) & (np.sign(harm) * saved > NOTHING)
        found += (harm[pays] / saved[pays]).tolist()
    low, high = (min(found) / 2, max(found) * 2) if found else (1.0, 1.0)
    return np.geomspace(low, high, RATES)


def _tighten(problem: Problem, rates: Array, calls: int) -> None:
    """Looks for less harm within the limits until `PATIENCE` tables in a row bring none or `calls` are spent: around
    the best points so far, by the λ at which each limit begins to hold, by single changes and by two at once.
    """
    held = np.array([limit is not None for limit in problem.limits], dtype=float)
    weights = [*np.diag(held)[held > 0], held / held.sum()]
    least, idle = np.inf, 0
    while idle < PATIENCE and len(problem.known) + problem.table <= calls:
        best, harm = problem.best()
        if best is None:
            return
        least, idle = (harm, 0) if harm < least else (least, idle + 1)
        harms, prices = problem.added(best), problem.prices(best)
        for row in weights:
            _first_within(problem, choices(harms, prices @ row, rates))
        for point in _exchanges(problem, best, harms, prices):
            if problem.fits(point):
                break


def _exchanges(problem: Problem, point: Point, harms: Array, prices: Array) -> list[Point]:
    """Two changes of `point` at once that promise less harm within the limits, the best first."""
    at = np.arange(len(harms)), np.array(point, dtype=np.int64)
    one, option = np.nonzero(np.isfinite(harms) & (np.arange(harms.shape[1]) != at[1][:, None]))
    harm = (harms - harms[at][:, None])[one, option]
    cost = (prices - prices[at][:, None])[one, option]
    room = (problem.bounds - problem.cost(point)) / problem.cost(problem.mildest)
    gain = harm[:, None] + harm[None]
    fits = (one[:, None] < one[None]) & (gain < -NOTHING * np.abs(harm).max(initial=0.0))
    for column, left in zip(cost.T, room, strict=True):
        fits &= column[:, None] + column[None] <= left
    rows, columns = np.nonzero(fits)
    order = np.argsort(gain[rows, columns], kind="stable")[:TRIES]
    found = []
    for row, column in zip(rows[order], columns[order], strict=True):
        changed = list(point)
        changed[one[row]], changed[one[column]] = int(option[row]), int(option[column])
        found.append(tuple(changed))
    return found


def _fill(problem: Problem, count: int, calls: int) -> None:
    """Prices all neighbours of points of the front, the least harmful first, while it has too few for `count`."""
    while len(problem.known) + problem.table <= calls:
        points, _ = problem.front()
        fresh = [point for point in points if point not in problem.priced]
        if not fresh or len(points) > count:
            return
        problem.prices(fresh[0])


def _chosen(rows: Array, count: int, scale: float) -> list[int]:
    """The rows of a front (harm and costs) to take: the ends first, then what is furthest from all before."""
    if not len(rows):
        return []
    # Harm counts by its share of what destroys: neither noise near 0 nor the losses of dead networks fill the range.
    view = np.column_stack([rows[:, 0] / (np.abs(rows[:, 0]) + scale), np.log(rows[:, 1:])])
    ends = [int(np.argmin(column)) for column in rows.T]
    return list(dict.fromkeys([*ends, *spread(view, ends[0])]))[:count]


def _scale(harms: Array) -> float:
    """The typical harm of a decision's strongest option that harms at all."""
    most = np.where(np.isfinite(harms), harms, 0.0).max(axis=1, initial=0.0)
    return float(np.median(most[most > 0])) if (most > 0).any() else 1.0
