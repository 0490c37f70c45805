"""What happens to every group and layer: explicit, so that replaying it needs no study and no sampler."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from paretune.inventory import Inventory
from paretune.recipe import Joint, Pruning, Quantizing, Recovery
from paretune.records import digest, quiet

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


class Codes(NamedTuple):
    """What is known of a layer's stored numbers once it has been trained: enough to tell its size in every encoding.

    A plain tuple, because a long study reads a hundred thousand of them. `nonzeros` of them are not zero and `distinct` are different. `entropy_bits` is what a coder spends that knows how often each
    occurs, to 1/4096; `huffman_bits` what a Huffman code of them takes, tables included. Told by gaps of `gap_bits`, the
    non-zeros and the filler zeros between them are `entries`. Float weights have no entropy and no Huffman bits (0).
    """

    nonzeros: int
    distinct: int
    entropy_bits: int
    huffman_bits: int
    gap_bits: int
    entries: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerPlan:
    """How one layer's weight, and the activation it reads, are stored; 32 bits means float.

    `pattern` is over the weight that is left once the channels are cut; None means no mask. The quantizers are names in the tables
    of `paretune.compress.quantizers`, the `encoding` one of `paretune.costs.storage` or "cheapest". `codes` is None until
    the layer has been trained; `added` says that nobody asked for anything of this layer, it is here for its codes alone.
    """

    layer: str
    weight_bits: int = FLOAT
    activation_bits: int = FLOAT
    pattern: Pattern | None = None
    weight_quantizer: str = quiet("lsq")
    activation_quantizer: str = quiet("lsq")
    encoding: str = quiet("cheapest")
    codes: Codes | None = None
    added: bool = quiet(False)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A compressed model, described. Groups and layers that are not named stay as they are.

    With `pruning` the masks of some layers are found in training, with `joint` the channels that stay and the bits. Such a plan is
    told in two states: asked (they are not known yet) and found (they are; a replay of it cuts and masks at once). Every trained plan
    also knows its `codes`. `quantizing` None means its defaults.
    """

    groups: tuple[GroupPlan, ...] = ()
    layers: tuple[LayerPlan, ...] = ()
    recovery: Recovery = Recovery(epochs=0, lr=0.0)
    pruning: Pruning | None = None
    quantizing: Quantizing | None = None
    joint: Joint | None = None

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
        """True if masks, channels or bits have still to be found in training, so that costs are not known yet."""
        if self.joint is not None and not self.joint.done:
            return True
        wanted = self.pruning.wanted if self.pruning else {}
        return any(layer.layer in wanted and layer.pattern is None for layer in self.layers)

    @cached_property
    def asked(self) -> "Plan":
        """The plan without what training found: what a search would have to ask for to get it."""
        plan = replace(self, layers=tuple(replace(row, codes=None) for row in self.layers if not row.added))
        if self.pruning is not None:
            wanted = self.pruning.wanted
            rows = (replace(row, pattern=None) if row.layer in wanted else row for row in plan.layers)
            plan = replace(plan, layers=tuple(rows))
        if self.joint is not None:
            plan = replace(plan, groups=(), joint=replace(self.joint, done=False), layers=_start(plan.layers, self.joint))
        return plan

    def kept_share(self, inventory: Inventory, group: str) -> float:
        """The share of a group's channels that stays, in (0, 1]."""
        whole = inventory.group[group].channels
        return len(self.kept.get(group, range(whole))) / whole


def _start(layers: tuple[LayerPlan, ...], joint: Joint) -> tuple[LayerPlan, ...]:
    weights, activations = joint.weight_bits, joint.activation_bits
    return tuple(
        replace(
            row,
            weight_bits=weights.get(row.layer, row.weight_bits),
            activation_bits=activations.get(row.layer, row.activation_bits),
        )
        for row in layers
    )


DENSE = Plan()
