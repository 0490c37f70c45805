"""PE blocks: every column of processing elements, a run of filters, keeps the same count of blocks.

Yang, He, Fan 2020, https://doi.org/10.1609/aaai.v34i04.6138; the mapping is ours.
"""

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from paretune.compress.bits import Counts, Mask, Scores, Shape, other_pattern
from paretune.compress.counts import best, half_up, share_left
from paretune.errors import ParetuneError, pick
from paretune.recipe import Wanted

# Input channels of one block, from `block` (filters of a column) and the number of inputs.
LAYOUTS: Mapping[str, Callable[[int, int], int]] = {
    "channel_group": lambda block, inputs: block,
    "filter": lambda block, inputs: inputs,
}


def pe_kept(wanted: Wanted, shape: Shape, minimum: int) -> int:
    """How many weights stay: the asked share of blocks, more where fewer than `minimum` weights would be left."""
    return _loads_for(wanted, shape, minimum)[1]


def pe_mask(wanted: Wanted, scores: Scores, minimum: int) -> Mask:
    """True in the blocks with the highest sum of scores, equally many in every PE column; of equal ones the first."""
    shape = scores.shape
    channels = scores.reshape(*shape[:2], -1).sum(axis=2, dtype=np.float64)
    blocks = np.add.reduceat(channels, np.arange(0, shape[1], pe_width(wanted, shape)), axis=1)
    kept = np.zeros(blocks.shape, dtype=bool)
    for (filters, across, *_), load in zip(_columns(wanted, shape), _loads_for(wanted, shape, minimum)[0], strict=True):
        kept[filters, across] = best(blocks[filters, across], load)
    return pe_decode(wanted, kept.ravel(), shape)


def pe_bits(wanted: Wanted, shape: Shape) -> int:
    """Bits of the index: one per block."""
    return shape[0] * -(-shape[1] // pe_width(wanted, shape))


def pe_encode(wanted: Wanted, mask: Mask) -> Mask:
    """One bit per block, filter by filter.

    Raises:
        ImpossiblePlan: PE columns that keep different counts of blocks.
    """
    shape = mask.shape
    kept = mask.reshape(*shape[:2], -1)[:, :: pe_width(wanted, shape), 0]
    loads = np.array([kept[filters, across].sum() for filters, across, *_ in _columns(wanted, shape)])
    if not (_loads(wanted, shape, np.arange(full_column(wanted, shape) + 1)) == loads).all(axis=-1).any():
        raise other_pattern(wanted, mask)
    return kept.ravel()


def pe_decode(wanted: Wanted, bits: Mask, shape: Shape) -> Mask:
    """The mask with these blocks, True where a weight stays."""
    kept = np.repeat(bits.reshape(shape[0], -1), pe_width(wanted, shape), axis=1)[:, : shape[1]]
    return np.broadcast_to(kept.reshape(shape[0], shape[1], *[1] * (len(shape) - 2)), shape).copy()


def pe_width(wanted: Wanted, shape: Shape) -> int:
    """Input channels of one block."""
    if wanted.block < 1:
        raise ParetuneError(f"a pe_block of {wanted.block} is asked for; block is 1 or more")
    return pick(LAYOUTS, wanted.layout, "layout of pe_block")(wanted.block, shape[1])


def _columns(wanted: Wanted, shape: Shape) -> list[tuple[slice, slice, int, int]]:
    """(filters, blocks of each, how many blocks that is, weights of one) for every PE column.

    The short last blocks of its filters are counted as a column of their own, so that the number of weights that stay
    does not depend on which blocks do.
    """
    width, taps = pe_width(wanted, shape), prod(shape[2:])
    whole, rest = divmod(shape[1], width)
    found = []
    for first in range(0, shape[0], wanted.block):
        filters = slice(first, min(first + wanted.block, shape[0]))
        high = filters.stop - first
        if whole:
            found.append((filters, slice(0, whole), high * whole, width * taps))
        if rest:
            found.append((filters, slice(whole, whole + 1), high, rest * taps))
    return found


def full_column(wanted: Wanted, shape: Shape) -> int:
    """Blocks in a full column."""
    return wanted.block * max(1, shape[1] // pe_width(wanted, shape))


def _loads(wanted: Wanted, shape: Shape, of_full: Counts) -> Counts:
    """(..., columns) blocks that stay if `of_full` (...) stay in a full column: the same share, rounded half up."""
    full, blocks = full_column(wanted, shape), np.array([count for _, _, count, _ in _columns(wanted, shape)])
    loads: Counts = (2 * blocks * of_full[..., None] + full) // (2 * full)
    return loads


def _loads_for(wanted: Wanted, shape: Shape, minimum: int) -> tuple[list[int], int]:
    """Blocks that stay in every column, and the weights in them all; more in each where too few would stay."""
    sizes = np.array([size for *_, size in _columns(wanted, shape)])
    of_full = half_up(full_column(wanted, shape) * share_left(wanted))
    while (loads := _loads(wanted, shape, np.array(of_full))) @ sizes < min(minimum, prod(shape)):
        of_full += 1
    return loads.tolist(), int(loads @ sizes)
