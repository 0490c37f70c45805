"""Whole studies over quantizers: budgets, resumes, and what is shipped."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_task import tiny_task

from paretune.costs.table import static_costs
from paretune.export.pack import pack
from paretune.plan import Plan
from paretune.profile import profile
from paretune.search import confirm
from paretune.search import driver as driver_module
from paretune.search import evaluate as evaluate_module
from paretune.search import read as read_module
from paretune.search.bench import lay_out
from paretune.search.confirm import read_settings
from paretune.search.evaluate import Trained, evaluate
from paretune.search.show import show_storage
from paretune.search.store import load_study
from paretune.search.study import Study, run_study

SPACE = {
    "groups": [{"match": "*", "ratio": [0.0, 0.5], "tie": True}],
    "layers": [{"match": "*", "weight_bits": ["ternary", 4, 8], "tie": True}],
    "activation_bits": 8,
    "recover": {"epochs": 1, "lr": 0.02, "images": 96},
}
BUDGET = {"size_bytes": 350}


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page takes half the time of so small a study."""
    monkeypatch.setattr(read_module, "write_page", lambda findings, folder: folder / "report.html")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("coded") / "tiny"
    return run_study(
        tiny_task(), space=SPACE, trials=18, sampler="random", budget=BUDGET, keep="front", out=folder
    )  # fmt: skip


def test_trials_far_over_a_budget_on_bytes_are_told_as_infeasible(study: Study) -> None:
    trials = study.findings().trials
    over = [trial for trial in trials if trial.status == "over_budget" and trial.same_as is None]
    assert over
    stored = load_study(study.folder)
    for trial in over:
        assert "finetune" not in trial.seconds
        assert trial.reason.startswith("before the fine-tuning size_bytes")
        constraint = stored.trials[trial.number].constraints["size_bytes"]
        assert constraint == pytest.approx(trial.values["size_bytes"] / 350 - 1)
        assert constraint > 0.25
    assert not [trial for trial in over if trial.kind == "control"]  # those are always trained
    assert all(trial.values["size_bytes"] <= 350 for trial in study.findings().front)
    assert study.findings().front


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    def counted(plan: Plan, *args: Any, **kwargs: Any) -> Trained:
        calls.append(plan.asked.key)
        return evaluate(plan, *args, **kwargs)

    monkeypatch.setattr(driver_module, "evaluate", counted)
    return calls


@pytest.mark.usefixtures("no_page")
def test_a_resumed_study_knows_the_plans_it_has_trained(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(study.folder, tmp_path / "tiny")
    before = {trial.plan.asked.key for trial in study.findings().trials if trial.plan is not None}
    assert len(before) == 6 + 1  # every point of the space, and dense
    calls = counting(monkeypatch)
    after = run_study(
        study.task, space=SPACE, trials=24, sampler="random", budget=BUDGET, keep="front", out=folder
    )  # fmt: skip
    assert calls == []
    for trial in after.findings().trials[18:]:
        assert trial.same_as is not None
        assert trial.values == after.findings().trials[trial.same_as].values


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(
    "space",
    [
        {"groups": SPACE["groups"], "recover": {"epochs": 1, "lr": 0.02, "images": 96}},
        {"layers": [{"match": "*", "weight_bits": 8, "activation_bits": 8}], "recover": {"epochs": 1, "images": 96},
         "quantize": {"weights": "djpq", "activations": "djpq"},
         "joint": {"method": "djpq", "epochs": 2, "beta": [1.0, 3.0]}},
        {"layers": [{"match": "*", "weight_bits": "ternary", "pattern": "pe_block", "sparsity": 0.0}],
         "mask": {"schedule": "clipped_lasso", "epochs": 2, "block": 4, "penalty": {"clip": ["mean", "mix"]}},
         "recover": {"epochs": 1, "images": 96}},
    ],
    ids=["float", "joint", "lasso"],
)  # fmt: skip
def test_no_plan_is_trained_twice(space: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(monkeypatch)
    for trials in (5, 9):
        study = run_study(tiny_task(), space=space, trials=trials, sampler="random", out=tmp_path / "tiny")
    assert len(calls) == len(set(calls)) == 2 + 1
    assert all(trial.same_as is not None for trial in study.findings().trials[3:])


@pytest.mark.usefixtures("no_page")
def test_an_encoding_that_does_not_fit_the_bits_drawn_fails_its_trial_alone(tmp_path: Path) -> None:
    rows = [{"match": "*", "weight_bits": [2, 8], "encoding": ["ternary", "cheapest"], "tie": True}]
    study = run_study(
        tiny_task(), space={"layers": rows, "recover": {"epochs": 0, "images": 96}}, trials=14, sampler="random",
        budget={"size_bytes": 5000}, seeds={"count": 0}, out=tmp_path / "tiny",
    )  # fmt: skip
    trials = study.findings().trials
    assert len(trials) >= 1 + 3  # dense, and every point that has a plan
    failed = [trial for trial in trials if trial.status == "failed"]
    assert failed
    assert all("cannot be stored as 'ternary'" in trial.reason for trial in failed)
    assert "prune" not in failed[0].seconds
    assert any(trial.status == "done" for trial in trials if trial.kind == "search")


# From a study to files.

MIXED = {
    "layers": [{"match": "*", "weight_bits": 8, "activation_bits": 8}],
    "quantize": {"weights": "djpq", "activations": "djpq"},
    "joint": {"method": "djpq", "epochs": 3, "rate": 0.3, "beta": [30.0, 3.0]},
    "recover": {"epochs": 1, "lr": 0.02, "images": 96},
}


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("joint") / "tiny"
    return run_study(
        tiny_task(), space=MIXED, trials=3, sampler="random", keep="all", full_epochs=2, out=folder,
        objectives=("top1_error", "bops"),
    )  # fmt: skip


def test_weights_that_were_dropped_come_back(joined: Study, tmp_path: Path) -> None:
    trial = joined.findings().trials[1]
    bench, settings = lay_out(joined.task), read_settings(joined.folder)  # type: ignore[arg-type]
    (read,), (again,) = (confirm._kept(folder, trial, bench, settings) for folder in (joined.folder, tmp_path))
    assert read.plan == again.plan == trial.plan
    assert read.validated == again.validated == trial.values["top1_error"]
    assert read.confirmed == again.confirmed
    assert pack(read.frozen) == pack(again.frozen)


def test_full_recovery_keeps_the_channels_and_bits_that_were_found(
    joined: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was searched again")

    monkeypatch.setattr(evaluate_module, "find_jointly", never)
    trial = joined.findings().trials[1]
    bench, settings = lay_out(joined.task), read_settings(joined.folder)  # type: ignore[arg-type]
    replays = confirm._full(trial, bench, settings)
    assert [replay.seed for replay in replays] == [1, 2, 3]
    for replay in replays:
        assert replay.plan.recovery.epochs == 2
        costs = static_costs(profile(bench.inventory, replay.plan))
        assert {name: costs[name] for name in ("params", "macs", "bops")} == {
            name: trial.values[name] for name in ("params", "macs", "bops")
        }


@pytest.mark.usefixtures("no_page")
def test_a_joint_trial_is_shipped(
    joined: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its kept weights, with a PyTorch program, and a table of how every layer is stored."""
    trial = joined.findings().trials[1]
    verdict = joined.export("trial=1", tmp_path / "model", pt2=True, latency=False)
    assert verdict.ok, verdict.message
    assert "0 of 120 predictions differ" in " ".join(verdict.message)
    assert (tmp_path / "model" / "model.pt2").is_file()
    confirmation = joined.findings().confirmations[-1]
    assert confirmation.validated == (trial.values["top1_error"],)
    assert confirmation.size_bytes == trial.values["size_bytes"]

    monkeypatch.setenv("COLUMNS", "160")
    show_storage(tmp_path / "model")
    out = capsys.readouterr().out
    rows = json.loads((tmp_path / "model" / "scores.json").read_text())["storage"]
    assert {row["layer"] for row in rows} == {"conv1", "conv2", "head"}
    assert "How the weights are stored" in out
    for row in rows:
        assert row["weight_bits"] == trial.plan.bits[row["layer"]].weight_bits  # type: ignore[union-attr]
        (line,) = (line for line in out.splitlines() if f" {row['layer']} " in line)
        assert {row["encoding"], f"{row['weights']:,}", f"{row['nonzeros']:,}", f"{row['stored']:,}"} <= {*line.split()}
        assert f"{8 * row['stored'] / row['weights']:.2f}" in line
    assert f"{sum(row['stored'] for row in rows):,}" in out.splitlines()[-1]
