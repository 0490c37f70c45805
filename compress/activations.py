"""Quantizers for what a layer reads, beside LSQ: fixed ranges, a learned range and a learned range with an offset.

The grids of all of them hold zero, and rounding is to the nearest level, halves to even.
"""

from typing import Any

import torch
from torch import Tensor, nn

from paretune.compress.quantizer import ActivationQuantizer, sampled
from paretune.compress.rounding import activation_range, best_step, straight
from paretune.recipe import Quantizing

SHARES = 16  # clipping points tried on each side of zero when a range with an offset is initialised


def largest(x: Tensor) -> Tensor:
    """The largest |x|, a scalar; 1 if all are zero."""
    top = x.detach().abs().max()
    return torch.where(top > 0, top, torch.ones_like(top))


def best_range(x: Tensor, span: int) -> tuple[Tensor, Tensor]:
    """Step and lowest code of the grid of `span` + 1 levels with the least squared error on `x` (1, values).

    Tried: `SHARES` clipping points below zero × as many above, and LSQ's first grid, so that it is never worse than
    that one; without negative values LSQ's only. The code is a whole number in [1 - span, 0]; both are scalars.
    """
    if not bool((x < 0).any()):
        return best_step(x, 0, span)[0], x.new_zeros(())
    shares = torch.linspace(1.0, 1.0 / SHARES, SHARES, device=x.device)
    top, bottom = shares * x.max().clamp_min(0), shares * x.min()
    tried = [(top - low_end) / span for low_end in bottom] + [best_step(x, -(span // 2), span // 2)]
    lows = [low_end.expand(SHARES) for low_end in bottom] + [tried[-1] * -(span // 2)]
    found = [_judged(x, step, low_end, span) for step, low_end in zip(tried, lows, strict=True)]
    best = int(torch.stack([error for error, _, _ in found]).argmin())
    return found[best][1], found[best][2]


def _judged(x: Tensor, steps: Tensor, low_ends: Tensor, span: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best of some grids: its squared error, its step and its lowest code."""
    low = first_code(low_ends, steps, span)
    step, bottom = steps[:, None], low[:, None]
    error = ((x / step).round_().maximum(bottom).minimum(bottom + span) * step - x).square_().sum(dim=1)
    best = error.argmin()
    return error[best], steps[best], low[best]


def first_code(offset: Tensor, step: Tensor, span: int) -> Tensor:
    """The whole number of steps nearest to `offset` in [1 - span, 0], so that zero is a level and so is one step."""
    return (offset / step).round().clamp(1 - span, 0)


class FixedActivation(ActivationQuantizer):
    """A range that calibration sets and training leaves alone; unsigned if calibration saw nothing negative.

    The gradient passes straight through where a value rounds to a level of the grid and is zero elsewhere, as
    PyTorch's own fake quantization has it.
    """

    step: Tensor

    def __init__(self, bits: int, settings: Quantizing) -> None:
        super().__init__(bits, settings)
        self.register_buffer("step", torch.ones(()))

    def first_step(self, x: Tensor) -> Tensor:
        """The step, a positive scalar, for the calibration batch `x`; `low` and `high` are known."""
        raise NotImplementedError

    def calibrate(self, x: Tensor) -> Tensor:
        self.low, self.high = activation_range(self.bits, signed=bool(x.min() < 0))
        self.step = self.first_step(x)
        return x

    def positive_step(self) -> Tensor:
        return self.step.clamp_min(1e-12)

    def forward(self, x: Tensor) -> Tensor:
        if self.high == 0:
            return x
        step = self.positive_step()
        codes = (x.detach() / step).round()
        clipped = codes.clamp(self.low, self.high)
        return straight(torch.where(codes == clipped, x, 0.0), clipped * step)


class MinMaxActivation(FixedActivation):
    """From zero, or from minus the largest |x|, to the largest |x| that calibration saw."""

    def first_step(self, x: Tensor) -> Tensor:
        return largest(x) / self.high


class LeastErrorActivation(FixedActivation):
    """The range with the least squared error on the calibration batch, found on a grid of clipping points."""

    def first_step(self, x: Tensor) -> Tensor:
        return best_step(sampled(x), self.low, self.high)[0]


class ClippedActivation(ActivationQuantizer):
    """PACT: values are clipped at a learned `alpha`, which has the gradient of all values at or beyond it.

    Choi et al. 2018, PACT: Parameterized Clipping Activation for Quantized Neural Networks,
    https://arxiv.org/abs/1805.06085. `alpha` decays: `settings.decay` × alpha is added to its gradient, at every call.
    Ours: it starts at the largest |x| of calibration (paper: 10 for all layers), and if that saw values below zero the
    range is symmetric, clipped at ±alpha.
    """

    def __init__(self, bits: int, settings: Quantizing) -> None:
        super().__init__(bits, settings)
        self.alpha = nn.Parameter(torch.ones(()))

    def calibrate(self, x: Tensor) -> Tensor:
        self.low, self.high = activation_range(self.bits, signed=bool(x.min() < 0))
        self.alpha.data = largest(x)
        return x

    def positive_alpha(self) -> Tensor:
        """The clipping value, kept away from zero."""
        return self.alpha.abs().clamp_min(1e-12 * max(self.high, 1))

    def positive_step(self) -> Tensor:
        return self.positive_alpha() / max(self.high, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.high == 0:
            return x
        alpha, step = _decaying(self.positive_alpha(), self.settings.decay), self.positive_step().detach()
        clipped = torch.where(x.abs() >= alpha, alpha * x.sign(), x)
        clipped = clipped if self.low < 0 else clipped.clamp_min(0)
        return straight(clipped, (x.detach() / step).round().clamp(self.low, self.high) * step)


def _decaying(alpha: Tensor, decay: float) -> Tensor:
    """`alpha`, whose gradient gets `decay` × alpha on top.

    Not a hook on the parameter, which would be lost when the model is copied.
    """
    value = alpha.detach()
    if alpha.requires_grad:
        alpha.register_hook(lambda grad: grad + decay * value)  # type: ignore[no-untyped-call]
    return alpha


class _Shifted(torch.autograd.Function):
    """step × clip(round(x / step), low, low + span), low = `first_code`, with LSQ+'s gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, offset: Tensor, span: int) -> Tensor:
        ratio, low = x / step, first_code(offset, step, span)
        codes = ratio.round().maximum(low).minimum(low + span)
        ctx.save_for_backward(ratio, codes, low, step, offset)
        ctx.span = span
        return codes * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (grad,) = grads
        ratio, codes, low, step, offset = ctx.saved_tensors
        below, above = ratio < low, ratio > low + ctx.span
        clipped, scale = below | above, (ratio.numel() * ctx.span) ** -0.5
        slope = torch.where(clipped, above * float(ctx.span), codes - ratio)
        for_offset = (grad * clipped).sum() * scale
        outward = ((offset >= 0) & (for_offset < 0)) | ((offset <= (1 - ctx.span) * step) & (for_offset > 0))
        for_offset = torch.where(outward, torch.zeros_like(for_offset), for_offset)
        return grad * ~clipped, (slope * grad).sum() * scale, for_offset, None


class OffsetActivation(ActivationQuantizer):
    """LSQ+: learned step and learned offset, so that the range may lie lopsided around zero.

    Bhalgat et al. 2020, LSQ+: Improving low-bit quantization through learnable offsets and better initialization,
    https://arxiv.org/abs/2004.09576. Ours: at every forward the offset is rounded, straight-through, to a whole number
    of steps between 1 - span and 0 (span = 2^bits - 1), so that zero stays a level; at these ends its gradient only
    points back. The gradients are scaled by 1 / sqrt(values × span). The first range is `best_range`. `low` and `high`
    follow the parameters.
    """

    def __init__(self, bits: int, settings: Quantizing) -> None:
        super().__init__(bits, settings)
        self.calibrated, self.span = False, 2**bits - 1
        self.step, self.offset = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    @property
    def low(self) -> int:
        """The lowest code, as the offset has it now."""
        return int(first_code(self.offset.detach(), self.positive_step().detach(), self.span)) if self.calibrated else 0

    @low.setter
    def low(self, _: int) -> None:
        """Nothing: the code comes from the offset."""

    @property
    def high(self) -> int:
        """The highest code, 0 before calibration."""
        return self.low + self.span if self.calibrated else 0

    @high.setter
    def high(self, _: int) -> None:
        """Nothing: the code comes from the offset."""

    def calibrate(self, x: Tensor) -> Tensor:
        activation_range(self.bits, signed=bool(x.min() < 0))  # refuses one bit for values below zero
        step, low = best_range(sampled(x), self.span)
        self.step.data, self.offset.data, self.calibrated = step, low * step, True
        return x

    def positive_step(self) -> Tensor:
        return self.step.abs().clamp_min(1e-12)

    def forward(self, x: Tensor) -> Tensor:
        if not self.calibrated:
            return x
        found: Tensor = _Shifted.apply(x, self.positive_step(), self.offset, self.span)  # type: ignore[no-untyped-call]
        return found
