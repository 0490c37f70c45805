"""What every quantizer promises: a weight's is a parametrization, an activation's a function of what a layer reads."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paretune.compress.rounding import straight
from paretune.frozen import top_code
from paretune.recipe import Quantizing

SAMPLE = 16384  # activation values looked at per layer when its step is initialised


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """A quantized weight taken apart: value of the code × scale, exactly, in float32.

    `codes` are whole numbers as floats, of the weight's shape, within ±`top_code(bits)`; `scale` is positive, (out, 1,
    ...) or a scalar. `levels` is None, or a codebook's (2 × top,) as in `paretune.frozen.FrozenLayer`.
    """

    codes: Tensor
    scale: Tensor
    levels: Tensor | None = None


class WeightQuantizer(nn.Module):
    """Parametrization of a weight (out, ...). A weight that is exactly zero, such as a masked one, stays so.

    Subclasses give `parts`; the value that the forward pass returns must be exactly theirs. `name` is that of the
    table.
    """

    name = ""
    grid = "uniform"  # one of paretune.frozen.GRIDS

    def __init__(self, weight: Tensor, bits: int, settings: Quantizing) -> None:
        """Fit the grid to `weight`, as its mask leaves it."""
        super().__init__()
        self.bits, self.high, self.settings = bits, top_code(bits), settings

    def parts(self, weight: Tensor) -> Parts:
        """Codes and scale of `weight`."""
        raise NotImplementedError

    def at(self, done: float) -> None:
        """Told before every step of a training which share of it is done, in [0, 1]; and 1 when it is over."""

    def forward(self, weight: Tensor) -> Tensor:
        """The quantized weight; here with the straight-through gradient."""
        with torch.no_grad():
            value = self.value(self.parts(weight))
        return straight(weight, value)

    def value(self, parts: Parts) -> Tensor:
        """What the parts mean, of the weight's shape."""
        codes, top = parts.codes, self.high
        if self.grid == "power_of_two":
            return codes.sign() * torch.exp2(codes.abs() - top) * parts.scale
        if parts.levels is not None:
            table = torch.cat([parts.levels[:top], parts.levels.new_zeros(1), parts.levels[top:]])
            return table[(codes + top).long()] * parts.scale
        return codes * parts.scale


class ActivationQuantizer(nn.Module):
    """Rounds what a layer reads: step × clip(round(u / step), low, high) with u = sign(x) |x|^power.

    Until it is calibrated (`high` is 0) it lets everything through. `low` is 0 or below, `high` above 0 and `high -
    low` less than 2^bits. Halves are rounded to even. `name` is that of the table.
    """

    name = ""

    def __init__(self, bits: int, settings: Quantizing) -> None:
        super().__init__()
        self.bits, self.low, self.high, self.settings = bits, 0, 0, settings

    def calibrate(self, x: Tensor) -> Tensor:
        """Set the range from a batch `x` of any shape, and hand it back as it is."""
        raise NotImplementedError

    def positive_step(self) -> Tensor:
        """The step, a scalar kept away from zero."""
        raise NotImplementedError

    def power(self) -> float:
        """The exponent that values are raised to before they are rounded."""
        return 1.0


def sampled(x: Tensor) -> Tensor:
    """Some values of `x`, evenly spread, as (1, values)."""
    flat = x.detach().flatten()
    # An odd stride, or it would see the same columns of every row.
    return flat[None, :: flat.numel() // SAMPLE | 1]
