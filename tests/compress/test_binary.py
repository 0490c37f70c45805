"""Bisected widths: what brute force finds, within the tolerance, in few judgements."""

from collections.abc import Mapping
from itertools import product
from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.compress.binary import Judge, bisect_widths, in_reach, narrowest

DENSE = {"a": 16, "b": 9, "c": 40}
ALLOWED = {group: tuple(range(1, width + 1)) for group, width in DENSE.items()}


def separable(prices: Mapping[str, float]) -> Judge:
    """An error that every lost unit raises by its group's price."""
    return lambda counts: float(sum(prices[group] * (DENSE[group] - count) for group, count in counts.items()))


@given(st.lists(st.integers(1, 30), min_size=3, max_size=3), st.integers(0, 200))
def test_one_pass_without_a_step_cap_is_the_greedy_optimum_of_brute_force(prices: list[int], tolerance: int) -> None:
    """Front to back: of all tolerated widths the narrowest first group, then the narrowest second, and so on."""
    judge = separable(dict(zip(DENSE, map(float, prices), strict=True)))
    widths = np.array(list(product(*ALLOWED.values())))  # in the order that prefers narrow first groups
    errors = (np.array(list(DENSE.values())) - widths) @ np.array(prices)
    best = widths[int(np.argmax(errors <= tolerance))]
    found = bisect_widths(ALLOWED, judge, tolerance=float(tolerance), step=1.0, passes=1)
    assert tuple(found.counts.values()) == tuple(best)


@given(st.integers(0, 100), st.floats(0.05, 1), st.integers(0, 6), st.floats(0, 0.5))
def test_each_pass_costs_at_most_the_tolerance_even_with_a_rough_judge(
    seed: int, step: float, passes: int, tolerance: float
) -> None:
    noise = np.random.default_rng(seed).random((17, 10, 41))

    def rough(counts: Mapping[str, int]) -> float:
        return float(noise[counts["a"], counts["b"], counts["c"]])

    found = bisect_widths(ALLOWED, rough, tolerance=tolerance, step=step, passes=passes)
    assert found.before == rough(DENSE)
    assert found.after == rough(found.counts) <= found.before + found.passes * tolerance + 1e-12
    assert all(1 <= found.counts[group] <= DENSE[group] for group in DENSE)


def test_judgements_are_bounded_by_the_logarithm_and_none_is_repeated() -> None:
    asked: list[tuple[int, ...]] = []

    def judge(counts: Mapping[str, int]) -> float:
        asked.append(tuple(counts.values()))
        return separable({"a": 1.0, "b": 3.0, "c": 0.5})(counts)

    found = bisect_widths(ALLOWED, judge, tolerance=11.0, step=1.0, passes=3)
    bound = 1 + found.passes * sum(ceil(log2(width)) for width in DENSE.values())
    assert found.evaluations == len(asked) == len(set(asked)) <= bound


def test_a_pass_is_capped_by_the_step_and_the_search_ends_when_nothing_moves() -> None:
    def free(_: Mapping[str, int]) -> float:
        return 0.0

    def after(passes: int) -> int:
        return bisect_widths({"c": ALLOWED["c"]}, free, tolerance=0.0, step=0.25, passes=passes).counts["c"]

    assert [after(passes) for passes in range(4)] == [40, 30, 23, 18]
    end = bisect_widths(ALLOWED, free, tolerance=0.0, step=0.25, passes=99)
    assert end.counts == {"a": 1, "b": 1, "c": 1}
    assert end.passes < 99


def test_a_tolerance_of_zero_removes_only_what_is_free() -> None:
    found = bisect_widths(ALLOWED, separable({"a": 1, "b": 0, "c": 1}), tolerance=0.0, step=1.0, passes=5)
    assert found.counts == {"a": 16, "b": 1, "c": 40}
    assert found.passes == 2  # the second one finds nothing more to move


def test_the_first_groups_use_up_the_tolerance_of_a_pass() -> None:
    judge = separable({"a": 1, "b": 1, "c": 1})
    one = bisect_widths(ALLOWED, judge, tolerance=4.0, step=1.0, passes=1)
    two = bisect_widths(ALLOWED, judge, tolerance=4.0, step=1.0, passes=2)
    assert one.counts == {"a": 12, "b": 9, "c": 40}
    assert two.counts == {"a": 8, "b": 9, "c": 40}


@pytest.mark.parametrize(
    ("allowed", "width", "step", "reach"),
    [
        (range(1, 11), 10, 0.7, [3, 4, 5, 6, 7, 8, 9, 10]),  # exactly 3, in spite of binary fractions
        (range(1, 11), 10, 0.25, [8, 9, 10]),
        (range(1, 11), 4, 0.2, [3, 4]),  # less than one unit, yet not stuck
        ([8, 16, 24, 30], 30, 0.1, [24, 30]),
        ([8, 16, 24, 30], 8, 0.5, [8]),
    ],
)
def test_what_a_pass_may_reach(allowed: range, width: int, step: float, reach: list[int]) -> None:
    assert list(in_reach(list(allowed), width, step)) == reach


@given(st.integers(1, 300), st.data())
def test_the_narrowest_width_is_found_by_bisection(size: int, data: st.DataObject) -> None:
    wall, asked = data.draw(st.integers(1, size)), []

    def tolerated(width: int) -> bool:
        asked.append(width)
        return width >= wall

    assert narrowest(range(1, size + 1), tolerated) == wall
    assert len(asked) <= ceil(log2(size))
