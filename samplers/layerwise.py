"""Evolution made for layers: every told trial may be a parent, blocks are inherited whole, steps are small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler
from optuna.trial import FrozenTrial, TrialState

from paretune.pareto import Array
from paretune.samplers.breeding import ARMS, crossed, level, mate, tournament
from paretune.samplers.elite import Elite, Selection
from paretune.samplers.layout import Layout
from paretune.samplers.whole import WholeSpace

ARM = "layerwise:arm"  # system attribute of every point of this sampler: how it was made
LEVEL = "level"  # without parents
RECENT = 60  # children that an arm is judged by
FEWEST = (
    32  # parents at least: with 16, an unseeded search of 60 axes had 8 % less volume after 50 trials, 3 % after 200
)


@dataclass(kw_only=True)
class _Told:
    """What has been read of a study so far; the same again from all told trials."""

    elite: Elite = field(default_factory=Elite)
    first: int = 0  # all trials before this number have been read
    read: set[int] = field(default_factory=set)  # and these after it
    points: int = 0  # of the space that were tried, stopped and failed ones too
    given: int = 0  # of these, the ones that this sampler did not make
    complete: int = 0
    arms: dict[int, str] = field(default_factory=dict)  # of children by trial number


class LayerwiseSampler(WholeSpace, BaseGASampler):
    """An evolutionary sampler whose parents are the best of all told trials: controls, seeds and its own alike.

    A mother wins a binary tournament on (front, crowding distance), the father lies near her; a child has each block
    of layers whole from one of the two and is then mutated in one of several ways (`ARMS`), more often in those whose
    recent children are among the best now. Until there are enough parents it draws coherent levels instead. All
    objectives are minimised. `memo` lives as long as the process and holds what has been read of the study.
    """

    def __init__(self, layout: Layout, *, population_size: int, seed: int, memo: dict[str, Any]) -> None:
        super().__init__(population_size=population_size)
        self._layout, self._size, self._seed = layout, max(population_size, FEWEST), seed
        self._told: _Told = memo.setdefault("layerwise", _Told())
        self._rng = np.random.default_rng(seed)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A child of two of the best trials, or a point of coherent levels while there are too few."""
        if not self._layout.axes:
            return {}
        trials = self._read(study)
        best = self._told.elite.select(self._size)
        arm = self._arm(best) if self._enough else LEVEL
        study._storage.set_trial_system_attr(trial._trial_id, ARM, arm)
        if arm == LEVEL:
            return self._layout.params(level(self._layout, self._rng))
        return self._layout.params(ARMS[arm](self._layout, self._crossed(trials, best), self._rng))

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The trials that may be parents now, from the best to the last, whatever the generation."""
        trials = self._read(study)
        return [trials[number] for number in self._told.elite.select(self._size).numbers]

    @property
    def _enough(self) -> bool:
        """Whether there are parents: as many points as are selected, or half as many given ones, which are better."""
        told = self._told
        return told.complete >= 2 and (told.points >= self._size or 2 * told.given >= self._size)

    def _crossed(self, trials: Sequence[FrozenTrial], best: Selection) -> Array:
        mother = tournament(best.ranks, best.crowding, self._rng)
        father = mate(best.values, mother, self._rng)
        rows = [self._layout.row(trials[best.numbers[place]].params) for place in (mother, father)]
        return crossed(self._layout, rows[0], rows[1], self._rng)

    def _arm(self, best: Selection) -> str:
        """One of `ARMS`, in proportion to the share of its recent children that are among the best, plus a floor."""
        chances = arm_chances(self._told.arms, {int(number) for number in best.numbers})
        return str(self._rng.choice(list(chances), p=list(chances.values())))

    def _read(self, study: Study) -> list[FrozenTrial]:
        """All trials by number, after taking in those finished since the last look."""
        told, trials = self._told, study.get_trials(deepcopy=False)
        new = [trial for trial in trials[told.first :] if trial.state.is_finished() and trial.number not in told.read]
        told.read.update(trial.number for trial in new)
        while told.first in told.read:
            told.read.remove(told.first)
            told.first += 1
        told.arms |= {trial.number: trial.system_attrs[ARM] for trial in new if trial.system_attrs.get(ARM) in ARMS}
        points = [trial for trial in new if self._layout.holds(trial.params)]
        complete = [trial for trial in points if trial.state == TrialState.COMPLETE]
        told.points += len(points)
        told.given += sum(ARM not in trial.system_attrs for trial in points)
        if complete:
            values = np.array([trial.values for trial in complete], dtype=float)
            told.elite.add([trial.number for trial in complete], values, [violation(trial) for trial in complete])
            told.complete += len(complete)
        return trials


def violation(trial: FrozenTrial) -> float:
    """By how much a trial breaks its constraints in total; 0 if it is feasible."""
    return sum(max(0.0, value) for value in trial.constraints.values())


def arm_chances(arms: Mapping[int, str], best: set[int]) -> dict[str, float]:
    """The probability of every arm: its share of successes among the last children, as if each arm had had one success
    in as many tries as there are arms before them. A success is a child among the `best` trials.
    """
    recent = [(arms[number], number in best) for number in sorted(arms)[-RECENT:]]
    shares = {}
    for name in ARMS:
        hits = [hit for arm, hit in recent if arm == name]
        shares[name] = (1 + sum(hits)) / (len(ARMS) + len(hits))
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}
