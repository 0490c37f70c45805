"""Zeros that stay: a mask as a parametrization of a weight, so that momentum, decay and quantization cannot fill it."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretune.errors import ParetuneError

Step = TypeVar("Step", bound=nn.Module)
Masks = Mapping[str, NDArray[np.bool_]]  # layer -> (weight shape), True where a weight stays


class _StraightThrough(torch.autograd.Function):
    """weight × mask forward, the whole gradient backward: a masked weight still learns and may come back."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class Mask(nn.Module):
    """Parametrization of a weight: `mask` has its shape, 1 where it stays. `straight` is the `ste_mask` mode."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.straight = False
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        masked: Tensor = _StraightThrough.apply(weight, self.mask) if self.straight else weight * self.mask  # type: ignore[no-untyped-call]
        return masked


def attach(model: nn.Module, masks: Masks) -> None:
    """Mask the weights of these layers, in place; a layer that has a mask gets the new one.

    Raises:
        ParetuneError: a mask has not the shape of its weight.
    """
    for name, mask in masks.items():
        layer = model.get_submodule(name)
        known = mask_module(layer)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        if mask.shape != tuple(weight.shape):
            raise ParetuneError(f"the mask of layer '{name}' is {mask.shape}, its weight {tuple(weight.shape)}")
        tensor = torch.from_numpy(np.ascontiguousarray(mask)).to(weight)
        if known is None:
            parametrize.register_parametrization(layer, "weight", Mask(tensor))
        else:
            known.mask.copy_(tensor)


def mask_module(layer: nn.Module) -> Mask | None:
    """The mask of a layer's weight, if it has one."""
    return step_of(layer, Mask)


def step_of(layer: nn.Module, kind: type[Step]) -> Step | None:
    """The step of this kind in what a layer's weight goes through, such as its mask or its quantizer, if it has one."""
    chain = _chain(layer)
    return None if chain is None else next((step for step in chain if isinstance(step, kind)), None)


def _chain(layer: nn.Module) -> parametrize.ParametrizationList | None:
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    assert isinstance(layer.parametrizations, nn.ModuleDict)
    chain = layer.parametrizations["weight"]
    assert isinstance(chain, parametrize.ParametrizationList)
    return chain


def masked_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, Mask]]:
    """Every masked layer with its name and its mask."""
    for name, layer in model.named_modules():
        if (mask := mask_module(layer)) is not None:
            yield name, layer, mask


def raw_weight(layer: nn.Module) -> Tensor:
    """The tensor behind a layer's weight, before any mask and quantizer; the weight itself if it has none."""
    chain = _chain(layer)
    weight = layer.weight if chain is None else chain.original
    assert isinstance(weight, Tensor)
    return weight
