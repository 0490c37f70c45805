"""Rounding to a grid with gradients, and the step that rounds a tensor best."""

from typing import Any

import torch
from torch import Tensor

from paretune.errors import ImpossiblePlan
from paretune.frozen import top_code

FRACTIONS = 48  # candidate clipping points tried when a step is initialised


def activation_range(bits: int, signed: bool) -> tuple[int, int]:
    """The lowest and highest activation code: 0 to 2^bits - 1, or symmetric when values are signed.

    Raises:
        ImpossiblePlan: one bit for signed values, which would have no zero.
    """
    if signed and bits < 2:
        raise ImpossiblePlan("activations below zero need 2 bits or more, got 1")
    return (-top_code(bits), top_code(bits)) if signed else (0, 2**bits - 1)


class _Rounded(torch.autograd.Function):
    """step × round(clip(x / step, low, high)) with LSQ's gradients for x and step.

    Esser et al. 2020, Learned Step Size Quantization, https://arxiv.org/abs/1902.08153. `step` is a scalar or
    broadcasts over axis 0; its gradient is scaled by 1 / sqrt(values per step × high).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        # Beyond one code outside, values tell no more, and products with zero stay zero.
        ratio = (x / step).clamp_(low - 1, high + 1)
        codes = ratio.clamp(low, high).round_()
        ctx.save_for_backward(ratio, codes)
        ctx.step_shape, ctx.low, ctx.high = step.shape, low, high
        return codes * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grads
        ratio, codes = ctx.saved_tensors
        # 1 inside the range, 0 outside, as numbers: on a CPU `where` takes most of the time of a step of LSQ.
        inside = torch.gt(ratio, ctx.low, out=torch.empty_like(ratio))
        inside.mul_(torch.lt(ratio, ctx.high, out=torch.empty_like(ratio)))
        slope = (codes - ratio * inside).mul_(grad)
        per_step = slope.sum_to_size(ctx.step_shape)
        values = ratio.numel() / max(per_step.numel(), 1)
        return inside.mul_(grad), per_step / (values * ctx.high) ** 0.5, None, None


def rounded(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """step × round(clip(x / step, low, high)) with LSQ's gradients; `step` > 0 broadcasts over axis 0."""
    found: Tensor = _Rounded.apply(x, step, low, high)  # type: ignore[no-untyped-call]
    return found


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight(x: Tensor, value: Tensor) -> Tensor:
    """`value` exactly, with the gradient of `x`: the straight-through estimator."""
    found: Tensor = _Straight.apply(x, value)  # type: ignore[no-untyped-call]
    return found


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


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """(out,) values as (out, 1, ...), to be multiplied with a weight such as `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))
