"""Decides what the Pareto charts show: one chart per pair of objectives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from paretune.findings import Confirmation, Findings, Objective, Trial
from paretune.pareto import nondominated
from paretune.report.axis import Axis, axis
from paretune.report.confirmed import found_text
from paretune.report.hover import hover
from paretune.report.picks import ask, dense_pick
from paretune.report.text import count, label, spread


@dataclass(frozen=True, kw_only=True)
class Series:
    """Marks of one role, drawn alike. `labels` (if any) are written over the marks, or under them where `below`."""

    role: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    hover: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...] = ()
    below: tuple[bool, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FrontInfo:
    """One Pareto chart. `line` holds the points that nothing beats in these two objectives, left to right."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    line_name: str
    line: tuple[tuple[float, float], ...]
    budget_x: float | None
    budget_y: float | None


def front_infos(findings: Findings) -> tuple[FrontInfo, ...]:
    """One chart per pair of objectives, quality on the vertical axis where it is part of the pair."""
    pairs = combinations(range(len(findings.objectives)), 2)
    return tuple(front_info(findings, x=second, y=first) for first, second in pairs)


def front_info(findings: Findings, *, x: int = 1, y: int = 0) -> FrontInfo:
    """The chart of objective `y` over objective `x` (positions in `findings.objectives`)."""
    across, up = findings.objectives[x], findings.objectives[y]
    groups = _groups(findings)
    every = [series(findings, role, trials, across, up) for role, trials in groups.items()]
    every += [_means(findings, across, up), _confirmed(findings, across, up)]
    shown = tuple(one for one in every if one.x)
    budgets = [findings.budget.get(objective.name) for objective in (across, up)]
    xs, ys = ([v for one in shown for v in getattr(one, side)] for side in "xy")
    x_axis = axis(across, xs + [limit for limit in budgets[:1] if limit is not None])
    y_axis = axis(up, ys + [limit for limit in budgets[1:] if limit is not None])
    return FrontInfo(
        title=f"{label(up.name)} and {label(across.name)}", x=x_axis, y=y_axis,
        series=tuple(replace(one, below=_below(one, x_axis, y_axis)) for one in shown),
        line_name="front" if len(findings.objectives) == 2 else "front of these two",
        line=_line(findings, x, y), budget_x=budgets[0], budget_y=budgets[1],
    )  # fmt: skip


def _groups(findings: Findings) -> dict[str, Sequence[Trial]]:
    """Trials by role, in drawing order; a copy of an earlier trial would only hide its twin.

    Stopped trials have no last score and no place here; re-evaluations are told by the mean of the point they repeat.
    """
    fresh = [trial for trial in findings.trials if trial.same_as is None]
    front = {trial.number for trial in findings.front}
    dense, knee = dense_pick(findings).trial, ask(findings, "knee", "knee").trial
    searched, seeds = ([trial for trial in fresh if trial.kind == kind] for kind in ("search", "seed"))
    return {
        "over budget": [t for t in (*seeds, *searched) if not t.feasible and t.status != "stopped"],
        "dominated": [trial for trial in searched if _beaten(trial, front)],
        "seed": [trial for trial in seeds if _beaten(trial, front)],
        "control": [trial for trial in fresh if trial.kind == "control" and trial is not dense],
        "on the front": [trial for trial in searched if trial.number in front],
        "front seed": [trial for trial in seeds if trial.number in front],
        "finish": [trial for trial in fresh if trial.kind == "finish"],
        "dense": [dense] if dense else [],
        "knee": [knee] if knee else [],
    }


def _beaten(trial: Trial, front: set[int]) -> bool:
    return trial.status == "done" and trial.feasible and trial.number not in front


def series(findings: Findings, role: str, trials: Sequence[Trial], across: Objective, up: Objective) -> Series:
    """The trials of which both values are known: an over-budget trial has costs but no quality."""
    known = [trial for trial in trials if across.name in trial.values and up.name in trial.values]
    return Series(
        role=role,
        x=tuple(trial.values[across.name] for trial in known),
        y=tuple(trial.values[up.name] for trial in known),
        hover=tuple(hover(findings, trial) for trial in known),
        labels=tuple(trial.label for trial in known) if role in ("control", "dense") else (),
    )


def _below(series: Series, x: Axis, y: Axis) -> tuple[bool, ...]:
    """True where a label over its mark would cover a neighbour of the same role."""
    at = [(x.place(a), y.place(b)) for a, b in zip(series.x, series.y, strict=True)]
    return tuple(any(abs(a - c) < 0.14 and 0 < d - b < 0.09 for c, d in at) for a, b in at)


def _means(findings: Findings, across: Objective, up: Objective) -> Series:
    """The mean quality of every front member that was evaluated under several seeds, at its costs."""
    several = [trial for trial in findings.front if len(findings.scores(trial)) > 1]
    if up is not findings.objectives[0]:
        several = []
    settled = series(findings, "mean of runs", [findings.settled(trial) for trial in several], across, up)
    return replace(settled, hover=tuple(hover(findings, trial) for trial in several))


def _confirmed(findings: Findings, across: Objective, up: Objective) -> Series:
    """The mean test quality of every confirmed point, at the costs of its trial."""
    values = {trial.number: trial.values for trial in findings.trials}
    rows = [row for row in findings.confirmations if row.confirmed and across.name in values.get(row.trial, {})]
    if up is not findings.objectives[0]:
        rows = []
    return Series(
        role="confirmed on test",
        x=tuple(values[row.trial][across.name] for row in rows),
        y=tuple(float(np.mean(row.confirmed)) for row in rows),
        hover=tuple(_confirmed_hover(findings, row) for row in rows),
    )


def _confirmed_hover(findings: Findings, row: Confirmation) -> tuple[str, ...]:
    unit = findings.objectives[0].unit
    how = "kept weights" if row.recover == "kept" else f"full recovery, {count(len(row.confirmed), 'seed')}"
    known = found_text(findings, row) or spread((row.found,), unit)
    val = f"found {known}, replayed {spread(row.validated, unit)}"
    return (f"trial {row.trial}, {how}", f"val: {val}", f"test: {spread(row.confirmed, unit)}")


def _line(findings: Findings, x: int, y: int) -> tuple[tuple[float, float], ...]:
    points = findings.points(findings.candidates)[:, [x, y]]
    return tuple((float(a), float(b)) for a, b in np.unique(points[nondominated(points)], axis=0))
