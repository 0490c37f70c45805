import re
from dataclasses import replace

import pytest
from report_fakes import OBJECTIVES, confirmed, fake_findings, with_masks

from paretune.choose import choose
from paretune.plan import DENSE, LayerPlan, Pattern
from paretune.profile import profile
from paretune.report.axis import axis, ticks
from paretune.report.fronts import front_info, front_infos
from paretune.report.hover import LINES, hover, markup, plan_lines


def series(info):
    return {one.role: one for one in info.series}


@pytest.mark.parametrize(("objectives", "charts"), [(2, 1), (3, 3)])
def test_one_chart_per_pair_with_quality_upright(objectives, charts):
    infos = front_infos(fake_findings(objectives))
    assert len(infos) == charts
    assert [info.y.name for info in infos][: objectives - 1] == ["top1_error"] * (objectives - 1)


def test_every_fresh_trial_with_both_values_is_drawn_once():
    findings = fake_findings(2)
    drawn = {role: len(one.x) for role, one in series(front_info(findings)).items()}
    fresh = [trial for trial in findings.trials if trial.same_as is None and "top1_error" in trial.values]
    assert sum(drawn.values()) - drawn["knee"] == len(fresh)
    searched = [trial for trial in findings.front if trial.kind == "search"]
    assert drawn["on the front"] == len(searched)


def test_over_budget_trials_appear_where_they_were_measured():
    quality_size, _, size_bops = front_infos(fake_findings(3))
    assert "over budget" not in series(quality_size)
    assert len(series(size_bops)["over budget"].x) > 0


def test_the_line_joins_what_nothing_beats_left_to_right():
    info = front_info(fake_findings(2))
    xs, ys = zip(*info.line, strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys, reverse=True)
    assert len(info.line) == len(fake_findings(2).front)


def test_knee_dense_budget_and_confirmed_points_are_marked():
    findings = fake_findings(2)
    knee = choose(findings, "knee")
    info = front_info(confirmed(findings, knee))
    marks = series(info)
    assert (marks["knee"].x, marks["knee"].y) == ((knee.values["size_bytes"],), (knee.values["top1_error"],))
    assert marks["dense"].labels == ("dense",)
    assert (info.budget_x, info.budget_y) == (30_000.0, None)
    assert marks["confirmed on test"].y == pytest.approx(
        (knee.values["top1_error"] + 0.005, knee.values["top1_error"] + 0.003)
    )


def test_a_confirmed_point_says_how_far_its_seeds_lie_apart():
    findings = fake_findings(2)
    kept, full = series(front_info(confirmed(findings, findings.front[0])))["confirmed on test"].hover
    error = 100 * findings.front[0].values["top1_error"]
    assert kept[1:] == (f"val: found {error:.2f} %, replayed {error:.2f} %", f"test: {error + 0.5:.2f} %")
    assert full[1:] == (
        f"val: found {error:.2f} %, replayed {error:.2f} ± 0.10 %", f"test: {error + 0.3:.2f} ± 0.10 %",
    )  # fmt: skip


def test_confirmed_points_need_a_quality_axis():
    findings = fake_findings(3)
    info = front_info(confirmed(findings, findings.front[0]), x=2, y=1)
    assert "confirmed on test" not in series(info)


def test_labels_that_would_cover_a_neighbour_move_below_it():
    findings = fake_findings(2)
    moved = dict(
        zip(*(getattr(series(front_info(findings))["control"], key) for key in ("labels", "below")), strict=True)
    )
    assert moved["uniform 25 % 8 bit"]
    assert not moved["uniform 4 bit"]


def test_every_mark_and_budget_is_inside_the_axes():
    for info in front_infos(fake_findings(3)):
        for one in info.series:
            assert all(0 < info.x.place(x) < 1 for x in one.x)
            assert all(0 < info.y.place(y) < 1 for y in one.y)
        assert info.budget_x is None or 0 < info.x.place(info.budget_x) < 1


def test_a_perfect_score_is_not_cut_off_and_no_tick_is_negative():
    one = axis(OBJECTIVES[0], (0.0, 0.05))
    assert one.place(0.0) > 0
    assert min(ticks(one)) == 0


@pytest.mark.parametrize(
    ("values", "log"), [((1, 10), False), ((1, 11), True), ((0, 50), False), ((), False), ((3,), False)]
)
def test_an_axis_is_logarithmic_beyond_a_decade(values, log):
    one = axis(OBJECTIVES[1], values)
    assert one.log is log
    assert one.low < one.high
    assert not one.log or one.low > 0


@pytest.mark.parametrize("values", [(11_000, 380_000), (0.019, 0.14), (1, 1e12), (5, 5), (2.1e8, 2.2e8), ()])
def test_ticks_are_few_round_and_inside(values):
    one = axis(OBJECTIVES[1], values)
    found = ticks(one, 6)
    assert 2 <= len(found) <= 7
    assert list(found) == sorted(found)
    assert all(-1e-9 <= one.place(value) <= 1 + 1e-9 for value in found)
    assert all(len(f"{value:.3g}".rstrip("0")) <= 9 for value in found)


def test_ticks_of_a_short_axis_in_closed_form():
    assert ticks(axis(OBJECTIVES[0], (0.0, 0.1))) == pytest.approx((0.0, 0.02, 0.04, 0.06, 0.08, 0.1))


def test_hover_tells_the_whole_plan_compactly():
    findings = fake_findings()
    trial = next(trial for trial in findings.front if trial.kind == "search")
    text = "\n".join(hover(findings, trial))
    assert text.startswith(f"trial {trial.number} (searched)\ntop-1 error: ")
    assert "recovery: 2 epochs at lr 0.0" in text
    for layer in trial.plan.layers:
        assert layer.layer in text


def test_hover_of_uniform_and_dense_plans_is_short():
    findings = fake_findings()
    dense, uniform = findings.trials[0], findings.trials[2]
    assert plan_lines(findings.inventory, dense.plan)[:2] == [
        "kept: all channels", "bits (weights/activations): float/float everywhere",
    ]  # fmt: skip
    assert plan_lines(findings.inventory, uniform.plan)[1] == "bits (weights/activations): 4/8 everywhere"


def test_hover_tells_masks_with_their_density():
    findings = with_masks(fake_findings())
    trial = next(trial for trial in findings.front if trial.kind == "search")
    text = " ".join(" ".join(plan_lines(findings.inventory, trial.plan)).split())
    assert re.search(r"masks \(weights kept\): 2:4 50\.0 %: b1\.b, unstructured (9\.9|10\.\d) %: b3\.b", text)
    assert "masks" not in " ".join(plan_lines(findings.inventory, fake_findings().front[0].plan))


def test_one_mask_on_every_layer_is_said_once():
    findings = fake_findings()
    rows = [row for row in profile(findings.inventory, findings.trials[2].plan) if row.weights]
    layers = tuple(
        LayerPlan(layer=row.name, pattern=Pattern(kind="2:4", nonzeros=row.weights // 2, index_bytes=0, stored=""))
        for row in rows
    )
    said = "masks (weights kept): 2:4 50.0 % everywhere"
    assert said in plan_lines(findings.inventory, replace(DENSE, layers=layers))
    assert said not in plan_lines(findings.inventory, replace(DENSE, layers=layers[:-1]))


def test_hover_has_an_end():
    findings = fake_findings()
    groups = tuple(
        replace(g, name=f"a_very_long_group_name_{i}_{g.name}" * 4) for i, g in enumerate(findings.inventory.groups * 9)
    )
    plan = replace(
        findings.trials[2].plan, groups=tuple(replace(findings.trials[3].plan.groups[0], group=g.name) for g in groups)
    )
    long = replace(findings, inventory=replace(findings.inventory, groups=groups))
    assert len(hover(long, replace(findings.trials[2], plan=plan))) == LINES + 1


def test_hover_markup_is_escaped():
    assert markup(["<b>", "a & b"]) == "&lt;b&gt;<br>a &amp; b"
