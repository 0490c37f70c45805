"""Weight penalty clipping against a plain group lasso at equal sparsity: python benchmarks/clipping.py [--write]."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

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
SPARSITIES = (0.25, 0.5, 0.75)
STRENGTHS = (0.01, 0.03, 0.1)
EPOCHS, AFTER, LR, BLOCK = 10, 5, 0.05, 16
SIDES: Mapping[str, Penalty] = {
    "clipped, mean": Penalty(ratio=1.0, clip="mean"),
    "clipped, rank": Penalty(ratio=0.5, clip="rank"),
    "plain": Penalty(),
}
ABOUT = (
    f"Digits, ResNet of 77,754 parameters, one network per seed 0 to {len(SEEDS) - 1}; ternary weights (threshold 0.05 "
    f"of the largest) but for the first and the last layer, which stay float; blocks of {BLOCK} input channels of one "
    f"filter. {EPOCHS} epochs at {LR} under the penalty, then the blocks of least norm are masked until every layer "
    f"has the sparsity asked for (all-zero ones first), then {AFTER} epochs at {LR}. Clipped at 1.0 × the mean norm of "
    "the layer, or at the norm that half of the blocks lie below; plain: a group lasso without clipping. Changed: "
    "surviving blocks in which at least one ternary code is another than after the same training without any penalty, "
    "and the share of codes in them that is, in %. Error on the 449 validation images in %. Mean ± standard deviation "
    "over the seeds."
)


def train(bench: Bench, sparsity: float, schedule: str, penalty: Penalty, seed: int) -> Trained:
    """One network of a side."""
    names = [layer.name for layer in bench.inventory.weighted][1:-1]
    pruning = Pruning(
        schedule=schedule, rounds=1, epochs=EPOCHS, lr=LR, penalty=penalty, blends=dict.fromkeys(names,
        Blend(criteria=("l1",))), wanted=dict.fromkeys(names, Wanted(kind="pe_block", sparsity=sparsity, block=BLOCK)),
    )  # fmt: skip
    layers = tuple(LayerPlan(layer=name, weight_bits=2, weight_quantizer="ternary") for name in names)
    plan = Plan(layers=layers, pruning=pruning, recovery=Recovery(epochs=AFTER, lr=LR))
    trained = evaluate(plan, bench, seed=seed)
    assert trained.outcome.status == "done", trained.outcome.reason
    return trained


def changed(trained: Trained, free: Trained) -> tuple[float, float]:
    """The shares of surviving blocks, and of their weights, with another code than without penalty, over all layers."""
    assert trained.frozen is not None
    assert free.frozen is not None
    assert trained.plan.pruning is not None
    blocks, codes_differ, sizes = [], [], []
    for row in trained.plan.layers:
        if row.pattern is None:
            continue
        codes, others = (one.frozen.layers[row.layer].codes for one in (trained, free) if one.frozen)
        mask: NDArray[np.bool_] = mask_of(row.pattern, codes.shape)
        blocks.append(block_codes_changed(codes, others, mask, trained.plan.pruning.wanted[row.layer]))
        codes_differ.append(float((codes != others)[mask].mean()))
        sizes.append(int(mask.sum()))
    return float(np.average(blocks, weights=sizes)), float(np.average(codes_differ, weights=sizes))


def kept(trained: Trained) -> float:
    """The share of weights in surviving blocks."""
    patterns = [row.pattern for row in trained.plan.layers if row.pattern is not None]
    assert trained.frozen is not None
    sizes = [trained.frozen.layers[row.layer].codes.size for row in trained.plan.layers if row.pattern is not None]
    return sum(pattern.nonzeros for pattern in patterns) / sum(sizes)


def measure() -> Iterator[list[str]]:
    """One row per sparsity, strength and side."""
    benches = {seed: lay_out(digits(seed=seed)) for seed in SEEDS}
    nothing = Penalty(strength=0.0)
    for sparsity in SPARSITIES:
        free = {seed: train(bench, sparsity, "group_lasso", nothing, seed) for seed, bench in benches.items()}
        yield row(sparsity, "none", "0", list(free.values()), [(0.0, 0.0)] * len(free))
        for strength in STRENGTHS:
            for side, penalty in SIDES.items():
                schedule = "group_lasso" if side == "plain" else "clipped_lasso"
                asked = replace(penalty, strength=strength)
                runs = {seed: train(bench, sparsity, schedule, asked, seed) for seed, bench in benches.items()}
                shares = [changed(run, free[seed]) for seed, run in runs.items()]
                yield row(sparsity, side, f"{strength:g}", list(runs.values()), shares)


def row(sparsity: float, side: str, strength: str, runs: list[Trained], shares: list[tuple[float, float]]) -> list[str]:
    """One row of the table."""
    errors = [run.outcome.values["top1_error"] for run in runs]
    blocks, codes = zip(*shares, strict=True)
    found = spread([1 - kept(run) for run in runs])
    return [f"{100 * sparsity:g} %", side, strength, found, spread(blocks), spread(codes), spread(errors)]


COLUMNS = (
    "sparsity asked for", "penalty", "strength", "sparsity found, %", "blocks changed, %", "their codes changed, %",
    "error",
)  # fmt: skip

if __name__ == "__main__":
    publish(__file__, "Weight penalty clipping and group lasso", ABOUT, COLUMNS, measure())
