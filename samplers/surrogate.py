"""A sampler that learns to predict trials and evolves on the predictions: many cheap generations per real trial."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from paretune.pareto import Array, added, nondominated
from paretune.ranking import spread
from paretune.samplers.breeding import ARMS, crossed, level, tournament
from paretune.samplers.elite import Elite, Selection
from paretune.samplers.layout import Layout
from paretune.samplers.predictor import Predictor, features, fit
from paretune.samplers.whole import WholeSpace

BATCH = 4  # trials from one fit
FEWEST = 8  # told trials that something is learned from
MOST = 600  # likewise: the front and the newest
UNTRAINED = 1.0  # what is told for the quality of a trial over budget, which was not measured
GENERATIONS, CHILDREN, LEVELS = 10, 48, 8
POOL = 48  # candidates that are weighed against each other
MARGIN = (
    0.3  # how far beyond the front the bound of the volume lies, in shares of its reach: points past its ends count
)


@dataclass(frozen=True, kw_only=True)
class _Past:
    """Trials that were told values: `numbers`, `rows` of places (n, axes), `values` (n, objectives), `constraints` (n,
    constraints): broken above 0, NaN where a trial did not set one.
    """

    numbers: tuple[int, ...]
    rows: Array
    values: Array
    constraints: Array

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Which of them keep all constraints."""
        return np.asarray(~(self.constraints > 0).any(axis=1), dtype=np.bool_)

    @property
    def front(self) -> NDArray[np.int64]:
        """The places in `numbers` of those that nothing feasible dominates."""
        places = np.flatnonzero(self.feasible).astype(np.int64)
        return places[nondominated(self.values[places])] if len(places) else places


class SurrogateSampler(WholeSpace):
    """Proposes what a predictor of all objectives and constraints expects to add most to the told front.

    For every batch of trials the predictor is learned from those told before it; an inner NSGA-II on its predictions
    starts from the told front and from random levels; of its best points not yet asked, each trial takes the one with
    the largest predicted hypervolume gain over what is told by then, among a random half of them. While too few
    trials are told it draws coherent levels. All objectives are minimised.

    An answer depends on the seed, the trial's number and the told trials, up to ties within the ninth digit of a
    prediction, where another number of threads may decide otherwise.

    The loop is that of AMQ: Enabling AutoML for Mixed-precision Weight-Only Quantization of Large Language Models,
    https://arxiv.org/abs/2509.12019, with another predictor and choice. `memo` holds the rows of told trials and the
    candidates of the last batch.
    """

    def __init__(self, layout: Layout, *, population_size: int, seed: int, memo: dict[str, Any]) -> None:
        self._layout, self._seed = layout, seed
        self._fewest = max(FEWEST, population_size // 2)
        self._memo: dict[str, Any] = memo.setdefault("surrogate", {"rows": {}})

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The candidate with the largest predicted gain, or coherent levels while too few trials are told."""
        if not self._layout.axes:
            return {}
        rng = np.random.default_rng(self._seed)
        trials = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        told = [other for other in trials if other.state == TrialState.COMPLETE and self._layout.holds(other.params)]
        start = trial.number // BATCH * BATCH
        before = [other for other in told if other.number < start]
        if len(before) < self._fewest:
            return self._layout.params(level(self._layout, rng))
        rows, values = self._candidates(before, start)
        asked = {_key(self._row(other)) for other in trials if self._layout.holds(other.params)}
        new = [place for place, row in enumerate(rows) if _key(row) not in asked][:POOL]
        chosen = [place for place in new if rng.random() < 0.5] or new
        if not chosen:
            return self._layout.params(level(self._layout, rng))
        gains = gained(values[chosen], self._past(told))
        return self._layout.params(rows[chosen[int(np.argmax(gains))]])

    def _candidates(self, before: Sequence[FrozenTrial], start: int) -> tuple[Array, Array]:
        """The rows and predicted objectives of the best points of the inner search, the same for a whole batch."""
        told = [(trial.number, trial.values, sorted(trial.constraints.items())) for trial in before]
        key = hashlib.sha256(repr((start, told)).encode()).digest()
        if self._memo.get("key") != key:
            past = newest_and_best(self._past(before))
            rng = np.random.default_rng(list(key))
            self._memo |= {"found": evolved(self._layout, past, rng), "key": key}
        found: tuple[Array, Array] = self._memo["found"]
        return found

    def _past(self, trials: Sequence[FrozenTrial]) -> _Past:
        names = {name: None for trial in trials for name in trial.constraints}
        limits = [[trial.constraints.get(name, np.nan) for name in names] for trial in trials]
        return _Past(
            numbers=tuple(trial.number for trial in trials), rows=np.array([self._row(trial) for trial in trials]),
            values=np.array([trial.values for trial in trials], dtype=float),
            constraints=np.array(limits, dtype=float).reshape(len(trials), len(names)),
        )  # fmt: skip

    def _row(self, trial: FrozenTrial) -> Array:
        rows: dict[int, Array] = self._memo["rows"]
        if trial.number not in rows:
            rows[trial.number] = self._layout.row(trial.params)
        return rows[trial.number]


def newest_and_best(past: _Past, most: int = MOST) -> _Past:
    """At most `most` of `past`: its front, spread out to half of them if it is larger, and the newest of the rest."""
    if len(past.numbers) <= most:
        return past
    front = past.front
    front = front[spread(past.values[front])[: most // 2]]
    rest = np.setdiff1d(np.arange(len(past.numbers)), front)
    kept = np.sort(np.concatenate([front, rest[len(front) - most :]]))
    return _Past(
        numbers=tuple(past.numbers[place] for place in kept), rows=past.rows[kept], values=past.values[kept],
        constraints=past.constraints[kept],
    )  # fmt: skip


def learned(layout: Layout, past: _Past) -> Predictor:
    """A predictor of the objectives and, after them, of the shares of the limits that are used.

    What was told for the quality of a trial over budget is no measurement.
    """
    values = past.values.copy()
    values[~past.feasible[:, None] & (values == UNTRAINED)] = np.nan
    return fit(features(layout, past.rows), np.hstack([values, past.constraints + 1.0]))


def evolved(layout: Layout, past: _Past, rng: np.random.Generator) -> tuple[Array, Array]:
    """The best points of an evolution on what `past` predicts: rows (n, axes) and objectives (n, objectives), from the
    best to the last. Those of `past` may be among them. All are predicted to keep the constraints; if none is, they
    are those that break them least.
    """
    predictor, objectives = learned(layout, past), past.values.shape[1]
    rows, values, broken = np.empty((0, len(layout.axes))), np.empty((0, objectives)), np.empty(0)
    elite = Elite()
    young = np.vstack([past.rows[_first(past)], [level(layout, rng) for _ in range(LEVELS)]])
    for _ in range(GENERATIONS + 1):
        found = predictor.predict(features(layout, young))
        excess = np.maximum(found[:, objectives:] - 1.0, 0.0).sum(axis=1)
        elite.add(range(len(rows), len(rows) + len(young)), found[:, :objectives], list(excess))
        rows, values = np.vstack([rows, young]), np.vstack([values, found[:, :objectives]])
        broken = np.concatenate([broken, excess])
        best = elite.select(CHILDREN)
        young = np.array([_child(layout, rows[best.numbers], best, rng) for _ in range(CHILDREN)])
    order = elite.select(len(rows)).numbers
    order = order[broken[order] <= 0] if (broken <= 0).any() else order[: 2 * CHILDREN]
    return rows[order], values[order]


def gained(points: Array, past: _Past) -> Array:
    """The hypervolume that each of `points` (n, objectives) adds to the told front, whose largest values, plus a
    margin, bound it.
    """
    finite = np.asarray(np.isfinite(past.values).all(axis=1), dtype=np.bool_)
    known = past.values[past.feasible & finite]
    known = known[nondominated(known)]
    seen = known if len(known) else points
    reach = seen.max(axis=0) - np.minimum(0.0, seen.min(axis=0))
    corner = seen.max(axis=0) + MARGIN * np.where(reach > 0, reach, 1.0)
    return np.array([added(np.minimum(point, corner), known, corner) for point in points])


def _key(row: Array) -> bytes:
    """Equal for equal rows: minus zero is zero."""
    return bytes((row + 0.0).tobytes())


def _first(past: _Past) -> NDArray[np.int64]:
    """The places in `past` that the inner search starts from: the front, or the least broken constraints."""
    excess = np.where(past.constraints > 0, past.constraints, 0.0).sum(axis=1)
    return past.front if past.feasible.any() else np.argsort(excess, kind="stable")[:CHILDREN].astype(np.int64)


def _child(layout: Layout, rows: Array, best: Selection, rng: np.random.Generator) -> Array:
    """A mutated child of two of `rows` (n, axes), whose order is `best`'s."""
    mother, father = (rows[tournament(best.ranks, best.crowding, rng)] for _ in range(2))
    arm = list(ARMS)[rng.integers(len(ARMS))]
    return ARMS[arm](layout, crossed(layout, mother, father, rng), rng)
