"""What can be told before anything is written: names, reach of the space, and what makes a study the same study."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from paretune.compress.criteria import Scores
from paretune.compress.planning import plan_of
from paretune.conf.settings import InventorySettings, Settings
from paretune.costs.counts import least_bytes
from paretune.costs.hardware import Hardware
from paretune.costs.table import CODED, COSTS, MASKED, costs_for
from paretune.errors import ParetuneError, near_miss, pick
from paretune.export.graph import check_exportable
from paretune.findings import Objective
from paretune.plan import FLOAT, Plan
from paretune.profile import profile
from paretune.recipe import Blend, Masking, Recipe
from paretune.records import to_plain
from paretune.samplers.table import SAMPLERS
from paretune.search.bench import TRACED, Bench
from paretune.search.sense import check_sense
from paretune.spaces.space import Space
from paretune.tasks.task import Task

LATENCY = Objective(
    name="latency_ms", unit="ms",
    definition="measured: median of one sample in onnxruntime on the machine of the study; varies from run to run",
)  # fmt: skip
EXAMPLES = {"finn": "fpga_pe16"}  # hardware with the engine
MOVABLE = ("root", "path", "weights", "workers", "download", "limit_bytes", "corrupt")  # no number depends on them


def check_names(settings: Settings, task: Task, hardware: Hardware | None = None) -> tuple[Objective, ...]:
    """The objectives by name, quality first.

    Raises:
        ParetuneError: an unknown objective, cost or sampler, a quality objective that is not first, a budget that is
            not above 0.
    """
    there = costs_for(hardware)
    known = {task.quality.name: task.quality} | {name: cost.objective for name, cost in there.items()}
    if settings.latency.study:
        known["latency_ms"] = LATENCY
    elif "latency_ms" in settings.objectives:
        raise ParetuneError("objectives: latency_ms is measured in every trial; switch that on with latency.study=true")
    for name in (*settings.objectives, *settings.limits):
        if name in COSTS and name not in there:
            raise ParetuneError(f"'{name}' {_elsewhere(name, hardware)}")
    objectives = tuple(pick(known, name, "objective") for name in settings.objectives)
    if settings.objectives[0] != task.quality.name:
        raise ParetuneError(f"objectives: the first must be the task's quality, '{task.quality.name}'")
    pick(SAMPLERS, settings.sampler, "sampler")
    for name, limit in settings.limits.items():
        if name not in there:
            raise ParetuneError(f"budget: '{name}' is no cost that is known before training.{near_miss(name, there)}")
        if limit <= 0:
            raise ParetuneError(f"budget.{name} must be above 0, got {limit:g}")
    return objectives


def _elsewhere(name: str, hardware: Hardware | None) -> str:
    """Why a known cost cannot be told here, and what would help."""
    if hardware is None:
        return "depends on the hardware; name one, such as hardware=edge_npu"
    if COSTS[name].engine:
        engine = COSTS[name].engine
        return (
            f"is known of the engine '{engine}', such as hardware={EXAMPLES[engine]}, and hardware={hardware.name} has "
            f"'{hardware.engine}'"
        )
    return f"is not told of hardware={hardware.name} with target_cycles, where layers run side by side; take cycles"


def check_reach(settings: Settings, space: Space, bench: Bench) -> None:
    """Refuse what no trial could do.

    Raises:
        ParetuneError: a name that no table holds, settings without effect, or a budget below the smallest reachable
        value.
    """
    check_sense(space, bench)
    if not bench.inventory.steps and "activation_bytes" in (*settings.objectives, *settings.limits):
        raise ParetuneError(f"activation_bytes is not known of this network: {'; '.join(bench.inventory.unsure)}")
    smallest = space.smallest()
    if not settings.limits or smallest.joint is not None:
        return
    plan = _smallest_plan(space, smallest, bench)
    reached = bench.costs(plan)
    # How small codes get is known once they are trained; scales, biases and the header stay.
    coded = any(layer.weight_bits < FLOAT for layer in plan.layers)
    if coded:
        reached["size_bytes"] = least_bytes(profile(bench.inventory, plan))
    for name, limit in settings.limits.items():
        loose = (name in MASKED and space.kinds) or (name in CODED and coded and name != "size_bytes")
        if _moody(name, bench.hardware):
            continue
        if reached[name] > limit and not loose:
            raise ParetuneError(f"budget.{name}={limit:g} cannot be met: the space reaches {reached[name]:g} at least")


def _smallest_plan(space: Space, smallest: Recipe, bench: Bench) -> Plan:
    """A plan without masks whose costs no trial without masks can go below."""
    inventory = bench.inventory
    even = space.rules if space.rules in (("uniform",), ("per_layer",)) else ()
    # Any other rule may take everything but the minimum.
    rate = replace(smallest.rate, rule="uniform", ratio=0.999) if not even else replace(smallest.rate, rule=even[0])
    units = {group.name: np.zeros((1, group.channels)) for group in inventory.groups}
    blends = dict.fromkeys(smallest.blends, Blend(criteria=("flat",)))
    # The cheapest encoding is no larger than any that the space names, and one of those may need a pattern.
    recipe = replace(smallest, rate=rate, blends=blends, wanted={}, masking=Masking(), encodings={})
    return plan_of(recipe, inventory, Scores(units={"flat": units}, weights={})).plan


def _moody(name: str, hardware: Hardware | None) -> bool:
    """True for costs that a smaller plan may raise: fewer channels have fewer divisors to fold by, and fewer bits move
    multiplications from DSP blocks to LUTs.
    """
    folded = hardware is not None and hardware.target_cycles is not None
    return COSTS[name].engine == "finn" or (COSTS[name].hardware and folded)


def warn_if_stuck_here(bench: Bench) -> None:
    """Say before the search, on standard error, if what it finds could not be exported."""
    try:
        check_exportable(bench.task.model, bench.inventory, bench.task.example())
    except ParetuneError as error:
        print(f"paretune: warning: this model can be searched, but not be exported yet: {error}", file=sys.stderr)


def _task_told(task: Task) -> dict[str, Any]:
    """Settings of a task that its fingerprint of weights and images does not hold, such as augmentation.

    Where the files lie may change, and how they are read.
    """
    if task.name != "classification":
        return {}
    parts: Mapping[str, Any] = task.origin
    told = {part: {k: v for k, v in parts[part].items() if k not in MOVABLE} for part in ("model", "data")}
    return {"task_settings": to_plain(told)}


def identity_of(settings: Settings, task: Task, space: Space, hardware: Hardware | None = None) -> dict[str, Any]:
    """What must not change when a study is resumed."""
    return {
        "task": f"{task.name} {task.fingerprint}",
        **_task_told(task),
        "objectives": list(settings.objectives),
        "budget": settings.limits,
        "sampler": settings.sampler,
        "population": settings.study.population,
        "seed": settings.study.seed,
        "seeds": to_plain(settings.seeds),
        "rungs": to_plain(settings.rungs),
        "device": task.device.type,
        "threads": torch.get_num_threads(),
        "hardware": None if hardware is None else to_plain(hardware),
        **({"latency": to_plain(settings.latency)} if settings.latency.study else {}),
        **_inventory_told(settings.inventory),
        "space_hash": space.key,
        "space": space.describe(),
    }


def _inventory_told(asked: InventorySettings) -> dict[str, Any]:
    """Nothing if groups are found as always; how long that may take changes nothing."""
    told = {"exclude": list(asked.exclude), "groups": None if asked.groups is None else to_plain(asked.groups)}
    return {} if asked == replace(TRACED, seconds=asked.seconds) else {"inventory": told}
