"""Axes of channels that modules take apart: which factor gives way, and which numbers in modules follow."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import nn

from paretune.compress.labels import Atoms, Ints, Split, components
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


def settings(
    followers: Sequence[Follower], groups: Sequence[tuple[Ints, Ints]], roots: Ints
) -> list[tuple[Setting, ...]]:
    """By group how numbers in modules follow its units; one that does not do so evenly is left out.

    `groups` are by channel the atom that stands for it, negative for none, and its unit; no atom is in two of them.
    `roots` is by atom the one that stands for it.
    """
    owner, unit = np.full((2, len(roots)), -1)
    for number, (atoms, units) in enumerate(groups):
        held = atoms >= 0
        owner[atoms[held]], unit[atoms[held]] = number, units[held]
    found: list[dict[Setting, None]] = [{} for _ in groups]
    for follower in followers:
        lined = follower.lined[:, 0]
        lined = roots[lined[lined >= 0]]
        lined = lined[owner[lined] >= 0]
        for number in np.unique(owner[lined]).tolist():
            counts = np.bincount(unit[lined[owner[lined] == number]], minlength=int(groups[number][1].max()) + 1)
            if len(set(counts.tolist())) == 1:
                each = int(counts[0]) * follower.times
                found[number][Setting(module=follower.module, name=follower.name, per_unit=each)] = None
    return [tuple(each) for each in found]


def _ways(book: Atoms, split: Split, module: nn.Module) -> Iterator[Way]:
    factors = range(split.atoms.ndim - 1)
    stand = book.standing(split.atoms)
    order = sorted(factors, key=lambda axis: (-_freedom(stand, axis), -axis))
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


def _freedom(stand: Ints, free: int) -> int:
    """How many parts can leave one by one if only the factor `free` gives way; `stand` are the atoms that stand for
    those of a split."""
    known, atoms = np.unique(stand, return_inverse=True)
    lined = atoms.reshape(stand.shape).swapaxes(0, free).reshape(stand.shape[free], -1, stand.shape[-1])
    one, two = np.broadcast_arrays(lined[:, :1], lined)
    return int(components(one.ravel(), two.ravel(), len(known)).max()) + 1
