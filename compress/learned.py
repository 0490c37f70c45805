"""Learned step size (LSQ) for weights and activations.

Esser et al. 2020, Learned Step Size Quantization, https://arxiv.org/abs/1902.08153. Ours: the range of weights is
symmetric, so that the sign of a folded batch norm can move into the codes, and the first step is the one with the least
squared error.
"""

import torch
from torch import Tensor, nn

from paretune.compress.quantizer import ActivationQuantizer, Parts, WeightQuantizer, sampled
from paretune.compress.rounding import activation_range, best_step, per_channel, rounded
from paretune.recipe import Quantizing


class LearnedWeight(WeightQuantizer):
    """One learned step per output channel."""

    def __init__(self, weight: Tensor, bits: int, settings: Quantizing) -> None:
        super().__init__(weight, bits, settings)
        self.step = nn.Parameter(per_channel(self.first_steps(weight.detach()), weight))

    def first_steps(self, weight: Tensor) -> Tensor:
        """The steps (out,) that training starts from."""
        return best_step(weight.flatten(1), -self.high, self.high)

    def positive_step(self) -> Tensor:
        """The steps (out, 1, ...), kept away from zero."""
        return self.step.abs().clamp_min(1e-12)

    def parts(self, weight: Tensor) -> Parts:
        step = self.positive_step()
        return Parts(codes=(weight / step).clamp(-self.high, self.high).round(), scale=step)

    def forward(self, weight: Tensor) -> Tensor:
        return rounded(weight, self.positive_step(), -self.high, self.high)


class PlusWeight(LearnedWeight):
    """LSQ+ for weights: LSQ whose first step is max(|mean - 3σ|, |mean + 3σ|) / 2^(bits-1) of every output channel.

    Bhalgat et al. 2020, LSQ+, https://arxiv.org/abs/2004.09576. Ours: mean and σ are those of the weights that are not
    zero, or a mask would narrow the range of what it leaves.
    """

    def first_steps(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        count = rows.count_nonzero(dim=1).clamp_min(1)
        mean = rows.sum(dim=1) / count
        sigma = (((rows - mean[:, None]) * (rows != 0)).square().sum(dim=1) / count).sqrt()
        end = torch.maximum((mean - 3 * sigma).abs(), (mean + 3 * sigma).abs())
        return torch.where(end > 0, end / 2 ** (self.bits - 1), torch.ones_like(end))


class LearnedActivation(ActivationQuantizer):
    """One learned step for all values a layer reads; the range is unsigned if calibration saw nothing negative."""

    def __init__(self, bits: int, settings: Quantizing) -> None:
        super().__init__(bits, settings)
        self.step = nn.Parameter(torch.ones(()))

    def calibrate(self, x: Tensor) -> Tensor:
        self.low, self.high = activation_range(self.bits, signed=bool(x.min() < 0))
        self.step.data = best_step(sampled(x), self.low, self.high)[0]
        return x

    def positive_step(self) -> Tensor:
        return self.step.abs().clamp_min(1e-12)

    def forward(self, x: Tensor) -> Tensor:
        if self.high == 0:
            return x
        return rounded(x, self.positive_step(), self.low, self.high)
