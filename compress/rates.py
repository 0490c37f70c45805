"""How many units of every group stay: a table of rules from a rate to counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from paretune.compress.binary import bisect_widths
from paretune.compress.target import meet
from paretune.curve import Curve
from paretune.errors import ImpossiblePlan, pick
from paretune.inventory import Inventory
from paretune.recipe import Keep, Rate

Array = NDArray[np.float64]
Kept = Mapping[str, tuple[int, ...]]  # of every group that is cut: the units that stay, ascending
Counts = Mapping[str, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """What a rule may ask about the model.

    `units` are the scores of every group's units, higher stays. `ratios` are the shares that `per_layer`
    removes. `cost(name, kept)` is a static cost of the model cut to `kept`, with the bits that are asked for, and
    `dense(name)` that of the dense model: uncut and in float. `curves(criterion)` is the measured curve of every group
    and `judge(kept)` the error on `val` of the cut model with fresh batch-norm statistics, untrained.
    """

    inventory: Inventory
    units: Mapping[str, Array]
    ratios: Mapping[str, float]
    keep: Keep
    cost: Callable[[str, Kept], float]
    dense: Callable[[str], float]
    curves: Callable[[str], Mapping[str, Curve]]
    judge: Callable[[Kept], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """How many units of every group stay; `notes` say what a rule decided on its own."""

    counts: dict[str, int]
    notes: tuple[str, ...] = ()


Rule = Callable[[Rate, Ground], Answer]


def kept_count(channels: int, ratio: float) -> int:
    """How many of `channels` stay when the share `ratio` in [0, 1) is removed: rounded, never below one."""
    return max(1, channels - removed_count(channels, ratio))


def removed_count(channels: int, ratio: float) -> int:
    """`channels` × `ratio`, rounded half up."""
    gone = round(channels * ratio, 9)  # free of binary noise: 45 × 0.7 is 31.5, not 31.499999999999996
    return int(np.floor(gone + 0.5))


def apply_keep(count: int, channels: int, keep: Keep) -> int:
    """`count` of `channels`, put where `keep` allows it.

    A group that loses nothing keeps all its channels, multiple or not. Else the nearest multiple (half up), at least
    one and not below the minimum; all channels stay where that is not below them.
    """
    if count >= channels:
        return channels
    least = -(-max(keep.minimum, 1) // keep.multiple)
    return min(channels, keep.multiple * max(least, int(np.floor(count / keep.multiple + 0.5))))


def allowed_counts(channels: int, keep: Keep) -> tuple[int, ...]:
    """Every width that `keep` allows for a group, ascending to `channels`."""
    return tuple(sorted({apply_keep(count, channels, keep) for count in range(1, channels + 1)}))


def choose_units(scores: Array, count: int) -> tuple[int, ...]:
    """The `count` best-scored units, ascending; ties keep the unit that comes first."""
    return tuple(sorted(int(unit) for unit in np.argsort(-scores, kind="stable")[:count]))


def kept_units(counts: Counts, units: Mapping[str, Array]) -> Kept:
    """The units that stay at `counts`; groups that lose nothing are left out."""
    return {group: choose_units(units[group], count) for group, count in counts.items() if count < len(units[group])}


def uniform(rate: Rate, ground: Ground) -> Answer:
    """The share `rate.ratio` of every group leaves."""
    return _by_ratio({group.name: rate.ratio for group in ground.inventory.groups}, ground)


def per_layer(_: Rate, ground: Ground) -> Answer:
    """Every group loses its own share, the one in `ground.ratios`."""
    return _by_ratio(ground.ratios, ground)


def _by_ratio(ratios: Mapping[str, float], ground: Ground) -> Answer:
    groups = ground.inventory.groups
    counts = {group.name: kept_count(group.channels, ratios[group.name]) for group in groups}
    return Answer(counts=_apply(counts, ground))


def _apply(counts: Counts, ground: Ground) -> dict[str, int]:
    return {
        name: apply_keep(count, ground.inventory.group[name].channels, ground.keep) for name, count in counts.items()
    }


def one_threshold(rate: Rate, ground: Ground) -> Answer:
    """The share `rate.ratio` of the units of all groups leaves: those that score lowest, wherever they are.

    So that groups compare, scores are first divided by the mean (absolute) score of their group, and then by what
    removing one unit of the group saves in MACs, relative to the mean group, to the power `rate.cost_power`:
    dear units leave first. The total is exact, unless the keep rules stop it: the best `keep.minimum` units of a
    group never leave, and counts are moved to multiples afterwards. Ties keep the unit that comes first.
    Blends that are normalised by rank spread alike in every group, so with them this rule comes close to `uniform`.
    """
    groups = ground.inventory.groups
    discount = _unit_costs(ground) ** rate.cost_power if rate.cost_power else np.ones(len(groups))
    pool: list[tuple[float, int, str]] = []
    for group, dear in zip(groups, discount, strict=True):
        scores = np.sort(ground.units[group.name] / (np.abs(ground.units[group.name]).mean() or 1.0))
        # A score below zero says that the unit harms, and the more it costs the sooner it should leave.
        fair = np.where(scores > 0, scores / dear, scores * dear)[: max(0, group.channels - ground.keep.minimum)]
        pool += [(score, -len(pool) - place, group.name) for place, score in enumerate(fair.tolist())]
    wanted = removed_count(sum(group.channels for group in groups), rate.ratio)
    counts = {group.name: group.channels for group in groups}
    for _, _, name in sorted(pool)[:wanted]:
        counts[name] -= 1
    short = wanted - len(pool)
    note = f"global: {short} of {wanted} units stay because every group keeps {ground.keep.minimum}"
    return Answer(counts=_apply(counts, ground), notes=(note,) if short > 0 else ())


def _unit_costs(ground: Ground) -> Array:
    """MACs that removing one unit of each group saves, relative to the mean; never zero."""
    whole = ground.cost("macs", {})
    saved = [
        whole - ground.cost("macs", {group.name: tuple(range(group.channels - 1))}) if group.channels > 1 else 1.0
        for group in ground.inventory.groups
    ]
    costs = np.maximum(np.array(saved, dtype=np.float64), 1.0)
    return costs / costs.mean() if len(costs) else costs


def knee(rate: Rate, ground: Ground) -> Answer:
    """Every group loses the share at the knee of its own curve; see `paretune.compress.knee`.

    Layers that are coupled are one group and one curve; should a group have several, the smallest share counts.
    Where channels leave in multiples the count is rounded up, so that what the guard promised holds.

    Raises:
        ImpossiblePlan: no group has a knee, or the model is no better than chance before it is cut.
    """
    from paretune.compress.knee import is_flat, knee_of  # that module measures with this one's functions

    curves = ground.curves(rate.by).values()
    if curves and all(is_flat(curve) for curve in curves):
        raise ImpossiblePlan("no group has a knee, as every curve is flat: use another rate.rule")
    knees = [knee_of(curve, rate.sensitivity, rate.scale, rate.drop) for curve in curves]
    counts = {}
    for group in ground.inventory.groups:
        ratio = min(found.ratio for found in knees if found.group == group.name)
        asked = kept_count(group.channels, ratio)
        counts[group.name] = next(n for n in allowed_counts(group.channels, ground.keep) if n >= asked)
    return Answer(counts=counts, notes=tuple(found.note for found in knees if found.note))


def binary(rate: Rate, ground: Ground) -> Answer:
    """Widths bisected front to back within `rate.tolerance` per pass; see `paretune.compress.binary.bisect_widths`."""
    found = bisect_widths(
        _allowed(ground),
        lambda counts: ground.judge(kept_units(counts, ground.units)),
        tolerance=rate.tolerance,
        step=rate.step,
        passes=rate.passes,
    )
    note = (
        f"binary: error {found.before:.4g} to {found.after:.4g} in {found.passes} of {rate.passes} passes "
        f"and {found.evaluations} evaluations"
    )
    return Answer(counts=found.counts, notes=(note,))


def target(rate: Rate, ground: Ground) -> Answer:
    """The shares of rule `rate.of`, scaled by one factor until cost `rate.cost` is `rate.share` of the dense model's.

    The dense model is uncut and in float, so fewer bits go towards the share; where they are enough, nothing is
    removed. See `paretune.compress.target.meet`; under "uniform" all groups lose the same share, whatever `rate.ratio`
    says.

    Raises:
        ImpossiblePlan: the goal is out of reach, or widths are too coarse to land within 1 % of it.
        UnknownName: `rate.of` is no other rule.
    """
    base, notes = _base_ratios(rate, ground)
    counts, met = meet(
        rate.cost,
        rate.share,
        base,
        _allowed(ground),
        lambda counts: ground.cost(rate.cost, kept_units(counts, ground.units)),
        ground.dense(rate.cost),
    )
    alone = met < 1 and not kept_units(counts, ground.units)
    note = f"target {rate.cost} {rate.share:g}: {met:.4g} of dense{', by bits alone' if alone else ''}"
    return Answer(counts=counts, notes=(*notes, note))


def _base_ratios(rate: Rate, ground: Ground) -> tuple[Mapping[str, float], tuple[str, ...]]:
    rule = pick(
        {name: rule for name, rule in RATES.items() if name != "target"}, rate.of, "rule that a target can scale"
    )
    if rule is uniform:
        return {group.name: 1.0 for group in ground.inventory.groups}, ()
    if rule is per_layer:
        return ground.ratios, ()
    answer = rule(rate, replace(ground, keep=Keep()))  # rounding to multiples comes once, at the end
    channels = {group.name: group.channels for group in ground.inventory.groups}
    return {name: 1 - count / channels[name] for name, count in answer.counts.items()}, answer.notes


def _allowed(ground: Ground) -> dict[str, Sequence[int]]:
    return {group.name: allowed_counts(group.channels, ground.keep) for group in ground.inventory.groups}


RATES: Mapping[str, Rule] = {
    "uniform": uniform,
    "per_layer": per_layer,
    "global": one_threshold,
    "knee": knee,
    "binary": binary,
    "target": target,
}
