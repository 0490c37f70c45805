"""A criterion is a name, some names, or a blend whose weights lie on a simplex."""

from math import log
from typing import Any

import pytest
from hand_made import small_inventory
from optuna.trial import FixedTrial

from paretune.errors import ParetuneError
from paretune.recipe import Blend
from paretune.spaces.language import parse_space
from paretune.spaces.leaf import Range
from paretune.spaces.mixing import SMALLEST
from paretune.spaces.space import Space, Wish

NAMES = {"stem", "body.a", "head"}


def space_of(criterion: Any) -> Space:
    return parse_space({"criterion": criterion}, small_inventory())


def ask(criterion: Any, /, **params: Any) -> dict[str, Blend]:
    return space_of(criterion).ask(FixedTrial(params)).blends


def test_one_name_is_a_blend_of_one_for_every_group_and_layer() -> None:
    assert ask("l1") == dict.fromkeys(NAMES, Blend(criteria=("l1",)))


def test_names_are_a_choice() -> None:
    assert ask(["l1", "taylor"], criterion="taylor")["stem"] == Blend(criteria=("taylor",))


def test_simplex_weights_are_minus_log_of_uniform_numbers_normalised() -> None:
    blend = ask({"blend": ["l1", "l2"]}, **{"blend/net/l1": 0.5, "blend/net/l2": 0.25})["head"]
    total = -log(0.5) - log(0.25)
    assert blend.weights == pytest.approx((-log(0.5) / total, -log(0.25) / total))
    assert sum(blend.weights) == pytest.approx(1.0)
    assert blend.weights[1] == pytest.approx(2 * blend.weights[0])


def test_the_middle_of_a_simplex_is_an_even_blend() -> None:
    space = space_of({"blend": ["l1", "l2", "taylor"], "share": "layer"})
    recipe = space.ask(FixedTrial(space.near(Wish(ratio=0.0, weight_bits=8, activation_bits=8))))
    assert recipe.blends["stem"].weights == pytest.approx((1 / 3,) * 3)


def test_weights_may_be_given_and_narrowed() -> None:
    weights = {"l1": 3, "l2": {"low": 0.0, "high": 2.0}}
    blend = ask({"blend": ["l1", "l2"], "weights": weights}, **{"blend/net/l2": 1.0})["stem"]
    assert blend.weights == pytest.approx((0.75, 0.25))


def test_a_searched_blend_can_end_without_any_weight_which_the_trial_has_to_say() -> None:
    weights = {"l1": 0, "l2": {"low": 0.0, "high": 2.0}}
    assert ask({"blend": ["l1", "l2"], "weights": weights}, **{"blend/net/l2": 0.0})["stem"].weights == (0.0, 0.0)


def test_clusters_ask_for_a_member_and_a_weight_each() -> None:
    space = space_of({"blend": ["l1", "l2", "taylor"], "clusters": 2, "normalise": "min_max"})
    open_ones = {question.name: question.leaf for question in space.mixing.questions}
    assert list(open_ones) == ["blend/net/pick0", "blend/net/pick1", "blend/net/cluster0", "blend/net/cluster1"]
    assert open_ones["blend/net/pick0"] == Range(low=0, high=2)
    assert open_ones["blend/net/cluster0"] == Range(low=SMALLEST, high=1.0)
    params = {"blend/net/pick0": 2, "blend/net/pick1": 0, "blend/net/cluster0": 0.5, "blend/net/cluster1": 0.5}
    blend = space.ask(FixedTrial(params)).blends["stem"]
    assert blend == Blend(
        criteria=("l1", "l2", "taylor"), weights=(0.5, 0.5), clusters=2, picks=(2, 0), normalise="min_max"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("share", "labels"),
    [("net", {"net"}), ("layer", {"stem", "body.a"}), ("stage", {"flat"})],
)
def test_what_is_shared(share: str, labels: set[str]) -> None:
    """The hand-made inventory knows no output shapes, so both groups are of the one stage "flat"."""
    mixing = space_of({"blend": ["l1", "l2"], "share": share}).mixing
    assert {one.label for one in mixing.shared} == labels
    assert sorted(name for one in mixing.shared for name in one.names) == sorted(NAMES)


def test_a_layer_without_a_group_goes_with_the_group_before_it() -> None:
    mixing = space_of({"blend": ["l1", "l2"], "share": "layer"}).mixing
    assert {one.label: set(one.names) for one in mixing.shared} == {"stem": {"stem"}, "body.a": {"body.a", "head"}}


@pytest.mark.parametrize(
    ("criterion", "match"),
    [
        ({"blend": ["l1", "l2"], "weights": {"l1": 0, "l2": 0}}, "are all zero: a blend needs at least one weight"),
        ({"blend": ["l1"]}, r"needs two or more different criteria, got \['l1'\]"),
        ({"blend": ["l1", "l1"]}, "two or more different criteria"),
        ({"blend": "l1"}, "two or more different criteria, got 'l1'"),
        ({"blend": ["l1", "l2"], "weights": {"l1": 1}}, "weights is simplex or a table with l1, l2, got"),
        ({"blend": ["l1", "l2"], "weights": {"l1": 1, "l2": -1}}, "weights.l2: a weight is a finite number"),
        ({"blend": ["l1", "l2"], "weights": "even"}, "weights is simplex or a table"),
        ({"blend": ["l1", "l2"], "clusters": 3}, "clusters is a whole number from 0 .none. to the 2 criteria, got 3"),
        ({"blend": ["l1", "l2"], "clusters": 2, "weights": {"l1": 1, "l2": 1}}, "weights is simplex, got"),
        ({"blend": ["l1", "l2"], "share": "block"}, "share is one of net, stage, layer, got 'block'"),
        ({"blend": ["l1", "l2"], "normalise": "z"}, "normalise is one of rank, min_max, got 'z'"),
        ({"blends": ["l1", "l2"]}, "no key 'blends'. Did you mean 'blend'"),
    ],
)
def test_mistakes_name_their_key(criterion: Any, match: str) -> None:
    with pytest.raises(ParetuneError, match=match):
        space_of(criterion)
