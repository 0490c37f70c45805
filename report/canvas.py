"""What the drawn figures share: layout, axes, the lines of a budget."""

import math

import plotly.graph_objects as go

from paretune.report.axis import Axis, ticks
from paretune.report.style import FONT, INK, LINES, RED
from paretune.report.text import tick


def layout(height: int) -> dict[str, object]:
    """Margins, type and legend of a figure `height` pixels high."""
    return {
        "height": height, "template": "none", "font": {"family": FONT, "size": 13, "color": INK},
        "margin": {"l": 72, "r": 20, "t": 40, "b": 56}, "paper_bgcolor": "white", "plot_bgcolor": "white",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"size": 12, "color": INK}, "bordercolor": "#ccc"},
    }  # fmt: skip


def scale(axis: Axis) -> dict[str, object]:
    """A decided axis as Plotly wants it."""
    at = ticks(axis)
    ends = [math.log10(end) if axis.log else end for end in (axis.low, axis.high)]
    kind = "log" if axis.log else "linear"
    return {"title": {"text": axis.title, "standoff": 12}, "type": kind, "range": ends, "tickvals": at,
            "ticktext": [tick(value, axis.unit) for value in at], **LINES}  # fmt: skip


def budgets(x: Axis, y: Axis, limit_x: float | None, limit_y: float | None) -> list[go.Scatter]:
    """Dashed lines from edge to edge; traces and not shapes, so that the legend names them."""
    across, up = (x.low, x.high), (y.low, y.high)
    lines = [] if limit_x is None else [((limit_x, limit_x), up)]
    lines += [] if limit_y is None else [(across, (limit_y, limit_y))]
    style = {"color": RED, "width": 1.3, "dash": "dash"}
    return [go.Scatter(x=xs, y=ys, mode="lines", line=style, hoverinfo="skip", name="budget", legendgroup="budget",
                       showlegend=number == 0) for number, (xs, ys) in enumerate(lines)]  # fmt: skip
