import re
from dataclasses import replace

import numpy as np
import pytest
from report_fakes import HOSTILE, fake_curve, fake_findings, hostile, with_curves

from paretune.alike import Alike
from paretune.curve import Curve, Knee
from paretune.report.curves import COLUMNS, MOST, curves_info, sensitivity
from paretune.report.draw_curves import NAMES, curves_figure
from paretune.report.rules import KNEES, ROWS, alike, curves

LINE = Curve(group="g", criterion="l2", ratios=(0.0, 0.5, 1.0), errors=(0.1, 0.3, 0.9), chance=0.9)


def info_of(curves, knees=()):
    return curves_info(replace(fake_findings(), curves=tuple(curves), knees=tuple(knees)))


def test_there_is_a_chart_per_curve_in_the_order_of_the_model():
    findings = with_curves(fake_findings(), 7)
    info = curves_info(findings)
    assert [panel.title for panel in info.panels] == [curve.group for curve in findings.curves]
    assert [panel.errors for panel in info.panels] == [curve.errors for curve in findings.curves]
    assert (info.columns, info.criteria, info.left_out, info.y.title) == (COLUMNS, ("l1",), 0, "top-1 error")


def test_the_used_rate_lies_on_the_curve_and_the_raw_knee_only_where_it_is_another():
    knee = Knee(group="g", ratio=0.25, found=0.75, note="knee 0.75 of 'g' costs 0.5: guard 0.25")
    (panel,) = info_of([LINE], [knee]).panels
    assert (panel.used, panel.found, panel.note) == (
        (0.25, pytest.approx(0.2)), (0.75, pytest.approx(0.6)), knee.note,
    )  # fmt: skip
    (same,) = info_of([LINE], [replace(knee, found=0.25)]).panels
    (lost,) = info_of([LINE], [replace(knee, found=None)]).panels
    assert (same.used, same.found) == (lost.used, lost.found) == (panel.used, None)
    (bare,) = info_of([LINE]).panels
    assert (bare.used, bare.found, bare.note) == (None, None, "")


def test_moved_knees_are_counted():
    knees = [Knee(group=name, ratio=0.3, found=found, note="") for name, found in (("a", 0.3), ("b", 0.7), ("c", None))]
    assert info_of([replace(LINE, group=name) for name in "abc"], knees).moved == 1


def test_a_group_with_several_criteria_has_a_named_chart_and_a_knee_for_each():
    rows = [replace(LINE, criterion=name) for name in ("l1", "taylor")]
    knees = [Knee(group="g", ratio=ratio, found=ratio, note="") for ratio in (0.25, 0.5)]
    first, second = info_of(rows, knees).panels
    assert (first.title, second.title) == ("g, l1", "g, taylor")
    assert (first.used[0], second.used[0]) == (0.25, 0.5)


def test_sensitivity_is_the_mean_rise_in_closed_form():
    assert sensitivity(LINE) == pytest.approx(0.5 * (0.2 / 2) + 0.5 * (0.2 + 0.8) / 2)
    assert sensitivity(replace(LINE, errors=(0.1, 0.1, 0.1))) == 0.0
    assert sensitivity(replace(LINE, ratios=(0.0,), errors=(0.1,))) == 0.0


def test_of_too_many_groups_the_least_sensitive_are_left_out_and_that_is_said():
    hurts = np.linspace(0.9, 0.3, MOST + 5)
    rows = [fake_curve(f"g{i}", float(hurt)) for i, hurt in enumerate(hurts)]
    info = info_of(rows)
    assert [panel.title for panel in info.panels] == [f"g{i}" for i in range(5, MOST + 5)]
    assert info.left_out == 5
    assert f"5 curves of {MOST + 5}, the least sensitive, left out" in curves(replace(fake_findings(), curves=(*rows,)))


def test_all_charts_share_an_axis_that_holds_every_value_and_chance():
    info = info_of([replace(LINE, chance=0.95), replace(LINE, group="h", errors=(0.0, float("nan"), 0.2))])
    assert info.y.low < 0
    assert 0.95 < info.y.high < 1.1
    assert not info.y.log


def test_the_figure_draws_what_was_decided():
    info = curves_info(with_curves(fake_findings(), 7))
    figure = curves_figure(info)
    names = [trace.name for trace in figure.data]
    assert names.count("guessing") == names.count("top-1 error") == names.count(NAMES["used"]) == 7
    assert names.count(NAMES["found"]) == info.moved == 3
    symbols = {trace.name: trace.marker.symbol for trace in figure.data if trace.name in NAMES.values()}
    assert symbols == {NAMES["used"]: "diamond", NAMES["found"]: "diamond-open"}
    assert {trace.line.dash for trace in figure.data if trace.name == "guessing"} == {"dot"}
    assert sum(trace.showlegend for trace in figure.data) == 4  # one of each kind
    assert {tuple(axis.range) for axis in figure.select_yaxes()} == {(info.y.low, info.y.high)}


def test_only_the_lowest_chart_of_a_column_says_its_rates():
    labelled = [
        axis.showticklabels for axis in curves_figure(curves_info(with_curves(fake_findings(), 6))).select_xaxes()
    ]
    assert labelled[:6] == [False, False, True, True, True, True]


def test_one_curve_is_a_figure_too():
    assert len(curves_figure(info_of([LINE])).data) == 2


@pytest.mark.parametrize(("groups", "tall"), [(7, False), (ROWS * COLUMNS, False), (ROWS * COLUMNS + 1, True)])
def test_many_charts_scroll_in_a_box(groups, tall):
    assert ('class="scroll tall"' in curves(with_curves(fake_findings(), groups))) == tall


def test_the_section_says_how_it_was_measured_and_why_knees_moved():
    text = curves(with_curves(fake_findings(), 7))
    assert "one group at a time cut from the trained model, channels ranked by l1, batch norm recalibrated, no" in text
    assert "(3 curves)" in text
    assert "knee 0.7 of &#x27;stem&#x27; costs 0.31: guard 0.30" in text
    assert "ranked by" not in curves(with_curves(fake_findings(), 2, ("l1", "taylor")))


def test_without_knees_nothing_is_said_about_them():
    text = curves(replace(with_curves(fake_findings()), knees=()))
    assert "Sensitivity curves" in text
    assert "Filled" not in text
    assert "not taken" not in text


def test_a_long_table_of_knees_ends():
    knees = [Knee(group=f"g{i}", ratio=0.3, found=0.7, note="guard") for i in range(KNEES + 4)]
    text = curves(replace(fake_findings(), curves=(LINE,), knees=tuple(knees)))
    assert text.count('<td class="long">guard</td>') == KNEES
    assert "And 4 more" in text


def test_no_curve_no_section():
    assert curves(fake_findings()) == ""
    assert alike(fake_findings()) == ""


def test_the_criteria_of_a_blend_have_a_matrix():
    known = Alike(criteria=("l1", HOSTILE), correlations=((1.0, -0.256), (-0.256, 1.0)))
    text = alike(replace(fake_findings(), alike=known))
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in text.split("<tr>")[2:]]
    assert rows[0][:3] == ["l1", "1.00", "-0.26"]
    assert rows[1][-2:] == ["-0.26", "1.00"]
    assert HOSTILE not in text


def test_group_and_criterion_names_are_escaped():
    text = curves(hostile(with_curves(fake_findings())))
    assert "Sensitivity curves" in text
    assert HOSTILE not in text
    assert "<script>alert" not in text
