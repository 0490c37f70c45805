"""A trial looked at on its way goes on as if nobody had looked, or stops and says why; and how a study judges it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_task import TinyNet, tiny_task
from torch import Tensor

from paretune.conf.settings import parse_settings
from paretune.export.pack import pack
from paretune.findings import Trial
from paretune.outcome import Rung
from paretune.plan import DENSE, GroupPlan, LayerPlan, Plan
from paretune.recipe import Blend, Joint, Pruning, Recovery, Wanted
from paretune.search.bench import Bench, lay_out
from paretune.search.driver import Driver
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


def cut_to(count: int) -> Plan:
    return Plan(groups=(GroupPlan(group="conv1", kept=tuple(range(count))),), recovery=TUNE)


def driver_of(bench: Bench, objectives: tuple[str, ...]) -> Driver:
    """A study in which the thicker a trial was, the better; measured latency says nothing of that."""
    settings = parse_settings({
        "task": {}, "space": {}, "hardware": {}, "objectives": list(objectives), "budget": {}, "sampler": "random",
        "study": {"name": "tiny", "trials": 9}, "results_dir": "results",
        "rungs": {"epochs": [0, 1], "minimum": 3, "eta": 2.0, "correlation": -1.0},
    })  # fmt: skip
    rows = [
        Trial(
            number=number, kind="search", label="", status="done", reason="", same_as=None, feasible=True,
            values={"top1_error": error, "latency_ms": 1.0}, rungs=(Rung(epochs=0, score=error),), seconds={},
            params={}, plan=cut_to(count),
        )
        for number, (error, count) in enumerate([(0.3, 3), (0.25, 4), (0.2, 5)])
    ]  # fmt: skip
    parts: dict[str, Any] = dict.fromkeys(("study", "space", "planner", "known", "keeping", "curve"))
    return Driver(settings=settings, bench=bench, starts=(), fixed={}, rows=rows, **parts)


@pytest.mark.parametrize("objectives", [("top1_error", "latency_ms"), ("top1_error", "macs")])
def test_a_study_judges_latency_by_macs(bench: Bench, objectives: tuple[str, ...]) -> None:
    """Latency is not known before the end; by quality alone the thick one would go on and the thin one stop."""
    driver = driver_of(bench, objectives)

    def answer(count: int, score: float) -> str | None:
        plan = cut_to(count)
        return driver._gate("search", plan, driver._static(plan)).judge(0, score)

    assert "latency_ms" not in driver._static(cut_to(2))
    assert answer(7, 0.22) == "after 0 epochs it was number 4 of 4, and 2 go on"
    assert answer(2, 0.28) == ""


def test_a_study_judges_nothing_whose_costs_training_finds(bench: Bench) -> None:
    driver = driver_of(bench, ("top1_error", "macs"))
    start = dict.fromkeys(LAYERS, 8)
    joint = quantized(joint=Joint(epochs=1, lr=0.02, weight_bits=start, activation_bits=start))
    assert driver._gate("search", joint, driver._static(joint)).epochs == ()
    assert driver._gate("search", quantized(), driver._static(quantized())).epochs == (0, 1)
