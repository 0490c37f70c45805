"""Decides what the small charts of the sensitivity curves show: one per group, all to one scale."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paretune.curve import Curve, Knee
from paretune.findings import Findings
from paretune.report.axis import Axis, axis
from paretune.report.choices import short

MOST = 60  # charts; of more groups the least sensitive are left out
COLUMNS = 4
SAME = 1e-9  # two rates closer than this are one

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One group's curve: the error when it alone loses `ratios[i]` of its channels.

    `used` is (rate, error) of the rate the knee rule takes and `found` of Kneedle's knee where that is another one;
    None where there is no such point. `note` says why they differ.
    """

    title: str
    ratios: tuple[float, ...]
    errors: tuple[float, ...]
    chance: float
    used: Point | None
    found: Point | None
    note: str


@dataclass(frozen=True, kw_only=True)
class CurvesInfo:
    """Small charts, row by row, `columns` side by side and all with the vertical axis `y`.

    `criteria` rank the channels, `moved` counts the knees that were not used as found and `left_out` the groups for
    which there is no room.
    """

    panels: tuple[Panel, ...]
    columns: int
    y: Axis
    criteria: tuple[str, ...]
    moved: int
    left_out: int


def curves_info(findings: Findings) -> CurvesInfo:
    """Every curve with its knee, in the order of the model; if there are too many, the most sensitive groups."""
    pairs = list(_pairs(findings.curves, findings.knees))
    steepest = sorted(range(len(pairs)), key=lambda at: (-sensitivity(pairs[at][0]), at))[:MOST]
    chosen = [pairs[at] for at in sorted(steepest)]
    criteria = tuple(dict.fromkeys(curve.criterion for curve in findings.curves))
    panels = tuple(_panel(curve, knee, several=len(criteria) > 1) for curve, knee in chosen)
    heights = [value for curve, _ in chosen for value in (*curve.errors, curve.chance) if math.isfinite(value)]
    return CurvesInfo(
        panels=panels, columns=max(1, min(COLUMNS, len(panels))), criteria=criteria,
        y=axis(findings.objectives[0], [0.0, *heights]),
        moved=sum(panel.found is not None for panel in panels), left_out=len(pairs) - len(panels),
    )  # fmt: skip


def sensitivity(curve: Curve) -> float:
    """The mean error above that of the whole model, over all rates measured."""
    above = np.nan_to_num(np.array(curve.errors, dtype=float) - curve.errors[0])
    span = curve.ratios[-1] - curve.ratios[0]
    return float(np.trapezoid(above, curve.ratios)) / span if span > 0 else 0.0


def _pairs(curves: Sequence[Curve], knees: Sequence[Knee]) -> Iterator[tuple[Curve, Knee | None]]:
    """A curve and its knee: a group that has several curves, one per criterion, has its knees in the same order."""
    waiting: dict[str, list[Knee]] = {}
    for knee in knees:
        waiting.setdefault(knee.group, []).append(knee)
    for curve in curves:
        own = waiting.get(curve.group)
        yield curve, own.pop(0) if own else None


def _panel(curve: Curve, knee: Knee | None, *, several: bool) -> Panel:
    moved = knee is not None and knee.found is not None and abs(knee.found - knee.ratio) > SAME
    return Panel(
        title=f"{short(curve.group)}, {curve.criterion}" if several else short(curve.group),
        ratios=curve.ratios, errors=curve.errors, chance=curve.chance,
        used=_on(curve, knee.ratio) if knee else None,
        found=_on(curve, knee.found) if knee and knee.found is not None and moved else None,
        note=knee.note if knee else "",
    )  # fmt: skip


def _on(curve: Curve, ratio: float) -> Point:
    return ratio, float(np.interp(ratio, curve.ratios, curve.errors))
