"""Uniform grids for weights whose step is computed, not learned: min-max, least squares, DoReFa."""

import torch
from torch import Tensor

from paretune.compress.quantizer import Parts, WeightQuantizer
from paretune.compress.rounding import best_step, per_channel, straight
from paretune.recipe import Quantizing


def step_to(largest: Tensor, high: int) -> Tensor:
    """The steps, of `largest`'s shape, that put code `high` on it; 1 where it is zero, and never below 1e-12."""
    return torch.where(largest > 0, largest / high, torch.ones_like(largest)).clamp_min(1e-12)


class MinMaxWeight(WeightQuantizer):
    """The largest |w| of every output channel has the last code, in every forward pass anew: nothing is clipped."""

    def parts(self, weight: Tensor) -> Parts:
        step = per_channel(step_to(weight.flatten(1).abs().amax(dim=1), self.high), weight)
        return Parts(codes=(weight / step).clamp(-self.high, self.high).round(), scale=step)


class LeastSquaresWeight(WeightQuantizer):
    """The step of every output channel that rounds the first weight with the least squared error; it stays as it is.

    Weights that training takes out of the range are clipped and have no gradient.
    """

    step: Tensor

    def __init__(self, weight: Tensor, bits: int, settings: Quantizing) -> None:
        super().__init__(weight, bits, settings)
        steps = best_step(weight.detach().flatten(1), -self.high, self.high).clamp_min(1e-12)
        self.register_buffer("step", per_channel(steps, weight))

    def parts(self, weight: Tensor) -> Parts:
        return Parts(codes=(weight / self.step).clamp(-self.high, self.high).round(), scale=self.step)

    def forward(self, weight: Tensor) -> Tensor:
        end = self.high * self.step
        with torch.no_grad():
            value = self.value(self.parts(weight))
        return straight(weight.clamp(-end, end), value)


class TanhWeight(WeightQuantizer):
    """tanh(w) / max |tanh(w)| of a layer rounded to the grid, times max |w|; with 1 bit sign(w) × mean |w|.

    Zhou et al. 2016, DoReFa-Net, https://arxiv.org/abs/1606.06160. Ours: zero is a level and the sign of 0 is 0, the
    mean is that of the weights that are not zero, and max |w|, where the paper has 1, keeps the scale of a trained
    network. The gradient goes through tanh and the rounding; to it the two maxima are constants (ours). With 1 bit it
    is passed on whole, as in the paper.
    """

    def parts(self, weight: Tensor) -> Parts:
        if self.bits == 1:
            nonzeros = weight.count_nonzero().clamp_min(1)
            return Parts(codes=weight.sign(), scale=step_to(weight.abs().sum() / nonzeros, 1))
        bent = weight.tanh()
        codes = (bent / step_to(bent.abs().amax(), 1) * self.high).round()
        return Parts(codes=codes.clamp(-self.high, self.high), scale=step_to(weight.abs().amax(), self.high))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.value(self.parts(weight))
            stretch = step_to(weight.abs().amax(), 1) / step_to(weight.tanh().abs().amax(), 1)
        return straight(weight if self.bits == 1 else weight.tanh() * stretch, value)
