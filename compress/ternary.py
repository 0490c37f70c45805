"""Ternary weights with a threshold: minus one scale, zero, or one scale, and one scale a layer."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from paretune.compress.quantizer import Parts, WeightQuantizer
from paretune.compress.rounding import straight
from paretune.errors import pick


def _mean(magnitude: Tensor) -> Tensor:
    """The mean of what is not zero, so that a mask does not lower the threshold (ours)."""
    return magnitude.sum() / magnitude.count_nonzero().clamp_min(1)


REACHES: Mapping[str, Callable[[Tensor], Tensor]] = {"max": torch.amax, "mean": _mean}


class Ternary(WeightQuantizer):
    """sign(w) × scale where |w| reaches the threshold, else zero; both are measured anew in every forward pass.

    The threshold is `threshold` × the largest ("max") or mean ("mean") |w| of the layer, the scale the mean |w| of what
    reaches it. The gradient passes where |w| < 1. A layer that reaches its threshold nowhere is zero, with scale 1.

    Yang, He & Fan 2020, Harmonious Coexistence of Structured Weight Pruning and Ternarization for Deep Neural Networks,
    AAAI: 0.05 of "max" (its formulas could not be read; threshold, scale and gradient are those of the same lab's
    code, https://github.com/elliothe/Ternarized_Neural_Network). Li et al. 2016, Ternary Weight Networks,
    https://arxiv.org/abs/1605.04711: 0.7 of "mean".

    Raises:
        UnknownName: a threshold of neither "max" nor "mean".
    """

    def parts(self, weight: Tensor) -> Parts:
        """Codes -1, 0, 1 and the layer's scale, a scalar."""
        magnitude = weight.abs()
        reach = pick(REACHES, self.settings.of, "measure of the ternary threshold")
        large = (magnitude >= self.settings.threshold * reach(magnitude)) & (magnitude > 0)
        codes = weight.sign() * large
        scale = (magnitude * large).sum() / large.sum().clamp_min(1)
        return Parts(codes=codes, scale=torch.where(scale > 0, scale, torch.ones_like(scale)))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.value(self.parts(weight))
        return straight(weight * (weight.abs() < 1), value)
