"""What a dense model is made of: its layers, and the channel groups that can only leave together."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from paretune.records import quiet

Kind = Literal["conv", "linear", "norm", "other"]
Axis = Literal["out", "in"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One module that owns float numbers (parameters or stored buffers), in order of execution.

    Shapes leave the batch axis out. `weight_shape` is (out, in / groups, height, width) for a convolution, (out, in)
    for a linear layer, (channels,) for a batch norm and (numel,) for "other", which stays untouched. `affine` is False
    for a batch norm that has running statistics only, `buffers` counts the floats that are stored but not learned, such
    as those statistics. `norm` names the batch norm that reads this layer's output and nothing else does: it can be
    folded into the weights. `positions` is how often the weight is applied per sample: output pixels for a convolution,
    1 for a linear layer on a vector, all calls together; `reads` is the same of input pixels where a layer is called
    more than once, else 0.
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
    reads: int = quiet(0)
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
class Setting:
    """A whole number in a module, such as its number of heads: with every unit that leaves, the attribute `name` of
    `module` goes down by `per_unit`."""

    module: str
    name: str
    per_unit: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Channels that share one decision: producers, norms and consumers coupled through the graph.

    `channels` counts the units that can leave one by one. `settings` are numbers in modules that follow them.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    settings: tuple[Setting, ...] = quiet(())

    @property
    def producers(self) -> tuple[Member, ...]:
        """The members whose output channels the group removes (batch norms among them)."""
        return tuple(member for member in self.members if member.axis == "out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A whole number that follows the channels: `dense`, less `per_unit[group]` for every unit that leaves a group."""

    dense: int
    per_unit: tuple[tuple[str, int], ...] = quiet(())

    def left(self, gone: Mapping[str, int]) -> int:
        """The number that is left when so many units of each group are gone."""
        return self.dense - sum(each * gone.get(group, 0) for group, each in self.per_unit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Buffer:
    """Activations of one sample that lie in one place, from the step that writes them (`born`) to the last one that
    reads them (`dies`), both included.

    `readers` are the layers whose activation bits they are stored in: those that read them or, if none does, those that
    read what is made of them; empty means float.
    """

    numbers: Size
    born: int
    dies: int
    readers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """A matrix product or convolution that is no layer of its own, such as the two of an attention.

    `count` times a matrix (rows, inner) meets one of (inner, columns): MACs are the product of all four.
    """

    name: str
    count: Size
    rows: Size
    inner: Size
    columns: Size


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The dense model's layers and prunable groups, both in order of execution.

    `whole` names the layers whose output channels stay as they are (classifier outputs, layers the tracer could not
    follow), with the reason. `steps` are the operations of one forward by the layer or product that each is charged to
    (the last one before it, step 0 brings the input), `buffers` what lies in memory meanwhile; both are empty if nobody
    watched. `operations` says how often whatever carries no MACs ran ("add": 8), `first` which layers read the input.
    `unsure` says in words what is not counted, or told as in the dense model because no `Size` follows the channels.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    input_shape: tuple[int, ...]
    whole: dict[str, str]
    products: tuple[Product, ...] = quiet(())
    steps: tuple[str, ...] = quiet(())
    buffers: tuple[Buffer, ...] = quiet(())
    operations: tuple[tuple[str, int], ...] = quiet(())
    first: tuple[str, ...] = quiet(())
    unsure: tuple[str, ...] = quiet(())

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

    @cached_property
    def shrinks(self) -> Mapping[str, tuple[tuple[str, int, int, tuple[int, ...]], ...]]:
        """For every layer name (group, axis 0 or 1, its units, indices that each of them takes)."""
        return {
            name: tuple(
                (group, int(member.axis == "in"), len(member.units), tuple(map(len, member.units)))
                for group, member in pairs
            )
            for name, pairs in self.cuts.items()
        }

    @cached_property
    def entries(self) -> frozenset[str]:
        """The layers that read the network's input; without a watched forward the first one with weights."""
        return frozenset(self.first or [layer.name for layer in self.weighted[:1]])

    @cached_property
    def order(self) -> tuple[Layer | Product, ...]:
        """Layers and products in order of execution."""
        first = {name: step for step, name in reversed(list(enumerate(self.steps)))}
        late = len(self.steps)
        if not self.products:
            return self.layers
        starts, last = {product.name: first.get(product.name, late) for product in self.products}, 0
        for layer in self.layers:  # one without a step of its own stays behind the layer before it
            last = starts[layer.name] = max(last, first.get(layer.name, last))
        # Layers keep their own order; a product comes before the first layer that runs after it.
        found: list[Layer | Product] = list(self.layers)
        for product in self.products:
            place = next((i for i, item in enumerate(found) if starts[item.name] > starts[product.name]), len(found))
            found.insert(place, product)
        return tuple(found)
