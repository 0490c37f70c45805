"""Mixed against uniform bits at equal average bits and budget: python benchmarks/mixed_bits.py [--write]."""

from collections.abc import Iterator, Mapping

import numpy as np
from paper import publish, spread

from paretune.inventory import Inventory
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Recovery
from paretune.search.bench import Bench, lay_out
from paretune.search.clock import Clock
from paretune.search.evaluate import Trained, evaluate, quality_of
from paretune.tasks.digits import digits

SEEDS = range(5)
OPTIONS = (2, 3, 4, 6, 8)
AVERAGES = (3, 4)
TRIALS = 12
EPOCHS, LR = 5, 0.02
ABOUT = (
    f"Digits, ResNet of 77,754 parameters, one network per seed 0 to {len(SEEDS) - 1}; LSQ weights, activations float. "
    f"Mixed: {TRIALS} random choices of bits from {list(OPTIONS)} by layer whose average over the weights is within "
    f"0.1 below the uniform width. Uniform: {TRIALS} trainings at that width with other batches and noise. Every "
    f"training has {EPOCHS} epochs at {LR} with the dense network as teacher. On both sides the best of {TRIALS} by "
    "error on the 449 validation images is taken and its error on the 450 test images compared (one image is 0.22); "
    "so both had the same budget and the same luck of choosing. Mean ± standard deviation over the seeds, in %."
)


def draw(inventory: Inventory, average: float, random: np.random.Generator) -> tuple[int, ...]:
    """Bits by layer with an average over the weights within 0.1 below `average`."""
    sizes = np.array([np.prod(layer.weight_shape) for layer in inventory.weighted], float)
    while True:
        bits = random.choice(OPTIONS, size=len(sizes))
        if average - 0.1 <= float(bits @ sizes / sizes.sum()) <= average:
            return tuple(map(int, bits))


def run(bench: Bench, bits: tuple[int, ...], seed: int) -> Trained:
    """One training at these bits."""
    layers = zip(bench.inventory.weighted, bits, strict=True)
    recovery = Recovery(epochs=EPOCHS, lr=LR, distill="logits")
    plan = Plan(layers=tuple(LayerPlan(layer=layer.name, weight_bits=b) for layer, b in layers), recovery=recovery)
    trained = evaluate(plan, bench, seed=seed)
    assert trained.outcome.status == "done", trained.outcome.reason
    return trained


def best(runs: list[Trained], bench: Bench) -> dict[str, float]:
    """Error on val and test of the best run by val, and the mean on val of all."""
    found = min(runs, key=lambda one: one.outcome.values["top1_error"])
    assert found.model is not None
    mean = float(np.mean([one.outcome.values["top1_error"] for one in runs]))
    test = quality_of(bench, found.model, bench.task.test, Clock())
    return {"mean": mean, "val": found.outcome.values["top1_error"], "test": test}


def both(bench: Bench, average: int, seed: int) -> Mapping[str, dict[str, float]]:
    """The mixed and the uniform side for one network."""
    random = np.random.default_rng(1000 * seed + average)
    layers = len(bench.inventory.weighted)
    mixed = [run(bench, draw(bench.inventory, average, random), seed) for _ in range(TRIALS)]
    uniform = [run(bench, (average,) * layers, 100 * seed + trial) for trial in range(TRIALS)]
    return {"mixed": best(mixed, bench), "uniform": best(uniform, bench)}


def measure() -> Iterator[list[str]]:
    """One row per average."""
    benches = {seed: lay_out(digits(seed=seed)) for seed in SEEDS}
    for average in AVERAGES:
        found = [both(bench, average, seed) for seed, bench in benches.items()]
        cells = [
            spread([one[side][what] for one in found])
            for what in ("mean", "val", "test")
            for side in ("mixed", "uniform")
        ]
        ahead = sum(one["mixed"]["test"] < one["uniform"]["test"] for one in found)
        behind = sum(one["mixed"]["test"] > one["uniform"]["test"] for one in found)
        yield [str(average), *cells, f"{ahead} / {len(found) - ahead - behind} / {behind}"]


COLUMNS = (
    "average bits", "mean of all, val: mixed", "uniform", "best on val: mixed", "uniform", "its test error: mixed",
    "uniform", "seeds mixed is ahead / equal / behind on test",
)  # fmt: skip

if __name__ == "__main__":
    publish(__file__, "Mixed and uniform bits", ABOUT, COLUMNS, measure())
