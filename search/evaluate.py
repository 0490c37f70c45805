"""One trial, a function of plan and seed: prune, quantize, recover, freeze, score. Knows no study and no config."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from torch import nn

from paretune.compress.cut import cut
from paretune.compress.freeze import freeze, thaw
from paretune.compress.quantize import calibrate, quantize
from paretune.compress.recover import finetune, recalibrate
from paretune.costs.table import static_costs
from paretune.errors import ImpossiblePlan, OutOfTime
from paretune.frozen import Frozen
from paretune.outcome import Outcome, Rung
from paretune.plan import DENSE, Plan
from paretune.profile import profile
from paretune.search.bench import Bench
from paretune.tasks.task import Split, score

T = TypeVar("T")


@dataclass
class Clock:
    """Seconds per stage, and the moment at which a trial has to stop."""

    deadline: float = math.inf
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside the block to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start

    def tick(self) -> None:
        """Raise if the time is up."""
        if time.monotonic() > self.deadline:
            raise OutOfTime("it outlasted study.trial_minutes and was stopped at a batch")

    def watched(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, with a look at the time before each."""
        for batch in batches:
            self.tick()
            yield batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """An evaluated plan: its outcome and, if it got that far, the compressed model as arrays and as a module."""

    outcome: Outcome
    frozen: Frozen | None = None
    model: nn.Module | None = None


def evaluate(plan: Plan, bench: Bench, *, seed: int, minutes: float = math.inf) -> Trained:
    """Carry out `plan` and score what the packed file would compute, on `val`.

    The same plan and seed give the same outcome on the same machine and thread count. A plan that cannot be
    carried out, a loss that is not finite, a lack of memory and a lack of time are outcomes, not exceptions.
    """
    costs = static_costs(profile(bench.inventory, plan))
    clock = Clock(deadline=time.monotonic() + 60 * minutes)
    rungs: list[Rung] = []
    try:
        frozen, model = compress(plan, bench, seed=seed, clock=clock, rungs=rungs)
        with clock.stage("score"):
            quality = quality_of(bench, model, bench.task.val, clock)
    except (ImpossiblePlan, MemoryError, RuntimeError, ValueError) as problem:
        # PyTorch reports a lack of memory, and a model that cannot run after a cut, as RuntimeError or ValueError.
        reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
        outcome = Outcome(status="failed", values=costs, rungs=tuple(rungs), seconds=clock.stages, reason=reason)
        return Trained(outcome=outcome)
    values = {bench.task.quality.name: quality, **costs}
    outcome = Outcome(status="done", values=values, rungs=tuple(rungs), seconds=clock.stages)
    return Trained(outcome=outcome, frozen=frozen, model=model)


def compress(plan: Plan, bench: Bench, *, seed: int, clock: Clock, rungs: list[Rung]) -> tuple[Frozen, nn.Module]:
    """The compressed model, frozen, and thawed again; scores on the way are appended to `rungs`."""
    task, inventory = bench.task, bench.inventory
    with clock.stage("cut"):
        model = cut(task.model, inventory, plan.kept)
    with clock.stage("quantize"):
        quantize(model, plan)
    if plan != DENSE:
        with clock.stage("recalibrate"):
            recalibrate(model, clock.watched(bench.calibration))
            calibrate(model, bench.calibration[0][0])
            recalibrate(model, clock.watched(bench.calibration))
        with clock.stage("score"):
            rungs.append(Rung(epochs=0, score=quality_of(bench, model, task.val, clock)))
        _finetune(model, plan, bench, seed=seed, clock=clock, rungs=rungs)
    with clock.stage("freeze"):
        frozen = freeze(model.eval(), inventory, plan)
        thawed = thaw(task.model, inventory, plan, frozen)
    return frozen, thawed


def _finetune(model: nn.Module, plan: Plan, bench: Bench, *, seed: int, clock: Clock, rungs: list[Rung]) -> None:
    if plan.recovery.epochs == 0:
        return
    with clock.stage("finetune"):
        finetune(
            model, plan.recovery, loss=bench.task.loss, teacher=bench.teacher, seeds=epoch_seeds(seed), tick=clock.tick
        )
    with clock.stage("recalibrate"):
        recalibrate(model, clock.watched(bench.calibration))
    with clock.stage("score"):
        rungs.append(Rung(epochs=plan.recovery.epochs, score=quality_of(bench, model, bench.task.val, clock)))


def quality_of(bench: Bench, model: nn.Module, split: Split, clock: Clock) -> float:
    """The task's quality metric of `model` on `split`.

    Raises:
        ImpossiblePlan: the metric is not a finite number.
    """
    quality = score(model, clock.watched(split.batches(None)), bench.task.errors)
    if not math.isfinite(quality):
        raise ImpossiblePlan(f"{bench.task.quality.name} is {quality}")
    return quality


def epoch_seeds(seed: int) -> Callable[[int], int]:
    """Seeds of the epochs' order and augmentation: the same in every trial of a study, so that trials differ by
    their plans only and the teacher's outputs are computed once.
    """

    def of(epoch: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}".encode()).digest()[:6], "little")

    return of
