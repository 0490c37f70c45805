"""Plans with quantizers, evaluated: what training finds is on record, can be had again, and budgets on it hold."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_task import tiny_task
from torch import Tensor

from paretune.compress.coded import codes_of
from paretune.compress.quantizers import WEIGHTS
from paretune.costs.table import CODED, COSTS, MASKED, static_costs
from paretune.errors import ParetuneError
from paretune.export.pack import layout, pack, unpack
from paretune.plan import GroupPlan, LayerPlan, Plan
from paretune.profile import profile
from paretune.recipe import Blend, Joint, Penalty, Pruning, Quantizing, Recovery, Wanted
from paretune.records import from_plain, to_plain
from paretune.search import evaluate as evaluate_module
from paretune.search.bench import Bench, lay_out
from paretune.search.driver import unknown_before_training
from paretune.search.evaluate import Trained, evaluate
from paretune.tasks.memory import InMemory
from paretune.tasks.task import Task

LAYERS = ("conv1", "conv2", "head")
TUNE = Recovery(epochs=1, lr=0.02)
BLEND = Blend(criteria=("l1",))
BLOCK = Wanted(kind="pe_block", block=4)


def layers(**more: Any) -> tuple[LayerPlan, ...]:
    return tuple(LayerPlan(layer=name, **more) for name in LAYERS)


def rounded(weights: str = "lsq", bits: int = 4, activations: str = "lsq", **more: Any) -> Plan:
    rows = layers(weight_bits=bits, activation_bits=8, weight_quantizer=weights, activation_quantizer=activations)
    return Plan(**{"layers": rows, "recovery": TUNE} | more)


def pruned(schedule: str, wanted: Wanted, quantizer: str, penalty: Penalty | None = None) -> Plan:
    pruning = Pruning(
        schedule=schedule, rounds=2, epochs=2, lr=0.02, wanted={"conv2": wanted}, blends={"conv2": BLEND},
        penalty=penalty,
    )  # fmt: skip
    return rounded(quantizer, 2, pruning=pruning)


def joint(bits: str = "free", **more: Any) -> Plan:
    start = dict.fromkeys(LAYERS, 8)
    asked = Joint(epochs=3, lr=0.02, rate=0.3, beta=30.0, weight_bits=start, activation_bits=start, bits=bits, **more)
    return rounded("djpq", 8, "djpq", joint=asked)


OPEN = {
    "joint": joint(),
    "restricted": joint("power_of_two", exponent=0),
    "clipped_lasso": pruned("clipped_lasso", BLOCK, "ternary", Penalty(strength=0.3)),
    "group_lasso": pruned("group_lasso", BLOCK, "ternary", Penalty(strength=0.3)),
    "normalised": pruned("normalised", Wanted(kind="unstructured", sparsity=0.5), "prune_ternary"),
}
CUT = replace(rounded(), groups=(GroupPlan(group="conv1", kept=(0, 2, 5)),))
FLOATS = Plan(layers=layers(), groups=CUT.groups, recovery=TUNE)
CLOSED = {
    **{name: rounded(name, min(4, method.most)) for name, method in WEIGHTS.items()},
    "one bit": rounded("dorefa", 1),
    "pact": rounded(activations="pact", quantizing=Quantizing(decay=0.01)),
    "cut": CUT,
    "entropy": replace(CUT, layers=layers(weight_bits=3, encoding="entropy")),
    "float": FLOATS,
}
PLANS = OPEN | CLOSED


@pytest.fixture(scope="module")
def bench() -> Bench:
    return lay_out(tiny_task())


@pytest.fixture(scope="module")
def trained(bench: Bench) -> dict[str, Trained]:
    """Every plan, carried out once."""
    return {name: evaluate(plan, bench, seed=0) for name, plan in PLANS.items()}


def same(one: Trained, other: Trained) -> None:
    assert one.outcome.values == other.outcome.values
    assert one.plan == other.plan
    assert one.frozen is not None
    assert other.frozen is not None
    for name, layer in one.frozen.layers.items():
        np.testing.assert_array_equal(layer.codes, other.frozen.layers[name].codes)


@pytest.mark.parametrize("name", PLANS)
def test_the_returned_plan_knows_its_codes_and_what_was_asked(trained: dict[str, Trained], name: str) -> None:
    found = trained[name]
    assert found.outcome.status == "done", found.outcome.reason
    assert not found.plan.open
    assert found.frozen is not None
    for row in found.plan.layers:
        assert row.codes == codes_of(found.frozen.layers[row.layer])
    assert found.plan.asked.key == PLANS[name].asked.key
    if name != "float":
        assert found.plan.asked == PLANS[name]
        assert found.plan.asked.key == PLANS[name].key
    assert found.plan.key != PLANS[name].key
    assert from_plain(Plan, json.loads(json.dumps(to_plain(found.plan)))) == found.plan


@pytest.mark.parametrize("name", PLANS)
def test_the_told_size_is_that_of_the_file(trained: dict[str, Trained], bench: Bench, name: str) -> None:
    found = trained[name]
    assert found.frozen is not None
    blob = pack(found.frozen)
    size = found.outcome.values["size_bytes"]
    assert abs(size - len(blob)) <= max(256, 0.01 * len(blob))
    assert found.outcome.values == {
        "top1_error": found.outcome.values["top1_error"], **static_costs(profile(bench.inventory, found.plan)),
    }  # fmt: skip
    back = unpack(blob, json.loads(json.dumps(layout(found.frozen))))
    for layer, frozen in found.frozen.layers.items():
        np.testing.assert_array_equal(back.layers[layer].codes, frozen.codes)


@pytest.mark.parametrize("name", OPEN)
def test_what_was_found_is_not_searched_again(
    trained: dict[str, Trained], bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was searched again")

    monkeypatch.setattr(evaluate_module, "found_masks", never)
    monkeypatch.setattr(evaluate_module, "find_jointly", never)
    found = trained[name]
    again = evaluate(found.plan, bench, seed=0)
    assert again.outcome.status == "done", again.outcome.reason
    assert "prune" not in again.outcome.seconds
    assert again.plan.groups == found.plan.groups
    told = [[(row.layer, row.weight_bits, row.activation_bits, row.pattern) for row in one.plan.layers]
            for one in (found, again)]  # fmt: skip
    assert told[0] == told[1]
    assert again.plan.asked == found.plan.asked


@pytest.mark.parametrize("name", OPEN)
def test_asking_again_finds_the_same(trained: dict[str, Trained], bench: Bench, name: str) -> None:
    same(evaluate(trained[name].plan.asked, bench, seed=0), trained[name])


def test_a_joint_training_finds_bits_and_channels(trained: dict[str, Trained], bench: Bench) -> None:
    free, powers = (trained[name] for name in ("joint", "restricted"))
    for found in (free, powers):
        assert found.plan.joint is not None
        assert found.plan.joint.done
        assert found.outcome.values["bops"] < static_costs(profile(bench.inventory, rounded(bits=8)))["bops"]
        assert any(row.weight_bits < 8 for row in found.plan.layers)
        assert found.frozen is not None
        assert all(layer.weight_bits == found.plan.bits[name].weight_bits
                   for name, layer in found.frozen.layers.items())  # fmt: skip
    assert all({row.weight_bits, row.activation_bits} <= {2, 4, 8} for row in powers.plan.layers)


def test_a_pattern_is_found_and_holds_all_that_is_left(trained: dict[str, Trained]) -> None:
    kinds = {"clipped_lasso": "pe_block", "group_lasso": "pe_block", "normalised": "unstructured"}
    for name, kind in kinds.items():
        (row,) = (row for row in trained[name].plan.layers if row.layer == "conv2")
        assert row.pattern is not None
        assert row.codes is not None
        assert row.pattern.kind == kind
        assert row.codes.nonzeros <= row.pattern.nonzeros
        assert row.codes.distinct <= 3
    assert trained["normalised"].plan.bits["conv2"].pattern.nonzeros == 288  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["lsq", "inq", "prune_ternary", "codebook", "joint", "clipped_lasso"])
def test_a_budget_that_holds_changes_nothing(trained: dict[str, Trained], bench: Bench, name: str) -> None:
    """The look at the costs before the fine-tuning leaves the model as it was."""
    same(evaluate(PLANS[name], bench, seed=0, limits={"size_bytes": 1e6}), trained[name])


@pytest.mark.parametrize("name", ["lsq", "joint", "normalised"])
def test_a_budget_that_is_far_exceeded_saves_the_fine_tuning(
    trained: dict[str, Trained], bench: Bench, name: str
) -> None:
    size = trained[name].outcome.values["size_bytes"]
    over = evaluate(PLANS[name], bench, seed=0, limits={"size_bytes": size / 2})
    assert over.outcome.status == "over_budget"
    assert over.outcome.reason.startswith("before the fine-tuning size_bytes ")
    assert over.outcome.reason.endswith(f" > {size / 2:g}")
    assert set(over.outcome.values) == set(static_costs(()))  # no hardware is named here
    assert over.outcome.values["size_bytes"] > size / 2
    assert "finetune" not in over.outcome.seconds
    assert [rung.epochs for rung in over.outcome.rungs] == [0]
    assert over.frozen is None
    assert not over.plan.open
    assert over.plan.asked == PLANS[name]


def test_a_budget_that_is_slightly_exceeded_is_trained_for(trained: dict[str, Trained], bench: Bench) -> None:
    limit = trained["lsq"].outcome.values["size_bytes"] / 1.1
    same(evaluate(PLANS["lsq"], bench, seed=0, limits={"size_bytes": limit}), trained["lsq"])


def test_without_a_fine_tuning_there_is_nothing_to_save(bench: Bench) -> None:
    plan = replace(PLANS["lsq"], recovery=Recovery(epochs=0, lr=0.02))
    assert evaluate(plan, bench, seed=0, limits={"size_bytes": 1.0}).outcome.status == "done"


def test_a_codebook_larger_than_a_layer_is_a_failed_trial(bench: Bench) -> None:
    found = evaluate(rounded("codebook", 8), bench, seed=0)
    assert found.outcome.status == "failed"
    assert found.outcome.reason.startswith("ImpossiblePlan: ")
    assert "codebook" in found.outcome.reason
    assert "72" in found.outcome.reason  # the weights of conv1
    assert found.frozen is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (layers(weight_bits=8, encoding="ternary"), "layer 'conv1' cannot be stored as 'ternary'; what fits it: cheap"),
        (layers(weight_bits=8, encoding="n:m"), "layer 'conv1' cannot be stored as 'n:m'"),
        (layers(weight_bits=1), "the quantizer 'lsq' of weights has 2 to 8 bits, got 1; for 1 use dorefa, codebook"),
    ],
)
def test_a_plan_that_cannot_be_stored_is_a_failed_trial(
    bench: Bench, rows: tuple[LayerPlan, ...], message: str
) -> None:
    found = evaluate(Plan(layers=rows, recovery=TUNE), bench, seed=0)
    assert found.outcome.status == "failed"
    assert message in found.outcome.reason


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("joint", set(COSTS)),
        ("lsq", set(CODED)),
        ("clipped_lasso", set(MASKED)),
        ("normalised", set(CODED)),
        ("float", set()),
    ],
)
def test_what_is_not_known_before_the_training(trained: dict[str, Trained], name: str, unknown: set[str]) -> None:
    assert set(unknown_before_training(PLANS[name])) == unknown
    if name == "joint":  # a replay of what was found knows what its channels and bits cost
        assert set(unknown_before_training(trained[name].plan)) == set(CODED)


def test_masks_in_float_are_unknown_under_a_penalty_or_one_threshold_only() -> None:
    def floats(**more: Any) -> Plan:
        plan = pruned("geometric", Wanted(kind="unstructured", sparsity=0.5), "lsq")
        assert plan.pruning is not None
        return replace(plan, layers=layers(), pruning=replace(plan.pruning, **more))

    assert set(unknown_before_training(floats())) == set()
    assert set(unknown_before_training(floats(scope="global"))) == set(MASKED)
    assert set(unknown_before_training(floats(penalty=Penalty()))) == set(MASKED)


# Calibration data.


def with_train(inputs: Tensor) -> Task:
    task = tiny_task()
    targets = torch.arange(len(inputs)) % 3
    return replace(task, train=InMemory(inputs=inputs, targets=targets, batch=32))


def test_an_empty_training_split_is_refused() -> None:
    with pytest.raises(ParetuneError, match="the training split of task 'tiny' is empty, so there is nothing to cal"):
        lay_out(with_train(torch.zeros(0, 1, 6, 6)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_calibration_inputs_that_are_no_numbers_are_counted_and_refused(value: float) -> None:
    inputs = torch.zeros(64, 1, 6, 6)
    inputs[3, 0, 2, 2] = inputs[3, 0, 2, 3] = inputs[17, 0, 0, 0] = value
    with pytest.raises(ParetuneError, match="2 of 64 calibration inputs of task 'tiny' hold NaN or infinity") as said:
        lay_out(with_train(inputs))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", OPEN)
def test_the_time_limit_holds_while_training_finds_something(bench: Bench, name: str) -> None:
    plan = OPEN[name]
    if plan.joint is not None:
        plan = replace(plan, joint=replace(plan.joint, epochs=3000))
    else:
        assert plan.pruning is not None
        plan = replace(plan, pruning=replace(plan.pruning, epochs=3000))
    found = evaluate(plan, bench, seed=0, minutes=0.2 / 60)
    assert found.outcome.status == "failed"
    assert found.outcome.reason.startswith("OutOfTime")
    assert found.outcome.values == {}  # nobody knows yet what it will cost
    assert found.plan.open


@pytest.mark.parametrize("bits", [2, 3])
def test_activations_are_rounded_in_what_is_trained_and_in_what_is_scored(bench: Bench, bits: int) -> None:
    """With float weights and no training only the activations can make a difference."""
    plans = [Plan(layers=layers(activation_bits=a), recovery=Recovery(epochs=0, lr=0.02)) for a in (bits, 32)]
    found = [evaluate(plan, bench, seed=0) for plan in plans]
    inputs = next(iter(bench.task.val.batches(None)))[0]
    one, other = (trained.model(inputs) for trained in found if trained.model is not None)
    assert not torch.allclose(one, other)
    for trained in found:  # what would be trained computes what is packed
        assert [rung.score for rung in trained.outcome.rungs] == [trained.outcome.values["top1_error"]]
