"""Which layers a plan masks, and how much of them stays."""

from paretune.inventory import Inventory
from paretune.plan import Plan
from paretune.profile import profile


def masked(inventory: Inventory, plan: Plan | None) -> dict[str, tuple[str, float]]:
    """The kind of pattern and the share of weights kept, in [0, 1], by masked layer.

    The share is of the weights that are left once the channels are cut.
    """
    if plan is None or not any(layer.pattern for layer in plan.layers):
        return {}
    return {row.name: (row.pattern, row.kept / row.weights) for row in profile(inventory, plan) if row.pattern}
