"""What each encoding makes of trained networks: python benchmarks/storage.py [--write], five minutes."""

from collections.abc import Iterator
from dataclasses import replace

from paper import publish, spread

from paretune.costs.counts import size_bytes
from paretune.costs.storage import ENCODINGS, sizes
from paretune.export.pack import pack
from paretune.plan import FLOAT, LayerPlan, Plan
from paretune.profile import profile
from paretune.recipe import Blend, Pruning, Recovery, Wanted
from paretune.search.bench import Bench, lay_out
from paretune.search.evaluate import evaluate
from paretune.tasks.digits import digits

SEEDS = range(5)
EPOCHS, LR = 10, 0.03
ABOUT = (
    f"Digits, ResNet of 77,754 parameters, one network per seed 0 to {len(SEEDS) - 1}, {EPOCHS} epochs of recovery at "
    f"{LR}; masks by the cubic (ternary: normalised) schedule in as many. Bytes are means over the seeds and cover the "
    "weights of all layers at their bit-widths (first and last layer of ternary nets at 8 bits, as they are in "
    "`conf/space/prune_ternary.yaml`): raw (weights × bits / 8), then if all layers had to use one encoding (those "
    "that cannot take their cheapest), then the cheapest of each layer. The file adds float32 scales, biases, "
    "activation steps and its header; predicted is `size_bytes`, from the profile of the trained plan. Error on the "
    "449 validation images in %."
)
CASES = (
    "8 bits", "4 bits", "2 bits", "2:4, 8 bits", "float, 90 % zeros", "4 bits, 90 % zeros",
    "prune_ternary 50 %", "prune_ternary 75 %", "prune_ternary 87.5 %", "prune_ternary 95 %",
)  # fmt: skip


def plan_of(bench: Bench, case: str) -> Plan:
    """The plan of a case, as asked for."""
    names = [layer.name for layer in bench.inventory.weighted]
    recovery = Recovery(epochs=EPOCHS, lr=LR)
    if case.startswith("prune_ternary"):
        sparsity = float(case.split()[1]) / 100
        inner, ends = names[1:-1], (names[0], names[-1])
        layers = [LayerPlan(layer=name, weight_bits=2, weight_quantizer="prune_ternary") for name in inner]
        layers += [LayerPlan(layer=name, weight_bits=8) for name in ends]
        return Plan(
            layers=tuple(layers), recovery=recovery, pruning=pruning(inner, "normalised", "unstructured", sparsity)
        )
    bits = FLOAT if case.startswith("float") else int(case.removeprefix("2:4, ").split()[0])
    plan = Plan(layers=tuple(LayerPlan(layer=name, weight_bits=bits) for name in names), recovery=recovery)
    if "zeros" in case:
        return replace(plan, pruning=pruning(names, "cubic", "unstructured", 0.9))
    return replace(plan, pruning=pruning(names, "cubic", "2:4", 0.0)) if case.startswith("2:4") else plan


def pruning(names: list[str], schedule: str, kind: str, sparsity: float) -> Pruning:
    """Masks for these layers."""
    return Pruning(
        schedule=schedule, rounds=5, epochs=EPOCHS, lr=LR, wanted=dict.fromkeys(names, Wanted(kind=kind,
        sparsity=sparsity)), blends=dict.fromkeys(names, Blend(criteria=("l1",))),
    )  # fmt: skip


def measured(bench: Bench, case: str, seed: int) -> dict[str, float]:
    """Bytes by encoding of one trained network, and what its file weighs."""
    trained = evaluate(plan_of(bench, case), bench, seed=seed)
    assert trained.frozen is not None, trained.outcome.reason
    rows = profile(bench.inventory, trained.plan)
    tables = [sizes(row) for row in rows if row.weights]
    found = {name: float(sum(table.get(name, min(table.values())) for table in tables)) for name in ENCODINGS}
    return {
        "raw": sum(row.weights * row.weight_bits / 8 for row in rows), **found,
        "cheapest": sum(min(table.values()) for table in tables), "predicted": size_bytes(rows),
        "file": len(pack(trained.frozen)), "error": trained.outcome.values["top1_error"],
    }  # fmt: skip


def measure() -> Iterator[list[str]]:
    """One row per case."""
    benches = {seed: lay_out(digits(seed=seed)) for seed in SEEDS}
    for case in CASES:
        runs = [measured(bench, case, seed) for seed, bench in benches.items()]
        means = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
        off = max(abs(run["predicted"] - run["file"]) for run in runs)
        shown = [f"{means[name]:,.0f}" for name in ("raw", *ENCODINGS, "cheapest", "predicted", "file")]
        yield [case, *shown, f"{off:,.0f}", spread([run["error"] for run in runs])]


COLUMNS = ("network", "raw", *ENCODINGS, "cheapest", "predicted file", "file", "largest miss", "error")

if __name__ == "__main__":
    publish(__file__, "Bytes by encoding", ABOUT, COLUMNS, measure())
