"""Where the output channels of layers sit in a tensor, and which of them can only leave together."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ints = NDArray[np.int64]
LOOSE = ""  # no reason to stay: it follows the channels that it meets
PADDED = "its channels are padded with constants"
LARGEST = 1 << 23  # numbers in one field; channels that fill more stay whole


class Field(NamedTuple):
    """Channels along some axes of a tensor: `atoms` has the tensor's rank and size 1 on all axes but those in `spans`.

    An atom is one output channel of one layer. A negative number is a position that no layer fills.
    """

    atoms: Ints
    spans: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is known of one tensor. `fixed` says why an axis without channels keeps its size; a negative number."""

    shape: tuple[int, ...]
    fields: tuple[Field, ...] = ()
    fixed: int


@dataclass(frozen=True, kw_only=True)
class Split:
    """An axis of channels that a module takes apart, such as heads × width; `atoms` has one axis per factor."""

    atoms: Ints
    module: str


@dataclass
class Atoms:
    """All channels by number: which ones are tied, which ones cannot leave and why, which axes were split."""

    parent: list[int] = field(default_factory=list)
    stuck: dict[int, str] = field(default_factory=dict)  # in the order it was found
    reasons: list[str] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)

    def fresh(self, count: int) -> Ints:
        """Numbers for so many new channels."""
        first = len(self.parent)
        self.parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def fixed(self, reason: str) -> int:
        """The negative number that stands for `reason`."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return -1 - self.reasons.index(reason)

    def find(self, atom: int) -> int:
        """The one that stands for all that are tied to `atom`."""
        parent = self.parent
        while parent[atom] != atom:
            parent[atom] = atom = parent[parent[atom]]
        return atom

    def roots(self) -> Ints:
        """By atom the one that stands for all that are tied to it."""
        parent = np.array(self.parent, dtype=np.int64)
        while (parent != (further := parent[parent])).any():
            parent = further
        return parent

    def standing(self, atoms: Ints) -> Ints:
        """Position by position the one that stands for all that are tied to it, -1 where there is none."""
        known, at = np.unique(atoms, return_inverse=True)
        stand = [self.find(atom) if atom >= 0 else -1 for atom in known.tolist()]
        return np.array(stand, dtype=np.int64)[at].reshape(atoms.shape)

    def tie(self, one: Ints, two: Ints) -> None:
        """Position by position, with broadcasting: what lies there leaves together."""
        one, two = np.broadcast_arrays(one, two)
        differ = one != two
        if not differ.any():
            return
        for a, b in _pairs(one[differ], two[differ]):
            if a >= 0 and b >= 0:
                first, second = self.find(a), self.find(b)
                self.parent[max(first, second)] = min(first, second)
            elif max(a, b) >= 0 and (reason := self.reasons[-1 - min(a, b)]) != LOOSE:
                self.stuck.setdefault(max(a, b), reason)

    def stick(self, atoms: Ints, reason: str) -> None:
        """They cannot leave; the first reason stays."""
        for atom in np.unique(atoms).tolist():
            if atom >= 0:
                self.stuck.setdefault(atom, reason)

    def touch(self, given: Field, axes: Iterable[int], reason: str) -> None:
        """Something mixes all positions along `axes`: what lies there leaves together, or if that is all, never."""
        hit = given.spans & set(axes)
        if hit == given.spans:
            self.stick(given.atoms, reason)
            return
        for axis in sorted(hit):
            self.tie(given.atoms, given.atoms.take([0], axis))

    def without(self, given: Field, axes: Iterable[int], reason: str) -> Field | None:
        """`given` after something has mixed all positions along `axes`, or None if nothing is left."""
        hit = given.spans & set(axes)
        if not hit:
            return given
        self.touch(given, hit, reason)
        return first(given, hit)

    def classes(self, atoms: Ints) -> int:
        """How many of them can leave one by one."""
        return len({self.find(atom) if atom >= 0 else atom for atom in np.unique(atoms).tolist()})


def _pairs(one: Ints, two: Ints) -> Iterator[tuple[int, int]]:
    """Every pair once."""
    low, span = min(one.min(), two.min()), two.max() - min(one.min(), two.min()) + 1
    codes = np.unique((one - low) * span + (two - low))
    return zip((codes // span + low).tolist(), (codes % span + low).tolist(), strict=True)


def components(ones: Ints, others: Ints, nodes: int) -> Ints:
    """By node the number of the set that it is in; `ones` and `others` are in the same set pair by pair."""
    graph = coo_array((np.ones(len(ones), dtype=np.int8), (ones, others)), shape=(nodes, nodes))
    _, found = connected_components(graph, directed=False)
    return np.asarray(found, dtype=np.int64)


def first(given: Field, axes: Iterable[int]) -> Field | None:
    """`given` at position 0 of `axes`, or None if it has no others."""
    spans, atoms = given.spans - set(axes), given.atoms
    for axis in axes:
        atoms = atoms.take([0], axis)
    return Field(atoms, frozenset(spans)) if spans else None


def along(rank: int, axis: int, atoms: Ints) -> Field:
    """`atoms` along one axis of a tensor of that rank."""
    return Field(atoms.reshape([-1 if at == axis else 1 for at in range(rank)]), frozenset([axis]))


def moved(given: Field, order: Sequence[int]) -> Field:
    """After a permutation: the new axis i is the old axis `order[i]`."""
    return Field(given.atoms.transpose(order), frozenset(new for new, old in enumerate(order) if old in given.spans))


def blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[range, range]]:
    """The shortest runs of axes of two shapes that hold the same numbers, in order."""
    i = j = 0
    while i < len(old) or j < len(new):
        start, begin = i, j
        p = old[i] if i < len(old) else 1
        q = new[j] if j < len(new) else 1
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while p != q:
            if p < q:
                p, i = p * old[i], i + 1
            else:
                q, j = q * new[j], j + 1
        yield range(start, i), range(begin, j)


def reshaped(given: Field, old: Sequence[int], new: Sequence[int]) -> tuple[Field | None, list[Ints]] | None:
    """`given` after a reshape, and the axes of channels that it took apart; None if that takes too many numbers."""
    full, target = list(given.atoms.shape), [1] * len(new)
    runs = [(before, after) for before, after in blocks(old, new) if given.spans & set(before)]
    for before, after in runs:
        for axis in before:
            full[axis] = old[axis]
        for axis in after:
            target[axis] = new[axis]
    if prod(full) > LARGEST:
        return None
    atoms = np.broadcast_to(given.atoms, full).reshape(target)
    spans: set[int] = set()
    apart = []
    for before, after in runs:
        varied = [axis for axis in after if (len(before), len(after)) == (1, 1) or _varies(atoms, axis)]
        stay = set(varied or sorted(after, key=lambda axis: new[axis])[-1:])
        for axis in set(after) - stay:
            atoms = atoms.take([0], axis)
        spans |= stay
        apart += [varied] if len(varied) > 1 else []
    return (Field(atoms, frozenset(spans)) if spans else None), [_factors(atoms, axes) for axes in apart]


def _varies(atoms: Ints, axis: int) -> bool:
    return atoms.shape[axis] > 1 and bool((atoms != atoms.take([0], axis)).any())


def _factors(atoms: Ints, axes: list[int]) -> Ints:
    """The axes in front, whatever else varies behind them as one more."""
    rest = [axis for axis in range(atoms.ndim) if axis not in axes]
    lined = atoms.transpose([*axes, *rest])
    return lined.reshape(*lined.shape[: len(axes)], -1)


def merged(book: Atoms, given: Sequence[Labels], shape: Sequence[int]) -> tuple[Field, ...]:
    """The channels in a tensor of `shape` whose every position is made of the same position of all in `given`.

    Positions that meet leave together. Shapes broadcast as PyTorch's do.
    """
    lined = [_lined(labels, shape) for labels in given]
    found: list[Field] = []
    for group in _overlapping([item for fields in lined for item in fields]):
        common = frozenset.intersection(*(item.spans for item in group))
        biggest = max(group, key=lambda item: len(item.spans))
        if any(not item.spans <= biggest.spans for item in group):
            for item in group:
                book.touch(item, item.spans - common, "its channels meet others in a way that cannot be followed")
            biggest = next((kept for item in group if (kept := first(item, item.spans - common))), biggest)
        for labels, fields in zip(given, lined, strict=True):
            _meet(book, biggest, labels, fields, shape)
        found.append(biggest)
    return tuple(found)


def _meet(book: Atoms, base: Field, labels: Labels, fields: list[Field], shape: Sequence[int]) -> None:
    own = [item for item in fields if item.spans & base.spans]
    spanned: set[int] = set().union(*(item.spans for item in own)) if own else set()
    sizes = [1] * (len(shape) - len(labels.shape)) + list(labels.shape)
    stiff = {axis for axis in base.spans - spanned if sizes[axis] == shape[axis] > 1}
    padded = book.fixed(PADDED)
    for item in own:
        if item is not base and ((item.atoms == padded).any() != (base.atoms == padded).any()):
            book.stick(base.atoms, PADDED)
            book.stick(item.atoms, PADDED)
        if item.spans <= base.spans:
            book.tie(base.atoms, item.atoms)
    if stiff:
        book.touch(base, stiff, book.reasons[-1 - labels.fixed])


def _lined(labels: Labels, shape: Sequence[int]) -> list[Field]:
    """The fields with the rank of `shape`; an axis that broadcasts carries no channels."""
    more = len(shape) - len(labels.shape)
    found = []
    for item in labels.fields:
        atoms = item.atoms.reshape([1] * more + list(item.atoms.shape))
        spans = frozenset(axis + more for axis in item.spans)
        wide = [axis for axis in spans if labels.shape[axis - more] == 1 < shape[axis]]
        kept = first(Field(atoms, spans), wide)
        found += [kept] if kept else []
    return found


def _overlapping(fields: list[Field]) -> list[list[Field]]:
    groups: list[list[Field]] = []
    for item in fields:
        hit = [group for group in groups if any(item.spans & other.spans for other in group)]
        groups = [group for group in groups if not any(group is one for one in hit)]
        groups.append([other for group in hit for other in group] + [item])
    return groups


def sliced(given: Field, axis: int, index: Any) -> Field:
    """The positions `index` (a slice or list) of one axis, if there are channels on it."""
    if axis not in given.spans:
        return given
    return Field(given.atoms[(slice(None),) * axis + (index,)], given.spans)
