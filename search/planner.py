"""Recipes to plans, with whatever a rule may ask for at hand: scores, sensitivity curves, a model to try cuts on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paretune.alike import Alike
from paretune.compress.blend import rank_correlations
from paretune.compress.criteria import Scores
from paretune.compress.planning import Planned, plan_of
from paretune.compress.rates import Kept
from paretune.curve import Curve
from paretune.recipe import Recipe
from paretune.search.bench import Bench
from paretune.search.clock import Clock
from paretune.search.evaluate import judge_of
from paretune.search.measured import Measured
from paretune.spaces.space import Space


@dataclass(kw_only=True, eq=False)
class Planner:
    """Turns the answers of one space into plans; what is the same in every trial is measured at the start.

    `tried` remembers the quality of every trial cut, because a bisection comes back to the same widths.
    """

    bench: Bench
    scores: Scores
    measured: Measured
    seed: int
    known: dict[tuple[str, str], Mapping[str, Curve]] = field(default_factory=dict)
    tried: dict[tuple[Any, ...], float] = field(default_factory=dict)

    @classmethod
    def ready(cls, bench: Bench, space: Space, measured: Measured) -> "Planner":
        """A planner with the scores, and the curves if a rule of the space reads them."""
        scores = measured.scores(space.criteria, per_weight=bool(space.kinds))
        planner = cls(bench=bench, scores=scores, measured=measured, seed=measured.seed)
        for criterion in space.ranking if "knee" in space.rules else ():
            for reduce in space.options("reduce"):
                planner.curves(criterion, str(reduce))
        return planner

    def curves(self, criterion: str, reduce: str) -> Mapping[str, Curve]:
        """The sensitivity curves by a criterion and a reduction over layers, measured when first asked for."""
        if (criterion, reduce) not in self.known:
            self.known[criterion, reduce] = self.measured.curves(criterion, reduce)
        return self.known[criterion, reduce]

    def alike(self, space: Space) -> Alike:
        """How alike the criteria of a blend rank the channels, under the first reduction over layers."""
        groups, names = self.bench.inventory.groups, space.criteria
        reduce = str(space.options("reduce")[0])
        found = [rank_correlations(self.scores, names, group.name, reduce) for group in groups]
        mean = np.average(found, axis=0, weights=[group.channels for group in groups])
        return Alike(criteria=names, correlations=tuple(tuple(map(float, row)) for row in mean))

    def plan(self, recipe: Recipe, clock: Clock) -> Planned:
        """The plan of a recipe; its time counts as the stage "plan".

        Raises:
            ImpossiblePlan: the rule or a pattern cannot be carried out.
        """
        with clock.stage("plan"):
            return plan_of(
                recipe, self.bench.inventory, self.scores, curves=self.curves, judge=self._judge(recipe, clock),
                seed=self.seed, hardware=self.bench.hardware,
            )  # fmt: skip

    def _judge(self, recipe: Recipe, clock: Clock) -> Callable[[Kept], float]:
        recovery = recipe.recovery
        measure = judge_of(self.bench, recovery, clock)

        def judge(kept: Kept) -> float:
            ridge = recovery.ridge if recovery.compensate != "none" else 0.0
            key = (tuple(sorted(kept.items())), recovery.compensate, ridge, recovery.images)
            if key not in self.tried:
                self.tried[key] = measure(kept)
            return self.tried[key]

        return judge
