"""A common factor on all pruning ratios, solved so that the plan meets a budget."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import combinations, pairwise

import numpy as np

from paretune.errors import ImpossiblePlan

CLOSE = 0.01  # how near a plan has to land, relative to its goal
MOVES = 3  # groups that may be moved by one width at once to come nearer
TRIED = 32  # combinations of moves that are priced exactly, the most promising ones

Levels = tuple[int, ...]  # one per group: an index into its allowed widths
Price = Callable[[Levels], float]


def meet(
    name: str,
    share: float,
    ratios: Mapping[str, float],
    allowed: Mapping[str, Sequence[int]],
    cost: Callable[[Mapping[str, int]], float],
    dense: float,
) -> tuple[dict[str, int], float]:
    """The width of every group so that cost `name` is `share` of `dense`; and the share of it that was met.

    `dense` is the cost of the model that nothing was done to. Where few bits already make the uncut plan cost no more
    than the goal, nothing is removed, and the share that is met may be far below the one asked for.

    `ratios` are scaled by one factor, so a group of ratio 0 stays whole. `allowed` lists the widths of every group,
    ascending; the last one is the uncut width. `cost` must not rise while a group gets narrower. Widths are whole
    numbers: of those that one factor gives, the dearest that keep the goal are taken. If they lie more than 1 % under
    it, up to three groups are moved by one allowed width each, again and again while that comes nearer. At most 1 %
    under the goal is preferred, then at most 1 % over. Coarse widths (few channels, a large `keep.multiple`) may leave
    nothing that near.

    Raises:
        ImpossiblePlan: the dense cost is 0, or the goal is out of reach or too finely set for the widths (1 %).
    """

    def counts_at(levels: Levels) -> dict[str, int]:
        return {group: counts[level] for (group, counts), level in zip(allowed.items(), levels, strict=True)}

    @cache
    def price(levels: Levels) -> float:
        return cost(counts_at(levels))

    path = shrinking(list(allowed.values()), [ratios[group] for group in allowed])
    whole, least = price(path[0]), price(path[-1])
    if not dense:
        raise ImpossiblePlan(f"target {name}: the dense model's is 0, so there is no share of it")
    goal = share * dense
    if whole <= goal:
        return counts_at(path[0]), whole / dense
    if least > (1 + CLOSE) * goal:
        reach = f"between {least / dense:.3g} and {whole / dense:.3g} of dense is reachable"
        raise ImpossiblePlan(f"target {name} {share:g} cannot be met: {reach}")
    start = path[bisect_left(path[:-1], True, key=lambda levels: price(levels) <= goal)]
    best = nearest(start, price, goal, least=path[-1], most=path[0])
    while abs(price(best) - goal) > CLOSE * goal and best != start:
        start, best = best, nearest(best, price, goal, least=path[-1], most=path[0])
    if abs(price(best) - goal) > CLOSE * goal:
        raise ImpossiblePlan(
            f"target {name} {share:g} cannot be met within 1 %, because channels leave one by one or in multiples: "
            f"{price(best) / dense:.3g} of dense is the nearest found; ask for that share or another, or for a smaller "
            "keep.multiple"
        )
    return counts_at(best), price(best) / dense


def shrinking(allowed: Sequence[Sequence[int]], ratios: Sequence[float]) -> list[Levels]:
    """All widths that a common factor on `ratios` gives, as levels, from dense to the narrowest, one drop at a time.

    A group drops to its next allowed width when channels × (1 − factor × ratio) has passed the middle between the two;
    of drops at the same factor the earlier group's comes first.
    """
    drops = []
    for group, (counts, ratio) in enumerate(zip(allowed, ratios, strict=True)):
        middles = [(wide + narrow) / 2 for narrow, wide in pairwise(counts)]
        drops += [((1 - middle / counts[-1]) / ratio, group) for middle in middles if ratio > 0]
    path = [tuple(len(counts) - 1 for counts in allowed)]
    for _, group in sorted(drops):
        path.append(tuple(level - (index == group) for index, level in enumerate(path[-1])))
    return path


def nearest(start: Levels, price: Price, goal: float, *, least: Levels, most: Levels) -> Levels:
    """What comes nearest to `goal` from `start`, which keeps it, without leaving `least` and `most`.

    One more group is moved only while nothing lies at most 1 % under the goal.
    """
    moves = [
        tuple(step * (index == group) for index in range(len(start)))
        for group, level in enumerate(start)
        for step in (-1, 1)
        if least[group] <= level + step <= most[group]
    ]

    def rank(levels: Levels) -> tuple[bool, float]:
        return not (1 - CLOSE) * goal <= price(levels) <= goal, abs(price(levels) - goal)

    best = start
    for size in range(1, MOVES + 1):
        if rank(best)[0]:
            best = min([best, *promising(start, moves, size, price, goal)], key=rank)
    return best


def promising(start: Levels, moves: Sequence[Levels], size: int, price: Price, goal: float) -> list[Levels]:
    """Up to `TRIED` combinations of `size` moves, those that should land just under `goal`.

    The price of several moves together is guessed as the sum of what each one alone adds.
    """
    added = np.array([price(moved(start, move)) for move in moves]) - price(start)
    sets = list(combinations(range(len(moves)), size))
    guesses = np.array([added[list(chosen)].sum() for chosen in sets])
    off = np.abs(price(start) + guesses - (1 - CLOSE / 2) * goal)
    return [moved(start, *(moves[move] for move in sets[best])) for best in np.argsort(off, kind="stable")[:TRIED]]


def moved(levels: Levels, *moves: Levels) -> Levels:
    """The levels after all `moves` together."""
    return tuple(map(sum, zip(levels, *moves, strict=True)))
