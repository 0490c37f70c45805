"""How the sizes in a trace follow the channels: worked out, then checked by real cuts."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from paretune.compress.cut import cut
from paretune.compress.lifetimes import figures, layer_of
from paretune.compress.trace import Op, Trace
from paretune.inventory import Inventory

Shares = dict[str, int]  # numbers that leave with one unit, by group
Gone = Mapping[str, int]  # units that are gone, by group
Seeing = Callable[[nn.Module, Tensor], Trace | None]


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What a figure loses with one unit of each group, by its place; for those in `wrong` there is no such number."""

    shares: tuple[Shares, ...]
    wrong: frozenset[int]


def followed(model: nn.Module, example: Tensor, inventory: Inventory, trace: Trace, see: Seeing) -> Followed:
    """What every figure of `trace` loses with the channels, checked on two cuts of all groups at once.

    What was worked out wrong is measured with one group cut at a time, and checked again; ordinary networks never come
    to that. A figure that still disagrees stays as it is in the dense model. `see` traces one forward; it gives None if
    that cannot be recorded, or if time is up.
    """
    dense, shares = figures(inventory, trace), _worked_out(inventory, trace)
    if not inventory.groups:
        return Followed(shares=tuple(shares), wrong=frozenset())
    chance = random.Random(0)
    probes = [_probe(model, example, inventory, trace, see, _kept(inventory, chance)) for _ in range(2)]
    if any(seen is None for _, seen in probes):
        return Followed(shares=({},) * len(dense), wrong=frozenset(range(len(dense))))
    checks = [(gone, seen) for gone, seen in probes if seen is not None]
    wrong = _disagreeing(dense, shares, checks)
    if wrong:
        _measure(model, example, inventory, trace, see, shares, wrong)
        wrong = _disagreeing(dense, shares, checks)
    for figure in wrong:
        shares[figure] = {}
    return Followed(shares=tuple(shares), wrong=frozenset(wrong))


def _kept(inventory: Inventory, chance: random.Random) -> dict[str, tuple[int, ...]]:
    """Random units of every group, at least one gone and two kept: an axis of size one needs fewer copies in memory,
    so that with one head an attention would run other operations. Of two units one is kept."""
    return {
        group.name: tuple(
            sorted(chance.sample(range(group.channels), chance.randint(min(2, group.channels - 1), group.channels - 1)))
        )
        for group in inventory.groups
    }


def _probe(
    model: nn.Module, example: Tensor, inventory: Inventory, trace: Trace, see: Seeing, kept: dict[str, tuple[int, ...]]
) -> tuple[Gone, list[int] | None]:
    """How many units are gone and the figures then, or None if the cut model runs other operations."""
    seen = see(cut(model, inventory, kept), example)
    gone = {name: inventory.group[name].channels - len(units) for name, units in kept.items()}
    return gone, figures(inventory, seen) if seen is not None and _alike(seen, trace) else None


def _alike(one: Trace, two: Trace) -> bool:
    def shape(trace: Trace) -> list[tuple[object, ...]]:
        return [(op.name, op.place, [n for n, _ in op.reads], op.writes, op.over, len(op.parts)) for op in trace.ops]

    return len(one.sizes) == len(two.sizes) and shape(one) == shape(two)


def _disagreeing(dense: list[int], shares: Sequence[Shares], probes: list[tuple[Gone, list[int]]]) -> set[int]:
    return {
        figure
        for gone, seen in probes
        for figure, (whole, share, left) in enumerate(zip(dense, shares, seen, strict=True))
        if whole - sum(each * gone[group] for group, each in share.items()) != left
    }


def _measure(
    model: nn.Module, example: Tensor, inventory: Inventory, trace: Trace, see: Seeing,
    shares: list[Shares], wrong: set[int],
) -> None:  # fmt: skip
    """Puts what half of the units of every group take with them into `shares`, for the figures in `wrong`."""
    dense = figures(inventory, trace)
    for figure in wrong:
        shares[figure] = {}
    for group in inventory.groups:
        kept = {group.name: tuple(range(group.channels - group.channels // 2))}
        gone, seen = _probe(model, example, inventory, trace, see, kept)
        for figure in wrong if seen else ():
            each = (dense[figure] - seen[figure]) // gone[group.name] if seen else 0
            if each:
                shares[figure][group.name] = each


def _worked_out(inventory: Inventory, trace: Trace) -> list[Shares]:
    """By the kind of every operation; the dimensions of products are taken to be constant."""
    shares: list[Shares] = [{} for _ in figures(inventory, trace)]
    for op in trace.ops:
        for number in op.writes:
            shares[number] = _share(inventory, trace, shares, op, number)
    return shares


def _share(inventory: Inventory, trace: Trace, shares: list[Shares], op: Op, number: int) -> Shares:
    size, before = trace.sizes[number], dict(op.over).get(number)
    if before is not None:
        return shares[before]
    if layer := layer_of(inventory, op):
        return _made_by(inventory, layer, size)
    if op.parts:
        return {}
    # the share of a view, then that of what is made of it
    views = [
        (seen, {g: each * seen // trace.sizes[read] for g, each in shares[read].items()}) for read, seen in op.reads
    ]
    if op.name in ("cat", "stack") and sum(seen for seen, _ in views) == size:
        total: Shares = {}
        for _, share in views:
            for group, each in share.items():
                total[group] = total.get(group, 0) + each
        return total
    same = [share for seen, share in views if seen == size]
    if same:
        return next(filter(None, same), {})
    seen, share = max(((seen, share) for seen, share in views if share), key=lambda view: view[0], default=(1, {}))
    return {group: each * size // seen for group, each in share.items() if each * size // seen}


def _made_by(inventory: Inventory, layer: str, size: int) -> Shares:
    """A unit that takes several output channels takes all their numbers."""
    channels = inventory.layer[layer].weight_shape[0]
    return {
        group: min(map(len, member.units)) * (size // channels)
        for group, member in inventory.cuts[layer]
        if member.axis == "out"
    }
