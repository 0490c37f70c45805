"""Partitioned layers on several accelerators against closed forms."""

from dataclasses import replace
from math import prod
from typing import Any

import pytest
from partition_nets import tower

from paretune.costs.hardware import Energy, Hardware, Work
from paretune.costs.partition import block_row, dense_row, partitioned
from paretune.inventory import Inventory
from paretune.plan import LayerPlan, Pattern, Plan
from paretune.profile import Profile, Row, profile

FREE = Energy(
    name="free", unit="none", source="made up", multiply=(0.0, 0.0), add=0.0, float_multiply=0.0, float_add=0.0,
    register=0.0, buffer=((1, 0.0),), dram=0.0,
)  # fmt: skip
NET = tower(8, 16, 24, pixels=2)


def machine(**more: Any) -> Hardware:
    return Hardware(name="test", engine="finn", energy=FREE, relative_energy=FREE, **more)


def one_mac_a_cycle(row: Row) -> Work:
    """A cycle per MAC of the row's shape, every weight and input fetched once."""
    cycles = row.groups * row.positions * row.inner * row.filters
    return Work(
        cycles=cycles, macs=cycles, passes=1, utilisation=1.0, weights_read=row.weights, inputs_read=row.inputs,
        outputs_moved=row.outputs,
    )  # fmt: skip


def fetches(row: Row, work: Work) -> float:
    """Energy per weight and input fetched."""
    assert not row.pattern
    return 10.0 * work.weights_read + work.inputs_read


def cut(inventory: Inventory, parts: int, *names: str) -> Profile:
    """The profile with these layers in `parts` parts; where the parts lie does not matter to what it costs."""
    shapes = {name: inventory.layer[name].weight_shape for name in names}
    layers = tuple(
        LayerPlan(layer=name, weight_bits=8, activation_bits=8, pattern=Pattern(
            kind="partition", nonzeros=prod(shape) // parts, index_bytes=3, stored="", parts=parts))
        for name, shape in shapes.items()
    )  # fmt: skip
    return profile(inventory, Plan(layers=layers))


def row_of(inner: int, channels: int, parts: int) -> Row:
    """A partitioned layer of any size: the plan's own are divided evenly."""
    row = next(row for row in cut(NET, 4, "fc1") if row.name == "fc1")
    return replace(dense_row(replace(row, inner=inner, channels=channels)), pattern="partition", parts=parts)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_what_pruning_gives_and_what_parallelism_gives_are_told_apart(parts: int) -> None:
    first, second = partitioned(cut(NET, parts, "fc1", "fc2"), machine(), one_mac_a_cycle, fetches)
    assert (first.name, second.name, first.parts, first.accelerators) == ("fc1", "fc2", parts, parts)
    for split, macs in ((first, 16 * 16), (second, 24 * 16)):
        cycles = (split.dense_cycles, split.serial_cycles, split.parallel_cycles)
        assert cycles == (macs, macs // parts, macs // parts**2)
        assert (split.pruning_speedup, split.parallel_speedup, split.speedup) == (parts, parts, parts**2)


def test_energy_follows_what_is_fetched() -> None:
    """Weights fall to 1 / K; the blocks' inputs together are the layer's, since none goes to two blocks."""
    (split,) = partitioned(cut(NET, 4, "fc2"), machine(), one_mac_a_cycle, fetches)
    assert split.dense_energy == 10 * 24 * 16 + 16
    assert split.blocks_energy == 10 * 24 * 16 / 4 + 16
    assert split.energy_gain == split.dense_energy / split.blocks_energy


def test_the_busiest_accelerator_sets_the_pace() -> None:
    """9 inputs and 6 outputs in 3 parts: blocks of 3 × 2 each; the first of two accelerators has two."""
    row = row_of(9, 6, 3)
    (three,) = partitioned([row], machine(), one_mac_a_cycle, fetches)
    assert (three.dense_cycles, three.serial_cycles, three.parallel_cycles) == (54, 3 * 6, 6)
    (two,) = partitioned([row], machine(accelerators=2), one_mac_a_cycle, fetches)
    assert two.parallel_cycles == 2 * 6


def test_blocks_and_the_dense_layer_carry_no_trace_of_the_mask() -> None:
    row = next(row for row in cut(NET, 4, "fc2") if row.name == "fc2")
    plan = Plan(layers=(LayerPlan(layer="fc2", weight_bits=8, activation_bits=8),))
    unmasked = next(row for row in profile(NET, plan) if row.name == "fc2")
    assert replace(dense_row(row), alive_bytes=unmasked.alive_bytes, inputs=unmasked.inputs) == unmasked
    block = block_row(row)
    assert (block.weights, block.kept, block.macs, block.params) == (24, 24, 24, 24 + 6)
    assert (block.scales, block.index_bytes, block.pattern, block.parts) == (6, 0, "", 1)


def test_a_network_without_partitions_has_no_splits() -> None:
    assert partitioned(profile(NET, Plan()), machine(), one_mac_a_cycle, fetches) == ()
