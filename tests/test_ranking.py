"""Orders among points: against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.ranking import crowding, finite, order, ranks, spread

VALUE = st.one_of(st.integers(0, 4).map(float), st.sampled_from([np.inf, -np.inf]))
POINTS = st.lists(st.tuples(VALUE, VALUE, VALUE), max_size=25).map(lambda rows: np.array(rows).reshape(-1, 3))


def ranks_by_definition(points):
    """One more than the worst rank of what dominates a point."""

    def rank(row):
        rivals = [r for r in points if (r <= row).all() and (r < row).any()]
        return 1 + max((rank(rival) for rival in rivals), default=-1)

    return [rank(row) for row in points]


@given(POINTS.filter(lambda points: len(points) <= 10))
def test_ranks_are_those_of_the_definition(points):
    assert ranks(points).tolist() == ranks_by_definition(points)


def test_rows_with_nan_come_last():
    points = np.array([[np.nan, 0.0], [1.0, 1.0], [2.0, 2.0], [0.0, np.nan]])
    assert ranks(points).tolist() == [2, 0, 1, 2]
    assert order(points)[:2] == [1, 2]


def test_crowding_closed_form():
    points = np.array([[0.0, 10.0], [1.0, 6.0], [4.0, 5.0], [10.0, 0.0]])
    assert crowding(points).tolist() == pytest.approx([np.inf, 4 / 10 + 5 / 10, 9 / 10 + 6 / 10, np.inf])


def test_crowding_of_few_or_equal_points():
    assert crowding(np.empty((0, 2))).tolist() == []
    assert crowding(np.array([[3.0, 4.0]])).tolist() == [np.inf]
    assert crowding(np.array([[3.0, 4.0], [4.0, 3.0]])).tolist() == [np.inf, np.inf]
    assert crowding(np.full((3, 2), 7.0)).tolist() == [np.inf, 0.0, 0.0]


def test_a_constant_objective_does_not_crown_a_point():
    points = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    assert crowding(points).tolist() == [np.inf, 1.0, np.inf]


def test_a_twin_of_an_end_is_crowded():
    points = np.array([[0.0, 9.0], [0.0, 9.0], [5.0, 5.0], [9.0, 0.0], [9.0, 0.0]])
    assert np.isinf(crowding(points)).tolist() == [True, False, False, True, False]


def test_an_infinite_value_is_an_end_like_any_other():
    points = np.array([[0.0, 9.0], [1.0, 5.0], [np.inf, 0.0]])
    assert crowding(points)[[0, 2]].tolist() == [np.inf, np.inf]
    assert np.isfinite(crowding(points)[1])


def test_the_infinite_lies_one_range_beyond_the_finite():
    points = np.array([[2.0, 7.0], [np.inf, 7.0], [4.0, np.nan], [-np.inf, np.inf]])
    assert finite(points).tolist() == [[2.0, 7.0], [6.0, 7.0], [4.0, 8.0], [0.0, 8.0]]
    assert finite(np.array([[np.nan], [-np.inf]])).tolist() == [[1.0], [-1.0]]
    assert np.isnan(points[2, 1])


def test_spread_takes_the_furthest_first():
    line = np.array([[0.0], [1.0], [2.0], [7.0], [10.0]])
    assert spread(line) == [0, 4, 3, 2, 1]
    assert spread(line, first=2) == [2, 4, 3, 0, 1]
    assert spread(np.empty((0, 2))) == []


def test_spread_does_not_care_for_units():
    points = np.random.default_rng(0).random((20, 3))
    assert spread(points) == spread(points * [1e6, 1.0, 1e-6] + [0.0, 5.0, 0.0])


@given(POINTS)
def test_order_goes_front_by_front_and_leaves_nobody_out(points):
    found = order(points)
    assert sorted(found) == list(range(len(points)))
    assert (np.diff(ranks(points)[found]) >= 0).all()
    if len(points):
        assert points[found[0], 0] == points[ranks(points) == 0, 0].min()
