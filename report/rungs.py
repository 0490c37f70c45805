"""Decides how the rungs of a study are told: what each one came to, and what stopping trials saved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from paretune.findings import Findings, RungState, Trial
from paretune.report.stages import total_seconds
from paretune.report.text import count, duration


@dataclass(frozen=True, kw_only=True)
class RungRow:
    """One rung as a row of text and counts; `compared` says over how many trials the correlation is."""

    after: str
    reached: int
    judged: int
    stopped: int
    correlation: str
    compared: str
    state: str


@dataclass(frozen=True, kw_only=True)
class RungsInfo:
    """The rungs in order of epochs, a sentence on what they saved, and one for each that was switched off."""

    rows: tuple[RungRow, ...]
    saved: str
    off: tuple[str, ...]


def rungs_info(findings: Findings) -> RungsInfo:
    """No rows in a study without rungs."""
    rows = tuple(_row(rung) for rung in findings.rungs)
    off = tuple(_off(rung) for rung in findings.rungs if _switched_off(rung))
    return RungsInfo(rows=rows, saved=_saved(findings.trials), off=off)


def _row(rung: RungState) -> RungRow:
    return RungRow(
        after=_after(rung), reached=rung.reached, judged=rung.judged, stopped=rung.stopped,
        correlation="–" if _unknown(rung) else _digits(rung), compared=count(rung.compared, "trial"),
        state=_state(rung),
    )  # fmt: skip


def _after(rung: RungState) -> str:
    return "recalibration" if rung.epochs == 0 else count(rung.epochs, "epoch")


def _state(rung: RungState) -> str:
    if _unknown(rung) and rung.enough:
        return "switched off: scores do not vary"
    if _unknown(rung):
        return "judging, too few to tell how well" if rung.on else "too few to tell"
    if rung.on:
        return "judging"
    return f"switched off: {_digits(rung)} is below {rung.bound:.2f}" if _switched_off(rung) else "not judging"


def _off(rung: RungState) -> str:
    return (
        f"The rung after {_after(rung)} was switched off: the rank correlation of its scores with the last ones, "
        f"{_digits(rung)} over {count(rung.compared, 'trial')}, is below {rung.bound:.2f}."
    )


def _switched_off(rung: RungState) -> bool:
    return not rung.on and not _unknown(rung) and (rung.correlation or 0.0) < rung.bound


def _unknown(rung: RungState) -> bool:
    return rung.correlation is None or math.isnan(rung.correlation)


def _digits(rung: RungState) -> str:
    """Two digits, or as many as it takes to tell the correlation from the bound."""
    found = rung.correlation or 0.0
    digits = next((n for n in (2, 3) if f"{found:.{n}f}" != f"{rung.bound:.{n}f}" or found == rung.bound), 4)
    return f"{found:.{digits}f}"


def _saved(trials: Sequence[Trial]) -> str:
    """How many searched trials were stopped, and how long such a trial took beside one that finished."""
    fresh = [trial for trial in trials if trial.kind == "search" and trial.same_as is None]
    stopped, done = ([total_seconds(t) for t in fresh if t.status == status] for status in ("stopped", "done"))
    if not stopped:
        return "No trial was stopped early."
    were = "was" if len(stopped) == 1 else "were"
    lead = f"{len(stopped)} of {count(len(fresh), 'searched trial')} {were} stopped early"
    if not done or not mean(done) > 0:
        return f"{lead}."
    share = f"{100 * mean(stopped) / mean(done):.0f} %"
    times = f"{duration(mean(stopped))} and {duration(mean(done))}"
    return f"{lead}; a stopped trial took {share} of the time of a finished one on average ({times})."
