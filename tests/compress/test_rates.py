"""From shares to channels: exact counts, the best ones stay, ties are stable."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hand_made import small_inventory
from hypothesis import given
from hypothesis import strategies as st

from paretune.compress.rates import kept_count, plan_of
from paretune.plan import LayerPlan
from paretune.recipe import Recipe, Recovery

SCORES = {
    "l2": {"stem": np.array([0.3, 0.1, 0.4, 0.2]), "body.a": np.array([1.0, 5, 1, 1, 5, 1])},
    "l1": {"stem": np.array([4.0, 3, 2, 1]), "body.a": np.arange(6.0)},
}
NAMES = ("stem", "body.a", "head")


def recipe(stem: float, body: float, criterion: str = "l2") -> Recipe:
    return Recipe(
        criterion=criterion,
        ratios={"stem": stem, "body.a": body},
        weight_bits=dict.fromkeys(NAMES, 4),
        activation_bits=dict(zip(NAMES, (8, 6, 32), strict=True)),
        recovery=Recovery(epochs=2, lr=0.1),
    )


def kept(*arguments: float, criterion: str = "l2") -> dict[str, tuple[int, ...]]:
    return dict(plan_of(recipe(*arguments, criterion=criterion), small_inventory(), SCORES).kept)


@given(st.integers(1, 2048), st.integers(0, 99))
def test_the_count_is_exact_for_hundredths(channels: int, percent: int) -> None:
    """channels × share, rounded half up, in whole-number arithmetic: no noise of binary fractions."""
    removed = floor(Fraction(channels * percent, 100) + Fraction(1, 2))
    assert kept_count(channels, percent / 100) == max(1, channels - removed)


@pytest.mark.parametrize(
    ("channels", "ratio", "left"), [(10, 0.0, 10), (10, 0.35, 6), (45, 0.7, 13), (8, 0.99, 1), (1, 0.9, 1)]
)
def test_counts_by_hand(channels: int, ratio: float, left: int) -> None:
    assert kept_count(channels, ratio) == left


@given(st.integers(1, 512), st.floats(0, 0.999), st.floats(0, 0.999))
def test_removing_more_never_leaves_more(channels: int, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert 1 <= kept_count(channels, more) <= kept_count(channels, less) <= channels


def test_the_best_channels_stay_in_ascending_order() -> None:
    assert kept(0.5, 0.0) == {"stem": (0, 2)}
    assert kept(0.75, 0.0) == {"stem": (2,)}
    assert kept(0.5, 0.5, criterion="l1") == {"stem": (0, 1), "body.a": (3, 4, 5)}


def test_ties_keep_the_channel_that_comes_first() -> None:
    assert kept(0.0, 0.5) == {"body.a": (0, 1, 4)}
    assert kept(0.0, 1 / 3) == {"body.a": (0, 1, 2, 4)}


def test_removing_nothing_names_no_group() -> None:
    assert kept(0.0, 0.0) == kept(0.1, 0.05) == {}


def test_at_least_one_channel_stays() -> None:
    assert kept(0.999, 0.999) == {"stem": (2,), "body.a": (1,)}


def test_bits_and_recovery_are_passed_on() -> None:
    plan = plan_of(recipe(0.0, 0.0), small_inventory(), SCORES)
    assert plan.layers == tuple(
        LayerPlan(layer=name, weight_bits=4, activation_bits=bits) for name, bits in zip(NAMES, (8, 6, 32), strict=True)
    )
    assert plan.recovery == Recovery(epochs=2, lr=0.1)


def test_equal_recipes_give_equal_plans_with_plain_numbers() -> None:
    one, other = (plan_of(recipe(0.5, 0.5), small_inventory(), SCORES) for _ in range(2))
    assert one == other
    assert one.key == other.key
    assert all(type(unit) is int for group in one.groups for unit in group.kept)
