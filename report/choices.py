"""Decides what the parallel coordinates of the searched choices show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paretune.findings import Findings, Trial
from paretune.report.text import human, label

MOST = 12  # axes side by side; more cannot be told apart
WIDEST = 22  # letters over an axis


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One vertical axis: a position per trial, and named ticks where numbers alone would not do."""

    name: str
    positions: tuple[float, ...]
    tick_at: tuple[float, ...]
    tick_text: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ChoicesInfo:
    """Parallel coordinates, the quality last. The colours end at the third quartile: the worst quarter shares one."""

    dimensions: tuple[Dimension, ...]
    quality: tuple[float, ...]
    unit: str
    title: str
    colour_low: float
    colour_high: float
    left_out: int


def choices_info(findings: Findings) -> ChoicesInfo:
    """The choices that varied among the finished searched trials; if too many, those that go with quality most."""
    objective = findings.objectives[0]
    trials = [
        trial for trial in findings.trials
        if trial.kind == "search" and trial.status == "done" and trial.same_as is None
        and objective.name in trial.values
    ]  # fmt: skip
    quality = [trial.values[objective.name] for trial in trials]
    found = [dimension for name in _names(trials) if (dimension := _dimension(name, trials)) is not None]
    best = sorted(found, key=lambda one: (-association(one.positions, quality), one.name))[:MOST]
    chosen = tuple(one for one in found if one in best)
    low, high = np.quantile(quality, [0.0, 0.75]).tolist() if quality else (0.0, 1.0)
    ends = sorted({min(quality), max(quality)}) if quality else []
    last = Dimension(
        name=label(objective.name), positions=tuple(quality),
        tick_at=tuple(ends), tick_text=tuple(human(end, objective.unit) for end in ends),
    )  # fmt: skip
    return ChoicesInfo(
        dimensions=(*chosen, last) if chosen else (), quality=tuple(quality), unit=objective.unit,
        title=last.name, colour_low=low, colour_high=high if high > low else low + 1e-9,
        left_out=len(found) - len(best),
    )  # fmt: skip


def association(positions: Sequence[float], quality: Sequence[float]) -> float:
    """How closely a choice goes with quality: Spearman's rank correlation without its sign, in [0, 1]."""
    ranks = [np.unique(values, return_inverse=True)[1].astype(float) for values in (positions, quality)]
    if min(np.ptp(rank) for rank in ranks) == 0:
        return 0.0
    return abs(float(np.corrcoef(ranks)[0, 1]))


def short(name: str) -> str:
    """A name that fits over an axis: both ends of it, because the kind leads and the layer ends."""
    return name if len(name) <= WIDEST else f"{name[: WIDEST // 2 - 3]}…{name[-(WIDEST // 2 + 2) :]}"


def _names(trials: Sequence[Trial]) -> list[str]:
    """Names in order of first use, which is the order of the space."""
    return list(dict.fromkeys(name for trial in trials for name in trial.params))


def _dimension(name: str, trials: Sequence[Trial]) -> Dimension | None:
    """The axis of one choice, or None if it never varied."""
    values = [trial.params.get(name) for trial in trials]
    known = [value for value in values if value is not None]
    if len({repr(value) for value in values}) < 2:
        return None
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known):
        return _numeric(name, values, known)
    options = sorted({str(value) for value in values if value is not None}) + ["–"] * (len(known) < len(values))
    positions = [float(options.index("–" if value is None else str(value))) for value in values]
    return Dimension(
        name=short(name),
        positions=tuple(positions),
        tick_at=tuple(map(float, range(len(options)))),
        tick_text=tuple(options),
    )


def _numeric(name: str, values: Sequence[Any], known: Sequence[float]) -> Dimension:
    """Numbers as they are, or their logarithms beyond a decade; a choice that was not offered sits below them all."""
    log = min(known) > 0 and max(known) / min(known) > 10
    place = math.log10 if log else float
    low, high = place(min(known)), place(max(known))
    absent = low - 0.1 * ((high - low) or 1.0)
    distinct = sorted(set(known))
    marks = distinct if len(distinct) <= 6 else [distinct[0], distinct[len(distinct) // 2], distinct[-1]]
    missing = len(known) < len(values)
    return Dimension(
        name=short(name), positions=tuple(absent if value is None else place(value) for value in values),
        tick_at=tuple([absent] * missing + [place(mark) for mark in marks]),
        tick_text=tuple(["–"] * missing + [f"{mark:.3g}" for mark in marks]),
    )  # fmt: skip
