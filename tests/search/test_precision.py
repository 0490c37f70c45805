"""What `precision: auto` tries and chooses, that it is remembered, and that nothing else about a study changes."""

import json
import math
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_task import tiny_task
from torch import Tensor, nn

from paretune.compress.precision import PLAIN, Precision
from paretune.conf.settings import Settings, parse_settings
from paretune.errors import ParetuneError
from paretune.findings import Trial
from paretune.search import precision as precision_module
from paretune.search.bench import Bench, lay_out
from paretune.search.precision import Choice, Racer, candidates, choice_of, known_choice, measured_choice, told_apart
from paretune.search.study import Study, run_study
from paretune.tasks.task import Task

SPACE = {
    "layers": [{"match": "*", "weight_bits": [2, 4, 8]}],
    "activation_bits": [4, 8],
    "criterion": "l2",
    "recover": {"epochs": 1, "lr": 0.02},
}


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


@pytest.fixture(scope="module")
def bench(task: Task) -> Bench:
    return lay_out(task)


def settings(folder: str = "results", **changes: object) -> Settings:
    plain = {"task": {}, "space": {}, "objectives": ["top1_error", "macs"], "study": {"name": "x"}}
    return parse_settings({**plain, "results_dir": folder, **changes})


def raced(monkeypatch: pytest.MonkeyPatch, seconds: dict[tuple[str, int], float]) -> None:
    """Two threads, and candidates take the seconds that stand under their words and threads, others 1 s."""

    def lap(racer: Racer) -> None:
        found = seconds.get((str(racer.precision), racer.threads), 1.0)
        racer.seconds = min(racer.seconds, found)
        racer.reason = "it broke" if math.isnan(found) else ""

    monkeypatch.setattr(Racer, "lap", lap)
    monkeypatch.setattr(precision_module, "candidates", partial(both, precision_module.candidates))


def both(known: Any, device: str, usual: int, wanted: int | None) -> list[tuple[Precision, int]]:
    """With one and two threads, whatever this machine has."""
    found = known(device, usual, wanted)
    every = list(dict.fromkeys((precision, threads) for precision, _ in found for threads in (1, 2)))
    return sorted(every, key=lambda key: key != (PLAIN, usual))


def test_plain_float32_as_the_rule_has_it_comes_first_and_everything_comes_once() -> None:
    for device, usual, wanted in (("cpu", 2, None), ("cpu", 1, 1), ("cuda", 4, None)):
        found = candidates(device, usual, wanted)
        assert found[0] == (PLAIN, usual)
        assert len(set(found)) == len(found)
        assert {threads for _, threads in found} >= ({usual} if wanted or device == "cuda" else {1, usual})
        assert any(precision.dtype == "float16" for precision, _ in found) == (device == "cuda")


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ({}, ("float32", 1)),
        ({("bfloat16", 2): 0.5}, ("bfloat16", 2)),
        ({("bfloat16", 2): 0.5, ("bfloat16+channels_last", 1): 0.4}, ("bfloat16+channels_last", 1)),
        ({("float32", 2): 0.9}, ("float32", 2)),
        ({("channels_last", 1): 0.98}, ("float32", 1)),  # within 3 %
        ({("channels_last", 1): 0.96}, ("channels_last", 1)),
        ({("float32", 1): 0.97, ("bfloat16", 1): 0.95}, ("float32", 1)),
    ],
)
def test_the_fastest_wins_unless_plain_float32_is_nearly_as_fast(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, seconds: dict[tuple[str, int], float], wanted: tuple[str, int]
) -> None:
    raced(monkeypatch, seconds)
    choice = measured_choice(bench, None)
    assert (str(choice.precision), choice.threads) == wanted
    assert len(choice.measured) == 8


def test_a_candidate_that_fails_is_told_and_cannot_win(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    raced(monkeypatch, {("bfloat16", 1): math.nan})
    choice = measured_choice(bench, None)
    (row,) = (
        row for row in choice.measured if (row.dtype, row.memory_format, row.threads) == ("bfloat16", "contiguous", 1)
    )
    assert (row.images_per_second, row.reason) == (None, "it broke")
    assert choice.precision == PLAIN


def test_without_time_it_stays_plain_float32(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(step=1000.0)
    monkeypatch.setattr(precision_module, "monotonic", lambda: next(clock))
    choice = measured_choice(bench, None)
    assert (choice.precision, choice.threads) == (PLAIN, 1)
    assert {row.reason for row in choice.measured} == {"no time left"}


def test_those_that_fall_behind_get_no_further_laps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    laps: list[tuple[str, int]] = []
    raced(monkeypatch, {("bfloat16", 2): 0.5})
    quick = Racer.lap
    monkeypatch.setattr(Racer, "lap", lambda racer: (laps.append((str(racer.precision), racer.threads)), quick(racer)))
    measured_choice(bench, None)
    assert laps.count(("bfloat16", 2)) == precision_module.LAPS
    assert laps.count(("channels_last", 1)) == 1


class Picky(nn.Module):
    """Reads pixels in the usual layout only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.conv(x).view(len(x), -1))
        return found


def test_a_real_race_leaves_model_threads_and_random_state_alone_and_tells_what_cannot_run(task: Task) -> None:
    task = replace(task, model=Picky().eval())
    bench, threads = lay_out(task), torch.get_num_threads()
    before, state = torch.get_rng_state(), {key: value.clone() for key, value in task.model.state_dict().items()}
    choice = measured_choice(bench, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert choice.threads == 1
    assert all(torch.equal(value, state[key]) for key, value in task.model.state_dict().items())
    assert not task.model.training
    for row in choice.measured:
        if row.memory_format == "channels_last":
            assert "view size is not compatible" in row.reason
        else:
            assert row.images_per_second is not None
            assert row.images_per_second > 0


def test_only_auto_is_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_module, "measured_choice", lambda *_: pytest.fail("measured"))
    said: list[str] = []
    plain = choice_of(settings(), bench, said.append)
    assert (plain.precision, plain.threads) == (PLAIN, None)
    fixed = choice_of(settings(precision="bfloat16+channels_last", threads=2), bench, said.append)
    assert (str(fixed.precision), fixed.threads, said) == ("bfloat16+channels_last", 2, [])


def test_what_was_asked_tells_studies_apart_and_plain_float32_adds_nothing() -> None:
    assert told_apart(settings()) == {}
    assert told_apart(settings(precision="bfloat16")) == {"precision": "bfloat16"}
    assert told_apart(settings(precision="auto")) == {"precision": "auto", "threads": "auto"}
    assert told_apart(settings(precision="auto", threads=1)) == {"precision": "auto"}


@pytest.fixture(scope="module")
def study(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The first trial on a machine where bfloat16 with two threads is the fastest."""
    folder = tmp_path_factory.mktemp("results") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        raced(patch, {("bfloat16", 2): 0.5})
        return run_study(task, space=SPACE, trials=1, precision="auto", out=folder)


def test_the_choice_and_what_was_measured_are_recorded(study: Study) -> None:
    told = study.findings().provenance["precision"]
    assert (told["asked"], told["dtype"], told["memory_format"], told["threads"]) == (
        "auto",
        "bfloat16",
        "contiguous",
        2,
    )
    assert len(told["measured"]) == 8
    assert {"dtype", "memory_format", "threads", "images_per_second"} <= set(told["measured"][0])
    assert study.findings().provenance["machine"]["threads"] == 2


def test_a_resumed_study_keeps_its_choice_whatever_is_fastest_now(
    study: Study, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced(monkeypatch, {("channels_last", 1): 0.1})
    before = json.loads((study.folder / "provenance.json").read_text())["precision"]
    found = run_study(task, space=SPACE, trials=2, precision="auto", out=study.folder).findings()
    assert found.provenance["precision"] == before
    assert [run["threads"] for run in found.provenance["runs"]] == [2, 2]
    assert len(found.trials) == 2
    known = known_choice(study.folder, settings(precision="auto"))
    assert known == Choice(**{**vars(known), "precision": Precision(dtype="bfloat16"), "threads": 2})


def test_a_study_in_another_precision_is_another_study(study: Study, task: Task) -> None:
    with pytest.raises(ParetuneError, match=r"another precision \(auto, now none\)"):
        run_study(task, space=SPACE, trials=3, out=study.folder)


def asked_in(trial: Trial) -> str:
    assert trial.plan is not None
    return trial.plan.asked.key


def test_a_trial_in_bfloat16_is_another_one_and_its_export_scores_what_was_found(task: Task, tmp_path: Path) -> None:
    one = run_study(task, space=SPACE, trials=3, precision="bfloat16", keep="none", out=tmp_path / "one")
    plain = run_study(task, space=SPACE, trials=3, out=tmp_path / "plain")
    found, other = (each.findings().trials for each in (one, plain))
    assert [asked_in(trial) for trial in found] == [asked_in(trial) for trial in other]
    assert found[0].values == other[0].values, "the dense model is only scored"
    assert found[1].rungs[0] == other[1].rungs[0], "as is a model before it is tuned"
    assert found[1].rungs[1] != other[1].rungs[1]
    assert plain.findings().provenance["precision"] == {
        "asked": "float32", "dtype": "float32", "memory_format": "contiguous", "threads": 1,
    }  # fmt: skip
    one.export("trial=2", tmp_path / "model", latency=False)  # trains it again, for its weights were not kept
    (confirmed,) = one.findings().confirmations
    assert confirmed.validated == (found[2].values["top1_error"],)
