"""The made-up network of a benchmark: its front is exact, against all plans of small ones, and its parts as it says."""

import importlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.pareto import hypervolume
from paretune.samplers.layout import layout_of

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def problem() -> Any:
    """The module of the benchmark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("layered_problem")


def small(problem: Any, seed: int) -> Any:
    """Three blocks of six settings each."""
    draw = np.random.default_rng(seed)
    size, ops = draw.integers(1, 9, (2, 3, 6))
    return problem.Layered(damage=draw.exponential(0.2, (3, 6)), size=size, ops=ops)


def every_plan(network: Any) -> Any:
    return network.values(np.array(list(itertools.product(range(6), repeat=3))))


@pytest.mark.parametrize("seed", range(5))
def test_the_least_error_within_every_cost_is_that_of_the_best_of_all_plans(problem, seed):
    network = small(problem, seed)
    values = every_plan(network)
    for size, ops in itertools.product(*(range(top + 1) for top in network.dearest)):
        inside = values[(values[:, 1] <= size) & (values[:, 2] <= ops), 0]
        assert network.least[size, ops] == pytest.approx(inside.min(initial=np.inf), abs=1e-12)


@pytest.mark.parametrize("error", [1.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_the_exact_volume_is_that_of_all_plans(problem, seed, error):
    network = small(problem, seed)
    points = every_plan(network) / np.array([error, *network.dearest])
    assert network.volume(error) == pytest.approx(hypervolume(points, np.ones(3)), abs=1e-12)


def test_a_plans_places_pick_the_ratio_and_bits_of_its_own_layers(problem):
    network, layout = problem.layered(0), layout_of(problem.layered_space())
    mildest = layout.params([0.0 if axis.kind == "ratio" else axis.top for axis in layout.axes])

    def values(**changed: float) -> Any:
        row = layout.row(mildest | changed)
        return network.values(problem.settings_of(row.astype(np.int64)[None]))[0]

    full = values()
    assert full[0] == pytest.approx(problem.BASE)
    assert tuple(full[1:]) == network.dearest
    late = values(**{"weight_bits/layer3.4.conv2@index": 1})
    early = values(**{"ratio/layer1.0.conv1": 0.75})
    assert full[1] - late[1] > 5 * (full[1] - early[1])  # weights are late
    assert full[2] - early[2] > 2 * (full[2] - late[2])  # operations are early
    assert min(late[0], early[0]) > problem.BASE


def test_only_layers_of_one_block_interact(problem):
    network, layout = problem.layered(0), layout_of(problem.layered_space())

    def damage(*names: str) -> float:
        row = [layout.axes[at].top if layout.axes[at].kind == "weight_bits" else 0.0 for at in range(60)]
        for name in names:
            row[[axis.name for axis in layout.axes].index(f"ratio/{name}")] = 4
        settings = problem.settings_of(np.array([row], dtype=np.int64))[0]
        return float(network.damage[np.arange(15), settings].sum())

    def beyond(first: str, second: str) -> float:
        return damage(first, second) - damage(first) - damage(second)

    assert beyond("layer1.0.conv1", "layer1.1.conv2") == pytest.approx(0, abs=1e-12)
    assert max(abs(beyond(f"{block}.conv1", f"{block}.conv2")) for block in problem.BLOCKS) > 0.001
