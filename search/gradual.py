"""Masks that are found while the network trains: score, mask, tune, round by round; FlipOut; or under a penalty."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from torch import nn

from paretune.compress.blend import weight_scores
from paretune.compress.clipping import lasso_masks
from paretune.compress.criteria import score_model
from paretune.compress.flipout import flipout
from paretune.compress.masks import Masks
from paretune.compress.narrow import narrow
from paretune.compress.normalised import normalised
from paretune.compress.planning import Found, find_masks, stored
from paretune.compress.recover import Tick, recalibrate
from paretune.compress.schedule import prune_in_training
from paretune.inventory import Inventory
from paretune.plan import Pattern, Plan
from paretune.recipe import LASSO, Pruning, Wanted
from paretune.search.bench import Bench, epoch_seeds

FLIPOUT = {"flipout": "flips", "magnitude": "magnitude"}  # schedule -> ranking, both with FlipOut's times of pruning
FIRST_EPOCH = 10_000  # apart from the epochs of the recovery that follows, so that those meet other batches


def found_masks(model: nn.Module, plan: Plan, bench: Bench, *, seed: int, tick: Tick) -> Found:
    """Train `model` in place by `plan.pruning` and return the masks it ended with, which are attached to it.

    For the schedules under a penalty it comes with masks of ones and its quantizers.
    """
    pruning = plan.pruning
    assert pruning is not None
    of = epoch_seeds(seed)
    left = narrow(bench.inventory, plan.kept)
    shared: dict[str, Any] = {
        "loss": bench.task.loss, "teacher": bench.teacher, "seeds": lambda epoch: of(FIRST_EPOCH + epoch), "tick": tick,
    }  # fmt: skip
    if pruning.schedule in FLIPOUT:
        masks_by_flips = flipout(model, pruning, seed=seed, by=FLIPOUT[pruning.schedule], **shared)
        return Found(masks=masks_by_flips, partitions={})
    if pruning.schedule in LASSO:
        return Found(masks=lasso_masks(model, pruning, mode=plan.recovery.mode, **shared), partitions={})

    def settle(now: nn.Module) -> None:
        recalibrate(now, bench.some(plan.recovery.images))

    if pruning.schedule == "normalised":
        return Found(masks=normalised(model, pruning, settle=settle, **shared), partitions={})

    def rank(now: nn.Module) -> Mapping[str, NDArray[Any]]:
        return ranked(now, pruning, left, bench, seed)

    partitions: dict[str, Pattern] = {}

    def masks(wanted: Mapping[str, Wanted], scores: Mapping[str, NDArray[Any]], scope: str, minimum: int) -> Masks:
        found = find_masks(wanted, scores, left, scope, minimum, seed)
        partitions.update(found.partitions)
        return found.masks

    trained = prune_in_training(
        model, pruning, mode=plan.recovery.mode, rank=rank, make_masks=masks, settle=settle, **shared
    )
    return Found(masks=trained, partitions=partitions)


def ranked(model: nn.Module, pruning: Pruning, left: Inventory, bench: Bench, seed: int) -> Mapping[str, NDArray[Any]]:
    """The weights' scores of a model on its way, by the blend of every layer."""
    names = tuple(dict.fromkeys(name for blend in pruning.blends.values() for name in blend.criteria))
    task = bench.task
    scores = score_model(model, left, (), bench.calibration, task.loss, seed, per_weight=names)
    return {layer: weight_scores(scores, pruning.blends[layer], layer) for layer in pruning.wanted}


def with_masks(plan: Plan, found: Found) -> Plan:
    """The plan with the masks that training has found; one without zeros counts too: it is what was found."""
    assert plan.pruning is not None
    patterns = stored(plan.pruning.wanted, found)
    layers = (replace(row, pattern=patterns.get(row.layer, row.pattern)) for row in plan.layers)
    return replace(plan, layers=tuple(layers))
