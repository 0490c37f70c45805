"""Weights that are powers of two: rounded in every forward pass, or frozen in growing shares (INQ).

A layer has one scale, 2^n with n = floor(log2(4/3 × max |w|)), and the levels ±scale, ±scale / 2, ±scale / 4 ... and
zero; a weight goes to the nearest one. Zhou et al. 2017, Incremental Network Quantization,
https://arxiv.org/abs/1702.03044. Ours: 2^(bits - 1) - 1 levels on each side of zero, where the paper has 2^(bits - 2).
"""

import math

import torch
from torch import Tensor

from paretune.compress.quantizer import Parts, WeightQuantizer
from paretune.compress.rounding import straight
from paretune.errors import ImpossiblePlan
from paretune.recipe import Quantizing

SETTLED = 0.9  # of the training is over when INQ freezes the last weights; the rest is for norms and biases
TINY = torch.finfo(torch.float32).tiny  # the smallest number that keeps all its digits


def nearest_exponent(magnitude: Tensor) -> Tensor:
    """n of the 2^n nearest to each positive number: floor(log2(4/3 × number)), exactly, as integers."""
    mantissa, exponent = torch.frexp(magnitude)
    return exponent - (mantissa < 0.75).to(exponent.dtype)


def power_scale(weight: Tensor) -> Tensor:
    """The power of two nearest to the largest |w|, a scalar; 1 for a weight of zeros."""
    largest = weight.abs().amax()
    return torch.where(largest >= TINY, torch.exp2(nearest_exponent(largest).to(weight.dtype)), 1.0)


def power_codes(weight: Tensor, scale: Tensor, top: int) -> Tensor:
    """Codes within ±`top` of the nearest levels, sign × 2^(|code| - top) × `scale`; 0 below half of the smallest."""
    magnitude = weight.abs()
    ranks = (nearest_exponent(magnitude) - nearest_exponent(scale) + top).clamp(1, top)
    # With 8 bits the smallest levels may be too small for a float32.
    least = (scale * 2.0**-top).clamp_min(TINY)
    return weight.sign() * ranks * (magnitude >= least)


class PowerOfTwo(WeightQuantizer):
    """Every weight at its nearest level in every forward pass, with the straight-through gradient.

    The scale follows the largest weight, so that none is ever clipped by more than a third. When it doubles, all levels
    but one at either end stay where they are.
    """

    grid = "power_of_two"

    def parts(self, weight: Tensor) -> Parts:
        """Codes of the nearest levels, and the scale as it is now."""
        scale = power_scale(weight)
        return Parts(codes=power_codes(weight, scale, self.high), scale=scale)


def frozen_share(done: float, steps: int) -> float:
    """The share of a layer's weights that is frozen when the share `done` of a training is over.

    1 - 2^-i after step i, and all after the last: 50, 75, 87.5, 100 % with four. The first step comes before the
    training, as in the paper, the last at 0.9 of it, the others at equal distances (ours); a single one freezes
    everything at once.
    """
    step = steps if done >= 1 else 1 + math.floor(done / SETTLED * (steps - 1) + 1e-9)
    return 1.0 if step >= steps else 1 - 2.0**-step


class Incremental(WeightQuantizer):
    """INQ: in a training, more and more weights are fixed at powers of two while the others make up for it in float.

    `frozen_share` says when; the largest |w| go first, of those that are not zero. A frozen weight has no gradient, and
    its code is kept here, so that neither momentum nor decay can move it; the scale never changes. In training mode the
    free weights are in float; in eval mode, and to be stored, they are at their nearest level.

    Raises:
        ImpossiblePlan: fewer than one step.
    """

    grid = "power_of_two"
    scale: Tensor
    frozen: Tensor
    codes: Tensor

    def __init__(self, weight: Tensor, bits: int, settings: Quantizing) -> None:
        super().__init__(weight, bits, settings)
        if settings.steps < 1:
            raise ImpossiblePlan(f"INQ freezes its weights in 1 step or more, got steps {settings.steps}")
        self.wanted = self.reached = 0.0  # shares of the weights that are to be, and that are, frozen
        self.register_buffer("scale", power_scale(weight.detach()))
        self.register_buffer("frozen", torch.zeros_like(weight, dtype=torch.bool))
        self.register_buffer("codes", torch.zeros_like(weight, dtype=torch.int8))

    def at(self, done: float) -> None:
        """Ask for the share that is due; the next forward pass in training mode freezes it."""
        self.wanted = frozen_share(done, self.settings.steps)

    def parts(self, weight: Tensor) -> Parts:
        """The kept codes of frozen weights, those of the nearest levels for the others, and the fixed scale."""
        free = power_codes(weight, self.scale, self.high)
        codes = torch.where(self.frozen, self.codes.to(weight.dtype), free)
        return Parts(codes=codes * (weight != 0), scale=self.scale)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            if self.training and self.wanted > self.reached:
                self._freeze(weight)
            value = self.value(self.parts(weight))
        mixed = torch.where(self.frozen, value, weight)
        return mixed if self.training else straight(mixed, value)

    def _freeze(self, weight: Tensor) -> None:
        chosen = self._largest(weight) if self.wanted < 1 else ~self.frozen
        self.codes[chosen] = power_codes(weight, self.scale, self.high)[chosen].to(torch.int8)
        self.frozen |= chosen
        self.reached = self.wanted

    def _largest(self, weight: Tensor) -> Tensor:
        """Which free weights complete the wanted share, rounded up, of the weights that are not zero."""
        alive = int(((weight != 0) | self.frozen).sum())
        missing = max(0, math.ceil(self.wanted * alive) - int(self.frozen.sum()))
        ranked = torch.where(self.frozen, 0, weight.abs()).flatten().argsort(descending=True, stable=True)
        chosen = torch.zeros_like(self.frozen).flatten()
        chosen[ranked[:missing]] = True
        return chosen.view_as(self.frozen)
