"""Costs that depend on the network alone: how much it learns, stores, keeps in memory and computes."""

from math import log2

from paretune.costs.storage import stored_bytes
from paretune.frozen import HEADER_BYTES
from paretune.plan import FLOAT
from paretune.profile import Profile, Row


def params(rows: Profile) -> int:
    """Learnable numbers: weights, biases and norm scales, whatever their bit-width."""
    return sum(row.params for row in rows)


def nonzeros(rows: Profile) -> int:
    """Learnable numbers that neither a mask nor, once that is known, rounding has set to zero."""
    return sum(row.params - row.weights + row.nonzeros for row in rows)


def weight_bits(rows: Profile) -> int:
    """Bits of all weights of convolutions and linear layers as they are, before any encoding; biases left out."""
    return sum(row.weights * row.weight_bits for row in rows)


def size_bytes(rows: Profile) -> int:
    """Bytes of the packed weight file: every weight in its encoding, each starting on a byte, float32 scales, biases,
    activation steps and whatever is not a layer's weight, and the file's header. Of a plan that is not trained yet it
    is an upper bound: see `paretune.costs.storage.stored_bytes`.
    """
    return HEADER_BYTES + sum(row_bytes(row) for row in rows)


def row_bytes(row: Row) -> int:
    """One row's share of the packed weight file."""
    return stored_bytes(row) + 4 * (row.scales + row.floats)


def least_bytes(rows: Profile) -> int:
    """Bytes that the packed file takes in any case: all but the weights that training turns into codes."""
    floats = HEADER_BYTES + sum(4 * (row.scales + row.floats) for row in rows)
    return floats + sum(stored_bytes(row) for row in rows if row.weight_bits == FLOAT and not row.pattern)


def activation_bytes(rows: Profile) -> int:
    """The most bytes of activations in memory at once, for one sample, layer after layer in order of execution.

    A tensor takes the activation bits of the layers that read it, of several the largest, and float32 where none does.
    It lives from the operation that makes it to the last that reads it; an operation that works number by number
    writes over what nobody reads again. Sums and poolings take the bits of the layers that read their result.
    """
    return max((row.alive_bytes for row in rows), default=0)


def macs(rows: Profile) -> int:
    """Multiply-accumulates of one sample in convolutions, linear layers and products of activations (attention); one
    multiply-add counts once.
    """
    return sum(row.macs for row in rows)


def effective_macs(rows: Profile) -> int:
    """Multiply-accumulates of one sample if every weight that is zero is skipped."""
    return sum(row_effective_macs(row) for row in rows)


def row_effective_macs(row: Row) -> int:
    """One row's multiply-accumulates without those of weights that are zero."""
    return row.macs * row.nonzeros // row.weights if row.weights else row.macs


def bops(rows: Profile) -> int:
    """Bit operations of one sample: Σ MACs × weight bits × activation bits, 32 for float.

    The product form of Bayesian Bits (van Baalen et al. 2020, https://arxiv.org/abs/2005.07093). The activation bits
    of the first layer are those of the network's input.
    """
    return sum(row_bops(row) for row in rows)


def row_bops(row: Row) -> int:
    """One row's bit operations."""
    return row.macs * row.weight_bits * row.activation_bits


def effective_bops(rows: Profile) -> int:
    """Bit operations of one sample without those of zeros: Σ effective MACs × weight bits × activation bits."""
    return sum(row_effective_macs(row) * row.weight_bits * row.activation_bits for row in rows)


def baskin_bops(rows: Profile) -> float:
    """Bit operations with the accumulator: Σ MACs × (w a + w + a + log2 inner), inner = inputs of a group × kernel
    size.

    Baskin et al. 2018 (UNIQ, https://arxiv.org/abs/1804.10969), as remembered, not re-read.
    """
    return sum(row.macs * (row.weight_bits * row.activation_bits + _accumulated(row)) for row in rows)


def effective_baskin_bops(rows: Profile) -> float:
    """The same where multiplications by zero are skipped; the accumulator still takes every sum."""
    return sum(
        row_effective_macs(row) * row.weight_bits * row.activation_bits + row.macs * _accumulated(row) for row in rows
    )


def relative_bops(rows: Profile) -> float:
    """Bit operations as a share of the dense model's in float32, in [0, 1]."""
    dense = FLOAT * FLOAT * sum(row.dense_macs for row in rows)
    return bops(rows) / dense if dense else 0.0


def _accumulated(row: Row) -> float:
    return row.weight_bits + row.activation_bits + log2(row.inner)
