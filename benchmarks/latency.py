"""Do modelled costs order networks as a clock does? python benchmarks/latency.py [--write], two minutes."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from paper import publish
from scipy.stats import spearmanr

from paretune.compress.cut import cut
from paretune.compress.freeze import freeze, thaw
from paretune.compress.groups import discover
from paretune.compress.quantize import calibrate, quantize
from paretune.compress.rates import kept_count
from paretune.costs.table import static_costs
from paretune.export.graph import to_onnx
from paretune.export.latency import Timing, measure
from paretune.inventory import Inventory
from paretune.plan import FLOAT, GroupPlan, LayerPlan, Plan
from paretune.profile import profile
from paretune.search.devices import hardware_of
from paretune.tasks.bare import make_bare

RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
BITS = (FLOAT, 8, 4)
NETS = ("resnet20", "vgg16_bn")
TIMING = Timing(threads=1, warmup=10, repeats=100)
COSTS = ("params", "macs", "bops", "cycles")
HARDWARE = "cpu"
ABOUT = (
    "Networks made for CIFAR with random weights, every group cut by the same ratio, all layers at the same bits; "
    f"graphs of one network are timed run by run in turn in one process, {TIMING.repeats} rounds, one sample, one "
    f"thread. Cycles are modelled on `hardware={HARDWARE}`. Ratios are to the uncut float graph of the same run. The "
    "last rows are rank correlations (Spearman) of each cost with the measured median, over the widths at one "
    "bit-width and over all graphs of a network; and, over the float widths, the mean distance between a cost's ratio "
    "and the latency's."
)


def plan_of(inventory: Inventory, ratio: float, bits: int) -> Plan:
    """Every group without its last units, every layer at `bits`."""
    groups = ((group.name, kept_count(group.channels, ratio)) for group in inventory.groups)
    layers = (LayerPlan(layer=layer.name, weight_bits=bits, activation_bits=bits) for layer in inventory.weighted)
    return Plan(groups=tuple(GroupPlan(group=n, kept=tuple(range(k))) for n, k in groups), layers=tuple(layers))


def graph_of(model: torch.nn.Module, inventory: Inventory, plan: Plan, example: torch.Tensor) -> bytes:
    """The plan's ONNX graph, calibrated on noise: its numbers mean nothing, its operators do."""
    small = cut(model, inventory, plan.kept)
    quantize(small, plan)
    calibrate(small, torch.randn(16, *example.shape[1:]))
    frozen = freeze(small.eval(), inventory, plan)
    data: bytes = to_onnx(thaw(model, inventory, plan, frozen), frozen, example).SerializeToString()
    return data


def rows() -> Iterator[Sequence[str]]:
    """A row per graph, then the correlations."""
    hardware, correlations = hardware_of(HARDWARE), []
    for name in NETS:
        bare = make_bare({"name": "cifar", "model": name})
        assert bare is not None
        inventory = discover(bare.model, bare.example)
        cases = [(bits, ratio) for bits in BITS for ratio in RATIOS]
        plans = [plan_of(inventory, ratio, bits) for bits, ratio in cases]
        graphs = [graph_of(bare.model, inventory, plan, bare.example) for plan in plans]
        times = measure(graphs, bare.example.numpy(), TIMING)
        costs = [static_costs(profile(inventory, plan), hardware) for plan in plans]
        for (bits, ratio), found, cost in zip(cases, times, costs, strict=True):
            yield (
                name, "float" if bits == FLOAT else str(bits), f"{ratio:g}",
                *(f"{cost[which] / costs[0][which]:.3f}" for which in COSTS),
                f"{found.median_ms / times[0].median_ms:.3f}",
                f"{found.median_ms:.3f} ({found.low_ms:.3f} to {found.high_ms:.3f})",
            )  # fmt: skip
        medians = np.array([found.median_ms for found in times])
        for bits in (*BITS, None):
            picked = [index for index, case in enumerate(cases) if bits in (None, case[0])]
            ranks = [
                float(spearmanr([costs[index][which] for index in picked], medians[picked]).statistic)
                for which in COSTS
            ]
            called = "all" if bits is None else "float" if bits == FLOAT else str(bits)
            correlations.append((f"rank correlation, {name}", called, "", *(f"{rank:.2f}" for rank in ranks), "", ""))
        floats = range(1, len(RATIOS))
        far = [
            np.mean([abs(costs[i][which] / costs[0][which] - medians[i] / medians[0]) for i in floats])
            for which in COSTS
        ]
        correlations.append((f"mean distance of ratios, {name}", "float", "", *(f"{one:.3f}" for one in far), "", ""))
    yield from correlations


if __name__ == "__main__":
    publish(
        __file__, "Modelled costs beside a clock", ABOUT,
        ("network", "bits", "ratio", *COSTS, "latency", "ms (10th to 90th percentile)"), rows(),
    )  # fmt: skip
