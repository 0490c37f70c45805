"""Whatever is the same in every trial, computed once: inventory, calibration batches, teacher."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from paretune.compress.by_hand import by_hand
from paretune.compress.groups import discover
from paretune.compress.layers import own_floats, survey
from paretune.compress.precision import PLAIN, Precision
from paretune.compress.recover import Teacher
from paretune.conf.settings import InventorySettings
from paretune.costs.hardware import Hardware
from paretune.costs.table import costs_of
from paretune.errors import ParetuneError, UnknownName, near_miss
from paretune.export.latency import Timing
from paretune.inventory import Inventory
from paretune.plan import Plan
from paretune.tasks.task import Task

CALIBRATION_IMAGES = 1024
CALIBRATION_SEED = 2**20  # apart from the seeds of epochs, so that no trial trains on exactly these batches
TRACED = InventorySettings()
WAYS_OUT = (
    "keep the layers that it fails on out with inventory.exclude, or name the groups by hand in inventory.groups; "
    "`paretune inspect` lists the layers"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A task laid out for trials. `calibration` holds batches of `train`, augmented as in training; with `hardware`
    what it pays counts among the costs, with a `timing` the latency of every trial's graph is measured. Fine-tunes
    compute in `precision`; trainings that find masks, channels or bits, and everything else, in float32.
    """

    task: Task
    inventory: Inventory
    calibration: tuple[tuple[Tensor, Tensor], ...]
    teacher: Teacher
    hardware: Hardware | None = None
    timing: Timing | None = None
    precision: Precision = PLAIN

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


def lay_out(
    task: Task, hardware: Hardware | None = None, timing: Timing | None = None,
    asked: InventorySettings = TRACED,
) -> Bench:  # fmt: skip
    """Find the model's inventory as `asked` and draw the calibration batches; no training.

    Raises:
        ParetuneError: the training split is empty or holds inputs that are not finite numbers, or as in
            `inventory_of`.
    """
    batches, seen = [], 0
    for inputs, targets in task.train.batches(CALIBRATION_SEED):
        batches.append((inputs, targets))
        seen += len(targets)
        if seen >= CALIBRATION_IMAGES:
            break
    _check_calibration(batches, task)
    inventory = inventory_of(task.model, task.example(), asked)
    last = inventory.weighted[-1].name if inventory.weighted else None
    return Bench(
        task=task,
        inventory=inventory,
        calibration=tuple(batches),
        teacher=Teacher(model=task.model, split=task.train, hint_layer=last),
        hardware=hardware,
        timing=timing,
    )


def inventory_of(model: nn.Module, example: Tensor, asked: InventorySettings) -> Inventory:
    """The layers and channel groups of `model` on `example` (N, ...): traced, or by hand if `asked` lists groups.

    Raises:
        UnknownName: a wildcard to exclude that matches no layer.
        ParetuneError: the forward fails on `example`, the groups cannot be found, or as in `by_hand`.
    """
    if asked.groups is not None:
        return by_hand(model, example, asked.groups)
    names = [name for name, module in model.named_modules() if own_floats(module)]
    for pattern in asked.exclude:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownName(f"inventory.exclude: no layer matches '{pattern}'.{near_miss(pattern, names)}")
    try:
        return discover(model, example, seconds=asked.seconds, exclude=asked.exclude)
    except ParetuneError as error:
        if "inventory." in str(error):  # it says so itself
            raise
        survey(model, example)  # raises if the forward fails on this example: there, no exclusion helps
        raise ParetuneError(f"{error}; {WAYS_OUT}") from error


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
