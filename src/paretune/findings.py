"""A study as plain rows: what reports, tables and the choice of a point read."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from paretune.alike import Alike
from paretune.curve import Curve, Knee
from paretune.effects import Effects
from paretune.inventory import Inventory
from paretune.outcome import Rung, Status
from paretune.pareto import Array, nondominated
from paretune.plan import Plan


Kind = Literal["control", "seed", "search", "finish", "repeat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """A number a study makes small. Every objective is minimised; `definition` says how it is counted."""

    name: str
    unit: str
    definition: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial as the study remembers it.

    `kind` tells controls (dense, uniform) and seeds (made from sensitivities) from searched trials. Once the search is over
    come a "finish", the best searched trial trained further, and each "repeat", a point of the front with another seed;
    both name the trial they go back to in `of`. `label` names controls, finishes and repeats.
    `same_as` is the earlier trial whose plan was identical, so that nothing was evaluated again.
    `feasible` is True if no budget is exceeded. `params` are the sampler's raw choices.
    `values` holds the objectives and every static cost that is known.
    """

    number: int
    kind: Kind
    label: str
    status: Status
    reason: str
    same_as: int | None
    feasible: bool
    values: dict[str, float]
    rungs: tuple[Rung, ...]
    seconds: dict[str, float]
    params: dict[str, Any]
    plan: Plan | None
    notes: tuple[str, ...] = ()
    of: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RungState:
    """What a rung has come to: trials that `reached` it, were `judged` there and `stopped` there.

    `correlation` is the rank correlation (Spearman) of its scores with the last ones, over the `compared` trials that
    went on whatever it said; None if these are too few, or, with `enough`, if one side does not vary. It judges while
    that is at least `bound`; `on` says whether it does now.
    """

    epochs: int
    reached: int
    judged: int
    stopped: int
    compared: int
    correlation: float | None
    bound: float
    on: bool
    enough: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredLatency:
    """How long one run of a shipped graph took in onnxruntime on `machine`, batch 1: the median of the repeats with
    their 10th and 90th percentile.

    `dense_ms` is the dense float32 model's median in the same process, `ratio` the median of compressed / dense over
    the rounds: above 1 the compressed model takes longer.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    dense_ms: float
    ratio: float
    threads: int
    machine: str
    onnxruntime: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmation:
    """A chosen point, scored on the untouched test split.

    `found` is the quality on `val` that the search saw, `confirmed` the quality on `test`, one entry per
    replay: one for kept weights, one per seed for a full recovery. `picked_by` is the rule in words.
    `latency` is None where it was not measured.
    """

    trial: int
    picked_by: str
    recover: Literal["kept", "full"]
    found: float
    validated: tuple[float, ...]
    confirmed: tuple[float, ...]
    size_bytes: int
    seeds: tuple[int, ...]
    latency: MeasuredLatency | None = None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything there is to say about a study, in order of trial number.

    `objectives[0]` is the quality metric. `reference` is the corner that hypervolumes are measured
    from and normalised by: the dense model's costs, and the worst possible quality. `folder` is where the study lives.
    `curves` and `knees` (one per group and ranking criterion) are there if a rule needed them. `rival` is the study that ran
    beside this one with as many trials, and its `name` says what it is. `alike` is there if recipes blend criteria,
    `effects` if sensitivities were measured. `rungs` say what the study's rungs have come to, in order of epochs.
    """

    name: str
    folder: str
    objectives: tuple[Objective, ...]
    budget: dict[str, float]
    reference: dict[str, float]
    trials: tuple[Trial, ...]
    inventory: Inventory
    provenance: dict[str, Any]
    confirmations: tuple[Confirmation, ...] = field(default=())
    curves: tuple[Curve, ...] = ()
    knees: tuple[Knee, ...] = ()
    rival: "Findings | None" = None
    alike: Alike | None = None
    effects: Effects | None = None
    rungs: tuple[RungState, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives' names, quality first."""
        return tuple(objective.name for objective in self.objectives)

    def points(self, trials: Sequence[Trial]) -> Array:
        """Objective values of `trials`, one row each, NaN where a value is missing."""
        rows = [[trial.values.get(name, np.nan) for name in self.names] for trial in trials]
        return np.array(rows, dtype=float).reshape(len(trials), len(self.names))

    @property
    def dense(self) -> Trial | None:
        """The uncompressed model's trial."""
        return next((trial for trial in self.trials if trial.label == "dense"), None)

    @cached_property
    def candidates(self) -> tuple[Trial, ...]:
        """The finished, feasible trials that are neither copies nor repeats of an earlier one."""
        return tuple(
            trial for trial in self.trials
            if trial.status == "done" and trial.feasible and trial.same_as is None and trial.kind != "repeat"
        )  # fmt: skip

    @cached_property
    def front(self) -> tuple[Trial, ...]:
        """The candidates that nothing dominates, best quality first. Controls are among them if they earn it."""
        mask = nondominated(self.points(self.candidates))
        kept = [trial for trial, on_front in zip(self.candidates, mask, strict=True) if on_front]
        return tuple(sorted(kept, key=lambda trial: (*self.points([trial])[0], trial.number)))

    @cached_property
    def _repeated(self) -> dict[int, tuple[float, ...]]:
        found: dict[int, tuple[float, ...]] = {}
        for trial in self.trials:
            if trial.kind == "repeat" and trial.of is not None and trial.status == "done":
                found[trial.of] = (*found.get(trial.of, ()), trial.values[self.names[0]])
        return found

    def scores(self, trial: Trial) -> tuple[float, ...]:
        """The quality of `trial` under every seed it was evaluated with, its own first."""
        return (trial.values[self.names[0]], *self._repeated.get(trial.number, ()))

    def settled(self, trial: Trial) -> Trial:
        """`trial` with the mean over its seeds as its quality: what a choice should go by, because the best of many
        noisy values is too good.
        """
        scores = self.scores(trial)
        mean = scores[0] if len(scores) == 1 else sum(scores) / len(scores)
        return replace(trial, values={**trial.values, self.names[0]: mean})
