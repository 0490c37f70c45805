"""Decides what the charts of hypervolume over trials and over time show."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from paretune.findings import Findings, Trial
from paretune.report.hover import kind_text
from paretune.report.hypervolume import covered_by, hypervolumes
from paretune.report.stages import measured_seconds, total_seconds

KINDS = ("control", "seed", "search", "finish")
UNITS = (("hours", 3600.0, 4 * 3600.0), ("minutes", 60.0, 600.0), ("seconds", 1.0, 0.0))  # name, length, from when on


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A trial on the curve: its number, the time when it ended, and the hypervolume then."""

    trial: int
    time: float
    height: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What some trials reach alone."""

    name: str
    height: float


@dataclass(frozen=True, kw_only=True)
class ProgressInfo:
    """Normalised hypervolume after each trial.

    `times` are when each trial ended, in `unit`: the seconds of all trials so far and, from the first seed on, what was
    measured before it (`measured`, in seconds). `marks` hold by role the trials that count, and the "stopped" ones.
    `baselines` are what the controls reach alone and what they reach with the seeds, and `range` the part of the
    vertical axis where something happens.
    """

    trials: tuple[int, ...]
    times: tuple[float, ...]
    unit: str
    measured: float
    hypervolume: tuple[float, ...]
    marks: dict[str, tuple[Mark, ...]]
    baselines: tuple[Baseline, ...]
    range: tuple[float, float]


def progress_info(findings: Findings) -> ProgressInfo:
    """The curve with its trials told apart; roles that nothing has are left out, but for controls."""
    curve = hypervolumes(findings)
    ends = ended(findings)
    unit, length = next((name, size) for name, size, least in UNITS if max(ends, default=0.0) >= least)
    times = tuple(end / length for end in ends)
    marks = {kind: _marks(findings, times, curve, kind) for kind in (*KINDS, "stopped")}
    baselines = _baselines(findings)
    heights = [value for value in (*curve, *(base.height for base in baselines)) if value > 0]
    return ProgressInfo(
        trials=tuple(trial.number for trial in findings.trials), times=times, unit=unit,
        measured=measured_seconds(findings), hypervolume=curve,
        marks={role: found for role, found in marks.items() if found or role == "control"},
        baselines=baselines, range=_range(heights),
    )  # fmt: skip


def ended(findings: Findings) -> tuple[float, ...]:
    """Seconds from the start to the end of each trial, one after the other; measuring comes before the first seed."""
    spent = [total_seconds(trial) for trial in findings.trials]
    if spent:
        seeds = (at for at, trial in enumerate(findings.trials) if trial.kind == "seed")
        spent[next(seeds, 0)] += measured_seconds(findings)
    return tuple(accumulate(spent))


def _baselines(findings: Findings) -> tuple[Baseline, ...]:
    """Without a seed that counts, controls alone."""
    known = {kind: [trial for trial in findings.candidates if trial.kind == kind] for kind in ("control", "seed")}
    alone = Baseline(name="controls alone", height=covered_by(findings, known["control"]))
    if not known["seed"]:
        return (alone,)
    both = covered_by(findings, [*known["control"], *known["seed"]])
    return (alone, Baseline(name="controls and seeds", height=both))


def _marks(findings: Findings, times: Sequence[float], curve: Sequence[float], role: str) -> tuple[Mark, ...]:
    counted = {trial.number for trial in findings.candidates if trial.kind == role}
    if role == "stopped":
        counted = {trial.number for trial in findings.trials if trial.status == "stopped" and trial.same_as is None}
    rows = zip(findings.trials, times, curve, strict=True)
    return tuple(
        Mark(trial=trial.number, time=time, height=height, text=_text(trial, height))
        for trial, time, height in rows if trial.number in counted and height > 0
    )  # fmt: skip


def _text(trial: Trial, height: float) -> str:
    stopped = ", stopped early" if trial.status == "stopped" else ""
    return f"trial {trial.number} ({kind_text(trial)}{stopped}): {height:.4f}"


def _range(values: list[float]) -> tuple[float, float]:
    """From the first covered volume on: the jump from 0 would flatten everything that follows."""
    if not values:
        return (0.0, 1.0)
    pad = 0.08 * (max(values) - min(values)) or 0.05
    return (max(0.0, min(values) - pad), max(values) + pad)
