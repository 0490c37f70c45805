"""How much of the objective space a study has covered, trial after trial."""

from collections.abc import Sequence

import numpy as np

from paretune.findings import Findings, Trial
from paretune.pareto import Array, added, hypervolume


def hypervolumes(findings: Findings) -> tuple[float, ...]:
    """The normalised hypervolume after each trial, one share in [0, 1] per trial, never falling.

    Only finished, feasible trials count; objectives are divided by the reference, so 1 would be a
    model with no error and no cost.
    """
    counted = {trial.number for trial in findings.candidates}
    front, corner = np.empty((0, len(findings.names))), np.ones(len(findings.names))
    covered, curve = 0.0, []
    for trial, point in zip(findings.trials, _scaled(findings, findings.trials), strict=True):
        # Most trials stop here: nothing is recomputed for a point that adds nothing. NaN fails `< 1` too.
        if trial.number in counted and (point < 1).all() and not (front <= point).all(axis=1).any():
            covered += added(point, front, corner)
            front = np.vstack([front[~(point <= front).all(axis=1)], point])
        curve.append(covered)
    return tuple(curve)


def covered_by(findings: Findings, trials: Sequence[Trial]) -> float:
    """The normalised hypervolume of the feasible ones among `trials`."""
    counted = {trial.number for trial in findings.candidates}
    points = _scaled(findings, [trial for trial in trials if trial.number in counted])
    return hypervolume(points, np.ones(len(findings.names)))


def _scaled(findings: Findings, trials: Sequence[Trial]) -> Array:
    corner = np.array([findings.reference.get(name, np.nan) for name in findings.names], dtype=float)
    scaled: Array = findings.points(trials) / np.where(corner > 0, corner, np.nan)
    return scaled
