"""What happens to every group and layer: explicit, so that replaying it needs no study and no sampler."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from paretune.inventory import Inventory
from paretune.recipe import Pruning, Recovery
from paretune.records import digest

FLOAT = 32  # the bit-width that means "left in float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPlan:
    """The units of a group that stay, ascending, at least one."""

    group: str
    kept: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pattern:
    """Where the zeros of one weight are, explicitly; `paretune.compress.patterns` makes it and reads it.

    `kind` is as in `paretune.recipe.Wanted`. `nonzeros` weights stay. `stored` is the position information in base64:
    the same `index_bytes` that the packed file holds. `block`, `layout` and `parts` are what it takes to read them.
    """

    kind: str
    nonzeros: int
    index_bytes: int
    stored: str
    block: int = 0
    layout: str = ""
    parts: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerPlan:
    """How one layer's weight, and the activation it reads, are stored; 32 bits means float.

    `pattern` is over the weight that is left once the channels are cut; None means no mask.
    """

    layer: str
    weight_bits: int = FLOAT
    activation_bits: int = FLOAT
    pattern: Pattern | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A compressed model, described. Groups and layers that are not named stay as they are.

    With `pruning` the masks of some layers are found in training. Such a plan is told in two states: asked (those layers have
    no pattern yet) and found (they have one; a replay of it masks at once).
    """

    groups: tuple[GroupPlan, ...] = ()
    layers: tuple[LayerPlan, ...] = ()
    recovery: Recovery = Recovery(epochs=0, lr=0.0)
    pruning: Pruning | None = None

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

    @cached_property
    def open(self) -> bool:
        """True if masks have still to be found in training, so that costs are not known yet."""
        wanted = self.pruning.wanted if self.pruning else {}
        return any(layer.layer in wanted and layer.pattern is None for layer in self.layers)

    @cached_property
    def asked(self) -> "Plan":
        """The plan without the masks that training found: what a search would have to ask for to get it."""
        if self.pruning is None:
            return self
        wanted = self.pruning.wanted
        layers = (replace(row, pattern=None) if row.layer in wanted else row for row in self.layers)
        return replace(self, layers=tuple(layers))

    def kept_share(self, inventory: Inventory, group: str) -> float:
        """The share of a group's channels that stays, in (0, 1]."""
        whole = inventory.group[group].channels
        return len(self.kept.get(group, range(whole))) / whole


DENSE = Plan()
