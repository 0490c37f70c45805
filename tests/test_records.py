"""Every record survives JSON, and equal digests mean equal contents."""

import dataclasses
import hashlib
import importlib
import inspect
import json
from typing import Any

import pytest
from hand_made import small_inventory

from paretune.alike import Alike
from paretune.curve import Curve, Knee
from paretune.effects import Effect, Effects, Pair
from paretune.findings import Confirmation, Findings, MeasuredLatency, Objective, RungState, Trial
from paretune.inventory import Buffer, Layer, Product, Setting, Size
from paretune.outcome import Outcome, Rung
from paretune.plan import DENSE, Codes, GroupPlan, LayerPlan, Pattern, Plan
from paretune.profile import profile
from paretune.recipe import Blend, Joint, Penalty, Pruning, Quantizing, Recipe, Recovery, Wanted
from paretune.records import digest, from_plain, to_plain

INVENTORY = small_inventory()
PLAN = Plan(
    groups=(GroupPlan(group="stem", kept=(0, 2, 3)),),
    layers=(LayerPlan(layer="stem", weight_bits=4, activation_bits=8),),
    recovery=Recovery(epochs=3, lr=0.01, distill="logits"),
)
FAILED = Outcome(status="failed", values={}, seconds={}, reason="the loss became nan")
DONE = Outcome(
    status="done", values={"top1_error": 0.1}, seconds={"cut": 0.5}, rungs=(Rung(epochs=0, score=0.9),), reason=""
)
TRIAL = Trial(
    number=3, kind="search", label="", status="done", reason="", same_as=None, feasible=True, values={"bops": 1.0},
    rungs=DONE.rungs, seconds={}, params={"a": 1, "b": "l2", "c": 0.5}, plan=None,
)  # fmt: skip
COPY = dataclasses.replace(TRIAL, same_as=1, plan=PLAN)
CONFIRMED = Confirmation(
    trial=3,
    picked_by="knee",
    recover="kept",
    found=0.1,
    validated=(0.1,),
    confirmed=(0.1, 0.2),
    size_bytes=10,
    seeds=(),
)
LATENCY = MeasuredLatency(
    median_ms=0.2, low_ms=0.1, high_ms=0.3, dense_ms=0.4, ratio=0.5, threads=1, machine="m", onnxruntime="1.2.3"
)
TIMED = dataclasses.replace(CONFIRMED, latency=LATENCY)
QUALITY = Objective(name="top1_error", unit="share", definition="share of wrong answers")
CURVE = Curve(group="stem", criterion="l1", ratios=(0.0, 0.5), errors=(0.1, 0.4), chance=0.9)
ALIKE = Alike(criteria=("l1", "l2"), correlations=((1.0, 0.5), (0.5, 1.0)))
KNEE = Knee(group="stem", ratio=0.45, found=None, note="no knee")
FINDINGS = Findings(
    name="x", folder="y", objectives=(QUALITY,), budget={}, reference={"top1_error": 1.0}, trials=(TRIAL, COPY),
    curves=(CURVE,), knees=(KNEE,), alike=ALIKE, inventory=INVENTORY,
    provenance={"seed": 0, "nested": {"list": [1, None]}}, confirmations=(CONFIRMED,),
)  # fmt: skip
PATTERN = Pattern(kind="2:4", nonzeros=2, index_bytes=1, stored="AQ==")
RECIPE = Recipe(
    blends={"a": Blend(criteria=("l2",))},
    ratios={"stem": 0.5},
    weight_bits={"stem": 4},
    activation_bits={"stem": 8},
    recovery=PLAN.recovery,
)
BESIDE = dataclasses.replace(FINDINGS, rival=dataclasses.replace(FINDINGS, name="the rival"))
GROUP = INVENTORY.groups[0]
WANTED = Wanted(kind="2:4")
PRUNING = Pruning(
    schedule="cubic", rounds=3, epochs=5, lr=0.1, wanted={"stem": WANTED}, blends={"stem": RECIPE.blends["a"]}
)
MASKED = dataclasses.replace(PLAN, pruning=PRUNING, layers=(dataclasses.replace(PLAN.layers[0], pattern=PATTERN),))
CODES = Codes(nonzeros=2, distinct=3, entropy_bits=5, huffman_bits=6, gap_bits=2, entries=3)
JOINT = Joint(epochs=2, lr=0.1, weight_bits={"stem": 8}, activation_bits={}, done=True)
TRAINED = dataclasses.replace(
    PLAN,
    joint=JOINT,
    quantizing=Quantizing(steps=2),
    pruning=dataclasses.replace(PRUNING, penalty=Penalty(clip="rank")),
    layers=(dataclasses.replace(PLAN.layers[0], weight_quantizer="djpq", encoding="entropy", codes=CODES),),
)
SIZE = Size(dense=64, per_unit=(("stem", 16), ("body.a", 4)))
BUFFER = Buffer(numbers=SIZE, born=0, dies=2, readers=("stem",))
PRODUCT = Product(name="stem:scores", count=Size(dense=2), rows=SIZE, inner=SIZE, columns=SIZE)
WATCHED = dataclasses.replace(
    INVENTORY, products=(PRODUCT,), steps=("stem", "stem", "stem:scores"), buffers=(BUFFER,),
    operations=(("add", 2), ("relu", 1)), unsure=("stem:trilinear",),
)  # fmt: skip
HEADS = dataclasses.replace(GROUP, settings=(Setting(module="body", name="num_heads", per_unit=1),))
EFFECT = Effect(decision="ratio/stem", setting=0.5, loss=0.3, error=0.1, measured=False)
EFFECTS = Effects(
    loss=0.1, error=0.05, effects=(EFFECT,), images=8, note="coarse",
    pairs=(Pair(decisions=("ratio/stem", "ratio/body.a"), settings=(0.5, 0.25), loss=-0.1),),
)  # fmt: skip
RUNG = RungState(epochs=1, reached=9, judged=4, stopped=2, compared=5, correlation=None, bound=0.5, on=False)
EXAMPLES: list[Any] = [
    EFFECT, EFFECTS, *EFFECTS.pairs, RUNG,
    SIZE, BUFFER, PRODUCT, WATCHED, HEADS, *HEADS.settings,
    JOINT, TRAINED, RECIPE.quantizing, RECIPE.masking.penalty, *INVENTORY.layers, GROUP, GROUP.members[0],
    INVENTORY, DENSE, PLAN, MASKED, ALIKE, PATTERN, PRUNING, WANTED, CURVE, KNEE, RECIPE.blends["a"], RECIPE.rate,
    RECIPE.keep, RECIPE.masking, PLAN.groups[0], PLAN.layers[0], PLAN.recovery, RECIPE, profile(INVENTORY, PLAN)[0],
    FAILED, DONE, DONE.rungs[0], QUALITY, TRIAL, COPY, CONFIRMED, TIMED, LATENCY, FINDINGS, BESIDE,
]  # fmt: skip
MODULES = ("alike", "curve", "effects", "inventory", "plan", "profile", "recipe", "outcome", "findings")


def through_json(record: Any) -> Any:
    return from_plain(type(record), json.loads(json.dumps(to_plain(record))))


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_a_record_survives_json(record: Any) -> None:
    again = through_json(record)
    assert again == record
    assert digest(again) == digest(record)


def test_every_record_of_the_ground_floor_is_among_the_examples() -> None:
    modules = [importlib.import_module(f"paretune.{name}") for name in MODULES]
    classes = {cls for module in modules for _, cls in inspect.getmembers(module, dataclasses.is_dataclass)}
    assert {cls for cls in classes if isinstance(cls, type)} == {type(example) for example in EXAMPLES}


def test_none_and_nested_records_come_back_as_what_they_were() -> None:
    assert through_json(INVENTORY.layer["stem"]).norm == "stem.bn"
    assert through_json(INVENTORY.layer["head"]).norm is None
    assert through_json(TRIAL).plan is None
    assert through_json(COPY).plan == PLAN
    assert through_json(COPY).same_as == 1
    units = through_json(INVENTORY).groups[1].members[2].units
    assert units[1] == (4, 5, 6, 7)
    assert isinstance(units, tuple)


def test_cached_properties_are_not_stored() -> None:
    inventory = small_inventory()
    before = to_plain(inventory)
    assert inventory.cuts["head"]
    assert to_plain(inventory) == before


def test_a_digest_does_not_depend_on_the_order_of_keys_and_stays_the_same() -> None:
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert digest({"b": [2, 3], "a": 1}) == hashlib.sha256(b'{"a":1,"b":[2,3]}').hexdigest()[:16]


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(PLAN, groups=()),
        dataclasses.replace(PLAN, groups=(GroupPlan(group="stem", kept=(0, 2)),)),
        dataclasses.replace(PLAN, groups=(GroupPlan(group="body.a", kept=(0, 2, 3)),)),
        dataclasses.replace(PLAN, layers=(LayerPlan(layer="stem", weight_bits=8, activation_bits=4),)),
        dataclasses.replace(PLAN, recovery=Recovery(epochs=3, lr=0.010000001, distill="logits")),
        dataclasses.replace(PLAN, recovery=Recovery(epochs=4, lr=0.01, distill="logits")),
        dataclasses.replace(PLAN, recovery=Recovery(epochs=3, lr=0.01)),
    ],
)
def test_a_digest_changes_when_anything_does(other: Plan) -> None:
    assert digest(other) != digest(PLAN)
    assert other.key != PLAN.key


def test_an_unknown_field_is_not_dropped_silently() -> None:
    with pytest.raises((TypeError, KeyError), match="colour"):
        from_plain(Layer, {**to_plain(INVENTORY.layers[0]), "colour": "red"})


def test_what_is_none_by_default_and_in_fact_is_not_written() -> None:
    """A long study reads a hundred thousand layer plans; most have no pattern."""
    assert "pattern" not in to_plain(PLAN.layers[0])
    assert to_plain(MASKED.layers[0])["pattern"] == to_plain(PATTERN)
    assert to_plain(TRIAL)["plan"] is None, "a field without a default is written"


def test_codes_are_written_as_a_list_and_come_back_as_what_they_were() -> None:
    assert to_plain(TRAINED.layers[0])["codes"] == [2, 3, 5, 6, 2, 3]
    assert through_json(TRAINED).layers[0].codes.huffman_bits == 6


def test_a_quiet_field_is_written_only_if_it_has_not_its_default() -> None:
    assert {"weight_quantizer", "activation_quantizer", "encoding"}.isdisjoint(to_plain(PLAN.layers[0]))
    assert to_plain(TRAINED.layers[0])["weight_quantizer"] == "djpq"
    assert "activation_quantizer" not in to_plain(TRAINED.layers[0])
    assert to_plain(PLAN.recovery)["distill"] == "logits"
    assert to_plain(Recovery(epochs=1, lr=0.1))["distill"] == "none", "other defaults are written"
