"""Every quantizer at every bit-width: python benchmarks/quantizers.py [--write], twenty minutes."""

from collections.abc import Iterator, Mapping
from functools import partial

from paper import publish, spread

from paretune.compress.quantizers import ACTIVATIONS, WEIGHTS
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Recovery
from paretune.search.bench import Bench, lay_out
from paretune.search.clock import Clock
from paretune.search.evaluate import evaluate, quality_of
from paretune.tasks.digits import digits

SEEDS = range(5)
BITS = (8, 6, 4, 3, 2, 1)
EPOCHS, LR = 5, 0.02
FLOAT_OUTSIDE = 1  # layers at each end that stay float: the first and the last
ABOUT = (
    f"Digits, ResNet of 77,754 parameters, one network per seed 0 to {len(SEEDS) - 1}. First and last layer float; all "
    "others have their weights (upper rows) or what they read (lower rows) rounded by one quantizer at one bit-width, "
    f"the rest float. In a cell: error after calibration only → after {EPOCHS} epochs of fine-tuning at {LR} without a "
    "teacher, on the 449 validation images in %, mean ± standard deviation over the seeds; one image is 0.22. All "
    "symmetric 2-bit grids hold -1, 0, 1, so 2 bits are ternary here; `ternary` and `prune_ternary` have no other "
    "width. Empty: the quantizer does not have these bits. `inq` and `prune_ternary` do their work while they train. "
    "Published neighbours, other nets and data: LSQ ResNet-18 on ImageNet 69.76 float, 70.26 at W4A4, 69.45 at W3A3 "
    "(hustzxd/LSQuantization); LSQ VGG-small on CIFAR-10 93.34 float, 94.26 / 93.89 / 93.42 at 4 / 3 / 2 bits (same "
    "source); ternary ResNet-20 on CIFAR-10 91.70 float, 91.65 (elliothe/Ternarized_Neural_Network); pruning ternary "
    "quantization ResNet-18 on ImageNet 69.7 float, 65.3 at 955 KB (arXiv 2107.10998)."
)


def plan_of(bench: Bench, of: str, name: str, bits: int, epochs: int) -> Plan:
    """One quantizer on all layers but the first and the last."""
    layer = partial(LayerPlan, weight_bits=bits, weight_quantizer=name)
    if of == "activations":
        layer = partial(LayerPlan, activation_bits=bits, activation_quantizer=name)
    inner = bench.inventory.weighted[FLOAT_OUTSIDE:-FLOAT_OUTSIDE]
    return Plan(layers=tuple(layer(layer=one.name) for one in inner), recovery=Recovery(epochs=epochs, lr=LR))


def cell(benches: Mapping[int, Bench], of: str, name: str, bits: int) -> str:
    """Errors after calibration and after fine-tuning, over the seeds."""
    before, after = [], []
    for seed, bench in benches.items():
        outcome = evaluate(plan_of(bench, of, name, bits, EPOCHS), bench, seed=seed).outcome
        assert outcome.status == "done", outcome.reason
        before.append(outcome.rungs[0].score)
        after.append(outcome.values["top1_error"])
    return f"{spread(before)} → {spread(after)}"


def measure() -> Iterator[list[str]]:
    """One row per quantizer, weights first; then the float networks."""
    benches = {seed: lay_out(digits(seed=seed)) for seed in SEEDS}
    for of, table in (("weights", WEIGHTS), ("activations", ACTIVATIONS)):
        for name, method in table.items():
            able = [method.least <= bits <= method.most for bits in BITS]
            yield [
                of,
                name,
                *(cell(benches, of, name, bits) if has else "" for bits, has in zip(BITS, able, strict=True)),
            ]
    dense = [quality_of(bench, bench.task.model, bench.task.val, Clock()) for bench in benches.values()]
    yield ["", "(float)", spread(dense), *[""] * (len(BITS) - 1)]


if __name__ == "__main__":
    publish(__file__, "Quantizers", ABOUT, ("of", "quantizer", *(f"{bits} bits" for bits in BITS)), measure())
