"""Decides how the trials that came to nothing are told."""

import re
from dataclasses import dataclass

from paretune.findings import Findings, Trial

FIRST = 5  # trial numbers named per reason


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Trials that ended for the same reason, told in the words of the first one."""

    status: str
    reason: str
    count: int
    first: tuple[int, ...]


def failures(findings: Findings) -> tuple[Failure, ...]:
    """Failed and over-budget trials by reason, the most frequent first. One that a rung stopped is neither."""
    shared: dict[tuple[str, str], list[Trial]] = {}
    for trial in findings.trials:
        if trial.status in ("failed", "over_budget") and trial.same_as is None:
            shared.setdefault((trial.status, _shape(trial.reason)), []).append(trial)
    rows = [
        Failure(status=status.replace("_", " "), reason=trials[0].reason or "no reason was recorded",
                count=len(trials), first=tuple(trial.number for trial in trials[:FIRST]))
        for (status, _), trials in shared.items()
    ]  # fmt: skip
    return tuple(sorted(rows, key=lambda row: (-row.count, row.first)))


def _shape(reason: str) -> str:
    """The reason without its numbers: "size_bytes 71234 > 60000" and "size_bytes 80001 > 60000" are one."""
    return re.sub(r"\d[\d,._]*(e[+-]?\d+)?", "0", reason)
