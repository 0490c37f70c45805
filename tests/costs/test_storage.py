"""Sizes of the encodings against closed forms, and what may be promised before training."""

from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_layers import any_layer

from paretune.compress.coded import row_of
from paretune.costs.storage import ENCODINGS, sizes, stored_as, stored_bytes
from paretune.errors import ImpossiblePlan, UnknownName
from paretune.frozen import FrozenLayer
from paretune.plan import Codes
from paretune.profile import Row


def row(bits: int = 4, *, nonzeros: int = 500, kept: int = 1000, **told: object) -> Row:
    """A (20, 50) weight."""
    plain = Row(
        name="a", kind="linear", weight_shape=(20, 50), channels=20, macs=1000, params=1000, weights=1000,
        weight_bits=bits, activation_bits=32, scales=20, floats=0, nonzeros=nonzeros, kept=kept,
    )  # fmt: skip
    return replace(plain, **told)


CODES = Codes(nonzeros=500, distinct=15, entropy_bits=3200, huffman_bits=3700, gap_bits=2, entries=520)


def untrained(layer: FrozenLayer) -> Row:
    """What the plan alone tells of a layer."""
    known = row_of("a", layer)
    return replace(known, codes=None, nonzeros=known.kept)


def test_every_size_in_closed_form() -> None:
    assert sizes(row(codes=CODES)) == {
        "dense": 500,
        "bitmap": 125 + 250,
        "csr": ceil(21 * 9 / 8) + ceil(500 * 6 / 8) + 250,  # pointers up to 500, columns below 50
        "relative": 1 + 520 * (2 + 4) // 8,
        "codebook": 1 + 15 + 500,
        "huffman": ceil(3700 / 8),
        "entropy": 2 + ceil(15 * 12 / 8) + 3200 // 8 + 4,
    }
    assert sizes(row(2, codes=CODES._replace(distinct=3))) == {
        "dense": 250, "ternary": 200, "bitmap": 125 + 63, "csr": 24 + 375 + 63, "relative": 1 + 260,
        "codebook": 1 + 3 + 250, "huffman": 463, "entropy": 1 + 5 + 404,
    }  # fmt: skip
    assert sizes(row(32, codes=CODES)) == {
        "dense": 4000, "bitmap": 125 + 2000, "csr": 24 + 375 + 2000, "relative": 1 + 520 * 34 // 8,
        "codebook": 1 + 60 + 500,
    }  # fmt: skip
    held = row(nonzeros=400, pattern="2:4", kept=500, index_bytes=125)
    assert sizes(held)["n:m"] == 125 + 250
    assert sizes(replace(held, pattern="pe_block"))["structured"] == 125 + 250


def test_one_bit_weights_take_two_where_there_are_zeros() -> None:
    assert sizes(row(1, nonzeros=1000)) == {"dense": 125, "ternary": 200, "bitmap": 250, "csr": 27 + 750 + 125}
    assert sizes(row(1, nonzeros=999))["dense"] == 250
    held = row(1, pattern="2:4", nonzeros=500, kept=500, index_bytes=125)
    assert sizes(held)["n:m"] == 125 + 63
    assert sizes(replace(held, nonzeros=499))["n:m"] == 125 + 125


def test_sizes_that_training_decides_are_not_known_before() -> None:
    trained = {name for name, formula in ENCODINGS.items() if formula.trained}
    assert trained == {"relative", "codebook", "huffman", "entropy"}
    assert not trained & set(sizes(row()))
    assert trained <= set(sizes(row(codes=CODES)))


def test_of_equal_sizes_the_first_is_taken() -> None:
    full = row(2, nonzeros=375, codes=CODES._replace(nonzeros=375, distinct=3, entries=999))
    known = sizes(full)
    assert known["bitmap"] == 125 + 47 < known["ternary"]
    assert stored_as(full) == "bitmap"
    twins = replace(full, codes=CODES._replace(nonzeros=600, distinct=3, entries=999, huffman_bits=1600))
    assert (sizes(twins)["ternary"], sizes(twins)["bitmap"], sizes(twins)["huffman"]) == (200, 200, 200)
    assert stored_as(twins) == "ternary"


def test_a_row_without_weights_takes_nothing() -> None:
    assert stored_bytes(row(32, weights=0, nonzeros=0, kept=0)) == 0


def test_an_asked_encoding_is_taken_or_refused() -> None:
    assert stored_as(row(encoding="csr")) == "csr"
    assert stored_bytes(row(encoding="csr")) == sizes(row())["csr"] > stored_bytes(row())
    with pytest.raises(
        ImpossiblePlan, match="layer 'a' cannot be stored as 'ternary'; what fits it: cheapest, dense, b"
    ):
        stored_bytes(row(encoding="ternary"))
    with pytest.raises(ImpossiblePlan, match="as 'n:m'"):
        stored_bytes(row(encoding="n:m", pattern="pe_block", index_bytes=1))
    with pytest.raises(UnknownName, match="no encoding is called 'zip'"):
        stored_bytes(row(encoding="zip"))


@settings(max_examples=150)
@given(any_layer())
def test_training_never_makes_a_weight_larger_than_the_plan_told(layer: FrozenLayer) -> None:
    known, told = row_of("a", layer), untrained(layer)
    if layer.weight_bits > 1 or known.nonzeros == known.kept:  # at 1 bit a zero that no mask makes is not foreseen
        assert stored_bytes(known) <= stored_bytes(told)


@settings(max_examples=150)
@given(any_layer(), st.sampled_from(list(ENCODINGS)))
def test_nor_in_an_asked_encoding(layer: FrozenLayer, name: str) -> None:
    known, told = (replace(row, encoding=name) for row in (row_of("a", layer), untrained(layer)))
    if ENCODINGS[name].fits(known) and (layer.weight_bits > 1 or known.nonzeros == known.kept):
        assert stored_bytes(known) <= stored_bytes(told)
