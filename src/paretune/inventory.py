"""What a dense model is made of: its layers, and the channel groups that can only leave together."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Kind = Literal["conv", "linear", "norm", "other"]
Axis = Literal["out", "in"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One module that owns float numbers (parameters or stored buffers), in order of execution.

    Shapes leave the batch axis out. `weight_shape` is (out, in / groups, height, width) for a
    convolution, (out, in) for a linear layer, (channels,) for a batch norm and (numel,) for "other",
    which stays untouched. `affine` is False for a batch norm that has running statistics only, `buffers`
    counts the floats that are stored but not learned, such as those statistics. `norm` names the batch norm that reads this layer's output and nothing
    else does: it can be folded into the weights. `positions` is how often the weight is applied per
    sample: output pixels for a convolution, 1 for a linear layer on a vector.
    """

    name: str
    kind: Kind
    weight_shape: tuple[int, ...]
    bias: bool
    affine: bool = True
    buffers: int = 0
    groups: int = 1
    positions: int = 1
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    norm: str | None = None

    @property
    def depthwise(self) -> bool:
        """True if every channel is filtered on its own, so the conv groups shrink with the channels."""
        return self.kind == "conv" and self.groups > 1 and self.groups == self.weight_shape[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """Where a group's channels sit in one layer.

    `units[u]` are the indices along `axis` of the layer's weight that leave with unit `u`: one index
    for a plain convolution, height × width of them for a linear layer after a flatten, one per conv
    group for a grouped convolution. For a grouped convolution the "in" indices count inside one
    conv group, as its weight tensor does.
    """

    layer: str
    axis: Axis
    units: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Channels that share one decision: producers, norms and consumers coupled through the graph.

    `channels` counts the units that can leave one by one.
    """

    name: str
    channels: int
    members: tuple[Member, ...]

    @property
    def producers(self) -> tuple[Member, ...]:
        """The members whose output channels the group removes (batch norms among them)."""
        return tuple(member for member in self.members if member.axis == "out")


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The dense model's layers and prunable groups, both in order of execution.

    `whole` names the layers whose output channels stay as they are (classifier outputs, layers the
    tracer could not follow), with the reason.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    input_shape: tuple[int, ...]
    whole: dict[str, str]

    @cached_property
    def layer(self) -> Mapping[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def group(self) -> Mapping[str, Group]:
        """Groups by name."""
        return {group.name: group for group in self.groups}

    @cached_property
    def weighted(self) -> tuple[Layer, ...]:
        """The convolutions and linear layers: the ones that carry MACs and may be quantized."""
        return tuple(layer for layer in self.layers if layer.kind in ("conv", "linear"))

    @cached_property
    def folded(self) -> frozenset[str]:
        """Batch norms that fold into the layer before them."""
        return frozenset(layer.norm for layer in self.layers if layer.norm is not None)

    @cached_property
    def cuts(self) -> Mapping[str, tuple[tuple[str, Member], ...]]:
        """For every layer name, the (group name, member) pairs that shrink it."""
        found: dict[str, list[tuple[str, Member]]] = {layer.name: [] for layer in self.layers}
        for group in self.groups:
            for member in group.members:
                found[member.layer].append((group.name, member))
        return {name: tuple(pairs) for name, pairs in found.items()}
