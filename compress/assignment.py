"""Balanced assignments: which of K equally large parts every unit goes to, so that the most importance stays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Labels = NDArray[np.intp]  # the part, 0 to K - 1, of every unit, row or column
Profit = NDArray[np.float64]

PRICES = 128  # set at most, before the Hungarian method: more would cost more time than they save


@dataclass(frozen=True, kw_only=True)
class Link:
    """Importance between the units of two groups, (units of `reader`'s outputs, units of `feeder`'s), in one layer.

    `reader` is the group that the layer's outputs are in, `feeder` the one its inputs are in.
    """

    reader: str
    feeder: str
    importance: Profit


def solve(
    links: Sequence[Link], units: Mapping[str, int], parts: int, restarts: int, generator: np.random.Generator
) -> dict[str, Labels]:
    """The best of `restarts` climbs from random balanced starts; parts are numbered as they come in the first group."""
    starts = (
        {group: generator.permutation(np.arange(count) % parts) for group, count in units.items()}
        for _ in range(max(1, restarts))
    )
    best = max((climb(links, start, parts) for start in starts), key=lambda labels: importance(links, labels))
    _, first = np.unique(next(iter(best.values())), return_index=True)
    number = np.argsort(np.argsort(first))
    return {group: number[labels] for group, labels in best.items()}


def climb(links: Sequence[Link], start: Mapping[str, Labels], parts: int) -> dict[str, Labels]:
    """Labels by group, never worse than `start`: group after group is assigned anew until nothing is gained.

    A group on both sides of a layer (around a residual) is assigned as if its other side stood still; that is
    no longer exact, so it counts only if it gains.
    """
    labels = dict(start)
    least = 1e-12 * sum(float(np.abs(link.importance).sum()) for link in links)
    stale = set(labels)  # a group whose neighbours stood still since its last turn would only be assigned the same
    while stale:
        for group in labels:
            if group not in stale:
                continue
            stale.remove(group)
            profit = _profit(links, labels, group, parts)
            found = assign(profit, parts)
            if _gain(links, labels, group, profit, found) > least:
                labels[group] = found
                stale |= _neighbours(links, group)
    return labels


def importance(links: Sequence[Link], labels: Mapping[str, Labels]) -> float:
    """What the links keep: the sum of importance between units in the same part."""
    return float(sum(link.importance[labels[link.reader][:, None] == labels[link.feeder]].sum() for link in links))


def assign(profit: Profit, parts: int) -> Labels:
    """The part of every unit that maximises the sum of `profit` (units, parts), with equally many units in every part.

    Exact: if every unit is in the part it likes best at some price per part, and the parts are equally large, no other
    assignment is better. Else each part has units / parts slots, and the Hungarian method fills them; the prices that
    were found make it faster.
    """
    slots, prices = len(profit) // parts, np.zeros(parts)
    for _ in range(PRICES // parts):
        liked: Labels = (profit - prices).argmax(axis=1)
        if (np.bincount(liked, minlength=parts) == slots).all():
            return liked
        for part in range(parts):
            prices[part] = _price(profit, prices, part, slots)
    _, slot = linear_sum_assignment(np.repeat(profit - prices, slots, axis=1), maximize=True)
    found: Labels = slot // slots
    return found


def _price(profit: Profit, prices: Profit, part: int, slots: int) -> float:
    """The price at which `slots` units like a part best, between what the last of them and the next would pay."""
    others = np.delete(profit - prices, part, axis=1).max(axis=1)
    last, out = len(profit) - slots, len(profit) - slots - 1
    pays = np.partition(profit[:, part] - others, (out, last))
    return float(pays[out] + pays[last]) / 2


def _profit(links: Sequence[Link], labels: Mapping[str, Labels], group: str, parts: int) -> Profit:
    """(units, parts) importance that a unit of `group` would keep in each part."""
    profit = np.zeros((len(labels[group]), parts))
    for link in links:
        if link.reader == group:
            profit += link.importance @ np.eye(parts)[labels[link.feeder]]
        if link.feeder == group:
            profit += link.importance.T @ np.eye(parts)[labels[link.reader]]
    return profit


def _gain(links: Sequence[Link], labels: Mapping[str, Labels], group: str, profit: Profit, found: Labels) -> float:
    """What the links keep more if a group is assigned as found."""
    if group in _neighbours(links, group):
        return importance(links, {**labels, group: found}) - importance(links, labels)
    units = np.arange(len(found))
    return float(profit[units, found].sum() - profit[units, labels[group]].sum())


def _neighbours(links: Sequence[Link], group: str) -> set[str]:
    """The groups at the other ends of a group's links."""
    return {link.feeder for link in links if link.reader == group} | {
        link.reader for link in links if link.feeder == group
    }
