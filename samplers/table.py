"""The samplers by name, each made anew for every ask."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from paretune.errors import pick
from paretune.samplers.layerwise import LayerwiseSampler
from paretune.samplers.layout import Layout
from paretune.samplers.surrogate import SurrogateSampler


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a sampler may know: its `seed` (of this ask), the size of its `population`, the `layout` of the space.

    `memo` lives as long as the study's process: a sampler may keep in it what it would compute again from the told
    trials, and nothing else.
    """

    seed: int
    population: int
    layout: Layout
    memo: dict[str, Any] = field(default_factory=dict)


Make = Callable[[Setup], BaseSampler]

SAMPLERS: Mapping[str, Make] = {
    "layerwise": lambda at: LayerwiseSampler(at.layout, population_size=at.population, seed=at.seed, memo=at.memo),
    "surrogate": lambda at: SurrogateSampler(at.layout, population_size=at.population, seed=at.seed, memo=at.memo),
    "nsga2": lambda at: NSGAIISampler(population_size=at.population, seed=at.seed),
    "nsga3": lambda at: NSGAIIISampler(population_size=at.population, seed=at.seed),
    # Multivariate: the default of several objectives takes 31 s per ask at 10,000 trials × 100 parameters.
    "tpe": lambda at: TPESampler(multivariate=True, seed=at.seed),
    "gp": lambda at: GPSampler(seed=at.seed),
    "random": lambda at: RandomSampler(seed=at.seed),
}


def make_sampler(name: str, setup: Setup) -> BaseSampler:
    """The sampler called `name`.

    Raises:
        UnknownName: it is not in the table.
    """
    with warnings.catch_warnings():
        # Nothing a user could do about nsga3 and gp being marked experimental; the version is pinned.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return pick(SAMPLERS, name, "sampler")(setup)
