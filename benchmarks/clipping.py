"""Weight penalty clipping against a plain group lasso at equal sparsity: python benchmarks/clipping.py [--write]."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paper import publish, spread

from paretune.compress.clipping import block_codes_changed
from paretune.compress.patterns import mask_of
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Blend, Penalty, Pruning, Recovery, Wanted
from paretune.search.bench import Bench, lay_out
from paretune.search.evaluate import Trained, evaluate
from paretune.tasks.digits import digits

SEEDS = range(5)
SPARSITIES = (0.5, 0.75)
STRENGTHS = (0.01, 0.03)
EPOCHS, AFTER, LR, BLOCK = 10, 5, 0.05, 16
ABOUT = (
    f"Digits, ResNet of 77,754 parameters, one network per seed 0 to {len(SEEDS) - 1}; ternary weights (threshold 0.05 "
    f"of the largest) but for the first and the last layer, which stay float; blocks of {BLOCK} input channels of one "
    f"filter. {EPOCHS} epochs at {LR} under the penalty, then the blocks of least norm (all-zero ones first) are "
    f"masked until every layer has the sparsity asked for, then {AFTER} epochs at {LR}. Penalties: clipped at the mean "
    "norm of the layer's blocks; clipped at the norm that the share to be removed lies below; plain, a group lasso "
    "without clipping. Changed: ternary codes right after the penalty, in blocks that survive here and in the same "
    "training without a penalty, that are other than there; and the share of such blocks with at least one. A second "
    "training without penalty, with other batches, shows how much of that is the noise of training. Error on the 449 "
    "validation images after all epochs. Mean ± standard deviation over the seeds, all in %."
)


def sides(sparsity: float, strength: float) -> Mapping[str, tuple[str, Penalty]]:
    """The penalties that are compared: name, schedule and settings."""
    clipped = partial(Penalty, strength=strength)
    return {
        "clipped, mean": ("clipped_lasso", clipped(ratio=1.0, clip="mean")),
        "clipped, rank": ("clipped_lasso", clipped(ratio=sparsity, clip="rank")),
        "plain": ("group_lasso", clipped()),
    }


def train(bench: Bench, sparsity: float, side: tuple[str, Penalty], seed: int, after: int) -> Trained:
    """One network under a penalty, with `after` epochs of recovery."""
    names = [layer.name for layer in bench.inventory.weighted][1:-1]
    schedule, penalty = side
    pruning = Pruning(
        schedule=schedule, rounds=1, epochs=EPOCHS, lr=LR, penalty=penalty,
        blends=dict.fromkeys(names, Blend(criteria=("l1",))),
        wanted=dict.fromkeys(names, Wanted(kind="pe_block", sparsity=sparsity, block=BLOCK)),
    )  # fmt: skip
    layers = tuple(LayerPlan(layer=name, weight_bits=2, weight_quantizer="ternary") for name in names)
    plan = Plan(layers=layers, pruning=pruning, recovery=Recovery(epochs=after, lr=LR))
    trained = evaluate(plan, bench, seed=seed)
    assert trained.outcome.status == "done", trained.outcome.reason
    return trained


def changed(one: Trained, other: Trained) -> tuple[float, float]:
    """Of blocks that survive in both: the share with another ternary code, and the share of their codes that differ."""
    assert one.plan.pruning is not None
    blocks, codes, sizes = [], [], []
    for name, wanted in one.plan.pruning.wanted.items():
        (here, mask), (there, others) = (codes_and_mask(trained, name) for trained in (one, other))
        both: NDArray[np.bool_] = mask & others
        if not both.any():
            continue
        blocks.append(block_codes_changed(here, there, both, wanted))
        codes.append(float((here != there)[both].mean()))
        sizes.append(int(both.sum()))
    return float(np.average(blocks, weights=sizes)), float(np.average(codes, weights=sizes))


def codes_and_mask(trained: Trained, layer: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The ternary codes of a layer and what its mask leaves."""
    assert trained.frozen is not None
    codes, pattern = trained.frozen.layers[layer].codes, trained.plan.bits[layer].pattern
    return codes, np.ones(codes.shape, np.bool_) if pattern is None else mask_of(pattern, codes.shape)


def removed(trained: Trained) -> float:
    """The share of the masked layers' weights that is gone."""
    assert trained.plan.pruning is not None
    masks = [codes_and_mask(trained, name)[1] for name in trained.plan.pruning.wanted]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)


def measure() -> Iterator[list[str]]:
    """One row per sparsity, strength and penalty."""
    benches = {seed: lay_out(digits(seed=seed)) for seed in SEEDS}
    none = ("group_lasso", Penalty(strength=0.0))
    for sparsity in SPARSITIES:
        free = {seed: train(bench, sparsity, none, seed, 0) for seed, bench in benches.items()}
        yield row(benches, sparsity, "none, other batches", "0", none, free, shift=100)
        for strength in STRENGTHS:
            for name, side in sides(sparsity, strength).items():
                yield row(benches, sparsity, name, f"{strength:g}", side, free)


def row(
    benches: Mapping[int, Bench], sparsity: float, name: str, strength: str, side: tuple[str, Penalty],
    free: Mapping[int, Trained], shift: int = 0,
) -> list[str]:  # fmt: skip
    """One row of the table; `shift` is added to the seeds of the batches."""
    early = {seed: train(bench, sparsity, side, seed + shift, 0) for seed, bench in benches.items()}
    late = [train(bench, sparsity, side, seed + shift, AFTER) for seed, bench in benches.items()]
    blocks, codes = zip(*(changed(run, free[seed]) for seed, run in early.items()), strict=True)
    errors = [run.outcome.values["top1_error"] for run in late]
    found = spread([removed(run) for run in late])
    return [f"{100 * sparsity:g} %", name, strength, found, spread(blocks), spread(codes), spread(errors)]


COLUMNS = ("sparsity asked for", "penalty", "strength", "found", "blocks changed", "their codes changed", "error")

if __name__ == "__main__":
    publish(__file__, "Weight penalty clipping and group lasso", ABOUT, COLUMNS, measure())
