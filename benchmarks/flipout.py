"""FlipOut against global magnitude pruning at equal budget: python benchmarks/flipout.py [--write], five minutes."""

from collections.abc import Iterator

from paper import publish, spread

from paretune.plan import LayerPlan, Plan
from paretune.profile import profile
from paretune.recipe import Blend, Pruning, Recovery, Wanted
from paretune.search.bench import Bench, lay_out
from paretune.search.evaluate import evaluate
from paretune.tasks.digits import digits

SEEDS = range(5)
SPARSITIES = (0.75, 0.9375, 0.984, 0.996)
EPOCHS, LR = 30, 0.1
ABOUT = (
    f"Digits, ResNet of 77,754 parameters trained from new weights for {EPOCHS} epochs at peak learning rate {LR},"
    f" seeds 0 to {len(SEEDS) - 1} (weights and noise). Both prune the same number of weights over all layers at "
    "the same epochs, as often as halving takes; FlipOut by w²/(flips + 1) with gradient noise 1, magnitude by "
    "|w| without noise. Error on the 449 validation images in %, mean ± standard deviation over the seeds; one "
    "image is 0.22. The authors find magnitude slightly better below about 98.5 % sparsity and FlipOut better "
    "above."
)


def plan_of(bench: Bench, schedule: str, sparsity: float) -> Plan:
    """Training from new weights with masks over every layer."""
    names = [layer.name for layer in bench.inventory.weighted]
    wanted = dict.fromkeys(names, Wanted(kind="unstructured", sparsity=sparsity))
    blends = dict.fromkeys(names, Blend(criteria=("l1",)))
    pruning = Pruning(schedule=schedule, rounds=0, epochs=EPOCHS, lr=LR, wanted=wanted, blends=blends, scope="global")
    layers = tuple(LayerPlan(layer=name) for name in names)
    return Plan(layers=layers, recovery=Recovery(epochs=0, lr=LR, start="scratch"), pruning=pruning)


def measure() -> Iterator[list[str]]:
    """One row per sparsity."""
    bench = lay_out(digits(seed=0))
    for sparsity in SPARSITIES:
        found: dict[str, list[float]] = {"flipout": [], "magnitude": []}
        kept = 0
        for schedule, errors in found.items():
            for seed in SEEDS:
                trained = evaluate(plan_of(bench, schedule, sparsity), bench, seed=seed)
                assert trained.outcome.status == "done", trained.outcome.reason
                errors.append(trained.outcome.values["top1_error"])
                kept = sum(row.nonzeros for row in profile(bench.inventory, trained.plan))
        ahead = sum(a < b for a, b in zip(found["flipout"], found["magnitude"], strict=True))
        behind = sum(a > b for a, b in zip(found["flipout"], found["magnitude"], strict=True))
        yield [f"{100 * sparsity:g} %", f"{kept:,}", *map(spread, found.values()), f"{ahead} / {behind}"]


COLUMNS = ("sparsity", "weights left", "FlipOut", "global magnitude", "seeds in which FlipOut is better / worse")

if __name__ == "__main__":
    publish(__file__, "FlipOut and global magnitude", ABOUT, COLUMNS, measure())
