"""The compressed model as one row per layer: every static cost is plain arithmetic over these rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from paretune.frozen import activation_floats, stored_levels
from paretune.inventory import Inventory, Layer, Product
from paretune.plan import FLOAT, Codes, LayerPlan, Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One layer, or one matrix product between activations (kind "product"), after the plan.

    `weights` counts the entries of the weight tensor, `kept` those that its pattern leaves, `nonzeros` those of them
    that are not zero as far as that is known (`codes`, once it is trained), `index_bytes` what it takes to say where
    the kept ones are and `pattern` its kind ("" without a mask; `parts` of a partition, `block` of PE blocks), `params`
    everything learnable, `scales` the float32 quantization steps stored beside the weights and `floats` the float32
    numbers stored plainly (biases, a folded batch norm's shift, what an unfolded norm holds, buffers, the activation
    step, a codebook's levels). `quantizer` and `encoding` are as in `LayerPlan`.

    `macs` counts one multiply-add once, for one sample; `dense_macs` those of the uncompressed model. The work is
    `groups` matrix products (positions, inner) × (inner, channels / groups): `positions` are output pixels, `inner` is
    input channels of a group × kernel size, `channels` the number of outputs. `inputs` and `outputs` are the numbers
    read and written, `output_bits` how many bits each written one is stored in (0 if nobody watched), `alive_bytes` the
    most that lies in memory as activations while the layer, and what follows it up to the next one, runs.
    """

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    channels: int
    macs: int
    params: int
    weights: int
    weight_bits: int
    activation_bits: int
    scales: int
    floats: int
    nonzeros: int
    kept: int = 0
    pattern: str = ""
    index_bytes: int = 0
    parts: int = 1
    block: int = 0
    quantizer: str = "lsq"
    encoding: str = "cheapest"
    codes: Codes | None = None
    dense_macs: int = 0
    groups: int = 1
    positions: int = 1
    inner: int = 1
    inputs: int = 0
    outputs: int = 0
    alive_bytes: int = 0
    output_bits: int = 0

    @property
    def filters(self) -> int:
        """Outputs of one of its matrix products: filters of one conv group."""
        return self.channels // self.groups


Profile = tuple[Row, ...]


def profile(inventory: Inventory, plan: Plan) -> Profile:
    """The rows of `plan` applied to the dense model, without building it.

    A batch norm that folds into the layer before it has a row with parameters but no stored bytes:
    its scale and shift live in that layer's scales and bias.
    """
    gone = {group: inventory.group[group].channels - len(units) for group, units in plan.kept.items()
            if group in inventory.group}  # fmt: skip
    memory = _memory(inventory, plan, gone)
    return tuple(
        _product(item, gone, memory) if isinstance(item, Product) else _row(inventory, item, plan, memory)
        for item in inventory.order
    )


def cut_shape(inventory: Inventory, layer: Layer, kept: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The weight shape that is left when every group keeps the units in `kept`."""
    shape = list(layer.weight_shape)
    for group, axis, count, taken in inventory.shrinks[layer.name]:
        if group not in kept:
            continue
        units = kept[group]
        even = taken[0] if taken else 0
        if taken.count(even) == count:
            shape[axis] -= even * (count - len(units))
        else:
            shape[axis] -= sum(taken) - sum(taken[unit] for unit in units)
    return tuple(shape)


class Memory(NamedTuple):
    """Bytes of activations in memory at the worst step of a layer or product, and bits of the numbers it writes."""

    alive_bytes: int
    output_bits: int


NONE = Memory(0, 0)


def _memory(inventory: Inventory, plan: Plan, gone: Mapping[str, int]) -> dict[str, Memory]:
    """By layer or product."""
    change = [0] * (len(inventory.steps) + 1)
    bits = {name: row.activation_bits for name, row in plan.bits.items()}
    written: dict[int, int] = {}
    for buffer in inventory.buffers:
        width = max((bits.get(name, FLOAT) for name in buffer.readers), default=FLOAT)
        size = -(-buffer.numbers.left(gone) * width // 8)
        change[buffer.born] += size
        written.setdefault(buffer.born, width)
        change[buffer.dies + 1] -= size
    folds = {layer.norm: layer.name for layer in inventory.layers if layer.norm}  # such a norm is no step of its own
    found: dict[str, int] = {}
    wide: dict[str, int] = {}
    held = 0
    for step, (name, more) in enumerate(zip(inventory.steps, change, strict=False)):
        held += more
        if step in written and step:
            wide.setdefault(name, written[step])
        name = folds.get(name, name)
        if held > found.get(name, 0):
            found[name] = held
    return {name: Memory(alive, wide.get(name, 0)) for name, alive in found.items()}


def _row(inventory: Inventory, layer: Layer, plan: Plan, memory: Mapping[str, Memory]) -> Row:
    shape = cut_shape(inventory, layer, plan.kept)
    channels = shape[0]
    if layer.kind not in ("conv", "linear"):
        return _bare(inventory, layer, shape, memory)
    weights = prod(shape)
    bits = plan.bits.get(layer.name) or LayerPlan(layer=layer.name)
    quantized = bits.weight_bits < FLOAT
    shift = channels if layer.bias or layer.norm else 0
    levels = stored_levels(bits.weight_quantizer, bits.weight_bits)
    step = activation_floats(bits.activation_quantizer, bits.activation_bits)
    mask = bits.pattern
    kept = mask.nonzeros if mask else weights
    groups = channels if layer.depthwise else layer.groups
    return Row(
        name=layer.name, kind=layer.kind, weight_shape=shape, channels=channels,
        macs=weights * layer.positions, params=weights + (channels if layer.bias else 0), weights=weights,
        weight_bits=bits.weight_bits, activation_bits=bits.activation_bits,
        scales=channels if quantized else 0, floats=shift + step + levels,
        nonzeros=bits.codes.nonzeros if bits.codes else kept, kept=kept, pattern=mask.kind if mask else "",
        index_bytes=mask.index_bytes if mask else 0, parts=mask.parts or 1 if mask else 1,
        block=mask.block if mask else 0,
        quantizer=bits.weight_quantizer, encoding=bits.encoding, codes=bits.codes,
        dense_macs=prod(layer.weight_shape) * layer.positions, groups=groups, positions=layer.positions,
        inner=weights // channels, inputs=_read(layer, shape[1] * groups), outputs=layer.positions * channels,
        **memory.get(layer.name, NONE)._asdict(),
    )  # fmt: skip


def _read(layer: Layer, channels: int) -> int:
    """Numbers that one sample brings to a layer; `input_shape` has channels first for a convolution, else last."""
    sizes = layer.input_shape[1:] if layer.kind == "conv" else layer.input_shape[:-1]
    return (layer.reads or prod(sizes)) * channels


def _bare(inventory: Inventory, layer: Layer, shape: tuple[int, ...], memory: Mapping[str, Memory]) -> Row:
    """A batch norm, or a layer that stays as it is."""
    norm, channels = layer.kind == "norm", shape[0]
    learned = channels * (layer.affine + layer.bias) if norm else prod(shape)
    buffers = layer.buffers // layer.weight_shape[0] * channels if norm else layer.buffers
    stored = 0 if layer.name in inventory.folded else learned + buffers
    return Row(
        name=layer.name, kind=layer.kind, weight_shape=shape, channels=channels, macs=0, params=learned,
        weights=0, weight_bits=FLOAT, activation_bits=FLOAT, scales=0, floats=stored, nonzeros=0,
        alive_bytes=memory.get(layer.name, NONE).alive_bytes,
    )  # fmt: skip


def _product(product: Product, gone: Mapping[str, int], memory: Mapping[str, Memory]) -> Row:
    """Neither side is a weight: both are taken to be float."""
    sizes = (product.count, product.rows, product.inner, product.columns)
    count, rows, inner, columns = (size.left(gone) for size in sizes)
    return Row(
        name=product.name, kind="product", weight_shape=(), channels=count * columns, macs=count * rows * inner * columns,
        params=0, weights=0, weight_bits=FLOAT, activation_bits=FLOAT, scales=0, floats=0, nonzeros=0,
        dense_macs=prod(size.dense for size in sizes), groups=count, positions=rows, inner=inner,
        inputs=count * inner * (rows + columns), outputs=count * rows * columns, **memory.get(product.name, NONE)._asdict(),
    )  # fmt: skip
