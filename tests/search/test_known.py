"""Plans a study has tried: told apart by what they do, and counted where a space has few."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
from tiny_task import tiny_task

from paretune.errors import ImpossiblePlan
from paretune.findings import Trial
from paretune.samplers.layout import layout_of
from paretune.search import known as module
from paretune.search.bench import Bench, lay_out
from paretune.search.clock import Clock
from paretune.search.controls import Given
from paretune.search.known import Known
from paretune.search.measured import Measured
from paretune.search.planner import Planner
from paretune.spaces.language import parse_space

TUNE = {"epochs": 1, "lr": 0.02}
SMALL = {
    "groups": [{"match": "*", "ratio": [0.0, 0.5], "tie": True}],
    "layers": [{"match": "*", "weight_bits": [4, 8], "tie": True}],
    "activation_bits": 8, "criterion": "l2", "recover": TUNE,
}  # fmt: skip
TWINS = SMALL | {"groups": [{"match": "*", "ratio": [0.0, 0.01], "tie": True}]}  # a hundredth of eight channels is none
LARGE = SMALL | {"recover": {"epochs": 1, "lr": {"low": 0.01, "high": 0.1}}}
MASKS = SMALL | {
    "layers": [{"match": "conv2", "weight_bits": [4, 8], "pattern": "unstructured", "sparsity": [0.5, 0.75]},
               {"match": "*", "weight_bits": 8}],
}  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> Bench:
    return lay_out(tiny_task())


def known_of(bench: Bench, space: dict[str, Any]) -> Known:
    parsed = parse_space(space, bench.inventory)
    return Known(space=parsed, planner=Planner.ready(bench, parsed, Measured(bench=bench, seed=0)))


def tried(known: Known, number: int, params: dict[str, Any], **more: Any) -> Trial:
    plan = known.planner.plan(known.space.ask(Given(params)), Clock()).plan
    return Trial(**{
        "number": number, "kind": "search", "label": "", "status": "done", "reason": "", "same_as": None,
        "feasible": True, "values": {}, "rungs": (), "seconds": {}, "params": known.space.choices(Given(params)),
        "plan": plan,
    } | more)  # fmt: skip


def grid(known: Known) -> list[dict[str, Any]]:
    """Every point of a space, a log scale by its ends: the shares vary slowest, the bits come after them."""
    layout = layout_of(known.space)
    return [layout.params(row) for row in product(*(range(axis.levels or 2) for axis in layout.axes))]


def test_a_space_is_exhausted_when_every_plan_has_been_tried_however_it_ended(bench: Bench) -> None:
    known = known_of(bench, SMALL)
    points = grid(known)
    status = ("done", "failed", "stopped", "over_budget")
    rows: list[Trial] = []
    for number, params in enumerate(points):
        assert not known.all_of()
        assert not known.has(params)
        rows.append(tried(known, number, params, status=status[number]))
        known.add(rows[-1])
        assert known.has(params)
    assert known.all_of()


def test_parameters_that_make_one_plan_are_known_together(bench: Bench) -> None:
    known = known_of(bench, TWINS)
    points = grid(known)
    known.add_all([tried(known, 0, points[0])])
    assert [known.has(params) for params in points] == [True, False, True, False]
    rows = [tried(known, 0, points[0]), tried(known, 1, points[1])]
    assert known.add_all(rows).all_of()


def test_finishes_and_repeats_are_no_trials(bench: Bench) -> None:
    known = known_of(bench, SMALL)
    params = grid(known)[0]
    for kind in ("finish", "repeat"):
        known.add(tried(known, 0, params, kind=kind, of=0))
    assert not known.has(params)


def test_the_first_trial_of_a_plan_is_its_twin(bench: Bench) -> None:
    known = known_of(bench, SMALL)
    params = grid(known)[0]
    rows = [tried(known, 0, params), tried(known, 1, params, same_as=0)]
    plan = rows[0].plan
    assert plan is not None
    assert known.twin(plan) is None
    assert known.add_all(rows).twin(plan) is rows[0]


def test_a_space_without_end_is_never_exhausted(bench: Bench) -> None:
    known = known_of(bench, LARGE)
    points = grid(known)
    rows = [tried(known, number, params) for number, params in enumerate(points)]
    assert all(map(known.add_all(rows).has, points))
    assert not known.all_of()


def test_more_points_than_are_counted_are_not_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTED", 3)
    known = known_of(bench, SMALL)
    rows = [tried(known, number, params) for number, params in enumerate(grid(known))]
    assert not known.add_all(rows).all_of()


def test_where_plans_take_their_time_choices_are_told_apart(bench: Bench) -> None:
    """Masks are not looked for just to see whether a point is new."""
    known = known_of(bench, MASKS)
    first, second, *_ = grid(known)
    row = tried(known, 0, first)
    known.planner = Refusing(known.planner)  # type: ignore[assignment]
    assert known.add_all([row]).has(first)
    assert not known.has(second)
    assert not known.all_of()


@pytest.mark.parametrize(
    "reason",
    [
        "OutOfTime: it outlasted study.trial_minutes",
        "MemoryError: no room",
        "OutOfMemoryError: CUDA",
        "RuntimeError: DefaultCPUAllocator: full",
    ],
)
def test_a_plan_that_had_no_luck_is_avoided_but_answers_for_no_other_trial(bench: Bench, reason: str) -> None:
    known = known_of(bench, SMALL)
    params = grid(known)[0]
    row = tried(known, 0, params, status="failed", reason=reason)
    assert row.plan is not None
    assert known.add_all([row]).twin(row.plan) is None
    assert known.has(params)


def test_an_answer_after_bad_luck_is_the_answer(bench: Bench) -> None:
    known = known_of(bench, SMALL)
    params = grid(known)[0]
    late = tried(known, 1, params, status="failed", reason="OutOfTime: it outlasted study.trial_minutes")
    done = tried(known, 2, params)
    assert done.plan is not None
    known.add_all([late, done])
    assert known.twin(done.plan) is done


@pytest.mark.parametrize("reason", ["ImpossiblePlan: error is nan", "ValueError: not so", "it was number 9 of 9", ""])
def test_any_other_end_is_an_answer(bench: Bench, reason: str) -> None:
    known = known_of(bench, SMALL)
    row = tried(known, 0, grid(known)[0], status="failed", reason=reason)
    assert row.plan is not None
    assert known.add_all([row]).twin(row.plan) is row


@pytest.mark.parametrize("error", [ImpossiblePlan, MemoryError, RuntimeError, ValueError])
def test_points_without_a_plan_are_known_by_their_choices_and_not_waited_for(
    bench: Bench, error: type[Exception]
) -> None:
    known = known_of(bench, SMALL)
    points = grid(known)
    rows = [tried(known, number, params) for number, params in enumerate(points)]
    known.planner = Refusing(known.planner, all_but=rows[0].plan, error=error)  # type: ignore[assignment]
    lost = replace(rows[1], plan=None, status="failed")
    known.add(lost)
    assert known.has(points[1])
    assert not known.has(points[2])
    assert known.add_all(rows[:1]).all_of()


@dataclass
class Refusing:
    """A planner that can make no plan but one."""

    planner: Planner
    all_but: Any = None
    error: type[Exception] = ImpossiblePlan

    def plan(self, recipe: Any, clock: Clock) -> Any:
        found = self.planner.plan(recipe, clock)
        if found.plan != self.all_but:
            raise self.error("no")
        return found
