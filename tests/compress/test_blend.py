"""Blends: the identity, normalisation, clusters, and what is no blend."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.compress.blend import (
    NORMALISERS,
    cluster,
    min_max,
    rank,
    rank_correlations,
    unit_scores,
    weight_scores,
)
from paretune.compress.criteria import Array, Scores
from paretune.errors import ImpossiblePlan, UnknownName
from paretune.recipe import NORMALISE, Blend

MANY = 40
NOISE = np.random.default_rng(0)
BASE, OTHER, FREE = NOISE.random(MANY), NOISE.random(MANY), NOISE.random(MANY)


def scores_of(**criteria: Array) -> Scores:
    """One group "g" and one layer "y", each criterion with one row; and a small group "s" of the first five units."""
    units = {name: {"g": np.atleast_2d(row), "s": np.atleast_2d(row)[:, :5]} for name, row in criteria.items()}
    weights = {name: {"y": np.atleast_2d(row).astype(np.float32)} for name, row in criteria.items()}
    return Scores(units=units, weights=weights)


# a and c rank alike, b ranks as its own; d is the opposite of a
SCORES = scores_of(a=BASE, b=OTHER, c=BASE**3, d=-BASE)


def blend(*criteria: str, weights: tuple[float, ...] = (1.0,), **more: object) -> Blend:
    return Blend(criteria=criteria, weights=weights, **more)  # type: ignore[arg-type]


def test_the_table_is_the_one_recipes_name() -> None:
    assert tuple(NORMALISERS) == NORMALISE


@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_one_criterion_is_the_identity(normalise: str, weight: float) -> None:
    alone = blend("a", weights=(weight,), normalise=normalise)
    np.testing.assert_array_equal(unit_scores(SCORES, alone, "g", "mean"), BASE)
    np.testing.assert_array_equal(weight_scores(SCORES, alone, "y"), SCORES.weights["a"]["y"])


def test_members_are_reduced_before_they_are_blended() -> None:
    scores = scores_of(a=np.array([[1.0, 5.0, 3.0], [3.0, 0.0, 3.0]]), b=np.array([3.0, 2.0, 1.0]))
    assert unit_scores(scores, blend("a"), "g", "max").tolist() == [3, 5, 3]
    both = blend("a", "b", weights=(1.0, 10.0))
    ranks = np.array([1.5, 3, 1.5]) / 3  # of the maxima
    np.testing.assert_allclose(unit_scores(scores, both, "g", "max"), ranks + 10 * np.array([3, 2, 1]) / 3)


@pytest.mark.parametrize("normalise", NORMALISE)
def test_a_weight_of_zero_drops_a_criterion(normalise: str) -> None:
    two = blend("a", "b", weights=(0.7, 0.2), normalise=normalise)
    three = blend("a", "b", "d", weights=(0.7, 0.2, 0.0), normalise=normalise)
    np.testing.assert_array_equal(unit_scores(SCORES, two, "g", "mean"), unit_scores(SCORES, three, "g", "mean"))
    np.testing.assert_array_equal(weight_scores(SCORES, two, "y"), weight_scores(SCORES, three, "y"))


def test_a_blend_is_the_weighted_sum_of_normalised_scores() -> None:
    scores = scores_of(a=np.array([0.0, 5.0, 10.0, 10.0]), b=np.array([4.0, 3.0, 2.0, 1.0]))
    by_rank = 2 * np.array([1, 2, 3.5, 3.5]) / 4 + 3 * np.array([4, 3, 2, 1]) / 4
    by_range = 2 * np.array([0, 0.5, 1, 1]) + 3 * np.array([1, 2 / 3, 1 / 3, 0])
    for normalise, expected in (("rank", by_rank), ("min_max", by_range)):
        both = blend("a", "b", weights=(2.0, 3.0), normalise=normalise)
        np.testing.assert_allclose(unit_scores(scores, both, "g", "mean"), expected)
        np.testing.assert_allclose(weight_scores(scores, both, "y"), [expected], rtol=1e-6)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30))
def test_ranks_do_not_change_under_an_increasing_map(values: list[int]) -> None:
    scores = np.array(values, dtype=float)
    np.testing.assert_array_equal(rank(scores), rank(np.exp(scores / 10)))
    np.testing.assert_array_equal(rank(scores), rank(scores**3 + 7))
    assert rank(scores).sum() == pytest.approx((len(values) + 1) / 2)
    assert ((rank(scores) > 0) & (rank(scores) <= 1)).all()


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30), st.integers(1, 9), st.integers(-9, 9))
def test_min_max_fills_its_range_and_does_not_change_under_a_linear_map(values: list[int], by: int, plus: int) -> None:
    scores = min_max(np.array(values, dtype=float))
    np.testing.assert_allclose(scores, min_max(np.array(values, dtype=float) * by + plus), atol=1e-12)
    ends = (scores.min(), scores.max())
    assert ends == ((0, 1) if len(set(values)) > 1 else (0.5, 0.5))


def test_rank_correlations() -> None:
    flat = scores_of(a=np.array([1.0, 2.0, 3.0, 4.0]), b=np.array([10.0, 10.0, 20.0, 5.0]), c=np.ones(4))
    found = rank_correlations(flat, ["a", "b", "c"], "g", "mean")
    # ranks (1 2 3 4) and (2.5 2.5 4 1): deviations multiplied -1.5, squared 5 and 4.5
    expected = -1.5 / (5 * 4.5) ** 0.5
    np.testing.assert_allclose(found, [[1, expected, 0], [expected, 1, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(rank_correlations(SCORES, ["a", "c", "d"], "g", "mean")[0], [1, 1, -1])


def clustered(scores: Scores, names: tuple[str, ...], count: int) -> list[tuple[str, ...]]:
    """The names in the clusters of the group "g"."""
    return [tuple(names[place] for place in places)
            for places in cluster(rank_correlations(scores, names, "g", "mean"), count)]  # fmt: skip


@pytest.mark.parametrize("order", [("a", "b", "c", "d"), ("b", "c", "d", "a"), ("d", "c", "b", "a")])
def test_clusters_put_criteria_together_that_rank_alike(order: tuple[str, ...]) -> None:
    found = clustered(SCORES, order, 3)
    assert {frozenset(names) for names in found} == {frozenset("ac"), frozenset("b"), frozenset("d")}
    assert [order.index(names[0]) for names in found] == sorted(order.index(names[0]) for names in found)


@pytest.mark.parametrize(("count", "sizes"), [(1, [4]), (2, [3, 1]), (3, [2, 1, 1]), (4, [1] * 4), (9, [1] * 4)])
def test_there_are_exactly_as_many_clusters_as_asked_or_as_criteria(count: int, sizes: list[int]) -> None:
    correlations = np.array([[1, 1, 0.5, -1], [1, 1, 0.5, -1], [0.5, 0.5, 1, -0.2], [-1, -1, -0.2, 1]])
    assert [len(found) for found in cluster(correlations, count)] == sizes
    assert cluster(np.ones((4, 4)), count) == cluster(np.ones((4, 4)), count)
    assert len(cluster(np.ones((4, 4)), count)) == min(count, 4)
    assert cluster(np.ones((1, 1)), count) == ((0,),)


def test_average_linkage() -> None:
    """0 and 1 join first; 2 is nearer to 3 (0.5) than to them on average (0.6), though 0.4 from one of them."""
    distances = np.array([[0, 0.1, 0.4, 1.2], [0.1, 0, 0.8, 1.2], [0.4, 0.8, 0, 0.5], [1.2, 1.2, 0.5, 0]])
    assert cluster(1 - distances, 2) == ((0, 1), (2, 3))


def test_picks_count_modulo_the_size_of_their_cluster() -> None:
    asked = {"clusters": 3, "weights": (1.0, 10.0, 100.0)}
    scores = scores_of(a=BASE, b=OTHER, c=BASE**3, d=FREE, e=-OTHER)
    order = ("a", "b", "c", "d", "e")
    found = clustered(scores, order, 3)
    assert len(found) == 3
    for picks in ((0, 0, 0), (1, 5, 2), (7, 1, 4)):
        chosen = [names[turn % len(names)] for names, turn in zip(found, picks, strict=True)]
        plain = blend(*chosen, weights=(1.0, 10.0, 100.0))
        mixed = blend(*order, picks=picks, **asked)
        np.testing.assert_array_equal(unit_scores(scores, mixed, "g", "mean"), unit_scores(scores, plain, "g", "mean"))


def test_a_pick_changes_what_is_blended() -> None:
    def scored(turn: int) -> Array:
        pair = blend("a", "b", clusters=1, weights=(1.0,), picks=(turn,))
        return unit_scores(SCORES, pair, "g", "mean")

    np.testing.assert_array_equal(scored(0), rank(BASE))
    np.testing.assert_array_equal(scored(1), rank(OTHER))
    np.testing.assert_array_equal(scored(2), scored(0))


def test_small_groups_are_clustered_by_the_whole_net() -> None:
    """In "s" a and b rank alike and c does not, in the large "g" a and c do: eight times as many units decide.

    The second pick of the first cluster, ranked alone: c of (a, c), or b of (a, b).
    """
    few, many = np.arange(5.0), BASE
    units = {
        "a": {"s": few[None], "g": many[None]},
        "b": {"s": few[None], "g": OTHER[None]},
        "c": {"s": -few[None], "g": many[None]},
    }

    def second(units: dict[str, dict[str, Array]]) -> list[float]:
        asked = blend("a", "b", "c", clusters=2, weights=(1.0, 0.0), picks=(1, 0))
        return [float(score) for score in unit_scores(Scores(units=units), asked, "s", "mean")]

    by_b, by_c = (rank(row).tolist() for row in (few, -few))
    assert second(units) == by_c
    assert second({name: {"s": by_group["s"]} for name, by_group in units.items()}) == by_b
    large = {name: {"s": by_group["s"].repeat(4, axis=1), "g": by_group["g"]} for name, by_group in units.items()}
    assert second(large) == rank(few.repeat(4)).tolist()  # 20 units decide for themselves


def test_weights_are_clustered_by_their_layer_and_a_large_one_by_a_sample() -> None:
    chance = np.random.default_rng(1)
    base, other = chance.random((100, 60)), chance.random((100, 60))
    small = {"a": np.arange(4.0), "b": np.arange(4.0), "c": -np.arange(4.0)}
    large = {"a": base, "b": other, "c": base**2}
    weights = {n: {"y": large[n].astype(np.float32), "z": small[n].astype(np.float32)} for n in "abc"}
    asked = blend("a", "b", "c", clusters=2, weights=(1.0, 0.5), picks=(1, 0))
    for layer, source in (("y", large), ("z", small)):  # the small one by the whole net
        found = weight_scores(Scores(units={}, weights=weights), asked, layer)
        assert found.shape == source["a"].shape
        a, b = (rank(source[name].astype(np.float32)) for name in "cb")
        np.testing.assert_allclose(found, a + 0.5 * b)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (blend("a", weights=(0.0,)), r"needs at least one weight above 0, got \(0\.0,\)"),
        (blend("a", "b", weights=(0.0, 0.0)), "needs at least one weight above 0"),
        (blend("a", "b", weights=(1.0, -0.1)), r"must be finite and not negative, got \(1\.0, -0\.1\)"),
        (blend("a", "b", weights=(1.0, float("nan"))), "must be finite and not negative"),
        (blend("a", "b", weights=(1.0, float("inf"))), "must be finite and not negative"),
        (blend("a", "b", weights=(1.0,)), "a blend of 2 criteria needs as many weights, got 1"),
        (
            blend("a", "b", clusters=2, picks=(0, 0), weights=(1.0,)),
            "a blend of 2 clusters needs as many weights, got 1",
        ),
        (blend("a", "b", clusters=1, weights=(1.0,)), "a blend of 1 clusters needs as many picks, got 0"),
        (blend("a", clusters=2, picks=(0, 0), weights=(0.0, 1.0)), "needs at least one weight above 0"),
        (blend(), "a blend needs at least one criterion"),
    ],
)
def test_what_is_no_blend_fails_the_plan(wrong: Blend, message: str) -> None:
    with pytest.raises(ImpossiblePlan, match=message):
        unit_scores(SCORES, wrong, "g", "mean")
    with pytest.raises(ImpossiblePlan, match=message):
        weight_scores(SCORES, wrong, "y")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownName, match=r"no scored criterion is called 'e'\. .*Known: a, b, c, d"):
        unit_scores(SCORES, blend("e"), "g", "mean")
    with pytest.raises(UnknownName, match="no scored group is called 'h'"):
        unit_scores(SCORES, blend("a"), "h", "mean")
    with pytest.raises(UnknownName, match="no criterion with scores per weight is called 'e'"):
        weight_scores(SCORES, blend("e"), "y")
    with pytest.raises(UnknownName, match=r"no normalisation is called 'z'.*Known: rank, min_max"):
        unit_scores(SCORES, blend("a", "b", weights=(1.0, 1.0), normalise="z"), "g", "mean")
