"""The inventory of a cut model, and arrays cut like its weights, by arithmetic alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from paretune.compress.cut import Gone, Kept, removed
from paretune.errors import ImpossiblePlan
from paretune.inventory import Axis, Group, Inventory, Layer, Member, Product, Size

Number = TypeVar("Number", bound=np.generic)


def narrow(inventory: Inventory, kept: Kept) -> Inventory:
    """What `discover` would say about `cut(model, inventory, kept)`; names and order stay, indices are renumbered.

    Groups with one unit left stay listed, so a grouped convolution or a depthwise one that is down to one unit keeps
    its group, where `discover` would see a plain layer. Shapes of "other" layers are copied: nobody knows how they
    follow. So is the size of whatever is `unsure`.

    Raises:
        ImpossiblePlan: as in `cut`.
    """
    gone = removed(inventory, kept)
    counts = {name: inventory.group[name].channels - len(units) for name, units in kept.items()}
    return replace(
        inventory,
        layers=tuple(_layer(layer, gone) for layer in inventory.layers),
        groups=tuple(_group(group, inventory, kept, gone) for group in inventory.groups),
        products=tuple(_product(product, counts) for product in inventory.products),
        buffers=tuple(replace(buffer, numbers=_size(buffer.numbers, counts)) for buffer in inventory.buffers),
    )


def slice_weight(inventory: Inventory, layer: str, array: NDArray[Number], kept: Kept) -> NDArray[Number]:
    """`array`, of the dense weight's shape, cut as `cut` would cut the weight of `layer`.

    Raises:
        ImpossiblePlan: as in `cut`, or an array of another shape.
    """
    shape, gone = inventory.layer[layer].weight_shape, removed(inventory, kept)
    if array.shape != shape:
        raise ImpossiblePlan(f"the weight of '{layer}' has the shape {shape}, got an array of {array.shape}")
    for number, axis in enumerate[Axis](("out", "in")):
        if (layer, axis) in gone:
            array = np.delete(array, sorted(gone[layer, axis]), axis=number)
    return array


def _size(size: Size, counts: Mapping[str, int]) -> Size:
    return replace(size, dense=size.left(counts))


def _product(product: Product, counts: Mapping[str, int]) -> Product:
    sizes = (product.count, product.rows, product.inner, product.columns)
    count, rows, inner, columns = (_size(size, counts) for size in sizes)
    return replace(product, count=count, rows=rows, inner=inner, columns=columns)


def _layer(layer: Layer, gone: Gone) -> Layer:
    rows, columns = len(gone.get((layer.name, "out"), ())), len(gone.get((layer.name, "in"), ()))
    if not rows and not columns:
        return layer
    out = layer.weight_shape[0] - rows
    if layer.kind == "norm":
        return replace(
            layer,
            weight_shape=(out,),
            buffers=layer.buffers // layer.weight_shape[0] * out,
            input_shape=_resized(layer.input_shape, 0, out),
            output_shape=_resized(layer.output_shape, 0, out),
        )
    shape = (out, layer.weight_shape[1] - columns, *layer.weight_shape[2:])
    groups = out if layer.depthwise else layer.groups
    channels = -1 if layer.kind == "linear" else 0
    return replace(
        layer,
        weight_shape=shape,
        groups=groups,
        input_shape=_resized(layer.input_shape, channels, shape[1] * groups),
        output_shape=_resized(layer.output_shape, channels, out),
    )


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    sizes = list(shape)
    if sizes:  # a layer that was never called has no shapes
        sizes[axis] = size
    return tuple(sizes)


def _group(group: Group, inventory: Inventory, kept: Kept, gone: Gone) -> Group:
    """A group that loses nothing is renumbered too: it may share a layer's input with one that does."""
    units = kept.get(group.name, range(group.channels))
    members = tuple(_member(member, inventory, units, gone) for member in group.members)
    return replace(group, channels=len(units), members=members)


def _member(member: Member, inventory: Inventory, units: Sequence[int], gone: Gone) -> Member:
    leaving = gone.get((member.layer, member.axis), set())
    size = inventory.layer[member.layer].weight_shape[0 if member.axis == "out" else 1]
    new = dict(zip((index for index in range(size) if index not in leaving), range(size), strict=False))
    return replace(member, units=tuple(tuple(new[index] for index in member.units[unit]) for unit in units))
