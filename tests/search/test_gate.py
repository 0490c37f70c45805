"""A trial looked at on its way goes on as if nobody had looked, or stops and says why."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_task import TinyNet, tiny_task
from torch import Tensor

from paretune.export.pack import pack
from paretune.outcome import Rung
from paretune.plan import DENSE, GroupPlan, LayerPlan, Plan
from paretune.recipe import Blend, Pruning, Recovery, Wanted
from paretune.search.bench import Bench, lay_out
from paretune.search.evaluate import Trained, evaluate
from paretune.search.gate import Gate

LAYERS = ("conv1", "conv2", "head")
TUNE = Recovery(epochs=3, lr=0.02)
CUT = (GroupPlan(group="conv1", kept=(0, 2, 5)),)
EVERY = (0, 1, 2)


class Forgetful(TinyNet):
    """Drops out: what a look draws from the random state would show."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.2, self.training))


def quantized(**more: Any) -> Plan:
    rows = tuple(LayerPlan(layer=name, weight_bits=4, activation_bits=8) for name in LAYERS)
    return Plan(**{"layers": rows, "recovery": TUNE} | more)


def found_in_training() -> Plan:
    wanted = {"conv2": Wanted(kind="unstructured", sparsity=0.5)}
    pruning = Pruning(
        schedule="cubic", rounds=2, epochs=2, lr=0.02, wanted=wanted, blends={"conv2": Blend(criteria=("l1",))}
    )
    return quantized(pruning=pruning, recovery=replace(TUNE, mode="ste_mask"))


PLANS = {
    "plain": replace(DENSE, recovery=TUNE),
    "cut": Plan(groups=CUT, recovery=TUNE),
    "distilled": Plan(groups=CUT, recovery=replace(TUNE, distill="logits")),
    "frozen norms": Plan(groups=CUT, recovery=replace(TUNE, mode="bn_frozen")),
    "masks found in training": found_in_training(),
    "quantized": quantized(groups=CUT),
}


@pytest.fixture(scope="module")
def bench() -> Bench:
    task = tiny_task()
    forgetful = Forgetful()
    forgetful.load_state_dict(task.model.state_dict())
    return lay_out(replace(task, model=forgetful.eval()))


def go_on(epochs: int, score: float) -> str:
    return ""


def stop_at(last: int) -> Gate:
    return Gate(epochs=EVERY, judge=lambda epochs, score: "no hope" if epochs == last else None)


def same(one: Trained, other: Trained) -> None:
    """Bit by bit what an artifact would hold, and every value."""
    assert one.outcome.status == other.outcome.status == "done"
    assert one.outcome.values == other.outcome.values
    assert one.plan == other.plan
    assert one.frozen is not None
    assert other.frozen is not None
    assert pack(one.frozen) == pack(other.frozen)
    assert one.model is not None
    assert other.model is not None
    for (name, mine), (_, its) in zip(one.model.state_dict().items(), other.model.state_dict().items(), strict=True):
        assert torch.equal(mine, its), name


@pytest.mark.parametrize("name", PLANS)
def test_a_look_that_lets_go_on_changes_nothing(bench: Bench, name: str) -> None:
    alone = evaluate(PLANS[name], bench, seed=3)
    looked = evaluate(PLANS[name], bench, seed=3, gate=Gate(epochs=EVERY, judge=go_on))
    same(looked, alone)
    assert [rung.epochs for rung in looked.outcome.rungs] == [0, 1, 2, 3]
    assert [rung.epochs for rung in alone.outcome.rungs] == [0, 3]
    assert [rung.judged for rung in looked.outcome.rungs] == [True, True, True, False]
    assert (looked.outcome.rungs[0].score, looked.outcome.rungs[-1]) == (
        alone.outcome.rungs[0].score,
        alone.outcome.rungs[-1],
    )


def test_a_rung_after_one_epoch_scores_what_is_trained_so_far(bench: Bench) -> None:
    """With one epoch left out of the schedule nothing would be learned, so it is another score than at 0."""
    rungs = evaluate(PLANS["cut"], bench, seed=3, gate=Gate(epochs=EVERY)).outcome.rungs
    assert len({rung.score for rung in rungs}) > 1
    assert not any(rung.judged for rung in rungs)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("last", [0, 1])
def test_a_stopped_trial_has_costs_and_a_reason_but_no_quality_and_no_weights(
    bench: Bench, name: str, last: int
) -> None:
    found = evaluate(PLANS[name], bench, seed=3, gate=stop_at(last))
    assert (found.outcome.status, found.outcome.reason) == ("stopped", "no hope")
    assert "macs" in found.outcome.values
    assert "top1_error" not in found.outcome.values
    assert found.frozen is None
    assert found.model is None
    assert [rung.epochs for rung in found.outcome.rungs] == list(range(last + 1))
    assert found.outcome.rungs[-1].judged
    assert found.plan.asked == PLANS[name].asked


def test_nobody_is_asked_at_the_end_of_a_trial(bench: Bench) -> None:
    asked: list[int] = []

    def judge(epochs: int, score: float) -> str:
        asked.append(epochs)
        return ""

    for epochs in (0, 1):
        plan = Plan(groups=CUT, recovery=replace(TUNE, epochs=epochs))
        rungs = evaluate(plan, bench, seed=3, gate=Gate(epochs=(0, 1, 2), judge=judge)).outcome.rungs
        assert not rungs[-1].judged
    assert asked == [0]


def test_a_gate_elsewhere_is_not_asked(bench: Bench) -> None:
    rungs = evaluate(PLANS["cut"], bench, seed=3, gate=Gate(epochs=(2,), judge=go_on)).outcome.rungs
    assert [(rung.epochs, rung.judged) for rung in rungs] == [(0, False), (2, True), (3, False)]
    assert all(isinstance(rung, Rung) for rung in rungs)


def test_seconds_of_a_look_are_not_those_of_the_training(bench: Bench) -> None:
    """Stages are told apart, so they add up to no more than the trial."""
    seconds = evaluate(PLANS["cut"], bench, seed=3, gate=Gate(epochs=EVERY)).outcome.seconds
    assert set(seconds) == {"cut", "quantize", "recalibrate", "score", "finetune", "freeze"}
    assert all(spent >= 0 for spent in seconds.values())
