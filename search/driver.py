"""Ask, check, evaluate, tell, until the trials are used up. Stopping at any point loses at most one trial."""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import optuna

from paretune.compress.planning import Planned, foreseen
from paretune.conf.settings import Settings
from paretune.costs.table import CODED, COSTS, MASKED
from paretune.errors import ImpossiblePlan, ParetuneError, first_line
from paretune.export.pack import packed_with_layout
from paretune.findings import Trial
from paretune.outcome import Outcome
from paretune.pareto import Array, nondominated
from paretune.plan import DENSE, FLOAT, Plan
from paretune.search.bench import Bench
from paretune.search.controls import Control
from paretune.search.evaluate import CANNOT, Clock, Trained, evaluate
from paretune.search.folder import drop_kept, kept_folder, write_json
from paretune.search.planner import Planner
from paretune.search.store import Entry, read_trial, rows_of, tell, unfinished
from paretune.spaces.space import Space

HOPELESS = 10  # trials that fail one after another, with none finished, before the study gives up

NOTHING = Outcome(status="failed", values={}, seconds={})

log = logging.getLogger("paretune")


def finish_of(rows: Sequence[Trial], objectives: Sequence[str]) -> Trial | None:
    """The searched trial with the best quality, the smaller costs where two are equal; None if it has been finished
    already or there is none.
    """
    done = [row for row in rows if row.kind == "search" and row.status == "done" and row.feasible]
    best = min(done, key=lambda row: (*(row.values[name] for name in objectives), row.number), default=None)
    finished = [row.label for row in rows if row.kind == "finish"]
    known = best is not None and any(label.startswith(f"trial {best.number} ") for label in finished)
    return None if known else best


def unknown_before_training(plan: Plan) -> Collection[str]:
    """The costs that the plan does not settle: all, where training finds channels and bits; what zeros bring down,
    where it finds codes, or masks under a penalty or one threshold over all layers.
    """
    if plan.joint is not None and plan.open:
        return tuple(COSTS)
    coded = any(layer.weight_bits < FLOAT for layer in plan.layers)
    pruning = plan.pruning if plan.open else None
    loose = pruning is not None and (pruning.scope == "global" or pruning.penalty is not None)
    return MASKED if loose else CODED if coded else ()


@dataclass(kw_only=True, eq=False)
class Driver:
    """Everything one run of a study needs. `rows` grows by one plain row per told trial."""

    study: optuna.Study
    settings: Settings
    bench: Bench
    space: Space
    planner: Planner
    controls: tuple[Control, ...]
    folder: Path
    watch: Callable[[list[Trial]], None] = lambda rows: None
    rows: list[Trial] = field(default_factory=list)

    def run(self) -> None:
        """Go on to `study.trials` trials in total, or until `study.minutes` are over; then finish the best one.

        Raises:
            ParetuneError: every trial so far has failed.
        """
        self.rows = rows_of(self.study, self.settings.limits)
        self._tidy()
        self.watch(self.rows)
        end = time.monotonic() + 60 * (self.settings.study.minutes or math.inf)
        while self._left() and time.monotonic() < end:
            self.rows.append(self._one())
            self._give_up_if_hopeless()
            self.watch(self.rows)
        best = finish_of(self.rows, self.settings.objectives)
        if best is not None and self.settings.finish.epochs and not self._left():
            self.rows.append(self._finish(best))
            self.watch(self.rows)

    def _left(self) -> bool:
        return sum(row.kind != "finish" for row in self.rows) < self.settings.study.trials

    def _one(self) -> Trial:
        """Carry one trial from its question to its row."""
        start = time.perf_counter()
        trial = unfinished(self.study) or self.study.ask()
        control = self.controls[trial.number] if trial.number < len(self.controls) else None
        dense = control is not None and control.params is None
        entry = Entry(
            kind="control" if control else "search",
            label=control.label if control else "",
            same_as=None,
            choices={} if dense else self.space.choices(trial),
            plan=None,
            outcome=NOTHING,
        )
        clock = Clock(deadline=time.monotonic() + 60 * self.settings.study.trial_minutes)
        try:
            planned = Planned(plan=DENSE) if dense else self.planner.plan(self.space.ask(trial), clock)
        except CANNOT as problem:
            reason = f"{type(problem).__name__}: {first_line(problem)}"
            entry = replace(entry, outcome=replace(NOTHING, seconds=clock.stages, reason=reason))
            return self._tell(trial, entry, None, start)
        left = (clock.deadline - time.monotonic()) / 60
        entry, trained = self._answer(replace(entry, plan=planned.plan), left)
        seconds = clock.stages | entry.outcome.seconds
        entry = replace(entry, outcome=replace(entry.outcome, seconds=seconds, notes=planned.notes))
        return self._tell(trial, entry, trained, start)

    def _finish(self, best: Trial) -> Trial:
        """Train the best trial's plan for longer; a row of its own kind."""
        start, asked = time.perf_counter(), self.settings.finish
        assert best.plan is not None
        recovery = replace(best.plan.recovery, epochs=asked.epochs, lr=asked.lr, distill=asked.distill)
        trial = unfinished(self.study) or self.study.ask()
        plan, study = replace(best.plan.asked, recovery=recovery), self.settings.study
        trained = evaluate(plan, self.bench, seed=study.seed, minutes=study.trial_minutes)
        label = f"trial {best.number} after {asked.epochs} epochs"
        entry = Entry(
            kind="finish", label=label, same_as=None, choices={}, plan=trained.plan, outcome=trained.outcome
        )  # fmt: skip
        return self._tell(trial, entry, trained, start)

    def _answer(self, entry: Entry, minutes: float) -> tuple[Entry, Trained | None]:
        """What the trial found: an earlier answer, an empty one if it is over budget, or a real evaluation."""
        plan = entry.plan
        assert plan is not None
        twin = self._twin(plan)
        if twin is not None:
            outcome = Outcome(status=twin.status, values=twin.values, rungs=twin.rungs, seconds={}, reason=twin.reason)
            number = twin.number if twin.same_as is None else twin.same_as
            return replace(entry, same_as=number, outcome=outcome, plan=twin.plan), None
        try:
            # What a joint training will find is not known at all.
            guess = DENSE if plan.joint is not None and plan.open else foreseen(plan, self.bench.inventory)
            costs = self.bench.costs(guess)
        except ImpossiblePlan as problem:
            reason = f"{type(problem).__name__}: {first_line(problem)}"
            return replace(entry, outcome=replace(NOTHING, reason=reason)), None
        unsure, limits = unknown_before_training(plan), {} if entry.kind == "control" else self.settings.limits
        sure = {name: limit for name, limit in limits.items() if name not in unsure}
        over = [f"{name} {costs[name]:g} > {limit:g}" for name, limit in sure.items() if costs[name] > limit]
        if over:
            outcome = Outcome(status="over_budget", values=costs, seconds={}, reason=", ".join(over))
            return replace(entry, outcome=outcome), None
        later = {name: limit for name, limit in limits.items() if name in unsure}
        trained = evaluate(plan, self.bench, seed=self.settings.study.seed, minutes=minutes, limits=later)
        return replace(entry, outcome=trained.outcome, plan=trained.plan), trained

    def _twin(self, plan: Plan) -> Trial | None:
        """The trial that asked for the same, if there is one."""
        known = (row for row in self.rows if row.plan is not None and row.kind != "finish")
        return next((row for row in known if row.plan is not None and row.plan.asked.key == plan.key), None)

    def _tell(self, trial: optuna.Trial, entry: Entry, trained: Trained | None, start: float) -> Trial:
        """Keep the weights if they are worth it, then tell; the row as it can be read again."""
        for name, limit in self.settings.limits.items():
            if name in entry.outcome.values:
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
        blob, placed = packed_with_layout(trained.frozen)
        (partial / "model.safetensors").write_bytes(blob)
        write_json(partial / "layout.json", placed)
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
