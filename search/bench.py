"""Whatever is the same in every trial, computed once: inventory, calibration batches, teacher."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from paretune.compress.groups import discover
from paretune.compress.recover import Teacher
from paretune.costs.hardware import Hardware
from paretune.costs.table import costs_of
from paretune.errors import ParetuneError
from paretune.export.latency import Timing
from paretune.inventory import Inventory
from paretune.plan import Plan
from paretune.tasks.task import Task

CALIBRATION_IMAGES = 1024
CALIBRATION_SEED = 2**20  # apart from the seeds of epochs, so that no trial trains on exactly these batches


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A task laid out for trials. `calibration` holds batches of `train`, augmented as in training; with `hardware`
    what it pays counts among the costs, with a `timing` the latency of every trial's graph is measured.
    """

    task: Task
    inventory: Inventory
    calibration: tuple[tuple[Tensor, Tensor], ...]
    teacher: Teacher
    hardware: Hardware | None = None
    timing: Timing | None = None

    def costs(self, plan: Plan) -> dict[str, float]:
        """Every static cost of `plan`, by name, without building the model.

        Raises:
            ImpossiblePlan: the plan asks for an encoding that does not fit a layer.
        """
        return costs_of(self.inventory, plan, self.hardware)

    def some(self, images: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """The calibration batches that hold the first `images` images, the last one cut short."""
        found, left = [], images
        for inputs, targets in self.calibration:
            if left > 0:
                found.append((inputs[:left], targets[:left]))
            left -= len(targets)
        return tuple(found)


def lay_out(task: Task, hardware: Hardware | None = None, timing: Timing | None = None) -> Bench:
    """Discover the model's inventory and draw the calibration batches; no training.

    Raises:
        ParetuneError: the training split is empty or holds inputs that are not finite numbers.
    """
    batches, seen = [], 0
    for inputs, targets in task.train.batches(CALIBRATION_SEED):
        batches.append((inputs, targets))
        seen += len(targets)
        if seen >= CALIBRATION_IMAGES:
            break
    _check_calibration(batches, task)
    inventory = discover(task.model, task.example())
    last = inventory.weighted[-1].name if inventory.weighted else None
    return Bench(
        task=task,
        inventory=inventory,
        calibration=tuple(batches),
        teacher=Teacher(model=task.model, split=task.train, hint_layer=last),
        hardware=hardware,
        timing=timing,
    )


def _check_calibration(batches: Sequence[tuple[Tensor, Tensor]], task: Task) -> None:
    if not sum(len(targets) for _, targets in batches):
        raise ParetuneError(f"the training split of task '{task.name}' is empty, so there is nothing to calibrate on")
    broken = sum(int((~inputs.isfinite()).flatten(1).any(dim=1).sum()) for inputs, _ in batches)
    if broken:
        drawn = sum(len(targets) for _, targets in batches)
        raise ParetuneError(
            f"{broken} of {drawn} calibration inputs of task '{task.name}' hold NaN or infinity; clean its "
            "training split"
        )


def epoch_seeds(seed: int) -> Callable[[int], int]:
    """Seeds of the epochs' order and augmentation: the same in every trial of a study, so that trials differ by
    their plans only and the teacher's outputs are computed once.
    """

    def of(epoch: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}".encode()).digest()[:6], "little")

    return of
