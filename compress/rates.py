"""From a recipe to a plan: which channels of every group stay."""

import numpy as np

from paretune.compress.criteria import Scores
from paretune.inventory import Inventory
from paretune.plan import GroupPlan, LayerPlan, Plan
from paretune.recipe import Recipe


def plan_of(recipe: Recipe, inventory: Inventory, scores: Scores) -> Plan:
    """The explicit plan of a recipe: each group keeps its best-scored channels, at least one.

    Ties keep the channel that comes first, so that equal scores give equal plans. A group that loses
    nothing is left out, so that every way of asking for "all" is the same plan.
    """
    by_group = scores[recipe.criterion]
    groups = []
    for group in inventory.groups:
        keep = kept_count(group.channels, recipe.ratios[group.name])
        if keep < group.channels:
            best = np.argsort(-by_group[group.name], kind="stable")[:keep]
            groups.append(GroupPlan(group=group.name, kept=tuple(sorted(int(unit) for unit in best))))
    layers = (
        LayerPlan(
            layer=layer.name,
            weight_bits=recipe.weight_bits[layer.name],
            activation_bits=recipe.activation_bits[layer.name],
        )
        for layer in inventory.weighted
    )
    return Plan(groups=tuple(groups), layers=tuple(layers), recovery=recipe.recovery)


def kept_count(channels: int, ratio: float) -> int:
    """How many of `channels` stay when the share `ratio` in [0, 1) is removed: rounded, never below one."""
    gone = round(channels * ratio, 9)  # free of binary noise: 45 × 0.7 is 31.5, not 31.499999999999996
    return max(1, channels - int(np.floor(gone + 0.5)))
