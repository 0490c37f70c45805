"""Axes of channels that modules take apart: which factor gives way, and which numbers in modules follow."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import nn

from paretune.compress.labels import Atoms, Ints, Split
from paretune.inventory import Setting

WIDTHS = ("attn", "attention", "inner", "all_head")  # in names of numbers that count the channels of all heads


@dataclass(frozen=True, kw_only=True, eq=False)
class Follower:
    """The attribute `name` of `module` counts the positions of `lined` (the factor that gives way, everything else),
    or `times` as many."""

    module: str
    name: str
    times: int
    lined: Ints


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to read a split: the factor `free` loses positions, the others stay, and `followers` go along."""

    free: int
    followers: tuple[Follower, ...]


def settle(book: Atoms, model: nn.Module, tries: Mapping[int, int]) -> tuple[list[Follower], dict[int, int]]:
    """Ties the channels of every split as its module needs it. By number of a split, `tries` says how many readings to
    pass over.

    Of two factors that one gives way which leaves more freedom; if they are equal, the last. Returns the numbers in
    modules that follow, and how many readings each split has.
    """
    modules = dict(model.named_modules())
    followers: list[Follower] = []
    counts: dict[int, int] = {}
    for number, split in enumerate(book.splits):
        if (split.atoms < 0).all():
            continue
        ways = list(_ways(book, split, modules[split.module]))
        counts[number] = len(ways)
        way = ways[min(tries.get(number, 0), len(ways) - 1)]
        for axis in range(split.atoms.ndim - 1):
            if axis != way.free:
                book.tie(split.atoms, split.atoms.take([0], axis))
        followers += way.followers
    return followers, counts


def setting(follower: Follower, roots: Mapping[int, set[int]], unit: Sequence[int], book: Atoms) -> Setting | None:
    """How a number in a module follows the units of a group; None if it has none of its channels, or not evenly.

    `roots` are the group's channels by the atom that stands for them, `unit` is the unit of every channel.
    """
    owner = [roots.get(book.find(atom)) if atom >= 0 else None for atom in follower.lined[:, 0].tolist()]
    counts = Counter(unit[min(channels)] for channels in owner if channels)
    each = set(counts.values())
    if len(counts) != max(unit) + 1 or len(each) != 1:
        return None
    return Setting(module=follower.module, name=follower.name, per_unit=each.pop() * follower.times)


def _ways(book: Atoms, split: Split, module: nn.Module) -> Iterator[Way]:
    factors = range(split.atoms.ndim - 1)
    order = sorted(factors, key=lambda axis: (-_freedom(book, split.atoms, axis), -axis))
    for free in order:
        lined = split.atoms.swapaxes(0, free)
        lined = lined.reshape(len(lined), -1)
        named = _named(split, free, lined, module)
        yield from (Way(free=free, followers=found) for found in _distinct(named))


def _distinct(named: Sequence[Follower]) -> list[tuple[Follower, ...]]:
    """By name first if any is called after heads, then none, then whatever has that value."""
    heads = tuple(one for one in named if (one.times == 1 and "head" in one.name) or _wide(one))
    plain = tuple(one for one in named if one.times == 1)
    order = [heads, ()] if any(one.times == 1 for one in heads) else [()]
    return list(dict.fromkeys([*order, plain]))


def _wide(one: Follower) -> bool:
    return one.times > 1 and any(part in one.name for part in WIDTHS)


def _named(split: Split, free: int, lined: Ints, module: nn.Module) -> list[Follower]:
    """Attributes of the module that may count what gives way."""
    size = len(lined)
    others = [length for axis, length in enumerate(split.atoms.shape[:-1]) if axis != free]
    products = {math.prod(some) for count in range(len(others) + 1) for some in combinations(others, count)}
    return [
        Follower(module=split.module, name=name, times=value // size, lined=lined)
        for name, value in vars(module).items()
        if type(value) is int and size > 1 and value % size == 0 and value // size in products
    ]


def _freedom(book: Atoms, atoms: Ints, free: int) -> int:
    """How many parts can leave one by one if only the factor `free` gives way."""
    lined = atoms.swapaxes(0, free).reshape(atoms.shape[free], -1, atoms.shape[-1])
    parent: dict[int, int] = {}

    def find(atom: int) -> int:
        while parent.setdefault(atom, atom) != atom:
            atom = parent[atom]
        return atom

    for row in lined:
        for column in row.T:
            roots = {book.find(atom) if atom >= 0 else -1 for atom in column.tolist()}
            head, *rest = (find(root) for root in roots)
            for root in rest:
                parent[find(root)] = find(head)
    return len({find(atom) for atom in parent})
