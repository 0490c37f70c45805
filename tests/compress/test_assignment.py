"""Balanced assignments: one group exactly, several in turns, and what shortens the way to them."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from paretune.compress import assignment
from paretune.compress.assignment import Link, assign, climb, importance


@given(st.integers(0, 10_000), st.sampled_from([(4, 2), (6, 2), (6, 3), (5, 1), (4, 4)]))
def test_one_group_is_assigned_as_well_as_brute_force_can(seed: int, size: tuple[int, int]) -> None:
    count, parts = size
    profit = np.random.default_rng(seed).normal(size=(count, parts))
    found = assign(profit, parts)
    slots = np.repeat(np.arange(parts), count // parts)
    best = max(sum(profit[i, k] for i, k in enumerate(order)) for order in set(permutations(slots.tolist())))
    assert profit[np.arange(count), found].sum() == pytest.approx(best)
    assert np.bincount(found, minlength=parts).tolist() == [count // parts] * parts


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 12, 24])
@pytest.mark.parametrize("kind", ["even", "scaled", "whole", "zero"])
def test_prices_change_the_way_but_not_the_worth(kind: str, parts: int) -> None:
    """Against the Hungarian method alone; whole numbers tie."""
    generator = np.random.default_rng(parts)
    profit = {
        "even": generator.random((24, parts)),
        "scaled": np.exp(generator.normal(size=(24, 1)) * 2) * (generator.random((24, parts)) + np.arange(parts)),
        "whole": generator.integers(0, 3, (24, parts)).astype(float),
        "zero": np.zeros((24, parts)),
    }[kind]
    slots = np.repeat(profit, 24 // parts, axis=1)
    best = slots[linear_sum_assignment(slots, maximize=True)].sum()
    found = assign(profit, parts)
    assert profit[np.arange(24), found].sum() == pytest.approx(best, rel=1e-12)
    assert np.bincount(found, minlength=parts).tolist() == [24 // parts] * parts


def test_prices_alone_find_what_the_hungarian_method_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    profit = np.random.default_rng(0).random((60, 2)) + np.array([0.0, 5.0])
    whole = assign(profit, 2)
    monkeypatch.setattr(assignment, "PRICES", 0)
    np.testing.assert_array_equal(assign(profit, 2), whole)
    monkeypatch.undo()
    monkeypatch.setattr(assignment, "linear_sum_assignment", None)  # not called: the parts are equal at some price
    np.testing.assert_array_equal(assign(profit, 2), whole)


@given(st.integers(0, 1000), st.sampled_from([(8, 12, 2), (12, 12, 3), (16, 8, 4)]))
def test_a_climb_never_ends_below_its_start(seed: int, size: tuple[int, int, int]) -> None:
    out, into, parts = size
    generator = np.random.default_rng(seed)
    links = [
        Link(reader="b", feeder="a", importance=generator.random((out, into))),
        Link(reader="b", feeder="b", importance=generator.normal(size=(out, out))),  # around a residual
    ]
    start = {"a": generator.permutation(np.arange(into) % parts), "b": generator.permutation(np.arange(out) % parts)}
    end = climb(links, start, parts)
    assert importance(links, end) >= importance(links, start)
    for group, width in (("a", into), ("b", out)):
        assert np.bincount(end[group], minlength=parts).tolist() == [width // parts] * parts


@pytest.mark.parametrize("seed", range(5))
def test_at_the_end_of_a_climb_no_group_alone_can_gain(seed: int) -> None:
    """Also one whose neighbours stood still for some turns."""
    generator = np.random.default_rng(seed)
    links = [Link(reader=b, feeder=a, importance=generator.random((12, 12))) for a, b in ("ab", "bc", "cd")]
    end = climb(links, {name: generator.permutation(np.arange(12) % 3) for name in "abcd"}, 3)
    for group in "abcd":
        near = [(link.importance, link.feeder) for link in links if link.reader == group]
        near += [(link.importance.T, link.reader) for link in links if link.feeder == group]
        profit = sum((values @ np.eye(3)[end[name]] for values, name in near), np.zeros((12, 3)))
        assert importance(links, {**end, group: assign(profit, 3)}) <= importance(links, end) * (1 + 1e-12)
