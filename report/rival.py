"""Decides how a study compares with the one that ran beside it: which is ahead, by what, and how that is said."""

from dataclasses import dataclass, replace
from math import inf
from typing import Literal

import numpy as np

from paretune.findings import Findings, Trial
from paretune.report.hypervolume import covered_by
from paretune.report.text import count, finished, human, label, spread

THIS = "the search"
SEARCHED = ("seed", "search")
CLOSE = 0.01  # costs no further from their median than this share count as equal


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two searches, told by its seeds and searched trials alone: controls are not what is compared, while
    seeds are part of how a search finds its points.

    `searched` are the finished ones within the budget, `asked` counts all and `evaluated` those that were trained and
    scored. `best` has the best quality and `finish` is the best of those trained further.
    """

    name: str
    findings: Findings
    searched: tuple[Trial, ...]
    asked: int
    evaluated: int
    hypervolume: float
    best: Trial | None
    finish: Trial | None


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Both searches, judged by the same objectives, budget and reference.

    `by` is "quality" where every searched trial of both costs the same, which leaves nothing else to compare.
    """

    this: Side
    rival: Side
    by: Literal["hypervolume", "quality"]


def contest(findings: Findings) -> Contest | None:
    """The two sides, or None if nothing ran beside the study."""
    rival = findings.rival
    if rival is None:
        return None
    sides = _side(THIS, findings), _side(rival.name, _as_judged(findings, rival))
    equal = _cost_the_same([*sides[0].searched, *sides[1].searched], findings.names[1:])
    return Contest(this=sides[0], rival=sides[1], by="quality" if equal else "hypervolume")


def beside(findings: Findings) -> str:
    """Whether the search beats its rival, in a sentence that says as much when it does not; "" without a rival."""
    found = contest(findings)
    if found is None:
        return ""
    this, rival = found.this, found.rival
    empty = [side.name for side in (this, rival) if side.best is None]
    if empty:
        names = " or ".join(empty)
        return f"No searched trial of {names} has {finished(findings)} yet: there is nothing to compare."
    what, values = _measure(findings, found)
    trials = count(this.asked, "trial")
    tries = f"{trials} each" if this.asked == rival.asked else f"{this.asked} versus {count(rival.asked, 'trial')}"
    verb, numbers = _said(values, lead=("beats", "equals", "does not beat"))
    return f"The search {verb} {rival.name}: {what} {numbers} with {tries}.{_finishes(findings, found)}"


def quality_text(findings: Findings, trial: Trial) -> str:
    """A trial's quality with as many digits as a comparison needs: "2.13 %"."""
    quality = findings.objectives[0]
    value = trial.values[quality.name]
    return spread((value,), quality.unit) if quality.unit == "share" else human(value, quality.unit)


def _measure(findings: Findings, found: Contest) -> tuple[str, tuple[tuple[float, str], ...]]:
    """What is compared, and for both sides a number (smaller is better) and how it is written."""
    sides = found.this, found.rival
    if found.by == "hypervolume":
        return "hypervolume", tuple((-side.hypervolume, f"{side.hypervolume:.4f}") for side in sides)
    return label(findings.names[0]), _qualities(findings, [side.best for side in sides])


def _finishes(findings: Findings, found: Contest) -> str:
    """How the two compare after further training; "" unless both were trained further."""
    pair = [found.this.finish, found.rival.finish]
    if None in pair:
        return ""
    verb, numbers = _said(_qualities(findings, pair), lead=("is better", "is as good", "is worse"))
    return f" After further training its best {verb}: {label(findings.names[0])} {numbers}."


def _qualities(findings: Findings, trials: list[Trial | None]) -> tuple[tuple[float, str], ...]:
    name = findings.names[0]
    return tuple((trial.values[name], quality_text(findings, trial)) for trial in trials if trial is not None)


def _said(values: tuple[tuple[float, str], ...], *, lead: tuple[str, str, str]) -> tuple[str, str]:
    """Which of `lead` holds (ahead, equal, behind) and the two numbers; what is written alike counts as equal."""
    (this, this_text), (rival, rival_text) = values
    if this_text == rival_text:
        return lead[1], f"{this_text} for both"
    return lead[0 if this < rival else 2], f"{this_text} versus {rival_text}"


def _as_judged(findings: Findings, rival: Findings) -> Findings:
    """The rival under this study's objectives, reference and budget."""
    limits = findings.budget.items()
    trials = (
        replace(trial, feasible=trial.feasible and all(trial.values.get(name, inf) <= limit for name, limit in limits))
        for trial in rival.trials
    )
    return replace(rival, trials=tuple(trials), objectives=findings.objectives, reference=findings.reference,
                   budget=findings.budget)  # fmt: skip


def _side(name: str, findings: Findings) -> Side:
    done = (trial for trial in findings.trials if trial.status == "done" and trial.feasible)
    known = [trial for trial in done if all(one in trial.values for one in findings.names)]
    # A searched trial that repeats a control counts, for the search came upon that point; one that repeats another
    # searched trial does not.
    first = {_origin(trial): trial for trial in reversed(known) if trial.kind in SEARCHED}
    searched = sorted(first.values(), key=lambda trial: trial.number)
    asked = [trial for trial in findings.trials if trial.kind in SEARCHED]
    alone = replace(findings, trials=tuple(replace(trial, same_as=None) for trial in searched))
    return Side(
        name=name, findings=findings, searched=tuple(searched), asked=len(asked),
        evaluated=sum(trial.status == "done" and trial.same_as is None for trial in asked),
        hypervolume=covered_by(alone, alone.trials), best=_best(findings, searched),
        finish=_best(findings, [trial for trial in known if trial.kind == "finish"]),
    )  # fmt: skip


def _origin(trial: Trial) -> int:
    return trial.number if trial.same_as is None else trial.same_as


def _best(findings: Findings, trials: list[Trial]) -> Trial | None:
    return min(trials, key=lambda trial: (*findings.points([trial])[0], trial.number), default=None)


def _cost_the_same(trials: list[Trial], names: tuple[str, ...]) -> bool:
    """True if no cost of any trial is further than `CLOSE` from the median, so that quality alone differs."""
    for name in names:
        values = np.array([trial.values[name] for trial in trials])
        if len(values) and np.abs(values - np.median(values)).max() > CLOSE * np.median(values):
            return False
    return bool(trials)
