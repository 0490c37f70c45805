"""Decides what the chart of where the time went shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from paretune.findings import Findings, Trial


@dataclass(frozen=True, kw_only=True)
class StagesInfo:
    """Median seconds per stage of a finished trial, in order of the stages; and the sum over every trial.

    `trials` counts those of the median: controls, seeds and searched trials, not the finishes, which train longer on
    purpose, nor re-evaluations. `stopped_stages` is the same of the `stopped` trials, no stages without any.
    """

    stages: tuple[tuple[str, float], ...]
    trials: int
    stopped_stages: tuple[tuple[str, float], ...]
    stopped: int
    total_seconds: float


def total_seconds(trial: Trial) -> float:
    """All the time that one trial took."""
    return float(sum(trial.seconds.values()))


def stage_names(trials: Sequence[Trial]) -> list[str]:
    """The stages in order of first use, which is the order they run in."""
    return list(dict.fromkeys(stage for trial in trials for stage in trial.seconds))


def measured_seconds(findings: Findings) -> float:
    """What the study measured before it could search, in seconds: sensitivities, scores; little if a cache had them."""
    facts = findings.provenance.get("measured", {})
    return float(sum(fact.get("seconds", 0.0) for fact in facts.values()))


def stages_info(findings: Findings) -> StagesInfo:
    """A stage that a trial skipped took it no time."""
    fresh = [t for t in findings.trials if t.same_as is None and t.kind not in ("finish", "repeat")]
    done, stopped = ([t for t in fresh if t.status == status] for status in ("done", "stopped"))
    return StagesInfo(
        stages=_medians(done), trials=len(done), stopped_stages=_medians(stopped), stopped=len(stopped),
        total_seconds=sum(total_seconds(trial) for trial in findings.trials),
    )  # fmt: skip


def _medians(trials: Sequence[Trial]) -> tuple[tuple[str, float], ...]:
    return tuple((name, float(median(t.seconds.get(name, 0.0) for t in trials))) for name in stage_names(trials))
