"""What happens to every group and layer: explicit, so that replaying it needs no study and no sampler."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from paretune.inventory import Inventory
from paretune.recipe import Recovery
from paretune.records import digest

FLOAT = 32  # the bit-width that means "left in float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPlan:
    """The units of a group that stay, ascending, at least one."""

    group: str
    kept: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerPlan:
    """How one layer's weight, and the activation it reads, are stored; 32 bits means float."""

    layer: str
    weight_bits: int = FLOAT
    activation_bits: int = FLOAT


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A compressed model, described. Groups and layers that are not named stay as they are."""

    groups: tuple[GroupPlan, ...] = ()
    layers: tuple[LayerPlan, ...] = ()
    recovery: Recovery = Recovery(epochs=0, lr=0.0)

    @cached_property
    def kept(self) -> Mapping[str, tuple[int, ...]]:
        """Kept units by group name."""
        return {group.group: group.kept for group in self.groups}

    @cached_property
    def bits(self) -> Mapping[str, LayerPlan]:
        """Layer plans by layer name."""
        return {layer.layer: layer for layer in self.layers}

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits, equal for equal plans only."""
        return digest(self)

    def kept_share(self, inventory: Inventory, group: str) -> float:
        """The share of a group's channels that stays, in (0, 1]."""
        whole = inventory.group[group].channels
        return len(self.kept.get(group, range(whole))) / whole


DENSE = Plan()
