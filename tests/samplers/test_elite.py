"""Selection: the same set of points gives the same answer in any order, and the answer is the definition's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.ranking import crowding, ranks
from paretune.samplers.elite import Elite

POINT = st.tuples(*[st.integers(0, 5)] * 3, st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0]))
POINTS = st.lists(POINT, min_size=1, max_size=40)


def elite_of(points, order, cuts=()):
    """The points taken in in some order, in batches."""
    elite = Elite()
    for batch in np.split(np.array(order), sorted(cuts)):
        values = np.array([points[number][:3] for number in batch], dtype=float).reshape(-1, 3)
        elite.add(batch.tolist(), values, [points[number][3] for number in batch])
    return elite


def by_hand(points, size):
    """Constrained domination as it is defined, all at once."""
    feasible = [number for number, point in enumerate(points) if point[3] == 0]
    values = np.array([points[number][:3] for number in feasible], dtype=float).reshape(-1, 3)
    fronts, found = ranks(values), []
    for rank in range(fronts.max(initial=-1) + 1):
        rows = np.flatnonzero(fronts == rank)
        distance = crowding(values[rows])
        found += [(rank, -distance[place], feasible[row]) for place, row in enumerate(rows)]
    broken = sorted({point[3] for point in points} - {0.0})
    first = fronts.max(initial=-1) + 1
    found += [(first + broken.index(point[3]), -np.inf, number) for number, point in enumerate(points) if point[3] > 0]
    return [(rank, number) for rank, _, number in sorted(found)[:size]]


@settings(max_examples=150, deadline=None)
@given(POINTS, st.randoms(use_true_random=False), st.integers(1, 12), st.sets(st.integers(1, 39), max_size=5))
def test_selection_is_that_of_the_definition_in_any_order_of_arrival(points, random, size, cuts):
    order = list(range(len(points)))
    random.shuffle(order)
    best = elite_of(points, order, [cut for cut in cuts if cut < len(points)]).select(size)
    assert list(zip(best.ranks.tolist(), best.numbers.tolist(), strict=True)) == by_hand(points, size)
    assert best.values.tolist() == [list(points[number][:3]) for number in best.numbers]


def test_a_point_once_left_out_comes_back_when_its_rivals_are_pushed_down():
    """Inserting only demotes, and yet a cut made before would have been wrong."""
    elite = Elite()
    elite.add([0, 1, 2, 3, 4], np.array([[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [9.0, 0.0], [10.0, 0.5]]), [0.0] * 5)
    assert set(elite.select(4).numbers.tolist()) == {0, 1, 2, 3}
    elite.add([5], np.array([[0.5, 1.5]]), [0.0])  # beats 0, 1 and 2
    assert set(elite.select(4).numbers.tolist()) == {5, 3, 0, 4}
    assert elite.select(6).ranks.tolist() == [0, 0, 1, 1, 1, 1]


def test_an_infeasible_point_is_no_parent_while_there_are_enough_feasible_ones():
    elite = Elite()
    elite.add([0, 1, 2], np.array([[0.0, 0.0], [9.0, 9.0], [8.0, 10.0]]), [0.1, 0.0, 0.0])
    assert set(elite.select(2).numbers.tolist()) == {1, 2}
    assert elite.select(3).numbers.tolist()[-1] == 0


def test_the_ends_of_the_front_are_never_cut():
    values = np.array([[float(x), 10.0 - x] for x in (0, 1, 2, 3, 4, 5, 6, 10)])
    elite = Elite()
    elite.add(list(range(8)), values, [0.0] * 8)
    assert set(elite.select(3).numbers.tolist()) == {0, 7, 6}


def test_nothing_told_selects_nothing():
    assert len(Elite().select(4).numbers) == 0


@pytest.mark.parametrize("size", [1, 5])
def test_a_constant_objective_leaves_the_others_to_decide(size):
    values = np.array([[0.5, float(x)] for x in range(5)])
    elite = Elite()
    elite.add(list(range(5)), values, [0.0] * 5)
    assert elite.select(size).numbers.tolist() == list(range(size))
