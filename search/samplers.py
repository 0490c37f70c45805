"""Optuna's samplers by name, made reproducible: an ask depends on seed, trial number and told trials only."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial

from paretune.errors import pick
from paretune.spaces.space import Space

Make = Callable[[int, int], BaseSampler]  # (seed, population size) -> sampler

SAMPLERS: Mapping[str, Make] = {
    "nsga2": lambda seed, population: NSGAIISampler(population_size=population, seed=seed),
    "nsga3": lambda seed, population: NSGAIIISampler(population_size=population, seed=seed),
    # Multivariate: the default of several objectives takes 31 s per ask at 10,000 trials × 100 parameters.
    "tpe": lambda seed, population: TPESampler(multivariate=True, seed=seed),
    "gp": lambda seed, population: GPSampler(seed=seed),
    "random": lambda seed, population: RandomSampler(seed=seed),
}


def ask_seed(seed: int, number: int, name: str = "") -> int:
    """The seed of one ask: 32 bits hashed from the study's seed, the trial's number and a name."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}:{name}".encode()).digest()[:4], "little")


class Reproducible(BaseSampler):
    """Answers all questions of a space at once, with a sampler made anew for every trial.

    A study that was killed goes on exactly where it would have gone: nothing depends on what this process has
    asked before. Trials whose number is in `fixed` get those parameters (the controls).
    """

    def __init__(
        self, name: str, *, seed: int, population: int, space: Space, fixed: Mapping[int, Mapping[str, Any]]
    ) -> None:
        self._factory, self._population = pick(SAMPLERS, name, "sampler"), population
        self._seed, self._fixed = seed, fixed
        self._distributions = distributions(space)

    def _make(self, number: int) -> BaseSampler:
        with warnings.catch_warnings():
            # Nothing a user could do about nsga3 and gp being marked experimental; the version is pinned.
            warnings.simplefilter("ignore", ExperimentalWarning)
            return self._factory(ask_seed(self._seed, number), self._population)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, known beforehand, instead of what past trials have in common."""
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of all parameters: the sampler's own, or its random ones while it has too few trials."""
        sampler = self._make(trial.number)
        found = sampler.sample_relative(study, trial, search_space)
        if isinstance(sampler, BaseGASampler):
            # The first trial of a generation selects and stores its parents, using up random numbers. A second
            # answer always finds them stored, so a kill between the two changes nothing.
            sampler = self._make(trial.number)
            found = sampler.sample_relative(study, trial, search_space)
        if trial.number in self._fixed:
            # Asked all the same, so that evolutionary samplers count the control into a generation as a parent.
            return dict(self._fixed[trial.number])
        rest = {name: dist for name, dist in search_space.items() if name not in found}
        return found | {name: sampler.sample_independent(study, trial, name, dist) for name, dist in rest.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value for a parameter outside the space, seeded by its name: the order of questions is free."""
        sampler = RandomSampler(seed=ask_seed(self._seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)


class _Recorder:
    """A chooser that notes every question and answers with the first or lowest value."""

    def __init__(self) -> None:
        self.asked: dict[str, BaseDistribution] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked[name] = FloatDistribution(low, high, log=log, step=step)
        return low

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked[name] = IntDistribution(low, high, log=log, step=step)
        return low

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        self.asked[name] = CategoricalDistribution(choices)
        return choices[0]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's distribution of every open question of `space`, in the order of asking."""
    recorder = _Recorder()
    space.ask(recorder)
    return recorder.asked
