"""`paretune inspect` and `paretune export` on the screen: what a network costs, and how a file stores it."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from paretune.costs.hardware import Hardware
from paretune.costs.table import COSTS
from paretune.inventory import Inventory
from paretune.plan import FLOAT
from paretune.report.text import human
from paretune.search.inspect import Inspection, as_plain, inspect
from paretune.search.layer_table import layer_cells

PIPED = 220  # columns where no terminal says how many it has
ROOMY = 130  # columns that the totals need to stand beside their definitions
MANY = 8  # names of one kind that are listed one by one


def show(name: str, inventory: Inventory, asked: Mapping[str, Any], hardware: Hardware, *, as_json: bool) -> None:
    """Print what a network costs under the plan that `asked` describes, as tables or as one JSON object.

    Raises:
        ParetuneError: as in `paretune.search.inspect.inspect`.
    """
    found = inspect(name, inventory, asked, hardware)
    if as_json:
        print(json.dumps(as_plain(found), indent=1))
        return
    console = _console()
    console.print(_header(found), highlight=False, markup=False, soft_wrap=not console.is_terminal)
    console.print(_layers(found, console.width))
    roomy = console.width >= ROOMY
    console.print(_totals(found, roomy))
    for line in [*([] if roomy else _definitions(found)), *_facts(found), *_left_out(found), *_whole(found)]:
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)
    for table in (_splits(found), _groups(found)):
        if table.row_count:
            console.print(table)


def show_storage(folder: Path) -> None:
    """Print how an exported folder stores each layer: encoding, bytes, and bits per weight."""
    rows = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["storage"]
    table = Table(title="How the weights are stored, in bytes", box=None)
    for title in ("layer", "bits", "encoding"):
        table.add_column(title, overflow="fold", no_wrap=title != "layer")
    for title in ("weights", "nonzero", "packed", "in file", "bits each"):
        table.add_column(title, justify="right")
    for row in rows:
        bits = "float" if row["weight_bits"] == FLOAT else str(row["weight_bits"])
        numbers = (row["weights"], row["nonzeros"], row["raw"], row["stored"])
        each = f"{8 * row['stored'] / row['weights']:.2f}"
        table.add_row(row["layer"], bits, row["encoding"], *(f"{number:,}" for number in numbers), each)
    total = [sum(row[key] for row in rows) for key in ("weights", "nonzeros", "raw", "stored")]
    table.add_row("all", "", "", *(f"{number:,}" for number in total), f"{8 * total[3] / total[0]:.2f}", style="bold")
    Console().print(table)


def _console() -> Console:
    """Standard output; as wide as the table likes to be where it goes into a file or a pipe."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=PIPED)


def _header(found: Inspection) -> str:
    shape, on = "×".join(map(str, found.inventory.input_shape)), found.hardware
    parts = [found.name, f"input {shape}", f"hardware {on.name}{f' ({on.note})' if on.note else ''}"]
    parts.append("plan " + (", ".join(f"{k}={v}" for k, v in found.asked.items()) or "none: the dense network"))
    return "; ".join(parts)


def _layers(found: Inspection, width: int) -> Table:
    cells = layer_cells(found, width)
    table = Table(
        title="Layers in order of execution; groups of inputs → of outputs", box=None, padding=(0, 1), pad_edge=False
    )
    for column in cells.columns:
        table.add_column(
            column.title, justify="right" if column.number else "left", no_wrap=not column.folds,
            overflow="fold",
        )  # fmt: skip
    for row in cells.rows:
        table.add_row(*row, style="bold" if row is cells.rows[-1] else None)
    if cells.dropped:
        table.caption = f"no room for: {', '.join(cells.dropped)} (format=json has them)"
    return table


def _totals(found: Inspection, roomy: bool) -> Table:
    """One line per cost; next to the dense network if there is a plan."""
    table = Table(title="In total, for one sample", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("cost", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    if found.asked:
        table.add_column("dense", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    if roomy:
        table.add_column("what it is", overflow="fold")
    for name, value in found.totals.items():
        goal, dense = COSTS[name].objective, found.dense[name]
        beside = (_exact(dense), _change(dense, value)) if found.asked else ()
        table.add_row(name, _exact(value), goal.unit, *beside, *([goal.definition] if roomy else []))
    return table


def _definitions(found: Inspection) -> list[str]:
    return [f"{name}: {COSTS[name].objective.definition}" for name in found.totals]


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or float(value).is_integer() else f"{value:.4g}"


def _change(dense: float, value: float) -> str:
    if dense == value:
        return "the same"
    if not dense or not value:
        return ""
    return f"{dense / value:.2f}× smaller" if value < dense else f"{value / dense:.2f}× larger"


def _facts(found: Inspection) -> list[str]:
    """What a number alone does not say, one sentence each."""
    bits = Counter(found.bits.values())
    reads = "; ".join(f"{wide} bits, read by {_some([n for n, b in found.bits.items() if b == wide])}" for wide in bits)
    lines = [f"network input: {reads}"] if reads else []
    lines.append(f"utilisation: {found.utilisation:.1%} of multiplier-cycles do a MAC")
    lines += _energy(found) + _memory(found) + _largest(found)
    if floats := _floats(found):
        lines.append(floats)
    if found.slow:
        lines.append(f"misses target_cycles={found.hardware.target_cycles} however it is folded: {_some(found.slow)}")
    if found.misfits:
        lines.append(f"float on an engine for integers, counted as 32-bit integers: {_some(found.misfits)}")
    if any(line.row.weight_bits < FLOAT and line.row.codes is None for line in found.lines):
        lines.append("sizes are upper bounds: zeros that training leaves in the codes can make the file smaller")
    return lines


def _floats(found: Inspection) -> str:
    """How much stays float beside quantized layers, which the plan's bits alone do not tell."""
    left = [line for line in found.lines if line.row.macs and FLOAT in (line.row.weight_bits, line.row.activation_bits)]
    share = sum(line.row.macs for line in left) / (sum(line.row.macs for line in found.lines) or 1)
    if not left or share == 1:
        return ""
    return f"float on one side or both: {share:.1%} of the MACs, in {_some([line.row.name for line in left])}"


def _energy(found: Inspection) -> list[str]:
    total = found.totals["energy_pj"]
    if not total:
        return []
    parts = {
        where: sum(getattr(line.paid.spent, where) for line in found.lines) / total
        for where in ("operations", "register", "buffer", "dram")
    }
    return [f"energy goes to: {', '.join(f'{where} {share:.1%}' for where, share in parts.items())}"]


def _memory(found: Inspection) -> list[str]:
    if not found.peak:
        return []
    buffer = found.hardware.buffer_bytes
    spilled = [line.row.name for line in found.lines if line.row.macs and line.row.alive_bytes > buffer]
    peak = human(found.totals["activation_bytes"], "bytes")
    more = f"{_some(spilled)} with more go to DRAM" if spilled else "no layer has to go to DRAM"
    return [f"peak of activations: {peak} at {found.peak}; the buffer holds {human(buffer, 'bytes')}: {more}"]


def _largest(found: Inspection) -> list[str]:
    """The layer that takes most of each of four costs: where to look first."""
    amounts: Mapping[str, Callable[[Any], float]] = {
        "MACs": lambda line: line.row.macs, "parameters": lambda line: line.row.params,
        "energy": lambda line: line.paid.energy_pj, "cycles": lambda line: line.paid.work.cycles,
    }  # fmt: skip
    told = []
    for what, amount in amounts.items():
        total = sum(map(amount, found.lines))
        if total:
            most = max(found.lines, key=amount)
            told.append(f"{what} {most.row.name} ({amount(most) / total:.1%})")
    return [f"largest share of: {', '.join(told)}"] if told else []


def _left_out(found: Inspection) -> list[str]:
    """What is not counted; costs that leave out the same share a line."""
    costs: dict[tuple[str, ...], list[str]] = {}
    for cost, missing in found.left_out.items():
        if missing:
            costs.setdefault(missing, []).append(cost)
    return [f"not counted in {', '.join(names)}: {'; '.join(missing)}" for missing, names in costs.items()]


def _whole(found: Inspection) -> list[str]:
    whole, unsure = found.inventory.whole, found.inventory.unsure
    lines = [f"unsure: {_some(unsure)}"] if unsure else []
    if len(whole) <= MANY:
        return lines + [f"left whole: {name} ({why})" for name, why in whole.items()]
    reasons: dict[str, list[str]] = {}
    for name, why in whole.items():
        reasons.setdefault(why, []).append(name)
    return lines + [f"left whole: {_some(names)} ({why})" for why, names in reasons.items()]


def _some(names: Sequence[str]) -> str:
    """Up to three names, and how many there are."""
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} layers ({', '.join(names[:3])}, …)"


def _splits(found: Inspection) -> Table:
    """K accelerators next to one, for the partitioned layers."""
    table = Table(title="Partitioned layers: blocks on several accelerators, next to the dense layer on one", box=None)
    table.add_column("layer", overflow="fold", min_width=10)
    cycles, gains = ("cycles dense", "blocks on one", "on several"), ("by pruning", "by parallelism", "speed-up")
    for title in ("parts", "devices", *cycles, *gains, "energy"):
        table.add_column(title, justify="right")
    for one in found.splits:
        run = (one.dense_cycles, one.serial_cycles, one.parallel_cycles)
        won = (one.pruning_speedup, one.parallel_speedup, one.speedup)
        numbers = (*(f"{number:,}" for number in run), *(f"{gain:.2f}×" for gain in won))
        table.add_row(one.name, str(one.parts), str(one.accelerators), *numbers, f"{one.energy_gain:.2f}× less")
    return table


def _groups(found: Inspection) -> Table:
    inventory = found.inventory
    table = Table(title="Channel groups: what can be removed together", box=None)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("group", overflow="fold")
    table.add_column("channels", justify="right", no_wrap=True)
    table.add_column("weights touched", justify="right", no_wrap=True)
    table.add_column("members", overflow="fold")
    for number, group in enumerate(inventory.groups, 1):
        layers = {member.layer for member in group.members}
        touched = sum(prod(inventory.layer[name].weight_shape) for name in layers)
        left = found.kept.get(group.name, group.channels)
        count = f"{left} of {group.channels}" if left < group.channels else str(group.channels)
        table.add_row(str(number), group.name, count, f"{touched:,}", ", ".join(m.layer for m in group.producers))
    return table
