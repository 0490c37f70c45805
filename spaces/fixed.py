"""The `plan` section of `paretune inspect`: one plan in a few words, with nothing to search and no weights to rank."""

from collections.abc import Callable, Mapping, Sequence
from math import floor
from typing import Any

from paretune.errors import ImpossiblePlan, ParetuneError
from paretune.inventory import Inventory
from paretune.plan import FLOAT, GroupPlan, LayerPlan, Pattern, Plan
from paretune.profile import cut_shape
from paretune.recipe import SPARSE, Wanted
from paretune.spaces.language import Rows, bits, claim, known, names_behind, pattern_name, sparsity, whole_bits
from paretune.spaces.leaf import Check
from paretune.spaces.sections import ratio

Masked = Callable[[Wanted, tuple[int, ...]], Pattern | None]
Kept = Mapping[str, tuple[int, ...]]

MASK_KEYS = ("pattern", "sparsity", "block", "parts")
LAYER_KEYS = ("match", "weight_bits", "activation_bits", *MASK_KEYS)
GROUP_KEYS = ("match", "ratio")
BETWEEN = "that takes a linear layer whose inputs and outputs are in groups"
KEYS = ("weight_bits", "activation_bits", "input_bits", "ratio", *MASK_KEYS, "layers", "groups")


def _count(value: Any) -> str:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return "" if good else "a whole number, 1 or more, is needed"


def _weight_bits(value: Any) -> str:
    return "" if value == "ternary" else bits(value) if not isinstance(value, float) else bits(None)


CHECKS: Mapping[str, Check] = {
    "weight_bits": _weight_bits, "activation_bits": whole_bits, "input_bits": whole_bits, "ratio": ratio,
    "pattern": pattern_name, "sparsity": sparsity, "block": _count, "parts": _count,
}  # fmt: skip


def fixed_plan(asked: Mapping[str, Any], inventory: Inventory, masked: Masked) -> Plan:
    """The plan that a few settings describe, explicit for every layer and group that they change.

    `weight_bits` and `activation_bits` are 1 to 8 or 32 (float), weights also "ternary" (2). `input_bits` are those of
    the layers that read the network's input, whatever a row says; without it they are as of any layer. `ratio` is the
    share removed of every group: the count is rounded, a half upwards, the first units stay and at least one does.
    `pattern` with `sparsity`, `block` and `parts` masks every weight ("partition": every linear layer between groups);
    a `sparsity` alone is "unstructured". Rows of `layers` and `groups` override by wildcard, the first match wins.
    `masked` makes the pattern of a weight of a shape, None if it leaves all of it.

    Raises:
        ParetuneError: an unknown key, a value out of range, a row that matches nothing, settings without effect.
        ImpossiblePlan: a pattern that does not fit a layer.
    """
    known("plan", asked, (*KEYS, "file"))
    _check("plan", asked)
    kept = _kept(asked, inventory)
    plans = (_layer(row, name, inventory, kept, masked) for name, row in _settings(asked, inventory).items())
    layers = tuple(plan for plan in plans if plan != LayerPlan(layer=plan.layer))
    if asked.get("pattern") == "partition" and not any(layer.pattern for layer in layers):
        raise ParetuneError("plan.pattern: no layer can be partitioned; " + BETWEEN)
    return Plan(groups=tuple(GroupPlan(group=name, kept=units) for name, units in kept.items()), layers=layers)


def _check(where: str, given: Mapping[str, Any]) -> None:
    for key, check in CHECKS.items():
        if key in given and (problem := check(given[key])):
            raise ParetuneError(f"{where}.{key}: {problem}, got {given[key]!r}")


def _rows(where: str, rows: Any, rest: Mapping[str, Any], names: Sequence[str], inventory: Inventory) -> Rows:
    """The rows of `where`, with a last one for all names that they leave."""
    layers = where == "plan.layers"
    listed = isinstance(rows, Sequence) and not isinstance(rows, str)
    found = claim(
        where,
        [*rows, {**rest, "match": "*"}] if listed else rows,
        LAYER_KEYS if layers else GROUP_KEYS,
        names,
        names_behind(inventory) if layers else {},
    )
    for row, _ in found:
        _check(where, row)
    return found


def _kept(asked: Mapping[str, Any], inventory: Inventory) -> Kept:
    """The units that stay, of the groups that lose some."""
    names, share = [group.name for group in inventory.groups], asked.get("ratio", 0.0)
    if not names and (share or asked.get("groups")):
        raise ParetuneError("plan.ratio: the model has no channel groups, so no channel can leave; leave it out")
    rows = _rows("plan.groups", asked.get("groups", ()), {"ratio": share}, names, inventory)
    counts = {name: _left(inventory.group[name].channels, row["ratio"]) for row, hits in rows for name in hits}
    return {name: tuple(range(counts[name])) for name in names if counts[name] < inventory.group[name].channels}


def _left(channels: int, share: float) -> int:
    # Free of binary noise: 45 × 0.7 is 31.5, not 31.499999999999996.
    return max(1, channels - floor(round(channels * share, 9) + 0.5))


def _settings(asked: Mapping[str, Any], inventory: Inventory) -> dict[str, dict[str, Any]]:
    """What holds for every layer with weights, in order of execution; "everywhere" if its pattern is that of all."""
    names = [layer.name for layer in inventory.weighted]
    given = {key: asked[key] for key in LAYER_KEYS if key in asked}
    shared = {"weight_bits": FLOAT, "activation_bits": FLOAT, **given}
    found: dict[str, dict[str, Any]] = {}
    for row, hits in _rows("plan.layers", asked.get("layers", ()), shared, names, inventory):
        above = {
            key: value for key, value in shared.items() if key != "sparsity" or row.get("pattern") in (None, *SPARSE)
        }
        found |= {name: {"everywhere": row.get("pattern") == asked.get("pattern"), **above, **row} for name in hits}
    for name in inventory.entries & set(names) if "input_bits" in asked else ():
        found[name]["activation_bits"] = asked["input_bits"]
    for key, kind in (("block", "pe_block"), ("parts", "partition")):
        if key in asked and not any(row.get("pattern") == kind for row in found.values()):
            raise ParetuneError(f"plan.{key} is read by the pattern '{kind}' only, and no layer has it")
    return {name: found[name] for name in names}


def _layer(row: Mapping[str, Any], name: str, inventory: Inventory, kept: Kept, masked: Masked) -> LayerPlan:
    wide = row["weight_bits"]
    return LayerPlan(
        layer=name,
        weight_bits=2 if wide == "ternary" else wide,
        activation_bits=row["activation_bits"],
        pattern=_pattern(row, name, inventory, kept, masked),
    )


def _pattern(row: Mapping[str, Any], name: str, inventory: Inventory, kept: Kept, masked: Masked) -> Pattern | None:
    kind = row.get("pattern", "unstructured" if row.get("sparsity") else "channel")
    if kind in SPARSE and "sparsity" not in row:
        raise ParetuneError(f"plan.pattern: '{kind}' needs plan.sparsity, the share of weights removed, such as 0.5")
    if kind not in SPARSE and row.get("sparsity"):
        raise ParetuneError(f"plan.sparsity: '{kind}' does not read it; use {' or '.join(SPARSE)}, or leave it out")
    if kind == "partition" and not _between(inventory, name):
        if row["everywhere"]:
            return None
        raise ImpossiblePlan(f"plan.layers: '{name}' cannot be partitioned; {BETWEEN}")
    numbers = {key: row[key] for key in ("sparsity", "block", "parts") if key in row}
    try:
        return masked(Wanted(kind=kind, **numbers), cut_shape(inventory, inventory.layer[name], kept))
    except ParetuneError as error:
        raise type(error)(f"plan.pattern of layer '{name}': {error}") from error


def _between(inventory: Inventory, name: str) -> bool:
    """True if a layer is linear and both its inputs and its outputs are in groups."""
    axes = {member.axis for _, member in inventory.cuts[name]}
    return inventory.layer[name].kind == "linear" and axes == {"in", "out"}
