"""How a layer's matrix product is folded onto a FINN-style engine of processing elements and SIMD lanes.

FINN-R (Blott et al. 2018, https://arxiv.org/abs/1809.04570) and the estimates in Xilinx/finn's MVAU and VVAU.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

from paretune.costs.hardware import Hardware
from paretune.costs.skipping import streamed
from paretune.profile import Row

DSP_BITS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Folding:
    """Processing elements and SIMD lanes of each that a layer is computed with, and the cycles that takes."""

    pe: int
    simd: int
    cycles: int


class Shape(NamedTuple):
    """A layer as the engine sees it: `outer` times `positions` products of `inner` inputs and `width` outputs.

    The elements share out `width`, the lanes `inner`: filters and one filter's weights, as in FINN's MVAU, and the
    groups of a grouped convolution one after the other. Of a depthwise convolution the elements share out the
    channels, as in its VVAU.
    """

    outer: int
    width: int
    inner: int
    positions: int

    def folds(self, pe: int, simd: int) -> int:
        """Steps per input vector; the last one along each side may leave elements and lanes idle."""
        return self.outer * -(-self.width // pe) * -(-self.inner // simd)


def runs(row: Row) -> bool:
    """True if the engine has anything to do for the row: it multiplies."""
    return row.macs > 0


def depthwise(row: Row) -> bool:
    """True for a convolution with one filter per channel."""
    return row.groups == row.channels > 1


def shape_of(row: Row, hardware: Hardware, pe: int) -> Shape:
    """The row on an engine with `pe` elements, without the weights that the hardware skips."""
    groups, positions, inner, filters = streamed(row, hardware, pe)
    if depthwise(row):
        return Shape(1, groups, inner, positions)
    return Shape(groups, filters, inner, positions)


def fold(row: Row, hardware: Hardware) -> Folding:
    """How a row that multiplies is folded.

    Without `target_cycles` it runs on the one engine there is, whose sizes need not divide the layer's. With it the
    layer has an engine of its own, whose elements and lanes divide filters and inner dimension, as FINN asks for: the
    one of the fewest LUTs, memories aside, that keeps to the target, of equal ones that with more lanes per element;
    if none does, the cheapest of the fastest. FINN's own search is greedy (lanes first, up to a width, then elements)
    and so may take more LUTs; its limits on what the input generators can feed are left out, and every fold is offered.
    """
    if hardware.target_cycles is None:
        shape = shape_of(row, hardware, hardware.pe)
        cycles = shape.folds(hardware.pe, hardware.simd) * shape.positions
        return Folding(pe=hardware.pe, simd=hardware.simd, cycles=cycles)
    width = row.groups if depthwise(row) else row.filters
    # only blocks are skipped or not according to the number of elements
    sizes = divisors(width) if row.pattern == "pe_block" else (1,)
    shapes = tuple(shape_of(row, hardware, pe) for pe in sizes)
    luts = lane_luts(row, hardware), end_luts(row, hardware)
    return _cheapest(shapes, width, row.inner, hardware.target_cycles, *luts)


def too_slow(rows: Iterable[Row], hardware: Hardware) -> tuple[str, ...]:
    """The layers that miss `target_cycles` however they are folded; none without a target."""
    target = hardware.target_cycles
    if target is None:
        return ()
    return tuple(row.name for row in rows if runs(row) and fold(row, hardware).cycles > target)


@cache
def divisors(number: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    small = [low for low in range(1, int(number**0.5) + 1) if number % low == 0]
    return tuple(sorted({*small, *(number // low for low in small)}))


def uses_dsps(row: Row) -> bool:
    """True if products are left to DSP blocks: both operands have at least 4 bits.

    FINN leaves the choice to the user; 4 bits is where it takes its RTL engine, which is built of DSP blocks.
    """
    return row.weight_bits >= DSP_BITS and row.activation_bits >= DSP_BITS


def adds_only(row: Row, hardware: Hardware) -> bool:
    """True if the row's weights are -1, 0 and 1 and need no multiplier on this hardware."""
    return hardware.ternary_adds and row.weight_bits <= 2 and row.quantizer != "codebook"


def lane_luts(row: Row, hardware: Hardware) -> int:
    """LUTs that each lane of an element takes: a multiplier, unless that is a DSP block, and two adders of the tree.

    That ternary weights take the adders alone is our reading: the sign and the zero fit the LUTs of the first adder.
    """
    bits = row.weight_bits + row.activation_bits
    free = uses_dsps(row) or adds_only(row, hardware)
    return 2 * bits + (0 if free else (2 * -(-bits // 6) - 1) * bits)


def end_luts(row: Row, hardware: Hardware) -> int:
    """LUTs that an element takes besides its lanes: the accumulator, less the one adder that the tree is short of."""
    return accumulator_bits(row, hardware) - row.weight_bits - row.activation_bits


def accumulator_bits(row: Row, hardware: Hardware) -> int:
    """Bits that no sum of a row's products overflows, at most those of the hardware's accumulator.

    The bound from the data types (Colbert et al. 2023, https://arxiv.org/abs/2301.13376), for unsigned activations and
    all weights of a filter, masked ones too.
    """
    largest = row.inner << (row.weight_bits + row.activation_bits - 1)
    return min(hardware.accumulator_bits, largest.bit_length() + 1)


@lru_cache(maxsize=65536)
def _cheapest(shapes: tuple[Shape, ...], width: int, inner: int, target: int, lane: int, end: int) -> Folding:
    """The cheapest folding; `shapes` has one entry per divisor of `width`, or one for all of them."""
    sizes, lanes = divisors(width), divisors(inner)
    each = shapes if len(shapes) == len(sizes) else shapes * len(sizes)
    # cycles with all lanes, where an element is done with a vector in one step
    fewest = [shape.outer * -(-shape.width // pe) * shape.positions for pe, shape in zip(sizes, each, strict=True)]
    target = max(target, min(fewest))
    found = [
        (pe, lanes[bisect_left(lanes, -(-shape.inner // (target // least)))], shape)
        for pe, shape, least in zip(sizes, each, fewest, strict=True)
        if least <= target
    ]
    pe, simd, shape = min(found, key=lambda one: (one[0] * (one[1] * lane + end), -one[1]))
    return Folding(pe=pe, simd=simd, cycles=shape.folds(pe, simd) * shape.positions)
