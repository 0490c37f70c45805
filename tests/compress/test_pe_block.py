"""PE blocks: every column keeps the same count of whole blocks, and those with the highest sum."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from pattern_cases import PE, SHAPES, drawn

from paretune.compress.patterns import index_bytes_of, kept_weights, mask_for, pattern_of
from paretune.compress.pe_block import LAYOUTS
from paretune.errors import ImpossiblePlan, ParetuneError
from paretune.recipe import LAYOUTS as NAMED
from paretune.recipe import Wanted


def test_the_layouts_are_those_that_a_recipe_can_name() -> None:
    assert set(LAYOUTS) == set(NAMED)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wanted", PE, ids=lambda w: f"{w.sparsity}-{w.block}-{w.layout}")
def test_every_full_pe_column_keeps_the_same_count_of_whole_blocks(wanted: Wanted, shape: tuple[int, ...]) -> None:
    mask = mask_for(wanted, drawn(shape)).reshape(*shape[:2], -1)
    width = shape[1] if wanted.layout == "filter" else wanted.block
    counts = set()
    for first in range(0, shape[0], wanted.block):
        whole = 0
        for start in range(0, shape[1], width):
            block = mask[first : first + wanted.block, start : start + width]
            kept = block.all(axis=(1, 2))
            np.testing.assert_array_equal(block.any(axis=(1, 2)), kept)
            whole += int(kept.sum()) if start + width <= shape[1] else 0
        if first + wanted.block <= shape[0]:
            counts.add(whole)
    assert len(counts) <= 1


@pytest.mark.parametrize(
    ("shape", "wanted", "stay"),
    [
        # a column of 16 keeps 12, the last 4 filters keep 3
        ((20, 2), Wanted(kind="pe_block", sparsity=0.25, layout="filter"), 15 * 2),
        # 0.7 × 16 = 11.2 filters stay
        ((16, 5), Wanted(kind="pe_block", sparsity=0.3, layout="filter"), 11 * 5),
        # one column of 4 filters × 2 whole blocks keeps 4 of 8, and 2 of the 4 short blocks of 2 channels
        ((4, 10, 1, 1), Wanted(kind="pe_block", sparsity=0.5, block=4), 4 * 4 + 2 * 2),
        ((4, 3, 2, 2), Wanted(kind="pe_block", sparsity=0.5, block=4), 2 * 3 * 4),  # no whole block
        # 2.4 of 4 blocks stay
        ((4, 4), Wanted(kind="pe_block", sparsity=0.4, block=4), 2 * 4),
        # 2 of 4 filters and half of the last one, rounded up
        ((5, 2), Wanted(kind="pe_block", sparsity=0.5, block=4, layout="filter"), 3 * 2),
    ],
)
def test_pe_counts_by_hand(shape: tuple[int, ...], wanted: Wanted, stay: int) -> None:
    assert kept_weights(wanted, shape) == mask_for(wanted, drawn(shape)).sum() == stay


def test_the_blocks_with_the_highest_sum_stay_in_every_column() -> None:
    scores = np.array([[1.0, 1, 9, 0], [2, 2, 0, 0], [1, 0, 3, 0], [0, 0, 1, 1]])
    mask = mask_for(Wanted(kind="pe_block", sparsity=0.5, block=2), scores)
    np.testing.assert_array_equal(mask, [[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    mask = mask_for(Wanted(kind="pe_block", sparsity=0.5, block=2, layout="filter"), scores)
    np.testing.assert_array_equal(mask.all(axis=1), [True, False, True, False])


def test_a_bitmap_over_blocks_is_stored() -> None:
    wanted = Wanted(kind="pe_block", sparsity=0.5, block=2)
    assert index_bytes_of(wanted, (4, 5, 3, 3)) == ceil(4 * 3 / 8)
    assert index_bytes_of(replace(wanted, layout="filter"), (9, 5, 3, 3)) == 2


def test_pe_blocks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ParetuneError, match="a pe_block of 0 is asked for; block is 1 or more"):
        kept_weights(Wanted(kind="pe_block", block=0), (4, 4))
    with pytest.raises(ParetuneError, match=r"no layout of pe_block is called 'filters'\. Did you mean 'filter'"):
        kept_weights(Wanted(kind="pe_block", layout="filters"), (4, 4))


def test_uneven_pe_columns_are_refused() -> None:
    mask = np.zeros((8, 4), dtype=bool)
    mask[:4] = True
    with pytest.raises(ImpossiblePlan, match="has not the pattern 'pe_block'"):
        pattern_of(Wanted(kind="pe_block", block=4, layout="filter"), mask)
