"""A plan answers by name, leaves out what stays, and has a key of its own."""

from fractions import Fraction

import pytest
from hand_made import small_inventory

from paretune.plan import DENSE, FLOAT, GroupPlan, LayerPlan, Plan

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


def test_equal_plans_share_a_key_of_sixteen_hex_digits() -> None:
    twin = Plan(groups=PLAN.groups, layers=PLAN.layers)
    assert twin.key == PLAN.key != DENSE.key
    assert len(PLAN.key) == 16
    assert set(PLAN.key) <= set("0123456789abcdef")
