"""A space as samplers see it: one axis per open question, numbers by their place, axes that belong to one block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
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
    """One parameter. Its place is the index on its grid, 0 to `levels` - 1, or in [0, 1] where there is no even grid.

    Axes of one `block` concern the same part of the network and are inherited together; those of one `kind`
    ("ratio", "weight_bits") mean the same in different layers and may move together.
    """

    name: str
    distribution: BaseDistribution
    block: str
    kind: str

    @cached_property
    def levels(self) -> int | None:
        """How many values there are; None on a log scale and where there is no end of them."""
        dist = self.distribution
        if isinstance(dist, CategoricalDistribution):
            return len(dist.choices)
        assert isinstance(dist, IntDistribution | FloatDistribution)
        if dist.step is None or dist.log:
            return None
        return round((dist.high - dist.low) / dist.step) + 1

    @cached_property
    def ordered(self) -> bool:
        """False for names, whose places mean nothing."""
        return not isinstance(self.distribution, CategoricalDistribution)

    @cached_property
    def top(self) -> float:
        """The largest place; the smallest is 0."""
        return 1.0 if self.levels is None else float(self.levels - 1)

    def snapped(self, place: float) -> float:
        """The nearest place that the axis has."""
        at = min(max(float(place), 0.0), self.top)
        return at if self.levels is None else float(round(at))

    def value(self, place: float) -> Any:
        """The parameter at `place`, which is rounded and clipped to the axis."""
        dist = self.distribution
        at = self.snapped(place)
        if isinstance(dist, CategoricalDistribution):
            return dist.choices[int(at)]
        assert isinstance(dist, IntDistribution | FloatDistribution)
        if self.levels is not None:
            return self._on_grid(int(at))
        if dist.log:
            found = exp(log(dist.low) + at * log(dist.high / dist.low))
        else:
            found = dist.low + at * (dist.high - dist.low)
        found = min(max(found, dist.low), dist.high)
        return round(found) if isinstance(dist, IntDistribution) else found

    def place(self, value: Any) -> float:
        """Where `value` lies; on a grid, the nearest place of it."""
        dist = self.distribution
        if isinstance(dist, CategoricalDistribution):
            return float(dist.choices.index(value))
        assert isinstance(dist, IntDistribution | FloatDistribution)
        if self.levels is not None:
            assert dist.step is not None
            return float(round((value - dist.low) / dist.step))
        if dist.low == dist.high:
            return 0.0
        if dist.log:
            return log(value / dist.low) / log(dist.high / dist.low)
        return float((value - dist.low) / (dist.high - dist.low))

    def _on_grid(self, index: int) -> int | float:
        """The value there; counted in decimals, so that it is the same number however it was reached."""
        dist = self.distribution
        if isinstance(dist, IntDistribution):
            return dist.low + index * dist.step
        low, step = self._decimals
        return float(low + index * step)

    @cached_property
    def _decimals(self) -> tuple[Decimal, Decimal]:
        dist = self.distribution
        assert isinstance(dist, FloatDistribution)
        return Decimal(str(dist.low)), Decimal(str(dist.step))


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

    def holds(self, params: Mapping[str, Any]) -> bool:
        """True if every axis has a value: a failed trial may have been asked for some only, dense for none."""
        return params.keys() >= self.distributions.keys()

    def row(self, params: Mapping[str, Any]) -> Array:
        """The places of a point's parameters."""
        return np.array([axis.place(params[axis.name]) for axis in self.axes], dtype=float)

    def on_grid(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The same parameters, in order and free of the rounding noise of a grid, so that equal points look equal."""
        clean = {
            axis.name: params[axis.name] if axis.levels is None else axis.value(axis.place(params[axis.name]))
            for axis in self.axes
            if axis.name in params
        }
        return clean | {name: value for name, value in params.items() if name not in clean}

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
    """The part of a network that a layer belongs to: the shortest part of its name that ends in a number of its own
    ("layer1.0" of "layer1.0.conv1", "encoder.layer_0" of "encoder.layer_0.mlp.fc"), else its parent, else itself.
    """
    parts = name.split(".")
    ends = (place for place, part in enumerate(parts, 1) if place > 1 and part.rpartition("_")[2].isdigit())
    return ".".join(parts[: next(ends, max(1, len(parts) - 1))])


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
