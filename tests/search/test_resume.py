"""The law of resume with everything on: however often it is stopped, a study comes to the same trials."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_task import tiny_task

from paretune.findings import Findings, Trial
from paretune.samplers import reproducible
from paretune.search import driver, read, seeding
from paretune.search.evaluate import Run
from paretune.search.folder import kept_folder
from paretune.search.study import run_study
from paretune.tasks.task import Task

SPACE = {
    "groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.75, "step": 0.125}}],
    "layers": [{"match": "*", "weight_bits": [2, 3, 4, 8]}],
    "activation_bits": [4, 8], "criterion": "l2", "recover": {"epochs": 2, "lr": 0.02},
}  # fmt: skip
RUNGS = {"epochs": [0, 1], "minimum": 4, "correlation": -1.0}
SEEDS = {"count": 3, "images": 60}
TRIALS = 18


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the page, which takes half the time of so small a study, and with nothing measured before."""
    monkeypatch.setattr(read, "write_page", lambda findings, folder: folder / "report.html")
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))


def searched(task: Task, folder: Path, **changes: Any) -> Findings:
    asked = {"trials": TRIALS, "population": 4, "seeds": SEEDS, "rungs": RUNGS, "repeats": 1, "space": SPACE}
    return run_study(task, out=folder, **(asked | changes)).findings()


def timeless(rows: tuple[Trial, ...]) -> list[Trial]:
    return [replace(row, seconds={}) for row in rows]


@pytest.fixture(scope="module")
def whole(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(read, "write_page", lambda findings, folder: folder / "report.html")
        patched.setenv("PARETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return searched(task, tmp_path_factory.mktemp("whole") / "tiny")


def at_call(patched: pytest.MonkeyPatch, owner: Any, name: str, wanted: Callable[..., bool]) -> None:
    """Ctrl-C the first time that `owner.name` is called as `wanted`."""
    real = getattr(owner, name)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if wanted(*args, **kwargs):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    patched.setattr(owner, name, interrupted)


def kinds(findings: Findings) -> list[str]:
    return [row.kind for row in findings.trials]


def test_the_study_has_all_there_is(whole: Findings) -> None:
    """So that the laws below are about something."""
    assert kinds(whole)[:TRIALS] == ["control"] * 6 + ["seed"] * 3 + ["search"] * 9
    assert set(kinds(whole)[TRIALS:]) == {"repeat"}
    searching = [row for row in whole.trials if row.kind == "search"]
    assert {row.status for row in searching} == {"done", "stopped"}
    assert any(rung.judged for row in searching for rung in row.rungs)
    assert all(not rung.judged for row in whole.trials if row.kind != "search" for rung in row.rungs)


def test_stopped_trials_are_told_nobody(whole: Findings) -> None:
    stopped = {row.number for row in whole.trials if row.status == "stopped"}
    assert not stopped & {row.number for row in whole.candidates}
    kept = {int(path.name) for path in kept_folder(Path(whole.folder), 0).parent.iterdir()}
    assert kept == {row.number for row in whole.front}


def test_a_study_stopped_at_every_kind_of_work_ends_like_one_left_alone(
    task: Task, tmp_path: Path, whole: Findings
) -> None:
    stops: dict[str, tuple[Any, str, Callable[..., bool]]] = {
        "the sensitivities": (seeding, "measure_effects", lambda *a, **k: True),
        "the seeds are stored": (seeding, "keep", lambda *a, **k: True),
        "a seed": (driver, "evaluate", _nth(8)),
        "between two rungs": (Run, "look", lambda run, epochs, score: epochs == 1 and run.gate.judge(0, 0.0) == ""),
        "a searched trial is told": (driver, "tell", _nth(4)),
        "a repeat": (driver, "evaluate", lambda plan, bench, *, seed, **more: seed != 0),
        "a repeat is told": (driver, "tell", lambda study, trial, entry, names: entry.kind == "repeat"),
    }
    for owner, name, wanted in stops.values():
        with pytest.MonkeyPatch.context() as patched:
            at_call(patched, owner, name, wanted)
            with pytest.raises(KeyboardInterrupt, match=r"^$"):
                searched(task, tmp_path / "tiny")
    assert timeless(searched(task, tmp_path / "tiny").trials) == timeless(whole.trials)
    assert {path.name for path in kept_folder(tmp_path / "tiny", 0).parent.iterdir()} == {
        str(row.number) for row in whole.front
    }


def _nth(which: int) -> Callable[..., bool]:
    calls: list[int] = []

    def wanted(*args: Any, **kwargs: Any) -> bool:
        calls.append(1)
        return len(calls) == which

    return wanted


@pytest.mark.parametrize("first", [3, 8, 12])
def test_a_study_extended_is_one_asked_for_at_once(task: Task, tmp_path: Path, whole: Findings, first: int) -> None:
    """The first number lies among the controls, where there are no seeds yet, then among the seeds, then behind."""
    searched(task, tmp_path / "tiny", trials=first, repeats=0)
    assert timeless(searched(task, tmp_path / "tiny", repeats=0).trials) == timeless(whole.trials[:TRIALS])
    assert timeless(searched(task, tmp_path / "tiny").trials) == timeless(whole.trials)


def test_a_study_goes_on_behind_its_repeats(task: Task, tmp_path: Path, whole: Findings) -> None:
    """Controls and seeds are given by their place, whatever their number is."""
    folder = tmp_path / "tiny"
    before = searched(task, folder, trials=4)
    assert kinds(before)[4:] == ["repeat"] * (len(before.trials) - 4)
    assert len(before.trials) > 4
    after = searched(task, folder, trials=11)
    starts = [row for row in after.trials if row.kind in ("control", "seed")]
    expected = [row for row in whole.trials if row.kind in ("control", "seed")]
    assert [(row.kind, row.label, row.params, row.values) for row in starts] == [
        (row.kind, row.label, row.params, row.values) for row in expected
    ]
    assert sum(row.kind != "repeat" for row in after.trials) == 11
    assert sum(row.kind == "search" for row in after.trials) == 2
    assert [row.number for row in after.trials] == list(range(len(after.trials)))


def test_every_point_of_the_front_is_evaluated_again_as_it_was_but_for_the_seed(
    task: Task, tmp_path: Path, whole: Findings
) -> None:
    more = searched(task, tmp_path / "tiny", trials=8, repeats=2)
    members = sorted(row.number for row in more.front if row.label != "dense")
    repeats = [row for row in more.trials if row.kind == "repeat"]
    assert [row.of for row in repeats] == 2 * members
    for place, row in enumerate(repeats):
        member = more.trials[row.of or 0]
        assert row.plan is not None
        assert member.plan is not None
        assert row.plan.asked == member.plan.asked
        assert row.label == f"trial {member.number} with seed {1 + place // len(members)}"
        assert row.values["macs"] == member.values["macs"]
        assert more.scores(member)[1 + place // len(members)] == row.values["top1_error"]
    assert any(len(set(more.scores(more.trials[number]))) > 1 for number in members)  # other seeds, other scores


def test_repeats_end_with_the_minutes(task: Task, tmp_path: Path) -> None:
    searched(task, tmp_path / "tiny", trials=3, repeats=0)
    late = searched(task, tmp_path / "tiny", trials=3, repeats=5, minutes=1e-9)
    assert kinds(late) == ["control"] * 3


def test_a_plan_that_ran_out_of_time_is_evaluated_again(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three plans all have failed for lack of time; with more of it no failure is copied."""
    monkeypatch.setattr(reproducible, "STEPS", 50)
    space = {
        "groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.25}, "tie": True}],
        "layers": [{"match": "*", "weight_bits": 4}], "activation_bits": 8, "recover": {"epochs": 0},
    }  # fmt: skip
    asked: dict[str, Any] = {"space": space, "sampler": "random", "seeds": {"count": 0}, "repeats": 0}
    early = searched(task, tmp_path / "tiny", trials=8, trial_minutes=1e-9, **asked)
    failed = {row.plan.asked.key for row in early.trials if row.plan}
    assert {row.reason.partition(":")[0] for row in early.trials} == {"OutOfTime"}
    assert all(row.same_as is None for row in early.trials)
    late = searched(task, tmp_path / "tiny", trials=12, **asked).trials[8:]
    assert {row.status for row in late} == {"done"}
    assert any(row.same_as is None and row.plan and row.plan.asked.key in failed for row in late)
