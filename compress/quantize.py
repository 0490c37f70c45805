"""Fake quantization, attached to a model without changing its modules.

Weights get a parametrization, activations a pre-hook on the layer that reads them, so that whatever
a model does with `layer.weight` sees quantized values. Zero stays exactly zero, so a weight that carries a mask is
quantized after it and keeps its zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretune.compress.djpq import CurvedGrid
from paretune.compress.masks import mask_module, raw_weight, step_of
from paretune.compress.quantizer import ActivationQuantizer, WeightQuantizer
from paretune.compress.quantizers import make_activation_quantizer, make_weight_quantizer
from paretune.errors import ImpossiblePlan
from paretune.plan import FLOAT, Plan
from paretune.recipe import Quantizing

HALF = (torch.bfloat16, torch.float16)
Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional and named, as a forward hook gets them


def quantize(model: nn.Module, plan: Plan) -> nn.Module:
    """Attach the plan's quantizers to `model`, in place; layers at 32 bits stay float, others keep what they have.

    A mask that a weight carries comes first: the grid is fitted to what it leaves.
    Activation steps are placeholders until `calibrate` has seen a batch.

    Raises:
        ImpossiblePlan: a bit-width that a quantizer does not have.
        UnknownName: a quantizer that is in no table.
    """
    settings = plan.quantizing or Quantizing()
    for row in plan.layers:
        layer = model.get_submodule(row.layer)
        if row.weight_bits < FLOAT and not quantized_weight(layer):
            weight = layer.weight
            assert isinstance(weight, Tensor)
            made = make_weight_quantizer(row.weight_quantizer, weight.detach(), row.weight_bits, settings)
            parametrize.register_parametrization(layer, "weight", made.to(weight.device))
        if row.activation_bits < FLOAT and not hasattr(layer, "activation_quantizer"):
            rounding = make_activation_quantizer(row.activation_quantizer, row.activation_bits, settings)
            layer.activation_quantizer = rounding.to(next(layer.parameters()).device)
            layer.register_forward_pre_hook(_quantize_input, with_kwargs=True)
    if plan.joint is not None and not plan.joint.exponent:
        for module in model.modules():
            if isinstance(module, CurvedGrid):
                module.exponent.requires_grad_(False)
    return model


def with_input(change: Callable[[Tensor], Tensor], inputs: tuple[Any, ...], named: dict[str, Any]) -> Arguments:
    """The arguments of a layer's call with `change` applied to its first one, be it `layer(x)` or `layer(input=x)`."""
    if inputs:
        return (change(inputs[0]), *inputs[1:]), named
    key = "input" if "input" in named else next(iter(named))
    return (), {**named, key: change(named[key])}


def _quantize_input(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Arguments:
    quantizer = layer.activation_quantizer
    assert isinstance(quantizer, ActivationQuantizer)
    # Autocast hands on 16-bit values, too coarse to round to 8 bits; weights stay float32 until the layer reads them.
    return with_input(lambda x: quantizer(x.float() if x.dtype in HALF else x), inputs, named)


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set every activation step from one batch (n, ...), in place, layer after layer, so that each
    layer sees inputs that the layers before it have already quantized. Quantizers that have a range keep it.

    Raises:
        ImpossiblePlan: the batch is empty or holds numbers that are not finite.
    """
    if not len(images) or not bool(images.isfinite().all()):
        what = f"holds {int((~images.isfinite()).sum())} numbers that are not finite" if len(images) else "is empty"
        raise ImpossiblePlan(f"the calibration set {what}; check the task's training data")

    def first_look(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        quantizer = layer.activation_quantizer
        assert isinstance(quantizer, ActivationQuantizer)
        with_input(quantizer.calibrate, inputs, named)

    quantized = [layer for layer in model.modules() if hasattr(layer, "activation_quantizer")]
    bare = [layer for layer in quantized if getattr(layer.activation_quantizer, "high", 0) == 0]
    hooks = [layer.register_forward_pre_hook(first_look, prepend=True, with_kwargs=True) for layer in bare]
    model.eval()
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightCodes:
    """A quantized layer's weight as it is stored: `codes` (its shape), positive `scales` (out,), `levels` or none."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    levels: NDArray[np.float32]
    grid: str
    bits: int
    quantizer: str


@torch.no_grad()
def weight_codes(layer: nn.Module) -> WeightCodes:
    """What the layer's quantizer stores; masked weights have code 0."""
    quantizer, mask, weight = weight_quantizer(layer), mask_module(layer), raw_weight(layer).detach()
    assert quantizer is not None
    parts = quantizer.parts(weight if mask is None else weight * mask.mask)
    scales = parts.scale.flatten().expand(len(weight)).cpu().numpy().copy()
    levels = np.empty(0, np.float32) if parts.levels is None else parts.levels.cpu().numpy().copy()
    return WeightCodes(
        codes=parts.codes.to(torch.int8).cpu().numpy(), scales=scales, levels=levels, grid=quantizer.grid,
        bits=quantizer.bits, quantizer=quantizer.name,
    )  # fmt: skip


def weight_quantizer(layer: nn.Module) -> WeightQuantizer | None:
    """The quantizer of a layer's weight, if it has one."""
    return step_of(layer, WeightQuantizer)


def quantized_weight(layer: nn.Module) -> bool:
    """True if `layer` carries a weight quantizer."""
    return weight_quantizer(layer) is not None


def tell_quantizers(model: nn.Module, done: float) -> None:
    """Tell every weight quantizer of `model` which share of the training is done."""
    for module in model.modules():
        if isinstance(module, WeightQuantizer):
            module.at(done)
