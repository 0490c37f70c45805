"""When a search ends before its trials are used up, and what it says then."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_task import tiny_task

from paretune.conf.settings import parse_settings
from paretune.findings import Findings, Objective, Trial
from paretune.plan import DENSE
from paretune.samplers import reproducible
from paretune.samplers.table import SAMPLERS
from paretune.search import read, study
from paretune.search.driver import Driver
from paretune.search.study import carry_out
from paretune.tasks.task import Task

POINT = {"layers": [{"match": "*", "weight_bits": 4}], "activation_bits": 8, "recover": {"epochs": 0}}
FEW = {
    "groups": [{"match": "*", "ratio": [0.0, 0.25, 0.5, 0.75], "tie": True}],
    "layers": [{"match": "*", "weight_bits": [2, 3, 4, 8], "tie": True}],
    "activation_bits": 8, "criterion": "l2", "recover": {"epochs": 0},
}  # fmt: skip


def trial(number: int, kind: str = "search", label: str = "", **more: Any) -> Trial:
    return Trial(**{
        "number": number, "kind": kind, "label": label, "status": "done", "reason": "", "same_as": None,
        "feasible": True, "values": {"error": 0.5, "latency_ms": 2.0}, "rungs": (), "seconds": {}, "params": {},
        "plan": DENSE,
    } | more)  # fmt: skip


class Endless:
    """A space with something left to try."""

    quick = True

    def all_of(self) -> bool:
        return False


def over(
    curve: Sequence[float], *, plateau: int | None, trials: int = 100, starts: Sequence[str] = ("control", "control"),
    last: Mapping[str, Any] | None = None, **more: Any,
) -> bool | str:  # fmt: skip
    """What a driver that has come so far says, where searched trials, and then the `last`, differ like that."""
    settings = parse_settings({
        "task": {}, "space": {}, "hardware": {}, "objectives": ["error", "cost"], "budget": {}, "sampler": "random",
        "study": {"name": "tiny", "trials": trials, "plateau": plateau}, "results_dir": "results",
    })  # fmt: skip
    searched = range(len(starts), len(curve))
    rows = [trial(number, kind) for number, kind in enumerate(starts)] + [trial(n, **more) for n in searched]
    rows[-1] = replace(rows[-1], **(last or {}))
    rows += [trial(len(curve), "repeat")]  # counts nowhere
    parts: dict[str, Any] = dict.fromkeys(("study", "bench", "space", "planner", "keeping"))
    driver = Driver(
        settings=settings, starts=(), fixed={}, known=Endless(), rows=rows,  # type: ignore[arg-type]
        curve=lambda seen: curve[: len(seen)], **parts,
    )  # fmt: skip
    return driver._over()


@pytest.mark.parametrize(
    ("curve", "ends"),
    [
        ([0.1, 0.2, 0.5, 0.5, 0.5], False),  # three searched trials, and the first of them raised it
        ([0.1, 0.2, 0.5, 0.5, 0.5, 0.5], True),
        ([0.1, 0.2, 0.4, 0.5, 0.5, 0.5], False),
        ([0.1, 0.2, 0.5, 0.5, 0.5, 0.5006], False),
        ([0.1, 0.2, 0.5, 0.5, 0.5, 0.5004], True),  # less than a thousandth
        ([0.5, 0.5, 0.5, 0.5, 0.5], False),  # controls are no search
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], True),  # nothing is ever covered
    ],
)
def test_a_hypervolume_that_stays_ends_the_search(curve: list[float], ends: bool) -> None:
    said = "the search ends after 6 trials: the last 3 raised the hypervolume by less than 0.1 %"
    assert over(curve, plateau=3) == (said if ends else False)
    assert over(curve, plateau=None) is False
    assert over(curve, plateau=3, trials=len(curve)) is True


@pytest.mark.parametrize("nothing", [{"status": "failed"}, {"status": "stopped"}, {"feasible": False}])
def test_a_plateau_waits_for_the_first_trial_within_the_budgets(nothing: dict[str, Any]) -> None:
    """What has found nothing yet has not come to rest."""
    flat, found = [0.0] * 6, {"status": "done", "feasible": True}
    assert over(flat, plateau=3, **nothing) is False
    for one in (
        over(flat, plateau=3, last=found, **nothing),
        over(flat, plateau=3, starts=("control", "seed"), **nothing),
    ):
        assert one == "the search ends after 6 trials: the last 3 raised the hypervolume by less than 0.1 %"


def test_what_was_measured_of_the_dense_model_is_the_corner_of_the_hypervolume() -> None:
    """A study has no dense latency when it begins, and the curve must be the one that a resume would see."""
    names = ("error", "latency_ms")
    facts = Findings(
        name="tiny", folder="tiny", objectives=tuple(Objective(name=n, unit="", definition="") for n in names),
        budget={}, reference={"error": 1.0}, trials=(), inventory=None, provenance={},  # type: ignore[arg-type]
    )  # fmt: skip
    rows = [trial(0, "control", "dense"), trial(1)]
    rows[1].values["latency_ms"] = 1.0
    assert study._curve(facts, rows) == (0.0, 0.25)
    assert study._curve(facts, []) == ()


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "write_page", lambda findings, folder: folder / "report.html")


def searched(task: Task, folder: Path, said: list[str], **changes: Any) -> Findings:
    """A study as the command runs it, and what that says."""
    asked = {
        "task": {}, "hardware": {}, "objectives": ["top1_error", "size_bytes"], "budget": {}, "sampler": "layerwise",
        "study": {"name": "tiny", "trials": 30}, "results_dir": str(folder), "seeds": {"count": 2, "images": 60},
    } | changes  # fmt: skip
    return carry_out(parse_settings(asked), task, say=said.append).findings()


def test_a_space_of_one_point_ends_after_its_controls(task: Task, tmp_path: Path) -> None:
    said: list[str] = []
    found = searched(task, tmp_path, said, space=POINT)
    assert [row.kind for row in found.trials] == ["control"] * 2
    assert "no seeds: the space leaves neither shares nor bits open" in said
    assert said[-1] == "the search ends after 2 trials: every plan of the space has been tried"
    assert searched(task, tmp_path, said, space=POINT).trials == found.trials


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_small_space_is_searched_completely_and_nothing_twice(task: Task, tmp_path: Path, sampler: str) -> None:
    said: list[str] = []
    space = FEW if sampler != "gp" else FEW | {"layers": [{"match": "*", "weight_bits": [2, 8], "tie": True}]}
    every = 1 + (16 if sampler != "gp" else 8)  # dense, and every point; gp would take ten seconds for them
    found = searched(task, tmp_path, said, space=space, sampler=sampler, seeds={"count": 1, "images": 60})
    plans = [row.plan.asked.key for row in found.trials if row.plan]
    assert len(plans) == len(set(plans)) == every
    assert all(row.same_as is None for row in found.trials)
    assert any(row.kind == "search" for row in found.trials)
    assert said[-1] == f"the search ends after {every} trials: every plan of the space has been tried"


def test_where_points_have_no_end_but_plans_do_three_copies_end_the_search(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any share is allowed, and of eight channels a quarter at most can go."""
    monkeypatch.setattr(reproducible, "STEPS", 50)
    said: list[str] = []
    shares = POINT | {"groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.25}, "tie": True}]}
    rows = searched(task, tmp_path, said, space=shares, sampler="random", seeds={"count": 0}).trials
    assert [row.same_as is None for row in rows[-4:]] == [True, False, False, False]
    assert len({row.plan.key for row in rows if row.plan}) == 1 + 3 == len(rows) - 3
    assert said[-1] == f"the search ends after {len(rows)} trials: no plan was found any more that has not been tried"
    assert searched(task, tmp_path, said, space=shares, sampler="random", seeds={"count": 0}).trials == rows


def test_a_plateau_ends_a_study_and_repeats_follow(task: Task, tmp_path: Path) -> None:
    said: list[str] = []
    asked = {"name": "tiny", "trials": 30, "plateau": 1, "repeats": 1}
    space = FEW | {"recover": {"epochs": 1, "lr": 0.02}}
    rows = searched(task, tmp_path, said, space=space, study=asked, sampler="random").trials
    count = sum(row.kind != "repeat" for row in rows)
    assert sum(row.kind == "search" for row in rows) >= 2
    assert said[-1] == f"the search ends after {count} trials: the last 1 raised the hypervolume by less than 0.1 %"
    assert rows[-1].kind == "repeat"
