"""Fronts against brute force, hypervolumes against closed forms and inclusion-exclusion."""

import math
import time
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paretune.pareto import Array, hypervolume, knee, nondominated, normalise


def clouds(objectives: st.SearchStrategy[int], most: int) -> st.SearchStrategy[Array]:
    """Up to `most` points on a coarse grid, so that ties and duplicates are common."""
    shapes = st.tuples(st.integers(0, most), objectives)
    return shapes.flatmap(lambda shape: arrays(float, shape, elements=st.integers(0, 4).map(float)))


def beats(a: Array, b: Array) -> bool:
    return bool((a <= b).all() and (a < b).any())


def inclusion_exclusion(points: Array, reference: Array) -> float:
    """|∪ boxes| = Σ over non-empty subsets of (-1)^(size + 1) × volume of the intersection."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for rows in combinations(points, size):
            corner = np.max(rows, axis=0)
            total += (-1) ** (size + 1) * float(np.prod(np.clip(reference - corner, 0, None)))
    return total


@given(clouds(st.integers(1, 4), 12))
def test_the_front_is_what_brute_force_finds(points: Array) -> None:
    expected = [not any(beats(other, point) for other in points) for point in points]
    assert nondominated(points).tolist() == expected


def test_equal_rows_are_all_kept() -> None:
    assert nondominated(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])).tolist() == [True, True, False]


def test_rows_with_nan_neither_stay_nor_dominate() -> None:
    points = np.array([[np.nan, 0.0], [1.0, 1.0], [0.0, np.nan]])
    assert nondominated(points).tolist() == [False, True, False]


def test_no_points_have_an_empty_front_and_no_volume() -> None:
    assert nondominated(np.empty((0, 2))).tolist() == []
    assert hypervolume(np.empty((0, 2)), np.array([1.0, 1.0])) == 0


def test_one_box_is_a_product() -> None:
    assert hypervolume(np.array([[0.25]]), np.array([1.0])) == 0.75
    assert hypervolume(np.array([[1.0, 2.0]]), np.array([4.0, 7.0])) == 3 * 5
    assert hypervolume(np.array([[1.0, 2.0, 3.0]]), np.array([4.0, 7.0, 5.0])) == 3 * 5 * 2


def test_a_staircase_in_two_dimensions() -> None:
    """Below the corner (n + 1, n + 1), point (i, n - i) owns a column one wide and i + 1 high."""
    n = 6
    steps = np.array([[i, n - i] for i in range(n + 1)], dtype=float)
    assert hypervolume(steps, np.array([n + 1.0, n + 1.0])) == (n + 1) * (n + 2) / 2


def test_three_corners_in_three_dimensions() -> None:
    """Three slabs of a cube of side 2, each 4; every pair shares 2, all three share 1."""
    corners = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert hypervolume(corners, np.array([2.0, 2.0, 2.0])) == 3 * 4 - 3 * 2 + 1


def test_a_point_on_or_beyond_the_reference_adds_nothing() -> None:
    reference = np.array([2.0, 2.0])
    assert hypervolume(np.array([[2.0, 0.0], [0.0, 3.0], [np.nan, 0.0]]), reference) == 0
    assert hypervolume(np.array([[1.0, 1.0], [2.0, 0.0]]), reference) == 1


@given(clouds(st.integers(1, 4), 5))
def test_the_volume_is_what_inclusion_exclusion_counts(points: Array) -> None:
    reference = np.arange(3.0, 3.0 + points.shape[1])
    assert hypervolume(points, reference) == pytest.approx(inclusion_exclusion(points, reference), abs=1e-9)


@given(clouds(st.integers(1, 3), 12))
def test_a_constant_objective_only_scales_the_volume(points: Array) -> None:
    """Three objectives at most are swept, more are sliced: both count the same."""
    reference = np.arange(4.0, 4.0 + points.shape[1])
    more = 4 - points.shape[1]
    padded = np.hstack([points, np.full((len(points), more), -0.5)])
    expected = hypervolume(points, reference) * 2.0**more
    assert hypervolume(padded, np.append(reference, [1.5] * more)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("objectives", [2, 3])
def test_where_zero_lies_does_not_matter(objectives: int) -> None:
    points = np.random.default_rng(objectives).normal(size=(40, objectives))
    moved = hypervolume(points - 5, np.full(objectives, -4.5))
    assert moved == pytest.approx(hypervolume(points, np.full(objectives, 0.5)))
    assert moved > 0


def test_a_thousand_points_take_a_blink() -> None:
    sphere = np.abs(np.random.default_rng(0).normal(size=(1000, 3)))
    points = 1 - sphere / np.linalg.norm(sphere, axis=1, keepdims=True)
    assert nondominated(points).all()
    start = time.process_time()
    # The boxes fill an eighth of the unit ball, but for the corners between a thousand steps.
    assert 0.5 < hypervolume(points, np.ones(3)) < math.pi / 6
    assert time.process_time() - start < 0.5


@given(clouds(st.integers(2, 3), 8), st.randoms(use_true_random=False))
def test_neither_the_order_of_points_nor_of_objectives_matters(points: Array, chance) -> None:  # type: ignore[no-untyped-def]
    reference = np.arange(4.0, 4.0 + points.shape[1])
    rows, columns = list(range(len(points))), list(range(points.shape[1]))
    chance.shuffle(rows)
    chance.shuffle(columns)
    mixed = hypervolume(points[rows][:, columns], reference[columns])
    assert mixed == pytest.approx(hypervolume(points, reference), abs=1e-9)


@given(clouds(st.integers(2, 3), 8))
def test_more_points_never_dominate_less(points: Array) -> None:
    reference = np.full(points.shape[1], 4.0)
    volumes = [hypervolume(points[:count], reference) for count in range(len(points) + 1)]
    assert all(before <= after + 1e-9 for before, after in pairwise(volumes))


@given(clouds(st.integers(2, 3), 8))
def test_dominated_points_change_no_volume(points: Array) -> None:
    reference = np.full(points.shape[1], 5.0)
    assert hypervolume(points, reference) == pytest.approx(hypervolume(points[nondominated(points)], reference))


def test_normalising_measures_from_the_best_in_upper_quartiles() -> None:
    points = np.array([[3.0, 5.0], [4.0, 5.0], [5.0, 5.0], [6.0, 5.0], [100.0, 5.0]])
    assert normalise(points).tolist() == [[0, 0], [1 / 3, 0], [2 / 3, 0], [1, 0], [97 / 3, 0]]


def test_one_extreme_point_does_not_move_the_knee() -> None:
    bent = np.array([[0.0, 9.0], [1.0, 3.0], [2.0, 2.5], [8.0, 2.0], [9.0, 1.9]])
    assert knee(bent) == knee(np.vstack([bent, [500.0, 1.8]])) == 2


def test_the_knee_is_the_bend_whatever_the_units() -> None:
    bent = np.array([[0.0, 10.0], [1.0, 2.0], [4.0, 1.0], [10.0, 0.0]])  # sums after / 10: 1, 0.3, 0.5, 1
    assert knee(bent) == 1
    assert knee(bent * [1e-6, 1e9] + [5, -3]) == 1


def test_a_straight_front_has_its_knee_at_the_first_row() -> None:
    assert knee(np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])) == 0
    assert knee(np.array([[7.0, 7.0]])) == 0


def test_a_cost_named_twice_weighs_no_more() -> None:
    bent = np.array([[0.0, 9.0], [1.0, 3.0], [2.0, 2.5], [8.0, 2.0], [9.0, 1.9]])
    assert knee(np.column_stack([bent, bent[:, 1], bent[:, 1]])) == knee(bent)
