"""Whatever is the same in every trial, computed once: inventory, calibration batches, teacher, criterion scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from paretune.compress.criteria import Scores, score_groups
from paretune.compress.groups import discover
from paretune.compress.recover import Teacher
from paretune.inventory import Inventory
from paretune.tasks.task import Task

CALIBRATION_IMAGES = 1024
CALIBRATION_SEED = 2**20  # apart from the seeds of epochs, so that no trial trains on exactly these batches


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A task laid out for trials. `calibration` holds batches of `train`, augmented as in training."""

    task: Task
    inventory: Inventory
    calibration: tuple[tuple[Tensor, Tensor], ...]
    teacher: Teacher


def lay_out(task: Task) -> Bench:
    """Discover the model's inventory and draw the calibration batches; no training."""
    batches, seen = [], 0
    for inputs, targets in task.train.batches(CALIBRATION_SEED):
        batches.append((inputs, targets))
        seen += len(targets)
        if seen >= CALIBRATION_IMAGES:
            break
    return Bench(
        task=task,
        inventory=discover(task.model, task.example()),
        calibration=tuple(batches),
        teacher=Teacher(model=task.model, split=task.train),
    )


def study_scores(bench: Bench, criteria: Sequence[str], seed: int, cache: Path) -> Scores:
    """Criterion scores of every group: read from `cache` (.npz) if it holds them, else computed and written there."""
    if cache.exists():
        with np.load(cache) as stored:
            known: dict[str, dict[str, np.ndarray]] = {}
            for key in stored.files:
                criterion, group = key.split("/", 1)
                known.setdefault(criterion, {})[group] = stored[key]
        if set(criteria) <= set(known):
            return known
    scores = score_groups(bench.task.model, bench.inventory, criteria, bench.calibration, bench.task.loss, seed)
    flat = {f"{criterion}/{group}": v for criterion, groups in scores.items() for group, v in groups.items()}
    partial = cache.with_suffix(".part.npz")
    np.savez(partial, **flat)  # type: ignore[arg-type]
    partial.replace(cache)
    return scores
