"""Which trials a rung stops, and whether it can be trusted to: decided from the rows of earlier trials alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy.stats import rankdata

from paretune.conf.settings import RungSettings
from paretune.findings import RungState, Trial
from paretune.outcome import Rung
from paretune.ranking import order
from paretune.search.gate import Gate

JUDGED = ("search",)  # controls and seeds always finish
FREE = 8
NEWEST = 1000  # trials to compare with; more would take seconds

Costs = Callable[[Trial], Sequence[float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rungs:
    """The rungs of a study. `costs(row)` are a trial's objectives after the quality, as far as they are known before
    training: the same for trials that were stopped and for those that were not.

    Trials are stopped as in MO-ASHA (Salinas et al. 2021, https://arxiv.org/abs/2106.12639): of all that reached the
    rung and train as long, front by front and each front spread out, the first 1 / eta go on. Every `FREE`-th searched
    trial goes on whatever a rung says, so that there is something to check the rungs by that they did not choose.
    """

    settings: RungSettings
    rows: Sequence[Trial]
    quality: str
    costs: Costs

    def gate(self, kind: str, own: Sequence[float], length: int) -> Gate:
        """Where a trial of `kind` with the costs `own` and `length` epochs of recovery is looked at, and by whom."""
        free = kind not in JUDGED or sum(row.kind in JUDGED for row in self.rows) % FREE == FREE - 1

        def judge(epochs: int, score: float) -> str | None:
            before = [row for row in self._reached(epochs) if _length(row) == length][-NEWEST:]
            if free or len(before) < self.settings.minimum or not self.state(epochs).on:
                return None
            points = [[_score(row, epochs), *self.costs(row)] for row in before]
            place = order(np.array([*points, [score, *own]], dtype=float)).index(len(before))
            stay = ceil((len(before) + 1) / self.settings.eta)
            if place < stay:
                return ""
            return f"after {epochs} epochs it was number {place + 1} of {len(before) + 1}, and {stay} go on"

        # Scoring takes time, but for the rung at 0, which every trial has anyway.
        worth = (epochs for epochs in self.settings.epochs if epochs == 0 or not self._given_up(epochs))
        return Gate(epochs=tuple(worth), judge=judge)

    def _given_up(self, epochs: int) -> bool:
        state = self.state(epochs)
        return state.compared >= self.settings.minimum and not state.on

    def state(self, epochs: int) -> RungState:
        """What the rung after `epochs` has come to."""
        reached = self._reached(epochs)
        judged = [row for row in reached if _rung(row, epochs).judged]
        free = [row for row in reached if row.status == "done" and not any(rung.judged for rung in row.rungs)]
        searched = [row for row in free if row.kind in JUDGED]
        # Controls and seeds lie far apart and are easily told apart: once there are enough others, these count.
        compared = searched if len(searched) >= self.settings.minimum else free
        pairs = [(_score(row, epochs), row.values[self.quality]) for row in compared]
        enough = len(pairs) >= self.settings.minimum
        found = rank_correlation(*zip(*pairs, strict=True)) if enough else None
        return RungState(
            epochs=epochs, reached=len(reached), judged=len(judged),
            stopped=sum(row.status == "stopped" and row.rungs[-1].epochs == epochs for row in reached),
            compared=len(pairs), enough=enough, correlation=found, bound=self.settings.correlation,
            on=len(reached) >= self.settings.minimum and found is not None and found >= self.settings.correlation,
        )  # fmt: skip

    def states(self) -> tuple[RungState, ...]:
        """All rungs that a trial has reached."""
        found = (self.state(epochs) for epochs in self.settings.epochs)
        return tuple(state for state in found if state.reached)

    def _reached(self, epochs: int) -> list[Trial]:
        """The trials that came to the rung and had further to go; dense, copies, finishes and repeats are none."""
        return [
            row for row in self.rows
            if row.kind in ("control", "seed", "search") and row.same_as is None and row.plan is not None
            and _length(row) > epochs and any(rung.epochs == epochs for rung in row.rungs)
        ]  # fmt: skip


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equal values sharing their mean rank; None where one side does not vary."""
    ranks = [rankdata(values) for values in (first, second)]
    if any(np.ptp(one) == 0 for one in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _length(row: Trial) -> int:
    return row.plan.recovery.epochs if row.plan else 0


def _rung(row: Trial, epochs: int) -> Rung:
    return next(rung for rung in row.rungs if rung.epochs == epochs)


def _score(row: Trial, epochs: int) -> float:
    return _rung(row, epochs).score
