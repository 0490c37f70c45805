"""How fast paretune is beside the training it drives: python benchmarks/speed.py [--quick] [--write].

Times are "median (smallest – largest of n)". A limit is met if the median keeps it; "at best" means that only the
smallest does, as on a machine with other work: then look at the load above the table and run it again.
"""

import argparse
import os
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass
from functools import wraps
from io import StringIO
from itertools import count, pairwise
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIIISampler, NSGAIISampler
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table
from torch import nn

from paretune.compress.criteria import Scores
from paretune.compress.cut import cut
from paretune.compress.groups import discover
from paretune.compress.rates import plan_of
from paretune.costs.table import COSTS, static_costs
from paretune.findings import Trial
from paretune.inventory import Inventory
from paretune.outcome import Outcome, Rung
from paretune.plan import Plan
from paretune.profile import profile
from paretune.records import to_plain
from paretune.search import driver, store
from paretune.search.folder import write_json
from paretune.search.provenance import provenance
from paretune.search.samplers import Reproducible
from paretune.search.study import read_findings, run_study, write_report
from paretune.spaces.leaf import Choice, Fixed, Leaf, Range
from paretune.spaces.space import Question, Space
from paretune.tasks.digits import digits
from paretune.tasks.resnet import Block, ResNet
from paretune.tasks.task import TOP1_ERROR

POPULATION = 16
OBJECTIVES = ("top1_error", "size_bytes", "bops")
BUDGET = {"size_bytes": 200_000.0}  # about half of the invented trials exceed it
STAGES = ("cut", "quantize", "recalibrate", "score", "finetune", "freeze", "driver")
PARTS = {  # disjoint pieces of the trial loop, by where the driver finds them
    "ask": (optuna.Study, "ask"),
    "look for an unfinished trial": (driver, "unfinished"),
    "suggest and plan": (driver.Driver, "_plan"),
    "keep weights": (driver.Driver, "_keep"),
    "tell": (driver, "tell"),
    "read back": (driver.Driver, "_row"),
    "drop weights": (driver.Driver, "_tidy"),
    "log": (driver.Driver, "_log"),
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the table. `times` are seconds, or shares if `share` is set; `limit` has the same unit."""

    what: str
    times: Sequence[float]
    limit: float | None = None
    share: bool = False

    def cells(self) -> tuple[str, str, str, str]:
        """What is printed: what, measured, limit, met?"""
        show = _percent if self.share else _seconds
        middle, least, most = statistics.median(self.times), min(self.times), max(self.times)
        measured = f"{show(middle)} ({show(least)} – {show(most)} of {len(self.times)})"
        if self.limit is None:
            return self.what, measured, "", ""
        met = "yes" if middle <= self.limit else "at best" if least <= self.limit else "NO"
        return self.what, measured, f"≤ {show(self.limit)}", met


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return times


# 1. The driver beside a digits trial, seen from outside


def driver_lines(folder: Path, trials: int) -> Iterable[Line]:
    """The share of a digits trial that is not compressing, recovering or scoring, and where it goes."""
    spent: dict[str, float] = defaultdict(float)
    ends: list[tuple[float, Trial]] = []
    with ExitStack() as patches:
        for label, (owner, name) in PARTS.items():
            patches.enter_context(mock.patch.object(owner, name, _stopwatch(getattr(owner, name), label, spent)))
        for owner, name in ((driver, "evaluate"), (driver.Driver, "_one")):
            watched = _stopwatch(getattr(owner, name), name, spent)
            patches.enter_context(mock.patch.object(owner, name, _marked(watched, ends) if name == "_one" else watched))
        patches.enter_context(redirect_stderr(StringIO()))
        run_study(digits(), sampler="nsga2", out=folder, trials=trials)
    # From the end of one trial to the end of the next: everything the loop does is in it.
    laps = [(end - start, row) for (start, _), (end, row) in pairwise(ends) if "driver" in row.seconds]
    yield Line(what="digits trial, whole", times=[lap for lap, _ in laps])
    overheads = [lap - worked(row) for lap, row in laps]
    yield Line(what="  driver overhead", times=overheads)
    shares = [overhead / lap for overhead, (lap, _) in zip(overheads, laps, strict=True)]
    yield Line(what="  driver overhead, share of the trial", times=shares, limit=0.05, share=True)
    parts = {label: spent[label] for label in PARTS}
    parts["static costs in evaluate"] = spent["evaluate"] - sum(worked(row) for _, row in ends)
    parts["twins, constraints, rest"] = spent["_one"] - spent["evaluate"] - sum(
        spent[label] for label in PARTS if label not in ("ask", "look for an unfinished trial")
    )  # fmt: skip
    for label in sorted(parts, key=parts.__getitem__, reverse=True)[:3]:
        yield Line(what=f"  of it: {label} (mean)", times=[parts[label] / len(ends)])


def _stopwatch(real: Callable[..., Any], label: str, spent: dict[str, float]) -> Callable[..., Any]:
    @wraps(real)
    def watched(*args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        try:
            return real(*args, **kwargs)
        finally:
            spent[label] += perf_counter() - start

    return watched


def _marked(real: Callable[..., Trial], ends: list[tuple[float, Trial]]) -> Callable[..., Trial]:
    @wraps(real)
    def marked(*args: Any) -> Trial:
        row = real(*args)
        ends.append((perf_counter(), row))
        return row

    return marked


def worked(row: Trial) -> float:
    """Seconds in the stages of `evaluate`."""
    return sum(seconds for stage, seconds in row.seconds.items() if stage != "driver")


# 2 and 4. A long study of ResNet-56 with invented outcomes


def resnet56() -> ResNet:
    """CIFAR ResNet-56 (He et al. 2015, https://arxiv.org/abs/1512.03385), 1×1 projections, untrained."""
    widths = (16,) * 10 + (32,) * 9 + (64,) * 9
    model = ResNet((16, 32, 64), channels=3)
    model.blocks = nn.Sequential(*(Block(a, b, 1 if a == b else 2) for a, b in pairwise(widths)))
    return model.eval()


def space_of(inventory: Inventory, size: int) -> Space:
    """A space with `size` open questions: shares, weight bits, a few activation bits, a criterion, a rate."""
    groups, layers = [group.name for group in inventory.groups], [layer.name for layer in inventory.weighted]
    ratios = 3 * size // 10
    weights = round(0.85 * (size - 2 - ratios))
    return Space(
        ratios=_tied("ratio", groups, ratios, Range(low=0.0, high=0.8, step=0.05)),
        weight_bits=_tied("weight_bits", layers, weights, Choice(options=(2, 3, 4, 6, 8))),
        activation_bits=_tied("activation_bits", layers, size - 2 - ratios - weights, Choice(options=(4, 6, 8))),
        criterion=Question(name="criterion", leaf=Choice(options=("l2", "l1"))),
        epochs=Question(name="epochs", leaf=Fixed(value=3)),
        lr=Question(name="lr", leaf=Range(low=0.003, high=0.05, log=True)),
        distill=Question(name="distill", leaf=Fixed(value="logits")),
    )


def _tied(key: str, names: Sequence[str], size: int, leaf: Leaf) -> tuple[Question, ...]:
    parts = np.array_split(np.array(names), size)
    return tuple(Question(name=f"{key}/{part[0]}", leaf=leaf, targets=tuple(map(str, part))) for part in parts)


class Filed(Reproducible):
    """Random answers, filed into generations for nsga2 and nsga3, which would else find no parents."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As `Reproducible`."""
        for kind in (NSGAIISampler, NSGAIIISampler):
            key, generation = f"{kind.__name__}:generation", trial.number // POPULATION
            study._storage.set_trial_system_attr(trial._trial_id, key, generation)
        return super().sample_relative(study, trial, search_space)


class LongStudy:
    """A folder with a study of `size` parameters whose outcomes are made up, but as big as real ones."""

    def __init__(self, folder: Path, inventory: Inventory, size: int, trials: int) -> None:
        self.folder, self.inventory, self.space = folder, inventory, space_of(inventory, size)
        self.random = np.random.default_rng(0)
        self.scores: Scores = {
            name: {group.name: self.random.random(group.channels) for group in inventory.groups} for name in ("l1", "l2")
        }
        self.identity = {"budget": BUDGET, "objectives": OBJECTIVES, "space": self.space.describe()}
        folder.mkdir()
        objectives = [TOP1_ERROR, *(COSTS[name].objective for name in OBJECTIVES[1:])]
        facts = {**provenance({"task": "resnet56 invented", "seed": 0, "sampler": "random"}, "benchmarks/speed.py")}
        write_json(folder / "provenance.json", {**facts, "objective_units": to_plain(objectives)})
        write_json(folder / "inventory.json", to_plain(inventory))
        study = self.open(folder)
        study.sampler = self.sampler("random", kind=Filed)
        for _ in range(trials):
            self.turn(study)

    def open(self, folder: Path) -> optuna.Study:
        """The study in `folder`, as `carry_out` opens it."""
        return store.open_study(folder, "long", OBJECTIVES, self.identity)
