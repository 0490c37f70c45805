"""Winning the loss back: batch-norm statistics, then a short fine-tune, with the dense model as teacher if asked."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.errors import ImpossiblePlan
from paretune.recipe import Recovery
from paretune.tasks.task import Loss, Split

TEMPERATURE, ALPHA = 4.0, 0.7  # of distillation: softening, and its share of the loss
CACHE_VALUES = 64_000_000  # teacher outputs kept in memory, in float32 values

Norm = nn.modules.batchnorm._BatchNorm
Tick = Callable[[], None]


def no_tick() -> None:
    """Called after every batch where nothing needs to be watched."""


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


@dataclass(eq=False)
class Teacher:
    """The dense model's outputs on the training batches of a seed, computed once and kept while they fit."""

    model: nn.Module
    split: Split
    kept: dict[int, list[Tensor]] = field(default_factory=dict)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(inputs, targets, teacher outputs) of one epoch."""
        known = self.kept.get(seed)
        fresh: list[Tensor] = []
        for number, (inputs, targets) in enumerate(self.split.batches(seed)):
            if known is None:
                with torch.no_grad():
                    fresh.append(self.model.eval()(inputs))
            yield inputs, targets, (known or fresh)[number]
        if known is None and self._size() + sum(map(torch.numel, fresh)) <= CACHE_VALUES:
            self.kept[seed] = fresh

    def _size(self) -> int:
        return sum(tensor.numel() for outputs in self.kept.values() for tensor in outputs)


def finetune(
    model: nn.Module,
    recovery: Recovery,
    *,
    loss: Loss,
    teacher: Teacher,
    seeds: Callable[[int], int],
    tick: Tick = no_tick,
) -> None:
    """Train `model` in place for `recovery.epochs`: SGD with momentum 0.9, warm-up over a tenth, then cosine.

    `seeds(epoch)` fixes each epoch's order and augmentation. `tick` is called before every batch and may
    raise to stop.

    Raises:
        ImpossiblePlan: the loss is not finite.
    """
    if recovery.epochs == 0:
        return
    optimizer = torch.optim.SGD(_parameters(model), lr=recovery.lr, momentum=0.9, nesterov=True)
    steps = recovery.epochs * teacher.split.steps()
    # The middle of each step: at its start the first would have a learning rate of zero.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _shape((step + 0.5) / max(1, steps)))
    for epoch in range(recovery.epochs):
        model.train()
        with _own_noise(model, seeds(epoch)):
            for inputs, targets, wanted in _epoch(teacher, recovery.distill, seeds(epoch)):
                tick()
                value = _loss(model(inputs), targets, wanted, loss)
                if not math.isfinite(value.item()):
                    raise ImpossiblePlan(f"the loss became {value.item()} in epoch {epoch + 1} at lr {recovery.lr:g}")
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(value)
                optimizer.step()
                schedule.step()


@contextmanager
def _own_noise(model: nn.Module, seed: int) -> Iterator[None]:
    """Inside, dropout and its like depend on `seed` only; the caller's random state is put back."""
    gpus = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=list(gpus)):
        torch.manual_seed(seed)
        yield


def _epoch(teacher: Teacher, distill: str, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    if distill == "logits":
        yield from teacher.batches(seed)
    else:
        for inputs, targets in teacher.split.batches(seed):
            yield inputs, targets, None


def _loss(outputs: Tensor, targets: Tensor, wanted: Tensor | None, loss: Loss) -> Tensor:
    hard = loss(outputs, targets)
    if wanted is None:
        return hard
    soft = F.kl_div(
        F.log_softmax(outputs / TEMPERATURE, dim=1),
        F.log_softmax(wanted / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - ALPHA) * hard + ALPHA * TEMPERATURE**2 * soft


def _shape(done: float) -> float:
    return done / 0.1 if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))


def _parameters(model: nn.Module) -> list[dict[str, object]]:
    """Weight decay for weights only: biases, norms and quantization steps are left alone."""
    weights = [p for p in model.parameters() if p.ndim > 1 and p.numel() > p.shape[0]]
    chosen = set(map(id, weights))
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": weights, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
