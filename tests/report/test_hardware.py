import re
from dataclasses import replace

import pytest
from hand_made_rows import ARRAY, TABLE
from report_fakes import HOSTILE, everything, fake_findings, fake_plan, hostile, watched, with_hardware

from paretune.costs.bill import paid
from paretune.costs.hardware import Hardware
from paretune.costs.table import COSTS, costs_for, static_costs
from paretune.inventory import Group, Inventory, Layer, Member
from paretune.plan import DENSE, GroupPlan, LayerPlan, Pattern, Plan
from paretune.profile import profile
from paretune.records import to_plain
from paretune.report.draw_hardware import LISTED, NAMED, costs_table, hardware, layers_figure
from paretune.report.hardware import SHOWN, hardware_info, machine, versus
from paretune.report.hardware_layers import LONGEST, layers_info, step_text, thinned
from paretune.report.picks import picks
from paretune.report.text import human

SYSTOLIC = replace(ARRAY, name="sixteen", rows=16, columns=16, buffer_bytes=4096, note="A made-up array.")
FINN = Hardware(name="fabric", engine="finn", energy=TABLE, relative_energy=TABLE, pe=4, simd=4, buffer_bytes=4096)
PIPELINE = replace(FINN, pe=1, simd=1, target_cycles=50_000)
EVERY = [replace(SYSTOLIC, dataflow=flow) for flow in ("output", "weight", "input")] + [FINN, PIPELINE]
IDS = ["output", "weight", "input", "shared engine", "own engines"]
FINDINGS = with_hardware(fake_findings(3), SYSTOLIC)


def text(html):
    return re.sub(r"<[^>]+>", " ", html)


def chain(width, count=2):
    """`count` convolutions of 8 × 8 pixels with `width` channels each, and groups that can lose them one by one."""
    names = [f"features.stage{i // 10}.conv{i}" for i in range(count)]
    layers = tuple(
        Layer(name=name, kind="conv", weight_shape=(width, inputs, 3, 3), bias=False, positions=64,
              input_shape=(inputs, 8, 8))
        for name, inputs in zip(names, [3] + [width] * (count - 1), strict=True)
    )  # fmt: skip
    units = tuple((unit,) for unit in range(width))
    groups = tuple(
        Group(name=name, channels=width, members=(Member(layer=name, axis="out", units=units),
              *(Member(layer=reader, axis="in", units=units) for reader in names[i + 1 : i + 2])))
        for i, name in enumerate(names)
    )  # fmt: skip
    return watched(Inventory(layers=layers, groups=groups, input_shape=(3, 28, 28), whole={}))


def compared(inventory, plan, on):
    rows = profile(inventory, DENSE), profile(inventory, plan)
    return layers_info(*rows, on, title="trial 7", names="knee", watched=bool(inventory.steps))


def cut(inventory, kept):
    return Plan(groups=tuple(GroupPlan(group=group.name, kept=tuple(range(kept))) for group in inventory.groups))


def partitioned(findings, parts=2):
    """`findings` whose searched trials partition the head."""

    def split(row):
        mask = Pattern(kind="partition", nonzeros=0, index_bytes=0, stored="", parts=parts)
        return replace(row, pattern=mask) if row.layer == "head" else row

    trials = (
        replace(t, plan=replace(t.plan, layers=tuple(map(split, t.plan.layers))))
        if t.plan and t.kind == "search" else t
        for t in findings.trials
    )  # fmt: skip
    return replace(findings, trials=tuple(trials))


def test_a_study_that_names_no_hardware_has_no_section():
    assert hardware_info(fake_findings()) is None
    assert hardware(fake_findings()) == ""
    assert "What the hardware pays" in hardware(FINDINGS)
    assert "<details>" in hardware(FINDINGS)  # definitions, folded


@pytest.mark.parametrize("on", EVERY, ids=IDS)
def test_every_cell_is_the_cost_of_a_stored_plan(on):
    findings = with_hardware(fake_findings(3), on)
    info = hardware_info(findings)
    named = [pick for pick in picks(findings) if pick.trial and pick.trial.label != "dense"]
    assert [point.title for point in info.points] == ["dense", *(f"trial {pick.trial.number}" for pick in named)]
    assert [point.names for point in info.points[1:]] == [pick.name for pick in named]
    plans = [DENSE, *(pick.trial.plan for pick in named)]
    totals = [static_costs(profile(findings.inventory, plan), on) for plan in plans]
    for cost in info.costs:
        assert cost.values == tuple(human(total[cost.name], COSTS[cost.name].objective.unit) for total in totals)
    assert [cost.name for cost in info.costs] == [
        name for name in SHOWN if name in costs_for(on) and name != "parallel_cycles"
    ]
    assert ({"luts", "dsps", "brams"} <= {cost.name for cost in info.costs}) == (on.engine == "finn")


@pytest.mark.parametrize("on", EVERY, ids=IDS)
def test_the_bars_add_up_to_the_totals(on):
    inventory = FINDINGS.inventory
    plan = next(trial.plan for trial in FINDINGS.front if trial.kind == "search")
    info = compared(inventory, plan, on)
    assert [row.name for row in info.rows] == [layer.name for layer in inventory.weighted]
    for side, one in enumerate((DENSE, plan)):
        rows = profile(inventory, one)
        total = static_costs(rows, on)
        together = max if on.target_cycles else sum
        assert together(row.cycles[side] for row in info.rows) == total["cycles"]
        assert max(row.alive[side] for row in info.rows) == total["activation_bytes"]
        works = {row.name: paid(row, on).work for row in rows}
        for row in info.rows:
            work = works[row.name]
            assert (row.passes[side], row.utilisation[side]) == (work.passes, work.utilisation)


def test_what_a_norm_holds_belongs_to_the_layer_before_it():
    inventory = FINDINGS.inventory
    rows = [replace(row, alive_bytes=9 if row.name == "b2.a.bn" else 1) for row in profile(inventory, DENSE)]
    info = layers_info(tuple(rows), tuple(rows), SYSTOLIC, title="", names="", watched=True)
    assert {row.name: row.alive for row in info.rows if row.alive != (1, 1)} == {"b2.a": (9, 9)}


@pytest.mark.parametrize(("kept", "columns", "step"), [(15, 1, False), (16, 1, False), (17, 2, True), (31, 2, True),
                                                       (32, 2, False)])  # fmt: skip
def test_seventeen_channels_on_sixteen_columns_are_a_step(kept, columns, step):
    inventory = chain(32)
    info = compared(inventory, cut(inventory, kept), SYSTOLIC)
    # an output stationary array takes ⌈64 pixels / 16 rows⌉ ⌈channels / 16 columns⌉ passes
    assert [row.passes for row in info.rows] == [(4 * 2, 4 * columns)] * 2
    assert [row.step for row in info.rows] == [step] * 2
    if step:
        first = info.rows[0]
        assert first.cycles[0] == first.cycles[1]  # its inputs, the image, were not cut
        assert step_text(first) == f"features.stage0.conv0 ({kept} of 32 channels, 8 passes)"


@pytest.mark.parametrize(
    ("flow", "after_outputs", "after_inputs"), [("output", True, False), ("weight", True, True), ("input", False, True)]
)
def test_what_is_laid_along_the_array_is_what_counts_in_steps(flow, after_outputs, after_inputs):
    inventory, on = chain(32), replace(SYSTOLIC, dataflow=flow)
    first, second = inventory.layers
    outputs, inputs = (
        Plan(groups=(GroupPlan(group=name, kept=tuple(range(31))),)) for name in (second.name, first.name)
    )
    # 31 of 32 channels lie on 2 × 16 columns still, 31 × 9 of 32 × 9 weights on 18 × 16 rows
    assert compared(inventory, outputs, on).rows[1].step is after_outputs
    assert compared(inventory, inputs, on).rows[1].step is after_inputs


def test_a_step_that_inputs_make_is_told_by_the_weights_of_a_channel():
    inventory = chain(32)
    first, second = inventory.layers
    inputs = Plan(groups=(GroupPlan(group=first.name, kept=tuple(range(31))),))
    wide = replace(SYSTOLIC, dataflow="weight", rows=512)
    stuck = compared(inventory, inputs, wide).rows[1]
    assert (stuck.step, stuck.passes) == (True, (2, 2))  # one fold along 512 rows, two along the columns
    assert step_text(stuck) == f"{second.name} (279 of 288 weights per channel, 2 passes)"


def test_engines_of_their_own_have_no_steps():
    inventory = chain(32)
    info = compared(inventory, cut(inventory, 17), PIPELINE)
    assert info.own_engines
    assert not any(row.step for row in info.rows)
    assert any(row.step for row in compared(inventory, cut(inventory, 17), replace(FINN, pe=16)).rows)


def test_the_page_names_the_layers_that_saved_no_pass():
    inventory = chain(32, NAMED + 3)
    plan = cut(inventory, 17)
    trials = tuple(replace(t, plan=plan) if t.plan and t.kind == "search" else t for t in fake_findings().trials)
    findings = with_hardware(replace(fake_findings(), inventory=inventory, trials=trials), SYSTOLIC)
    told = text(hardware(findings))
    assert "Smaller, and yet as many passes as before: features.stage0.conv0 (17 of 32 channels, 8 passes), " in told
    assert f"features.stage0.conv{NAMED - 1} (17 of 32 channels, 8 passes) and 3 more." in told
    assert "Smaller, and yet" not in text(hardware(replace(findings, trials=fake_findings().trials[:1])))


@pytest.mark.parametrize(("buffer", "fits"), [(1, True), (150, True), (151, False), (10**9, False)])
def test_a_buffer_far_beyond_the_bars_is_told_and_not_drawn(buffer, fits):
    rows = tuple(replace(row, alive_bytes=100) for row in profile(chain(4), DENSE))
    info = layers_info(rows, rows, replace(SYSTOLIC, buffer_bytes=buffer), title="t", names="", watched=True)
    assert info.fits_scale is fits
    figure = layers_figure(info)
    assert [shape.x0 for shape in figure.layout.shapes] == [buffer] * fits
    assert ("beyond this scale" in figure.layout.xaxis3.title.text) is not fits


def test_a_network_nobody_watched_has_no_bars_of_memory():
    findings = replace(FINDINGS, inventory=fake_findings(3).inventory)
    info = hardware_info(findings)
    unknown = next(cost for cost in info.costs if cost.name == "activation_bytes")
    assert set(unknown.values) == {"–"}
    assert set(unknown.beside) == {""}
    panels = {trace.xaxis or "x" for trace in layers_figure(info.layers).data}
    assert panels == {"x", "x2"}
    assert {trace.xaxis or "x" for trace in layers_figure(hardware_info(FINDINGS).layers).data} == {"x", "x2", "x3"}


def test_every_layer_stands_once_in_every_panel_behind_and_before():
    figure = layers_figure(compared(chain(32), cut(chain(32), 17), SYSTOLIC))
    by_panel = {}
    for trace in figure.data:
        by_panel.setdefault((trace.xaxis or "x", trace.legendgroup), []).extend(trace.y)
    names = [layer.name for layer in chain(32).layers]
    assert {key: sorted(found) for key, found in by_panel.items()} == {
        (panel, side): names for panel in ("x", "x2", "x3") for side in ("dense", "point")
    }
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == ["dense", "trial 7", "smaller, yet as many passes"]


def test_two_hundred_layers_stay_on_a_chart_of_some_screens():
    inventory = chain(4, 200)
    figure = layers_figure(compared(inventory, cut(inventory, 3), SYSTOLIC))
    assert figure.layout.height < 1700
    labels = figure.layout.yaxis.tickvals
    assert len(labels) == 100
    assert len(figure.layout.yaxis.categoryarray) == 200
    assert (figure.layout.height - 130) / len(labels) >= 13
    assert len(layers_figure(compared(chain(4), DENSE, SYSTOLIC)).layout.yaxis.tickvals) == 2


def test_a_long_name_keeps_its_end():
    long = "a" * 40 + ".conv"
    assert thinned(["x", "dropped", long], 2) == [("x", "x"), (long, "…" + long[-LONGEST + 1 :])]
    assert len(thinned([long], 1)[0][1]) == LONGEST


def test_no_point_but_the_dense_one_still_has_costs():
    for trials in ((), FINDINGS.trials[:1]):
        info = hardware_info(replace(FINDINGS, trials=trials))
        assert [point.title for point in info.points] == ["dense"]
        assert info.layers is None
        assert "Layer by layer" not in hardware(replace(FINDINGS, trials=trials))


def test_a_dense_network_that_is_picked_says_for_what():
    info = hardware_info(with_hardware(fake_findings(3, limit=1e9), SYSTOLIC))
    names = next(pick.name for pick in picks(fake_findings(3, limit=1e9)) if pick.trial.label == "dense")
    assert info.points[0].names == names
    assert hardware_info(FINDINGS).points[0].names == "dense"


@pytest.mark.parametrize(
    ("dense", "value", "said"),
    [(10, 5, "2.00× smaller"), (5, 10, "2.00× larger"), (7, 7, "the same"), (1000, 1001, "the same"),
     (0, 0, "the same"), (5, 0, ""), (0, 5, "")],
)  # fmt: skip
def test_what_became_of_the_dense_number(dense, value, said):
    assert versus(dense, value) == said


@pytest.mark.parametrize(
    ("on", "said"),
    [
        (SYSTOLIC, "sixteen: a systolic array of 16 × 16 multipliers, output stationary; a buffer of 4.1 kB; no zero "
                   "is skipped; energy by table mine in pJ and table mine in pJ."),
        (FINN, "one FINN-style engine of 4 elements × 4 lanes that all layers share;"),
        (PIPELINE, "a FINN-style engine of its own for every layer, folded to 50,000 cycles;"),
        (replace(FINN, skips="blocks", ternary_adds=True, accelerators=3), "masked blocks are skipped; ternary weights "
         "take no multiplier; partitioned layers share 3 accelerators;"),
    ],
)  # fmt: skip
def test_the_hardware_in_a_line(on, said):
    assert said in machine(on)
    assert said in text(hardware(with_hardware(fake_findings(), on)))


def test_a_model_is_not_passed_off_as_a_measurement():
    told = text(hardware(FINDINGS))
    assert "Modelled, not measured" in told
    assert "A made-up array." in told
    for name in (cost.name for cost in hardware_info(FINDINGS).costs):
        assert f"{SHOWN[name]}: " in told
        assert f"Source: {COSTS[name].source}." in re.sub("&amp;", "&", told)


def test_cycles_of_engines_side_by_side_are_those_of_the_slowest():
    notes = {cost.name: cost.note for cost in hardware_info(with_hardware(fake_findings(), PIPELINE)).costs}
    assert notes["cycles"] == "of the slowest layer"
    assert {note for name, note in notes.items() if name != "cycles"} == {""}
    assert not any(cost.note for cost in hardware_info(FINDINGS).costs)


def test_several_accelerators_stand_next_to_one():
    info = hardware_info(partitioned(FINDINGS))
    assert "parallel_cycles" in [cost.name for cost in info.costs]
    assert [point.title for point, _ in info.splits] == [point.title for point in info.points[1:]]
    for _, splits in info.splits:
        (one,) = splits
        assert (one.name, one.parts, one.accelerators) == ("head", 2, 2)
        assert one.speedup == pytest.approx(one.pruning_speedup * one.parallel_speedup)
    one = info.splits[0][1][0]
    numbers = f"head 2 2 {one.dense_cycles:,} {one.serial_cycles:,} {one.parallel_cycles:,} {one.pruning_speedup:.2f}× "
    told = " ".join(text(hardware(partitioned(FINDINGS))).split())
    assert numbers + f"{one.parallel_speedup:.2f}× {one.speedup:.2f}× {one.energy_gain:.2f}× all of them" in told
    assert "Several accelerators" not in hardware(FINDINGS)


def test_engines_of_their_own_share_no_blocks():
    info = hardware_info(partitioned(with_hardware(fake_findings(3), PIPELINE)))
    assert info.splits == ()
    assert "parallel_cycles" not in [cost.name for cost in info.costs]


@pytest.mark.parametrize("on", EVERY, ids=IDS)
def test_everything_a_cost_leaves_out_is_listed_once(on):
    findings = with_hardware(fake_findings(3), on)
    info = hardware_info(findings)
    lists = [missing for _, missing in info.uncounted]
    assert len(lists) == len(set(lists))
    found = {name: missing for names, missing in info.uncounted for name in names}
    rows = info.points[1].rows
    for cost in info.costs:
        assert found.get(cost.name, ()) == COSTS[cost.name].uncounted(rows, findings.inventory)
    assert hardware(findings).count("relu ×7") == 1  # what goes on where another list ends refers to it


def test_long_lists_of_what_is_left_out_have_an_end():
    many = tuple((f"op{i}", i + 1) for i in range(LISTED + 5))
    findings = replace(FINDINGS, inventory=replace(FINDINGS.inventory, operations=many))
    told = hardware(findings)
    assert f"op{LISTED - 1} ×{LISTED}; and 5 more." in told
    assert f"op{LISTED} " not in told


def test_floats_on_an_engine_for_integers_are_told():
    told = text(hardware(with_hardware(fake_findings(), FINN)))
    assert "counted as integers of 32 bits: dense (8 layers)." in told
    assert "integers of 32 bits" not in text(hardware(FINDINGS))
    late = text(hardware(with_hardware(fake_findings(), replace(PIPELINE, target_cycles=1))))
    assert re.search(
        r"Slower than the target however they are folded: dense \(7 layers\), trial \d+ \(7 layers\)", late
    )


def test_numbers_that_were_counted_differently_are_not_kept_quiet():
    assert not any("recorded other numbers" in caveat for caveat in hardware_info(FINDINGS).caveats)
    trials = tuple(replace(t, values=t.values | {"cycles": 1.0}) if t.plan else t for t in FINDINGS.trials)
    (caveat,) = hardware_info(replace(FINDINGS, trials=trials)).caveats
    assert caveat.endswith("as they were counted then: cycles.")


def test_the_table_has_a_column_per_point():
    info = hardware_info(FINDINGS)
    rows = re.findall(r"<tr>(.*?)</tr>", costs_table(info))
    assert len(rows) == 2 + len(info.costs)
    assert {len(re.findall(r"<t[hd]", row)) for row in rows} == {1 + len(info.points)}
    size = next(cost for cost in info.costs if cost.name == "size_bytes")
    assert f"<td>{size.values[1].replace(' ', chr(160))}<small>{size.beside[1]}</small></td>" in costs_table(info)


def test_no_text_of_the_user_becomes_markup():
    bad = everything(fake_findings(2))
    layer = Layer(name=HOSTILE, kind="linear", weight_shape=(4, 4), bias=False)
    inventory = replace(bad.inventory, layers=(*bad.inventory.layers, layer), operations=((HOSTILE, 1),))
    on = replace(SYSTOLIC, name=HOSTILE, note=HOSTILE, energy=replace(TABLE, name=HOSTILE, source=HOSTILE))
    bad = replace(hostile(bad), inventory=inventory, provenance={"hardware": to_plain(on)})
    html = hardware(bad)
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 3
    figure = layers_figure(hardware_info(bad).layers)
    names = [*figure.layout.yaxis.categoryarray, *figure.layout.yaxis.ticktext, *(n for t in figure.data for n in t.y)]
    assert sum("&lt;script&gt;" in name for name in names) == 2 + 6  # Plotly reads a small HTML of its own
    assert not any("<script>" in name for name in names)


def test_a_plan_may_lack_layers():
    trial = replace(FINDINGS.front[-1], plan=fake_plan({"stem": 0.5}, {"head": (4, 8)}))
    info = hardware_info(replace(FINDINGS, trials=(trial,)))
    assert info.layers.rows[0].channels == (16, 8)
    assert LayerPlan(layer="b1.a") not in trial.plan.layers
    assert info.layers.rows[2].channels == (32, 32)
