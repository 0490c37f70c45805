"""Weight penalty clipping: a group lasso that empties small blocks of weights and leaves large ones alone.

Yang, He, Fan 2020, Harmonious Coexistence of Structured Weight Pruning and Ternarization for Deep Neural Networks,
https://doi.org/10.1609/aaai.v34i04.6138. Only the abstract could be read: the thresholds are those of public code of
the same family (`glasso_thre`, `glasso_rank`, `glasso_mix`, `glasso_global_mp`), of unclear origin.
Which blocks go after the training is ours.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, prod

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.compress.bits import Mask, Scores, Shape, numbered
from paretune.compress.counts import half_up, share_left
from paretune.compress.masks import attach, raw_weight
from paretune.compress.pe_block import full_column, pe_bits, pe_mask, pe_width
from paretune.compress.quantize import weight_codes, weight_quantizer
from paretune.compress.recover import Seeds, Teacher, Tick, finetune, no_tick
from paretune.errors import ImpossiblePlan, ParetuneError, pick
from paretune.recipe import Penalty, Pruning, Recovery, Wanted
from paretune.tasks.task import Loss


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Blocks:
    """One layer's blocks: their `norms` (blocks,), their mean |w| as `means` (blocks,), and the `wide` of their PEs."""

    norms: Tensor
    means: Tensor
    wide: int


Sum = Callable[[Sequence[Blocks], Penalty], Tensor]  # (layers, settings) -> what is penalised, a scalar


def split_blocks(weight: Tensor, wanted: Wanted) -> Tensor:
    """`weight` (out, in, ...) as (out, blocks of a filter, weights of a block).

    A short last block is filled up with zeros.

    Raises:
        ParetuneError: a block below 1, or an unknown layout.
    """
    across, width = pe_bits(wanted, weight.shape) // len(weight), pe_width(wanted, weight.shape)
    flat = weight.flatten(1)
    length = across * width * prod(weight.shape[2:])
    return F.pad(flat, (0, length - flat.shape[1])).view(len(weight), across, -1)


def blocks_of(weight: Tensor, wanted: Wanted) -> Blocks:
    """What the penalty reads of a layer's `weight` (out, in, ...).

    A short last block is taken as it is: its norm is not scaled by its size, its mean is over the weights it has.
    """
    split = split_blocks(weight, wanted)
    sizes = split_blocks(torch.ones_like(weight[:1]), wanted).sum(dim=2)
    means = split.detach().abs().sum(dim=2) / sizes
    return Blocks(norms=torch.linalg.vector_norm(split, dim=2).flatten(), means=means.flatten(), wide=wanted.block)


def rank_of(ratio: float, wide: int, blocks: int) -> int:
    """How many of `blocks` norms the threshold "rank" reaches: floor(ratio × wide) × floor(blocks / wide).

    That is as many out of every `wide` blocks, so that PEs of this width can be loaded evenly: 0.7 of 16 are 11. Ours:
    at least one out of every `wide`, and floor(ratio × blocks) if there are fewer than `wide`.
    """
    wide = min(wide, blocks)
    return min(max(1, _whole(ratio * wide)) * (blocks // wide), blocks)


def _whole(number: float) -> int:
    """`number` rounded down, free of binary noise such as 0.29 × 100."""
    return floor(round(number, 9))


def _rank(blocks: Blocks, ratio: float) -> Tensor:
    sizes = blocks.norms.sort().values
    return sizes[rank_of(ratio, blocks.wide, len(sizes)) - 1]


def _up_to(threshold: Callable[[Blocks, float], Tensor]) -> Sum:
    """Σ min(‖block‖₂, δ) with δ = threshold(blocks, ratio) layer by layer.

    A block at δ counts as below it, so that under "rank" as many are pulled as `rank_of` says.
    """

    def total(layers: Sequence[Blocks], penalty: Penalty) -> Tensor:
        sums = []
        for layer in layers:
            delta = threshold(layer, penalty.ratio)
            delta = delta.detach() if penalty.detached else delta
            sums.append(torch.where(layer.norms <= delta, layer.norms, delta).sum())
        return torch.stack(sums).sum()

    return total


def _global_sum(layers: Sequence[Blocks], penalty: Penalty) -> Tensor:
    """Σ ‖block‖₂ over the share `penalty.ratio` of all layers' blocks, those of least mean |w|.

    The others add nothing, so that the threshold never has a gradient, detached or not.
    """
    norms, means = torch.cat([layer.norms for layer in layers]), torch.cat([layer.means for layer in layers])
    below = _whole(penalty.ratio * len(norms))
    if below >= len(norms):
        return norms.sum()
    return (norms * (means < means.sort().values[below])).sum()


def _sum(layers: Sequence[Blocks], penalty: Penalty) -> Tensor:
    return torch.cat([layer.norms for layer in layers]).sum()


# Σ over blocks, by `Penalty.clip`.
CLIPPED: Mapping[str, Sum] = {
    "mean": _up_to(lambda blocks, ratio: ratio * blocks.norms.mean()),
    "rank": _up_to(_rank),
    "mix": _up_to(lambda blocks, ratio: torch.minimum(_rank(blocks, ratio), blocks.norms.mean())),
    "global": _global_sum,
}
# By schedule. Without clipping it is Yuan & Lin 2006, https://doi.org/10.1111/j.1467-9868.2005.00532.x.
SUMS: Mapping[str, Sum] = {
    "clipped_lasso": lambda layers, penalty: pick(CLIPPED, penalty.clip, "clip of a penalty")(layers, penalty),
    "group_lasso": _sum,
}


def block_penalty(model: nn.Module, pruning: Pruning) -> Tensor:
    """What is added to the loss, a scalar: strength × Σ over the blocks of the wanted layers' raw float weights.

    Raises:
        UnknownName: a schedule without a penalty, or no such clip.
        ParetuneError: a block below 1, or an unknown layout.
    """
    total = pick(SUMS, pruning.schedule, "schedule with a penalty")
    penalty = pruning.penalty or Penalty()
    layers = [blocks_of(raw_weight(model.get_submodule(name)), wanted) for name, wanted in pruning.wanted.items()]
    return penalty.strength * total(layers, penalty)


def lasso_masks(
    model: nn.Module,
    pruning: Pruning,
    *,
    loss: Loss,
    teacher: Teacher,
    seeds: Seeds,
    tick: Tick = no_tick,
    mode: str = "frozen_mask",
) -> dict[str, NDArray[np.bool_]]:
    """The mask of every wanted layer, once `model` has been trained under the penalty; the model keeps them on.

    The model comes with its quantizers, behind masks of ones, and is trained in place for `pruning.epochs`; with an
    epoch it is left in training mode. Blocks are those of "pe_block"; see `harvest` for which of them go.

    Raises:
        ImpossiblePlan: zeros of another kind, a loss that is not finite, or weights that are not numbers.
        UnknownName: no such schedule, clip, layout or mode.
    """
    for name, asked in pruning.wanted.items():
        if asked.kind != "pe_block":
            why = f"layer '{name}' asks for '{asked.kind}'; choose another schedule, or the pattern pe_block"
            raise ImpossiblePlan(f"schedule '{pruning.schedule}' finds the zeros of 'pe_block', {why}")
    if not pruning.wanted:
        return {}
    recovery = Recovery(epochs=pruning.epochs, lr=pruning.lr, mode=mode)

    def penalty(trained: nn.Module) -> Tensor:
        return block_penalty(trained, pruning)

    finetune(model, recovery, loss=loss, teacher=teacher, seeds=seeds, tick=tick, penalty=penalty)
    masks = {
        name: harvest(model.get_submodule(name), wanted, pruning.minimum) for name, wanted in pruning.wanted.items()
    }
    attach(model, masks)
    return masks


@torch.no_grad()
def harvest(layer: nn.Module, wanted: Wanted, minimum: int = 1) -> Mask:
    """The mask of a trained layer, True where a weight stays.

    Blocks whose codes are all zero go first, then those of least norm, until as many are gone as `wanted.sparsity` asks
    for. Beyond that only zeros go; and as every PE column keeps the same count, no more of them than the column with
    the fewest has. (The others stay, as zeros: for them to go, other columns would lose blocks that are in use.) At
    least `minimum` weights stay. A layer without quantizer has no zeros of its own.

    Raises:
        ImpossiblePlan: weights that are not numbers.
    """
    raw = raw_weight(layer).detach()
    norms = numbered(torch.linalg.vector_norm(split_blocks(raw, wanted), dim=2).cpu().numpy())
    used = np.ones(norms.shape, dtype=bool)
    if weight_quantizer(layer) is not None:
        used = block_any(weight_codes(layer).codes != 0, wanted)
    # Places, not norms: a used block may be smaller than an unused one.
    places = np.unique(norms, return_inverse=True)[1].reshape(norms.shape) + used * norms.size
    return _fewest(wanted, _spread(places, wanted, raw.shape), _spread(used, wanted, raw.shape) > 0, minimum)


def _fewest(wanted: Wanted, scores: Scores, used: Mask, minimum: int) -> Mask:
    """The pattern with the fewest blocks that has room for all `used` ones, but with no more than asked for."""
    full = full_column(wanted, used.shape)

    def keeping(count: int) -> Mask:
        # A sparsity of 1 cannot be asked for; a quarter of a block is rounded down to none.
        return pe_mask(replace(wanted, sparsity=1 - max(count, 0.25) / full), scores, minimum)

    def room(count: int) -> bool:
        return not bool((used & ~keeping(count)).any())

    return keeping(bisect_left(range(half_up(full * share_left(wanted))), True, key=room))


def _spread(blocks: NDArray[np.generic], wanted: Wanted, shape: Shape) -> NDArray[np.float64]:
    """Scores of `shape` whose sum over a block is its entry in `blocks` (out, blocks of a filter)."""
    scores = np.zeros((*shape[:2], prod(shape[2:])))
    scores[:, :: pe_width(wanted, shape), 0] = blocks
    return scores.reshape(shape)


def block_any(true: Mask, wanted: Wanted) -> Mask:
    """(out, blocks of a filter), True where an entry of the block in `true` (out, in, ...) is."""
    found: Mask = split_blocks(torch.from_numpy(np.ascontiguousarray(true)), wanted).any(dim=2).numpy()
    return found


def block_codes_changed(before: NDArray[np.integer], after: NDArray[np.integer], mask: Mask, wanted: Wanted) -> float:
    """The share of surviving blocks, in [0, 1], in which at least one code is another; 0 if none survives.

    All three arrays have the weight's shape.

    Raises:
        ParetuneError: they have not.
    """
    if not before.shape == after.shape == mask.shape:
        shapes = f"{before.shape}, {after.shape} and {mask.shape}"
        raise ParetuneError(f"codes before and after and the mask need one shape, got {shapes}")
    alive = block_any(mask, wanted)
    return float(block_any(before != after, wanted)[alive].mean()) if alive.any() else 0.0
