"""Heat maps of single effects: what is where, what is left out, and what was not measured."""

import math
from dataclasses import replace

import pytest
from report_fakes import fake_findings
from report_fakes_search import with_effects

from paretune.effects import Effect, Effects, Pair
from paretune.report.draw_effects import FAINT, effects, effects_figure
from paretune.report.effects import DECADES, MOST, PAIRS, WIDEST, effects_info, kind_of, scale, setting_text


def one(decision, setting, loss=0.5, error=0.1, **more):
    return Effect(decision=decision, setting=setting, loss=loss, error=error, **more)


def info_of(*rows, pairs=(), loss=0.2):
    found = Effects(loss=loss, error=0.02, effects=tuple(rows), pairs=tuple(pairs), images=64)
    return effects_info(replace(fake_findings(), effects=found))


def test_there_is_a_map_per_kind_of_decision():
    info = effects_info(with_effects(fake_findings()))
    assert [found.title for found in info.maps] == ["Share removed", "Weight bits", "Activation bits"]
    ratios, bits, shared = info.maps
    inventory = fake_findings().inventory
    assert ratios.rows == tuple(group.name for group in inventory.groups)
    assert bits.rows == tuple(layer.name for layer in inventory.weighted)
    assert shared.rows == ("all",)
    assert (ratios.columns[0], ratios.columns[-1]) == ("12.5 %", "87.5 %")
    assert bits.columns == ("8", "6", "4", "3", "2")  # to the right there is always less left


def test_rows_stand_in_the_order_of_the_model():
    names = ["b3.b", "*", "b1.*", "stem", "unheard of"]
    (found,) = info_of(*(one(f"ratio/{name}", 0.5) for name in names)).maps
    assert found.rows == ("*", "stem", "b1.*", "b3.b", "unheard of")


def test_a_cell_holds_the_rise_over_the_base_and_the_error():
    rows = (
        one("ratio/stem", 0.25, 0.3, 0.031),
        one("ratio/stem", 0.5, 0.9, 0.5, measured=False),
        one("ratio/b1.a", 0.5),
    )
    (found,) = info_of(*rows).maps
    assert found.rises == ((pytest.approx(0.1), pytest.approx(0.7)), (None, pytest.approx(0.3)))
    assert found.texts == (("3.1", "~50.0"), ("", "10.0"))
    assert found.filled == ((False, True), (False, False))
    assert found.hover[0][0] == "stem, share removed 25 %: loss +0.1, top-1 error 3.1 %"
    assert found.hover[0][1].endswith("(filled in between measured neighbours)")
    assert found.hover[1][0] == ""


def test_filled_cells_are_drawn_fainter_and_apart():
    info = info_of(one("ratio/stem", 0.25), one("ratio/stem", 0.5, measured=False), one("ratio/b1.a", 0.5))
    measured, filled = effects_figure(info, info.maps[0]).data
    assert (measured.opacity, filled.opacity) == (1.0, FAINT)
    assert [[cell is None for cell in row] for row in measured.z] == [[False, True], [True, False]]
    assert [[cell is None for cell in row] for row in filled.z] == [[True, False], [True, True]]
    assert [list(row) for row in filled.text] == [["", "~10.0"], ["", ""]]


def test_too_many_rows_lose_the_least_sensitive():
    rows = [one(f"ratio/g{i:03d}", setting, 0.2 + 0.001 * (i % 10)) for i in range(MOST + 10) for setting in (0.3, 0.6)]
    (found,) = info_of(*rows).maps
    assert (len(found.rows), found.left_out) == (MOST, 10)
    assert list(found.rows) == sorted(found.rows)
    assert not {f"g{i:03d}" for i in range(0, MOST + 10, 10)} & set(found.rows)
    text = effects(replace(fake_findings(), effects=Effects(loss=0.2, error=0.02, effects=tuple(rows), images=64)))
    assert f"Share removed (10 rows of {MOST + 10}, the least sensitive, left out)" in text


@pytest.mark.parametrize(("columns", "numbers"), [(WIDEST, True), (WIDEST + 1, False)])
def test_numbers_are_written_where_they_fit(columns, numbers):
    info = info_of(*(one("ratio/stem", i / 100) for i in range(columns)))
    assert info.maps[0].numbers is numbers
    assert (effects_figure(info, info.maps[0]).data[0].texttemplate is not None) is numbers


def test_colours_span_few_decades_and_no_broken_network_sets_them():
    rises = [0.01 * i for i in range(1, 100)]
    low, high = scale([*rises, math.inf, math.nan, -0.1, 0.0])
    assert (low, high) == pytest.approx((0.059, 0.941))
    low, high = scale([1e-9, 1e-8, 1.0, 1.0, 1.0])
    assert high / low == pytest.approx(10**DECADES)
    assert scale([]) == scale([-1.0, math.nan]) == (0.1, 1.0)
    low, high = scale([0.3])
    assert low < 0.3 < high


@pytest.mark.parametrize("loss", [math.nan, math.inf, -5.0, 0.2])
def test_every_loss_has_a_colour(loss):
    info = info_of(one("ratio/stem", 0.5, loss), one("ratio/b1.a", 0.5, 0.7))
    (row, _), axis = effects_figure(info, info.maps[0]).data[0].z, effects_figure(info, info.maps[0]).layout.coloraxis
    assert axis.cmin <= row[0] <= axis.cmax


@pytest.mark.parametrize(
    ("kind", "setting", "said"),
    [("ratio", 0.05, "5 %"), ("sparsity", 0.875, "87.5 %"), ("weight_bits", 4, "4"), ("weight_bits", 32, "float"),
     ("epochs", 32, "32"), ("lr", 0.001, "0.001")],
)  # fmt: skip
def test_settings_have_their_unit(kind, setting, said):
    assert setting_text(kind, setting) == said
    assert kind_of(f"{kind}/x/y") == kind_of(kind) == kind


def test_the_strongest_pairs_are_told_with_their_settings():
    pairs = [
        Pair(decisions=("ratio/a", "weight_bits/b"), settings=(0.5, 4), loss=0.1 * i * (-1) ** i)
        for i in range(PAIRS + 5)
    ]
    info = info_of(one("ratio/a", 0.5), pairs=pairs)
    assert [loss for *_, loss in info.pairs] == pytest.approx([0.1 * i * (-1) ** i for i in range(14, 4, -1)])
    assert info.pairs[0][:2] == ("a, share removed 50 %", "b, weight bits 4")
    assert info.measured_pairs == PAIRS + 5


def test_the_section_says_how_it_was_measured():
    text = effects(with_effects(fake_findings()))
    assert "on 1024 images of val" in text
    assert "With every decision at its least the loss is 0.2 and the top-1 error 1.9&nbsp;%." in text
    assert "Every other ratio was measured" in text
    assert "Fainter cells (~)" in text
    assert "The strongest 10 of 12 pairs" in text
    assert effects(fake_findings()) == ""


def test_nothing_is_said_of_what_there_is_not():
    findings = with_effects(fake_findings(), pairs=0)
    whole = tuple(replace(effect, measured=True) for effect in findings.effects.effects)
    text = effects(replace(findings, effects=replace(findings.effects, effects=whole, note="")))
    assert "Fainter" not in text
    assert "interact" not in text
