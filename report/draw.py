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
from paretune.report.style import BLUE, FADING, GREEN, GREY, INK, LINES, ORANGE, PALE, PURPLE, RED, SKY
from paretune.report.text import duration, human

# The palette is Okabe and Ito's (https://jfly.uni-koeln.de/color/); roles differ in shape as well as in colour.
MARKS = {
    "over budget": {"symbol": "x-thin", "size": 6, "line": {"color": GREY, "width": 1.2}},
    "dominated": {"symbol": "circle", "size": 6, "color": GREY, "opacity": 0.7},
    "seed": {"symbol": "square", "size": 7, "color": SKY, "opacity": 0.75},
    "control": {"symbol": "diamond", "size": 10, "color": ORANGE, "line": {"color": "white", "width": 1}},
    "on the front": {"symbol": "circle", "size": 9, "color": BLUE, "line": {"color": "white", "width": 1}},
    # The seed's square in the front's blue.
    "front seed": {"symbol": "square", "size": 9, "color": SKY, "line": {"color": BLUE, "width": 2}},
    "finish": {"symbol": "triangle-up", "size": 12, "color": PURPLE, "line": {"color": "white", "width": 1}},
    "dense": {"symbol": "star", "size": 15, "color": INK, "line": {"color": "white", "width": 1}},
    "mean of runs": {"symbol": "line-ew", "size": 9, "line": {"color": INK, "width": 2}},
    "knee": {"symbol": "circle-open", "size": 19, "color": RED, "line": {"width": 2.5}},
    "confirmed on test": {"symbol": "square-open", "size": 10, "color": GREEN, "line": {"width": 2}},
}
STAGES = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, "#F0E442", GREY)
# On the curve of hypervolume: what a trial was.
ON_CURVE = {
    "control": MARKS["control"],
    "seed": {"symbol": "square", "size": 8, "color": SKY, "line": {"color": "white", "width": 1}},
    "search": {"symbol": "circle", "size": 6, "color": BLUE},
    "finish": MARKS["finish"],
    "stopped": {"symbol": "line-ns", "size": 7, "line": {"color": RED, "width": 1.2}},
}
LABELLED = {"mode": "markers+text", "cliponaxis": False, "textfont": {"size": 11, "color": "#555"}}


def front_figure(info: FrontInfo) -> go.Figure:
    """A Pareto chart: marks by role, the step line of what nothing beats, the budget dashed."""
    limits = budgets(info.x, info.y, info.budget_x, info.budget_y)
    figure = go.Figure([_steps(info), *limits, *(_marks(series) for series in info.series)])
    figure.update_layout(layout(height=480), xaxis=scale(info.x), yaxis=scale(info.y))
    return figure


def progress_figure(info: ProgressInfo, *, over_time: bool) -> go.Figure:
    """Hypervolume over trials or over time, the kinds of trials told apart on the curve, stopped ones as ticks."""
    across = info.times if over_time else info.trials
    line = go.Scatter(x=across, y=info.hypervolume, mode="lines", line={"shape": "hv", "color": GREY, "width": 2},
                      name="hypervolume", hoverinfo="skip")  # fmt: skip
    marks = [
        go.Scatter(x=[mark.time if over_time else mark.trial for mark in found], y=[mark.height for mark in found],
                   mode="markers", marker=ON_CURVE[role], name=role, hoverinfo="text",
                   hovertext=[markup([mark.text]) for mark in found])
        for role, found in info.marks.items()
    ]  # fmt: skip
    figure = go.Figure([*_baselines(info, across), line, *marks])
    figure.update_layout(layout(height=350))
    figure.update_xaxes(title=info.unit if over_time else "trial", rangemode="tozero", **LINES)
    figure.update_yaxes(title="hypervolume", title_standoff=12, range=info.range, **LINES)
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
    """The median trial, stage by stage: a bar for those that finished, and one for those that a rung stopped."""
    rows = [("stopped", dict(info.stopped_stages)), ("finished", dict(info.stages))]
    rows = [(name, stages) for name, stages in rows if stages]
    names = list(dict.fromkeys(stage for _, stages in reversed(rows) for stage in stages))
    bars = [
        go.Bar(x=[stages.get(name, 0.0) for _, stages in rows], y=[kind for kind, _ in rows], orientation="h",
               name=name, marker={"color": colour}, text=[duration(stages.get(name, 0.0)) for _, stages in rows],
               textposition="inside", insidetextanchor="middle", textangle=0,
               hovertemplate=f"{markup([name])}: %{{text}}<extra></extra>")
        for name, colour in zip(names, STAGES * len(names), strict=False)
    ]  # fmt: skip
    figure = go.Figure(bars)
    figure.update_layout(
        layout(height=140 + 60 * len(rows)), barmode="stack", uniformtext={"minsize": 10, "mode": "hide"}
    )
    figure.update_xaxes(title="seconds", **LINES)
    figure.update_yaxes(visible=len(rows) > 1, automargin=True)
    return figure


def _baselines(info: ProgressInfo, across: Sequence[float]) -> list[go.Scatter]:
    """Dashed lines from end to end, told by the legend: beside them their names would cover the curve."""
    ends = (0, across[-1]) if across else (0, 1)
    return [
        go.Scatter(x=ends, y=(base.height, base.height), mode="lines", name=f"{base.name}: {base.height:.4f}",
                   line={"color": colour, "width": 1.4, "dash": "dash"}, hoverinfo="skip")
        for base, colour in zip(info.baselines, (ORANGE, SKY), strict=False)
    ]  # fmt: skip


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
