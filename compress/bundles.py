"""Which channels of coupled layers leave together, and at which indices of the layers' weights they lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from paretune.compress.channels import Followed, Place
from paretune.compress.labels import Ints, components
from paretune.inventory import Axis, Layer, Member

NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Spots:
    """Pair by pair an index along one weight axis and the atom that stands for what lies there."""

    index: Ints
    atom: Ints


@dataclass(frozen=True, kw_only=True, eq=False)
class Traced:
    """What is known of one producer's channels: the atom that stands for each of them, negative for none, and where
    they lie. `reason` is why they cannot leave, or empty."""

    name: str
    atoms: Ints
    places: Mapping[Place, Spots]
    reason: str


class Lying:
    """Where everything lies that was followed, by the atom that stands for it."""

    def __init__(self, followed: Followed) -> None:
        self.roots = followed.book.roots()
        self.places = list(followed.places)
        rows = [(number, row) for number, place in enumerate(self.places) for row in followed.places[place]]
        known = [row >= 0 for _, row in rows]
        number = [np.full(int(held.sum()), at) for held, (at, _) in zip(known, rows, strict=True)]
        atom = self.roots[_joined([row[held] for held, (_, row) in zip(known, rows, strict=True)])]
        order = atom.argsort(kind="stable")
        self._atom, self._place = atom[order], _joined(number)[order]
        self._index = _joined([np.flatnonzero(held) for held in known])[order]

    def of(self, atoms: Ints) -> dict[Place, Spots]:
        """The places of everything that `atoms` stand for, in the order in which they come up."""
        _, firsts = np.unique(atoms, return_index=True)
        atoms = atoms[np.sort(firsts)]
        ends = zip(self._atom.searchsorted(atoms), self._atom.searchsorted(atoms, "right"), strict=True)
        found = _joined([np.arange(start, end) for start, end in ends])
        numbers, seen = np.unique(self._place[found], return_index=True)
        hits = ((number, found[self._place[found] == number]) for number in numbers[seen.argsort()])
        return {self.places[number]: Spots(index=self._index[hit], atom=self._atom[hit]) for number, hit in hits}


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate([NONE, *parts])


def bundled(traced: Traced, table: Mapping[str, Layer]) -> tuple[Ints, list[Member]]:
    """The unit of every channel, and the members of their group in order of the layers in `table`.

    Channels that share an index somewhere, or a place in the conv groups of a grouped convolution, are one unit.
    """
    classes = np.unique(traced.atoms[traced.atoms >= 0])
    unit, of_class = _units(traced, table, classes)
    members = []
    for (name, axis), spots in traced.places.items():
        own = of_class[classes.searchsorted(spots.atom)]
        members.append(
            Member(layer=name, axis=axis, units=_indices(table[name], axis, spots, own, int(unit.max()) + 1))
        )
    order = {name: position for position, name in enumerate(table)}
    members.sort(key=lambda member: (order[member.layer], member.axis == "out"))
    return unit, members


def _units(traced: Traced, table: Mapping[str, Layer], classes: Ints) -> tuple[Ints, Ints]:
    """The units of the channels, numbered by their first channel, and those of the atoms that stand for them."""
    channels = len(traced.atoms)
    held = np.flatnonzero(traced.atoms >= 0)
    ones, others, nodes = [held], [channels + classes.searchsorted(traced.atoms[held])], channels + len(classes)
    for (name, axis), spots in traced.places.items():
        local = _local(spots.index, table[name], axis)
        ones.append(channels + classes.searchsorted(spots.atom))
        others.append(nodes + local)
        nodes += int(local.max(initial=-1)) + 1
    found = components(_joined(ones), _joined(others), nodes)
    _, firsts, unit = np.unique(found[:channels], return_index=True, return_inverse=True)
    rank = np.empty(len(firsts), dtype=np.int64)
    rank[firsts.argsort()] = np.arange(len(firsts))
    number = np.zeros(int(found.max(initial=-1)) + 1, dtype=np.int64)
    number[found[:channels]] = rank[unit]
    return rank[unit], number[found[channels : channels + len(classes)]]


def _local(index: Ints, layer: Layer, axis: Axis) -> Ints:
    """The indices inside one conv group; a plain layer has one conv group, a depthwise one drops them."""
    if layer.groups == 1 or layer.depthwise:
        return index
    return index % (layer.weight_shape[1] if axis == "in" else layer.weight_shape[0] // layer.groups)


def _indices(layer: Layer, axis: Axis, spots: Spots, unit: Ints, units: int) -> tuple[tuple[int, ...], ...]:
    """By unit the indices along the weight's axis, ascending."""
    place = spots.index % layer.weight_shape[1] if axis == "in" else spots.index
    size = int(place.max(initial=0)) + 1
    pairs = np.unique(unit * size + place)
    values, ends = (pairs % size).tolist(), (pairs // size).searchsorted(np.arange(units + 1)).tolist()
    return tuple(tuple(values[start:end]) for start, end in pairwise(ends))


def part_of_a_grouped_input(traced: list[Traced], layers: tuple[Layer, ...]) -> dict[str, str]:
    """Why groups stay whole whose channels meet others' in the input of a grouped convolution.

    Every conv group must lose the same number of channels, which would tie the groups to each other.
    """
    reasons: dict[str, str] = {}
    for layer in layers:
        if layer.groups == 1 or layer.depthwise:
            continue
        spots = {item.name: item.places[layer.name, "in"].index for item in traced if (layer.name, "in") in item.places}
        owners = {name: len(np.unique(index)) for name, index in spots.items() if len(index)}
        width = layer.weight_shape[1] * layer.groups
        if len(owners) > 1 or any(count < width for count in owners.values()):
            reasons.update(dict.fromkeys(owners, f"only part of what the grouped convolution '{layer.name}' reads"))
    return reasons
