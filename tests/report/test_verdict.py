import re
from dataclasses import replace

import pytest
from report_fakes import fake_findings

from paretune.choose import choose
from paretune.report.picks import picks
from paretune.report.verdict import added, found, summary_lines


def only(findings, *wanted):
    return replace(findings, trials=tuple(trial for trial in findings.trials if trial.kind in wanted))


def test_the_verdict_compares_the_knee_with_the_dense_model():
    findings = fake_findings(2)
    knee, dense = choose(findings, "knee"), findings.dense
    ratio = dense.values["size_bytes"] / knee.values["size_bytes"]
    error = f"{100 * knee.values['top1_error']:.1f}"
    expected = f"{ratio:.1f}× smaller, top-1 error 1.9 % → {error} % on val (knee point, trial {knee.number})."
    assert found(findings) == expected


def test_counts_need_their_noun():
    assert "fewer bit-operations" in found(fake_findings(3))


def test_a_search_that_found_something_says_how_much():
    findings = fake_findings()
    assert added(findings).startswith("The search raised hypervolume from 0.")
    searched = sum(trial.kind == "search" for trial in findings.front)
    assert f"found {searched} of the {len(findings.front)} points" in added(findings)


def test_both_sides_of_the_comparison_are_counted():
    """Copies, failures and what is over the budget count on neither side."""
    findings = fake_findings()
    searched = sum(
        t.kind == "search" and t.status == "done" and t.feasible and t.same_as is None for t in findings.trials
    )
    assert 30 < searched < 54
    assert re.search(
        rf" from 0\.\d+ \(2 controls within the budget\) to 0\.\d+ \(with {searched} searched trials\),",
        added(findings),
    )
    one = replace(findings, trials=tuple(t for t in findings.trials if t.kind == "search" or t.number == 4))
    assert "(1 control)" in added(one)


def over(errors):
    """A study whose three compressed controls over the budget have these errors, by number, or a bad one."""
    findings = fake_findings()
    heavy = [t.number for t in findings.trials[1:] if t.kind == "control" and not t.feasible]
    assert heavy == [1, 2, 3]
    trials = (
        replace(t, values=t.values | {"top1_error": errors.get(t.number, 0.9)}) if t.number in heavy else t
        for t in findings.trials
    )
    return replace(findings, trials=tuple(trials))


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({2: 0.02},
         "The control uniform 4 bit has a lower top-1 error than every point on the front, but is over the budget."),
        ({2: 0.02, 1: 0.021},
         "The controls uniform 8 bit and uniform 4 bit have a lower top-1 error than every point on the front, "
         "but are over the budget."),
        ({2: 0.02, 1: 0.02, 3: 0.02},
         "The controls uniform 8 bit, uniform 4 bit and uniform 25 % 8 bit have a lower top-1 error than every point "
         "on the front, but are over the budget."),
    ],
)  # fmt: skip
def test_a_better_control_over_the_budget_is_not_kept_quiet(errors, said):
    assert fake_findings().front[0].values["top1_error"] > 0.021
    text = added(over(errors))
    assert text.startswith("The search raised ")
    assert text.endswith(f" {said}")
    assert text.count(". ") == 1  # two sentences, no more


def test_a_control_over_the_budget_that_is_no_better_is_not_named():
    best = fake_findings().front[0].values["top1_error"]
    assert "over the budget" not in added(over({1: best, 2: best + 0.001}))
    failed = [replace(t, feasible=True, status="failed") if t.number == 2 else t for t in over({2: 0.02}).trials]
    assert "over the budget" not in added(replace(over({}), trials=tuple(failed)))
    unscored = over({})
    trials = [replace(t, values={}) if t.kind == "control" and not t.feasible else t for t in unscored.trials]
    assert "over the budget" not in added(replace(unscored, trials=tuple(trials)))


def test_the_dense_model_over_the_budget_is_why_there_is_a_study():
    findings = over({})
    assert not findings.dense.feasible
    assert findings.dense.values["top1_error"] < findings.front[0].values["top1_error"]
    assert "dense" not in added(findings)


def test_a_search_that_found_nothing_says_so():
    findings = fake_findings(2)
    worse = [
        replace(t, values={n: 2 * v for n, v in t.values.items()}) if t.kind == "search" else t for t in findings.trials
    ]
    wide = replace(findings, trials=tuple(worse), budget={})
    best = replace(findings.trials[5], values={"top1_error": 0.001, "size_bytes": 1.0})
    findings = replace(wide, trials=tuple(best if trial.number == 5 else trial for trial in wide.trials))
    assert added(findings).startswith("The search added nothing to the controls: hypervolume stays at 0.")
    searched = sum(trial.kind == "search" for trial in findings.candidates)
    assert added(findings).endswith(f" (2 controls, {searched} searched trials).")


def test_no_searched_trial_and_no_dense_model_are_said():
    findings = fake_findings()
    assert added(only(findings, "control")).startswith("No searched trial has finished within the budget.")
    assert "there were no controls" in added(only(findings, "search"))
    none_fits = replace(findings, trials=tuple(t for t in findings.trials if t.kind == "search" or t.number == 0))
    assert "from 0 (no control finished within the budget) to 0." in added(none_fits)
    assert found(only(findings, "search")).startswith("The knee point (trial ")
    assert "nothing to choose from" in found(only(findings))


def test_a_front_of_the_dense_model_alone_is_no_success():
    findings = fake_findings(limit=1e9)
    assert found(replace(findings, trials=findings.trials[:1])).startswith("Nothing found so far is a better trade-off")


def test_points_that_are_the_same_trial_share_a_row():
    rows = {row.name: row.trial for row in picks(fake_findings())}
    assert "best under 30.0 kB, best quality" in rows
    assert rows["smallest within 1 point of dense"] is None


def test_without_a_budget_there_is_no_row_for_one():
    assert not [row for row in picks(replace(fake_findings(), budget={})) if "under" in row.name]


def test_best_quality_is_never_the_dense_model():
    findings = fake_findings(limit=1e9)
    best = next(row for row in picks(findings) if "best quality" in row.name)
    assert findings.front[0].label == "dense"
    assert best.trial is findings.front[1]


def test_summary_lines_name_the_points_and_the_report():
    findings = replace(fake_findings(), budget={"size_bytes": 30_000.0, "macs": 2_000_000.0, "nonsense": 1.0})
    lines = summary_lines(findings)
    assert lines[0].startswith("tiny-cnn: 60 trials: ")
    assert [line.split("  ")[0] for line in lines[1:6]] == [
        "dense", "best under 30.0 kB", "best under 2.0 M MACs", "best under 1 nonsense", "knee",
    ]  # fmt: skip
    assert "none: no cost is called 'nonsense'" in lines[4]
    assert f"(trial {choose(findings, 'knee').number})" in lines[5]
    assert lines[-1].endswith("results/tiny-cnn/report.html")


def test_summary_lines_of_an_empty_study():
    assert any("not been scored" in line for line in summary_lines(replace(fake_findings(), trials=())))
