"""Decisions are the open shares and bits of a space, mildest first, and their parameters ask for what they say."""

from itertools import pairwise

import pytest
from hand_made import small_inventory

from paretune.plan import FLOAT
from paretune.recipe import TERNARY
from paretune.search.controls import Given
from paretune.search.decisions import GRID, MOST, decisions_of, mildest, point_at
from paretune.spaces.language import parse_space

SHARES = {"low": 0.0, "high": 0.8, "step": 0.05}


def space_of(**spec):
    return parse_space(spec, small_inventory())


def decisions(**spec):
    return decisions_of(space_of(**spec))


def of_bits(leaf):
    """The settings of one decision on all weights' bits."""
    (found,) = decisions(layers=[{"match": "*", "weight_bits": leaf, "tie": True}])
    return found.settings


def of_shares(leaf):
    """The settings of one decision on all groups' shares."""
    (found,) = decisions(groups=[{"match": "*", "ratio": leaf, "tie": True}])
    return found.settings


@pytest.mark.parametrize("bits", [[8, 2, 4], [2, 4, 8], [4, 8, 2]])
def test_bits_fall_however_they_are_listed(bits):
    assert of_bits(bits) == (8, 4, 2)


def test_float_is_the_mildest_and_ternary_the_strongest():
    assert of_bits([2, FLOAT, "ternary", 8]) == (FLOAT, 8, 2, TERNARY)


def test_a_range_of_bits_falls_by_ones():
    assert of_bits({"low": 3, "high": 6}) == (6, 5, 4, 3)


@pytest.mark.parametrize("leaf", [[0.5, 0.0, 0.25], {"low": 0.0, "high": 0.5, "step": 0.25}])
def test_shares_rise(leaf):
    assert of_shares(leaf) == (0.0, 0.25, 0.5)


def test_a_grid_is_free_of_rounding_noise():
    assert of_shares(SHARES) == tuple(place / 20 for place in range(17))


def test_without_steps_a_range_has_a_grid_with_both_ends():
    found = of_shares({"low": 0.1, "high": 0.9})
    assert len(found) == GRID
    assert found == pytest.approx([0.1 + 0.1 * place for place in range(9)])


def test_a_fine_grid_is_thinned_to_values_that_the_space_has():
    found = of_shares({"low": 0.0, "high": 0.9, "step": 0.001})
    assert len(found) == MOST
    assert (found[0], found[-1]) == (0.0, 0.9)
    assert found == tuple(round(value, 3) for value in found)
    gaps = [b - a for a, b in pairwise(found)]
    assert max(gaps) - min(gaps) < 0.0011


def test_every_open_share_and_bit_width_is_a_decision_and_nothing_else():
    space = space_of(
        groups=[{"match": "*", "ratio": SHARES}],
        layers=[{"match": "*", "weight_bits": [2, 8], "pattern": "unstructured", "sparsity": [0.0, 0.5]}],
        activation_bits=[4, 8], criterion=["l1", "l2"], recover={"epochs": [1, 2], "lr": [0.01, 0.1]},
    )  # fmt: skip
    asked = [*space.ratios, *space.sparsities, *space.weight_bits, *space.activation_bits]
    assert [decision.name for decision in decisions_of(space)] == [question.name for question in asked]


def test_a_tied_decision_is_one():
    found = decisions(
        groups=[{"match": "*", "ratio": SHARES, "tie": True}],
        layers=[{"match": "*", "weight_bits": [2, 8], "tie": True}],
    )
    assert len(found) == 2


def test_what_is_fixed_is_no_decision():
    assert decisions(groups=[{"match": "*", "ratio": 0.3}], layers=[{"match": "*", "weight_bits": [8]}]) == ()


@pytest.mark.parametrize("rule", ["uniform", "global"])
def test_a_share_of_the_whole_network_is_a_decision_where_the_rule_reads_it(rule):
    (found,) = decisions(rate={"rule": rule, "ratio": [0.5, 0.0, 0.2]})
    assert (found.name, found.settings) == ("rate/ratio", (0.0, 0.2, 0.5))


def test_it_is_none_where_no_rule_reads_it():
    assert decisions(rate={"rule": "knee", "ratio": [0.5, 0.0, 0.2]}) == ()


def test_a_target_falls():
    (found,) = decisions(rate={"rule": "target", "target": {"cost": "macs", "share": {"low": 0.2, "high": 0.8}}})
    assert found.name == "rate/target/share"
    assert found.settings[0] == 0.8
    assert found.settings[-1] == 0.2
    assert all(a > b for a, b in pairwise(found.settings))


def test_parameters_ask_for_the_settings():
    space = space_of(
        groups=[{"match": "*", "ratio": {"low": 0.0, "high": 0.6}}],
        layers=[{"match": "*", "weight_bits": [4, 2, FLOAT]}],
        activation_bits={"low": 4, "high": 8},
    )
    found = decisions_of(space)
    for which, decision in enumerate(found):
        for option, setting in enumerate(decision.settings):
            options = [0] * len(found)
            options[which] = option
            params = point_at(mildest(space, found), found, options)
            assert space.choices(Given(params))[decision.name] == setting


def test_the_mildest_point_removes_least_and_keeps_most_and_is_at_its_defaults_elsewhere():
    space = space_of(
        groups=[{"match": "*", "ratio": [0.5, 0.1]}],
        layers=[{"match": "*", "weight_bits": [8, 4]}],
        criterion=["l2", "l1"], recover={"epochs": [1, 2], "lr": {"low": 0.01, "high": 0.03}},
    )  # fmt: skip
    recipe = space.ask(Given(mildest(space, decisions_of(space))))
    assert set(recipe.ratios.values()) == {0.1}
    assert set(recipe.weight_bits.values()) == {8}
    assert (recipe.recovery.epochs, recipe.recovery.lr) == (2, pytest.approx(0.02))
    assert {blend.criteria for blend in recipe.blends.values()} == {("l2",)}


def test_decisions_of_one_part_of_the_network_are_of_one_block():
    found = decisions(groups=[{"match": "*", "ratio": SHARES}], layers=[{"match": "*", "weight_bits": [2, 8]}])
    assert all(decision.block for decision in found)
    assert len({decision.param for decision in found}) == len(found)
