"""How alike criteria rank the channels of a network: why a blend clusters them as it does."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Alike:
    """Spearman's rank correlations between `criteria`, in [-1, 1], a row each: means over groups, weighted by channels."""

    criteria: tuple[str, ...]
    correlations: tuple[tuple[float, ...], ...]
