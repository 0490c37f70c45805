"""Patterns of zeros: the count is exact, the best weights stay, and the stored form gives the mask back."""

import base64
from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import floor, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pattern_cases import KINDS, PE, SHAPES, drawn, of

from paretune.compress.patterns import (
    PATTERNS,
    global_masks,
    index_bytes_of,
    index_of,
    kept_weights,
    mask_for,
    mask_of,
    parse_kind,
    pattern_of,
)
from paretune.errors import ImpossiblePlan, ParetuneError
from paretune.recipe import Wanted

CASES = list(product(KINDS, SHAPES))
NAMES = [f"{w.kind}-{w.sparsity}-{w.block}-{w.layout}-{'x'.join(map(str, shape))}" for w, shape in CASES]
every_case = pytest.mark.parametrize(("wanted", "shape"), CASES, ids=NAMES)


def half_up(number: Fraction) -> int:
    return floor(number + Fraction(1, 2))


# The contract of every kind


def test_the_contract_covers_the_whole_table() -> None:
    tested = {parse_kind(wanted.kind)[0] for wanted in KINDS} | {"channel", "partition"}
    assert tested == set(PATTERNS)


@every_case
def test_exactly_the_asked_count_stays(wanted: Wanted, shape: tuple[int, ...]) -> None:
    mask = mask_for(wanted, drawn(shape))
    assert mask.shape == shape
    assert mask.dtype == bool
    assert 1 <= mask.sum() == kept_weights(wanted, shape)


@every_case
def test_the_stored_form_gives_the_mask_back(wanted: Wanted, shape: tuple[int, ...]) -> None:
    mask = mask_for(wanted, drawn(shape))
    pattern = pattern_of(wanted, mask)
    np.testing.assert_array_equal(mask_of(pattern, shape), mask)
    assert pattern.nonzeros == mask.sum()
    assert len(index_of(pattern)) == pattern.index_bytes == index_bytes_of(wanted, shape)


@every_case
def test_permuted_filters_permute_what_stays(wanted: Wanted, shape: tuple[int, ...]) -> None:
    """Filters of one PE column, for pe_block."""
    scores = drawn(shape)
    high = min(wanted.block, shape[0]) if wanted.kind == "pe_block" else shape[0]
    order = np.arange(shape[0])
    order[:high] = np.random.default_rng(1).permutation(high)
    np.testing.assert_array_equal(mask_for(wanted, scores[order]), mask_for(wanted, scores)[order])


@every_case
def test_of_equal_scores_the_same_stay_every_time_and_scale_does_not_matter(
    wanted: Wanted, shape: tuple[int, ...]
) -> None:
    scores = np.random.default_rng(2).integers(0, 3, shape).astype(np.float32)
    mask = mask_for(wanted, scores)
    np.testing.assert_array_equal(mask_for(wanted, scores * 4), mask)
    np.testing.assert_array_equal(mask_for(wanted, scores.astype(np.float64)), mask)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wanted", [Wanted(), *(w for w in KINDS if w.kind in ("unstructured", "pe_block", "4:4"))])
def test_ratio_zero_is_the_identity(wanted: Wanted, shape: tuple[int, ...]) -> None:
    assert mask_for(replace(wanted, sparsity=0.0), drawn(shape)).all()


def test_channel_has_no_mask() -> None:
    assert kept_weights(Wanted(), (3, 4)) == 12
    assert mask_for(Wanted(), drawn((3, 4))).all()
    assert index_bytes_of(Wanted(), (3, 4)) == 0
    with pytest.raises(ImpossiblePlan, match="'channel' has no mask to store"):
        pattern_of(Wanted(), np.ones((3, 4), dtype=bool))


# Unstructured


@given(st.integers(1, 500), st.integers(0, 999), st.integers(1, 9))
def test_unstructured_rounds_half_up_without_binary_noise(weights: int, thousandths: int, minimum: int) -> None:
    expected = half_up(weights * (1 - Fraction(thousandths, 1000)))
    kept = kept_weights(of(thousandths / 1000), (weights, 1), minimum)
    assert kept == max(expected, min(minimum, weights))
    assert kept == mask_for(of(thousandths / 1000), drawn((weights, 1)), minimum).sum()


@pytest.mark.parametrize(("weights", "sparsity", "stay"), [(5, 0.5, 3), (10, 0.9, 1), (45, 0.7, 14), (5, 0.1 * 3, 4)])
def test_counts_by_hand(weights: int, sparsity: float, stay: int) -> None:
    assert kept_weights(of(sparsity), (weights, 1)) == stay


def test_unstructured_keeps_the_highest_and_of_equals_the_first() -> None:
    scores = np.array([[1.0, 5, 1], [5, 1, 5]])
    np.testing.assert_array_equal(mask_for(of(0.5), scores), scores == 5)
    np.testing.assert_array_equal(mask_for(of(4 / 6), scores), [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(mask_for(of(1 / 3), scores), [[1, 1, 0], [1, 0, 1]])


def test_unstructured_is_one_bit_per_weight_from_the_lowest_bit_on() -> None:
    mask = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1]], dtype=bool)
    assert index_of(pattern_of(of(0.5), mask)) == bytes([0b00001101, 0b1])


# Minimum, and scores that are none


@pytest.mark.parametrize("minimum", [1, 7, 30, 1000])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wanted", [of(0.999), *(replace(wanted, sparsity=0.999) for wanted in PE[2:6])])
def test_at_least_the_minimum_stays(wanted: Wanted, shape: tuple[int, ...], minimum: int) -> None:
    mask = mask_for(wanted, drawn(shape), minimum)
    assert kept_weights(wanted, shape, minimum) == mask.sum() >= min(minimum, prod(shape))
    np.testing.assert_array_equal(mask_of(pattern_of(wanted, mask), shape), mask)


@pytest.mark.parametrize("wanted", [Wanted(kind="1:4"), Wanted(kind="partition", parts=4)])
def test_a_minimum_above_a_fixed_count_is_impossible(wanted: Wanted) -> None:
    assert kept_weights(wanted, (4, 8), minimum=8) == 8
    with pytest.raises(ImpossiblePlan, match=r"leaves 8 weights of shape \(4, 8\), but 9 must stay"):
        kept_weights(wanted, (4, 8), minimum=9)


@pytest.mark.parametrize("wanted", [of(0.5), Wanted(kind="2:4"), Wanted(kind="pe_block", sparsity=0.5)])
def test_scores_that_are_not_numbers_are_a_failed_trial(wanted: Wanted) -> None:
    scores = np.array([[1.0, np.nan], [2, 3]])
    with pytest.raises(ImpossiblePlan, match="1 of 4 scores are not numbers"):
        mask_for(wanted, scores)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_a_sparsity_outside_its_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ParetuneError, match=r"of a 'unstructured' pattern is not within \[0, 1\)"):
        kept_weights(of(sparsity), (4, 4))


# One threshold over all layers


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 99)), min_size=1, max_size=5), st.integers(0, 5))
def test_the_global_count_is_exact_and_no_layer_is_emptied(layers: list[tuple[int, int]], minimum: int) -> None:
    wanted = {str(i): of(percent / 100) for i, (_, percent) in enumerate(layers)}
    scores = {str(i): drawn((size, 1), i) * 10.0**i for i, (size, _) in enumerate(layers)}
    masks = global_masks(wanted, scores, minimum)
    asked = half_up(sum((size * (1 - Fraction(percent, 100)) for size, percent in layers), Fraction(0)))
    assert sum(mask.sum() for mask in masks.values()) == max(asked, sum(min(minimum, size) for size, _ in layers))
    assert all(masks[str(i)].sum() >= min(minimum, size) for i, (size, _) in enumerate(layers))


def test_one_threshold_holds_for_all_layers() -> None:
    scores = {"one": np.array([[1.0, 8], [2, 7]]), "two": np.array([[6.0, 3, 5, 4]])}
    masks = global_masks({"one": of(0.5), "two": of(0.25)}, scores)
    for layer, mask in masks.items():
        np.testing.assert_array_equal(mask, scores[layer] >= 4)


def test_the_best_of_a_poor_layer_stay() -> None:
    scores = {"rich": np.array([[10.0, 11], [12, 13]]), "poor": np.array([[1.0, 3, 2, 0]])}
    masks = global_masks(dict.fromkeys(scores, of(0.5)), scores, minimum=1)
    np.testing.assert_array_equal(masks["rich"], [[0, 1], [1, 1]])
    np.testing.assert_array_equal(masks["poor"], [[0, 1, 0, 0]])


def test_of_equal_scores_the_first_layer_keeps_more() -> None:
    masks = global_masks(dict.fromkeys("ab", of(0.5)), dict.fromkeys("ab", np.ones((2, 2))), minimum=0)
    assert masks["a"].all()
    assert not masks["b"].any()


def test_alone_a_layer_gets_the_mask_it_would_get_by_itself() -> None:
    scores = drawn((5, 7))
    np.testing.assert_array_equal(global_masks({"a": of(0.6)}, {"a": scores})["a"], mask_for(of(0.6), scores))
    assert global_masks({}, {}) == {}


def test_other_kinds_have_no_global_threshold() -> None:
    with pytest.raises(ImpossiblePlan, match="layer 'b' asks for '2:4', but one threshold over all layers"):
        global_masks({"a": of(0.5), "b": Wanted(kind="2:4")}, dict.fromkeys("ab", drawn((4, 4))))


# Masks of another pattern, and damaged ones


@pytest.mark.parametrize(
    "wanted",
    [*(Wanted(kind=kind, block=4) for kind in ("2:4", "3:4", "partition", "pe_block")), PE[-1]],
)
def test_a_mask_of_another_pattern_is_refused(wanted: Wanted) -> None:
    with pytest.raises(ImpossiblePlan, match="mask of shape"):
        pattern_of(wanted, mask_for(of(0.5), drawn((8, 8))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stored": "?"}, "is not base64"),
        ({"stored": base64.b64encode(b"ab").decode()}, "has 2 bytes, not 8"),
        ({"nonzeros": 31}, "leaves 32 weights, not 31"),
        ({"stored": base64.b64encode(bytes(8)).decode()}, "leaves 16 weights, not 32"),  # positions twice
        ({"kind": "1:4"}, "index of shape .* has 4 bytes, not 8"),
    ],
)
def test_a_damaged_pattern_is_refused(change: dict[str, str | int], message: str) -> None:
    pattern = pattern_of(Wanted(kind="2:4"), mask_for(Wanted(kind="2:4"), drawn((8, 8))))
    with pytest.raises(ImpossiblePlan, match=message):
        mask_of(replace(pattern, **change), (8, 8))  # type: ignore[arg-type]


def test_a_pattern_says_what_it_takes_to_read_it() -> None:
    whole = np.ones((8, 8), dtype=bool)
    made = [pattern_of(wanted, whole) for wanted in (Wanted(kind="pe_block", block=4, layout="filter"), of(0.5))]
    assert [(item.block, item.layout, item.parts) for item in made] == [(4, "filter", 0), (0, "", 0)]
