"""Decides what the Pareto chart of two searches shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paretune.findings import Findings, Trial
from paretune.pareto import nondominated
from paretune.report.axis import Axis, axis
from paretune.report.fronts import Series, series
from paretune.report.rival import Contest, Side
from paretune.report.text import label


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One search: its front in two objectives with the step line along it, its other trials, its finishes."""

    name: str
    front: Series
    others: Series
    finishes: Series
    line: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class BesideInfo:
    """Quality over the first cost, the study's lane before its rival's."""

    title: str
    x: Axis
    y: Axis
    lanes: tuple[Lane, ...]
    budget_x: float | None
    budget_y: float | None


def beside_info(findings: Findings, found: Contest) -> BesideInfo:
    """Both lanes on the axes that hold them."""
    up, across = findings.objectives[:2]
    lanes = tuple(_lane(side) for side in (found.this, found.rival))
    drawn = [one for lane in lanes for one in (lane.front, lane.others, lane.finishes)]
    limits = [findings.budget.get(objective.name) for objective in (across, up)]
    xs, ys = ([value for one in drawn for value in getattr(one, side)] for side in "xy")
    return BesideInfo(
        title=f"{label(up.name)} and {label(across.name)}", lanes=lanes, budget_x=limits[0], budget_y=limits[1],
        x=axis(across, xs + [limit for limit in limits[:1] if limit is not None]),
        y=axis(up, ys + [limit for limit in limits[1:] if limit is not None]),
    )  # fmt: skip


def _lane(side: Side) -> Lane:
    points = side.findings.points(side.searched)[:, :2]
    best = nondominated(points)
    front = [trial for trial, kept in zip(side.searched, best, strict=True) if kept]
    others = [trial for trial, kept in zip(side.searched, best, strict=True) if not kept]
    finishes = [trial for trial in side.findings.candidates if trial.kind == "finish"]
    line = np.unique(points[best][:, ::-1], axis=0)
    return Lane(
        name=side.name, front=_marks(side, front), others=_marks(side, others), finishes=_marks(side, finishes),
        line=tuple((float(x), float(y)) for x, y in line),
    )  # fmt: skip


def _marks(side: Side, trials: Sequence[Trial]) -> Series:
    up, across = side.findings.objectives[:2]
    return series(side.findings, side.name, trials, across, up)
