"""The few points of a study that are worth naming."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from paretune.choose import choose, settled_front
from paretune.costs.table import COSTS
from paretune.errors import ParetuneError
from paretune.findings import Findings, Trial
from paretune.report.text import finished, human, label

GOAL = 0.01  # "within one point of the dense model", a share


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One point worth naming; `trial` is None where nothing fits and `note` then says why."""

    name: str
    trial: Trial | None
    note: str = ""


def ask(
    findings: Findings, name: str, rule: str, *, under: Mapping[str, float] | None = None, drop: float | None = None
) -> Pick:
    """What `rule` picks, or the reason why nothing fits."""
    try:
        return Pick(name=name, trial=choose(findings, rule, under=under, drop=drop))
    except ParetuneError as error:
        return Pick(name=name, trial=None, note=str(error))


def dense_pick(findings: Findings) -> Pick:
    """The dense model, if every objective of it is known."""
    dense = findings.dense
    if dense is None or not all(name in dense.values for name in findings.names):
        return Pick(name="dense", trial=None, note="the dense model has not been scored yet")
    return Pick(name="dense", trial=dense)


def picks(findings: Findings) -> tuple[Pick, ...]:
    """The points of the summary table: dense, knee, best under budget, best quality, lightest near the dense one.

    Where a point was evaluated under several seeds, the mean decides.
    """
    rows = [dense_pick(findings), ask(findings, "knee", "knee")]
    if findings.budget:
        limits = " and ".join(limit_text(findings, name, limit) for name, limit in findings.budget.items())
        rows.append(ask(findings, f"best under {limits}", "budget"))
    best = next((trial for trial in settled_front(findings) if trial.label != "dense"), None)
    rows.append(Pick(name="best quality", trial=best, note=f"no compressed model has {finished(findings)}"))
    quality, cost = findings.objectives[:2]
    if quality.unit == "share":
        lightest = "smallest" if cost.unit == "bytes" else f"least {label(cost.name)}"
        rows.append(ask(findings, f"{lightest} within 1 point of dense", "goal", drop=GOAL))
    return tuple(_merged(rows))


def _merged(rows: Sequence[Pick]) -> list[Pick]:
    """Rows that name the same trial are one row with both names."""
    merged: dict[object, Pick] = {}
    for row in rows:
        key = row.name if row.trial is None else row.trial.number
        names = f"{merged[key].name}, {row.name}" if key in merged else row.name
        merged[key] = replace(row, name=names)
    return list(merged.values())


def limit_text(findings: Findings, name: str, limit: float) -> str:
    """One limit in words: "30.0 kB" of the file, "5.0 M MACs", "4.0 kB peak activations"."""
    units = {objective.name: objective.unit for objective in findings.objectives}
    unit = units.get(name) or (COSTS[name].objective.unit if name in COSTS else "")
    return human(limit, unit) if name == "size_bytes" else f"{human(limit, unit)} {label(name)}"
