"""What `paretune inspect` says of a network: per layer and in total, for a plan, on one piece of hardware."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from paretune.compress.narrow import narrow
from paretune.costs.bill import Paid, paid, splits_of
from paretune.costs.counts import row_bops, row_bytes, row_effective_macs
from paretune.costs.finn import Resources, floats, resources_of
from paretune.costs.folding import Folding, fold, runs, too_slow
from paretune.costs.hardware import Hardware
from paretune.costs.partition import Split
from paretune.costs.table import costs_for, costs_of, source_on
from paretune.frozen import HEADER_BYTES
from paretune.inventory import Inventory
from paretune.plan import DENSE, FLOAT
from paretune.profile import Row, profile
from paretune.records import to_plain
from paretune.search.asked import asked_plan


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """One layer or product of activations after the plan, and what it costs.

    `shape` is that of its output for one sample, () if nobody watched. `groups` are (group, "in" or "out"), `share` is
    of all MACs. `folding` is that of an engine of its own, None where layers share one; `needs` what a FINN engine for
    it takes, None on other hardware.
    """

    row: Row
    paid: Paid
    shape: tuple[int, ...]
    groups: tuple[tuple[str, str], ...]
    share: float
    folding: Folding | None
    needs: Resources | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """Everything there is to say; `lines` are in order of execution, `left_out` is by cost what it does not count.

    `dense` holds the costs of the network as it is, on the same hardware. `kept` counts the units that stay, of the
    groups that lose some. `slow` names the layers that miss its
    `target_cycles`, `misfits` those in float on an engine for integers. `bits` are of the network's input, by the
    layer that reads it. `splits` hold K accelerators next to one for every partitioned layer.
    """

    name: str
    inventory: Inventory
    hardware: Hardware
    asked: Mapping[str, Any]
    lines: tuple[Line, ...]
    totals: Mapping[str, float]
    dense: Mapping[str, float]
    left_out: Mapping[str, tuple[str, ...]]
    kept: Mapping[str, int]
    slow: tuple[str, ...]
    misfits: tuple[str, ...]
    splits: tuple[Split, ...]
    bits: Mapping[str, int]

    @property
    def utilisation(self) -> float:
        """The share of multiplier-cycles that do a MAC over one sample, in [0, 1].

        Layers with engines of their own all wait for the slowest; else the layers take turns.
        """
        works = [(line.paid.work, line.folding) for line in self.lines if line.paid.work.cycles]
        lanes = [own.pe * own.simd if own else 1 for _, own in works]
        busy = sum(each * work.cycles * work.utilisation for each, (work, _) in zip(lanes, works, strict=True))
        if self.hardware.target_cycles is not None:
            return busy / (sum(lanes) * max((work.cycles for work, _ in works), default=1) or 1)
        return busy / (sum(work.cycles for work, _ in works) or 1)

    @property
    def peak(self) -> str:
        """The layer at which most activations are in memory, "" if nobody watched."""
        worst = max(self.lines, key=lambda line: line.row.alive_bytes, default=None)
        return worst.row.name if worst and worst.row.alive_bytes else ""


def inspect(name: str, inventory: Inventory, asked: Mapping[str, Any], hardware: Hardware) -> Inspection:
    """The costs of what `asked` makes of a network: the `plan` section, see `paretune.search.asked.asked_plan`.

    Nothing is built, trained or run. Where training decides how many numbers become zero, sizes are upper bounds.

    Raises:
        ParetuneError: settings that are unknown or out of range, or a file that holds no plan.
        ImpossiblePlan: a plan that does not fit the network.
    """
    plan, finn = asked_plan(asked, inventory), hardware.engine == "finn"
    rows, left = profile(inventory, plan), narrow(inventory, plan.kept)
    macs = sum(row.macs for row in rows) or 1
    bits = {layer: plan.bits[layer].activation_bits if layer in plan.bits else FLOAT for layer in _entries(inventory)}
    return Inspection(
        name=name,
        inventory=inventory,
        hardware=hardware,
        asked=asked,
        lines=tuple(_line(row, left, hardware, macs) for row in rows),
        totals=costs_of(inventory, plan, hardware),
        dense=costs_of(inventory, DENSE, hardware),
        left_out={cost: one.uncounted(rows, inventory) for cost, one in costs_for(hardware).items()},
        kept={group: len(units) for group, units in plan.kept.items()},
        slow=too_slow(rows, hardware) if finn else (),
        misfits=floats(rows) if finn else (),
        splits=splits_of(rows, hardware),
        bits=bits,
    )


def _entries(inventory: Inventory) -> list[str]:
    return [layer.name for layer in inventory.weighted if layer.name in inventory.entries]


def _line(row: Row, left: Inventory, hardware: Hardware, macs: int) -> Line:
    finn, found, layer = hardware.engine == "finn", paid(row, hardware), left.layer.get(row.name)
    return Line(
        row=row,
        paid=found,
        shape=layer.output_shape if layer else (row.groups, row.positions, row.filters),
        groups=tuple((group, member.axis) for group, member in left.cuts.get(row.name, ())),
        share=row.macs / macs,
        folding=fold(row, hardware) if finn and hardware.target_cycles is not None and runs(row) else None,
        needs=resources_of(row, hardware) if finn else None,
    )


# How a cost comes of what `layers` says, on hardware that all layers share.
ADDED: Mapping[str, tuple[str, str]] = {
    "params": ("params", "sum"), "nonzeros": ("nonzeros", "sum"),
    "size_bytes": ("bytes", f"sum, and {HEADER_BYTES} of header"), "activation_bytes": ("alive_bytes", "largest"),
    "macs": ("macs", "sum"), "effective_macs": ("effective_macs", "sum"), "bops": ("bops", "sum"),
    "energy_pj": ("energy_pj", "sum"), "energy_relative": ("energy_relative", "sum"), "cycles": ("cycles", "sum"),
    "luts": ("luts", "largest"), "dsps": ("dsps", "largest"), "brams": ("brams", "sum"),
}  # fmt: skip
PIPELINED: Mapping[str, str] = {"cycles": "largest", "luts": "sum", "dsps": "sum"}  # with an engine per layer


def as_plain(found: Inspection) -> dict[str, Any]:
    """The inspection as one JSON object: exact numbers, in the units that `definitions` gives.

    `definitions[cost].layers` says how the cost comes of a key of `layers`: as their sum or the largest.
    """
    return {
        "model": found.name,
        "input_shape": list(found.inventory.input_shape),
        "input_bits": dict(found.bits),
        "hardware": to_plain(found.hardware),
        "plan": to_plain(dict(found.asked)),
        "totals": dict(found.totals),
        "dense": dict(found.dense),
        "utilisation": found.utilisation,
        "peak_layer": found.peak,
        "layers": [_plain_line(line) for line in found.lines],
        "uncounted": {cost: list(left) for cost, left in found.left_out.items()},
        "misses_target_cycles": list(found.slow),
        "float_on_integers": list(found.misfits),
        "partitions": [_plain_split(split) for split in found.splits],
        "definitions": _definitions(found.hardware),
        "inventory": to_plain(found.inventory),
    }


def _plain_line(line: Line) -> dict[str, Any]:
    row, work = line.row, line.paid.work
    return {
        "name": row.name, "kind": row.kind, "weight_shape": list(row.weight_shape), "output_shape": list(line.shape),
        "params": row.params, "nonzeros": row.params - row.weights + row.nonzeros, "macs": row.macs,
        "effective_macs": row_effective_macs(row), "share_of_macs": line.share, "weight_bits": row.weight_bits,
        "activation_bits": row.activation_bits, "pattern": row.pattern, "bytes": row_bytes(row), "bops": row_bops(row),
        "energy_pj": line.paid.energy_pj, "energy_relative": line.paid.energy_relative, "cycles": work.cycles,
        "passes": work.passes, "utilisation": work.utilisation, "alive_bytes": row.alive_bytes,
        "folding": {"pe": line.folding.pe, "simd": line.folding.simd} if line.folding else None,
        "energy": asdict(line.paid.spent), **(asdict(line.needs) if line.needs else {}),
        "groups": [{"group": group, "axis": axis} for group, axis in line.groups],
    }  # fmt: skip


def _plain_split(split: Split) -> dict[str, Any]:
    gains = ("pruning_speedup", "parallel_speedup", "speedup", "energy_gain")
    return {**asdict(split), **{name: getattr(split, name) for name in gains}}


def _definitions(hardware: Hardware) -> dict[str, dict[str, str]]:
    found = {}
    for name, cost in costs_for(hardware).items():
        key, how = ADDED.get(name, ("", "not told by layer"))
        how = PIPELINED.get(name, how) if hardware.target_cycles is not None else how
        found[name] = {
            "unit": cost.objective.unit, "definition": cost.objective.definition,
            "direction": cost.direction, "source": source_on(name, hardware),
            "layers": f"{key}: {how}" if key else how,
        }  # fmt: skip
    return found
