"""What comes after the search: which trial is finished, and whose turn it is to be evaluated again."""

from dataclasses import replace
from typing import Any

import pytest

from paretune.findings import Trial
from paretune.plan import DENSE, Plan
from paretune.recipe import Blend, Joint, Pruning, Recovery, Wanted
from paretune.search.after import finish_of, is_after, repeat_of

NAMES = ("error", "cost")
TRAINED = Plan(recovery=Recovery(epochs=1, lr=0.1))
PRUNING = Pruning(
    schedule="cubic", rounds=1, epochs=1, lr=0.1, wanted={"conv": Wanted(kind="unstructured", sparsity=0.5)},
    blends={"conv": Blend(criteria=("l1",))},
)  # fmt: skip


def trial(number: int, error: float, cost: float, **more: Any) -> Trial:
    return Trial(**{
        "number": number, "kind": "search", "label": "", "status": "done", "reason": "", "same_as": None,
        "feasible": True, "values": {"error": error, "cost": cost}, "rungs": (), "seconds": {}, "params": {},
        "plan": TRAINED,
    } | more)  # fmt: skip


ROWS = [
    trial(0, 0.1, 9, kind="control", label="dense", plan=DENSE),
    trial(1, 0.3, 5, kind="control", label="uniform w8"),
    trial(2, 0.2, 6, kind="seed"),
    trial(3, 0.4, 7),  # dominated
    trial(4, 0.5, 1),
    trial(5, 0.5, 1, same_as=4),
    trial(6, 0.05, 0, feasible=False),
    trial(7, 0.05, 0, status="stopped", values={"cost": 0.0}),
]


def again(number: int, of: int, **more: Any) -> Trial:
    return trial(number, 0.9, 1, kind="repeat", of=of, **more)


def all_of(rows: list[Trial], repeats: int) -> list[tuple[int, int]]:
    """Who is evaluated again, in turn, and under which seed."""
    rows, found = list(rows), []
    while (turn := repeat_of(rows, NAMES, repeats)) is not None:
        found.append((turn[0].number, turn[1]))
        rows.append(again(len(rows), turn[0].number))
    return found


def test_every_point_of_the_front_has_its_turn_round_by_round_and_dense_has_none() -> None:
    assert all_of(ROWS, 2) == [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2)]
    assert all_of(ROWS, 0) == []
    assert all_of([], 3) == []


def test_a_failed_repeat_was_a_turn() -> None:
    rows = [*ROWS, again(8, 1, status="failed", values={})]
    assert all_of(rows, 1) == [(2, 1), (4, 1)]


def test_repeats_change_nothing_about_who_is_on_the_front() -> None:
    rows = [*ROWS, replace(again(8, 4), values={"error": 0.0, "cost": 0.0})]
    assert all_of(rows, 1) == [(1, 1), (2, 1)]


def test_a_new_point_of_the_front_catches_up() -> None:
    rows = [*ROWS, *(again(8 + n, of) for n, of in enumerate((1, 2, 4))), trial(11, 0.25, 5.5)]
    assert all_of(rows, 2) == [(11, 1), (1, 2), (2, 2), (4, 2), (11, 2)]


def test_a_finish_on_the_front_is_evaluated_again_and_what_it_dominates_is_not() -> None:
    finish = trial(8, 0.01, 6, kind="finish", of=2)
    assert all_of([*ROWS, finish], 2) == [(1, 1), (4, 1), (8, 1), (1, 2), (4, 2), (8, 2)]
    beaten = replace(finish, values={"error": 0.3, "cost": 6.0})
    assert all_of([*ROWS, beaten], 1) == [(1, 1), (2, 1), (4, 1)]


@pytest.mark.parametrize(
    ("plan", "again"),
    [
        (None, False),
        (DENSE, False),
        (Plan(recovery=Recovery(epochs=0, lr=0.1, compensate="linear")), False),
        (TRAINED, True),
        (Plan(recovery=Recovery(epochs=0, lr=0.1, start="scratch")), True),  # a seed draws its weights
        (Plan(pruning=PRUNING), True),
        (Plan(joint=Joint(epochs=1, lr=0.1, weight_bits={}, activation_bits={})), True),
    ],
)
def test_only_what_a_seed_plays_a_part_in_is_evaluated_again(plan: Plan | None, again: bool) -> None:
    """On the front it stays all the same: what it dominates has no turn either."""
    rows = [trial(0, 0.1, 1, plan=plan), trial(1, 0.2, 2)]
    assert all_of(rows, 1) == ([(0, 1)] if again else [])


def test_the_best_seed_or_searched_trial_is_finished_once() -> None:
    best = finish_of(ROWS, NAMES)
    assert best is not None
    assert best.number == 2
    done = trial(8, 0.1, 6, kind="finish", of=2)
    assert finish_of([*ROWS, done], NAMES) is None
    later = finish_of([*ROWS, done, trial(9, 0.2, 5)], NAMES)  # as good, and cheaper
    assert later is not None
    assert later.number == 9
    assert finish_of(ROWS[:2], NAMES) is None


@pytest.mark.parametrize(
    ("kind", "is_one"), [("control", False), ("seed", False), ("search", False), ("finish", True), ("repeat", True)]
)
def test_what_counts_as_a_trial_of_the_search(kind: str, is_one: bool) -> None:
    assert is_after(trial(0, 0, 0, kind=kind)) is is_one
