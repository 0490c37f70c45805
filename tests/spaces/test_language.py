"""Rows match names by wildcard, the first match wins, and every mistake names its key."""

import subprocess
import sys
from typing import Any

import pytest
from hand_made import small_inventory
from optuna.trial import FixedTrial

from paretune.errors import ParetuneError
from paretune.inventory import Inventory, Layer
from paretune.recipe import Blend, Recipe, Recovery
from paretune.spaces.language import parse_space
from paretune.spaces.leaf import Fixed

EVERY = {"match": "*", "ratio": 0.0}
FLOAT = {"match": "*", "weight_bits": 32}


def ask(spec: dict[str, Any], **params: Any) -> Recipe:
    """The answer of a space over layers stem, body.a, head and groups stem, body.a; `__` stands for / or @ in names."""
    return parse_space(spec, small_inventory()).ask(FixedTrial(params))


def test_the_language_needs_no_tensor_no_sampler_and_no_hydra() -> None:
    code = "import sys, paretune.spaces.language; print({'torch', 'optuna', 'hydra', 'omegaconf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_empty_space_is_the_dense_model() -> None:
    recipe = ask({})
    assert recipe.ratios == {"stem": 0.0, "body.a": 0.0}
    assert recipe.weight_bits == recipe.activation_bits == {"stem": 32, "body.a": 32, "head": 32}
    assert recipe.blends == dict.fromkeys(("stem", "body.a", "head"), Blend(criteria=("l2",)))
    assert recipe.recovery == Recovery(epochs=3, lr=0.01, distill="none")


def test_every_match_gets_its_own_decision() -> None:
    spec = {"groups": [{"match": "*", "ratio": [0.0, 0.25, 0.5]}]}
    recipe = ask(spec, **{"ratio/stem@index": 2, "ratio/body.a@index": 1})
    assert recipe.ratios == {"stem": 0.5, "body.a": 0.25}


def test_a_tied_row_makes_one_decision() -> None:
    spec = {"groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.5}, "tie": True}]}
    assert ask(spec, **{"ratio/*": 0.3}).ratios == {"stem": 0.3, "body.a": 0.3}


def test_the_first_match_wins_and_keeps_the_rest_for_later_rows() -> None:
    spec = {
        "layers": [
            {"match": "body*", "weight_bits": 4},
            {"match": "*a*", "weight_bits": 6},
            {"match": "*", "weight_bits": 8},
        ]
    }
    assert ask(spec).weight_bits == {"body.a": 4, "head": 6, "stem": 8}


def test_first_and_last_are_the_layers_with_weights() -> None:
    spec = {"layers": [{"match": ["@first", "@last"], "weight_bits": 8}, {"match": "*", "weight_bits": 2}]}
    assert ask(spec).weight_bits == {"stem": 8, "body.a": 2, "head": 8}


def test_a_row_may_bring_its_own_activation_bits_and_the_rest_shares_one_answer() -> None:
    spec = {
        "layers": [
            {"match": "head", "weight_bits": 8, "activation_bits": [6, 8]},
            {"match": "*", "weight_bits": 4},
        ],
        "activation_bits": [2, 4],
    }
    recipe = ask(spec, **{"activation_bits/head@index": 1, "activation_bits@index": 0})
    assert recipe.activation_bits == {"head": 8, "stem": 2, "body.a": 2}


def test_the_shared_question_is_not_asked_when_every_row_answers_it() -> None:
    spec = {"layers": [{"match": "*", "weight_bits": 4, "activation_bits": 8}], "activation_bits": [2, 4]}
    assert set(ask(spec).activation_bits.values()) == {8}


def test_layers_without_weights_are_nobodys_business() -> None:
    with pytest.raises(ParetuneError, match=r"space.layers: 'stem.bn' matches nothing. Did you mean 'stem'"):
        ask({"layers": [{"match": "stem.bn", "weight_bits": 8}, FLOAT]})


def test_a_model_without_groups_takes_any_row() -> None:
    layer = Layer(name="fc", kind="linear", weight_shape=(2, 2), bias=True)
    bare = Inventory(layers=(layer,), groups=(), input_shape=(2,), whole={})
    recipe = parse_space({"groups": [{"match": "conv*", "ratio": [0.1, 0.2]}]}, bare).ask(FixedTrial({}))
    assert (recipe.ratios, recipe.weight_bits) == ({}, {"fc": 32})


def test_the_recovery_is_searched_like_everything_else() -> None:
    spec = {"recover": {"epochs": {"low": 1, "high": 4}, "lr": 0.5, "distill": ["none", "logits"]}}
    recovery = ask(spec, **{"recover/epochs": 2, "recover/distill": "logits"}).recovery
    assert recovery == Recovery(epochs=2, lr=0.5, distill="logits")


GOOD_RATIOS = ((0, 0), (0.0, 0), (0.999, 0.999), ([0, 0.5], 0.5), ({"low": 0.0, "high": 0.8, "step": 0.1}, 0.8))


@pytest.mark.parametrize(("ratio", "most"), GOOD_RATIOS)
def test_good_ratios(ratio: object, most: float) -> None:
    space = parse_space({"groups": [{"match": "*", "ratio": ratio}]}, small_inventory())
    assert space.smallest().ratios == pytest.approx({"stem": most, "body.a": most})


BAD_RATIOS = (1, 1.0, -0.1, "half", True, None, [0.1, 1.5], {"low": 0.5, "high": 1.0}, float("nan"))


@pytest.mark.parametrize("ratio", BAD_RATIOS)
def test_bad_ratios(ratio: object) -> None:
    with pytest.raises(ParetuneError, match=r"space.groups.ratio: a ratio is the share removed, in \[0, 1\), got"):
        parse_space({"groups": [{"match": "*", "ratio": ratio}]}, small_inventory())


STEPS = {"low": 4, "high": 8, "step": 2}
GOOD_BITS = ((1, 1), (2, 2), (8, 8), (32, 32), ([2, 32], 2), ({"low": 2, "high": 8}, 2), (STEPS, 4))


@pytest.mark.parametrize(("bits", "fewest"), GOOD_BITS)
def test_good_bits(bits: object, fewest: int) -> None:
    spec = {"layers": [{"match": "*", "weight_bits": bits}], "activation_bits": bits}
    recipe = parse_space(spec, small_inventory()).smallest()
    assert set(recipe.weight_bits.values()) == set(recipe.activation_bits.values()) == {fewest}


BAD_BITS = (0, 9, 16, 4.5, 4.0, "4", True, None, -2, [4, 9], {"low": 2, "high": 32}, {"low": 2.0, "high": 8.0})


@pytest.mark.parametrize("bits", BAD_BITS)
def test_bad_bits(bits: object) -> None:
    match = "bits are whole numbers from 1 to 8, or 32 for float, got"
    with pytest.raises(
        ParetuneError, match=r"space.layers.weight_bits: bits are whole numbers from 1 to 8, ternary, or 32"
    ):
        parse_space({"layers": [{"match": "*", "weight_bits": bits}]}, small_inventory())
    with pytest.raises(ParetuneError, match=rf"space.activation_bits: {match}"):
        parse_space({"activation_bits": bits}, small_inventory())
    with pytest.raises(ParetuneError, match=rf"space.layers.activation_bits: {match}"):
        parse_space({"layers": [{**FLOAT, "activation_bits": bits}]}, small_inventory())


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({"group": []}, "space has no key 'group'. Did you mean 'groups'"),
        ({1: []}, "space has no key '1'"),
        ({"groups": [{"match": "*", "ratios": 0.1}]}, "space.groups has no key 'ratios'. Did you mean 'ratio'"),
        ({"layers": [{"match": "*", "bits": 8}]}, "space.layers has no key 'bits'.*weight_bits"),
        ({"recover": {"epoch": 3}}, "space.recover has no key 'epoch'. Did you mean 'epochs'"),
        ({"recover": None}, "space.recover: expected keys epochs, lr, distill, .*, got None"),
        ({"recover": 3}, "space.recover: expected keys"),
        ({"groups": ["*"]}, "space.groups: expected keys match, ratio, tie, got '[*]'"),
        ({"groups": {"match": "*", "ratio": 0}}, "space.groups: expected a list of rows such as {match: '[*]', ratio"),
        ({"groups": None}, "space.groups: expected a list of rows"),
        ({"layers": "*"}, "space.layers: expected a list of rows such as {match: '[*]', weight_bits"),
        ({"groups": [{"ratio": 0.1}]}, "space.groups: a row needs match and ratio, got {'ratio': 0.1}"),
        ({"layers": [{"match": "*"}]}, "space.layers: a row needs match and weight_bits"),
        ({"groups": [{"match": "steem", "ratio": 0}, EVERY]}, "'steem' matches nothing. Did you mean 'stem'"),
        ({"groups": [{"match": ["stem", "neck*"], "ratio": 0}, EVERY]}, "space.groups: 'neck[*]' matches nothing"),
        ({"groups": [{"match": "@first", "ratio": 0}, EVERY]}, "space.groups: '@first' matches nothing"),
        ({"groups": [{"match": [], "ratio": 0}, EVERY]}, "space.groups: match is a shell wildcard or a list of them"),
        ({"layers": [{"match": 0, "weight_bits": 8}, FLOAT]}, "match is a shell wildcard or a list of them.*got 0"),
        ({"layers": [{"match": ["*", 1], "weight_bits": 8}]}, "match is a shell wildcard or a list of them"),
        ({"groups": [{**EVERY, "tie": "false"}]}, "space.groups: tie is true or false, got 'false'"),
        ({"groups": [{"match": "stem", "ratio": 0}]}, "no row matches body.a; end with a row match: '[*]'"),
        ({"layers": []}, "space.layers: no row matches stem, body.a, head"),
        ({"criterion": 2}, "space.criterion: a criterion is a name, got 2"),
        ({"criterion": []}, "space.criterion: a choice needs one or more"),
        ({"recover": {"epochs": -1}}, "space.recover.epochs: epochs are whole numbers, 0 or more, got -1"),
        ({"recover": {"epochs": 1.5}}, "epochs are whole numbers"),
        ({"recover": {"epochs": True}}, "epochs are whole numbers"),
        ({"recover": {"lr": 0}}, "space.recover.lr: a learning rate is a finite number above 0, got 0"),
        ({"recover": {"lr": "high"}}, "a learning rate is a finite number above 0"),
        ({"recover": {"lr": float("inf")}}, "a learning rate is a finite number above 0"),
        ({"recover": {"lr": {"low": 0, "high": 0.1, "log": True}}}, "space.recover.lr: a range needs.*low > 0"),
        ({"recover": {"distill": "logit"}}, "space.recover.distill: distill is one of none, logits, .*, got 'logit'"),
        ({"recover": {"distill": ["none", []]}}, "distill is one of"),
    ],
)
def test_mistakes_name_their_key(spec: dict[str, Any], match: str) -> None:
    with pytest.raises(ParetuneError, match=match):
        parse_space(spec, small_inventory())


def test_a_space_that_is_no_table_is_refused() -> None:
    with pytest.raises(ParetuneError, match=r"space: expected keys groups, layers.*got None"):
        parse_space(None, small_inventory())  # type: ignore[arg-type]


def test_a_fixed_row_is_one_question_that_nobody_is_asked() -> None:
    space = parse_space({"groups": [{"match": "*", "ratio": 0.3}]}, small_inventory())
    (question,) = space.ratios
    assert question.leaf == Fixed(value=0.3)
    assert question.targets == ("stem", "body.a")


def test_parameter_names_are_unique() -> None:
    spec = {
        "groups": [{"match": "stem", "ratio": [0.1, 0.2], "tie": True}, {"match": "*", "ratio": [0.1, 0.2]}],
        "layers": [{"match": "*", "weight_bits": [2, 4], "activation_bits": [2, 4]}],
    }
    names = [question.name for question in parse_space(spec, small_inventory()).questions]
    assert len(set(names)) == len(names)
