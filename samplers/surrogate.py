"""Placeholder until the evolutionary sampler stands here."""

from typing import Any

from optuna.samplers import RandomSampler

from paretune.samplers.layout import Layout


class SurrogateSampler(RandomSampler):
    """Placeholder."""

    def __init__(self, layout: Layout, *, population_size: int, seed: int, memo: dict[str, Any]) -> None:
        super().__init__(seed=seed)
