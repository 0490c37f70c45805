"""What a FINN-style matrix-vector engine pays for a layer: cycles, traffic, and what it takes of an FPGA.

FINN-R (Blott et al. 2018, https://arxiv.org/abs/1809.04570) and the estimates in Xilinx/finn's MVAU.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from paretune.costs.folding import (
    depthwise,
    end_luts,
    fold,
    lane_luts,
    runs,
    shape_of,
    uses_dsps,
)
from paretune.costs.hardware import NO_WORK, Hardware, Work
from paretune.costs.skipping import in_float, kept_macs
from paretune.profile import Row

DSP_INPUT = 48  # operand bits of a multiplication that one DSP block takes
NARROW = ((1, 16384), (2, 8192), (4, 4096), (9, 2048), (18, 1024))  # (bits per word, words) of an 18-kbit block RAM
WIDEST = (36, 512)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What an engine and the memory of its weights take of an FPGA; `brams` are block RAMs of 18 kbit."""

    luts: int
    dsps: int
    brams: int


NOTHING = Resources(luts=0, dsps=0, brams=0)


def finn_work(row: Row, hardware: Hardware) -> Work:
    """The work of one row: ⌈filters / elements⌉ ⌈inner / lanes⌉ cycles per input vector and group.

    Of a depthwise convolution the elements share out the channels. `passes` are the folds of one vector, the cycles
    without `positions`. Filling the pipeline is left out, as in FINN's estimate. The traffic is our reading of how the
    engine works. Weights stay on chip and one word of elements × lanes is read in every cycle, idle lanes included, so
    a weight is read once per input vector. The elements share one word of inputs, read anew for every fold over the
    filters (in a depthwise convolution each has its own); where each filter may keep other weights ("n:m",
    unstructured) all inputs go past, kept or not. Sums stay in the elements, so an output moves once.
    """
    if not runs(row):
        return NO_WORK
    folding = fold(row, hardware)
    pe, simd, cycles = folding.pe, folding.simd, folding.cycles
    shape = shape_of(row, hardware, pe)
    macs = shape.outer * shape.width * shape.inner * shape.positions
    together = row.pattern == "partition" or (row.block > 0 and row.block % pe == 0)
    inner = shape.inner if together else row.inner
    words = shape.outer * -(-shape.width // pe) * -(-inner // simd) * shape.positions
    return Work(
        cycles=cycles,
        macs=macs,
        passes=shape.folds(pe, simd),
        utilisation=kept_macs(row) / (cycles * pe * simd) if cycles else 0.0,
        weights_read=cycles * pe * simd,
        inputs_read=words * simd * (pe if depthwise(row) else 1),
        outputs_moved=row.positions * row.channels,
    )


def network_cycles(works: Iterable[Work], hardware: Hardware) -> int:
    """Cycles per sample: those of all layers on a shared engine, one after the other.

    With `target_cycles`, where every layer has an engine of its own and all of them work at once, those of the slowest:
    the initiation interval, after which the next sample can start, not the time that one sample takes.
    """
    cycles = (work.cycles for work in works)
    return sum(cycles) if hardware.target_cycles is None else max(cycles, default=0)


def resources_of(row: Row, hardware: Hardware) -> Resources:
    """What the engine of one row takes, and the memory of its weights; nothing for a row that does not multiply.

    LUTs are FINN's 300 + 1.1 × elements × (lanes × multiplier + adder tree + accumulator). DSP blocks, instead of
    multipliers of LUTs, are elements × lanes × ⌈(weight bits + activation bits) / 48⌉; `uses_dsps` says when. Ternary
    weights on hardware with `ternary_adds` take neither. Block RAMs follow `brams`. Left out, as FINN does unless told
    otherwise: thresholds and weights in LUTs. Left out besides: what steers the skipping of zeros and their positions,
    FIFOs, input generators, pooling, UltraRAM. A depthwise layer is taken like any other (FINN counts its DSP blocks
    once per element). The second operand of a product of activations is counted as if it were weights.
    """
    if not runs(row):
        return NOTHING
    folding = fold(row, hardware)
    pe, simd = folding.pe, folding.simd
    bits = row.weight_bits + row.activation_bits
    return Resources(
        luts=300 + 11 * pe * (simd * lane_luts(row, hardware) + end_luts(row, hardware)) // 10,
        dsps=pe * simd * -(-bits // DSP_INPUT) if uses_dsps(row) else 0,
        brams=brams(pe * simd * row.weight_bits, shape_of(row, hardware, pe).folds(pe, simd)),
    )


def network_resources(rows: Iterable[Row], hardware: Hardware) -> Resources:
    """What the whole network takes.

    A shared engine must carry every layer: the most LUTs and the most DSP blocks that any of them asks for, but the
    memories of all, each its own, since all weights stay on chip. With `target_cycles` the sum over the engines.
    """
    each = [resources_of(row, hardware) for row in rows]
    luts, dsps = [one.luts for one in each], [one.dsps for one in each]
    memory = sum(one.brams for one in each)
    if hardware.target_cycles is None:
        return Resources(luts=max(luts, default=0), dsps=max(dsps, default=0), brams=memory)
    return Resources(luts=sum(luts), dsps=sum(dsps), brams=memory)


def brams(width: int, depth: int) -> int:
    """18-kbit block RAMs of a weight memory of `depth` words of `width` bits: FINN's choice of their shape.

    Words of up to 18 bits take the narrowest RAM they fit into; wider ones 36 bits × 512 words, or 18 × 1024 if the
    memory is deeper than 512. A shallow memory is counted too, though a synthesis tool may build it of LUTs.
    """
    bits, words = next((ram for ram in NARROW if width <= ram[0]), NARROW[-1] if depth > WIDEST[1] else WIDEST)
    return -(-depth // words) * -(-width // bits)


def floats(rows: Iterable[Row]) -> tuple[str, ...]:
    """The rows that multiply with a float operand, the levels of a codebook among them: counted as if it were an
    integer of 32 bits (or of a code's bits), which the engine, made for integers, cannot really run.
    """
    return tuple(row.name for row in rows if runs(row) and in_float(row))
