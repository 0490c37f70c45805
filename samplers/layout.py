"""A space as samplers see it: one axis per open question, numbers by their place, axes that belong to one block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, inf, log
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from paretune.pareto import Array
from paretune.spaces.leaf import Fixed
from paretune.spaces.question import Question
from paretune.spaces.space import Space


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One parameter. Its place is the index on its grid, 0 to `levels` - 1, or in [0, 1] where there is no grid.

    Axes of one `block` concern the same part of the network and are inherited together; those of one `kind`
    ("ratio", "weight_bits") mean the same in different layers and may move together.
    """

    name: str
    distribution: BaseDistribution
    block: str
    kind: str

    @cached_property
    def levels(self) -> int | None:
        """How many values there are; None if there is no end of them."""
        dist = self.distribution
        if isinstance(dist, CategoricalDistribution):
            return len(dist.choices)
        if isinstance(dist, IntDistribution):
            return (dist.high - dist.low) // dist.step + 1
        assert isinstance(dist, FloatDistribution)
        return None if dist.step is None else round((dist.high - dist.low) / dist.step) + 1

    @property
    def ordered(self) -> bool:
        """False for names, whose places mean nothing."""
        return not isinstance(self.distribution, CategoricalDistribution)

    @property
    def top(self) -> float:
        """The largest place; the smallest is 0."""
        return 1.0 if self.levels is None else float(self.levels - 1)

    def value(self, place: float) -> Any:
        """The parameter at `place`, which is rounded and clipped to the axis."""
        dist = self.distribution
        at = min(max(place, 0.0), self.top)
        if isinstance(dist, CategoricalDistribution):
            return dist.choices[round(at)]
        if isinstance(dist, IntDistribution):
            return dist.low + dist.step * round(at)
        assert isinstance(dist, FloatDistribution)
        if dist.step is not None:
            return min(dist.high, dist.low + dist.step * round(at))
        if dist.log:
            return min(max(exp(log(dist.low) + at * log(dist.high / dist.low)), dist.low), dist.high)
        return dist.low + at * (dist.high - dist.low)

    def place(self, value: Any) -> float:
        """Where `value` lies."""
        dist = self.distribution
        if isinstance(dist, CategoricalDistribution):
            return float(dist.choices.index(value))
        if isinstance(dist, IntDistribution):
            return float(round((value - dist.low) / dist.step))
        assert isinstance(dist, FloatDistribution)
        if dist.step is not None:
            return float(round((value - dist.low) / dist.step))
        if dist.log:
            return log(value / dist.low) / log(dist.high / dist.low)
        return float((value - dist.low) / (dist.high - dist.low))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All axes of a space, in the order of asking. A point is a row of places."""

    axes: tuple[Axis, ...]

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distributions by parameter name."""
        return {axis.name: axis.distribution for axis in self.axes}

    @cached_property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The positions of the axes of every block, in the order of first appearance."""
        return _positions([axis.block for axis in self.axes])

    @cached_property
    def kinds(self) -> tuple[tuple[int, ...], ...]:
        """The positions of the axes of every kind, in the order of first appearance."""
        return _positions([axis.kind for axis in self.axes])

    @cached_property
    def size(self) -> float:
        """How many points there are; infinite if an axis has no grid."""
        total = 1.0
        for axis in self.axes:
            total *= inf if axis.levels is None else axis.levels
        return total

    def row(self, params: Mapping[str, Any]) -> Array:
        """The places of a point's parameters."""
        return np.array([axis.place(params[axis.name]) for axis in self.axes], dtype=float)

    def params(self, row: Sequence[float] | Array) -> dict[str, Any]:
        """The parameters of a point, rounded to the grid."""
        return {axis.name: axis.value(float(place)) for axis, place in zip(self.axes, row, strict=True)}


def layout_of(space: Space) -> Layout:
    """The axes of every open question of `space`."""
    return Layout(axes=tuple(_axis(question) for question in space.questions if not isinstance(question.leaf, Fixed)))


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's distribution of every open question of `space`, in the order of asking."""
    return layout_of(space).distributions


def block_of(name: str) -> str:
    """The part of a network that a layer belongs to: the shortest part of its name that ends in a number
    ("layer1.0" of "layer1.0.conv1"), else its parent, else itself.
    """
    parts = name.split(".")
    ends = [place for place, part in enumerate(parts, 1) if part.isdigit() and place > 1]
    return ".".join(parts[: ends[0]] if ends else parts[:-1] or parts)


def _axis(question: Question) -> Axis:
    recorder = _Recorder()
    question.leaf.ask(question.name, recorder)
    ((name, distribution),) = recorder.asked.items()
    targets = question.targets
    return Axis(
        name=name, distribution=distribution, block=block_of(targets[0]) if targets else question.name,
        kind=question.name.split("/")[0] if targets else question.name,
    )  # fmt: skip


def _positions(labels: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    found: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        found.setdefault(label, []).append(place)
    return tuple(map(tuple, found.values()))


class _Recorder:
    """A chooser that notes every question and answers with the first or lowest value."""

    def __init__(self) -> None:
        self.asked: dict[str, BaseDistribution] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked[name] = FloatDistribution(low, high, log=log, step=step)
        return low

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked[name] = IntDistribution(low, high, log=log, step=step)
        return low

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        self.asked[name] = CategoricalDistribution(choices)
        return choices[0]
