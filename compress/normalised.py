"""Gradual pruning of filters of unit norm: |v| = |w| / ‖w‖₂ says which weights go, and the norm says nothing.

The first half of Liu et al. 2021, Pruning Ternary Quantization, https://arxiv.org/abs/2107.10998, of which only the
abstract could be read: how norms, gains and rounds go together is our reading. The gain is that of Salimans & Kingma
2016, Weight Normalization, https://arxiv.org/abs/1602.07868.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretune.compress.masks import attach, mask_module, raw_weight, step_of
from paretune.compress.patterns import mask_for
from paretune.compress.prune_ternary import filter_norms
from paretune.compress.recover import Seeds, Teacher, Tick, no_tick
from paretune.compress.rounding import per_channel
from paretune.compress.schedule import no_settling, prune_in_training
from paretune.errors import ImpossiblePlan
from paretune.recipe import Pruning, Wanted
from paretune.tasks.task import Loss


class Normalised(nn.Module):
    """Parametrization of a weight (out, ...): gain × w / ‖w‖₂ per filter, with a learned gain that starts at the norm.

    So it changes nothing at first, and later the norm of `w` does not matter. A filter of zeros stays one.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        weight = weight.detach()
        self.gain = nn.Parameter(filter_norms(weight) * per_channel(weight.flatten(1).any(dim=1), weight))

    def factor(self, weight: Tensor) -> Tensor:
        """What each filter is multiplied with, (out, 1, ...)."""
        return self.gain / filter_norms(weight)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor(weight)


@contextmanager
def unit_filters(model: nn.Module, layers: tuple[str, ...]) -> Iterator[None]:
    """Inside, the weights of `layers` go through a mask (an open one if they had none) and then `Normalised`, in place.

    Afterwards the factors are in the raw weights, also behind the masks; only the masks stay, and the model computes
    the same.
    """
    modules = {name: model.get_submodule(name) for name in layers}
    new = {name: layer for name, layer in modules.items() if mask_module(layer) is None}
    attach(model, {name: np.ones(tuple(raw_weight(layer).shape), bool) for name, layer in new.items()})
    for layer in modules.values():
        assert isinstance(layer.weight, Tensor)
        parametrize.register_parametrization(layer, "weight", Normalised(layer.weight))
    try:
        yield
    finally:
        for layer in modules.values():
            _remove(layer)


@torch.no_grad()
def _remove(layer: nn.Module) -> None:
    raw, found = raw_weight(layer), step_of(layer, Normalised)
    assert found is not None
    raw.mul_(found.factor(_masked(layer)))
    assert isinstance(layer.parametrizations, nn.ModuleDict)
    chain = layer.parametrizations["weight"]
    assert isinstance(chain, nn.ModuleList)
    del chain[list(chain).index(found)]


def _masked(layer: nn.Module) -> Tensor:
    """The raw weight as its mask leaves it."""
    mask = mask_module(layer)
    assert mask is not None
    return raw_weight(layer).detach() * mask.mask


def normalised(
    model: nn.Module,
    pruning: Pruning,
    *,
    loss: Loss,
    teacher: Teacher,
    seeds: Seeds,
    tick: Tick = no_tick,
    settle: Callable[[nn.Module], None] = no_settling,
) -> dict[str, NDArray[np.bool_]]:
    """The masks found while `model` trains in float with filters of unit norm; it keeps them on, in training mode.

    In `pruning.rounds` rounds on the cubic schedule the smallest |v| of every wanted layer are masked, for good, over
    `pruning.epochs` in all. v is taken over what the mask has left, so that the survivors of a filter grow to
    its gain. Weight decay only moves norms, and so acts as a learning rate. The rest is as in
    `paretune.compress.schedule.prune_in_training`; blends and noise are not read.

    Raises:
        ImpossiblePlan: another pattern than "unstructured", one threshold over all layers, no round, or a loss that
            is not finite.
    """
    layers = _layers(pruning)

    def rank(now: nn.Module) -> Mapping[str, NDArray[Any]]:
        return {name: _sizes(now.get_submodule(name)) for name in layers}

    with unit_filters(model, layers):
        return prune_in_training(
            model, replace(pruning, schedule="cubic"), rank=rank, make_masks=_smallest, loss=loss, teacher=teacher,
            seeds=seeds, tick=tick, settle=settle,
        )  # fmt: skip


def _layers(pruning: Pruning) -> tuple[str, ...]:
    asked = {name: want.kind for name, want in pruning.wanted.items() if want.kind != "channel"}
    for name, kind in asked.items():
        if kind != "unstructured":
            raise ImpossiblePlan(f"schedule 'normalised' finds unstructured zeros, layer '{name}' asks for '{kind}'")
    if pruning.scope != "layer":
        why = "filters of more weights have smaller ones; use the scope 'layer'"
        raise ImpossiblePlan(f"schedule 'normalised' has a threshold per layer, got the scope '{pruning.scope}': {why}")
    return tuple(asked)


def _sizes(layer: nn.Module) -> NDArray[np.float64]:
    """|v| of every weight; masked ones have 0."""
    weight = _masked(layer).double()
    sizes: NDArray[np.float64] = (weight.abs() / filter_norms(weight)).cpu().numpy()
    return sizes


def _smallest(
    wanted: dict[str, Wanted], scores: dict[str, NDArray[np.float64]], scope: str, minimum: int
) -> dict[str, NDArray[np.bool_]]:
    return {name: mask_for(want, scores[name], minimum) for name, want in wanted.items()}
