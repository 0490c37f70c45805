"""Ask, check, evaluate, tell, until the trials are used up. Stopping at any point loses at most one trial."""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import optuna

from paretune.compress.criteria import Scores
from paretune.compress.rates import plan_of
from paretune.conf.settings import Settings
from paretune.costs.table import static_costs
from paretune.errors import ParetuneError
from paretune.export.pack import layout, pack
from paretune.findings import Trial
from paretune.outcome import Outcome
from paretune.pareto import Array, nondominated
from paretune.plan import DENSE, Plan
from paretune.profile import profile
from paretune.search.bench import Bench
from paretune.search.controls import Control
from paretune.search.evaluate import Trained, evaluate
from paretune.search.folder import drop_kept, kept_folder, write_json
from paretune.search.store import Entry, read_trial, rows_of, tell, unfinished
from paretune.spaces.leaf import Scalar
from paretune.spaces.space import Space

HOPELESS = 10  # trials that fail one after another, with none finished, before the study gives up

log = logging.getLogger("paretune")


@dataclass(kw_only=True, eq=False)
class Driver:
    """Everything one run of a study needs. `rows` grows by one plain row per told trial."""

    study: optuna.Study
    settings: Settings
    bench: Bench
    space: Space
    scores: Scores
    controls: tuple[Control, ...]
    folder: Path
    watch: Callable[[list[Trial]], None] = lambda rows: None
    rows: list[Trial] = field(default_factory=list)

    def run(self) -> None:
        """Go on to `study.trials` trials in total, or until `study.minutes` are over.

        Raises:
            ParetuneError: every trial so far has failed.
        """
        self.rows = rows_of(self.study, self.settings.limits)
        self._tidy()
        self.watch(self.rows)
        end = time.monotonic() + 60 * (self.settings.study.minutes or math.inf)
        while len(self.rows) < self.settings.study.trials and time.monotonic() < end:
            self.rows.append(self._one())
            self._give_up_if_hopeless()
            self.watch(self.rows)

    def _one(self) -> Trial:
        """Carry one trial from its question to its row."""
        start = time.perf_counter()
        trial = unfinished(self.study) or self.study.ask()
        control = self.controls[trial.number] if trial.number < len(self.controls) else None
        dense = control is not None and control.params is None
        plan = DENSE if dense else plan_of(self.space.ask(trial), self.bench.inventory, self.scores)
        entry, trained = self._entry(plan, control, {} if dense else self.space.choices(trial))
        for name, limit in self.settings.limits.items():
            trial.set_constraint(name, entry.outcome.values[name] / limit - 1)
        self._keep(trial.number, entry, trained)
        if trained is not None:
            spent = sum(entry.outcome.seconds.values())
            seconds = entry.outcome.seconds | {"driver": time.perf_counter() - start - spent}
            entry = replace(entry, outcome=replace(entry.outcome, seconds=seconds))
        tell(self.study, trial, entry, self.settings.objectives)
        row = self._row(trial.number)
        self._tidy(row)
        self._log(row)
        return row

    def _entry(self, plan: Plan, control: Control | None, choices: dict[str, Scalar]) -> tuple[Entry, Trained | None]:
        """What the trial found: an earlier answer, an empty one if it is over budget, or a real evaluation."""
        entry = Entry(
            kind="control" if control else "search",
            label=control.label if control else "",
            same_as=None,
            choices=choices,
            plan=plan,
            outcome=Outcome(status="failed", values={}, seconds={}),
        )
        twin = next((row for row in self.rows if row.plan is not None and row.plan.key == plan.key), None)
        if twin is not None:
            outcome = Outcome(status=twin.status, values=twin.values, rungs=twin.rungs, seconds={}, reason=twin.reason)
            return replace(entry, same_as=twin.number if twin.same_as is None else twin.same_as, outcome=outcome), None
        costs = static_costs(profile(self.bench.inventory, plan))
        over = [f"{n} {costs[n]:g} > {limit:g}" for n, limit in self.settings.limits.items() if costs[n] > limit]
        if over and control is None:
            outcome = Outcome(status="over_budget", values=costs, seconds={}, reason=", ".join(over))
            return replace(entry, outcome=outcome), None
        settings = self.settings.study
        trained = evaluate(plan, self.bench, seed=settings.seed, minutes=settings.trial_minutes)
        return replace(entry, outcome=trained.outcome), trained

    def _row(self, number: int) -> Trial:
        frozen = self.study.get_trials(deepcopy=False)[number]
        return read_trial(frozen, self.settings.limits)

    def _keep(self, number: int, entry: Entry, trained: Trained | None) -> None:
        """Write the packed weights of a trial that belongs to the front (or of all), before it is told."""
        if trained is None or trained.frozen is None or self.settings.study.keep == "none":
            return
        if self.settings.study.keep == "front" and not self._on_front(entry.outcome.values):
            return
        target = kept_folder(self.folder, number)
        partial = target.with_name(f"{number}.part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "model.safetensors").write_bytes(pack(trained.frozen))
        write_json(partial / "layout.json", layout(trained.frozen))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)

    def _on_front(self, values: Mapping[str, float]) -> bool:
        if any(values[name] > limit for name, limit in self.settings.limits.items()):
            return False
        rivals = [row.values for row in self.rows if row.status == "done" and row.feasible]
        return bool(nondominated(self._points([*rivals, values]))[-1])

    def _points(self, values: Sequence[Mapping[str, float]]) -> Array:
        """The objectives of some trials, one row each."""
        rows = [[each[name] for name in self.settings.objectives] for each in values]
        return np.array(rows, dtype=float).reshape(len(rows), len(self.settings.objectives))

    def _tidy(self, newest: Trial | None = None) -> None:
        """Drop the weights of trials that have left the front."""
        if self.settings.study.keep != "front":
            return
        rows = [row for row in [*self.rows, newest] if row and row.status == "done" and row.feasible]
        mask = nondominated(self._points([row.values for row in rows]))
        drop_kept(self.folder, {row.number for row, on_front in zip(rows, mask, strict=True) if on_front})

    def _give_up_if_hopeless(self) -> None:
        searched = [row for row in self.rows if row.label != "dense" and row.status != "over_budget"]
        if len(searched) >= HOPELESS and all(row.status == "failed" for row in searched):
            raise ParetuneError(f"all of {len(searched)} trials failed, the last with: {searched[-1].reason}")

    def _log(self, row: Trial) -> None:
        values = {name: row.values.get(name) for name in self.settings.objectives}
        text = json.dumps(values) if row.status == "done" else row.reason
        log.info("trial %d %s %s%s", row.number, row.status, text, f" [{row.label}]" if row.label else "")
