"""N:M patterns: every run keeps its best N, and positions are packed as small as they can be."""

from math import ceil

import numpy as np
import pytest
from pattern_cases import KINDS, SHAPES, drawn

from paretune.compress.patterns import index_bytes_of, index_of, mask_for, parse_kind, pattern_of
from paretune.errors import ParetuneError
from paretune.recipe import Wanted


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [wanted.kind for wanted in KINDS if ":" in wanted.kind])
def test_every_run_of_m_inputs_keeps_n_or_all_it_has(kind: str, shape: tuple[int, ...]) -> None:
    _, n, m = parse_kind(kind)
    scores = drawn(shape)
    mask = mask_for(Wanted(kind=kind), scores)
    for start in range(0, shape[1], m):
        run, kept = scores[:, start : start + m], mask[:, start : start + m]
        assert (kept.sum(axis=1) == min(n, run.shape[1])).all()
        lowest = np.where(kept, run, np.inf).min(axis=1)
        assert (np.where(kept, -np.inf, run).max(axis=1) < lowest).all()


def test_neighbours_are_input_channels_at_one_tap() -> None:
    scores = np.zeros((1, 4, 1, 2))
    scores[0, :, 0, 0] = [4, 3, 2, 1]
    scores[0, :, 0, 1] = [1, 2, 3, 4]
    mask = mask_for(Wanted(kind="2:4"), scores)
    np.testing.assert_array_equal(mask[0, :, 0, 0], [1, 1, 0, 0])
    np.testing.assert_array_equal(mask[0, :, 0, 1], [0, 0, 1, 1])


def test_of_equal_neighbours_the_first_stay_even_at_minus_infinity() -> None:
    np.testing.assert_array_equal(mask_for(Wanted(kind="1:2"), np.full((1, 5), -np.inf)), [[1, 0, 1, 0, 1]])
    assert mask_for(Wanted(kind="64:128"), np.ones((1, 128)))[0, :64].all()


@pytest.mark.parametrize(
    ("kind", "shape", "bits"),
    [
        ("2:4", (8, 16), 8 * 4 * 2 * 2),  # four runs per row, two positions of two bits
        ("1:4", (8, 16), 8 * 4 * 2),
        ("1:16", (8, 16), 8 * 4),
        ("3:4", (8, 16), 8 * 16),  # positions would take 192 bits, so the bitmap
        ("4:4", (8, 16), 0),  # nothing is lost, nothing is stored
        ("2:4", (3, 6, 3, 3), 27 * 4),  # the short run of two loses nothing
        ("1:4", (3, 6, 3, 3), 27 * 4),  # the short run of two has a position as well
        ("2:4", (3, 2), 0),
        ("3:5", (2, 5), 2 * 5),
        ("1:5", (2, 5), 2 * 3),
    ],
)
def test_the_index_of_nm_by_hand(kind: str, shape: tuple[int, ...], bits: int) -> None:
    assert index_bytes_of(Wanted(kind=kind), shape) == ceil(bits / 8)


def test_positions_are_packed_row_by_row_from_the_lowest_bit_on() -> None:
    mask = np.array([[0, 1, 0, 1], [1, 0, 1, 0]], dtype=bool)
    assert index_of(pattern_of(Wanted(kind="2:4"), mask)) == bytes([0b10_00_11_01])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("5:4", "'5:4' keeps 5 of 4 neighbours; write N:M, N from 1 to M, such as '2:4'"),
        ("0:4", "keeps 0 of 4 neighbours"),
        ("n:m", "is written in numbers, such as '2:4'"),
        (
            "unstructred",
            "no pattern is called 'unstructred'. Did you mean 'unstructured'\\? Known: channel, unstructured",
        ),
        ("2:4:8", "no pattern is called '2:4:8'"),
        ("-1:4", "no pattern is called '-1:4'"),
        ("", "no pattern is called ''"),
    ],
)
def test_a_kind_that_is_none_says_what_works(kind: str, message: str) -> None:
    assert parse_kind("2:4") == ("n:m", 2, 4)
    assert parse_kind("pe_block") == ("pe_block", 0, 0)
    with pytest.raises(ParetuneError, match=message):
        parse_kind(kind)
