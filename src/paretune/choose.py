"""Rules that pick one trial of a study: the question people really ask of a front."""

from collections.abc import Mapping, Sequence

import numpy as np

from paretune.errors import ParetuneError, near_miss
from paretune.findings import Findings, Trial
from paretune.pareto import Array, knee, nondominated

BEARABLE = 0.1  # a share: ten points
RULES = ("knee", "budget", "goal", "trial=N")


def choose(
    findings: Findings,
    rule: str,
    *,
    under: Mapping[str, float] | None = None,
    drop: float | None = None,
) -> Trial:
    """The trial that `rule` picks.

    "knee" is the best trade-off of the front (costs compared by ratio, quality by difference) among the points at most
    `BEARABLE` worse than the dense model, if there are any and quality is a share, "budget" the best
    quality with every cost in `under` met (the study's own budget if none is given), "goal" the lightest point whose
    quality is at most `drop` (share, 0.01 is one point) worse than the dense model's, "trial=17" that trial.

    Qualities are means over all seeds that a trial was evaluated with, and a front member that another one dominates by
    these means is passed over; what comes back is the trial itself, with its own first score. A mean over one seed is
    that score, so a point that was never evaluated again may still look too good.

    Raises:
        ParetuneError: nothing fits; the message says what the nearest point reaches.
    """
    _check_options(rule, under, drop)
    if rule.startswith("trial="):
        return _numbered(findings, rule.removeprefix("trial="))
    if rule not in ("knee", "budget", "goal"):
        raise ParetuneError(f"no rule is called '{rule}'.{near_miss(rule, RULES)}")
    if not findings.front:
        finished = any(trial.status == "done" for trial in findings.trials)
        what = "no finished trial within its budget" if finished else "no finished trial"
        raise ParetuneError(f"{findings.folder} has {what} to pick from; more trials may find one, or a larger budget")
    if rule == "knee":
        settled = _bearable(findings, settled_front(findings))
        return settled[knee(_compared(findings, settled))]
    if rule == "budget":
        return _under(findings, under or findings.budget)
    return _goal(findings, 0.01 if drop is None else drop)


def settled_front(findings: Findings) -> list[Trial]:
    """The front members that no other one dominates by the means over seeds, best mean first, as they are."""
    return _undominated(findings, findings.front)


def _bearable(findings: Findings, front: list[Trial]) -> list[Trial]:
    """Without the points that nobody would ship, which would stretch the scale that trade-offs are measured by."""
    dense, quality = findings.dense, findings.objectives[0]
    if dense is None or quality.name not in dense.values or quality.unit != "share":
        return front
    means = _means(findings, front)[:, 0]
    kept = [trial for trial, mean in zip(front, means, strict=True) if mean <= dense.values[quality.name] + BEARABLE]
    return kept or front


def _undominated(findings: Findings, trials: Sequence[Trial]) -> list[Trial]:
    points = _means(findings, trials)
    kept = zip(trials, points, nondominated(points), strict=True)
    rows = sorted(((*point, trial.number), trial) for trial, point, best in kept if best)
    return [trial for _, trial in rows]


def _means(findings: Findings, trials: Sequence[Trial]) -> Array:
    """Objective values, one row per trial, the quality averaged over seeds."""
    return findings.points([findings.settled(trial) for trial in trials])


def _check_options(rule: str, under: Mapping[str, float] | None, drop: float | None) -> None:
    """An option of another rule is a misunderstanding, not something to skip."""
    if under and rule != "budget":
        raise ParetuneError(f"under belongs to the rule 'budget', not to '{rule}'")
    if drop is not None and rule != "goal":
        raise ParetuneError(f"drop belongs to the rule 'goal', not to '{rule}'")
    if drop is not None and not 0 <= drop < 1:
        raise ParetuneError(f"drop is a share in [0, 1), 0.01 is one point; got {drop:g}")
    for name, limit in (under or {}).items():
        if not limit > 0:
            raise ParetuneError(f"under: the limit of {name} must be above 0, got {limit:g}")


def _compared(findings: Findings, trials: Sequence[Trial]) -> Array:
    """Points with costs on a logarithmic scale: half the bytes is worth as much anywhere."""
    points = _means(findings, trials)
    return np.column_stack([points[:, :1], np.log(np.maximum(points[:, 1:], 1e-9))])


def _numbered(findings: Findings, text: str) -> Trial:
    trial = next((trial for trial in findings.trials if str(trial.number) == text), None)
    if trial is None:
        last = len(findings.trials) - 1
        known = f"its trials are 0 to {last}" if findings.trials else "it has none yet"
        raise ParetuneError(f"{findings.folder} has no trial {text}; {known}")
    if trial.status != "done":
        why = f" ({trial.reason})" if trial.reason else ""
        raise ParetuneError(f"trial {text} is {trial.status.replace('_', ' ')}{why}; pick a finished one, such as knee")
    return trial


def _under(findings: Findings, limits: Mapping[str, float]) -> Trial:
    if not limits:
        raise ParetuneError("the rule 'budget' needs a limit, such as --under size_bytes=20000")
    known = findings.candidates[0].values
    for name in limits:
        if name not in known:
            raise ParetuneError(f"no cost is called '{name}'.{near_miss(name, known)}")
    means = {trial.number: findings.settled(trial).values for trial in findings.candidates}
    fitting = [
        trial for trial in findings.candidates if all(means[trial.number][name] <= at for name, at in limits.items())
    ]
    if not fitting:
        best = {name: min(values[name] for values in means.values()) for name in limits}
        reached = ", ".join(f"{name} {value:g}" for name, value in best.items())
        raise ParetuneError(f"no finished trial meets {_text(limits)}; the smallest values reached are {reached}")
    # Only what is on the front of those that fit was evaluated again: a dominated trial's one lucky score against a
    # front member's mean would be no comparison.
    mask = nondominated(findings.points(fitting))
    return _undominated(findings, [trial for trial, kept in zip(fitting, mask, strict=True) if kept])[0]


def _goal(findings: Findings, drop: float) -> Trial:
    quality, cost = findings.names[0], findings.names[1]
    if findings.dense is None or quality not in findings.dense.values:
        raise ParetuneError("the rule 'goal' compares with the dense model, and this study has not scored it yet")
    means = {trial.number: findings.settled(trial).values[quality] for trial in findings.front}
    # A sum of shares that is met exactly is met.
    limit = findings.settled(findings.dense).values[quality] + drop + 1e-12
    settled = settled_front(findings)
    fitting = [trial for trial in settled if means[trial.number] <= limit]
    if not fitting:
        best = means[settled[0].number]
        raise ParetuneError(f"no point has {quality} <= {limit:.4f} (dense + {drop:g}); the best has {best:.4f}")
    return min(fitting, key=lambda trial: (trial.values[cost], means[trial.number]))


def _text(limits: Mapping[str, float]) -> str:
    return ", ".join(f"{name} <= {limit:g}" for name, limit in limits.items())
