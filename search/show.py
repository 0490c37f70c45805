"""`paretune inspect`: what a model is made of and what it costs as it is."""

import json
from math import prod
from pathlib import Path

from rich.console import Console
from rich.table import Table

from paretune.costs.table import COSTS, static_costs
from paretune.inventory import Inventory
from paretune.plan import DENSE, FLOAT
from paretune.profile import profile
from paretune.records import to_plain
from paretune.search.bench import lay_out
from paretune.tasks.task import Task


def show(task: Task, *, as_json: bool) -> None:
    """Print the layers, groups and dense costs of `task` on standard output."""
    inventory = lay_out(task).inventory
    costs = static_costs(profile(inventory, DENSE))
    if as_json:
        units = {name: to_plain(cost.objective) for name, cost in COSTS.items()}
        plain = {"task": task.name, "inventory": to_plain(inventory), "costs": costs, "definitions": units}
        print(json.dumps(plain, indent=1))
        return
    console = Console()
    console.print(_layers(inventory))
    console.print(_groups(inventory))
    for name, why in inventory.whole.items():
        console.print(f"left whole: {name} ({why})", highlight=False)
    for name, value in costs.items():
        unit, text = COSTS[name].objective.unit, COSTS[name].objective.definition
        console.print(f"{name:<12}{value:>16,.0f} {unit:<15} {text}", highlight=False)


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


def _layers(inventory: Inventory) -> Table:
    table = Table("layer", "kind", "weight", "output", title="Layers in order of execution")
    for title in ("params", "MACs", "share of MACs"):
        table.add_column(title, justify="right")
    table.add_column("cut by groups")
    rows = profile(inventory, DENSE)
    total = sum(row.macs for row in rows) or 1
    for layer, row in zip(inventory.layers, rows, strict=True):
        cut_by = ", ".join(f"{group} ({member.axis})" for group, member in inventory.cuts[layer.name])
        shape = "×".join(map(str, layer.weight_shape))
        output = "×".join(map(str, layer.output_shape))
        table.add_row(layer.name, layer.kind, shape, output, f"{row.params:,}", f"{row.macs:,}",
                      f"{row.macs / total:.1%}" if row.macs else "", cut_by)  # fmt: skip
    return table


def _groups(inventory: Inventory) -> Table:
    table = Table("group", title="Channel groups: what can be removed together")
    table.add_column("channels", justify="right")
    table.add_column("weights touched", justify="right")
    table.add_column("members")
    for group in inventory.groups:
        layers = {member.layer for member in group.members}
        touched = sum(prod(inventory.layer[name].weight_shape) for name in layers)
        table.add_row(group.name, str(group.channels), f"{touched:,}", ", ".join(m.layer for m in group.producers))
    return table
