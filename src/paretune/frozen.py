"""A compressed model as plain arrays: what the packed file stores and what rebuilds the model."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from paretune.plan import FLOAT, Pattern

HEADER_BYTES = 168  # of a packed file: 8 for the header's length and 160 of JSON and blanks, whatever the model
GRIDS = ("uniform", "power_of_two", "codebook")  # what a code means, before the channel's scale

Floats = NDArray[np.float32]


def top_code(bits: int) -> int:
    """The largest weight code: codes run over ±(2^(bits-1) - 1), so 2 bits hold -1, 0, 1; 1 bit holds -1 and 1."""
    return max(1, int(2 ** (bits - 1)) - 1)


def stored_levels(quantizer: str, bits: int) -> int:
    """How many float32 levels a layer's file holds: those of a codebook but for its zero."""
    return 2 * top_code(bits) if quantizer == "codebook" and bits < FLOAT else 0


def activation_floats(quantizer: str, bits: int) -> int:
    """How many float32 numbers a layer's file holds for the activation it reads: a step, and DJPQ's exponent."""
    return 0 if bits == FLOAT else 2 if quantizer == "djpq" else 1


@dataclass(frozen=True, kw_only=True)
class FrozenLayer:
    """One convolution or linear layer with its batch norm folded in.

    `codes` has the weight's shape: int8 whole numbers when `weight_bits` < 32 (weight = value of the code × scale of
    the output channel), float32 weights otherwise (and `scales` is empty). The range is symmetric,
    ±`top_code(bits)`, and code 0 is zero. On the grid "uniform" a code is its own value, on "power_of_two" it is
    sign × 2^(|code| - top), on "codebook" one of `levels` (2 × top, ascending; the first half belongs to the negative codes).
    The sign of a folded batch norm moves into the codes, with a codebook into the scale.
    With a `pattern` the masked codes are zero. `encoding` is how the file stores them, or "cheapest".
    Activations are x ≈ step × clip(round(u / step), low, high) with u = sign(x) |x|^power; `step` 0.0 means float.
    `exponent` says that the power is stored.
    """

    codes: NDArray[np.int8] | Floats
    scales: Floats
    bias: Floats | None
    weight_bits: int = FLOAT
    activation_bits: int = FLOAT
    step: float = 0.0
    low: int = 0
    high: int = 0
    power: float = 1.0
    exponent: bool = False
    grid: str = "uniform"
    levels: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    pattern: Pattern | None = None
    encoding: str = "cheapest"

    def weight(self) -> Floats:
        """The weights this layer multiplies with, float32."""
        if self.weight_bits == FLOAT:
            return self.codes.astype(np.float32, copy=False)
        columns = self.scales.reshape(-1, *[1] * (self.codes.ndim - 1))
        return self.values() * columns

    def values(self) -> Floats:
        """What the codes mean before the scales, float32."""
        codes = self.codes.astype(np.int16)
        top = top_code(self.weight_bits)
        if self.grid == "power_of_two":
            return (np.sign(codes) * np.exp2((np.abs(codes) - top).astype(np.float32))).astype(np.float32)
        if self.grid == "codebook":
            table = np.concatenate([self.levels[:top], np.zeros(1, np.float32), self.levels[top:]])
            return table[codes + top]
        return codes.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A whole compressed model: its layers by name, and every other float tensor by state-dict key."""

    layers: dict[str, FrozenLayer]
    rest: dict[str, Floats]
