import re
from dataclasses import replace

import pytest
from report_fakes import everything, fake_findings, hostile, with_masks, with_quantizers

from paretune.costs.counts import size_bytes
from paretune.costs.storage import stored_as, stored_bytes
from paretune.inventory import Layer
from paretune.plan import DENSE, LayerPlan
from paretune.profile import profile
from paretune.report.draw import heat_figure
from paretune.report.draw_stored import SHORT, stored
from paretune.report.layers import activations_info, bits_info, stored_bits_info
from paretune.report.picks import picks
from paretune.report.rules import TOLD, decided
from paretune.report.stored import stored_infos, weight_rows

FINDINGS = with_quantizers(with_masks(fake_findings(2)))
OLD = fake_findings(2)


def text_rows(html):
    """The cells of every table row, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[re.sub(r"<[^>]+>", " ", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def with_layers(findings, change):
    """`findings` in which `change(row)` replaces every layer plan."""
    trials = (
        replace(t, plan=replace(t.plan, layers=tuple(map(change, t.plan.layers)))) if t.plan else t
        for t in findings.trials
    )
    return replace(findings, trials=tuple(trials))


@pytest.mark.parametrize("findings", [FINDINGS, OLD, everything(fake_findings(3))], ids=["codes", "old", "everything"])
def test_the_lines_of_a_table_add_up_to_the_size_of_the_trial(findings):
    infos = stored_infos(findings)
    assert len(infos) > 1
    for info in infos:
        trial = next(trial for trial in findings.trials if trial.number == info.number)
        parts = sum(row.size for row in info.rows) + info.scales + info.floats + info.header
        assert parts == info.total == info.recorded == trial.values["size_bytes"]
        assert info.total == size_bytes(profile(findings.inventory, trial.plan))


def test_every_point_worth_naming_has_one_table_but_the_dense_model():
    named = [pick.trial.number for pick in picks(FINDINGS) if pick.trial and pick.trial.label != "dense"]
    assert [info.number for info in stored_infos(FINDINGS)] == named
    assert len(named) == len(set(named)) > 1


def test_a_row_says_how_a_layer_is_stored():
    info = next(one for one in stored_infos(FINDINGS) if any(row.weight_bits == 1 for row in one.rows))
    trial = next(trial for trial in FINDINGS.trials if trial.number == info.number)
    rows, plan = weight_rows(FINDINGS.inventory, trial.plan), trial.plan.bits
    assert [row.layer for row in info.rows] == [layer.name for layer in FINDINGS.inventory.weighted]
    for shown, row in zip(info.rows, rows, strict=True):
        assert (shown.encoding, shown.size, shown.weights) == (stored_as(row), stored_bytes(row), row.weights)
        assert shown.bits_per_weight == 8 * shown.size / shown.weights
        assert (shown.weight_bits, shown.quantizer) == (row.weight_bits, plan[row.name].weight_quantizer)
        assert shown.activation_quantizer == plan[row.name].activation_quantizer
        assert shown.pattern == row.pattern
    one = next(row for row in info.rows if row.layer == "b2.b")
    assert (one.weight_bits, one.quantizer, one.encoding) == (1, "dorefa", "dense")
    assert one.bits_per_weight == pytest.approx(1, abs=0.01)


def test_what_is_float_names_no_quantizer():
    trial = FINDINGS.front[-1]
    layers = tuple(
        LayerPlan(layer=row.layer, activation_quantizer="pact", weight_quantizer="mse") if row.layer == "stem" else row
        for row in trial.plan.layers
    )
    findings = replace(FINDINGS, trials=(replace(trial, plan=replace(trial.plan, layers=layers)),))
    (info,) = stored_infos(findings)
    assert (info.rows[0].layer, info.rows[0].quantizer, info.rows[0].activation_quantizer) == ("stem", "", "")
    assert text_rows(stored(findings))[1][2:6] == ["float", "–", "float", "–"]


def test_the_tables_are_on_the_page_with_their_total_last():
    text = stored(FINDINGS)
    infos = stored_infos(FINDINGS)
    assert text.count("<details open>") == len(infos)
    assert f"How trial {infos[0].number} is stored: {infos[0].names}" in text
    rows = text_rows(text.split("</table>")[0])
    assert rows[0] == ["layer", "weights", "bits", "quantizer", "activation bits", "quantizer", "stored as", "bytes",
                       "bits per weight"]  # fmt: skip
    assert [row[0] for row in rows[-4:]] == ["scales", "biases and other floats", "header", "total"]
    whole = [int(row[-2].replace(",", "")) for row in rows[1:]]
    assert sum(whole[:-1]) == whole[-1] == infos[0].total
    assert int(rows[-1][1].replace(",", "")) == sum(row.weights for row in infos[0].rows)
    assert float(rows[-1][-1]) == pytest.approx(8 * infos[0].total / infos[0].weights, abs=0.005)


def test_a_long_table_is_folded():
    more = tuple(Layer(name=f"more{i}", kind="linear", weight_shape=(4, 4), bias=False) for i in range(SHORT))
    wide = replace(FINDINGS.inventory, layers=(*FINDINGS.inventory.layers, *more))
    assert "<details open>" not in stored(replace(FINDINGS, inventory=wide))
    assert "<details>" in stored(replace(FINDINGS, inventory=wide))


def test_a_study_without_codes_is_told_from_its_plans():
    assert not any(info.known for info in stored_infos(OLD))
    assert "these bytes are the most that its plan allows" in stored(OLD)
    assert "the most that its plan allows" not in stored(FINDINGS)
    assert all(info.known for info in stored_infos(FINDINGS))


def test_sizes_that_are_only_nearly_known_are_said_to_be():
    near = "Huffman and entropy coded layers: within 16 bytes and 1&nbsp;% of what the file takes."
    assert near in stored(FINDINGS)
    assert near not in stored(OLD)  # without codes neither is chosen


def test_a_size_that_was_counted_differently_is_not_kept_quiet():
    trials = (
        replace(t, values=t.values | {"size_bytes": t.values["size_bytes"] - 7}) if t.values else t for t in OLD.trials
    )
    findings = replace(OLD, trials=tuple(trials))
    info = stored_infos(findings)[0]
    assert info.recorded == info.total - 7
    assert f"The study recorded {info.total - 7:,} bytes for it" in stored(findings)
    assert "The study recorded" not in stored(OLD)


def test_nothing_quantized_or_masked_has_neither_tables_nor_a_map():
    plain = with_layers(OLD, lambda row: LayerPlan(layer=row.layer))
    assert stored(plain) == ""
    assert stored_bits_info(plain).rows == bits_info(plain).rows == ()
    assert stored_bits_info(with_masks(plain)).rows != ()
    assert stored(with_masks(plain)) != ""
    assert stored(replace(OLD, trials=())) == ""
    assert stored_bits_info(replace(OLD, trials=())).rows == ()


def test_stored_bits_are_bytes_over_the_weights_that_are_left():
    info = stored_bits_info(FINDINGS)
    at = next(i for i, trial in enumerate(FINDINGS.front) if trial.kind == "search")
    for i, row in enumerate(weight_rows(FINDINGS.inventory, FINDINGS.front[at].plan)):
        assert info.rows[i] == row.name
        assert float(info.texts[i][at]) == pytest.approx(8 * stored_bytes(row) / row.weights, abs=0.0501)
        assert re.fullmatch(r"\d+\.\d", info.texts[i][at])
    assert info.columns == bits_info(FINDINGS).columns


def test_a_layer_that_is_left_in_float_is_called_so():
    first = replace(OLD.trials[0], plan=DENSE, feasible=True)
    info = stored_bits_info(replace(OLD, trials=(first, *OLD.trials[1:]), budget={}))
    assert {row[0] for row in info.texts} == {"float"}
    assert info.high < 5


def test_one_bit_has_a_colour_of_its_own():
    info = bits_info(FINDINGS)
    cells = [cell for row in info.cells for cell in row]
    assert min(cells) == 0.0
    assert info.low < min(cells)
    one, two = ((cell - info.low) / (info.high - info.low) for cell in (0.0, 1.0))
    assert 0.1 < one < two - 0.1  # of the scale, whose start is white
    heat = heat_figure(info).data[0]
    assert (heat.zmin, heat.zmax) == (info.low, info.high)


def test_activation_bits_are_shown_where_they_differ():
    assert activations_info(OLD).rows == ()  # 8 everywhere
    info = activations_info(FINDINGS)
    assert len(info.rows) == len(FINDINGS.inventory.weighted)
    at = next(i for i, trial in enumerate(FINDINGS.front) if trial.kind == "search" and not trial.plan.joint)
    assert [row[at] for row in info.texts][:4] == ["8", "4", "8", "4"]


def test_activation_bits_that_differ_between_members_only_are_shown_too():
    first, *rest = OLD.front
    changed = replace(
        first, plan=replace(first.plan, layers=tuple(replace(r, activation_bits=4) for r in first.plan.layers))
    )
    info = activations_info(replace(OLD, trials=(changed, *rest)))
    assert {(row[0], row[1]) for row in info.texts} == {("4", "8")}
    one_width = with_layers(OLD, lambda row: replace(row, activation_bits=32))
    assert activations_info(one_width).rows == ()


def test_the_page_says_what_a_joint_training_found():
    joint = [trial.number for trial in FINDINGS.front if trial.plan.joint]
    assert len(joint) == 1
    text = decided(FINDINGS)
    assert f"In trial {joint[0]} one training found channels and bits together (DJPQ). The page shows what it" in text
    assert "<table>" not in text
    assert decided(OLD) == ""


def test_many_joint_trials_are_counted():
    plan = next(trial.plan for trial in FINDINGS.front if trial.plan.joint)
    values = [{"top1_error": 0.02 + i / 1000, "size_bytes": 9e3 - i} for i in range(TOLD + 3)]
    trials = tuple(replace(FINDINGS.front[0], number=i, values=v, plan=plan) for i, v in enumerate(values))
    assert f"trials 0, 1, {', '.join(map(str, range(2, TOLD)))} and 3 more one training found" in decided(
        replace(FINDINGS, trials=trials)
    )


def test_texts_are_escaped():
    assert "<script>" not in stored(hostile(everything(fake_findings(2))))
