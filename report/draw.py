"""Draws what the other modules decided: plain data in, Plotly figure out."""

from collections.abc import Sequence

import plotly.graph_objects as go

from paretune.report.canvas import budgets, layout, scale
from paretune.report.choices import ChoicesInfo
from paretune.report.fronts import FrontInfo, Series
from paretune.report.hover import markup
from paretune.report.layers import HeatInfo
from paretune.report.progress import ProgressInfo
from paretune.report.stages import StagesInfo
from paretune.report.style import BLUE, FADING, GREEN, GREY, INK, LINES, ORANGE, PALE, PURPLE, RED
from paretune.report.text import duration, human

# The palette is Okabe and Ito's (https://jfly.uni-koeln.de/color/); roles differ in shape as well as in colour.
MARKS = {
    "over budget": {"symbol": "x-thin", "size": 6, "line": {"color": GREY, "width": 1.2}},
    "dominated": {"symbol": "circle", "size": 6, "color": GREY, "opacity": 0.7},
    "control": {"symbol": "diamond", "size": 10, "color": ORANGE, "line": {"color": "white", "width": 1}},
    "on the front": {"symbol": "circle", "size": 9, "color": BLUE, "line": {"color": "white", "width": 1}},
    "finish": {"symbol": "triangle-up", "size": 12, "color": PURPLE, "line": {"color": "white", "width": 1}},
    "dense": {"symbol": "star", "size": 15, "color": INK, "line": {"color": "white", "width": 1}},
    "knee": {"symbol": "circle-open", "size": 19, "color": RED, "line": {"width": 2.5}},
    "confirmed on test": {"symbol": "square-open", "size": 10, "color": GREEN, "line": {"width": 2}},
}
STAGES = (BLUE, ORANGE, GREEN, PURPLE, RED, "#56B4E9", "#F0E442", GREY)
LABELLED = {"mode": "markers+text", "cliponaxis": False, "textfont": {"size": 11, "color": "#555"}}


def front_figure(info: FrontInfo) -> go.Figure:
    """A Pareto chart: marks by role, the step line of what nothing beats, the budget dashed."""
    limits = budgets(info.x, info.y, info.budget_x, info.budget_y)
    figure = go.Figure([_steps(info), *limits, *(_marks(series) for series in info.series)])
    figure.update_layout(layout(height=480), xaxis=scale(info.x), yaxis=scale(info.y))
    return figure


def progress_figure(info: ProgressInfo) -> go.Figure:
    """Hypervolume over trials, controls as diamonds, finishes as triangles."""
    line = go.Scatter(x=info.trials, y=info.hypervolume, mode="lines", line={"shape": "hv", "color": BLUE, "width": 2},
                      name="hypervolume", hovertemplate="after trial %{x}: %{y:.4f}<extra></extra>")  # fmt: skip
    figure = go.Figure([line, _on_curve("control", info.controls)])
    if info.finishes:
        figure.add_trace(_on_curve("finish", info.finishes))
    figure.update_layout(layout(height=320))
    figure.update_xaxes(title="trial", rangemode="tozero", **LINES)
    figure.update_yaxes(title="hypervolume", title_standoff=12, range=info.range, **LINES)
    figure.add_hline(info.baseline, line={"color": ORANGE, "width": 1.2, "dash": "dash"},
                     annotation_text=f"controls alone: {info.baseline:.4f}", annotation_position="bottom right",
                     annotation_font={"size": 11, "color": "#555"})  # fmt: skip
    return figure


def heat_figure(info: HeatInfo) -> go.Figure:
    """A heat map with its numbers, if they fit."""
    across = [f"{number}<br>{quality}" for number, quality in zip(info.columns, info.under, strict=True)]
    heat = go.Heatmap(
        z=info.cells, x=across, y=[markup([row]) for row in info.rows], text=info.texts, zmin=info.low, zmax=info.high,
        texttemplate="%{text}" if info.numbers else None, textfont={"size": 11}, colorscale=PALE, showscale=False,
        xgap=1.5, ygap=1.5, hovertemplate="%{y}, trial %{x}: %{text}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_layout(layout(height=90 + 24 * len(info.rows)), margin_t=10)
    title = {"text": "trial and its quality, best first", "font": {"size": 13}, "standoff": 8}
    figure.update_xaxes(type="category", side="bottom", tickfont={"size": 11}, title=title)
    figure.update_yaxes(type="category", autorange="reversed", tickfont={"size": 11}, automargin=True)
    return figure


def choices_figure(info: ChoicesInfo) -> go.Figure:
    """Parallel coordinates, coloured by quality."""
    dimensions = [
        {"label": markup([one.name]), "values": one.positions, "tickvals": one.tick_at, "ticktext": one.tick_text}
        for one in info.dimensions
    ]
    ends = (info.colour_low, info.colour_high)
    line = {
        "color": info.quality, "colorscale": FADING, "cmin": ends[0], "cmax": ends[1], "showscale": True,
        "colorbar": {"title": {"text": info.title, "font": {"size": 12}}, "thickness": 12, "tickvals": ends,
                     "ticktext": [human(ends[0], info.unit), f"≥ {human(ends[1], info.unit)}"]},
    }  # fmt: skip
    figure = go.Figure(go.Parcoords(line=line, dimensions=dimensions, labelangle=-25, labelside="top"))
    figure.update_layout(layout(height=440) | {"margin": {"l": 60, "r": 30, "t": 110, "b": 20}})
    return figure


def stages_figure(info: StagesInfo) -> go.Figure:
    """One bar: the median trial, stage by stage."""
    bars = [
        go.Bar(x=[seconds], y=["median trial"], orientation="h", name=name, marker={"color": colour},
               text=[duration(seconds)], textposition="inside", insidetextanchor="middle", textangle=0,
               hovertemplate=f"{markup([name])}: {duration(seconds)}<extra></extra>")
        for (name, seconds), colour in zip(info.stages, STAGES * len(info.stages), strict=False)
    ]  # fmt: skip
    figure = go.Figure(bars)
    figure.update_layout(layout(height=200), barmode="stack", uniformtext={"minsize": 10, "mode": "hide"})
    figure.update_xaxes(title="seconds", **LINES)
    figure.update_yaxes(visible=False)
    return figure


def _on_curve(role: str, marks: Sequence[tuple[int, float, str]]) -> go.Scatter:
    numbers, values, labels = zip(*marks, strict=True) if marks else ((), (), ())
    return go.Scatter(x=numbers, y=values, mode="markers", marker=MARKS[role], name=role,
                      text=[markup([text]) for text in labels],
                      hovertemplate="%{text}: %{y:.4f}<extra></extra>")  # fmt: skip


def _steps(info: FrontInfo) -> go.Scatter:
    x, y = zip(*info.line, strict=True) if info.line else ((), ())
    return go.Scatter(x=x, y=y, mode="lines", line={"shape": "hv", "color": BLUE, "width": 1.5}, opacity=0.6,
                      hoverinfo="skip", name=info.line_name)  # fmt: skip


def _marks(series: Series) -> go.Scatter:
    texts: Sequence[str] = [markup([text]) for text in series.labels]
    return go.Scatter(
        x=series.x, y=series.y, name=series.role, marker=MARKS[series.role], text=texts or None,
        hovertext=[markup(lines) for lines in series.hover], hoverinfo="text",
        textposition=[f"{'bottom' if below else 'top'} center" for below in series.below] or None,
        **(LABELLED if texts else {"mode": "markers"}),
    )  # fmt: skip
