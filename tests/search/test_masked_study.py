"""A study whose masks are found in training: its trials and its finish can be shipped, and it can be resumed."""

import shutil
from dataclasses import replace

import pytest
from tiny_task import tiny_task

from paretune.search import read as read_module
from paretune.search.read import read_findings
from paretune.search.study import run_study

MASKS = {
    "groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.75, "step": 0.125}}],
    "activation_bits": 8,
    "criterion": ["l1", "taylor"],
    "recover": {"epochs": 0, "images": 192},
    "layers": [{"match": "conv*", "weight_bits": 8, "pattern": "unstructured", "sparsity": [0.5, 0.75]},
               {"match": "*", "weight_bits": 8}],
    "mask": {"schedule": "cubic", "rounds": 2, "epochs": 2, "lr": 0.05},
}  # fmt: skip
FINISH = {"epochs": 1, "lr": 0.05, "distill": "none"}


def run(folder, trials, task):
    return run_study(
        task, trials=trials, out=folder, space=MASKS, finish=FINISH, population=4, keep="all",
        objectives=("top1_error", "size_bytes"),
    )  # fmt: skip


def finishes(findings):
    return [trial for trial in findings.trials if trial.kind == "finish"]


@pytest.fixture
def no_page(monkeypatch):
    """The page takes half the time of so small a study."""
    monkeypatch.setattr(read_module, "write_page", lambda findings, folder: folder / "report.html")


@pytest.fixture(scope="module")
def task():
    return tiny_task()


@pytest.fixture(scope="module")
def masked(task, tmp_path_factory):
    return run(tmp_path_factory.mktemp("masked") / "tiny", 8, task)


def shipped(verdict, folder):
    assert verdict.ok, verdict.message
    assert "0 of 120 predictions differ" in " ".join(verdict.message)
    return (folder / "plan.yaml").read_text()


@pytest.mark.parametrize("keep", ["all", "none"])
@pytest.mark.usefixtures("no_page")
def test_a_trial_with_masks_is_shipped(masked, tmp_path, keep):
    """From its kept weights, and from its plan where none were kept."""
    findings = masked.findings()
    trial = next(t for t in findings.trials if t.kind == "search" and t.status == "done" and t.same_as is None)
    folder = shutil.copytree(masked.folder, tmp_path / "tiny")
    if keep == "none":
        shutil.rmtree(folder / "trials")
    study = type(masked)(folder=folder, task=masked.task)
    verdict = study.export(f"trial={trial.number}", tmp_path / "model", latency=False)
    plan = shipped(verdict, tmp_path / "model")
    assert plan.count("kind: unstructured") >= 2
    confirmation = read_findings(folder).confirmations[-1]
    assert confirmation.validated == (trial.values["top1_error"],)
    assert confirmation.size_bytes == trial.values["size_bytes"]


@pytest.mark.usefixtures("no_page")
def test_a_finish_is_shipped(masked, tmp_path):
    (finish,) = finishes(masked.findings())
    shipped(masked.export(f"trial={finish.number}", tmp_path / "model", latency=False), tmp_path / "model")
    assert masked.findings().confirmations[-1].validated == (finish.values["top1_error"],)


def test_a_finish_has_the_masks_and_the_training_of_the_trial_it_finishes(masked):
    findings = masked.findings()
    (finish,) = finishes(findings)
    best = findings.trials[int(finish.label.split()[1])]
    assert [row.pattern for row in finish.plan.layers] == [row.pattern for row in best.plan.layers]
    assert any(row.pattern for row in finish.plan.layers)
    assert finish.plan.asked == replace(best.plan.asked, recovery=finish.plan.recovery)
    for cost in ("params", "macs", "bops"):  # other codes may take other bytes
        assert finish.values[cost] == best.values[cost]
    assert finish.rungs[0] == best.rungs[0]


@pytest.mark.usefixtures("no_page")
def test_a_masked_study_is_resumed(masked, task, tmp_path):
    folder = shutil.copytree(masked.folder, tmp_path / "tiny")
    after = run(folder, 10, task).findings()
    assert after.trials[:9] == masked.findings().trials
    assert len(after.trials) - len(finishes(after)) == 10
