"""How a plan is made from others: by levels, by crossing two block by block, by small steps. A plan is a row of places.

Every operator returns a new row inside the axes, the places of a grid whole, and draws from `rng` only.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from paretune.pareto import Array
from paretune.ranking import finite
from paretune.samplers.layout import Axis, Layout

STEP = 0.1  # standard deviation of a step, in shares of the axis; a grid moves by one place at least
JITTER = 0.05  # of a level, likewise
CROSSED = 0.9  # share of children with two parents
SHARES = (0.1, 0.25, 0.5)  # of the blocks that come from the father
FATHERS = 4  # among which the nearest is taken

Mutation = Callable[[Layout, Array, np.random.Generator], Array]


def level(layout: Layout, rng: np.random.Generator) -> Array:
    """A row whose axes of one kind lie at one random level, but for a small jitter; names are drawn one by one.

    Independent draws per layer all cost about the same, the mean; levels reach from the dense network to the smallest.
    """
    row = np.empty(len(layout.axes))
    for kind in layout.kinds:
        row[list(kind)] = rng.random() + JITTER * rng.standard_normal(len(kind))
    for place, axis in enumerate(layout.axes):
        row[place] = axis.snapped(row[place] * axis.top) if axis.ordered else rng.integers(axis.levels or 1)
    return row


def crossed(layout: Layout, mother: Array, father: Array, rng: np.random.Generator) -> Array:
    """The mother's row with some blocks, each whole, from the father: half of them or fewer, sometimes none."""
    row = mother.copy()
    if rng.random() < CROSSED:
        share = rng.choice(SHARES)
        for block in layout.blocks:
            if rng.random() < share:
                row[list(block)] = father[list(block)]
    return row


def stepped(layout: Layout, row: Array, rng: np.random.Generator, expected: float) -> Array:
    """A row with about `expected` axes moved by a step, one at least; a name becomes another."""
    chosen = rng.random(len(row)) < expected / len(row)
    chosen[rng.integers(len(row))] |= not chosen.any()
    found = row.copy()
    for place in np.flatnonzero(chosen):
        found[place] = _moved(layout.axes[place], row[place], rng.choice((-1.0, 1.0)), rng)
    return found


def shifted(layout: Layout, row: Array, rng: np.random.Generator) -> Array:
    """A row with all axes of one kind, in all or some of the blocks, moved by a step in one direction.

    It slides a plan along the front.
    """
    kind = layout.kinds[rng.integers(len(layout.kinds))]
    share, sign = rng.choice((0.25, 0.5, 1.0)), rng.choice((-1.0, 1.0))
    found = row.copy()
    for block in layout.blocks:
        if rng.random() < share:
            for place in set(block) & set(kind):
                axis = layout.axes[place]
                found[place] = _moved(axis, row[place], sign, rng, turn=False)
    return found


def tournament(ranks: NDArray[np.int64], crowding: Array, rng: np.random.Generator) -> int:
    """The better of two random rows: of the lower rank, then of the larger crowding distance.

    Deb et al. 2002, NSGA-II, https://doi.org/10.1109/4235.996017.
    """
    one, other = (int(place) for place in rng.integers(len(ranks), size=2))
    return min((one, other), key=lambda place: (ranks[place], -crowding[place]))


def mate(values: Array, mother: int, rng: np.random.Generator) -> int:
    """A father for row `mother` of `values` (n, objectives): of a few random rows the nearest one.

    Parents far apart on the front have children between the two, behind it. Objectives are measured by their range.
    (Ishibuchi and Shibata, A Similarity-Based Mating Scheme for Evolutionary Multiobjective Optimization, GECCO 2003.)
    """
    values, rivals = finite(values), rng.integers(len(values), size=FATHERS)
    rivals = rivals[rivals != mother]
    span = np.ptp(values, axis=0)
    away = (values[rivals] - values[mother]) / np.where(span > 0, span, 1.0)
    return int(rivals[np.argmin((away**2).sum(axis=1))]) if len(rivals) else mother


def _moved(axis: Axis, place: float, sign: float, rng: np.random.Generator, *, turn: bool = True) -> float:
    """`place` a step further in the direction of `sign`; at the end of the axis it turns back or stays."""
    if not axis.ordered:
        return float((place + rng.integers(1, axis.levels or 2)) % (axis.levels or 1))
    size = abs(rng.standard_normal()) * STEP * axis.top
    size = size if axis.levels is None else max(1.0, size)
    if turn and not 0.0 <= place + sign * size <= axis.top:
        sign = -sign
    return axis.snapped(place + sign * size)


# Ways to mutate, among which a search learns to choose; one that moves 8 of 60 axes brought it nothing.
ARMS: Mapping[str, Mutation] = {
    "1": lambda layout, row, rng: stepped(layout, row, rng, 1),
    "2": lambda layout, row, rng: stepped(layout, row, rng, 2),
    "4": lambda layout, row, rng: stepped(layout, row, rng, 4),
    "shift": shifted,
}
