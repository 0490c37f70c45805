"""Every encoding gives back every bit, and is as large as its formula says."""

from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stored_layers import KINDS, a_layer, any_layer

from paretune.compress.coded import row_of
from paretune.costs import storage
from paretune.errors import ImpossiblePlan, ParetuneError, UnknownName
from paretune.export.encodings import ENCODINGS, encoded, packed, storage_row
from paretune.export.reader import DECODERS, decode
from paretune.frozen import FrozenLayer

EXACT = [name for name in ENCODINGS if name not in ("huffman", "entropy")]


def fits(name: str, layer: FrozenLayer) -> bool:
    return storage.ENCODINGS[name].fits(row_of("a", layer))


def back(name: str, layer: FrozenLayer) -> Any:
    return decode(ENCODINGS[name].encode(layer), storage_row(layer, name))


def unchanged(name: str, layer: FrozenLayer) -> bool:
    found = back(name, layer)
    same: bool = found.tobytes() == layer.codes.tobytes()
    return same and (found.dtype, found.shape) == (layer.codes.dtype, layer.codes.shape)


def test_all_tables_have_the_same_encodings() -> None:
    assert list(ENCODINGS) == list(storage.ENCODINGS)
    assert set(ENCODINGS) == set(DECODERS)


@settings(max_examples=120)
@given(any_layer())
def test_every_encoding_gives_back_every_bit(layer: FrozenLayer) -> None:
    tried = [name for name in ENCODINGS if fits(name, layer)]
    assert {"dense", "bitmap", "csr", "relative"} <= set(tried)
    assert [name for name in tried if not unchanged(name, layer)] == []


@settings(max_examples=120)
@given(any_layer())
def test_every_encoding_is_as_large_as_its_formula(layer: FrozenLayer) -> None:
    told = storage.sizes(row_of("a", layer))
    found = {name: len(ENCODINGS[name].encode(layer)) for name in told}
    assert {name: told[name] for name in EXACT if name in told} == {n: size for n, size in found.items() if n in EXACT}
    assert all(abs(told[name] - size) <= 16 + size / 100 for name, size in found.items())


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 32])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.2, 0.9, 1.0])
def test_large_weights_come_back_and_are_as_large_as_predicted(bits: int, density: float) -> None:
    """Several deflate blocks, gaps that need fillers, more than a byte of columns; numbers that are not uniform."""
    layer = a_layer((64, 70, 3, 3), bits, density, seed=bits, peaked=True)
    for name in ENCODINGS:
        if fits(name, layer):
            assert unchanged(name, layer), name
            told, found = storage.sizes(row_of("a", layer))[name], len(ENCODINGS[name].encode(layer))
            assert abs(told - found) <= (0 if name in EXACT else 16 + found / 100), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [1, 2, 5, 32])
@pytest.mark.parametrize("zeros", [False, True], ids=["as masked", "more zeros"])
def test_a_pattern_is_held_by_the_encoding_made_for_it(kind: str, bits: int, zeros: bool) -> None:
    layer = a_layer((8, 24), bits, 0.5 if zeros else 1.0, kind=kind)
    assert layer.pattern is not None
    name = "n:m" if ":" in kind else "structured"
    assert fits(name, layer) == (layer.pattern.kind != "unstructured")
    if fits(name, layer):
        assert unchanged(name, layer)
        each = {(1, False): 1, (1, True): 2}.get((bits, zeros), bits)
        kept = ceil(layer.pattern.nonzeros * each / 8)
        assert len(ENCODINGS[name].encode(layer)) == layer.pattern.index_bytes + kept


def test_the_cheapest_is_chosen_and_of_equals_the_first() -> None:
    for layer, best in {
        "full": (a_layer((20, 20), 8, 1.0), "dense"),
        "ternary": (a_layer((20, 20), 2, 0.9), "ternary"),
        "sparse": (a_layer((40, 50), 8, 0.005), "relative"),
        "float": (a_layer((20, 20), 32, 0.5), "bitmap"),
        "few floats": (a_layer((20, 20), 32, 1.0, distinct=4), "codebook"),
        "1:4": (a_layer((16, 16), 8, 1.0, kind="1:4"), "n:m"),
        "2:4": (a_layer((16, 16), 8, 1.0, kind="2:4"), "bitmap"),  # two positions of 2 bits are as long as four bits
        "blocks": (a_layer((16, 16), 8, 1.0, kind="pe_block, filter"), "structured"),
        "skewed": (a_layer((100, 100), 5, 0.9, peaked=True), "entropy"),
        "one": (a_layer((1, 1), 8, 1.0), "dense"),
    }.values():
        found, payload = encoded("a", layer)
        sizes = {name: len(ENCODINGS[name].encode(layer)) for name in ENCODINGS if fits(name, layer)}
        assert found["encoding"] == best == min(sizes, key=sizes.__getitem__), sizes
        assert len(payload) == sizes[best]


@given(any_layer())
def test_the_cheapest_is_the_smallest_of_all(layer: FrozenLayer) -> None:
    sizes = {name: len(ENCODINGS[name].encode(layer)) for name in ENCODINGS if fits(name, layer)}
    row, payload = encoded("a", layer)
    assert len(payload) == min(sizes.values())
    assert row["encoding"] == min(sizes, key=sizes.__getitem__)


@given(any_layer(), st.sampled_from(list(ENCODINGS)))
def test_a_fixed_encoding_is_used_or_refused(layer: FrozenLayer, name: str) -> None:
    asked = replace(layer, encoding=name)
    if fits(name, layer):
        assert encoded("a", asked)[0]["encoding"] == name
    else:
        with pytest.raises(
            ImpossiblePlan, match=f"layer 'a' cannot be stored as '{name}'; what fits it: cheapest, dense"
        ):
            encoded("a", asked)


def test_an_encoding_that_does_not_fit_names_what_would() -> None:
    many = replace(a_layer((20, 20), 32, 1.0), encoding="codebook")
    with pytest.raises(ImpossiblePlan, match=r"as 'codebook'; what fits it: cheapest, dense, bitmap, csr, relative$"):
        encoded("a", many)
    with pytest.raises(UnknownName, match=r"no encoding is called 'hufman'\. Did you mean 'huffman'"):
        encoded("a", replace(many, encoding="hufman"))


def test_the_bytes_of_small_weights() -> None:
    codes = np.array([[0, 0, 0, 0, 1], [0, -1, 0, 0, 0]], np.int8)
    layer = replace(a_layer((2, 5), 2, 1.0), codes=codes)
    expected = {
        "dense": [0b01010101, 0b01000110, 0b0101],  # code + 1 in two bits, the first lowest
        "ternary": [1 + 3 + 9 + 27 + 2 * 81, 1 + 0 + 9 + 27 + 81],
        "bitmap": [0b01010000, 0b00, 0b01],  # the fifth and the seventh; the signs + and -
        "csr": [0 | 1 << 2 | 2 << 4, 4 | 1 << 3, 0b01],  # pointers 0, 1, 2; columns 4 and 1 in three bits; the signs
        "relative": [3, 4 | 2 << 3 | 1 << 5, 0],  # gaps in three bits: 4 zeros and 1 (as 2), then 1 zero and -1 (as 0)
        "codebook": [2, 255, 0, 1, 0b01010101, 0b01000110, 0b0101],  # three numbers: -1, 0 and 1; indices
    }
    assert {name: list(ENCODINGS[name].encode(layer)) for name in expected} == expected


def test_floats_that_are_zero_in_value_only_keep_their_bits() -> None:
    layer = a_layer((2, 3), 32, 1.0)
    odd = np.array([[-0.0, np.nan, np.inf], [0.0, 1e-45, -np.inf]], np.float32)
    for name in ("dense", "bitmap", "csr", "relative", "codebook"):
        assert unchanged(name, replace(layer, codes=odd)), name


def test_what_a_layer_cannot_hold_is_refused() -> None:
    wide = replace(a_layer((2, 2), 2, 1.0), codes=np.array([[2, 0], [0, 0]], np.int8))
    with pytest.raises(ParetuneError, match="layer 'a' holds codes beyond ±1, which do not fit 2 bits"):
        encoded("a", wide)
    masked = a_layer((8, 16), 4, 1.0, kind="half")
    with pytest.raises(ParetuneError, match="layer 'a' holds 64 weights where its pattern 'unstructured' has zeros"):
        encoded("a", replace(masked, codes=np.ones((8, 16), np.int8)))


@given(st.integers(1, 64), st.integers(0, 20), st.integers(0, 2**32))
def test_packed_numbers_are_the_bits_of_one_large_number(width: int, count: int, seed: int) -> None:
    assume(width < 64)
    numbers = np.random.default_rng(seed).integers(0, 1 << width, count)
    whole = sum(int(number) << width * at for at, number in enumerate(numbers))
    assert packed(numbers, width) == whole.to_bytes(ceil(width * count / 8), "little")
