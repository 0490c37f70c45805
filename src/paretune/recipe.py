"""What the sampler chose: a handful of names and numbers, before any tensor is touched."""

from dataclasses import dataclass

DISTILL = ("none", "logits")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """How the loss is won back: `epochs` of fine-tuning at peak learning rate `lr`.

    `distill` is "none" or "logits" (match the dense model's cached logits, Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531).
    """

    epochs: int
    lr: float
    distill: str = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One answer of a space.

    `ratios` maps groups to the share of channels *removed*, in [0, 1); `weight_bits` and
    `activation_bits` map layers to bits (32 leaves them in float).
    """

    criterion: str
    ratios: dict[str, float]
    weight_bits: dict[str, int]
    activation_bits: dict[str, int]
    recovery: Recovery
