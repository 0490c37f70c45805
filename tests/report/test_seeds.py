"""Seeds, stopped trials and re-evaluations are told apart wherever trials are counted, drawn or compared."""

from dataclasses import replace

import pytest
from report_fakes import confirmed, fake_findings, with_finish, with_rival
from report_fakes_search import with_repeats, with_seeds, with_stopped

from paretune.report import draw
from paretune.report.choices import choices_info
from paretune.report.failures import failures
from paretune.report.fronts import front_info, front_infos
from paretune.report.hover import hover
from paretune.report.hypervolume import covered_by, hypervolumes
from paretune.report.picture import _mark, front_svg
from paretune.report.progress import ended, progress_info
from paretune.report.rival import contest
from paretune.report.sections import beside, progress, time
from paretune.report.stages import stages_info
from paretune.report.tables import trials_table
from paretune.report.text import counted
from paretune.report.verdict import added

ALL = with_repeats(with_finish(with_stopped(with_seeds(fake_findings(2)))))


def roles(findings):
    return {one.role: one for one in front_info(findings).series}


def of(findings, kind):
    return [trial for trial in findings.candidates if trial.kind == kind]


def stopped(findings):
    return [trial for trial in findings.trials if trial.status == "stopped" and trial.same_as is None]


def test_seeds_have_a_mark_of_their_own_and_keep_it_on_the_front():
    findings = with_seeds(fake_findings(2))
    shown, seeds = roles(findings), of(findings, "seed")
    on_front = [trial for trial in findings.front if trial.kind == "seed"]
    assert 0 < len(on_front) < len(seeds)
    assert len(shown["front seed"].x) == len(on_front)
    assert len(shown["seed"].x) == len(seeds) - len(on_front)
    front_seed, seed, front = (draw.MARKS[role] for role in ("front seed", "seed", "on the front"))
    assert front_seed["symbol"] == seed["symbol"] != front["symbol"]
    assert front_seed["color"] == seed["color"] != front["color"] == front_seed["line"]["color"]


def test_every_trial_with_a_last_score_is_drawn_once_and_means_stand_beside():
    shown = {role: len(one.x) for role, one in roles(ALL).items()}
    fresh = [trial for trial in ALL.trials if trial.same_as is None and trial.kind != "repeat"]
    drawn = sum(shown.values()) - shown["knee"] - shown["mean of runs"]
    assert drawn == sum("top1_error" in trial.values for trial in fresh)
    assert shown["mean of runs"] == len(ALL.front)


def test_a_stopped_trial_is_on_no_chart_of_costs_either():
    findings = with_stopped(with_seeds(fake_findings(3)))
    *_, costs = front_infos(findings)
    drawn = {(x, y) for one in costs.series for x, y in zip(one.x, one.y, strict=True)}
    for trial in stopped(findings):
        assert (trial.values["bops"], trial.values["size_bytes"]) not in drawn


def test_the_mean_of_seeds_is_drawn_at_the_costs_of_its_point():
    mean = roles(ALL)["mean of runs"]
    assert mean.x == tuple(trial.values["size_bytes"] for trial in ALL.front)
    assert mean.y == pytest.approx([trial.values["top1_error"] + 0.003 for trial in ALL.front])
    *_, costs = front_infos(with_repeats(fake_findings(3)))
    assert "mean of runs" not in {one.role for one in costs.series}


@pytest.mark.parametrize("role", list(draw.MARKS))
def test_the_picture_knows_every_role(role):
    assert _mark(role, 1.0, 2.0).startswith("<")


def test_a_legend_too_long_for_a_row_takes_two(tmp_path):
    every = confirmed(ALL, ALL.front[0])
    few, many = (front_svg(one, tmp_path / "x.svg").read_text() for one in (fake_findings(2), every))
    assert ('y="49.0"' in few, 'y="66.0"' in few) == (True, False)
    assert ('y="49.0"' in many, 'y="66.0"' in many) == (True, True)


def test_hover_names_the_kind_and_the_mean():
    seed, repeat = (next(trial for trial in ALL.trials if trial.kind == kind) for kind in ("seed", "repeat"))
    assert hover(ALL, seed)[0] == f"trial {seed.number} (seed)"
    assert hover(ALL, repeat)[0] == f"trial {repeat.number} (re-evaluation: trial {repeat.of}, seed 1)"
    best = ALL.front[0]
    error = 100 * best.values["top1_error"]
    assert f"with further seeds: {error + 0.3:.2f} ± 0.30 % (mean of 3 random seeds)" in hover(ALL, best)
    assert not [line for line in hover(fake_findings(2), fake_findings(2).front[0]) if "seeds" in line]


def test_counts_tell_copies_stopped_and_re_evaluations_apart_and_add_up():
    text = counted(ALL)
    numbers = [int(word) for word in text.replace(":", "").replace(",", "").split() if word.isdigit()]
    assert numbers[0] == len(ALL.trials) == sum(numbers[1:])
    assert f", {len(stopped(ALL))} stopped early, " in text
    copies = sum(trial.same_as is not None for trial in ALL.trials)
    assert text.endswith(f", {copies} copies, {2 * len(ALL.front)} re-evaluations, 1 finish")
    failed = replace(ALL, trials=tuple(replace(t, status="failed") if t.kind == "repeat" else t for t in ALL.trials))
    assert "re-evaluation" not in counted(failed)


def test_a_stopped_trial_is_no_failure():
    assert len(stopped(ALL)) > 3
    assert failures(with_stopped(fake_findings(2))) == failures(fake_findings(2))


def test_the_median_trial_is_one_that_finished_and_stopped_ones_have_their_own():
    info = stages_info(ALL)
    assert info.stopped == len(stopped(ALL))
    assert info.stopped_stages == (("plan", 0.02), ("build", 0.1), ("recalibrate", 0.4), ("score", 0.8))
    assert dict(info.stages)["recover"] > 6
    assert info.trials == len(of(ALL, "control")) + sum(
        t.kind == "control" and not t.feasible for t in ALL.trials
    ) + len([t for t in ALL.trials if t.kind in ("seed", "search") and t.status == "done" and t.same_as is None])
    bars = draw.stages_figure(info).data
    assert [list(bar.y) for bar in bars] == [["stopped", "finished"]] * 5
    assert [bar.x[0] for bar in bars if bar.name == "recover"] == [0.0]
    assert "Re-evaluations are not in it." in time(ALL)
    assert f"the other that of {info.stopped} stopped trials." in time(ALL)


def test_only_searched_trials_have_the_samplers_choices():
    done = [t for t in ALL.trials if t.kind == "search" and t.status == "done" and t.same_as is None]
    assert choices_info(ALL).quality == tuple(trial.values["top1_error"] for trial in done)


def test_rows_of_stopped_trials_have_scores_and_costs_but_no_quality():
    table = trials_table(ALL).set_index("trial")
    row = table.loc[stopped(ALL)[0].number]
    assert (row["status"], row["kind"]) == ("stopped", "search")
    assert row["top1_error"] != row["top1_error"]  # not a number
    assert row["score_epoch_0"] > 0
    assert row["size_bytes"] > 0
    assert table["top1_error"].dtype == "float64"


# The curve of hypervolume.


def test_the_curve_tells_kinds_apart():
    info, curve = progress_info(ALL), hypervolumes(ALL)
    assert list(info.marks) == ["control", "seed", "search", "finish", "stopped"]
    for kind in ("seed", "search"):
        assert [mark.trial for mark in info.marks[kind]] == [trial.number for trial in of(ALL, kind)]
    assert [mark.trial for mark in info.marks["stopped"]] == [trial.number for trial in stopped(ALL)]
    mark = info.marks["stopped"][0]
    assert mark.height == curve[mark.trial]
    assert mark.text == f"trial {mark.trial} (searched, stopped early): {mark.height:.4f}"
    assert {trace.name for trace in draw.progress_figure(info, over_time=False).data} > set(info.marks)


def test_baselines_are_controls_alone_and_with_seeds():
    findings = with_seeds(fake_findings(2))
    alone, both = progress_info(findings).baselines
    assert (alone.name, both.name) == ("controls alone", "controls and seeds")
    assert alone.height == pytest.approx(covered_by(findings, of(findings, "control")))
    assert both.height == pytest.approx(covered_by(findings, of(findings, "control") + of(findings, "seed")))
    assert alone.height < both.height


def test_seconds_add_up_and_measuring_comes_before_the_first_seed():
    findings = with_seeds(fake_findings(2))
    spent = [sum(trial.seconds.values()) for trial in findings.trials]
    first = next(trial.number for trial in findings.trials if trial.kind == "seed")
    ends = ended(findings)
    assert ends[first - 1] == pytest.approx(sum(spent[:first]))
    assert ends[first] == pytest.approx(sum(spent[: first + 1]) + 30)
    assert ends[-1] == pytest.approx(sum(spent) + 30)
    unseeded = replace(fake_findings(2), provenance=findings.provenance)
    assert ended(unseeded)[0] == pytest.approx(spent[0] + 30)
    assert ended(replace(findings, trials=())) == ()
    assert "took 30 s and counts before the first seed." in progress(findings)
    assert "took" not in progress(fake_findings(2))


@pytest.mark.parametrize(
    ("seconds", "unit", "last"), [(500, "seconds", 500), (1200, "minutes", 20), (18_000, "hours", 5)]
)
def test_time_has_the_unit_that_fits(seconds, unit, last):
    findings = fake_findings(2)
    trials = tuple(replace(trial, seconds={"recover": seconds / 60}) for trial in findings.trials)
    info = progress_info(replace(findings, trials=trials))
    assert (info.unit, info.times[-1]) == (unit, pytest.approx(last))


# What the search added.


def spoiled(findings, *kinds):
    """`findings` in which these kinds of trials reach nothing that a control does not."""
    findings = replace(findings, budget={})
    trials = (
        replace(t, values=t.values | {"top1_error": 0.95, "size_bytes": 3e5}) if t.kind in kinds and t.status == "done"
        else t for t in findings.trials
    )  # fmt: skip
    return replace(findings, trials=tuple(trials))


def heights(findings):
    kinds = ("control", "seed", "search")
    some = [[trial for kind in kinds[:n] for trial in of(findings, kind)] for n in (1, 2, 3)]
    return [f"{covered_by(findings, trials):.4f}" for trials in some]


def test_what_the_search_added_to_the_seeds():
    findings = with_stopped(with_seeds(fake_findings(2)))
    a, b, c = heights(findings)
    seeds, searched, found = (len(of(findings, "seed")), len(of(findings, "search")),
                              sum(trial.kind == "search" for trial in findings.front))  # fmt: skip
    assert added(findings).startswith(
        f"Seeds raised hypervolume from {a} (2 controls within the budget) to {b} ({seeds} seeds); the search raised "
        f"it to {c} (with {searched} searched trials, {len(stopped(findings))} more stopped early) and found {found} "
        f"of the {len(findings.front)} points on the front."
    )


def test_a_search_that_added_nothing_to_controls_and_seeds_says_so():
    findings = spoiled(with_seeds(fake_findings(2)), "search")
    a, b, c = heights(findings)
    assert a < b == c
    said = f"Seeds raised hypervolume from {a} (2 controls within the budget) to {b} (7 seeds). "
    said += "The search added nothing to controls and "
    assert added(findings).startswith(f"{said}seeds: hypervolume stays at {b} (")


def test_seeds_that_added_nothing_are_told_so():
    findings = spoiled(with_seeds(fake_findings(2)), "seed")
    a, b, c = heights(findings)
    assert a == b < c
    said = (
        f"Seeds added nothing to the controls: hypervolume stays at {a} (2 controls, 7 seeds). The search raised it to "
    )
    assert added(findings).startswith(f"{said}{c} (with ")


def test_seeds_without_controls_or_without_a_search_are_told_as_they_are():
    findings = with_seeds(fake_findings(2))
    seeds = replace(findings, trials=tuple(trial for trial in findings.trials if trial.kind == "seed"))
    assert added(seeds).startswith("Seeds raised hypervolume from 0 (there were no controls to compare with) to 0.")
    assert added(seeds).endswith(" (7 seeds). No searched trial has finished within the budget.")
    early = [replace(t, status="stopped") if t.kind == "search" else t for t in findings.trials]
    assert " budget (" in added(replace(findings, trials=tuple(early)))
    none = [replace(t, feasible=False) if t.kind == "seed" else t for t in findings.trials]
    assert added(replace(findings, trials=tuple(none))).startswith(
        "No seed has finished within the budget. The search raised hypervolume from 0."
    )


def test_without_seeds_the_stopped_are_still_told():
    findings = with_stopped(fake_findings(2))
    early = len(stopped(findings))
    assert added(findings).startswith("The search raised hypervolume from 0.")
    assert f" searched trials, {early} more stopped early), and found " in added(findings)


def test_seeds_count_for_the_side_that_searched():
    plain, seeded = (contest(with_rival(one)) for one in (fake_findings(2), with_seeds(fake_findings(2))))
    assert plain.this.hypervolume == seeded.this.hypervolume
    assert (plain.this.asked, plain.this.evaluated) == (seeded.this.asked, seeded.this.evaluated)
    said = "Seeds count as searched"
    assert said in beside(with_rival(with_seeds(fake_findings(2))))
    assert said not in beside(with_rival(fake_findings(2)))
