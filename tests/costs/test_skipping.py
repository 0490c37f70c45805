"""Which masked weights are skipped, and the product that is left."""

from dataclasses import replace
from math import prod

import pytest
from hand_made_rows import ARRAY, linear

from paretune.costs.hardware import SKIPS
from paretune.costs.skipping import kept_macs, skipped, streamed

BLOCKS = replace(ARRAY, skips="blocks")
PRODUCT = replace(linear(5, 8, 6), kind="product", weights=0, kept=0)

MASKED = {
    "none": linear(5, 8, 6),
    "unstructured": linear(5, 8, 6, kept=13, pattern="unstructured"),
    "2:4": linear(5, 8, 6, kept=24, pattern="2:4"),
    "pe_block": linear(5, 8, 6, kept=12, pattern="pe_block", block=4),
    "pe_block of another width": linear(5, 8, 6, kept=12, pattern="pe_block", block=3),
    "partition": linear(5, 8, 6, kept=24, pattern="partition", parts=2),
    "product": PRODUCT,
}


@pytest.mark.parametrize(
    ("pattern", "skips", "left"),
    [
        ("2:4", "blocks", (1, 5, 4, 6)),  # 8 · 24/48
        ("pe_block", "blocks", (1, 5, 2, 6)),  # 8 · 12/48
        ("partition", "blocks", (2, 5, 4, 3)),  # two products of half the inputs and half the filters
        ("unstructured", "blocks", (1, 5, 8, 6)),
        ("pe_block of another width", "blocks", (1, 5, 8, 6)),
        ("unstructured", "all", (1, 5, 3, 6)),  # ⌈8 · 13/48⌉ = ⌈2.17⌉
        ("pe_block of another width", "all", (1, 5, 2, 6)),
        ("partition", "all", (2, 5, 4, 3)),
    ],
)
def test_the_product_that_is_left(pattern: str, skips: str, left: tuple[int, int, int, int]) -> None:
    assert streamed(MASKED[pattern], replace(ARRAY, skips=skips), lanes=2) == left


@pytest.mark.parametrize("pattern", MASKED)
def test_without_skipping_the_product_stays_whole(pattern: str) -> None:
    assert streamed(MASKED[pattern], replace(ARRAY, skips="none"), lanes=2) == (1, 5, 8, 6)


@pytest.mark.parametrize("skips", SKIPS)
@pytest.mark.parametrize("pattern", ["none", "product"])
def test_without_a_mask_nothing_is_skipped(pattern: str, skips: str) -> None:
    hardware = replace(ARRAY, skips=skips)
    assert streamed(MASKED[pattern], hardware, lanes=2) == (1, 5, 8, 6)
    assert kept_macs(MASKED[pattern]) == 240


def test_pe_blocks_are_skipped_only_by_lanes_that_divide_them() -> None:
    row = MASKED["pe_block"]
    assert [skipped(row, BLOCKS, lanes) for lanes in (1, 2, 3, 4, 8)] == [True, True, False, True, False]
    assert [prod(streamed(row, BLOCKS, lanes)) for lanes in (4, 8)] == [60, 240]


@pytest.mark.parametrize("skips", SKIPS)
@pytest.mark.parametrize("pattern", MASKED)
def test_the_product_that_is_left_has_room_for_every_kept_weight(pattern: str, skips: str) -> None:
    row = MASKED[pattern]
    groups, positions, inner, filters = streamed(row, replace(ARRAY, skips=skips), lanes=2)
    assert kept_macs(row) <= groups * positions * inner * filters <= row.macs


def test_conv_groups_stay_apart() -> None:
    row = replace(linear(9, 8, 6, kept=24, pattern="2:4"), groups=2)
    assert streamed(row, BLOCKS, lanes=2) == (2, 9, 4, 3)
