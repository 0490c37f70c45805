"""Draws what single decisions cost: heat maps of decisions against settings, and the pairs that interact most."""

import math
from typing import Any

import plotly.graph_objects as go

from paretune.findings import Findings
from paretune.report.canvas import layout
from paretune.report.effects import EffectMap, EffectsInfo, effects_info
from paretune.report.hover import markup
from paretune.report.markup import Cell, chart, heading, paragraph, section, table, words
from paretune.report.style import HARM, INK
from paretune.report.text import count, human, label

FAINT = 0.5  # of a cell that was filled in
BAR = 260  # pixels that the bar of colours takes at most
FEW = 6  # rows; a lower bar of colours has room for fewer numbers


def effects(findings: Findings) -> str:
    """A heat map per kind of decision, and the strongest pairs; nothing if no effects were measured."""
    info = effects_info(findings)
    if info is None or findings.effects is None:
        why = findings.provenance.get("seeds_note", "")
        return section("Sensitivities", paragraph(_sentence(why))) if why else ""
    maps = [_chart(findings, info, one, f"effects-{number}") for number, one in enumerate(info.maps)]
    told = (findings.effects.note, findings.provenance.get("seeds_note", ""))
    note = [paragraph(_sentence(text), "quiet") for text in told if text]
    return section("Sensitivities", paragraph(_how(findings, info), "quiet"), *note, *maps, _pairs(info))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def effects_figure(info: EffectsInfo, one: EffectMap) -> go.Figure:
    """A heat map on the scale that all share: measured cells, and fainter those filled in."""
    low, high = math.log10(info.low), math.log10(info.high)
    figure = go.Figure([_cells(one, info, filled=filled) for filled in (False, True)])
    parts: dict[str, Any] = layout(height=110 + 22 * max(4, len(one.rows)))
    steps = (1, 3) if len(one.rows) > FEW else (1,)
    marks = [10.0**power * step for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    marks = [mark for mark in marks if info.low <= mark <= info.high]
    parts["coloraxis"] = {
        "colorscale": HARM, "cmin": low, "cmax": high,
        "colorbar": {"title": {"text": "loss rises by", "font": {"size": 12}}, "thickness": 12, "outlinewidth": 0,
                     "y": 1, "yanchor": "top", "lenmode": "pixels", "len": min(BAR, 60 + 22 * max(4, len(one.rows))),
                     "tickvals": [math.log10(mark) for mark in marks], "ticktext": [f"{mark:.2g}" for mark in marks]},
    }  # fmt: skip
    figure.update_layout(parts, margin_t=10)
    title = {"text": one.title.lower(), "font": {"size": 13}, "standoff": 8}
    figure.update_xaxes(type="category", categoryarray=one.columns, tickfont={"size": 11}, title=title, showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", tickfont={"size": 11}, automargin=True, showgrid=False)
    return figure


def _cells(one: EffectMap, info: EffectsInfo, *, filled: bool) -> go.Heatmap:
    """The cells that are filled in, or those that are not."""
    rows = range(len(one.rows))

    def mine(values: Any, at: int, other: Any = None) -> list[Any]:
        return [value if hidden is filled else other for value, hidden in zip(values[at], one.filled[at], strict=True)]

    heights = [[None if rise is None else _place(rise, info) for rise in row] for row in one.rises]
    return go.Heatmap(
        z=[mine(heights, at) for at in rows], x=one.columns, y=[markup([row]) for row in one.rows],
        text=[mine(one.texts, at, "") for at in rows], texttemplate="%{text}" if one.numbers else None,
        textfont={"size": 11} | ({"color": INK} if filled else {}),
        coloraxis="coloraxis", xgap=1.5, ygap=1.5, opacity=FAINT if filled else 1.0,
        hovertext=[[markup([text]) if text else "" for text in row] for row in one.hover], hoverinfo="text",
        hoverongaps=False,
    )  # fmt: skip


def _place(rise: float, info: EffectsInfo) -> float:
    """On the logarithmic scale, clipped to it; a loss that is no number is the worst."""
    inside = info.high if math.isnan(rise) else min(max(rise, info.low), info.high)
    return math.log10(inside)


def _how(findings: Findings, info: EffectsInfo) -> str:
    found, quality = findings.effects, findings.objectives[0]
    assert found is not None
    text = (
        "Every decision alone, at one setting after the other, with all others at the setting that compresses least; "
        f"batch norm recalibrated, no training; on {count(found.images, 'image')} of val. With every decision at its "
        f"least the loss is {found.loss:.3g} and the {label(quality.name)} {human(found.error, quality.unit)}. "
        "Colours, logarithmic, one scale: how much the loss rises over that."
    )
    sign = ", in %" if quality.unit == "share" else ""
    if any(one.numbers for one in info.maps):
        text += f" Numbers, where there is room: {label(quality.name)}{sign}."
    if any(hidden for one in info.maps for row in one.filled for hidden in row):
        text += " Fainter cells (~) were not measured but filled in between measured neighbours."
    return text


def _chart(findings: Findings, info: EffectsInfo, one: EffectMap, name: str) -> str:
    title = one.title
    if one.left_out:
        title += f" ({count(one.left_out, 'row')} of {one.left_out + len(one.rows)}, the least sensitive, left out)"
    width = 220 + 40 * len(one.columns)
    return heading(title) + chart(effects_figure(info, one), name, min_width=width, tall=len(one.rows) > 40)


def _pairs(info: EffectsInfo) -> str:
    """The pairs whose loss is furthest from the sum of both alone."""
    if not info.pairs:
        return ""
    header = [words("one"), words("other"), Cell(text="loss beyond the sum of both")]
    rows = [[words(one), words(other), Cell(text=f"{loss:+.3g}")] for one, other, loss in info.pairs]
    shown = f"The strongest {len(info.pairs)} of {count(info.measured_pairs, 'pair')}"
    note = f"{shown}: below 0 two decisions together cost less than the sum of what each costs alone."
    return heading("Decisions that interact") + paragraph(note, "quiet") + table(header, rows)
