"""Quantizers that learn range, step and exponent, so that their bit-width has a gradient (DJPQ).

Wang, Lu, Blankevoort 2020, Differentiable Joint Pruning and Quantization, https://arxiv.org/abs/2007.10463; the rules
are those that the code of GETA (https://github.com/microsoft/geta) uses and cites from there. Ours: a bit-width that is
given ties the step to the range, the gradients of range and exponent are then scaled as LSQ scales those of a step, and
the exponent stays within 1/4 and 4.
"""

from typing import Any

import torch
from torch import Tensor, nn

from paretune.compress.quantizer import ActivationQuantizer, Parts, WeightQuantizer, sampled
from paretune.compress.rounding import activation_range, best_step
from paretune.recipe import Quantizing

OUTER = 2.0  # inputs have a gradient up to this multiple of the largest value that a quantizer was fitted to
EXPONENTS = (0.25, 4.0)
TINY = 1e-30


def grid_codes(x: Tensor, step: Tensor, edge: Tensor, power: float, signed: bool) -> Tensor:
    """Whole numbers clip(round(u / step), low, top) of `x`'s shape, with u = sign(x) |x|^power.

    `top` is round(edge^power / step), `low` is -top if `signed`, else 0.
    """
    top = (edge.pow(power) / step).round()
    return (_bent(x, power) / step).round().clamp(-top if signed else torch.zeros_like(top), top)


def _bent(x: Tensor, power: float) -> Tensor:
    return x.sign() * x.abs().pow(power)


class _Curved(torch.autograd.Function):
    """step × `grid_codes`. The gradients of step, edge and power are DJPQ's times `share`, x's is 1 within ±`outer`.

    Without `signed`, values below zero are zero and have no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, edge: Tensor, power: Tensor, signed: bool, outer: float, share: float
    ) -> Tensor:
        codes = grid_codes(x, step, edge, float(power.detach()), signed)
        ctx.save_for_backward(x, step, edge, power, codes)
        ctx.signed, ctx.outer, ctx.share = signed, outer, share
        return codes * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, step, edge, power, codes = ctx.saved_tensors
        grad, size = grads[0], x.abs()
        seen = (size <= ctx.outer) & (x >= 0) if not ctx.signed else size <= ctx.outer
        pull = grad * (x.sign() if ctx.signed else x.sign().clamp_min(0))
        clipped, held = size > edge, torch.minimum(size, edge)
        u = held.pow(power)
        for_step = (pull * (codes.abs() - u / step)).sum()
        # xlogy is 0 at 0, where |x|^t ln|x| would be 0 × -inf.
        for_power = (pull * torch.xlogy(u, held)).sum()
        for_edge = (pull * clipped).sum() * power * edge.pow(power - 1)
        return grad * seen, ctx.share * for_step, ctx.share * for_edge, ctx.share * for_power, None, None, None


class CurvedGrid(nn.Module):
    """What both quantizers share: `edge` (q_m), `exponent` (t) and, while it is free, `step` (d), all of them scalars.

    With a bit-width that is given, the step is edge^exponent / highest code. `free()` lets it be learned as well, until
    `settle(bits)`.
    """

    edge: nn.Parameter
    exponent: nn.Parameter
    step: nn.Parameter | None
    bits: int
    low: int
    high: int
    signed: bool

    def start(self, signed: bool) -> None:
        """Makes the parameters; the range is a placeholder until `fit`."""
        self.edge, self.exponent = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.register_parameter("step", None)
        self.signed, self.outer = signed, OUTER

    def fit(self, edge: Tensor, largest: Tensor) -> None:
        """Set the range to `edge` (1 if there are zeros only), in place; `largest` is the largest |x| seen."""
        self.edge.data = torch.where(edge > 0, edge, torch.ones_like(edge)).detach().clone()
        self.exponent.data = torch.ones_like(self.edge.data)
        self.outer = OUTER * max(float(largest.detach()), float(self.edge.detach()))

    def positive_edge(self) -> Tensor:
        """The range q_m, above zero."""
        return self.edge.abs().clamp_min(1e-12)

    def held_exponent(self) -> Tensor:
        """The exponent t, within `EXPONENTS`."""
        return self.exponent.clamp(*EXPONENTS)

    def positive_step(self) -> Tensor:
        """The step d, a scalar above zero."""
        if self.step is not None:
            return self.step.abs().clamp_min(TINY)
        return (self.positive_edge() ** self.held_exponent() / self.high).clamp_min(TINY)

    def free(self) -> None:
        """From now on the step is learned as well, from where it is."""
        self.step = nn.Parameter(self.positive_step().detach().clone())

    def bits_now(self) -> Tensor:
        """log2(q_m^t / d + 1), and 1 for the sign if there is one: a scalar with gradients for all three."""
        return torch.log2(self.positive_edge() ** self.held_exponent() / self.positive_step() + 1) + int(self.signed)

    @torch.no_grad()
    def aim(self, bits: float) -> None:
        """Set the free step so that `bits_now` is `bits`, in place."""
        assert self.step is not None
        self.step.copy_(self.positive_edge() ** self.held_exponent() / (2 ** (bits - int(self.signed)) - 1))

    def settle(self, bits: int) -> None:
        """Tie the step to the range again, for whole `bits`."""
        self.bits, self.step = bits, None
        self.low, self.high = activation_range(bits, self.signed)

    def rounds(self, x: Tensor) -> Tensor:
        """`x` on the grid, with gradients."""
        share = 1.0 if self.step is not None else (max(1, x.numel()) * self.high) ** -0.5
        found: Tensor = _Curved.apply(  # type: ignore[no-untyped-call]
            x, self.positive_step(), self.positive_edge(), self.held_exponent(), self.signed, self.outer, share
        )
        return found


class CurvedWeight(CurvedGrid, WeightQuantizer):
    """One range, step and exponent for all weights of a layer. They start at max |w| and 1."""

    def __init__(self, weight: Tensor, bits: int, settings: Quantizing) -> None:
        super().__init__(weight, bits, settings)
        self.start(signed=True)
        self.low = -self.high
        largest = weight.detach().abs().max()
        self.fit(largest, largest)

    def parts(self, weight: Tensor) -> Parts:
        """Codes and the one scale of `weight`."""
        step, power = self.positive_step(), float(self.held_exponent().detach())
        return Parts(codes=grid_codes(weight, step, self.positive_edge(), power, True), scale=step)

    def forward(self, weight: Tensor) -> Tensor:
        """The quantized weight, with DJPQ's gradients."""
        return self.rounds(weight)


class CurvedActivation(CurvedGrid, ActivationQuantizer):
    """One range, step and exponent for all values a layer reads; unsigned if calibration saw nothing negative.

    Ours: the range starts where the squared error is least, not at the largest value.
    """

    def __init__(self, bits: int, settings: Quantizing) -> None:
        super().__init__(bits, settings)
        self.start(signed=False)

    def calibrate(self, x: Tensor) -> Tensor:
        """Set the range from a batch `x` of any shape, and hand it back as it is."""
        self.signed = bool(x.min() < 0)
        self.low, self.high = activation_range(self.bits, self.signed)
        self.fit(best_step(sampled(x), self.low, self.high)[0] * self.high, x.abs().max())
        return x

    def power(self) -> float:
        """The exponent t."""
        return float(self.held_exponent().detach())

    def forward(self, x: Tensor) -> Tensor:
        """`x` rounded; as it is before calibration."""
        return x if self.high == 0 else self.rounds(x)
