"""Any sampler, made reproducible: an ask depends on seed, trial number and told trials only, and repeats nothing."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, RandomSampler
from optuna.trial import FrozenTrial

from paretune.errors import pick
from paretune.pareto import Array
from paretune.samplers.breeding import stepped
from paretune.samplers.layout import layout_of
from paretune.samplers.table import SAMPLERS, Setup, make_sampler
from paretune.spaces.space import Space

Params = Mapping[str, Any]
TRIES = 8  # proposals before a known one is changed step by step
STEPS = 2000  # of that walk; a space of no more points is gone through instead
BY_GENERATION = (NSGAIISampler, NSGAIIISampler)  # they store who belongs to a generation, and its parents


def ask_seed(seed: int, number: int, name: str = "") -> int:
    """The seed of one ask: 32 bits hashed from the study's seed, the trial's number and a name."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}:{name}".encode()).digest()[:4], "little")


class Reproducible(BaseSampler):
    """Answers all questions of a space at once, with a sampler made anew for every trial.

    A study that was killed goes on exactly where it would have gone: nothing depends on what this process has
    asked before. Trials whose number is in `fixed` get those parameters (controls and seeds). `known(params)` says
    that a point has been evaluated already: it is not proposed again while a few tries, and then single steps away
    from it, find another. It is asked with parameters as the trial will hold them.
    """

    def __init__(
        self, name: str, *, seed: int, population: int, space: Space, fixed: Mapping[int, Params],
        known: Callable[[Params], bool] = lambda params: False,
    ) -> None:  # fmt: skip
        pick(SAMPLERS, name, "sampler")
        self._name, self._population, self._seed = name, population, seed
        self._fixed, self._known = fixed, known
        self._layout = layout_of(space)
        self._memo: dict[str, Any] = {}

    def _make(self, number: int, attempt: int = 0) -> BaseSampler:
        seed = ask_seed(self._seed, number, f"try{attempt}" if attempt else "")
        setup = Setup(seed=seed, population=self._population, layout=self._layout, memo=self._memo)
        return make_sampler(self._name, setup)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, known beforehand, instead of what past trials have in common."""
        return self._layout.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of all parameters: the sampler's own, or its random ones while it has too few trials."""
        if trial.number in self._fixed:
            if isinstance(self._make(trial.number), BY_GENERATION):
                self._proposed(study, trial, 0)  # counts the trial into a generation, so that it may be a parent
            return self._layout.on_grid(self._fixed[trial.number])
        found: dict[str, Any] = {}
        for attempt in range(TRIES):
            found = self._proposed(study, trial, attempt)
            if not self._known(found):
                return found
        return self._another(found, trial.number)

    def _proposed(self, study: Study, trial: FrozenTrial, attempt: int) -> dict[str, Any]:
        space = self._layout.distributions
        sampler = self._make(trial.number, attempt)
        found = sampler.sample_relative(study, trial, space)
        if isinstance(sampler, BY_GENERATION) and not attempt:
            # The first trial of a generation selects and stores its parents, using up random numbers. A second
            # answer always finds them stored, so a kill between the two changes nothing.
            sampler = self._make(trial.number)
            found = sampler.sample_relative(study, trial, space)
        rest = {name: dist for name, dist in space.items() if name not in found}
        found |= {name: sampler.sample_independent(study, trial, name, dist) for name, dist in rest.items()}
        return self._layout.on_grid(found)

    def _another(self, params: dict[str, Any], number: int) -> dict[str, Any]:
        """A point that is not known: any of a small space, the first one on a random walk in a large one; `params`
        again if there is none.
        """
        rng = np.random.default_rng(ask_seed(self._seed, number, "walk"))
        rows = self._all(rng) if self._layout.size <= STEPS else self._walk(self._layout.row(params), rng)
        points = (self._layout.params(row) for row in rows)
        return next((point for point in points if not self._known(point)), params)

    def _all(self, rng: np.random.Generator) -> Iterator[Array]:
        """The rows of a small space in random order."""
        shape = tuple(int(axis.top) + 1 for axis in self._layout.axes)
        for index in rng.permutation(int(self._layout.size)):
            yield np.array(np.unravel_index(index, shape), dtype=float)

    def _walk(self, row: Array, rng: np.random.Generator) -> Iterator[Array]:
        """Rows each one step from the one before."""
        for _ in range(STEPS):
            row = stepped(self._layout, row, rng, 1)
            yield row

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value for a parameter outside the space, seeded by its name: the order of questions is free."""
        sampler = RandomSampler(seed=ask_seed(self._seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)
