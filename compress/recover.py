"""Winning the loss back: batch-norm statistics, then a short fine-tune, with the dense model as teacher if asked."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretune.compress.descent import Descent
from paretune.compress.hints import Hints, reading
from paretune.compress.masks import masked_layers
from paretune.compress.precision import PLAIN, Precision, training_in
from paretune.compress.quantize import tell_quantizers
from paretune.errors import ImpossiblePlan, ParetuneError, pick
from paretune.recipe import DISTILL, MODES, Recovery
from paretune.tasks.task import Loss, Split

CACHE_VALUES = 64_000_000  # teacher outputs and features kept in memory, in float32 values

Norm = nn.modules.batchnorm._BatchNorm
Tick = Callable[[], None]
Seeds = Callable[[int], int]
Penalty = Callable[[nn.Module], Tensor]  # a scalar that the loss gets on top


def no_tick() -> None:
    """Called after every batch where nothing needs to be watched."""


class Watcher:
    """What is told about a fine-tune while it runs, and may change the model then; this one does nothing."""

    def on_gradients(self, model: nn.Module) -> None:
        """After every backward pass, before the optimizer's step."""

    def on_step(self, model: nn.Module) -> None:
        """After every optimizer step."""

    def on_epoch(self, epoch: int) -> None:
        """After every epoch, counted from 0."""


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Measure batch-norm statistics anew, as the plain mean over `batches`, in place.

    Feed inputs augmented as in training: clean ones took an uncompressed ResNet-20 from 0.1 % to 4.6 % error.
    Li et al. 2020, EagleEye, https://arxiv.org/abs/2007.02491.
    """
    norms = [module for module in model.modules() if isinstance(module, Norm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative mean
        norm.train()
    for inputs, _ in batches:
        model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Whatever is measured inside, batch norms have the running statistics afterwards that they have now."""
    norms = [module for module in model.modules() if isinstance(module, Norm)]
    before = [[buffer.clone() for buffer in norm.buffers()] for norm in norms]
    try:
        yield
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            for buffer, value in zip(norm.buffers(), buffers, strict=True):
                buffer.copy_(value)


def fresh(model: nn.Module, seed: int) -> nn.Module:
    """`model` with all weights drawn anew, in place, as each module's `reset_parameters` does.

    The global generator is left alone. To be called before masks and quantizers are attached.

    Raises:
        ImpossiblePlan: a module has weights and no `reset_parameters`, or no module has weights.
    """
    assert not any(map(parametrize.is_parametrized, model.modules())), "fresh weights come before masks and quantizers"
    holders = {name: m for name, m in model.named_modules() if any(p is not None for p in m._parameters.values())}
    stuck = [name or "the model itself" for name, m in holders.items() if not hasattr(m, "reset_parameters")]
    if stuck or not holders:
        what = f"{', '.join(stuck)} cannot" if stuck else "no module has weights that can"
        raise ImpossiblePlan(f"start 'scratch' needs reset_parameters(): {what} be drawn anew; use start 'trained'")
    with _own_noise(model, seed):
        for module in model.modules():
            if callable(draw := getattr(module, "reset_parameters", None)):
                draw()
    return model


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesson:
    """What the teacher says to one batch: outputs (n, classes), and the features its hint layer reads, if asked."""

    outputs: Tensor
    features: Tensor | None = None

    def numel(self) -> int:
        """How many numbers it holds."""
        return self.outputs.numel() + (0 if self.features is None else self.features.numel())


@dataclass(eq=False)
class Teacher:
    """The dense model's outputs on the training batches of a seed, computed once and kept while they fit.

    `hint_layer` names the layer whose input is the hint; features are computed only for those who ask.
    """

    model: nn.Module
    split: Split
    hint_layer: str | None = None
    kept: dict[int, list[Lesson]] = field(default_factory=dict)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(inputs, targets, teacher outputs) of one epoch."""
        for inputs, targets, lesson in self.lessons(seed):
            yield inputs, targets, lesson.outputs

    def lessons(self, seed: int, *, features: bool = False) -> Iterator[tuple[Tensor, Tensor, Lesson]]:
        """(inputs, targets, lesson) of one epoch, the lessons with `features` if asked.

        Raises:
            ParetuneError: features are asked for and there is no `hint_layer`.
        """
        if features and self.hint_layer is None:
            raise ParetuneError("distill 'hints' needs a teacher with a hint_layer, such as the name of the last layer")
        known = self.kept.get(seed)
        if known and features and known[0].features is None:
            known = None
        new: list[Lesson] = []
        for number, (inputs, targets) in enumerate(self.split.batches(seed)):
            if known is None:
                new.append(self._lesson(inputs, features))
            yield inputs, targets, (known or new)[number]
        if known is None and self._size(without=seed) + sum(lesson.numel() for lesson in new) <= CACHE_VALUES:
            self.kept[seed] = new

    @torch.no_grad()
    def _lesson(self, inputs: Tensor, features: bool) -> Lesson:
        with reading(self.model, self.hint_layer if features else None) as seen:
            outputs = self.model.eval()(inputs)
        return Lesson(outputs=outputs, features=seen[-1] if features else None)

    def _size(self, without: int) -> int:
        return sum(lesson.numel() for seed, epoch in self.kept.items() if seed != without for lesson in epoch)


def finetune(
    model: nn.Module,
    recovery: Recovery,
    *,
    loss: Loss,
    teacher: Teacher,
    seeds: Seeds,
    tick: Tick = no_tick,
    watcher: Watcher | None = None,
    kept: Sequence[int] | None = None,
    penalty: Penalty | None = None,
    parameters: Callable[[nn.Module], list[dict[str, object]]] | None = None,
    precision: Precision = PLAIN,
) -> None:
    """Train `model` in place for `recovery.epochs`: SGD with momentum 0.9, warm-up over a tenth, then cosine.

    `seeds(epoch)` fixes each epoch's order and augmentation. `tick` is called before every batch and may raise to stop.
    `kept[i]` is the teacher's feature that the student's i-th one was (see `hints.kept_inputs`). The mode `ste_mask`
    lets masked weights learn, though the forward stays masked; they keep what they learned behind the mask. In the mode
    `bn_frozen` batch norms use, and keep, the running statistics they came with; their scale and shift still learn.
    `penalty(model)` is added to the loss. `parameters(model)` gives the optimizer's groups, which may have learning
    rates of their own; by default everything learns, and weights decay. `precision` is that of the student's forward
    and backward passes only; the teacher answers in float32.

    Raises:
        ImpossiblePlan: the loss is not finite.
        ParetuneError: an unknown mode or way to distill, or hints from a teacher without a hint layer.
    """
    mode, distill = _parts(MODES, recovery.mode, "mode"), _parts(DISTILL, recovery.distill, "distill")
    if recovery.epochs == 0:
        return
    hints = Hints(model, teacher.model, teacher.hint_layer, kept) if "hints" in distill else None
    study = _Studying(recovery=recovery, loss=loss, distill=distill, hints=hints, penalty=penalty, precision=precision)
    watcher = watcher or Watcher()
    with training_in(model, precision):
        own = [{"params": list(hints.adapter.parameters()), "weight_decay": 0.0}] if hints else []
        groups = (parameters or parameter_groups)(model) + own
        descent = Descent(groups, recovery.lr, recovery.epochs * teacher.split.steps(), precision)
        for epoch in range(recovery.epochs):
            with (
                straight(model, "ste_mask" in mode),
                _training(model, "bn_frozen" in mode),
                _own_noise(model, seeds(epoch)),
            ):
                for inputs, targets, lesson in _epoch(teacher, distill, seeds(epoch)):
                    tick()
                    tell_quantizers(model, descent.share)
                    value = study.value(model, inputs, targets, lesson)
                    if not math.isfinite(value.item()):
                        raise ImpossiblePlan(
                            f"the loss became {value.item()} in epoch {epoch + 1} at lr {recovery.lr:g}"
                        )
                    descent.step(value, lambda: watcher.on_gradients(model))
                    watcher.on_step(model)
            watcher.on_epoch(epoch)
    tell_quantizers(model, 1.0)


def _parts(known: Sequence[str], asked: str, kind: str) -> list[str]:
    """ "a+b" as ["a", "b"], if it is known."""
    return pick({name: name.split("+") for name in known}, asked, f"{kind} of the fine-tune")


@contextmanager
def straight(model: nn.Module, on: bool) -> Iterator[None]:
    """Inside, the gradients of masked weights are the whole ones (True) or zero (False); then it is as it was."""
    before = [(mask, mask.straight) for _, _, mask in masked_layers(model)]
    for mask, _ in before:
        mask.straight = on
    try:
        yield
    finally:
        for mask, was in before:
            mask.straight = was


@contextmanager
def _training(model: nn.Module, frozen: bool) -> Iterator[None]:
    """Training mode, also afterwards; inside, `frozen` leaves the batch norms in eval mode."""
    model.train()
    norms = [module for module in model.modules() if isinstance(module, Norm)] if frozen else []
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


@contextmanager
def _own_noise(model: nn.Module, seed: int) -> Iterator[None]:
    """Inside, dropout and its like depend on `seed` only; the caller's random state is put back."""
    gpus = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=list(gpus)):
        torch.manual_seed(seed)
        yield


def _epoch(teacher: Teacher, distill: Sequence[str], seed: int) -> Iterator[tuple[Tensor, Tensor, Lesson | None]]:
    if "none" in distill:
        for inputs, targets in teacher.split.batches(seed):
            yield inputs, targets, None
    else:
        yield from teacher.lessons(seed, features="hints" in distill)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Studying:
    """What a student is told: the task's loss, the teacher's outputs and features, a penalty."""

    recovery: Recovery
    loss: Loss
    distill: Sequence[str]
    hints: Hints | None
    penalty: Penalty | None
    precision: Precision = PLAIN

    def value(self, model: nn.Module, inputs: Tensor, targets: Tensor, lesson: Lesson | None) -> Tensor:
        with reading(model, self.hints.layer if self.hints else None) as seen:
            outputs = self.precision.outputs(model, inputs)
        wanted = lesson.outputs if lesson and "logits" in self.distill else None
        value = _loss(outputs, targets, wanted, self.loss, self.recovery)
        if self.hints and lesson and lesson.features is not None:
            features = seen[-1].to(lesson.features.dtype)
            value = value + self.recovery.hint * self.hints.distance(features, lesson.features)
        return value if self.penalty is None else value + self.penalty(model)


def _loss(outputs: Tensor, targets: Tensor, wanted: Tensor | None, loss: Loss, recovery: Recovery) -> Tensor:
    hard = loss(outputs, targets)
    if wanted is None:
        return hard
    temperature, alpha = recovery.temperature, recovery.alpha
    soft = F.kl_div(
        F.log_softmax(outputs / temperature, dim=1),
        F.log_softmax(wanted / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """Weight decay for weights only: biases, norms and quantization steps are left alone."""
    weights = [p for p in model.parameters() if p.ndim > 1 and p.numel() > p.shape[0]]
    chosen = set(map(id, weights))
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": weights, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
