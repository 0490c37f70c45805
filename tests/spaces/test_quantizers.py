"""Who rounds a layer, with how many bits, and what one training may find on its own."""

from typing import Any

import pytest
from hand_made import small_inventory
from optuna.trial import FixedTrial

from paretune.errors import ParetuneError
from paretune.recipe import Joint, Penalty, Quantizing, Recipe
from paretune.spaces.language import parse_space


def ask(spec: dict[str, Any], **params: Any) -> Recipe:
    return parse_space(spec, small_inventory()).ask(FixedTrial(params))


def test_ternary_lies_between_one_and_two_bits_and_has_a_quantizer_of_its_own() -> None:
    spec = {
        "layers": [{"match": "head", "weight_bits": 8}, {"match": "*", "weight_bits": [1, "ternary", 4], "tie": True}],
        "quantize": {"weights": "dorefa", "ternary": "prune_ternary"},
    }
    found = [ask(spec, **{"weight_bits/*@index": place}) for place in range(3)]
    assert [recipe.weight_bits["stem"] for recipe in found] == [1, 2, 4]
    assert [recipe.weight_quantizers["stem"] for recipe in found] == ["dorefa", "prune_ternary", "dorefa"]
    assert all((recipe.weight_bits["head"], recipe.weight_quantizers["head"]) == (8, "dorefa") for recipe in found)


def test_ternary_is_no_width_of_activations() -> None:
    with pytest.raises(ParetuneError, match=r"space.activation_bits: bits are whole numbers .* got 'ternary'"):
        ask({"activation_bits": "ternary"})


def test_a_row_names_its_own_quantizers_and_encoding_and_the_others_take_the_shared_ones() -> None:
    spec = {
        "layers": [
            {"match": "stem", "weight_bits": 8, "weight_quantizer": "lsq", "encoding": "dense"},
            {"match": "*", "weight_bits": 4, "activation_quantizer": ["pact", "lsq_plus"], "tie": True},
        ],
        "activation_bits": 8,
        "quantize": {"weights": ["codebook", "mse"], "activations": "min_max"},
    }
    recipe = ask(spec, **{"quantize/weights": "mse", "activation_quantizer/*": "lsq_plus"})
    assert recipe.weight_quantizers == {"stem": "lsq", "body.a": "mse", "head": "mse"}
    assert recipe.activation_quantizers == {"stem": "min_max", "body.a": "lsq_plus", "head": "lsq_plus"}
    assert recipe.encodings == {"stem": "dense"}


@pytest.mark.parametrize(("bits", "near"), [(1, 1), (2, 2), (3, 4), (5, 4), (6, 8), (7, 8), (8, 8), (32, 32)])
def test_bits_go_to_the_nearest_power_of_two_if_asked(bits: int, near: int) -> None:
    """2 to the rounded logarithm, as DJPQ's restriction: 3 is nearer to 4 than to 2, and 6 nearer to 8."""
    spec = {"layers": [{"match": "*", "weight_bits": bits}], "activation_bits": bits}
    asked, projected = ask(spec), ask({**spec, "quantize": {"project": "power_of_two"}})
    assert set(asked.weight_bits.values()) == {bits}
    assert set(projected.weight_bits.values()) == set(projected.activation_bits.values()) == {near}


def test_settings_of_quantizers_are_searched_like_everything_else() -> None:
    recipe = ask({"quantize": {"threshold": {"low": 0.01, "high": 0.2}, "steps": 6}}, **{"quantize/threshold": 0.1})
    assert recipe.quantizing == Quantizing(threshold=0.1, steps=6)


def test_a_joint_training_frees_the_bits_of_its_own_layers_only() -> None:
    spec = {
        "layers": [
            {"match": "head", "weight_bits": 8, "weight_quantizer": "lsq"},
            {"match": "stem", "weight_bits": 32},
            {"match": "*", "weight_bits": 6},
        ],
        "activation_bits": 8,
        "quantize": {"weights": "djpq", "activations": "djpq"},
        "joint": {"method": "djpq", "epochs": 3, "beta": {"low": 0.1, "high": 10.0, "log": True}},
        "keep": {"minimum": 2},
    }
    joint = ask(spec, **{"joint/beta": 2.0}).joint
    bits = {"body.a": 6}, dict.fromkeys(("stem", "body.a", "head"), 8)
    assert joint == Joint(epochs=3, lr=0.01, beta=2.0, weight_bits=bits[0], activation_bits=bits[1], minimum=2)


def test_a_penalty_belongs_to_the_mask_section() -> None:
    recipe = ask({"mask": {"schedule": "clipped_lasso", "penalty": {"clip": ["mean", "rank"], "strength": 1}}},
                 **{"mask/penalty/clip": "rank"})  # fmt: skip
    assert recipe.masking.penalty == Penalty(clip="rank", strength=1.0)
    assert type(recipe.masking.penalty.strength) is float


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({"quantize": {"weight": "lsq"}}, "space.quantize has no key 'weight'. Did you mean 'weights'"),
        ({"quantize": {"weights": 4}}, "space.quantize.weights: a quantizer is a name, got 4"),
        ({"quantize": {"project": "pow2"}}, "space.quantize.project: project is one of free, power_of_two, got 'pow2'"),
        ({"quantize": {"steps": 0}}, "space.quantize.steps: steps are whole numbers, 1 or more, got 0"),
        ({"joint": {"method": "djq"}}, "space.joint.method: method is one of none, djpq, got 'djq'"),
        ({"joint": {"least": 9}}, "space.joint.least: the least bits are a whole number from 2 to 8, got 9"),
        ({"joint": {"exponent": 2}}, r"space.joint.exponent: exponent is 1 \(yes\) or 0 \(no\), got 2"),
        ({"mask": {"penalty": {"clips": "mean"}}}, "space.mask.penalty has no key 'clips'. Did you mean 'clip'"),
        ({"layers": [{"match": "*", "encoding": 3}]}, "space.layers.encoding: an encoding is a name, got 3"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec: dict[str, Any], match: str) -> None:
    with pytest.raises(ParetuneError, match=match):
        parse_space(spec, small_inventory())
