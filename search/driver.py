"""Ask, check, evaluate, tell, until the trials are used up. Stopping at any point loses at most one trial."""

import json
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna

from paretune.compress.planning import Planned, foreseen
from paretune.conf.settings import Settings
from paretune.costs.table import CODED, COSTS, MASKED
from paretune.errors import ImpossiblePlan, ParetuneError, first_line
from paretune.findings import Trial
from paretune.outcome import Outcome
from paretune.plan import DENSE, FLOAT, Plan
from paretune.search.after import finish_of, is_after, repeat_of
from paretune.search.bench import Bench
from paretune.search.clock import Clock
from paretune.search.controls import Control
from paretune.search.evaluate import CANNOT, Trained, evaluate
from paretune.search.gate import Gate
from paretune.search.keeping import Keeping
from paretune.search.known import Known
from paretune.search.planner import Planner
from paretune.search.rungs import Rungs
from paretune.search.seeding import STAND_INS
from paretune.search.store import Entry, read_trial, rows_of, tell, unfinished
from paretune.spaces.space import Space

HOPELESS = 10  # trials that fail one after another, with none finished, before the study gives up
COPIES = 3  # searched trials in a row whose plans are known, where the sampler looked for others
PLATEAU = 1e-3  # a hypervolume that grew by no more than this share has not grown

NOTHING = Outcome(status="failed", values={}, seconds={})

log = logging.getLogger("paretune")


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
    """Everything one run of a study needs. `rows` grows by one plain row per told trial.

    `starts` are the controls and seeds, in the order of trying; their parameters go into `fixed`, where the sampler
    reads them by trial number. `curve(rows)` is the hypervolume after every row, `watch` sees the rows after every
    trial. Nothing is asked after `end`, on the clock of time.monotonic.
    `priced` holds costs before training by trial number, as rungs come to need them.
    """

    study: optuna.Study
    settings: Settings
    bench: Bench
    space: Space
    planner: Planner
    starts: tuple[Control, ...]
    fixed: dict[int, Mapping[str, Any]]
    known: Known
    keeping: Keeping
    curve: Callable[[Sequence[Trial]], Sequence[float]]
    watch: Callable[[list[Trial]], None] = lambda rows: None
    say: Callable[[str], None] = lambda text: None
    end: float = math.inf
    rows: list[Trial] = field(default_factory=list)
    priced: dict[int, tuple[float, ...]] = field(default_factory=dict)

    def run(self) -> None:
        """Go on to `study.trials` trials in total, until the time is over, the hypervolume stays where it is,
        or nothing new is left; then finish the best one, and evaluate the front under further seeds.

        Raises:
            ParetuneError: every trial so far has failed.
        """
        self.rows = rows_of(self.study, self.settings.limits)
        self.keeping.tidy(self.rows)
        self.watch(self.rows)
        while not (over := self._over()) and time.monotonic() < self.end:
            self._add(self._one())
            self._give_up_if_hopeless()
        if isinstance(over, str):
            self.say(over)
        best = finish_of(self.rows, self.settings.objectives)
        if best is not None and self.settings.finish.epochs and over:
            self._add(self._finish(best))
        while over and time.monotonic() < self.end:
            found = repeat_of(self.rows, self.settings.objectives, self.settings.study.repeats)
            if found is None:
                break
            self._add(self._repeat(*found))

    def _add(self, row: Trial) -> None:
        self.rows.append(row)
        self.known.add(row)
        self.watch(self.rows)

    def _over(self) -> bool | str:
        """True if all trials are used up, or in words why the search ends before that; else False."""
        study, rows = self.settings.study, [row for row in self.rows if not is_after(row)]
        if len(rows) >= study.trials:
            return True
        if len(rows) >= len(self.starts) and self.known.all_of():
            return f"the search ends after {len(rows)} trials: every plan of the space has been tried"
        last = [row.kind == "search" and row.same_as is not None for row in rows[-COPIES:]]
        if self.known.quick and len(last) == COPIES and all(last):
            return f"the search ends after {len(rows)} trials: no plan was found any more that has not been tried"
        searched = sum(row.kind == "search" for row in rows)
        if study.plateau is not None and searched > study.plateau:
            curve = self.curve(rows)
            some = any(row.status == "done" and row.feasible and row.kind != "control" for row in rows)
            if some and curve[-1] - curve[-1 - study.plateau] <= PLATEAU * curve[-1]:  # equal where both are 0
                said = f"the last {study.plateau} raised the hypervolume by less than 0.1 %"
                return f"the search ends after {len(rows)} trials: {said}"
        return False

    def _one(self) -> Trial:
        """Carry one trial from its question to its row."""
        start = time.perf_counter()
        place = sum(not is_after(row) for row in self.rows)
        given = self.starts[place] if place < len(self.starts) else None
        waiting = unfinished(self.study)
        if given is not None and given.params is not None:
            self.fixed[len(self.rows) if waiting is None else waiting.number] = given.params
        trial = waiting or self.study.ask()
        dense = given is not None and given.params is None
        entry = Entry(
            kind=given.kind if given else "search", label=given.label if given else "", same_as=None,
            choices={} if dense else self.space.choices(trial), plan=None, outcome=NOTHING,
        )  # fmt: skip
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
        asked = self.settings.finish
        assert best.plan is not None
        recovery = replace(best.plan.recovery, epochs=asked.epochs, lr=asked.lr, distill=asked.distill)
        label = f"trial {best.number} after {asked.epochs} epochs"
        blank = Entry(kind="finish", label=label, same_as=None, choices={}, plan=None, outcome=NOTHING, of=best.number)
        return self._again(blank, replace(best.plan.asked, recovery=recovery), self.settings.study.seed)

    def _repeat(self, member: Trial, further: int) -> Trial:
        """Evaluate a point of the front under its `further`-th other seed; a row of its own kind."""
        assert member.plan is not None
        seed = self.settings.study.seed + further
        label = f"trial {member.number} with seed {seed}"
        blank = Entry(
            kind="repeat", label=label, same_as=None, choices={}, plan=None, outcome=NOTHING, of=member.number
        )
        return self._again(blank, member.plan.asked, seed)

    def _again(self, blank: Entry, plan: Plan, seed: int) -> Trial:
        start = time.perf_counter()
        trial = unfinished(self.study) or self.study.ask()
        trained = evaluate(plan, self.bench, seed=seed, minutes=self.settings.study.trial_minutes)
        return self._tell(trial, replace(blank, plan=trained.plan, outcome=trained.outcome), trained, start)

    def _answer(self, entry: Entry, minutes: float) -> tuple[Entry, Trained | None]:
        """What the trial found: an earlier answer, an empty one if it is over budget, or a real evaluation."""
        plan = entry.plan
        assert plan is not None
        twin = self.known.twin(plan)
        if twin is not None:
            outcome = Outcome(status=twin.status, values=twin.values, rungs=twin.rungs, seconds={}, reason=twin.reason)
            number = twin.number if twin.same_as is None else twin.same_as
            return replace(entry, same_as=number, outcome=outcome, plan=twin.plan), None
        try:
            costs = self._static(plan)
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
        trained = evaluate(
            plan, self.bench, seed=self.settings.study.seed, minutes=minutes, limits=later,
            gate=self._gate(entry.kind, plan, costs),
        )  # fmt: skip
        return replace(entry, outcome=trained.outcome, plan=trained.plan), trained

    def _static(self, plan: Plan) -> dict[str, float]:
        """The costs as far as they are known before training; what a joint training will find is not known at all."""
        guess = DENSE if plan.joint is not None and plan.open else foreseen(plan, self.bench.inventory)
        return self.bench.costs(guess)

    def _gate(self, kind: str, plan: Plan, costs: Mapping[str, float]) -> Gate:
        """The rungs as they stand now; none for plans whose costs training finds, since quality alone would decide."""
        names = [STAND_INS.get(name, name) for name in self.settings.objectives[1:]]
        if plan.joint is not None and plan.open:
            return Gate()

        def price(row: Trial) -> tuple[float, ...]:
            if row.number not in self.priced:
                assert row.plan is not None
                found = self._static(row.plan.asked)
                self.priced[row.number] = tuple(found[name] for name in names)
            return self.priced[row.number]

        rungs = Rungs(settings=self.settings.rungs, rows=self.rows, quality=self.settings.objectives[0], costs=price)
        return rungs.gate(kind, [costs[name] for name in names], plan.recovery.epochs)

    def _tell(self, trial: optuna.Trial, entry: Entry, trained: Trained | None, start: float) -> Trial:
        """Keep the weights if they are worth it, then tell; the row as it can be read again."""
        for name, limit in self.settings.limits.items():
            if name in entry.outcome.values:
                trial.set_constraint(name, entry.outcome.values[name] / limit - 1)
        if trained is not None and trained.frozen is not None and entry.kind != "repeat":
            self.keeping.keep(trial.number, entry.outcome.values, trained.frozen, self.rows)
        if trained is not None:
            spent = sum(entry.outcome.seconds.values())
            seconds = entry.outcome.seconds | {"driver": time.perf_counter() - start - spent}
            entry = replace(entry, outcome=replace(entry.outcome, seconds=seconds))
        tell(self.study, trial, entry, self.settings.objectives)
        row = read_trial(self.study.get_trials(deepcopy=False)[trial.number], self.settings.limits)
        self.keeping.tidy([*self.rows, row])
        self._log(row)
        return row

    def _give_up_if_hopeless(self) -> None:
        searched = [row for row in self.rows if row.label != "dense" and row.status != "over_budget"]
        if len(searched) >= HOPELESS and all(row.status == "failed" for row in searched):
            raise ParetuneError(f"all of {len(searched)} trials failed, the last with: {searched[-1].reason}")

    def _log(self, row: Trial) -> None:
        values = {name: row.values.get(name) for name in self.settings.objectives}
        text = json.dumps(values) if row.status == "done" else row.reason
        log.info("trial %d %s %s%s", row.number, row.status, text, f" [{row.label}]" if row.label else "")
