import re
from dataclasses import replace

import pytest
from report_fakes import HOSTILE, fake_findings, hostile, with_finish, with_rival

from paretune.report.beside import beside_info
from paretune.report.draw_beside import beside_figure
from paretune.report.hypervolume import covered_by
from paretune.report.page import page
from paretune.report.rival import THIS, beside, contest
from paretune.report.sections import beside as section
from paretune.report.verdict import summary_lines

RIVAL = "best single criterion"


def every(findings, **values):
    """`findings` whose trials all have these values, budget and failures aside."""
    trials = tuple(replace(t, values=t.values | values) if "top1_error" in t.values else t for t in findings.trials)
    return replace(findings, trials=trials)


def at_one_cost(errors, rival_errors, spread=0.0):
    """Two searches of a fixed rate: quality differs, costs do only by `spread`."""
    findings = fake_findings(2)
    pattern = next(t for t in findings.trials if t.kind == "search" and t.status == "done")

    def trials(errors):
        return tuple(
            replace(pattern, number=i, values={"top1_error": e, "size_bytes": 2e4 * (1 + spread * (i % 2))})
            for i, e in enumerate(errors)
        )

    rival = replace(findings, name=RIVAL, trials=trials(rival_errors))
    return replace(findings, trials=trials(errors), rival=rival)


def volumes(findings):
    found = contest(findings)
    return [f"{side.hypervolume:.4f}" for side in (found.this, found.rival)]


def test_a_search_that_is_ahead_says_so():
    findings = with_rival(fake_findings(), 0.01)
    this, rival = volumes(findings)
    assert float(this) > float(rival)
    assert beside(findings) == f"The search beats {RIVAL}: hypervolume {this} versus {rival} with 54 trials each."


def test_a_search_that_is_behind_says_so():
    findings = with_rival(fake_findings(), -0.01)
    this, rival = volumes(findings)
    assert float(this) < float(rival)
    said = f"The search does not beat {RIVAL}: hypervolume {this} versus {rival} with 54 trials each."
    assert beside(findings) == said


@pytest.mark.parametrize("harm", [0.0, 1e-9])
def test_what_is_written_alike_is_equal(harm):
    findings = with_rival(fake_findings(), 0.0)
    rival = findings.rival
    trials = tuple(
        replace(t, values=t.values | {"top1_error": t.values.get("top1_error", 0.5) + harm}) for t in rival.trials
    )
    findings = replace(findings, rival=replace(rival, trials=trials))
    assert (
        beside(findings)
        == f"The search equals {RIVAL}: hypervolume {volumes(findings)[0]} for both with 54 trials each."
    )


@pytest.mark.parametrize(
    ("errors", "rival", "said"),
    [
        ((0.05, 0.03), (0.04, 0.035), "beats {}: top-1 error 3.00 % versus 3.50 % with 2 trials each."),
        ((0.05, 0.04), (0.04, 0.035), "does not beat {}: top-1 error 4.00 % versus 3.50 % with 2 trials each."),
        ((0.05, 0.04), (0.04, 0.04), "equals {}: top-1 error 4.00 % for both with 2 trials each."),
        ((0.03,), (0.04, 0.04), "beats {}: top-1 error 3.00 % versus 4.00 % with 1 versus 2 trials."),
        ((0.03,), (0.04,), "beats {}: top-1 error 3.00 % versus 4.00 % with 1 trial each."),
    ],
)
def test_where_costs_are_the_same_quality_is_compared(errors, rival, said):
    findings = at_one_cost(errors, rival)
    assert contest(findings).by == "quality"
    assert beside(findings) == f"The search {said.format(RIVAL)}"


@pytest.mark.parametrize(("spread", "by"), [(0.009, "quality"), (0.05, "hypervolume")])
def test_costs_within_a_hundredth_are_the_same(spread, by):
    assert contest(at_one_cost((0.05, 0.03), (0.04, 0.05), spread)).by == by


def test_only_searched_trials_are_compared():
    """Controls and finishes change neither hypervolume nor best quality of a side."""
    findings = with_rival(fake_findings())
    plain = contest(findings)
    more = contest(with_finish(findings))
    bare = contest(replace(findings, trials=tuple(t for t in findings.trials if t.kind == "search")))
    for other in (more, bare):
        assert (other.this.hypervolume, other.this.best) == (plain.this.hypervolume, plain.this.best)
        assert (other.this.asked, other.this.evaluated) == (plain.this.asked, plain.this.evaluated)
    searched = [t for t in findings.candidates if t.kind == "search"]
    assert plain.this.hypervolume == pytest.approx(covered_by(findings, searched))
    assert plain.this.best.values["top1_error"] == min(t.values["top1_error"] for t in searched)


def test_asked_counts_every_searched_trial_and_evaluated_those_that_were_scored():
    side = contest(with_rival(fake_findings())).this
    fresh = [t for t in fake_findings().trials if t.kind == "search" and t.status == "done" and t.same_as is None]
    assert (side.asked, side.evaluated) == (54, len(fresh))


def test_the_rival_is_judged_by_this_budget_and_this_reference():
    findings = with_rival(fake_findings(), 0.0)
    loose = replace(findings.rival, budget={}, reference=dict.fromkeys(findings.names, 1e12))
    heavy = replace(next(t for t in loose.trials if t.status == "done"), number=99, kind="search", feasible=True,
                    same_as=None, values={"top1_error": 0.0, "size_bytes": 30_001.0, "bops": 1.0})  # fmt: skip
    found = contest(replace(findings, rival=replace(loose, trials=(*loose.trials, heavy))))
    assert found.rival.hypervolume == pytest.approx(found.this.hypervolume)
    assert found.rival.best.number != 99


def test_a_rival_of_other_objectives_counts_what_is_known():
    findings = with_rival(fake_findings(3))
    trials = tuple(replace(t, values={n: v for n, v in t.values.items() if n != "bops"}) for t in findings.rival.trials)
    found = contest(replace(findings, rival=replace(findings.rival, trials=trials)))
    assert (found.rival.searched, found.rival.best, found.rival.hypervolume) == ((), None, 0.0)


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (0.006, " After further training its best is better: top-1 error 3.18 % versus 3.38 %."),
        (0.004, " After further training its best is as good: top-1 error 3.38 % for both."),
        (0.002, " After further training its best is worse: top-1 error 3.58 % versus 3.38 %."),
    ],
)
def test_finishes_are_compared_in_a_sentence_of_their_own(gain, said):
    findings = fake_findings(2)
    rival = replace(with_finish(findings), name=RIVAL)
    assert beside(replace(with_finish(findings, gain=gain), rival=rival)).endswith(
        f"for both with 54 trials each.{said}"
    )


def test_one_finish_alone_is_not_compared():
    findings = with_rival(fake_findings())
    assert "further training" not in beside(replace(with_finish(findings)))
    assert "3.38 %" in section(with_finish(findings))  # but shown


@pytest.mark.parametrize(
    ("mine", "theirs", "names"),
    [(False, True, THIS), (True, False, RIVAL), (False, False, f"{THIS} or {RIVAL}")],
)
def test_a_side_without_a_finished_trial_is_named(mine, theirs, names):
    findings = with_rival(fake_findings())
    rival = findings.rival if theirs else replace(findings.rival, trials=())
    findings = replace(findings, rival=rival, trials=findings.trials if mine else findings.trials[:6])
    said = f"No searched trial of {names} has finished within the budget yet: there is nothing to compare."
    assert beside(findings) == said
    assert f"Beside {RIVAL}" in section(findings)
    assert ("plotly" in section(findings)) == (mine or theirs)


def test_without_a_rival_nothing_is_said():
    findings = fake_findings()
    assert (contest(findings), beside(findings), section(findings)) == (None, "", "")
    assert not [line for line in summary_lines(findings) if line.startswith("The search beats")]


def test_the_verdict_stands_in_header_section_and_terminal():
    findings = with_rival(fake_findings())
    said = beside(findings)
    assert summary_lines(findings)[-2] == said
    assert page(findings).count(f"<p>{said}</p>") == 2


def test_the_table_has_a_row_for_each_side():
    findings = fake_findings(2)
    text = section(
        replace(with_rival(with_finish(findings)), rival=replace(with_finish(findings, epochs=20), name="B"))
    )
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in text.split("<tr>")[2:]]
    assert " ".join(rows[0]).startswith("the search 3.78 % trial 41 0.9")
    assert " ".join(rows[0]).endswith("54 37 3.38 % trial 41 after 10 epochs")
    assert " ".join(rows[1]).endswith("54 37 3.38 % trial 41 after 20 epochs")


def test_the_chart_holds_both_fronts_in_two_colours_and_the_finishes():
    findings = with_rival(with_finish(fake_findings(3)), 0.01)
    info = beside_info(findings, contest(findings))
    this, rival = info.lanes
    assert (this.name, rival.name, info.x.name, info.y.name) == (THIS, RIVAL, "size_bytes", "top1_error")
    assert sorted(zip(this.front.x, this.front.y, strict=True)) == list(this.line)
    assert len(this.front.x) + len(this.others.x) == contest(findings).this.evaluated
    assert this.finishes.y == (pytest.approx(min(this.front.y) - 0.004),)
    assert [b - a for a, b in zip(sorted(this.front.y), sorted(rival.front.y), strict=True)] == pytest.approx(
        [0.01] * len(this.front.y)
    )
    for one in (one for lane in info.lanes for one in (lane.front, lane.others, lane.finishes)):
        assert all(0 < info.x.place(x) < 1 for x in one.x)
        assert all(0 < info.y.place(y) < 1 for y in one.y)
    assert info.budget_x == 30_000.0
    figure = beside_figure(info)
    shown = {trace.name: trace.marker.color for trace in figure.data if trace.showlegend is not False}
    assert list(shown) == [
        "budget", f"{THIS}: front", f"{THIS}: finish", f"{RIVAL}: front", f"{RIVAL}: finish",
    ]  # fmt: skip
    assert shown[f"{THIS}: front"] == shown[f"{THIS}: finish"] != shown[f"{RIVAL}: front"]


def test_the_rivals_name_is_escaped():
    text = section(hostile(with_rival(with_finish(fake_findings()))))
    assert "Beside &lt;/script&gt;" in text
    assert HOSTILE not in text


def test_a_searched_trial_that_repeats_a_control_is_the_searchs_own_find():
    """Otherwise a rival whose best points are controls of its study would have found nothing."""
    findings = with_rival(fake_findings(2))
    plain = contest(findings)
    best = plain.this.best
    control = next(trial for trial in findings.trials if trial.kind == "control" and trial.label != "dense")
    values = {**best.values, findings.names[0]: best.values[findings.names[0]] / 2}
    better = replace(control, values=values, feasible=True, status="done", same_as=None)
    copy = replace(better, number=1000, kind="search", label="", same_as=better.number)
    trials = tuple(better if trial is control else trial for trial in findings.trials)
    found = contest(replace(findings, trials=(*trials, copy, replace(copy, number=1001))))
    assert found.this.best == copy
    assert len(found.this.searched) == len(plain.this.searched) + 1
    assert found.this.hypervolume > plain.this.hypervolume
