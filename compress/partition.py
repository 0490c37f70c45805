"""Dense layers cut into K independent blocks: which neuron goes to which part, and the blocks that come of it.

Shahhosseini et al. 2019, Partition Pruning, https://arxiv.org/abs/1901.11391. The assignment is our reading: the
paper's own was not readable.
"""

import base64
from collections.abc import Mapping, Sequence
from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.compress.assignment import Labels, Link, Profit, solve
from paretune.compress.bits import Mask, Scores, from_bits, numbered, recorded, to_bits, unpacked
from paretune.errors import ImpossiblePlan, ParetuneError, pick
from paretune.inventory import Axis, Inventory, Member
from paretune.plan import Pattern
from paretune.recipe import Wanted


def partition(
    inventory: Inventory, wanted: Mapping[str, Wanted], scores: Mapping[str, Scores], seed: int
) -> dict[str, Pattern]:
    """The pattern of every layer that asks for "partition"; other kinds are passed over.

    Every unit (channel) of the groups around these layers goes to one of K equally large parts, and a weight stays
    where its output and its input are in the same part. So chained layers fit: part k of one reads part k of the one
    before, and a linear layer after a flatten is cut by channels. What is maximised is the sum of the `scores`, (out,
    in), that stay, over all chained layers: with the other groups fixed, one group is a balanced assignment, solved
    exactly, and groups take turns until nothing is gained. The best of `restarts` random starts, drawn from `seed`, is
    kept. `inventory` is of the model as it is cut.

    Raises:
        ImpossiblePlan: a layer that is not linear or whose inputs or outputs are in no group (a classifier's head),
            widths that K does not divide, or chained layers with different K.
    """
    asked = {layer: item for layer, item in wanted.items() if item.kind == "partition"}
    parts = _parts_by_group(inventory, asked)
    links = {layer: _links(inventory, layer, numbered(scores[layer])) for layer in asked}
    labels: dict[str, Labels] = {}
    for chain in _chains(links):
        chained = [link for layer in chain for link in links[layer]]
        units = {g.name: g.channels for g in inventory.groups if any(g.name in (k.reader, k.feeder) for k in chained)}
        restarts = max(asked[layer].restarts for layer in chain)
        generator = np.random.default_rng([seed, *next(iter(units)).encode()])
        labels |= solve(chained, units, parts[next(iter(units))], restarts, generator)
    return {
        layer: pattern_of_parts(
            _spread(inventory, layer, "out", labels), _spread(inventory, layer, "in", labels), item.parts
        )
        for layer, item in asked.items()
    }


def blocks(weight: NDArray[Any], pattern: Pattern) -> tuple[NDArray[Any], Labels, Labels]:
    """(blocks (K, out / K, in / K), rows (K, out / K), columns (K, in / K)) of a partitioned (out, in) weight.

    y[rows[k]] = blocks[k] @ x[columns[k]] for every k is the masked product weight @ x; indices ascend in every part.
    """
    of_row, of_column = parts_of(pattern, weight.shape)
    rows, columns = (
        np.stack([np.flatnonzero(labels == part) for part in range(pattern.parts)]) for labels in (of_row, of_column)
    )
    return weight[rows[:, :, None], columns[:, None, :]], rows, columns


def pattern_of_parts(rows: Labels, columns: Labels, parts: int) -> Pattern:
    """The pattern of a partition, from the part of every row and column of an (out, in) weight.

    `paretune.compress.patterns.pattern_of` numbers the parts anew; here they keep their numbers, so that chained layers
    agree.

    Raises:
        ImpossiblePlan: parts that are not equally large.
    """
    for labels in (rows, columns):
        sizes = np.bincount(labels, minlength=parts)
        if len(sizes) > parts or sizes.min() < sizes.max():
            raise ImpossiblePlan(f"a partition into {parts} needs equally large parts, not {sizes.tolist()}")
    bits = to_bits(np.concatenate([rows, columns]), parts)
    return recorded(bits, kind="partition", nonzeros=rows.size * columns.size // parts, parts=parts)


def parts_of(pattern: Pattern, shape: Sequence[int]) -> tuple[Labels, Labels]:
    """The part, 0 to K - 1, of every row and of every column of a partitioned (out, in) weight."""
    bits = unpacked(base64.b64decode(pattern.stored), part_bits(pattern.parts, shape))
    return split_parts(bits, pattern.parts, shape)


def split_parts(bits: Mask, parts: int, shape: Sequence[int]) -> tuple[Labels, Labels]:
    """The part of every row and of every column, from the bits of the index."""
    labels = from_bits(bits, parts, sum(shape))
    return labels[: shape[0]], labels[shape[0] :]


def parts_of_mask(mask: Mask, parts: int) -> tuple[Labels, Labels]:
    """The part of every row and of every column of a partition's mask, numbered as they come from the first row on.

    Raises:
        ImpossiblePlan: the mask is not a partition into `parts` equally large parts.
    """
    part_weights(parts, mask.shape)
    _, first, rows = np.unique(mask.argmax(axis=1), return_index=True, return_inverse=True)
    rows = np.argsort(np.argsort(first))[rows]
    columns = rows[mask.argmax(axis=0)]
    sizes = [np.bincount(labels, minlength=parts).tolist() for labels in (rows, columns)]
    equal = sizes == [[width // parts] * parts for width in mask.shape]
    if not equal or not np.array_equal(rows[:, None] == columns, mask):
        raise ImpossiblePlan(f"the mask of shape {mask.shape} is not a partition into {parts} equally large parts")
    return rows, columns


def part_weights(parts: int, shape: Sequence[int]) -> int:
    """How many weights of an (out, in) weight stay in `parts` parts.

    Raises:
        ImpossiblePlan: `parts` does not divide the shape.
    """
    if parts < 1:
        raise ParetuneError(f"a partition into {parts} parts is asked for; parts is 1 or more")
    if len(shape) != 2 or any(width % parts for width in shape):
        works = fitting_parts(*shape) if len(shape) == 2 else "none: only a linear layer, (out, in), can be partitioned"
        raise ImpossiblePlan(f"a weight of shape {tuple(shape)} cannot be cut into {parts} parts; what works: {works}")
    return prod(shape) // parts


def part_bits(parts: int, shape: Sequence[int]) -> int:
    """Bits that say the part of every row and every column."""
    part_weights(parts, shape)
    return sum(shape) * (parts - 1).bit_length()


def fitting_parts(*widths: int) -> str:
    """The numbers of parts that divide all of `widths`, as text for a message."""
    common = gcd(*widths)
    return ", ".join(str(parts) for parts in range(2, common + 1) if common % parts == 0) or "none above 1"


def _members(inventory: Inventory, layer: str, axis: Axis) -> list[tuple[str, Member]]:
    """The groups that share a layer's outputs or inputs among them."""
    found = [(group, member) for group, member in inventory.cuts[layer] if member.axis == axis]
    covered = sorted(index for _, member in found for unit in member.units for index in unit)
    shape = inventory.layer[layer].weight_shape
    side = "outputs" if axis == "out" else "inputs"
    if inventory.layer[layer].kind != "linear":
        why = "it is not a linear layer"
    elif covered != list(range(shape[0 if axis == "out" else 1])):
        why = f"its {side} are in no channel group"
    else:
        return found
    raise ImpossiblePlan(f"layer '{layer}' cannot be partitioned: {why}; leave it out (pattern: channel)")


def _parts_by_group(inventory: Inventory, asked: Mapping[str, Wanted]) -> dict[str, int]:
    """K of every group around these layers."""
    first: dict[str, str] = {}  # group -> the layer that named it first
    for layer, item in asked.items():
        pick(inventory.layer, layer, "layer")
        groups = [group for axis in ("out", "in") for group, _ in _members(inventory, layer, axis)]
        widths = {group: inventory.group[group].channels for group in groups}
        if item.parts < 1 or any(width % item.parts for width in widths.values()):
            sizes = " and ".join(f"{width} ('{group}')" for group, width in widths.items())
            raise ImpossiblePlan(
                f"layer '{layer}' cannot be cut into {item.parts} parts: its groups have {sizes} channels; "
                f"what works: {fitting_parts(*widths.values())}, or channels kept in multiples of {item.parts}"
            )
        for group in groups:
            other = asked[first.setdefault(group, layer)].parts
            if other != item.parts:
                both = f"layers '{first[group]}' and '{layer}' share group '{group}'"
                raise ImpossiblePlan(f"{both} but ask for {other} and {item.parts} parts; give both the same number")
    return {group: asked[layer].parts for group, layer in first.items()}


def _links(inventory: Inventory, layer: str, scores: Scores) -> list[Link]:
    """One link per pair of groups at a layer's outputs and inputs."""
    found = []
    for reader, out in _members(inventory, layer, "out"):
        rows = _by_unit(scores.astype(np.float64), out)
        for feeder, into in _members(inventory, layer, "in"):
            found.append(Link(reader=reader, feeder=feeder, importance=_by_unit(rows.T, into).T))
    return found


def _by_unit(scores: Profit, member: Member) -> Profit:
    """Rows summed over the indices of every unit."""
    starts = np.cumsum([0, *(len(unit) for unit in member.units[:-1])])
    order = np.concatenate([np.array(unit, dtype=np.intp) for unit in member.units])
    return np.add.reduceat(scores[order], starts, axis=0)


def _chains(links: Mapping[str, Sequence[Link]]) -> list[list[str]]:
    """The layers, sorted into those that are tied to each other by shared groups."""
    chains: list[tuple[set[str], list[str]]] = []
    for layer, of_layer in links.items():
        groups, layers = {name for link in of_layer for name in (link.reader, link.feeder)}, [layer]
        for chain in [chain for chain in chains if chain[0] & groups]:
            chains.remove(chain)
            groups, layers = chain[0] | groups, chain[1] + layers
        chains.append((groups, layers))
    return [layers for _, layers in chains]


def _spread(inventory: Inventory, layer: str, axis: Axis, labels: Mapping[str, Labels]) -> Labels:
    """The part of every output or input of a layer, from those of its units."""
    spread = np.zeros(inventory.layer[layer].weight_shape[0 if axis == "out" else 1], dtype=np.intp)
    for group, member in _members(inventory, layer, axis):
        for part, unit in zip(labels[group], member.units, strict=True):
            spread[list(unit)] = part
    return spread
