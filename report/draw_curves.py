"""Draws the sensitivity curves: many small charts to one scale."""

from typing import Any

import plotly.graph_objects as go

from paretune.report.axis import ticks
from paretune.report.canvas import layout
from paretune.report.curves import CurvesInfo, Panel, Point
from paretune.report.hover import markup
from paretune.report.style import BLUE, GREY, LINES, RED
from paretune.report.text import human, tick

ROW, GAP, TOP, BOTTOM = 112, 54, 66, 50  # pixels: one small chart, between two, above all, below all
SPACE = 0.035  # between two side by side, as a share of the width
NAMES = {"used": "rate the knee rule uses", "found": "Kneedle's knee, not used as found"}


def curves_figure(info: CurvesInfo) -> go.Figure:
    """A small chart per group, chance dotted, the used rate a filled mark and a knee that was moved a hollow one."""
    rows = -(-len(info.panels) // info.columns)
    traces = [trace for at, panel in enumerate(info.panels) for trace in _traces(info, panel, at)]
    first = {trace.name: at for at, trace in reversed(list(enumerate(traces)))}
    for at, trace in enumerate(traces):
        trace.showlegend = first[trace.name] == at
    # One dict, because Plotly checks the whole figure again at every update: sixty charts would take seconds.
    parts: dict[str, Any] = layout(height=rows * (ROW + GAP) - GAP + TOP + BOTTOM)
    parts["margin"] = {"l": 64, "r": 20, "t": TOP, "b": BOTTOM}
    parts["legend"] = {"orientation": "h", "x": 0, "yref": "container", "y": 1, "yanchor": "top"}
    parts["annotations"] = []
    for at, panel in enumerate(info.panels):
        axes = _axes(info, at)
        parts |= {f"xaxis{at + 1}": axes[0], f"yaxis{at + 1}": axes[1]}
        parts["annotations"].append(_title(panel, *(axis["domain"] for axis in axes)))
    return go.Figure(traces, parts)


def _title(panel: Panel, across: Point, up: Point) -> dict[str, Any]:
    return {"text": markup([panel.title]), "x": sum(across) / 2, "y": up[1], "xref": "paper", "yref": "paper",
            "xanchor": "center", "yanchor": "bottom", "showarrow": False, "font": {"size": 12}}  # fmt: skip


def _traces(info: CurvesInfo, panel: Panel, at: int) -> list[go.Scatter]:
    where = f"%{{x:.0%}} removed: {info.y.title} {'%{y:.1%}' if info.y.unit == 'share' else '%{y:.4g}'}<extra></extra>"
    ends = (panel.ratios[0], panel.ratios[-1])
    traces = [
        go.Scatter(x=ends, y=(panel.chance, panel.chance), mode="lines", name="guessing", legendgroup="guessing",
                   line={"color": GREY, "width": 1.3, "dash": "dot"}, hoverinfo="skip"),
        go.Scatter(x=panel.ratios, y=panel.errors, mode="lines+markers", name=info.y.title, legendgroup="curve",
                   line={"color": BLUE, "width": 1.8}, marker={"size": 3.5}, hovertemplate=where),
    ]  # fmt: skip
    points = {"found": panel.found, "used": panel.used}
    traces += [_mark(info, panel, kind, point) for kind, point in points.items() if point is not None]
    for trace in traces:
        trace.xaxis, trace.yaxis = f"x{at + 1}", f"y{at + 1}"
    return traces


def _mark(info: CurvesInfo, panel: Panel, kind: str, point: Point) -> go.Scatter:
    said = f"{NAMES[kind]}: {human(point[0], 'share')}, {info.y.title} {human(point[1], info.y.unit)}"
    symbol = "diamond" if kind == "used" else "diamond-open"
    return go.Scatter(
        x=point[:1], y=point[1:], mode="markers", name=NAMES[kind], legendgroup=kind, cliponaxis=False,
        marker={"symbol": symbol, "size": 10, "color": RED, "line": {"width": 2 if kind == "found" else 1, "color":
                RED if kind == "found" else "white"}},
        hovertext=markup([said, panel.note] if panel.note else [said]), hoverinfo="text",
    )  # fmt: skip


def _axes(info: CurvesInfo, at: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same scale everywhere; numbers only at the left and under the last chart of a column."""
    lowest, first = at + info.columns >= len(info.panels), at % info.columns == 0
    small = LINES | {"title_font_size": 12, "tickfont_size": 11, "title_standoff": 4}
    across, up = _domains(info, at)
    x = {"domain": across, "anchor": f"y{at + 1}", "range": (-0.03, 1.03), "tickvals": (0, 0.25, 0.5, 0.75, 1),
         "ticktext": ("0 %", "", "50 %", "", "100 %"), "showticklabels": lowest,
         "title_text": "channels removed" if lowest else ""}  # fmt: skip
    heights = ticks(info.y, 3)
    y = {"domain": up, "anchor": f"x{at + 1}", "range": (info.y.low, info.y.high), "tickvals": heights,
         "ticktext": [tick(value, info.y.unit) for value in heights], "showticklabels": first,
         "title_text": info.y.title if first else ""}  # fmt: skip
    return x | small, y | small


def _domains(info: CurvesInfo, at: int) -> tuple[Point, Point]:
    """Where chart `at` lies: from left to right and from bottom to top, as shares of the plotting area."""
    rows = -(-len(info.panels) // info.columns)
    row, column = divmod(at, info.columns)
    width = (1 - SPACE * (info.columns - 1)) / info.columns
    left, top = column * (width + SPACE), row * (ROW + GAP)
    height = rows * (ROW + GAP) - GAP
    return (left, min(1.0, left + width)), (max(0.0, 1 - (top + ROW) / height), 1 - top / height)
