"""What our own samplers share: they answer for the whole space at once."""

from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from paretune.samplers.layout import Layout


class WholeSpace(BaseSampler):
    """A sampler of all axes of `_layout`; what is asked outside of them gets a random value by `_seed`."""

    _layout: Layout
    _seed: int

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, known beforehand, instead of what past trials have in common."""
        return self._layout.distributions

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for a parameter outside the space."""
        return RandomSampler(seed=self._seed).sample_independent(study, trial, param_name, param_distribution)
