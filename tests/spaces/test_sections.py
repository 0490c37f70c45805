"""Every key of a section has a default that its own check takes, and lands in the record it belongs to."""

from typing import Any

import pytest
from hand_made import small_inventory
from optuna.trial import FixedTrial

from paretune.errors import ParetuneError
from paretune.recipe import Joint, Keep, Masking, Penalty, Quantizing, Rate, Recipe, Recovery, Wanted
from paretune.spaces.language import parse_space
from paretune.spaces.sections import SECTIONS

RECORDS = {
    "recover": (Recovery,), "rate": (Rate,), "mask": (Masking, Wanted, Penalty), "keep": (Keep,),
    "quantize": (Quantizing,), "joint": (Joint,),
}  # fmt: skip
NO_FIELDS = ("quantize/weights", "quantize/activations", "quantize/ternary", "quantize/project", "joint/method")


def ask(spec: dict[str, Any], **params: Any) -> Recipe:
    return parse_space(spec, small_inventory()).ask(FixedTrial(params))


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in SECTIONS.items() for key in keys])
def test_every_default_passes_its_own_check(name: str, key: str) -> None:
    entry = SECTIONS[name][key]
    assert entry.check(entry.default) == ""
    assert entry.check(object()) != "", "a check that takes anything checks nothing"


FIELDS = [(name, key) for name in RECORDS for key in SECTIONS[name] if f"{name}/{key}" not in NO_FIELDS]


@pytest.mark.parametrize(("name", "key"), FIELDS)
def test_every_key_is_a_field_with_the_same_default(name: str, key: str) -> None:
    field = key.rsplit("/", 1)[-1]
    defaults = {
        found.name: found.default for kind in RECORDS[name] for found in kind.__dataclass_fields__.values()
    }  # fmt: skip
    assert field in defaults
    if field not in ("epochs", "lr"):  # of a recovery and a joint training, which have no defaults for them
        assert defaults[field] == SECTIONS[name][key].default


def test_an_empty_space_asks_for_the_records_defaults() -> None:
    recipe = ask({})
    assert (recipe.rate, recipe.keep, recipe.masking, recipe.reduce) == (Rate(), Keep(), Masking(), "mean")
    assert recipe.wanted == {}
    assert (recipe.quantizing, recipe.joint, recipe.encodings) == (Quantizing(), None, {})
    assert set(recipe.weight_quantizers.values()) == set(recipe.activation_quantizers.values()) == {"lsq"}


def test_a_rule_may_be_given_by_name_alone() -> None:
    assert ask({"rate": "knee"}).rate.rule == "knee"
    assert ask({"rate": ["uniform", "knee"]}, **{"rate/rule": "knee"}).rate.rule == "knee"


def test_nested_tables_are_searched_like_everything_else() -> None:
    spec = {"rate": {"rule": "knee", "knee": {"sensitivity": {"low": 0.5, "high": 10.0, "log": True}}}}
    assert ask(spec, **{"rate/knee/sensitivity": 2.5}).rate == Rate(rule="knee", sensitivity=2.5)


def test_whole_numbers_become_the_kind_of_number_that_is_meant() -> None:
    rate = ask({"rate": {"rule": "uniform", "ratio": 0, "knee": {"scale": 1}}}).rate
    assert (type(rate.ratio), type(rate.scale)) == (float, float)


def test_a_layer_row_asks_for_a_pattern_with_the_numbers_of_the_mask_section() -> None:
    spec = {
        "layers": [
            {"match": "head", "pattern": "channel"},
            {"match": "*", "pattern": ["channel", "pe_block"], "sparsity": [0.5, 0.75], "tie": True},
        ],
        "mask": {"block": 8, "layout": "filter", "schedule": "cubic"},
    }
    recipe = ask(spec, **{"pattern/*": "pe_block", "sparsity/*@index": 1})
    assert recipe.wanted == dict.fromkeys(
        ("stem", "body.a"), Wanted(kind="pe_block", sparsity=0.75, block=8, layout="filter")
    )  # fmt: skip
    assert recipe.masking == Masking(schedule="cubic")
    assert recipe.weight_bits == dict.fromkeys(("stem", "body.a", "head"), 32), "bits may be left out of a row"


def test_ratios_are_asked_for_only_if_a_rule_reads_them() -> None:
    groups = [{"match": "*", "ratio": {"low": 0.0, "high": 0.8}}]
    asked = {rule: parse_space({"groups": groups, "rate": rule}, small_inventory()) for rule in ("per_layer", "knee")}
    assert {"ratio/stem", "ratio/body.a"} <= set(asked["per_layer"].describe())
    assert asked["per_layer"].describe()["ratio/stem"] == "0.0 to 0.8"
    assert asked["knee"].describe()["ratio/stem"] == "0.0"
    scaled = parse_space(
        {"groups": groups, "rate": {"rule": "target", "target": {"of": "per_layer"}}}, small_inventory()
    )
    assert scaled.describe()["ratio/stem"] == "0.0 to 0.8"


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({"rate": {"knees": {}}}, "space.rate has no key 'knees'. Did you mean 'knee'"),
        ({"rate": {"knee": {"S": 1}}}, "space.rate.knee has no key 'S'.*Known: sensitivity, scale, drop, by"),
        ({"rate": {"knee": 3}}, "space.rate.knee: expected keys sensitivity"),
        ({"rate": {"ratio": 1.0}}, r"space.rate.ratio: a ratio is the share removed, in \[0, 1\), got 1.0"),
        ({"rate": {"target": {"share": 0}}}, r"space.rate.target.share: a target is a share in \(0, 1\]"),
        ({"rate": {"target": {"share": 1.5}}}, "space.rate.target.share"),
        ({"mask": {"scope": "net"}}, "space.mask.scope: scope is one of layer, global, got 'net'"),
        ({"mask": {"parts": 1}}, "parts are whole numbers, 2 or more, got 1"),
        ({"keep": {"multiple": 0}}, "space.keep.multiple: the multiple is a whole number, 1 or more, got 0"),
        ({"reduce": "median"}, "space.reduce: reduce is one of mean, sum, max, got 'median'"),
        ({"recover": {"mode": "frozen"}}, "mode is one of frozen_mask, ste_mask, bn_frozen"),
        ({"recover": {"alpha": 2}}, r"alpha is the teacher's share of the loss, in \[0, 1\], got 2"),
        ({"layers": [{"match": "*", "sparsity": 1.0}]}, "a sparsity is the share of weights removed"),
        ({"layers": [{"match": "*", "pattern": 2}]}, r"space.layers.pattern: a pattern is a name; quote N:M \('2:4'\)"),
        ({"layers": [{"match": "*", "pattern": True}]}, "space.layers.pattern: a pattern is a name, got True"),
    ],
)
def test_mistakes_name_their_key(spec: dict[str, Any], match: str) -> None:
    with pytest.raises(ParetuneError, match=match):
        ask(spec)
