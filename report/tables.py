"""A study as two tables anyone can open: every trial, and the front."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd

from paretune.files import write_text
from paretune.findings import Findings, Trial
from paretune.inventory import Inventory
from paretune.plan import LayerPlan, Plan
from paretune.report.hypervolume import hypervolumes
from paretune.report.masked import masked
from paretune.report.stages import stage_names, total_seconds

FIRST = ("trial", "kind", "label", "status", "reason", "notes", "same_as", "of", "feasible", "on_front")
WHOLE = ("same_as", "of", "seeds", "weight_bits", "activation_bits")


def trials_table(findings: Findings) -> pd.DataFrame:
    """One row per trial, in order of number; columns end with the times, the only ones that vary between runs.

    `hypervolume` is the normalised one after that trial, `score_epoch_<n>` the quality after n epochs of
    recovery, `param:<name>` what the sampler chose and `seconds_<stage>` where the time went.
    """
    names = sorted({name for trial in findings.trials for name in trial.params})
    extra = [{f"param:{name}": trial.params.get(name) for name in names} for trial in findings.trials]
    return _frame(findings, findings.trials, extra, [f"param:{name}" for name in names])


def front_table(findings: Findings) -> pd.DataFrame:
    """The front, best quality first: what was found and, instead of what was chosen, the plan it became.

    `kept:<group>` is the share of channels that stay, `weight_bits:<layer>` and `activation_bits:<layer>`
    the stored bits (32 is float). Where layers are masked, `pattern:<layer>` and `weights_kept:<layer>` say how.
    `<quality>_mean` and `<quality>_std` (sample standard deviation, empty under one seed) are over `seeds` seeds.
    """
    inventory = findings.inventory
    names = [f"{findings.names[0]}_mean", f"{findings.names[0]}_std", "seeds"]
    names += [f"kept:{group.name}" for group in inventory.groups]
    names += [f"{kind}_bits:{layer.name}" for kind in ("weight", "activation") for layer in inventory.weighted]
    masks = [name for trial in findings.front for name in masked(inventory, trial.plan)]
    names += [f"{kind}:{name}" for kind in ("pattern", "weights_kept") for name in dict.fromkeys(masks)]
    extra = [_seed_cells(findings, trial) | _plan_cells(inventory, trial.plan) for trial in findings.front]
    return _frame(findings, findings.front, extra, names)


def write_tables(findings: Findings, folder: Path) -> None:
    """`trials.csv` and `front.csv` in `folder`, each whole or not there."""
    for name, table in (("trials.csv", trials_table(findings)), ("front.csv", front_table(findings))):
        write_text(folder / name, table.to_csv(index=False, lineterminator="\n"))


def _frame(
    findings: Findings, trials: Sequence[Trial], extra: Sequence[dict[str, Any]], names: Sequence[str]
) -> pd.DataFrame:
    """The columns every table has, with those called `names` between what was found and the times."""
    everyone = findings.trials
    values = sorted({name for trial in everyone for name in trial.values} - set(findings.names))
    epochs = sorted({rung.epochs for trial in everyone for rung in trial.rungs})
    columns = [*FIRST, *findings.names, *values, "hypervolume", *(f"score_epoch_{epoch}" for epoch in epochs)]
    columns += [*names, "plan_key", *(f"seconds_{stage}" for stage in stage_names(everyone)), "seconds_total"]
    curve = dict(zip((trial.number for trial in everyone), hypervolumes(findings), strict=True))
    front = {trial.number for trial in findings.front}
    rows = [
        _cells(trial) | {"hypervolume": curve[trial.number], "on_front": trial.number in front} | more
        for trial, more in zip(trials, extra, strict=True)
    ]
    # Cell by cell as Python objects: a choice stays 4, not 4.0, though some trials did not make it.
    table = pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in columns})
    numbers = [name for name in (*findings.names, *values, "hypervolume") if name in table]
    numbers += [name for name in columns if name.startswith(("score_epoch_", "seconds_", "kept:", "weights_kept:"))]
    numbers += [name for name in names if name in (f"{findings.names[0]}_mean", f"{findings.names[0]}_std")]
    whole = [name for name in columns if name.split(":")[0] in WHOLE]
    kinds = {"trial": "int64", "feasible": "bool", "on_front": "bool"}
    return table.astype(kinds | dict.fromkeys(numbers, "float64") | dict.fromkeys(whole, "Int64"))


def _cells(trial: Trial) -> dict[str, Any]:
    found = {name: getattr(trial, name) for name in FIRST[1:-1]}
    found |= {"trial": trial.number, "notes": "; ".join(trial.notes)}
    scores = {f"score_epoch_{rung.epochs}": rung.score for rung in trial.rungs}
    seconds = {f"seconds_{stage}": value for stage, value in trial.seconds.items()}
    key = trial.plan.key if trial.plan else ""
    return found | trial.values | scores | {"plan_key": key} | seconds | {"seconds_total": total_seconds(trial)}


def _seed_cells(findings: Findings, trial: Trial) -> dict[str, Any]:
    scores, quality = findings.scores(trial), findings.names[0]
    apart = stdev(scores) if len(scores) > 1 else None
    return {f"{quality}_mean": mean(scores), f"{quality}_std": apart, "seeds": len(scores)}


def _plan_cells(inventory: Inventory, plan: Plan | None) -> dict[str, Any]:
    if plan is None:
        return {}
    cells: dict[str, Any] = {f"kept:{group.name}": plan.kept_share(inventory, group.name) for group in inventory.groups}
    for layer in inventory.weighted:
        row = plan.bits.get(layer.name, LayerPlan(layer=layer.name))
        cells[f"weight_bits:{layer.name}"] = row.weight_bits
        cells[f"activation_bits:{layer.name}"] = row.activation_bits
    for name, (kind, share) in masked(inventory, plan).items():
        cells |= {f"pattern:{name}": kind, f"weights_kept:{name}": share}
    return cells
