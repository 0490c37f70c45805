"""Decides what the chart of hypervolume over trials shows."""

from collections.abc import Sequence
from dataclasses import dataclass

from paretune.findings import Findings
from paretune.report.hypervolume import covered_by, hypervolumes


@dataclass(frozen=True, kw_only=True)
class ProgressInfo:
    """Normalised hypervolume after each trial.

    `controls` and `finishes` are (trial, hypervolume, label), `baseline` is what the controls reach alone, and
    `range` the part of the vertical axis where something happens.
    """

    trials: tuple[int, ...]
    hypervolume: tuple[float, ...]
    controls: tuple[tuple[int, float, str], ...]
    finishes: tuple[tuple[int, float, str], ...]
    baseline: float
    range: tuple[float, float]


def progress_info(findings: Findings) -> ProgressInfo:
    """The curve, with the feasible controls and finishes marked on it."""
    curve = hypervolumes(findings)
    baseline = covered_by(findings, [trial for trial in findings.trials if trial.kind == "control"])
    return ProgressInfo(
        trials=tuple(trial.number for trial in findings.trials), hypervolume=curve,
        controls=_marks(findings, curve, "control"), finishes=_marks(findings, curve, "finish"),
        baseline=baseline, range=_range([value for value in (*curve, baseline) if value > 0]),
    )  # fmt: skip


def _marks(findings: Findings, curve: Sequence[float], kind: str) -> tuple[tuple[int, float, str], ...]:
    counted = {trial.number for trial in findings.candidates if trial.kind == kind}
    pairs = zip(findings.trials, curve, strict=True)
    return tuple((trial.number, at, trial.label) for trial, at in pairs if trial.number in counted and at > 0)


def _range(values: list[float]) -> tuple[float, float]:
    """From the first covered volume on: the jump from 0 would flatten everything that follows."""
    if not values:
        return (0.0, 1.0)
    pad = 0.08 * (max(values) - min(values)) or 0.05
    return (max(0.0, min(values) - pad), max(values) + pad)
