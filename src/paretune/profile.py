"""The compressed model as one row per layer: every static cost is plain arithmetic over these rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from paretune.frozen import activation_floats, stored_levels
from paretune.inventory import Inventory, Layer
from paretune.plan import FLOAT, Codes, LayerPlan, Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One layer after the plan.

    `weights` counts the entries of the weight tensor, `kept` those that its pattern leaves, `nonzeros` those of them that are not zero
    as far as that is known (`codes`, once it is trained), `index_bytes` what it takes
    to say where the kept ones are and `pattern` its kind ("" without a mask; `parts` of a partition), `params` everything learnable,
    `scales` the float32 quantization steps stored beside the weights and `floats` the float32 numbers stored plainly (biases,
    a folded batch norm's shift, what an unfolded norm holds, buffers, the activation step, a codebook's levels).
    `quantizer` and `encoding` are as in `LayerPlan`.
    `channels` is the number of outputs. `macs` counts one multiply-add once, for one sample.
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
    quantizer: str = "lsq"
    encoding: str = "cheapest"
    codes: Codes | None = None


Profile = tuple[Row, ...]


def profile(inventory: Inventory, plan: Plan) -> Profile:
    """The rows of `plan` applied to the dense model, without building it.

    A batch norm that folds into the layer before it has a row with parameters but no stored bytes:
    its scale and shift live in that layer's scales and bias.
    """
    return tuple(_row(inventory, layer, plan) for layer in inventory.layers)


def cut_shape(inventory: Inventory, layer: Layer, kept: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The weight shape that is left when every group keeps the units in `kept`."""
    shape = list(layer.weight_shape)
    for group, member in inventory.cuts[layer.name]:
        if group in kept:
            gone = set(range(len(member.units))) - set(kept[group])
            shape[0 if member.axis == "out" else 1] -= sum(len(member.units[unit]) for unit in gone)
    return tuple(shape)


def _row(inventory: Inventory, layer: Layer, plan: Plan) -> Row:
    shape = cut_shape(inventory, layer, plan.kept)
    bits = plan.bits.get(layer.name, LayerPlan(layer=layer.name))
    weights, channels = prod(shape), shape[0]
    if layer.kind in ("conv", "linear"):
        quantized = bits.weight_bits < FLOAT
        shift = channels if layer.bias or layer.norm else 0
        levels = stored_levels(bits.weight_quantizer, bits.weight_bits)
        step = activation_floats(bits.activation_quantizer, bits.activation_bits)
        mask = bits.pattern
        kept = mask.nonzeros if mask else weights
        return Row(
            name=layer.name, kind=layer.kind, weight_shape=shape, channels=channels,
            macs=weights * layer.positions, params=weights + (channels if layer.bias else 0), weights=weights,
            weight_bits=bits.weight_bits, activation_bits=bits.activation_bits,
            scales=channels if quantized else 0, floats=shift + step + levels,
            nonzeros=bits.codes.nonzeros if bits.codes else kept, kept=kept, pattern=mask.kind if mask else "",
            index_bytes=mask.index_bytes if mask else 0, parts=mask.parts or 1 if mask else 1,
            quantizer=bits.weight_quantizer, encoding=bits.encoding, codes=bits.codes,
        )  # fmt: skip
    norm = layer.kind == "norm"
    learned = channels * (layer.affine + layer.bias) if norm else weights
    buffers = layer.buffers // layer.weight_shape[0] * channels if norm else layer.buffers
    stored = 0 if layer.name in inventory.folded else learned + buffers
    return Row(
        name=layer.name, kind=layer.kind, weight_shape=shape, channels=channels, macs=0, params=learned,
        weights=0, weight_bits=FLOAT, activation_bits=FLOAT, scales=0, floats=stored, nonzeros=0,
    )  # fmt: skip
