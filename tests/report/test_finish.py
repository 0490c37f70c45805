"""A finish is neither a control nor a searched trial, whatever is counted."""

from dataclasses import replace

import pytest
from report_fakes import fake_findings, with_finish

from paretune.report import draw
from paretune.report.choices import choices_info
from paretune.report.fronts import front_info
from paretune.report.hover import hover
from paretune.report.hypervolume import hypervolumes
from paretune.report.picture import front_svg
from paretune.report.progress import progress_info
from paretune.report.sections import summary, time
from paretune.report.stages import stages_info
from paretune.report.text import count, counted
from paretune.report.verdict import added


def useless(findings):
    """`findings` with a finish that won nothing."""
    return with_finish(findings, gain=0.0)


def test_a_finish_is_a_kind_of_its_own_on_the_chart():
    findings = with_finish(fake_findings(2))
    finish = findings.trials[-1]
    before, after = ({one.role: one for one in front_info(one).series} for one in (fake_findings(2), findings))
    assert (after["finish"].x, after["finish"].y) == ((finish.values["size_bytes"],), (finish.values["top1_error"],))
    assert "finish" not in before
    assert after["control"] == before["control"]
    # The searched trial it came from has left the front, because the finish beats it.
    assert len(after["on the front"].x) == len(before["on the front"].x) - 1
    assert len(after["dominated"].x) == len(before["dominated"].x) + 1
    assert (finish.values["size_bytes"], finish.values["top1_error"]) in front_info(findings).line
    markers = [str(mark["symbol"]) for mark in draw.MARKS.values()]
    assert markers.count(str(draw.MARKS["finish"]["symbol"])) == 1


def test_a_finish_is_in_the_picture(tmp_path):
    marks = [front_svg(one, tmp_path / "x.svg").read_text().count("M0-6.5L6 4.5H-6Z")
             for one in (fake_findings(), with_finish(fake_findings()))]  # fmt: skip
    assert marks == [0, 2]  # the mark and its entry in the legend


def test_hover_says_what_was_finished():
    findings = with_finish(fake_findings())
    finish = findings.trials[-1]
    assert hover(findings, finish)[0] == f"trial 60 (finish: {finish.label})"


def test_hypervolume_includes_it_in_order_and_marks_it():
    findings = with_finish(fake_findings())
    curve = hypervolumes(findings)
    assert curve[:-1] == hypervolumes(fake_findings())
    assert curve[-1] > curve[-2]
    info = progress_info(findings)
    (finish,) = info.marks["finish"]
    assert (finish.trial, finish.height) == (60, curve[-1])
    assert [mark.trial for mark in info.marks["control"]] == [
        mark.trial for mark in progress_info(fake_findings()).marks["control"]
    ]
    assert info.baselines == progress_info(fake_findings()).baselines
    names = [f"controls alone: {info.baselines[0].height:.4f}", "hypervolume", "control", "search", "finish"]
    assert [trace.name for trace in draw.progress_figure(info, over_time=True).data] == names
    assert len(draw.progress_figure(progress_info(fake_findings()), over_time=False).data) == 4


def test_the_verdict_gives_the_search_no_credit_for_it():
    findings = with_finish(fake_findings())
    before, after = added(fake_findings()), added(findings)
    curve = hypervolumes(findings)
    raised = after.split(", and found ")[0]
    assert before.startswith(raised)
    share = f"1 of the {len(findings.front)} points on the front."
    assert f" Further training (1 finish) raised it to {curve[-1]:.4f} and holds {share}" in after


def test_a_finish_that_won_nothing_is_told_so():
    assert " Further training (1 finish) did not raise it." in added(useless(fake_findings()))


def test_counts_keep_it_apart():
    findings = with_finish(fake_findings())
    assert counted(findings) == counted(fake_findings()).replace("60 trials", "61 trials") + ", 1 finish"
    failed = replace(findings, trials=(*findings.trials[:-1], replace(findings.trials[-1], status="failed")))
    assert "finish" not in counted(failed)
    assert "1 finish" not in added(failed)
    assert count(2, "finish") == "2 finishes"


def test_its_long_training_is_not_the_median_trials():
    findings = with_finish(fake_findings())
    assert stages_info(findings).stages == stages_info(fake_findings()).stages
    assert stages_info(findings).trials == stages_info(fake_findings()).trials
    assert stages_info(findings).total_seconds > stages_info(fake_findings()).total_seconds + 600
    assert "Finishes, which train longer, are not in it." in time(findings)
    assert "Finishes" not in time(fake_findings())


def test_its_choices_are_not_the_samplers():
    assert choices_info(with_finish(fake_findings())).quality == choices_info(fake_findings()).quality


def test_the_summary_names_it():
    findings = with_finish(fake_findings())
    assert f"<small>{findings.trials[-1].label}</small>" in summary(findings)


@pytest.mark.parametrize("objectives", [2, 3])
def test_every_fresh_trial_is_still_drawn_once(objectives):
    findings = with_finish(fake_findings(objectives))
    drawn = {one.role: len(one.x) for one in front_info(findings).series}
    fresh = [trial for trial in findings.trials if trial.same_as is None and "top1_error" in trial.values]
    assert sum(drawn.values()) - drawn["knee"] == len(fresh)
