"""One trial, a function of plan and seed: prune, quantize, recover, freeze, score. Knows no study and no config."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from paretune.compress.coded import with_codes
from paretune.compress.compensate import compensated_cut
from paretune.compress.cut import Kept, cut
from paretune.compress.freeze import freeze, thaw
from paretune.compress.hints import kept_inputs
from paretune.compress.joint import find_jointly
from paretune.compress.masks import attach, raw_weight
from paretune.compress.patterns import mask_of
from paretune.compress.quantize import calibrate, quantize
from paretune.compress.recover import Watcher, finetune, fresh, recalibrate, statistics_kept
from paretune.errors import ImpossiblePlan, ParetuneError
from paretune.export.graph import to_onnx
from paretune.export.latency import measure
from paretune.frozen import Frozen
from paretune.outcome import Outcome, Rung
from paretune.plan import DENSE, Plan
from paretune.recipe import LASSO, Recovery
from paretune.search.bench import Bench, epoch_seeds
from paretune.search.clock import Clock
from paretune.search.gate import Gate, Stopped
from paretune.search.gradual import FIRST_EPOCH, found_masks, with_masks
from paretune.tasks.task import Split, score

OPEN = Gate()

MARGIN = 1.25  # how far a budget may be exceeded before the fine-tuning
# What a recipe or a plan may run into; anything else is a bug. PyTorch reports a lack of memory, and a model that
# cannot run after a cut, as RuntimeError or ValueError.
CANNOT = (ImpossiblePlan, MemoryError, RuntimeError, ValueError)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """An evaluated plan: its outcome and, if it got that far, the compressed model as arrays and as a module.

    `plan` is what was carried out: the given plan with the masks that training found.
    """

    outcome: Outcome
    plan: Plan
    frozen: Frozen | None = None
    model: nn.Module | None = None


def evaluate(
    plan: Plan, bench: Bench, *, seed: int, minutes: float = math.inf, limits: Mapping[str, float] | None = None,
    gate: Gate = OPEN,
) -> Trained:  # fmt: skip
    """Carry out `plan` and score what the packed file would compute, on `val`.

    The same plan and seed give the same outcome on the same machine and thread count. A plan that cannot be
    carried out, a loss that is not finite, a lack of memory and a lack of time are outcomes, not exceptions.
    `limits` are budgets on costs that are known only once there are codes: one that is far exceeded before the
    fine-tuning ends the trial there. `gate` looks at the trial on its way, which changes nothing if it goes on.
    """
    clock = Clock(deadline=time.monotonic() + 60 * minutes)
    run = Run(bench=bench, seed=seed, clock=clock, plan=plan, limits=limits or {}, gate=gate)
    try:
        frozen, model = compress(run)
        with clock.stage("score"):
            quality = quality_of(bench, model, bench.task.val, clock)
        costs = bench.costs(run.plan) | _latency(bench, model, frozen, clock)
    except OverBudget as over:
        outcome = Outcome(
            status="over_budget", values=over.costs, rungs=tuple(run.rungs), seconds=clock.stages, reason=str(over)
        )
        return Trained(outcome=outcome, plan=run.plan)
    except Stopped as stop:
        outcome = Outcome(
            status="stopped", values=_known_costs(run), rungs=tuple(run.rungs), seconds=clock.stages, reason=str(stop)
        )
        return Trained(outcome=outcome, plan=run.plan)
    except CANNOT as problem:
        reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
        rungs = tuple(run.rungs)
        outcome = Outcome(status="failed", values=_known_costs(run), rungs=rungs, seconds=clock.stages, reason=reason)
        return Trained(outcome=outcome, plan=run.plan)
    values = {bench.task.quality.name: quality, **costs}
    outcome = Outcome(status="done", values=values, rungs=tuple(run.rungs), seconds=clock.stages)
    return Trained(outcome=outcome, plan=run.plan, frozen=frozen, model=model)


def _latency(bench: Bench, model: nn.Module, frozen: Frozen, clock: Clock) -> dict[str, float]:
    """Median milliseconds of the trial's graph on this machine, if the study asks for them.

    Raises:
        ImpossiblePlan: the graph cannot be written or does not run.
    """
    if bench.timing is None:
        return {}
    example = bench.task.example()
    with clock.stage("latency"):
        try:
            graph = to_onnx(model, frozen, example).SerializeToString()
            return {"latency_ms": measure([graph], example.cpu().numpy(), bench.timing)[0].median_ms}
        except ParetuneError as error:
            raise ImpossiblePlan(f"no latency: {error}") from error


class OverBudget(Exception):
    """A budget that is far exceeded before the fine-tuning; `costs` as they are then."""

    def __init__(self, text: str, costs: dict[str, float]) -> None:
        super().__init__(text)
        self.costs = costs


@dataclass(kw_only=True, eq=False)
class Run:
    """One evaluation on its way; `plan` is replaced when training finds something."""

    bench: Bench
    seed: int
    clock: Clock
    plan: Plan
    limits: Mapping[str, float] = field(default_factory=dict)
    gate: Gate = OPEN
    rungs: list[Rung] = field(default_factory=list)

    def look(self, epochs: int, score: float) -> None:
        """Note the score after `epochs` and ask the gate, which is not asked at a trial's end.

        Raises:
            Stopped: the gate says so.
        """
        looked_at = self.gate.looks(epochs, self.plan.recovery.epochs)
        answer = self.gate.judge(epochs, score) if looked_at else None
        self.rungs.append(Rung(epochs=epochs, score=score, judged=answer is not None))
        if answer:
            raise Stopped(answer)


def _known_costs(run: Run) -> dict[str, float]:
    """The costs of a plan that has failed; none if it is open or asks for an encoding that does not fit."""
    if run.plan.open:
        return {}
    try:
        return run.bench.costs(run.plan)
    except ImpossiblePlan:
        return {}


def compress(run: Run) -> tuple[Frozen, nn.Module]:
    """The compressed model, frozen, and thawed again; scores on the way are appended to the run's rungs."""
    bench, clock, task = run.bench, run.clock, run.bench.task
    model = _cut(run)
    if run.plan.open:
        with clock.stage("prune"):
            model = _found(model, run)
    with clock.stage("quantize"):
        quantize(model, run.plan)
    if run.plan != DENSE:
        _settle(model, run)
        with clock.stage("score"):
            score = quality_of(bench, model, task.val, clock)
        run.look(0, score)
        _stop_if_over(model, run)
        _finetune(model, run)
    with clock.stage("freeze"):
        frozen = freeze(model.eval(), bench.inventory, run.plan)
        run.plan = with_codes(run.plan, frozen)
        thawed = thaw(task.model, bench.inventory, run.plan, frozen)
    return frozen, thawed


def _settle(model: nn.Module, run: Run) -> None:
    """Batch-norm statistics and activation ranges of the model as it is now."""
    images = _images(run)
    with run.clock.stage("recalibrate"):
        recalibrate(model, run.clock.watched(images))
        calibrate(model, images[0][0])
        recalibrate(model, run.clock.watched(images))


def _found(model: nn.Module, run: Run) -> nn.Module:
    """The model with the masks, or the channels and bits, that a training has found; the run's plan then says which."""
    plan, bench, clock = run.plan, run.bench, run.clock
    if plan.joint is not None:
        of = epoch_seeds(run.seed)
        model, run.plan = find_jointly(
            model, bench.inventory, plan, loss=bench.task.loss, teacher=bench.teacher, seed=run.seed,
            seeds=lambda epoch: of(FIRST_EPOCH + epoch), calibration=_images(run), tick=clock.tick,
        )  # fmt: skip
        return model
    assert plan.pruning is not None
    if plan.pruning.schedule in LASSO:
        weights = {name: raw_weight(model.get_submodule(name)) for name in plan.pruning.wanted}
        attach(model, {name: np.ones(tuple(weight.shape), np.bool_) for name, weight in weights.items()})
        quantize(model, plan)
        _settle(model, run)
    else:
        recalibrate(model, clock.watched(_images(run)))
    run.plan = with_masks(plan, found_masks(model, plan, bench, seed=run.seed, tick=clock.tick))
    return model


def _stop_if_over(model: nn.Module, run: Run) -> None:
    """The codes before the fine-tuning are a good guess at those after it.

    Raises:
        OverBudget: a limit is exceeded by more than `MARGIN`.
    """
    if not run.limits or not run.plan.recovery.epochs:
        return
    guess = with_codes(run.plan, freeze(model.eval(), run.bench.inventory, run.plan))
    costs = run.bench.costs(guess)
    over = [f"{name} {costs[name]:g} > {limit:g}" for name, limit in run.limits.items() if costs[name] > MARGIN * limit]
    if over:
        raise OverBudget(f"before the fine-tuning {', '.join(over)}", costs)


def _cut(run: Run) -> nn.Module:
    """The smaller model with its masks attached, repaired or with new weights if the recovery says so."""
    plan, bench, recovery = run.plan, run.bench, run.plan.recovery
    model = bench.task.model
    with run.clock.stage("cut"):
        if recovery.start == "scratch":
            model = fresh(copy.deepcopy(model), run.seed)
        small = _smaller(model, bench, plan.kept, recovery, run.clock)
        masks = {
            row.layer: mask_of(row.pattern, raw_weight(small.get_submodule(row.layer)).shape)
            for row in plan.layers
            if row.pattern is not None
        }
        attach(small, masks)
    return small


def _smaller(model: nn.Module, bench: Bench, kept: Kept, recovery: Recovery | None, clock: Clock) -> nn.Module:
    if recovery is None or recovery.compensate == "none":
        return cut(model, bench.inventory, kept)
    images = list(bench.some(recovery.images))
    return compensated_cut(model, bench.inventory, kept, images, recovery.ridge, tick=clock.tick)


def judge_of(bench: Bench, recovery: Recovery | None, clock: Clock) -> Callable[[Kept], float]:
    """A function that says what a cut costs without training: the quality on `val` after batch-norm recalibration,
    and before it the compensation that `recovery` asks for, if any.
    """

    def judge(kept: Kept) -> float:
        model = _smaller(bench.task.model, bench, kept, recovery, clock)
        recalibrate(model, clock.watched(bench.some(recovery.images) if recovery else bench.calibration))
        return quality_of(bench, model, bench.task.val, clock)

    return judge


def untrained(plan: Plan, bench: Bench, clock: Clock) -> nn.Module:
    """The model cut and quantized, its batch norms and ranges measured anew, in eval mode.

    Raises:
        ImpossiblePlan: the plan cannot be carried out, or leaves something to be found in training.
    """
    if plan.open:
        raise ImpossiblePlan("what training finds cannot be looked at before it")
    run = Run(bench=bench, seed=0, clock=clock, plan=plan)
    model = quantize(_cut(run), plan)
    _settle(model, run)
    return model.eval()


def _images(run: Run) -> tuple[tuple[Tensor, Tensor], ...]:
    return run.bench.some(run.plan.recovery.images)


def _finetune(model: nn.Module, run: Run) -> None:
    recovery, bench, clock = run.plan.recovery, run.bench, run.clock
    if recovery.epochs == 0:
        return
    hint = bench.teacher.hint_layer
    kept = None if hint is None else kept_inputs(bench.inventory, hint, run.plan.kept)
    with clock.stage("finetune"):
        finetune(
            model, recovery, loss=bench.task.loss, teacher=bench.teacher, seeds=epoch_seeds(run.seed), tick=clock.tick,
            kept=kept, precision=bench.precision, watcher=_Looking(model, run),
        )  # fmt: skip
    if "bn_frozen" not in recovery.mode:  # there the statistics are meant to stay as they were while it trained
        with clock.stage("recalibrate"):
            recalibrate(model, clock.watched(_images(run)))
    with clock.stage("score"):
        run.rungs.append(Rung(epochs=recovery.epochs, score=quality_of(bench, model, bench.task.val, clock)))


class _Looking(Watcher):
    """Scores a model between two epochs of its fine-tune and leaves it as it was."""

    def __init__(self, model: nn.Module, run: Run) -> None:
        self._model, self._run = model, run

    def on_epoch(self, epoch: int) -> None:
        run, done = self._run, epoch + 1
        if not run.gate.looks(done, run.plan.recovery.epochs):
            return
        with statistics_kept(self._model):
            if "bn_frozen" not in run.plan.recovery.mode:
                with run.clock.stage("recalibrate"):
                    recalibrate(self._model, run.clock.watched(_images(run)))
            with run.clock.stage("score"):
                score = quality_of(run.bench, self._model, run.bench.task.val, run.clock)
        run.look(done, score)


def quality_of(bench: Bench, model: nn.Module, split: Split, clock: Clock) -> float:
    """The task's quality metric of `model` on `split`.

    Raises:
        ImpossiblePlan: the metric is not a finite number.
    """
    quality = score(model, clock.watched(split.batches(None)), bench.task.errors)
    if not math.isfinite(quality):
        raise ImpossiblePlan(f"{bench.task.quality.name} is {quality}")
    return quality
