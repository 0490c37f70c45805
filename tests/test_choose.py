"""Each rule picks the trial one would pick by hand, and says why when it cannot."""

from dataclasses import replace
from typing import Any

import pytest
from hand_made import small_inventory

from paretune.choose import choose, settled_front
from paretune.errors import ParetuneError
from paretune.findings import Findings, Objective, Trial

OBJECTIVES = tuple(Objective(name=name, unit="", definition="") for name in ("top1_error", "size_bytes", "bops"))


def trial(number: int, *values: float, **changes: object) -> Trial:
    made = Trial(
        number=number, kind="search", label="", status="done", reason="", same_as=None, feasible=True,
        values=dict(zip(("top1_error", "size_bytes", "bops"), values, strict=False)), rungs=(), seconds={}, params={},
        plan=None,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


TRIALS = (
    trial(0, 0.02, 1000, 100, kind="control", label="dense"),
    trial(1, 0.03, 400, 50),
    trial(2, 0.10, 100, 20),
    trial(3, 0.12, 500, 60),  # dominated
    trial(4, 0.01, 10, 1, feasible=False),
    trial(5, status="failed", reason="the loss became nan"),
    trial(6, status="over_budget"),
    trial(7, 0.03, 400, 50, same_as=1),
)


def found(*trials: Trial, budget: dict[str, float] | None = None) -> Findings:
    return Findings(
        name="x", folder="results/x", objectives=OBJECTIVES, budget=budget or {}, reference={}, trials=trials,
        inventory=small_inventory(), provenance={},
    )  # fmt: skip


def test_the_front_leaves_out_failures_copies_and_what_breaks_the_budget() -> None:
    assert [t.number for t in found(*TRIALS).candidates] == [0, 1, 2, 3]
    assert [t.number for t in found(*TRIALS).front] == [0, 1, 2]


def test_points_are_in_the_order_of_objectives_and_nan_where_nothing_is_known() -> None:
    points = found(*TRIALS).points([TRIALS[1], TRIALS[5]])
    assert points[0].tolist() == [0.03, 400, 50]
    assert str(points[1].tolist()) == "[nan, nan, nan]"
    assert found().points([]).shape == (0, 3)


def test_the_knee_is_the_best_trade_off() -> None:
    # Normalised sums: dense 0 + 1 + 1, trial 1: 1/8 + 1/3 + 3/8, trial 2: 1 + 0 + 0.
    assert choose(found(*TRIALS), "knee").number == 1


def test_a_budget_picks_the_best_quality_below_it() -> None:
    findings = found(*TRIALS, budget={"size_bytes": 450})
    assert choose(findings, "budget").number == 1
    assert choose(findings, "budget", under={"bops": 30}).number == 2
    assert choose(findings, "budget", under={"bops": 100}).number == 0
    assert choose(findings, "budget", under={"size_bytes": 400, "top1_error": 0.03}).number == 1


def test_a_goal_picks_the_lightest_point_that_is_good_enough() -> None:
    assert choose(found(*TRIALS), "goal").number == 1  # one point worse than dense at most
    assert choose(found(*TRIALS), "goal", drop=0.0).number == 0
    assert choose(found(*TRIALS), "goal", drop=0.5).number == 2


def test_a_goal_reached_exactly_is_reached() -> None:
    dense, exact = trial(0, 0.7, 9, 9, label="dense"), trial(1, 0.8, 1, 1)
    assert 0.7 + 0.1 < 0.8  # noise of binary fractions
    assert choose(found(dense, exact), "goal", drop=0.1).number == 1


def test_a_number_picks_that_trial_even_off_the_front() -> None:
    assert choose(found(*TRIALS), "trial=3").number == 3
    assert choose(found(*TRIALS), "trial=4").number == 4


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        ("kneee", "no rule is called 'kneee'. Did you mean 'knee'. Known: knee, budget, goal, trial=N"),
        ("trial=99", "results/x has no trial 99; its trials are 0 to 7"),
        ("trial=one", "has no trial one"),
        ("trial=5", r"trial 5 is failed \(the loss became nan\); pick a finished one"),
        ("trial=6", "trial 6 is over budget; pick a finished one"),
        ("budget", "needs a limit, such as --under size_bytes=20000"),
    ],
)
def test_a_rule_that_picks_nothing_says_why(rule: str, match: str) -> None:
    with pytest.raises(ParetuneError, match=match):
        choose(found(*TRIALS), rule)


@pytest.mark.parametrize("rule", ["knee", "budget", "goal"])
def test_a_study_without_a_finished_trial_says_so(rule: str) -> None:
    with pytest.raises(ParetuneError, match=r"results/x has no finished trial to pick from"):
        choose(found(TRIALS[5]), rule)


def test_a_study_without_any_trial_has_no_trial_zero() -> None:
    with pytest.raises(ParetuneError, match=r"results/x has no trial 0; it has none yet"):
        choose(found(), "trial=0")


def test_an_unknown_cost_is_answered_with_the_nearest() -> None:
    with pytest.raises(ParetuneError, match=r"no cost is called 'size_byte'. Did you mean 'size_bytes'"):
        choose(found(*TRIALS), "budget", under={"size_byte": 10})


def test_a_budget_nobody_meets_says_what_is_reached() -> None:
    with pytest.raises(
        ParetuneError, match=r"meets size_bytes <= 50, bops <= 9; the smallest.* size_bytes 100, bops 20"
    ):
        choose(found(*TRIALS), "budget", under={"size_bytes": 50, "bops": 9})


def test_a_goal_nobody_reaches_says_what_is_reached() -> None:
    dense = trial(0, 0.02, 1000, 100, kind="control", label="dense", feasible=False)
    with pytest.raises(
        ParetuneError, match=r"no point has top1_error <= 0.0250 \(dense \+ 0.005\); the best has 0.0300"
    ):
        choose(found(dense, *TRIALS[1:]), "goal", drop=0.005)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("knee", {"under": {"size_bytes": 100.0}}, "under belongs to the rule 'budget', not to 'knee'"),
        ("trial=1", {"drop": 0.1}, "drop belongs to the rule 'goal', not to 'trial=1'"),
        ("goal", {"drop": -0.1}, r"drop is a share in \[0, 1\), 0.01 is one point; got -0.1"),
        ("goal", {"drop": float("nan")}, r"drop is a share in \[0, 1\)"),
        ("budget", {"under": {"bops": float("nan")}}, "the limit of bops must be above 0, got nan"),
    ],
)
def test_an_option_of_another_rule_is_not_skipped(rule: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParetuneError, match=message):
        choose(found(*TRIALS), rule, **options)


def test_a_goal_needs_the_dense_score() -> None:
    for trials in (TRIALS[1:], (trial(0, label="dense", status="failed"), *TRIALS[1:])):
        with pytest.raises(ParetuneError, match=r"this study has not scored it"):
            choose(found(*trials), "goal")


def again(number: int, of: int, error: float) -> Trial:
    """Trial `of` under another seed."""
    return trial(number, error, kind="repeat", of=of)


def test_what_looked_best_once_is_judged_by_its_mean() -> None:
    lucky, steady = trial(1, 0.03, 400, 50), trial(2, 0.04, 390, 51)
    trials = (*TRIALS[:1], lucky, steady, again(3, 1, 0.09), again(4, 2, 0.04))
    findings = found(*trials, budget={"size_bytes": 450})
    assert choose(found(*trials[:3], budget=findings.budget), "budget").number == 1
    assert choose(findings, "budget") is steady
    assert choose(findings, "goal", drop=0.02).number == 2
    assert choose(findings, "goal", drop=0.01).number == 0  # the lucky trial has 0.06


def test_what_is_picked_keeps_its_own_score() -> None:
    findings = found(*TRIALS, again(8, 1, 0.05), budget={"size_bytes": 450})
    for rule in ("knee", "budget"):
        picked = choose(findings, rule)
        assert picked is TRIALS[1]
        assert picked.values["top1_error"] == 0.03


def test_the_knee_goes_by_means() -> None:
    # Normalised sums with the mean 0.09 of trial 1: dense 1.26, trial 1 1.67, trial 2 1.07.
    findings = found(*TRIALS[:3], again(3, 1, 0.15))
    assert choose(found(*TRIALS[:3]), "knee").number == 1
    assert choose(findings, "knee").number == 2


def test_a_member_that_another_dominates_by_the_mean_is_passed_over() -> None:
    # Trial 1 was ahead by luck: trial 2 has the better mean at lower costs.
    members = (trial(0, 0.02, 1000, 100), trial(1, 0.03, 400, 50), trial(2, 0.04, 300, 40))
    findings = found(*members, again(3, 1, 0.07))
    assert [member.number for member in findings.front] == [0, 1, 2]
    assert [member.number for member in settled_front(findings)] == [0, 2]
    assert settled_front(findings)[1] is members[2]
    assert choose(findings, "budget", under={"size_bytes": 500.0}).number == 2


def test_a_single_lucky_score_does_not_beat_a_mean() -> None:
    # Trial 3 is dominated by trial 1 as first found, so nobody looked at it again.
    findings = found(trial(1, 0.03, 400, 50), trial(3, 0.035, 410, 60), again(4, 1, 0.05))
    assert choose(findings, "budget", under={"size_bytes": 500}).number == 1


def test_a_limit_on_another_cost_finds_what_the_front_does_not_hold() -> None:
    light = trial(2, 0.05, 500, 60, values={"top1_error": 0.05, "size_bytes": 500.0, "bops": 60.0, "macs": 1.0})
    heavy = trial(1, 0.03, 400, 50, values={"top1_error": 0.03, "size_bytes": 400.0, "bops": 50.0, "macs": 9.0})
    findings = found(heavy, light)
    assert findings.front == (heavy,)
    assert choose(findings, "budget", under={"macs": 5}) is light


def test_a_goal_is_measured_from_the_dense_models_mean() -> None:
    dense = trial(0, 0.02, 1000, 100, kind="control", label="dense")
    small = trial(1, 0.045, 400, 50)
    assert choose(found(dense, small), "goal", drop=0.01).number == 0
    assert choose(found(dense, small, again(2, 0, 0.06)), "goal", drop=0.01).number == 1
