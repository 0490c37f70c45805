"""A long study of ResNet-56 with invented outcomes, as big on disk as a real one: for measuring, not for reading."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIIISampler, NSGAIISampler
from optuna.trial import FrozenTrial
from torch import nn

from paretune.compress.criteria import Scores
from paretune.compress.planning import plan_of
from paretune.costs.table import COSTS, static_costs
from paretune.inventory import Inventory
from paretune.outcome import Outcome, Rung
from paretune.plan import Codes, Plan
from paretune.profile import profile
from paretune.records import to_plain
from paretune.samplers.reproducible import Reproducible
from paretune.search.folder import write_json
from paretune.search.provenance import provenance
from paretune.search.store import Entry, open_study, tell
from paretune.spaces.leaf import Choice, Leaf, Range, Scalar
from paretune.spaces.mixing import parse_mixing
from paretune.spaces.question import Question
from paretune.spaces.sections import section
from paretune.spaces.space import Space
from paretune.tasks.resnet import Block, ResNet
from paretune.tasks.task import TOP1_ERROR

POPULATION = 16
OBJECTIVES = ("top1_error", "size_bytes", "bops")
BUDGET = {"size_bytes": 180_000.0}  # about a third of the random plans exceed it
CODES = Codes(nonzeros=2000, distinct=15, entropy_bits=7500, huffman_bits=7700, gap_bits=2, entries=2100)
STAGES = ("cut", "quantize", "recalibrate", "score", "finetune", "freeze", "driver")


def resnet56() -> ResNet:
    """CIFAR ResNet-56 (He et al. 2015, https://arxiv.org/abs/1512.03385) with 1×1 projections, untrained."""
    model = ResNet((16, 32, 64), channels=3)
    widths = (16,) * 10 + (32,) * 9 + (64,) * 9
    model.blocks = nn.Sequential(*(Block(a, b, 1 if a == b else 2) for a, b in pairwise(widths)))
    return model.eval()


def space_of(inventory: Inventory, size: int) -> Space:
    """A space with `size` open questions: shares, weight bits, a few activation bits, a criterion, a learning rate."""
    groups, layers = [group.name for group in inventory.groups], [layer.name for layer in inventory.weighted]
    ratios = 3 * size // 10
    weights = round(0.85 * (size - 2 - ratios))
    return Space(
        ratios=_tied("ratio", groups, ratios, Range(low=0.0, high=0.8, step=0.05)),
        weight_bits=_tied("weight_bits", layers, weights, Choice(options=(2, 3, 4, 6, 8))),
        activation_bits=_tied("activation_bits", layers, size - 2 - ratios - weights, Choice(options=(4, 6, 8))),
        mixing=parse_mixing(["l2", "l1"], inventory)[0],
        shared=(
            *section("recover", {"lr": {"low": 0.003, "high": 0.05, "log": True}, "distill": "logits"}),
            *(
                question
                for name in ("rate", "mask", "quantize", "joint", "keep", "blend", "")
                for question in section(name, {})
            ),
        ),
    )


def _tied(key: str, names: Sequence[str], size: int, leaf: Leaf) -> tuple[Question, ...]:
    parts = [tuple(map(str, part)) for part in np.array_split(np.array(names), size)]
    return tuple(Question(name=f"{key}/{part[0]}", leaf=leaf, targets=part) for part in parts)


class Filed(Reproducible):
    """Answers that are also filed into generations, so that nsga2 and nsga3 find parents among them."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As in `Reproducible`."""
        for kind in (NSGAIISampler, NSGAIIISampler):
            key, generation = f"{kind.__name__}:generation", trial.number // POPULATION
            study._storage.set_trial_system_attr(trial._trial_id, key, generation)
        return super().sample_relative(study, trial, search_space)


@dataclass(frozen=True, kw_only=True)
class LongStudy:
    """A study of `size` parameters, without its folder: where it is opened, it is made."""

    inventory: Inventory
    size: int

    @cached_property
    def space(self) -> Space:
        """What is asked."""
        return space_of(self.inventory, self.size)

    @cached_property
    def scores(self) -> Scores:
        """Invented criterion scores."""
        random = np.random.default_rng(0)
        criterion = {group.name: random.random((1, group.channels)) for group in self.inventory.groups}
        return Scores(units={"l1": criterion, "l2": criterion})

    def open(self, folder: Path, sampler: str, kind: type[Reproducible] = Reproducible) -> optuna.Study:
        """The study in `folder`, opened as a run does it."""
        identity = {"budget": BUDGET, "objectives": OBJECTIVES, "space": self.space.describe()}
        study = open_study(folder, "long", OBJECTIVES, identity)
        study.sampler = kind(sampler, seed=0, population=POPULATION, space=self.space, fixed={})
        return study

    def build(self, folder: Path, trials: int) -> None:
        """Fill `folder` with random trials and with the facts that a report needs."""
        folder.mkdir()
        objectives = [TOP1_ERROR, *(COSTS[name].objective for name in OBJECTIVES[1:])]
        facts = provenance({"task": "resnet56 invented", "seed": 0, "sampler": "random"}, "benchmarks/speed.py")
        write_json(folder / "provenance.json", {**facts, "objective_units": to_plain(objectives)})
        write_json(folder / "inventory.json", to_plain(self.inventory))
        study = self.open(folder, "random", Filed)
        for _ in range(trials):
            self.turn(study)

    def turn(self, study: optuna.Study) -> float:
        """One trial with an invented outcome; returns the seconds of ask, suggest and tell."""
        start = perf_counter()
        trial = study.ask()
        recipe, choices = self.space.ask(trial), self.space.choices(trial)
        asked = perf_counter() - start
        entry = self._entry(plan_of(recipe, self.inventory, self.scores).plan, choices, trial.number)
        start = perf_counter()
        for name, limit in BUDGET.items():
            trial.set_constraint(name, entry.outcome.values[name] / limit - 1)
        tell(study, trial, entry, OBJECTIVES)
        return asked + perf_counter() - start

    def _entry(self, plan: Plan, choices: dict[str, Scalar], number: int) -> Entry:
        plan = replace(plan, layers=tuple(replace(row, codes=CODES) for row in plan.layers))
        costs = static_costs(profile(self.inventory, plan))
        over = any(costs[name] > limit for name, limit in BUDGET.items())
        random = np.random.default_rng(number)
        first, last = sorted((float(random.random()), float(random.random())), reverse=True)
        outcome = Outcome(
            status="over_budget" if over else "done",
            values=costs if over else {"top1_error": last, **costs},
            rungs=() if over else (Rung(epochs=0, score=first), Rung(epochs=3, score=last)),
            seconds={} if over else {stage: float(random.random()) for stage in STAGES},
            reason="size_bytes" if over else "",
        )
        return Entry(kind="search", label="", same_as=None, choices=choices, plan=plan, outcome=outcome)
