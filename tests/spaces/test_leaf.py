"""A scalar is fixed, a list is a choice, {low, high} is a range; what a leaf proposes is always one of its values."""

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from paretune.errors import ParetuneError
from paretune.spaces.leaf import Choice, Fixed, Leaf, Range, parse_leaf


def anything(value: object) -> str:
    return ""


def positive(value: Any) -> str:
    return "" if value > 0 else "must be above 0"


def leaf_of(value: Any) -> Leaf:
    return parse_leaf("space.x", value, anything)


@pytest.mark.parametrize(
    ("value", "leaf"),
    [
        (4, Fixed(value=4)),
        ("l2", Fixed(value="l2")),
        ([8], Fixed(value=8)),
        ([4, 2, 8], Choice(options=(4, 2, 8))),
        (["l1", "l2"], Choice(options=("l1", "l2"))),
        ((1, 2), Choice(options=(1, 2))),
        ({"low": 1, "high": 5}, Range(low=1, high=5)),
        ({"low": 0.1, "high": 0.5, "log": True}, Range(low=0.1, high=0.5, log=True)),
        ({"low": 0.0, "high": 0.8, "step": 0.05}, Range(low=0.0, high=0.8, step=0.05)),
        ({"low": 3, "high": 3}, Fixed(value=3)),
        ({"low": 0.0, "high": 1.0, "step": 0.3}, Range(low=0.0, high=0.9, step=0.3)),  # the last number of the grid
        ({"low": 2, "high": 9, "step": 3}, Range(low=2, high=8, step=3)),
        ({"low": 2, "high": 3, "step": 5}, Fixed(value=2)),
    ],
)
def test_what_is_written_becomes_a_leaf(value: object, leaf: Leaf) -> None:
    assert leaf_of(value) == leaf


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([], r"space.x: a choice needs one or more different options, got \[\]"),
        ([4, 4], "one or more different options"),
        ([0, 0.0], "one or more different options"),
        ({"low": 2, "high": 1}, "a range needs low <= high"),
        ({"low": 0, "high": 1, "log": True}, "low > 0 with log"),
        ({"low": 0, "high": 1, "step": 0}, "step > 0"),
        ({"low": 0, "high": 1, "step": -0.5}, "step > 0"),
        ({"low": 1, "high": 9, "step": 2, "log": True}, "either step or log, not both"),
        ({"low": 1, "high": 9, "log": "yes"}, "log is true or false, got 'yes'"),
        ({"low": 1}, "a range needs low and high, got {'low': 1}"),
        ({}, "a range needs low and high"),
        ({"low": 1, "hihg": 2}, "a range has no 'hihg'. Did you mean 'high'"),
        ({"low": "1", "high": 2}, "low, high and step must be numbers"),
        ({"low": True, "high": 2}, "low, high and step must be numbers"),
        ({"low": None, "high": 2}, "low, high and step must be numbers"),
        ({"low": 0.0, "high": 1.0, "step": "0.1"}, "low, high and step must be numbers"),
        ({"low": 1.0, "high": math.inf}, "low, high and step must be numbers"),
        ({"low": 0.0, "high": 1.0, "step": math.nan}, "low, high and step must be numbers"),
    ],
)
def test_what_is_written_wrongly_is_answered_with_the_key(value: object, match: str) -> None:
    with pytest.raises(ParetuneError, match=match):
        leaf_of(value)


@pytest.mark.parametrize("value", [-1, [1, -1], {"low": -1, "high": 5}, [1, 0, 2]])
def test_every_value_is_judged(value: object) -> None:
    with pytest.raises(ParetuneError, match=r"space.x: must be above 0, got (-1|0)"):
        parse_leaf("space.x", value, positive)


def test_the_numbers_inside_a_whole_range_are_judged_too() -> None:
    with pytest.raises(ParetuneError, match="not nine, got 9"):
        parse_leaf("space.x", {"low": 8, "high": 32}, lambda value: "not nine" if value == 9 else "")
    assert parse_leaf("space.x", {"low": 8, "high": 32, "step": 24}, lambda value: "not nine" if value == 9 else "")


def test_numbers_keep_their_order_and_names_have_none() -> None:
    assert leaf_of([2, 4, 8]).ask("x", FixedTrial({"x@index": 1})) == 4
    assert leaf_of(["a", "b"]).ask("x", FixedTrial({"x": "b"})) == "b"
    assert leaf_of(7).ask("x", FixedTrial({})) == 7


def test_ranges_ask_for_whole_numbers_grids_and_logs() -> None:
    trial = FixedTrial({"whole": 3, "grid": 0.15, "log": 0.0123456789012345})
    assert leaf_of({"low": 1, "high": 5}).ask("whole", trial) == 3
    assert leaf_of({"low": 0.0, "high": 0.8, "step": 0.05}).ask("grid", trial) == 0.15
    assert leaf_of({"low": 0.001, "high": 1.0, "log": True}).ask("log", trial) == 0.0123456789012345
    kinds = {name: type(distribution).__name__ for name, distribution in trial.distributions.items()}
    assert kinds == {"whole": "IntDistribution", "grid": "FloatDistribution", "log": "FloatDistribution"}
    assert trial.distributions["log"].log


def test_a_grid_is_free_of_rounding_noise() -> None:
    grid = leaf_of({"low": 0.0, "high": 0.8, "step": 0.05})
    assert grid.ask("x", FixedTrial({"x": 3 * 0.05})) == 0.15 != 3 * 0.05


@pytest.mark.parametrize(
    ("value", "wish", "answer"),
    [
        (5, 3, {}),
        ([2, 4, 8], 4, {"x@index": 1}),
        ([2, 4, 8], 3, {"x@index": 0}),  # as far from 2 as from 4: the first
        ([2, 4, 8], 100, {"x@index": 2}),
        ([2, 4, 8], None, {"x@index": 2}),
        (["b", "a"], None, {"x": "b"}),
        (["b", "a"], 8, {"x": "b"}),
        ({"low": 1, "high": 4}, None, {"x": 3}),  # 1 + 1.5, rounded to even
        ({"low": 0.01, "high": 1.0, "log": True}, None, {"x": pytest.approx(0.1)}),
        ({"low": 0.0, "high": 0.8, "step": 0.05}, 0.31, {"x": 0.3}),
        ({"low": 0.0, "high": 0.8, "step": 0.3}, 0.8, {"x": 0.6}),
        ({"low": 2, "high": 9, "step": 4}, 9, {"x": 6}),
        ({"low": 0.2, "high": 0.4}, 0.9, {"x": 0.4}),
        ({"low": 0.2, "high": 0.4}, 0.0, {"x": 0.2}),
    ],
)
def test_the_nearest_parameter_to_a_wish(value: object, wish: float | None, answer: dict[str, object]) -> None:
    assert leaf_of(value).near("x", wish) == answer


@pytest.mark.parametrize(
    ("value", "ends"),
    [
        (4, (4, 4)),
        ([4, 2, 8], (2, 8)),
        (["b", "a"], ("a", "b")),
        ({"low": 1, "high": 6}, (1, 6)),
        ({"low": 0.1, "high": 0.3, "step": 0.1}, (0.1, 0.3)),
        ({"low": 0.0, "high": 0.8, "step": 0.3}, (0.0, 0.6)),
    ],
)
def test_the_ends(value: object, ends: tuple[object, object]) -> None:
    assert leaf_of(value).ends() == ends


floats = st.floats(1e-4, 1e3)
specs = st.one_of(
    st.tuples(floats, floats).map(lambda pair: {"low": min(pair), "high": max(pair)}),
    st.tuples(floats, floats).map(lambda pair: {"low": min(pair), "high": max(pair), "log": True}),
    # Grids as people write them: hundredths.
    st.tuples(st.integers(-999, 999), st.integers(1, 999), st.integers(1, 500)).map(
        lambda three: {"low": three[0] / 100, "high": (three[0] + three[1]) / 100, "step": three[2] / 100}
    ),
    st.tuples(st.integers(-9, 9), st.integers(0, 40), st.integers(1, 7)).map(
        lambda three: {"low": three[0], "high": three[0] + three[1], "step": three[2]}
    ),
    st.tuples(st.integers(1, 9), st.integers(0, 40)).map(lambda pair: {"low": pair[0], "high": sum(pair), "log": True}),
    st.lists(st.integers(-20, 20), min_size=1, max_size=6, unique=True),
)


@given(specs, st.one_of(st.none(), st.floats(-50, 2000)))
def test_the_nearest_parameter_is_in_the_space(spec: Any, wish: float | None) -> None:
    """FixedTrial warns about a value outside its distribution, and warnings are errors."""
    leaf = leaf_of(spec)
    answer = leaf.ask("x", FixedTrial(leaf.near("x", wish)))
    low, high = leaf.ends()
    assert low <= answer <= high  # type: ignore[operator]


@given(specs)
def test_the_ends_can_be_asked_for(spec: Any) -> None:
    leaf = leaf_of(spec)
    assume(not isinstance(leaf, Fixed))
    for end in leaf.ends():
        assert isinstance(end, (int, float))
        assert leaf.ask("x", FixedTrial(leaf.near("x", end))) == end
