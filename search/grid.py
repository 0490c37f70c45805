"""Which settings of which decisions are measured in the time there is, and what stands in for the others."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import inf
from statistics import median

import numpy as np

from paretune.effects import Effect
from paretune.search.decisions import Decision

Spot = tuple[int, int]  # (decision, option)
Seen = tuple[float, float]  # (loss, error)


def wanted_spots(decisions: Sequence[Decision], most: int) -> tuple[list[Spot], str]:
    """At most `most` spots to measure (at least one), and what was left out, in words, or "".

    All options but the mildest, else every second of each decision, every fourth, ... down from the strongest; where
    not even the strongest fit, those of decisions spread evenly over the network.
    """
    stride = 1
    while True:
        spots = [
            (which, option)
            for which, decision in enumerate(decisions)
            for option in sorted(range(len(decision.settings) - 1, 0, -stride))
        ]
        if len(spots) <= most:
            note = f"one setting in {stride} is measured, the others lie on lines between them" if stride > 1 else ""
            return spots, note
        if all(len(decision.settings) - 1 <= stride for decision in decisions):
            break
        stride *= 2
    kept = _even(len(spots), max(1, most))
    note = f"only the strongest setting of {len(kept)} of {len(spots)} decisions is measured"
    return [spots[place] for place in kept], note


def coarse_first(decisions: Sequence[Decision], spots: Sequence[Spot]) -> list[Spot]:
    """The spots in an order that may end anywhere: the strongest of all decisions, then those between, ever finer."""

    def step(spot: Spot) -> float:
        away = len(decisions[spot[0]].settings) - 1 - spot[1]
        return inf if not away else away & -away  # the largest power of two that divides it

    return sorted(spots, key=step, reverse=True)


def wanted_pairs(decisions: Sequence[Decision], most: int) -> tuple[list[tuple[Spot, Spot]], str]:
    """At most `most` pairs of decisions of one block, each at the middle of its settings and spread evenly over the
    network, and what was left out, in words, or "".
    """
    found = [
        ((one, len(decisions[one].settings) // 2), (two, len(decisions[two].settings) // 2))
        for one, two in combinations(range(len(decisions)), 2)
        if decisions[one].block == decisions[two].block
    ]
    if len(found) <= most:
        return found, ""
    kept = [found[place] for place in _even(len(found), most)]
    return kept, f"{len(kept)} of {len(found)} pairs of decisions are measured"


def _even(count: int, most: int) -> list[int]:
    """At most `most` of the places 0 to `count` - 1, evenly spread."""
    return sorted({round(place) for place in np.linspace(0, count - 1, most)})


def filled(decisions: Sequence[Decision], known: Mapping[Spot, Seen], base: Seen) -> Iterator[Effect]:
    """Every setting of every decision: measured, on the line between measured ones, or, where nothing of a decision was
    measured, the median of its kind on a line from `base`.
    """
    for which, decision in enumerate(decisions):
        last = len(decision.settings) - 1
        own = {0: base} | {option: seen for (at, option), seen in known.items() if at == which}
        if len(own) == 1:
            own[last] = _usual(decisions, known, decision.name.split("/")[0])
        places = sorted(own)
        for option, setting in enumerate(decision.settings):
            loss, error = (float(np.interp(option, places, [own[place][side] for place in places])) for side in (0, 1))
            sure = option == 0 or (which, option) in known
            yield Effect(decision=decision.name, setting=setting, loss=loss, error=error, measured=sure)


def _usual(decisions: Sequence[Decision], known: Mapping[Spot, Seen], kind: str) -> Seen:
    """The median of what was seen of a kind of decisions; of all, if none of the kind was."""
    every = list(known.values())
    alike = [seen for (which, _), seen in known.items() if decisions[which].name.split("/")[0] == kind] or every
    return median(seen[0] for seen in alike), median(seen[1] for seen in alike)
