"""Controls are points of the space, and their labels are true."""

import pytest
from hand_made import small_inventory

from paretune.search.controls import Given, controls_of
from paretune.spaces.language import parse_space

OPEN = {"low": 0.0, "high": 0.8, "step": 0.05}


def controls(**spec):
    return controls_of(parse_space(spec, small_inventory()))


def test_a_full_space_has_them_all():
    found = controls(
        groups=[{"match": "*", "ratio": OPEN}],
        layers=[{"match": "*", "weight_bits": [2, 4, 8]}],
        activation_bits=[4, 8],
    )
    labels = [control.label for control in found]
    assert labels[0] == "dense"
    assert labels[1:] == [
        "uniform w8 a8",
        "uniform w4 a4",
        "uniform w8 a8 ratio 0.3",
        "uniform w8 a8 ratio 0.5",
        "uniform w4 a4 ratio 0.5",
    ]


def test_a_label_says_what_the_point_is_not_what_was_wished():
    found = controls(groups=[{"match": "*", "ratio": OPEN}], layers=[{"match": "*", "weight_bits": [2, 3]}])
    assert [control.label for control in found[1:]] == [
        "uniform w3 a-float",
        "uniform w3 a-float ratio 0.3",
        "uniform w3 a-float ratio 0.5",
    ]


def test_wishes_do_not_overwrite_each_other_where_little_is_open():
    inventory = small_inventory()
    first = inventory.weighted[0].name
    space = parse_space(
        {
            "layers": [{"match": first, "weight_bits": [4, 8]}, {"match": "*", "weight_bits": 8}],
            "activation_bits": 8,
        },
        inventory,
    )
    found = {control.label: control.params for control in controls_of(space)[1:]}
    assert set(found) == {"uniform w8 a8", "uniform w4 a8"}
    bits = {label: space.ask(Given(params)).weight_bits[first] for label, params in found.items()}
    assert bits == {"uniform w8 a8": 8, "uniform w4 a8": 4}


def test_a_space_of_one_point_has_one_uniform_control():
    assert len(controls()) == 2


def test_given_knows_only_what_it_was_given():
    with pytest.raises(KeyError, match="lr"):
        Given({}).suggest_float("lr", 0, 1)
