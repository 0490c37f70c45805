"""A whole study in one process: what is written, what is remembered, what is refused, and the way out."""

import json
import logging
import math
import time
from dataclasses import replace

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from tiny_task import tiny_task

from paretune.errors import ParetuneError
from paretune.plan import DENSE
from paretune.samplers.table import SAMPLERS
from paretune.search import driver as driver_module
from paretune.search import known as known_module
from paretune.search.bench import lay_out
from paretune.search.evaluate import evaluate
from paretune.search.folder import kept_folder
from paretune.search.read import read_findings
from paretune.search.store import load_study
from paretune.search.study import run_study
from paretune.tasks.task import misclassified

SPACE = {
    "groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.75, "step": 0.25}}],
    "layers": [{"match": "*", "weight_bits": [2, 4, 8]}],
    "activation_bits": [4, 8],
    "criterion": "l2",
    "recover": {"epochs": 1, "lr": 0.02},
}
BUDGET = {"size_bytes": 900, "macs": 16000}
ASKED = {"space": SPACE, "trials": 12, "population": 4, "budget": BUDGET, "seeds": {"count": 2, "images": 60}}
FILES = "config.yaml provenance.json inventory.json study.journal trials.csv front.csv front.svg report.html study.log"


@pytest.fixture(scope="module")
def task():
    return tiny_task()


@pytest.fixture(scope="module")
def study(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "tiny"
    return run_study(task, **ASKED, out=folder)


def test_the_folder_holds_what_the_readme_names(study):
    assert set(FILES.split()) <= {path.name for path in study.folder.iterdir()}
    assert not [path for path in study.folder.rglob("*") if "part" in path.name]


def test_controls_come_first_and_dense_is_scored_untrained(study):
    findings = study.findings()
    labels = [trial.label for trial in findings.trials if trial.kind == "control"]
    assert labels[0] == "dense"
    assert "uniform w8 a8" in labels
    assert "uniform w4 a4 ratio 0.5" in labels
    kinds = ["control"] * len(labels) + ["seed"] * 2
    assert [trial.kind for trial in findings.trials] == kinds + ["search"] * (12 - len(kinds))
    assert findings.dense.rungs == ()
    assert findings.dense.values["size_bytes"] > findings.trials[1].values["size_bytes"]


def test_values_are_those_of_the_packed_file(study, task):
    from paretune.compress.freeze import thaw
    from paretune.export.pack import unpack
    from paretune.tasks.task import score

    bench = lay_out(task)
    for trial in study.findings().front:
        home = kept_folder(study.folder, trial.number)
        blob = (home / "model.safetensors").read_bytes()
        assert abs(len(blob) - trial.values["size_bytes"]) <= max(256, 0.01 * len(blob))
        frozen = unpack(blob, json.loads((home / "layout.json").read_text()))
        model = thaw(task.model, bench.inventory, trial.plan, frozen)
        assert score(model, task.val.batches(None), task.errors) == trial.values["top1_error"]


def test_budgets_are_constraints_and_cost_no_training(study):
    over = [trial for trial in study.findings().trials if trial.status == "over_budget"]
    assert over
    stored = load_study(study.folder)
    for trial in over:
        assert set(trial.seconds) == {"plan"}
        assert "top1_error" not in trial.values
        assert trial.reason == f"macs {trial.values['macs']:g} > 16000"  # bytes are not known before the training
        assert stored.trials[trial.number].constraints["macs"] > 0
    for name, limit in BUDGET.items():
        assert all(trial.values[name] <= limit for trial in study.findings().front)


def test_the_front_is_a_data_frame(study):
    front = study.front()
    assert isinstance(front, pd.DataFrame)
    assert front["on_front"].all()
    assert list(front["top1_error"]) == sorted(front["top1_error"])


def test_more_trials_extend_and_fewer_change_nothing(study, task, tmp_path):
    before = pd.read_csv(study.folder / "trials.csv")
    again = run_study(task, **ASKED, out=study.folder)
    pd.testing.assert_frame_equal(pd.read_csv(again.folder / "trials.csv"), before)
    parts = {}
    for trials in (5, 12):
        parts = run_study(task, **ASKED | {"trials": trials}, out=tmp_path / "tiny")
    after = pd.read_csv(parts.folder / "trials.csv")
    same = [name for name in before.columns if not name.startswith("seconds_")]
    pd.testing.assert_frame_equal(after[same], before[same])


def test_identical_plans_are_evaluated_once(task, tmp_path, monkeypatch):
    calls = []

    def counted(plan, *args, **kwargs):
        calls.append(plan.key)
        return evaluate(plan, *args, **kwargs)

    monkeypatch.setattr(driver_module, "evaluate", counted)
    small = SPACE | {"groups": [{"match": "*", "ratio": [0.0, 0.5], "tie": True}], "activation_bits": 8}
    small["layers"] = [{"match": "*", "weight_bits": [4, 8], "tie": True}]
    monkeypatch.setattr(known_module, "COUNTED", 0)  # as if it were too large to know that nothing is left
    study = run_study(task, space=small, trials=10, sampler="random", out=tmp_path / "tiny")
    trials = study.findings().trials
    copies = [trial for trial in trials if trial.same_as is not None]
    assert copies
    assert len(calls) == len(set(calls)) == len(trials) - len(copies)
    for copy in copies:
        assert copy.values == trials[copy.same_as].values


def test_a_failing_trial_is_a_record_and_the_study_goes_on(task, tmp_path):
    def picky(outputs, targets):
        wrong = misclassified(outputs, targets)
        return math.nan if wrong > 0.4 * len(targets) else wrong

    study = run_study(replace(task, errors=picky), space=SPACE, trials=14, sampler="random", out=tmp_path / "tiny")
    status = [trial.status for trial in study.findings().trials]
    assert len(status) == 14
    assert set(status) == {"done", "failed"}
    failed = next(trial for trial in study.findings().trials if trial.status == "failed")
    assert failed.reason == "ImpossiblePlan: top1_error is nan"
    with pytest.raises(ParetuneError, match=rf"trial {failed.number} is failed \(ImpossiblePlan: top1_error is nan"):
        study.export(f"trial={failed.number}", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_study_in_which_everything_fails_gives_up(task, tmp_path):
    broken = replace(task, loss=lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets) / 0.0)
    with pytest.raises(ParetuneError, match="all of 10 trials failed, the last with: ImpossiblePlan: the loss became"):
        run_study(broken, space=SPACE, trials=20, out=tmp_path / "tiny")
    findings = read_findings(tmp_path / "tiny")
    assert {trial.status for trial in findings.trials[1:]} == {"failed"}
    assert "the loss became inf in epoch 1" in findings.trials[1].reason


def test_a_slow_trial_is_stopped_at_a_batch(task, monkeypatch):
    monkeypatch.setenv("TINY_SLEEP", "0.05")
    bench = lay_out(tiny_task(slow=True))
    plan = replace(DENSE, recovery=replace(DENSE.recovery, epochs=50, lr=0.01))
    trained = evaluate(plan, bench, seed=0, minutes=0.3 / 60)
    assert trained.outcome.status == "failed"
    assert "OutOfTime: it outlasted study.trial_minutes" in trained.outcome.reason
    assert trained.outcome.seconds["finetune"] < 2


def test_a_trial_is_a_function_of_plan_and_seed(task):
    bench = lay_out(task)
    plan = replace(DENSE, recovery=replace(DENSE.recovery, epochs=1, lr=0.05))
    first, again, other = (evaluate(plan, bench, seed=seed) for seed in (0, 0, 1))
    assert first.outcome.values == again.outcome.values
    for name in first.frozen.layers:
        np.testing.assert_array_equal(first.frozen.layers[name].codes, again.frozen.layers[name].codes)
    assert any((first.frozen.layers[n].codes != other.frozen.layers[n].codes).any() for n in first.frozen.layers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": SPACE | {"criterion": "l1"}}, r"another space.criterion \(l2, now l1\)"),
        ({"budget": BUDGET | {"size_bytes": 901}}, r"another budget.size_bytes \(900.0, now 901.0\)"),
        ({"seed": 3}, r"another seed \(0, now 3\)"),
        ({"sampler": "tpe"}, r"another sampler \(layerwise, now tpe\)"),
        ({"rungs": {"epochs": [0]}}, r"another rungs.epochs \(\[0, 1, 3\], now \[0\]\)"),
        ({"seeds": {"count": 3, "images": 60}}, r"another seeds.count \(2, now 3\)"),
        ({"objectives": ["top1_error", "bops"]}, "another objectives"),
    ],
)
def test_a_changed_study_is_not_resumed(study, task, change, message):
    with pytest.raises(ParetuneError, match=message):
        run_study(task, **ASKED | change, out=study.folder)


def test_other_weights_are_another_task(study):
    with pytest.raises(ParetuneError, match="holds a study with another task"):
        run_study(tiny_task(seed=1), **ASKED, out=study.folder)


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"gp"}))
def test_every_sampler_runs_a_study_with_two_objectives(task, tmp_path, sampler):
    study = run_study(
        task, space="uniform", objectives=("top1_error", "macs"), trials=8, population=2, sampler=sampler,
        out=tmp_path / "tiny",
    )  # fmt: skip
    assert len(study.findings().trials) == 8


def test_an_exported_point_scores_what_the_report_says(study, task, tmp_path):
    verdict = study.export("knee", tmp_path / "model", latency=False)
    assert verdict.ok, verdict.message
    confirmation = study.findings().confirmations[-1]
    assert verdict.top1_error == pytest.approx(confirmation.confirmed[0])
    assert confirmation.found == confirmation.validated[0]
    session = onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx")
    inputs, targets = next(iter(task.test.batches(None)))
    top1 = session.run(None, {"input": inputs.numpy()})[0].argmax(1)
    assert (top1 != targets.numpy()).mean() == pytest.approx(confirmation.confirmed[0], abs=0.01)


def test_full_recovery_uses_three_fresh_seeds(study, tmp_path):
    study.export("goal", tmp_path / "model", recover="full", drop=0.9, latency=False)
    confirmation = study.findings().confirmations[-1]
    assert confirmation.seeds == (1, 2, 3)
    assert len(confirmation.confirmed) == 3
    scores = json.loads((tmp_path / "model" / "scores.json").read_text())["scores"]
    best = min(range(3), key=lambda i: (confirmation.validated[i], i))
    assert scores["shipped_seed"] == confirmation.seeds[best]
    assert "found (val)" in (study.folder / "report.html").read_text()


def test_nothing_is_written_when_the_settings_cannot_work(task, tmp_path):
    cases = [
        ({"budget": {"size_bytes": 100}}, "budget.size_bytes=100 cannot be met: the space reaches"),
        ({"budget": {"top1_error": 0.1}}, "'top1_error' is no cost"),
        ({"objectives": ("size_bytes", "macs")}, "the first must be the task's quality, 'top1_error'"),
        ({"space": SPACE | {"layers": [{"match": "*", "weight_bits": [1, 8]}]}}, "has 2 to 8 bits, got 1"),
        ({"trials": 0}, "study.trials must be 1 or more, got 0"),
        ({"keep": "some"}, "study.keep has no option 'some'"),
    ]
    for change, message in cases:
        with pytest.raises(ParetuneError, match=message):
            run_study(task, **({"space": SPACE} | change), out=tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_the_log_names_every_trial(study):
    text = (study.folder / "study.log").read_text()
    assert "trial 0 done" in text
    assert "[dense]" in text
    assert not [h for h in logging.getLogger("paretune").handlers if isinstance(h, logging.FileHandler)]


def test_minutes_stop_the_asking_and_an_empty_study_has_a_page(task, tmp_path):
    study = run_study(task, space=SPACE, trials=50, minutes=1e-9, out=tmp_path / "tiny")
    assert study.findings().trials == ()
    assert (study.folder / "report.html").exists()
    with pytest.raises(ParetuneError, match="has no finished trial to pick from"):
        study.export("knee", tmp_path / "model")


def test_small_networks_compute_with_one_thread_and_the_callers_setting_returns(task, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        study = run_study(task, space=SPACE, trials=1, out=tmp_path / "tiny")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert study.findings().provenance["machine"]["threads"] == 1


def test_a_renamed_folder_is_still_the_same_study(task, tmp_path):
    run_study(task, space=SPACE, trials=7, population=4, out=tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    study = run_study(task, space=SPACE, trials=9, population=4, out=tmp_path / "b")
    findings = study.findings()
    assert [trial.number for trial in findings.trials] == list(range(9))
    assert {path.name for path in (tmp_path / "b" / "trials").iterdir()} == {str(t.number) for t in findings.front}
    assert [run["from_trial"] for run in findings.provenance["runs"]] == [0, 7]


def test_a_new_journal_starts_from_nothing(task, tmp_path):
    study = run_study(task, space=SPACE, trials=3, out=tmp_path / "tiny")
    study.export("trial=1", tmp_path / "model", latency=False)
    before = study.findings()
    (study.folder / "study.journal").unlink()
    other = run_study(tiny_task(seed=1), space=SPACE, trials=2, out=tmp_path / "tiny")
    assert other.findings().trials[1].values != before.trials[1].values
    assert other.findings().confirmations == ()


def test_a_process_that_died_before_the_first_trial_leaves_a_clear_answer(task, tmp_path):
    study = run_study(task, space=SPACE, trials=1, out=tmp_path / "tiny")
    journal = study.folder / "study.journal"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(ParetuneError, match="holds no study yet; run the study's command again"):
        study.findings()
    assert len(run_study(task, space=SPACE, trials=2, out=tmp_path / "tiny").findings().trials) == 2


def test_scoring_is_watched_too(task):
    class Slow:
        def batches(self, seed):
            for batch in [next(iter(task.val.batches(None)))] * 100:
                time.sleep(0.01)
                yield batch

    bench = lay_out(task)
    trained = evaluate(DENSE, replace(bench, task=replace(task, val=Slow())), seed=0, minutes=0.1 / 60)
    assert trained.outcome.reason.startswith("OutOfTime")


def test_an_untrained_trial_has_nothing_to_recover(study, tmp_path):
    with pytest.raises(ParetuneError, match="trial 0 was not trained, so there is nothing to recover"):
        study.export("trial=0", tmp_path / "model", recover="full")
