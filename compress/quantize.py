"""Fake quantization with a learned step (LSQ), attached to a model without changing its modules.

Weights get a parametrization, activations a pre-hook on the layer that reads them, so that whatever
a model does with `layer.weight` sees quantized values. Zero is always a level and stays exactly zero,
so a weight that carries a mask is quantized after it and keeps its zeros.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretune.compress.masks import mask_module, raw_weight, step_of
from paretune.errors import ImpossiblePlan
from paretune.plan import FLOAT, Plan

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional and named, as a forward hook gets them

FRACTIONS = 48  # candidate clipping points tried when a step is initialised
SAMPLE = 16384  # activation values looked at per layer when its step is initialised


def weight_levels(bits: int) -> int:
    """The largest weight code: codes run over ±(2^(bits-1) - 1), so 2 bits hold -1, 0, 1."""
    if not 2 <= bits <= 8:
        raise ImpossiblePlan(f"LSQ keeps zero a level, so weights and activations need 2 to 8 bits; got {bits}")
    return int(2 ** (bits - 1) - 1)


def activation_range(bits: int, signed: bool) -> tuple[int, int]:
    """The lowest and highest activation code: 0 to 2^bits - 1, or symmetric when values are signed."""
    top = weight_levels(bits)
    return (-top, top) if signed else (0, 2**bits - 1)


class _Rounded(torch.autograd.Function):
    """step × round(clip(x / step, low, high)) with LSQ's gradients for x and step.

    Esser et al. 2020, Learned Step Size Quantization, https://arxiv.org/abs/1902.08153. `step` is a scalar or
    broadcasts over axis 0; its gradient is scaled by 1 / sqrt(values per step × high).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        ratio = x / step
        codes = ratio.clamp(low, high).round_()
        ctx.save_for_backward(ratio, codes)
        ctx.step_shape, ctx.low, ctx.high = step.shape, low, high
        return codes * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grads
        ratio, codes = ctx.saved_tensors
        inside = (ratio > ctx.low) & (ratio < ctx.high)
        slope = torch.where(inside, codes - ratio, codes) * grad
        per_step = slope.sum_to_size(ctx.step_shape)
        values = ratio.numel() / max(per_step.numel(), 1)
        return grad * inside, per_step / (values * ctx.high) ** 0.5, None, None


def best_step(x: Tensor, low: int, high: int) -> Tensor:
    """The step, per row of `x` (rows, values), with the least squared error among a grid of clipping points.

    Returns a (rows,) tensor, all positive; a row of zeros gets step 1.
    """
    top = x.abs().amax(dim=1)
    top = torch.where(top > 0, top, torch.full_like(top, float(high)))
    best, best_error = top / high, torch.full_like(top, float("inf"))
    for fraction in torch.linspace(1.0, 1.0 / FRACTIONS, FRACTIONS):
        step = (top * fraction / high)[:, None]
        error = ((x / step).round_().clamp_(low, high) * step - x).square_().sum(dim=1)
        better = error < best_error
        best = torch.where(better, step[:, 0], best)
        best_error = torch.where(better, error, best_error)
    return best


class WeightQuantizer(nn.Module):
    """Parametrization of a weight (out, ...): one learned step per output channel."""

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits, self.high = bits, weight_levels(bits)
        steps = best_step(weight.detach().flatten(1), -self.high, self.high)
        self.step = nn.Parameter(steps.view(-1, *[1] * (weight.ndim - 1)))

    def positive_step(self) -> Tensor:
        """The steps (out, 1, ...), kept away from zero."""
        return self.step.abs().clamp_min(1e-12)

    def forward(self, weight: Tensor) -> Tensor:
        quantized: Tensor = _Rounded.apply(weight, self.positive_step(), -self.high, self.high)  # type: ignore[no-untyped-call]
        return quantized


class ActivationQuantizer(nn.Module):
    """One learned step for all values a layer reads; the range is unsigned if calibration saw nothing negative.

    Until it is calibrated it lets everything through.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        weight_levels(bits)  # refuses impossible bit-widths before any work is done
        self.bits, self.low, self.high = bits, 0, 0
        self.step = nn.Parameter(torch.ones(()))

    def calibrate(self, x: Tensor) -> Tensor:
        """Set range and step from a batch `x` of any shape, and hand it back as it is."""
        self.low, self.high = activation_range(self.bits, signed=bool(x.min() < 0))
        flat = x.detach().flatten()
        flat = flat[:: flat.numel() // SAMPLE | 1]  # odd, or it would see the same columns of every row
        self.step.data = best_step(flat[None], self.low, self.high)[0]
        return x

    def positive_step(self) -> Tensor:
        """The step, a scalar kept away from zero."""
        return self.step.abs().clamp_min(1e-12)

    def forward(self, x: Tensor) -> Tensor:
        if self.high == 0:
            return x
        quantized: Tensor = _Rounded.apply(x, self.positive_step(), self.low, self.high)  # type: ignore[no-untyped-call]
        return quantized


def quantize(model: nn.Module, plan: Plan) -> nn.Module:
    """Attach the plan's quantizers to `model`, in place; layers at 32 bits stay float.

    A mask that a weight carries comes first: the steps are fitted to what it leaves.
    Activation steps are placeholders until `calibrate` has seen a batch.

    Raises:
        ImpossiblePlan: a bit-width that cannot keep zero.
    """
    for row in plan.layers:
        layer = model.get_submodule(row.layer)
        if row.weight_bits < FLOAT:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            parametrize.register_parametrization(layer, "weight", WeightQuantizer(weight, row.weight_bits))
        if row.activation_bits < FLOAT:
            layer.activation_quantizer = ActivationQuantizer(row.activation_bits).to(next(layer.parameters()).device)
            layer.register_forward_pre_hook(_quantize_input, with_kwargs=True)
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
    return with_input(quantizer, inputs, named)


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set every activation step from one batch (n, ...), in place, layer after layer, so that each
    layer sees inputs that the layers before it have already quantized.
    """

    def first_look(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        quantizer = layer.activation_quantizer
        assert isinstance(quantizer, ActivationQuantizer)
        with_input(quantizer.calibrate, inputs, named)

    quantized = [layer for layer in model.modules() if hasattr(layer, "activation_quantizer")]
    hooks = [layer.register_forward_pre_hook(first_look, prepend=True, with_kwargs=True) for layer in quantized]
    model.eval()
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()


def weight_codes(layer: nn.Module) -> tuple[NDArray[np.int8], NDArray[np.float32], int]:
    """A quantized layer's codes (weight's shape), positive steps (out,) and bits; masked weights have code 0."""
    quantizer, mask, weight = step_of(layer, WeightQuantizer), mask_module(layer), raw_weight(layer).detach()
    assert quantizer is not None
    step = quantizer.positive_step().detach()
    masked = weight if mask is None else weight * mask.mask
    codes = (masked / step).clamp(-quantizer.high, quantizer.high).round()
    return codes.to(torch.int8).cpu().numpy(), step.flatten().cpu().numpy(), quantizer.bits


def quantized_weight(layer: nn.Module) -> bool:
    """True if `layer` carries a weight quantizer."""
    return step_of(layer, WeightQuantizer) is not None
