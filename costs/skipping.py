"""Which masked weights a piece of hardware leaves out, and the matrix product that is left for it to run."""

from paretune.costs.hardware import Hardware
from paretune.costs.storage import has_positions
from paretune.plan import FLOAT
from paretune.profile import Row


def streamed(row: Row, hardware: Hardware, lanes: int) -> tuple[int, int, int, int]:
    """(groups, positions, inner, filters) of the matrix products that are run: those of the row, less what is skipped.

    A partition into K parts becomes K products of inner / K and filters / K. Any other mask that is skipped shortens
    the inner dimension to ⌈inner × kept / weights⌉: every lane (`lanes` filters run at a time: columns of an array,
    processing elements) then gets the inputs it wants, equally many. For "n:m" all filters do have equally many. For
    PE blocks every run of `row.block` filters has, but within a run one filter may have more than another, so the
    blocks are taken to be dealt out evenly over the lanes. For `skips: all` it is ideal zero skipping, which no real
    array reaches. What is kept is what the mask leaves, whatever training makes zero besides: known before training.
    """
    if not skipped(row, hardware, lanes):
        return whole(row)
    if row.pattern == "partition":
        return row.groups * row.parts, row.positions, row.inner // row.parts, row.filters // row.parts
    return row.groups, row.positions, -(-row.inner * row.kept // row.weights), row.filters


def whole(row: Row) -> tuple[int, int, int, int]:
    """(groups, positions, inner, filters) of the row with every masked weight in its place."""
    return row.groups, row.positions, row.inner, row.filters


def skipped(row: Row, hardware: Hardware, lanes: int) -> bool:
    """True if the row's masked weights cost the hardware no time: "blocks" skips partitions, "n:m" and those PE blocks
    whose run of filters is a multiple of `lanes`; "all" any mask; "none" none.
    """
    if not row.weights or not row.pattern or hardware.skips == "none":
        return False
    if hardware.skips == "all" or row.pattern == "partition" or has_positions(row.pattern):
        return True
    return row.pattern == "pe_block" and row.block > 0 and row.block % lanes == 0


def in_float(row: Row) -> bool:
    """True if the row multiplies floats: one side is not quantized, or its codes stand for the levels of a codebook."""
    return max(row.weight_bits, row.activation_bits) >= FLOAT or row.quantizer == "codebook"


def kept_macs(row: Row) -> int:
    """MACs of one sample without those of masked weights, whether hardware skips them or not."""
    return row.macs * row.kept // row.weights if row.weights else row.macs
