"""Knees: never a chance-level rate, whatever the curve looks like; every judgement is asked for once."""

import numpy as np
import pytest
from hand_made import small_inventory
from hypothesis import assume, given
from hypothesis import strategies as st
from kneed import KneeLocator

from paretune.compress.knee import GRID, is_flat, knee_of, kneedle, measure
from paretune.compress.rates import Kept, choose_units, kept_count
from paretune.curve import Curve
from paretune.errors import ImpossiblePlan

CHANCE = 0.9


def curve(errors: np.ndarray | list[float], ratios: tuple[float, ...] = GRID) -> Curve:
    return Curve(group="g", criterion="l1", ratios=ratios, errors=tuple(map(float, errors)), chance=CHANCE)


def sigmoid(middle: float, steep: float, noise: float = 0.0, seed: int = 0) -> Curve:
    """An accuracy that falls from 93 % to the 10 % of guessing around the ratio `middle`."""
    accuracy = 0.1 + 0.83 / (1 + np.exp(steep * (np.array(GRID) - middle)))
    return curve(1 - np.clip(accuracy + noise * np.random.default_rng(seed).standard_normal(len(GRID)), 0, 1))


def worst_up_to(there: Curve, ratio: float) -> float:
    """The largest error measured up to the first ratio of the grid that is not below `ratio`."""
    last = next(place for place, measured in enumerate(there.ratios) if measured >= ratio - 1e-9)
    return max(there.errors[: last + 1])


# The law


@given(
    st.floats(0.05, 1.1), st.floats(5, 60), st.sampled_from([0.0, 0.003, 0.02, 0.08]), st.integers(0, 99),
    st.floats(0, 10), st.floats(0.5, 1.5), st.sampled_from([0.0, 0.02, 0.1, 0.5, 2.0]),
)  # fmt: skip
def test_a_knee_is_never_at_chance(
    middle: float, steep: float, noise: float, seed: int, sensitivity: float, scale: float, drop: float
) -> None:
    there = sigmoid(middle, steep, noise, seed)
    dense = there.errors[0]
    assume(dense < CHANCE)
    found = knee_of(there, sensitivity, scale, drop)
    assert 0 <= found.ratio <= GRID[-1]
    assert worst_up_to(there, found.ratio) <= min(dense + drop, (dense + CHANCE) / 2) + 1e-8
    assert bool(found.note) == (found.found is None or found.ratio != pytest.approx(min(found.found * scale, 0.95)))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0, 5), st.floats(0, 1))
def test_the_guard_holds_on_any_curve(errors: list[float], sensitivity: float, drop: float) -> None:
    there = curve(errors, GRID[: len(errors)])
    assume(errors[0] < CHANCE)
    found = knee_of(there, sensitivity, 1.0, drop)
    assert worst_up_to(there, found.ratio) <= min(errors[0] + drop, (errors[0] + CHANCE) / 2) + 1e-8


def test_kneedle_alone_picks_chance_from_a_full_sigmoid_and_the_cut_mends_it() -> None:
    """Why the plateau is cut off: kneed at S = 1 on the whole curve answers with its last point."""
    for middle in (0.5, 0.6, 0.7):
        there = sigmoid(middle, 20)
        raw = KneeLocator(GRID, 1 - np.array(there.errors), S=1, curve="concave", direction="decreasing").knee
        assert raw == 0.95
        assert there.errors[-1] > 0.88
        found = kneedle(there, 1.0)
        assert found is not None
        assert middle - 0.25 < found < middle


def test_the_knee_of_two_straight_lines_is_their_corner() -> None:
    errors = [0.1 if ratio <= 0.6 else 0.1 + (ratio - 0.6) for ratio in GRID]
    assert knee_of(curve(errors), 1.0, 1.0, 0.1).ratio == 0.6
    assert knee_of(curve(errors), 1.0, 0.5, 0.1).ratio == pytest.approx(0.3)


# The guard


def test_the_guard_goes_down_and_says_so() -> None:
    errors = [0.1 + 0.3 * ratio**2 for ratio in GRID]
    errors[-3:] = [0.4, 0.6, 0.8]
    free = knee_of(curve(errors), 1.0, 1.0, 1.0)
    guarded = knee_of(curve(errors), 1.0, 1.0, 0.02)
    assert free.note == ""
    assert guarded.found == free.found == free.ratio
    assert guarded.ratio == 0.25  # 0.3 × 0.25² is 0.019
    cost = 0.3 * free.ratio**2
    assert guarded.note == f"knee {free.ratio:.2f} of 'g' costs {cost:.2f}: guard 0.25"


def test_between_two_measured_ratios_the_next_one_counts() -> None:
    errors = [0.1 if ratio <= 0.6 else 0.1 + (ratio - 0.6) for ratio in GRID]
    there = knee_of(curve(errors), 1.0, 0.62 / 0.6, 0.04)  # at 0.65 the error is 0.05 more
    assert there.ratio == 0.6
    assert there.note == "knee 0.60 × 1.03333 of 'g' costs 0.05: guard 0.60"


def test_a_scaled_knee_stays_on_the_curve() -> None:
    errors = [0.1 if ratio <= 0.9 else 0.15 for ratio in GRID]
    there = knee_of(curve(errors), 1.0, 1.5, 0.3)
    assert there.found == 0.9
    assert there.ratio == 0.95


def test_no_knee_falls_back_to_the_guard() -> None:
    errors = [0.1 + 0.4 * ratio for ratio in GRID]  # a straight line bends nowhere
    there = knee_of(curve(errors), 3.0, 1.0, 0.1)
    assert there.found is None
    assert there.ratio == 0.25
    assert there.note == "no knee on the curve of 'g': guard 0.25"


def test_a_smaller_allowed_drop_never_removes_more() -> None:
    for seed in range(20):
        there = sigmoid(0.6, 12, 0.02, seed)
        ratios = [knee_of(there, 1.0, 1.2, drop).ratio for drop in (0.0, 0.01, 0.03, 0.1, 0.3)]
        assert ratios == sorted(ratios)


def test_a_lucky_point_is_not_believed() -> None:
    """Chance at 0.5, and one good error after it."""
    errors = [0.1] * 10 + [0.9] * 5 + [0.1] + [0.9] * 4
    assert knee_of(curve(errors), 1.0, 1.0, 1.0).ratio == 0.45


def test_an_error_that_is_no_number_counts_as_chance() -> None:
    errors = [0.1] * 10 + [float("nan")] * 10
    assert knee_of(curve(errors), 1.0, 1.0, 1.0).ratio == 0.45


# Bad input


def test_a_flat_curve_has_no_knee() -> None:
    flat = curve([0.2] * 20)
    assert is_flat(flat)
    assert is_flat(curve([0.2, *[0.1] * 19]))
    assert not is_flat(sigmoid(0.5, 20))
    with pytest.raises(ImpossiblePlan, match="the curve of group 'g' is flat: it has no knee"):
        kneedle(flat, 1.0)
    there = knee_of(flat, 1.0, 1.0, 0.1)
    assert (there.ratio, there.found) == (0.95, None)
    assert there.note == "the curve of group 'g' is flat: it has no knee: guard 0.95"


@pytest.mark.parametrize("error", [0.9, 0.95, float("nan")])
def test_a_model_at_chance_is_refused(error: float) -> None:
    with pytest.raises(ImpossiblePlan, match=r"no better than chance \(0.9\) before group 'g' is cut"):
        knee_of(curve([error] * 20), 1.0, 1.0, 0.1)


# Measuring


def test_a_curve_is_the_error_when_only_its_group_is_cut() -> None:
    inventory = small_inventory()
    units = {"stem": np.array([0.3, 0.1, 0.4, 0.2]), "body.a": np.arange(6.0)}
    asked: list[Kept] = []

    def judge(kept: Kept) -> float:
        asked.append(kept)
        return 0.1 + sum(0.01 * (inventory.group[name].channels - len(left)) for name, left in kept.items())

    curves = measure(inventory, units, judge, CHANCE, "taylor")
    assert list(curves) == ["stem", "body.a"]
    for name, there in curves.items():
        channels = inventory.group[name].channels
        lost = [channels - kept_count(channels, ratio) for ratio in GRID]
        assert (there.group, there.criterion, there.ratios, there.chance) == (name, "taylor", GRID, CHANCE)
        assert there.errors == tuple(pytest.approx(0.1 + 0.01 * count) for count in lost)
    once = [{}, *({"stem": choose_units(units["stem"], count)} for count in (3, 2, 1))]
    once += [{"body.a": choose_units(units["body.a"], count)} for count in (5, 4, 3, 2, 1)]
    assert asked == once


def test_the_grid_of_ratios_can_be_chosen() -> None:
    inventory = small_inventory()
    units = {group.name: np.arange(float(group.channels)) for group in inventory.groups}
    curves = measure(inventory, units, lambda kept: 0.1 * len(kept), CHANCE, "l1", ratios=(0.0, 0.5))
    assert [there.errors for there in curves.values()] == [(0.0, 0.1)] * 2
