"""Who goes on at a rung, in closed form; and when nobody is stopped there."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from paretune.conf.settings import RungSettings
from paretune.findings import Trial
from paretune.outcome import Rung
from paretune.plan import DENSE
from paretune.ranking import order
from paretune.recipe import Recovery
from paretune.search import rungs as module
from paretune.search.rungs import FREE, Rungs, rank_correlation

EPOCHS = 5
PLAN = replace(DENSE, recovery=Recovery(epochs=EPOCHS, lr=0.1))
SETTINGS = RungSettings(epochs=(0, 1), eta=2, minimum=4, correlation=0.5)
AGREE = [(0.4, 0.3, 1.0), (0.3, 0.2, 2.0), (0.2, 0.1, 3.0), (0.1, 0.05, 4.0)]  # score, last score, cost


def trial(number: int, score: float, last: float, cost: float, **more: Any) -> Trial:
    judged = more.pop("judged", False)
    rungs = more.pop("rungs", (Rung(epochs=0, score=score, judged=judged), Rung(epochs=5, score=last)))
    return Trial(**{
        "number": number, "kind": "search", "label": "", "status": "done", "reason": "", "same_as": None,
        "feasible": True, "values": {"error": last, "cost": cost}, "rungs": rungs, "seconds": {}, "params": {},
        "plan": PLAN,
    } | more)  # fmt: skip


def table(rows: Sequence[tuple[float, float, float]], **more: Any) -> list[Trial]:
    return [trial(number, *row, **more) for number, row in enumerate(rows)]


def rungs_of(rows: Sequence[Trial], settings: RungSettings = SETTINGS) -> Rungs:
    return Rungs(settings=settings, rows=rows, quality="error", costs=lambda row: [row.values["cost"]])


def answer(rows: Sequence[Trial], score: float, cost: float, kind: str = "search", epochs: int = 0) -> str | None:
    return rungs_of(rows).gate(kind, [cost], EPOCHS).judge(epochs, score)


def test_the_best_share_by_fronts_goes_on() -> None:
    """Four points on one front and a fifth: three of five go on."""
    rows = table(AGREE)
    assert answer(rows, 0.05, 0.5) == ""  # dominates all
    assert answer(rows, 0.5, 5.0) == "after 0 epochs it was number 5 of 5, and 3 go on"  # all dominate it
    assert (
        answer(rows, 0.35, 1.5) == "after 0 epochs it was number 5 of 5, and 3 go on"
    )  # on the front, but between two others


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 9)), min_size=5, max_size=12), st.sampled_from([1.5, 2, 3]))
def test_the_order_is_that_of_ranking(points: list[tuple[float, float]], eta: float) -> None:
    """With any eta, exactly the first ceil(n / eta) of the order would go on."""
    *before, (score, cost) = points
    settings = replace(SETTINGS, eta=eta, correlation=-1.0)
    rows = [trial(n, one, one, its, kind="seed") for n, (one, its) in enumerate(before)]  # so that none is free
    gate = rungs_of(rows, settings).gate("search", [cost], EPOCHS)
    found = gate.judge(0, score)
    if len({one for one, _ in before}) == 1:
        assert found is None  # a constant score says nothing
    else:
        place = order(np.array(points)).index(len(before))
        assert (found == "") == (place < np.ceil(len(points) / eta))


@pytest.mark.parametrize("kind", ["control", "seed", "finish", "repeat"])
def test_only_searched_trials_are_judged(kind: str) -> None:
    assert answer(table(AGREE), 0.5, 5.0, kind) is None


@pytest.mark.parametrize("count", range(4, 2 * FREE + 2))
def test_every_eighth_searched_trial_is_free(count: int) -> None:
    """Controls and seeds are none, copies are some; the free are looked at all the same."""
    searched = [trial(n, n / 20, n / 20, 1.0, same_as=0 if n % 5 == 4 else None) for n in range(count)]
    rows = [*searched, trial(50, 0.1, 0.1, 1.0, kind="control"), trial(51, 0.1, 0.1, 1.0, kind="seed")]
    assert (answer(rows, 0.99, 9.0) is None) == ((count + 1) % FREE == 0)
    assert rungs_of(rows).gate("search", [9.0], EPOCHS).epochs == SETTINGS.epochs


def test_only_trials_that_train_as_long_are_compared() -> None:
    """Four that train for two epochs are worse than a fifth, four that train for five are better."""
    short = replace(PLAN, recovery=Recovery(epochs=2, lr=0.1))
    rows = table(AGREE)
    rows += [trial(4 + n, 0.5 + one, 0.5 + last, cost + 5, plan=short) for n, (one, last, cost) in enumerate(AGREE)]
    rungs = rungs_of(rows)
    assert rungs.gate("search", [5.0], 2).judge(0, 0.45) == ""
    assert rungs.gate("search", [5.0], 5).judge(0, 0.45) == "after 0 epochs it was number 5 of 5, and 3 go on"
    assert rungs.gate("search", [5.0], 3).judge(0, 0.45) is None  # nobody trains so long
    assert rungs_of(rows[:-1]).gate("search", [5.0], 2).judge(0, 0.45) is None  # three are too few


def test_the_newest_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEWEST", 4)
    worse = [(one + 0.5, last + 0.5, cost + 5) for one, last, cost in AGREE]
    assert answer(table([*AGREE, *worse]), 0.45, 5.0) == ""
    assert answer(table([*worse, *AGREE]), 0.45, 5.0) == "after 0 epochs it was number 5 of 5, and 3 go on"


def test_nobody_is_stopped_before_the_minimum() -> None:
    assert answer(table(AGREE[:3]), 0.5, 5.0) is None
    settings = replace(SETTINGS, minimum=5)
    assert rungs_of(table(AGREE), settings).gate("search", [5.0], EPOCHS).judge(0, 0.5) is None


def test_scores_that_do_not_agree_stop_nobody_and_are_not_made_again_but_at_0() -> None:
    pairs = zip([0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.3, 0.2], strict=True)
    rows = [
        trial(
            n, one, last, 1.0, rungs=(Rung(epochs=0, score=one), Rung(epochs=1, score=one), Rung(epochs=5, score=last))
        )
        for n, (one, last) in enumerate(pairs)
    ]
    rungs = rungs_of(rows)
    state = rungs.state(1)
    assert state.correlation == pytest.approx(spearmanr([1, 2, 3, 4], [4, 1, 3, 2]).statistic)
    assert (state.on, state.compared, state.bound) == (False, 4, 0.5)
    gate = rungs.gate("search", [9.0], EPOCHS)
    assert gate.epochs == (0,)
    assert gate.judge(0, 0.9) is None
    assert gate.judge(1, 0.9) is None
    assert rungs_of(rows[:3]).gate("search", [9.0], EPOCHS).epochs == (0, 1)  # too few to tell


def test_noise_among_searched_trials_stops_nobody_although_controls_and_seeds_agree() -> None:
    """Far apart, they are easily told apart; that says nothing about those that lie close together."""
    started = [trial(n, 0.6 + n / 10, 0.6 + n / 10, 1.0, kind=("control", "seed")[n % 2]) for n in range(4)]
    pairs = zip([0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.3, 0.2], strict=True)
    rows = [*started, *(trial(4 + n, one, last, 1.0) for n, (one, last) in enumerate(pairs))]
    assert rank_correlation(*zip(*((row.rungs[0].score, row.rungs[-1].score) for row in rows), strict=True)) > 0.8
    state = rungs_of(rows).state(0)
    assert state.correlation == pytest.approx(spearmanr([1, 2, 3, 4], [4, 1, 3, 2]).statistic)
    assert (state.on, state.reached, state.compared) == (False, 8, 4)
    assert answer([*rows, trial(8, 0.25, 0.25, 1.0, kind="seed")], 0.99, 9.0) is None
    few = rungs_of(rows[:-1]).state(0)  # three searched ones are too few, so all are compared
    assert (few.on, few.compared) == (True, 7)
    assert answer(rows[:-1], 0.99, 9.0) == "after 0 epochs it was number 8 of 8, and 4 go on"


def test_a_constant_score_has_no_correlation_and_stops_nobody() -> None:
    for rows in (table([(0.5, last, cost) for _, last, cost in AGREE]), table([(s, 0.5, c) for s, _, c in AGREE])):
        state = rungs_of(rows).state(0)
        assert (state.enough, state.correlation, state.on) == (True, None, False)
        assert not rungs_of(rows[:3]).state(0).enough
        assert answer(rows, 0.9, 9.0) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_the_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    found = rank_correlation(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(one, other).statistic)


def test_only_finished_trials_that_nobody_judged_are_compared() -> None:
    """The judged ones would have gone on only because they agreed."""
    rows = [*table(AGREE), trial(4, 0.9, 0.01, 1.0, judged=True), trial(5, 0.9, 0.01, 1.0, status="failed", values={})]
    state = rungs_of(rows).state(0)
    assert (state.reached, state.judged, state.stopped, state.compared) == (6, 1, 0, 4)
    assert state.correlation == pytest.approx(1.0)
    assert state.on
    later = (Rung(epochs=0, score=0.9), Rung(epochs=1, score=0.01, judged=True), Rung(epochs=5, score=0.01))
    assert rungs_of([*rows, trial(6, 0.9, 0.01, 1.0, rungs=later)]).state(0).compared == 4  # nor at another rung


def test_stopped_trials_count_where_they_stopped() -> None:
    at_0 = trial(4, 0.9, 0, 9.0, status="stopped", rungs=(Rung(epochs=0, score=0.9, judged=True),))
    at_1 = replace(
        at_0, number=5, rungs=(Rung(epochs=0, score=0.2, judged=True), Rung(epochs=1, score=0.9, judged=True))
    )
    rungs = rungs_of([*table(AGREE), at_0, at_1])
    assert (rungs.state(0).stopped, rungs.state(0).judged, rungs.state(0).reached) == (1, 2, 6)
    assert (rungs.state(1).stopped, rungs.state(1).judged, rungs.state(1).reached) == (1, 1, 1)
    assert [state.epochs for state in rungs.states()] == [0, 1]
    assert [state.epochs for state in rungs_of(table(AGREE)).states()] == [0]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "finish"}, {"kind": "repeat"}, {"same_as": 0}, {"plan": None}, {"rungs": ()},
        {"plan": replace(DENSE, recovery=Recovery(epochs=0, lr=0.0))},
    ],
)  # fmt: skip
def test_copies_and_trials_that_had_nowhere_to_go_did_not_reach_it(change: dict[str, Any]) -> None:
    assert rungs_of([trial(0, 0.5, 0.4, 1.0, **change)]).state(0).reached == 0


def test_no_rungs_no_gate() -> None:
    assert rungs_of(table(AGREE), replace(SETTINGS, epochs=())).gate("search", [1.0], EPOCHS).epochs == ()
