"""A plan answers by name, leaves out what stays, and has a key of its own."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hand_made import small_inventory

from paretune.plan import DENSE, FLOAT, Codes, GroupPlan, LayerPlan, Plan
from paretune.recipe import Joint

PLAN = Plan(
    groups=(GroupPlan(group="body.a", kept=(1, 5)),),
    layers=(LayerPlan(layer="head", weight_bits=2, activation_bits=4),),
)


def test_the_dense_plan_does_nothing() -> None:
    assert (DENSE.kept, DENSE.bits, DENSE.recovery.epochs) == ({}, {}, 0)
    assert LayerPlan(layer="x") == LayerPlan(layer="x", weight_bits=FLOAT, activation_bits=FLOAT)


def test_groups_and_layers_are_found_by_name() -> None:
    assert PLAN.kept == {"body.a": (1, 5)}
    assert PLAN.bits["head"].weight_bits == 2


def test_the_kept_share_is_counted_in_units() -> None:
    assert PLAN.kept_share(small_inventory(), "body.a") == float(Fraction(2, 6))
    assert PLAN.kept_share(small_inventory(), "stem") == 1.0


def test_an_unknown_group_has_no_share() -> None:
    with pytest.raises(KeyError, match="neck"):
        PLAN.kept_share(small_inventory(), "neck")


CODES = Codes(nonzeros=2, distinct=3, entropy_bits=5, huffman_bits=6, gap_bits=2, entries=3)


def test_what_was_asked_for_has_no_codes() -> None:
    trained = replace(PLAN, layers=(replace(PLAN.layers[0], codes=CODES),))
    assert trained != PLAN
    assert trained.asked == PLAN
    assert PLAN.asked.key == PLAN.key


def test_a_joint_training_is_open_until_it_is_done_and_remembers_its_start() -> None:
    joint = Joint(epochs=2, lr=0.1, weight_bits={"head": 8}, activation_bits={"stem": 6})
    layers = (LayerPlan(layer="stem", weight_bits=4, activation_bits=6), LayerPlan(layer="head", weight_bits=8))
    asked = Plan(layers=layers, joint=joint)
    assert asked.open
    found = Plan(
        groups=PLAN.groups,
        layers=(replace(layers[0], activation_bits=3), replace(layers[1], weight_bits=5, codes=CODES)),
        joint=replace(joint, done=True),
    )
    assert not found.open
    assert found.asked == asked


def test_equal_plans_share_a_key_of_sixteen_hex_digits() -> None:
    twin = Plan(groups=PLAN.groups, layers=PLAN.layers)
    assert twin.key == PLAN.key != DENSE.key
    assert len(PLAN.key) == 16
    assert set(PLAN.key) <= set("0123456789abcdef")
