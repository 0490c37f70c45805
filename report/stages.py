"""Decides what the chart of where the time went shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from paretune.findings import Findings, Trial


@dataclass(frozen=True, kw_only=True)
class StagesInfo:
    """Median seconds per stage of a finished trial, in order of the stages; and the sum over every trial.

    `trials` counts those of the median: controls and searched trials, not the finishes, which train longer on purpose.
    """

    stages: tuple[tuple[str, float], ...]
    trials: int
    total_seconds: float


def total_seconds(trial: Trial) -> float:
    """All the time that one trial took."""
    return float(sum(trial.seconds.values()))


def stage_names(trials: Sequence[Trial]) -> list[str]:
    """The stages in order of first use, which is the order they run in."""
    return list(dict.fromkeys(stage for trial in trials for stage in trial.seconds))


def stages_info(findings: Findings) -> StagesInfo:
    """A stage that a trial skipped took it no time."""
    done = [t for t in findings.trials if t.status == "done" and t.same_as is None and t.kind != "finish"]
    medians = [(name, float(median(t.seconds.get(name, 0.0) for t in done))) for name in stage_names(done)]
    return StagesInfo(
        stages=tuple(medians), trials=len(done), total_seconds=sum(total_seconds(trial) for trial in findings.trials)
    )
