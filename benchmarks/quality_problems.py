"""What `search_quality.py` searches: a made-up network with a known front, and a table of really evaluated plans."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from digits_plans import EPOCHS, digits_space, read, seconds_of
from layered_problem import BASE, layered, layered_space, settings_of
from numpy.typing import NDArray

from paretune.pareto import Array, hypervolume
from paretune.samplers.lagrange import Decision, seeds
from paretune.samplers.layout import Layout, layout_of
from paretune.search.controls import controls_of
from paretune.search.decisions import decisions_of, mildest, point_at
from paretune.spaces.space import Space

Whole = NDArray[np.int64]
Params = Mapping[str, Any]

SEEDS = 24
NOISE = 0.004  # standard deviation of the error that a trial of the made-up network is told
# Without training a decision does several times the damage it does with it, but not the same times for each.
UNTRAINED, WOBBLE = 6.0, 0.5
USEFUL = 0.10  # of error above the least: the part of the front that anybody would take


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A space and what its plans come to.

    `truth` maps places (plans, axes) to values (plans, 3): error and two costs. A trial is told them with Gaussian
    `noise` on the error. `harms(seed)` are what sensitivities would say: for every decision what each of its options,
    alone, adds to the loss. `boxes` are reference points by name, with the exact hypervolume of all plans in `full`.
    `look` is the time of measuring one such option, as a share of a whole trial's, where it is known.
    """

    name: str
    space: Space
    truth: Callable[[Whole], Array]
    noise: float
    harms: Callable[[int], Sequence[Sequence[float]]]
    boxes: Mapping[str, Array]
    full: Mapping[str, float]
    look: float | None = None

    @cached_property
    def layout(self) -> Layout:
        """The axes of the space."""
        return layout_of(self.space)

    @cached_property
    def looks(self) -> int:
        """How many forwards over the validation images the sensitivities take."""
        return 1 + sum(len(decision.settings) - 1 for decision in decisions_of(self.space))

    def places(self, params: Params) -> tuple[int, ...]:
        """A point by its places, all whole."""
        return tuple(int(place) for place in self.layout.row(params))

    def told(self, places: Sequence[int], seed: int, number: int) -> list[float]:
        """What trial `number` of the run with `seed` is told."""
        values = self.truth(np.array([places]))[0]
        values[0] += self.noise * np.random.default_rng((seed, number)).standard_normal()
        return [float(value) for value in values]

    def controls(self) -> list[Params]:
        """The uniform settings that every study starts with; dense lies in no space and is left out."""
        return [control.params for control in controls_of(self.space) if control.params is not None]

    def seeds(self, seed: int) -> list[Params]:
        """The seeds of one run, as the product makes them from the sensitivities."""
        decisions = decisions_of(self.space)
        base = mildest(self.space, decisions)

        def costs(options: tuple[int, ...]) -> Sequence[float]:
            places = self.places(point_at(base, decisions, options))
            return [float(value) for value in self.truth(np.array([places]))[0, 1:]]

        known = [Decision(name=d.name, harm=tuple(h)) for d, h in zip(decisions, self.harms(seed), strict=True)]
        found = seeds(known, costs, count=SEEDS, limits=[None, None])
        return [point_at(base, decisions, options) for options in found]

    def shares(self, places: Whole) -> dict[str, float]:
        """The hypervolume of these plans' true values by box, as a share of what all plans reach."""
        values = self.truth(places)
        return {name: hypervolume(values / box, np.ones(3)) / self.full[name] for name, box in self.boxes.items()}


def made_up() -> Problem:
    """The network of 30 layers; all runs search the same one, their noise differs."""
    network, space = layered(0), layered_space()
    layout, decisions = layout_of(space), decisions_of(space)
    base = mildest(space, decisions)

    def damage(options: Sequence[int]) -> float:
        settings = settings_of(layout.row(point_at(base, decisions, options)).astype(np.int64)[None])[0]
        return float(network.damage[np.arange(len(settings)), settings].sum())

    def harms(seed: int) -> list[list[float]]:
        draw, found = np.random.default_rng((seed, 10**6)), []
        for at, decision in enumerate(decisions):
            alone = [damage([option * (i == at) for i in range(len(decisions))])
                     for option in range(len(decision.settings))]  # fmt: skip
            times = UNTRAINED * draw.lognormal(0, WOBBLE, len(alone))
            found.append([0.0, *(times * alone + NOISE * draw.standard_normal(len(alone)))[1:]])
        return found

    errors = {"whole": 1.0, "useful": BASE + USEFUL}
    return Problem(
        name="layered", space=space, truth=lambda places: network.values(settings_of(places)), noise=NOISE, harms=harms,
        boxes={name: np.array([error, *network.dearest]) for name, error in errors.items()},
        full={name: network.volume(error) for name, error in errors.items()},
    )  # fmt: skip


def digits() -> Problem:
    """The plans of `digits_plans.csv.xz`: what a trial is told is looked up."""
    _, rows = read()
    space = digits_space()
    names = [axis.name for axis in layout_of(space).axes]
    tops = [int(axis.top) + 1 for axis in layout_of(space).axes]
    values, start = np.full((*tops, 3), np.nan), np.full(tops, np.nan)
    for row in rows:
        at = tuple(int(row[name]) for name in names)
        values[at], start[at] = (row["top1_error"], row["size_bytes"], row["bops"]), row["error_0"]
    assert not np.isnan(values).any(), "digits_plans.csv.xz lacks plans; python benchmarks/digits_plans.py makes it"
    decisions = decisions_of(space)
    base = mildest(space, decisions)

    def harms(seed: int) -> list[list[float]]:
        def untrained(at: int, option: int) -> float:
            params = point_at(base, decisions, [option * (i == at) for i in range(len(decisions))])
            return float(start[tuple(int(place) for place in layout_of(space).row(params))])

        zero = untrained(0, 0)
        return [[untrained(at, o) - zero for o in range(len(d.settings))] for at, d in enumerate(decisions)]

    points = values.reshape(-1, 3)
    errors = {"whole": 1.0, "useful": float(points[:, 0].min()) + USEFUL}
    boxes = {name: np.array([error, *points[:, 1:].max(axis=0)]) for name, error in errors.items()}
    return Problem(
        name="digits", space=space, truth=lambda places: values[tuple(places.T)], noise=0.0, harms=harms, boxes=boxes,
        full={name: hypervolume(points / box, np.ones(3)) for name, box in boxes.items()},
        look=float(np.median([row["seconds_start"] / seconds_of(row, EPOCHS) for row in rows])),
    )  # fmt: skip


PROBLEMS: Mapping[str, Callable[[], Problem]] = {"layered": made_up, "digits": digits}
