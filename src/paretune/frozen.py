"""A compressed model as plain arrays: what the packed file stores and what rebuilds the model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paretune.plan import FLOAT, Pattern

HEADER_BYTES = 168  # of a packed file: 8 for the header's length and 160 of JSON and blanks, whatever the model


@dataclass(frozen=True, kw_only=True)
class FrozenLayer:
    """One convolution or linear layer with its batch norm folded in.

    `codes` has the weight's shape: int8 whole numbers when `weight_bits` < 32 (weight = codes × scale of
    the output channel), float32 weights otherwise (and `scales` is empty). The range is symmetric,
    ±(2^(bits-1) - 1), so zero is exact and the sign of a folded batch norm moves into the codes.
    With a `pattern` the masked codes are zero and the file stores the others only.
    Activations are x ≈ step × clip(round(x / step), low, high); `step` 0.0 means float.
    """

    codes: NDArray[np.int8] | NDArray[np.float32]
    scales: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    weight_bits: int = FLOAT
    activation_bits: int = FLOAT
    step: float = 0.0
    low: int = 0
    high: int = 0
    pattern: Pattern | None = None

    def weight(self) -> NDArray[np.float32]:
        """The weights this layer multiplies with, float32."""
        if self.weight_bits == FLOAT:
            return self.codes.astype(np.float32, copy=False)
        columns = self.scales.reshape(-1, *[1] * (self.codes.ndim - 1))
        return self.codes.astype(np.float32) * columns


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A whole compressed model: its layers by name, and every other float tensor by state-dict key."""

    layers: dict[str, FrozenLayer]
    rest: dict[str, NDArray[np.float32]]
