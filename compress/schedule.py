"""Masks that grow round by round: score, mask, train, and again."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from paretune.compress.masks import Masks, attach
from paretune.compress.recover import Seeds, Teacher, Tick, finetune, no_tick, straight
from paretune.errors import ImpossiblePlan, pick
from paretune.recipe import SPARSE, Pruning, Recovery, Wanted
from paretune.tasks.task import Loss

Scores = Mapping[str, NDArray[Any]]  # layer -> (weight shape), higher stays
Rank = Callable[[nn.Module], Scores]
MakeMasks = Callable[[dict[str, Wanted], dict[str, NDArray[np.float64]], str, int], Masks]

# Share of the target's zeros, by target sparsity and share of the rounds done, in (0, 1).
SHARES: dict[str, Callable[[float, float], float]] = {
    "geometric": lambda sparsity, done: 1 - (1 - sparsity) ** done,
    "cubic": lambda sparsity, done: sparsity * (1 - (1 - done) ** 3),
}


def sparsity_at(schedule: str, sparsity: float, number: int, rounds: int) -> float:
    """The sparsity, in [0, 1), after round `number` of 1 to `rounds` on the way to `sparsity`; the last one reaches it.

    "geometric" removes the same share of what is left in every round. "cubic" removes most in the first: Zhu & Gupta
    2017, To prune, or not to prune, https://arxiv.org/abs/1710.01878.

    Raises:
        UnknownName: no such schedule.
    """
    share = pick(SHARES, schedule, "schedule of masks")
    return sparsity if number == rounds else share(sparsity, number / rounds)


def epochs_of(epochs: int, rounds: int) -> list[int]:
    """`epochs` split evenly over the rounds, the remainder to the last; a round may get none."""
    each = epochs // rounds
    return [each] * (rounds - 1) + [epochs - each * (rounds - 1)]


def no_settling(model: nn.Module) -> None:
    """Called after every new mask where nothing has to be measured anew."""


def prune_in_training(
    model: nn.Module,
    pruning: Pruning,
    *,
    rank: Rank,
    make_masks: MakeMasks,
    loss: Loss,
    teacher: Teacher,
    seeds: Seeds,
    tick: Tick = no_tick,
    settle: Callable[[nn.Module], None] = no_settling,
    mode: str = "frozen_mask",
) -> dict[str, NDArray[np.bool_]]:
    """The mask of every wanted layer, found in rounds of scoring, masking and training `model`, which keeps them on.

    `rank(model)` scores the model as masked so far. Where zeros are for good (`frozen_mask`), masked weights count as
    -inf, whatever it says. Under `ste_mask` they may come back: it is called with the masks letting whole gradients
    through, and should rank the weights behind the masks (`masks.raw_weight`).
    `make_masks(wanted, scores, scope, minimum)` gets `wanted` at the round's sparsity. Patterns whose share of zeros is
    fixed, such as "2:4" and partition, come in the last round. `settle(model)` is called whenever masks were put on, to
    measure batch-norm statistics anew before the round's training. In every round the learning rate warms up and falls
    anew, which is ours. The model is left in training mode, if the last round has an epoch.
    After Yu et al. 2020, https://arxiv.org/abs/2010.01892, of which only the abstract could be read: schedules, rounds
    and modes are our reading.

    Raises:
        ImpossiblePlan: no round, or the loss is not finite.
        UnknownName: no such schedule or mode.
    """
    rounds = pruning.rounds
    if rounds < 1:
        raise ImpossiblePlan(f"schedule '{pruning.schedule}' needs at least one round, got {rounds}")
    masks: dict[str, NDArray[np.bool_]] = {}
    before = 0
    for number, epochs in enumerate(epochs_of(pruning.epochs, rounds), start=1):
        wanted = _wanted(pruning, number, rounds)
        if wanted:
            tick()
            masks |= make_masks(wanted, _scores(model, rank, wanted, masks, mode), pruning.scope, pruning.minimum)
            attach(model, masks)
            settle(model)
        recovery = Recovery(epochs=epochs, lr=pruning.lr, mode=mode)
        finetune(model, recovery, loss=loss, teacher=teacher, seeds=_later(seeds, before), tick=tick)
        before += epochs
    return masks


def _wanted(pruning: Pruning, number: int, rounds: int) -> dict[str, Wanted]:
    found = {}
    for name, wanted in pruning.wanted.items():
        if wanted.kind in SPARSE:
            now = sparsity_at(pruning.schedule, wanted.sparsity, number, rounds)
            found[name] = replace(wanted, sparsity=now)
        elif number == rounds and wanted.kind != "channel":
            found[name] = wanted
    return found


def _scores(
    model: nn.Module, rank: Rank, wanted: Collection[str], masks: Masks, mode: str
) -> dict[str, NDArray[np.float64]]:
    """The rank of the wanted layers' weights; -inf where a weight is masked for good."""
    learning = "ste_mask" in mode.split("+")
    with straight(model, learning):
        ranked = rank(model)
    scores = {name: np.array(ranked[name], dtype=np.float64) for name in wanted}
    for name in () if learning else masks.keys() & scores.keys():
        scores[name][~masks[name]] = -np.inf
    return scores


def _later(seeds: Seeds, epochs: int) -> Seeds:
    return lambda epoch: seeds(epochs + epoch)
