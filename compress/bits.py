"""Indices as a plan and a file hold them: numbers as bits, bits as bytes, and the pattern that carries them."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.errors import ImpossiblePlan
from paretune.plan import Pattern
from paretune.recipe import Wanted

Mask = NDArray[np.bool_]
Scores = NDArray[Any]  # of the weight's shape; higher stays
Shape = Sequence[int]  # (out, in, ...) of a weight
Counts = NDArray[np.intp]


def to_bits(numbers: Counts, count: int) -> Mask:
    """Every number below `count` in ⌈log2 count⌉ bits, lowest first, one after the other."""
    bits: Mask = (numbers.ravel()[:, None] >> np.arange((count - 1).bit_length()) & 1).astype(bool).ravel()
    return bits


def from_bits(bits: Mask, count: int, size: int) -> Counts:
    """The `size` numbers that `to_bits` was given."""
    width = (count - 1).bit_length()
    numbers: Counts = bits.reshape(size, width) @ (1 << np.arange(width))
    return numbers


def recorded(bits: Mask, *, kind: str, nonzeros: int, block: int = 0, layout: str = "", parts: int = 0) -> Pattern:
    """The pattern with this index; bits fill every byte from its lowest."""
    index = np.packbits(bits, bitorder="little").tobytes()
    return Pattern(
        kind=kind, nonzeros=nonzeros, index_bytes=len(index), stored=base64.b64encode(index).decode(),
        block=block, layout=layout, parts=parts,
    )  # fmt: skip


def unpacked(index: bytes, count: int) -> Mask:
    """The first `count` bits of an index."""
    return np.unpackbits(np.frombuffer(index, dtype=np.uint8), count=count, bitorder="little").astype(bool)


def numbered(scores: Scores) -> Scores:
    """The same scores.

    Raises:
        ImpossiblePlan: one of them is not a number.
    """
    if np.isnan(scores).any():
        raise ImpossiblePlan(f"{np.isnan(scores).sum()} of {scores.size} scores are not numbers; did training diverge?")
    return scores


def other_pattern(wanted: Wanted, mask: Mask) -> ImpossiblePlan:
    """The error to raise for a mask that no index of the wanted pattern describes."""
    return ImpossiblePlan(f"a mask of shape {mask.shape} has not the pattern '{wanted.kind}' that was asked for")
