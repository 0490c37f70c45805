"""The facts about trained numbers: against definitions, and against the coders that they stand for."""

import heapq
import zlib
from dataclasses import replace
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_layers import a_layer, any_layer

from paretune.compress.coded import (
    codes_of,
    deflate_bits,
    entropy_of,
    frequencies,
    gaps_of,
    huffman_lengths,
    row_of,
    symbol_bytes,
    with_codes,
)
from paretune.costs.storage import stored_bytes
from paretune.frozen import Frozen, FrozenLayer
from paretune.plan import DENSE, GroupPlan, LayerPlan, Plan

COUNTS = st.lists(st.integers(1, 10**6), min_size=1, max_size=256)


def test_the_facts_of_a_small_weight() -> None:
    codes = np.array([[0, 0, 3, 0], [-1, 3, 0, 0]], np.int8)
    facts = codes_of(replace(a_layer((2, 4), 3, 1.0), codes=codes))
    assert (facts.nonzeros, facts.distinct) == (3, 3)
    assert facts.entropy_bits == pytest.approx(5 * log2(8 / 5) + 1 * 3 + 2 * 2, abs=1.1)
    assert (facts.gap_bits, facts.entries) == (2, 3)  # with one bit: 4 entries of 4 bits, the two zeros take a filler


@given(any_layer())
def test_the_facts_count_what_is_there(layer: FrozenLayer) -> None:
    facts = codes_of(layer)
    whole = layer.codes.view(np.uint32) if layer.weight_bits == 32 else layer.codes
    assert facts.nonzeros == np.count_nonzero(whole)
    assert facts.distinct == len(set(whole.ravel().tolist()))
    assert facts.nonzeros <= facts.entries
    if layer.weight_bits == 32:
        assert (facts.entropy_bits, facts.huffman_bits) == (0, 0)
    else:
        bound = entropy_of(np.unique(whole, return_counts=True)[1])
        assert bound - 1e-6 <= facts.entropy_bits <= bound + 0.02 * whole.size + 13


@given(COUNTS)
def test_frequencies_add_up_and_leave_none_out(counts: list[int]) -> None:
    found = frequencies(np.array(counts))
    assert found.sum() == 4096
    assert found.min() >= 1


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6))
def test_no_single_exchange_makes_the_frequencies_much_better(counts: list[int]) -> None:
    known, found = np.array(counts), frequencies(np.array(counts))
    cost = -(known * np.log2(found)).sum()
    for one in range(len(counts)):
        for two in range(len(counts)):
            moved = found.copy()
            moved[one], moved[two] = moved[one] + 1, moved[two] - 1
            assert one == two or moved.min() < 1 or -(known * np.log2(moved)).sum() >= cost - 0.01


def test_entropy_of_fair_and_certain_symbols() -> None:
    assert entropy_of(np.array([5, 5, 5, 5])) == pytest.approx(20 * 2)
    assert entropy_of(np.array([7])) == 0


@given(COUNTS)
def test_huffman_codes_are_complete_and_as_short_as_can_be(counts: list[int]) -> None:
    lengths = huffman_lengths([0, *counts])
    assert lengths[0] == 0
    assert sum(2.0**-length for length in lengths[1:]) == (1 if len(counts) > 1 else 0.5)
    heap, merged = sorted(counts), 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        heapq.heappush(heap, both)
        merged += both
    told = sum(count * length for count, length in zip(counts, lengths[1:], strict=True))
    assert told == (merged if len(counts) > 1 else counts[0])


@given(st.integers(1, 100_000), st.integers(1, 256), st.sampled_from([0.05, 1, 50]), st.integers(0, 2**32))
def test_deflate_is_foreseen_almost_to_the_byte(count: int, symbols: int, spread: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = random.choice(symbols, count, p=random.dirichlet(np.full(symbols, spread))).astype(np.uint8)
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    found = len(coder.compress(data.tobytes()) + coder.flush())
    assert abs(deflate_bits(data) / 8 - found) <= 16 + found / 100


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_bytes_to_be_coded(bits: int) -> None:
    codes = np.array([-1, 0, 1, 1, -1], np.int8)
    expected = (
        [0 | 1 << 2 | 2 << 4 | 2 << 6, 0] if bits <= 2 else [code + 2 ** (bits - 1) - 1 for code in codes.tolist()]
    )
    assert symbol_bytes(codes, bits).tolist() == expected


@given(st.sets(st.integers(0, 10**6), max_size=30), st.sampled_from([2, 8, 32]))
def test_gaps_are_the_best_of_sixteen(places: set[int], number_bits: int) -> None:
    ascending = sorted(places)
    zeros = [place - before - 1 for before, place in zip([-1, *ascending], ascending, strict=False)]
    entries = {bits: len(zeros) + sum(zero // 2**bits for zero in zeros) for bits in range(1, 17)}
    best = min(entries[bits] * (bits + number_bits) for bits in entries)
    found, count = gaps_of(np.array(ascending, np.intp), number_bits)
    assert (entries[found], count * (found + number_bits)) == (count, best)


def frozen(**layers: FrozenLayer) -> Frozen:
    return Frozen(layers=layers, rest={})


def test_a_plan_learns_the_facts_of_its_layers_and_of_those_it_could_not_foresee() -> None:
    named, plain, holed = a_layer((4, 6), 3, 0.5), a_layer((4, 6), 32, 1.0), a_layer((40, 6), 32, 0.5)
    plan = Plan(groups=(GroupPlan(group="g", kept=(0,)),), layers=(LayerPlan(layer="named", weight_bits=3),))
    found = with_codes(plan, frozen(named=named, plain=plain, holed=holed))
    assert [row.layer for row in found.layers] == ["named", "holed"]
    assert found.bits["named"] == replace(plan.bits["named"], codes=codes_of(named))
    assert found.bits["holed"] == LayerPlan(layer="holed", codes=codes_of(holed), added=True)
    assert found.asked == plan
    assert replace(found, layers=()) == replace(plan, layers=())
    assert with_codes(found, frozen(named=named, plain=plain, holed=holed)) == found


def test_a_dense_model_with_zeros_has_codes_and_is_still_what_was_asked_for() -> None:
    found = with_codes(DENSE, frozen(a=a_layer((40, 6), 32, 0.5), b=a_layer((4, 6), 32, 1.0)))
    assert [row.layer for row in found.layers] == ["a"]
    assert found.asked == DENSE
    assert found.asked.key == DENSE.key


def test_a_row_has_all_that_the_file_needs() -> None:
    layer = a_layer((8, 24), 4, 0.5, kind="2:4", grid="codebook", activation_bits=8, exponent=True)
    row = row_of("a", layer)
    assert (row.weights, row.kept, row.pattern, row.scales) == (192, 96, "2:4", 8)
    assert row.floats == 2 * 7 + 8 + 2  # levels, bias, step and power
    assert stored_bytes(row) < 192 * 4 // 8
