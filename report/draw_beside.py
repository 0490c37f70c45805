"""Draws two searches in one Pareto chart."""

from typing import Any

import plotly.graph_objects as go

from paretune.report.beside import BesideInfo, Lane
from paretune.report.canvas import budgets, layout, scale
from paretune.report.fronts import Series
from paretune.report.hover import markup
from paretune.report.style import BLUE, ORANGE

# The two lanes differ in shape as well as in colour.
LANES = ((BLUE, "circle"), (ORANGE, "square"))


def beside_figure(info: BesideInfo) -> go.Figure:
    """Both fronts with their step lines, further trained points as triangles, everything else faint."""
    figure = go.Figure(budgets(info.x, info.y, info.budget_x, info.budget_y))
    for lane, (colour, symbol) in zip(info.lanes, LANES, strict=True):
        figure.add_traces(_traces(lane, colour, symbol))
    figure.update_layout(layout(height=440), xaxis=scale(info.x), yaxis=scale(info.y))
    return figure


def _traces(lane: Lane, colour: str, symbol: str) -> list[go.Scatter]:
    name, edge = markup([lane.name]), {"color": "white", "width": 1}
    faint = {"symbol": symbol, "size": 5, "color": colour, "opacity": 0.3}
    x, y = zip(*lane.line, strict=True) if lane.line else ((), ())
    traces = [
        _marks(lane.others, f"{name}: dominated", faint).update(showlegend=False),
        go.Scatter(x=x, y=y, mode="lines", line={"shape": "hv", "color": colour, "width": 1.5}, opacity=0.6,
                   hoverinfo="skip", showlegend=False),
        _marks(lane.front, f"{name}: front", {"symbol": symbol, "size": 9, "color": colour, "line": edge}),
    ]  # fmt: skip
    finish = {"symbol": "triangle-up", "size": 13, "color": colour, "line": {"color": "#1f2328", "width": 1.2}}
    return traces + ([_marks(lane.finishes, f"{name}: finish", finish)] if lane.finishes.x else [])


def _marks(series: Series, name: str, marker: dict[str, Any]) -> go.Scatter:
    return go.Scatter(x=series.x, y=series.y, name=name, mode="markers", marker=marker, hoverinfo="text",
                      hovertext=[f"{name}<br>{markup(lines)}" for lines in series.hover])  # fmt: skip
