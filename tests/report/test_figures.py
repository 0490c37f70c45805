from dataclasses import replace

import pytest
from report_fakes import fake_findings, with_masks

from paretune.profile import profile
from paretune.report import draw
from paretune.report.choices import MOST, association, choices_info, short
from paretune.report.failures import failures
from paretune.report.fronts import front_infos
from paretune.report.layers import COLUMNS, bits_info, kept_info, weights_info
from paretune.report.progress import progress_info
from paretune.report.stages import stages_info


def searched(findings, params):
    """`findings` with `params[i]` as the choices of its i-th searched trial, all of them finished."""
    trials = [t for t in findings.trials if t.kind == "search" and t.status == "done" and t.same_as is None][
        : len(params)
    ]
    return replace(findings, trials=tuple(replace(t, params=p) for t, p in zip(trials, params, strict=True)))


def test_progress_marks_feasible_controls_on_the_curve():
    info = progress_info(fake_findings())
    controls = info.marks["control"]
    assert [mark.trial for mark in controls] == [4, 5]
    assert controls[0].text == f"trial 4 (uniform 50 % 8 bit): {info.hypervolume[4]:.4f}"
    (baseline,) = info.baselines
    assert baseline.name == "controls alone"
    assert controls[-1].height == info.hypervolume[5] == pytest.approx(baseline.height)
    assert info.range[0] < info.hypervolume[4]
    assert info.hypervolume[-1] < info.range[1]


def test_progress_without_trials():
    assert progress_info(replace(fake_findings(), trials=())).range == (0.0, 1.0)


def test_heat_maps_hold_the_front_best_quality_first():
    findings = fake_findings()
    kept, bits = kept_info(findings), bits_info(findings)
    assert kept.columns == bits.columns == tuple(f"#{trial.number}" for trial in findings.front)
    plan = findings.front[2].plan
    assert kept.cells[1][2] == plan.kept_share(findings.inventory, kept.rows[1])
    assert bits.texts[-1][2] == str(plan.bits["head"].weight_bits)
    assert kept.numbers


def test_float_layers_are_called_float_and_do_not_squeeze_the_colours():
    info = bits_info(fake_findings(limit=1e9))
    assert info.texts[0][0] == "float"
    assert info.high < 4


def test_weights_kept_are_the_density_after_the_cut_of_every_masked_layer():
    findings = with_masks(fake_findings())
    info = weights_info(findings)
    assert info.rows == ("b1.b", "b3.b")
    assert info.columns == kept_info(findings).columns
    at = next(i for i, trial in enumerate(findings.front) if trial.kind == "search")
    row = next(row for row in profile(findings.inventory, findings.front[at].plan) if row.name == "b3.b")
    assert row.weights < 64 * 64 * 9
    assert info.cells[1][at] == row.nonzeros / row.weights == pytest.approx(0.1, abs=0.01)
    assert info.texts[0][at] == "50"
    assert weights_info(fake_findings()).rows == ()


def test_a_layer_that_one_member_does_not_mask_is_whole_there():
    findings = with_masks(fake_findings(limit=1e9))
    info = weights_info(findings)
    assert findings.front[0].label == "dense"
    assert (info.cells[0][0], info.texts[0][0]) == (1.0, "100")


def test_a_long_front_is_thinned_out_evenly_and_says_so():
    findings = fake_findings(3)
    pattern = findings.front[0]
    values = [{"top1_error": 0.02 + i / 1000, "size_bytes": 9e4 - i, "bops": 1e9} for i in range(100)]
    trials = tuple(replace(pattern, number=i, values=v, kind="search") for i, v in enumerate(values))
    info = kept_info(replace(findings, trials=trials))
    assert (info.columns[0], info.columns[-1]) == ("#0", "#99")
    assert (len(info.columns), info.left_out, info.numbers) == (COLUMNS, 100 - COLUMNS, False)


def test_more_choices_than_axes_are_reduced_to_the_most_telling_ones():
    findings = fake_findings()
    quality = [
        t.values["top1_error"]
        for t in findings.trials
        if t.kind == "search" and t.status == "done" and t.same_as is None
    ]
    noise = [{f"noise{j}": (7 * i + j * i * i) % 11 for j in range(20)} | {"cause": q} for i, q in enumerate(quality)]
    info = choices_info(searched(findings, noise))
    assert len(info.dimensions) == MOST + 1
    assert info.left_out == 21 - MOST
    assert "cause" in [one.name for one in info.dimensions]
    assert info.dimensions[-1].name == "top-1 error"


def test_choices_are_numbers_logarithms_or_named_ticks():
    params = [{"rate": 0.1 * i, "lr": 10.0**-i, "how": "ab"[i % 2], "same": 1} for i in range(1, 5)]
    rate, lr, how, _ = choices_info(searched(fake_findings(), params)).dimensions
    assert rate.positions == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert lr.positions == pytest.approx((-1, -2, -3, -4))
    assert lr.tick_text[0] == "0.0001"
    assert (how.positions, how.tick_text) == ((1.0, 0.0, 1.0, 0.0), ("a", "b"))


def test_a_choice_that_was_not_offered_sits_below_the_others():
    params = [{"a": 1.0, "b": "x"}, {"a": 2.0}, {"a": None, "b": "y"}]
    a, b, _ = choices_info(searched(fake_findings(), params)).dimensions
    assert a.positions[2] < min(a.positions[:2])
    assert a.tick_text[0] == "–"
    assert (b.positions, b.tick_text) == ((0.0, 2.0, 1.0), ("x", "y", "–"))


def test_association_is_spearmans_without_sign():
    assert association([1, 2, 3, 4], [10, 100, 1000, 10_000]) == pytest.approx(1.0)
    assert association([4, 3, 2, 1], [1, 2, 3, 4]) == pytest.approx(1.0)
    assert association([1, 2, 1, 2], [1, 1, 2, 2]) == pytest.approx(0.0)
    assert association([5, 5, 5], [1, 2, 3]) == 0.0


def test_long_names_keep_both_ends():
    assert short("lr") == "lr"
    assert short("weight_bits:layer3.2.downsample.conv") == "weight_b…wnsample.conv"


def test_failures_that_differ_in_numbers_only_are_one_reason():
    findings = fake_findings()
    over, *rest = failures(findings)
    fresh = [t for t in findings.trials if t.status == "over_budget" and t.same_as is None]
    assert (over.status, over.count, over.reason) == ("over budget", len(fresh), fresh[0].reason)
    assert over.first == tuple(trial.number for trial in fresh[:5])
    assert sum(row.count for row in rest) == sum(t.status == "failed" and t.same_as is None for t in findings.trials)


def test_stages_are_medians_in_running_order():
    findings = fake_findings()
    first, second, third = findings.trials[:3]
    trials = tuple(
        replace(t, seconds=s) for t, s in [(first, {"a": 1.0, "b": 9.0}), (second, {"a": 3.0}), (third, {"a": 8.0})]
    )
    info = stages_info(replace(findings, trials=trials))
    assert (info.stopped, info.stopped_stages) == (0, ())
    assert (info.stages, info.trials, info.total_seconds) == ((("a", 3.0), ("b", 0.0)), 3, 21.0)


@pytest.mark.parametrize("objectives", [2, 3])
def test_figures_draw_what_was_decided(objectives):
    findings = fake_findings(objectives)
    for info in front_infos(findings):
        names = [trace.name for trace in draw.front_figure(info).data]
        assert draw.front_figure(info).data[0].line.shape == "hv"  # what a point beats lies to its right
        assert [name for name in names if name not in (info.line_name, "budget")] == [one.role for one in info.series]
        assert names.count("budget") == (info.budget_x is not None) + (info.budget_y is not None)
    heat = draw.heat_figure(kept_info(findings)).data[0]
    assert len(heat.x) == len(findings.front)
    assert len(draw.choices_figure(choices_info(findings)).data[0].dimensions) == MOST + 1
    assert len(draw.stages_figure(stages_info(findings)).data) == 5
    info = progress_info(findings)
    for over_time, across in ((False, info.trials), (True, info.times)):
        (line,) = [t for t in draw.progress_figure(info, over_time=over_time).data if t.name == "hypervolume"]
        assert (list(line.x), list(line.y)) == (list(across), list(info.hypervolume))
