"""Static costs against closed forms and against two published networks."""

from dataclasses import replace
from itertools import pairwise
from math import ceil

import pytest
from hand_made import small_inventory
from hypothesis import given
from hypothesis import strategies as st

from paretune.costs.counts import (
    baskin_bops,
    bops,
    effective_baskin_bops,
    effective_bops,
    effective_macs,
    macs,
    nonzeros,
    params,
    relative_bops,
    size_bytes,
    weight_bits,
)
from paretune.costs.hardware import Hardware
from paretune.costs.table import COSTS, costs_for, static_costs
from paretune.errors import ParetuneError
from paretune.frozen import HEADER_BYTES
from paretune.inventory import Inventory, Layer
from paretune.plan import DENSE, FLOAT, GroupPlan, LayerPlan, Pattern, Plan
from paretune.profile import Profile, profile
from paretune.search.devices import hardware_of

SMALL = small_inventory()
PRESETS = ("mcu", "cpu", "edge_npu", "fpga_pe16", "systolic_16x16")
DEVICES = {name: hardware_of(name) for name in PRESETS}
DEVICES |= {flow: replace(DEVICES["systolic_16x16"], dataflow=flow) for flow in ("weight", "input")}
DEVICES["skips"] = replace(DEVICES["edge_npu"], skips="all")


def bare(*layers: Layer) -> Inventory:
    return Inventory(layers=layers, groups=(), input_shape=(), whole={})


def in_bits(inventory: Inventory, bits: int) -> Profile:
    """Every layer with weights at `bits`/`bits`."""
    layers = (LayerPlan(layer=row.name, weight_bits=bits, activation_bits=bits) for row in inventory.weighted)
    return profile(inventory, Plan(layers=tuple(layers)))


def resnet18() -> Inventory:
    """He et al. 2016, table 1, at 224×224: 7×7 stem, four stages of two basic blocks, 1×1 projections, 1000 classes."""

    def conv(name: str, inputs: int, outputs: int, kernel: int, side: int) -> Layer:
        shape = (outputs, inputs, kernel, kernel)
        return Layer(name=name, kind="conv", weight_shape=shape, bias=False, positions=side * side)

    layers = [conv("stem", 3, 64, 7, 112)]
    inputs = 64
    for stage, (width, side) in enumerate(((64, 56), (128, 28), (256, 14), (512, 7))):
        layers.append(conv(f"{stage}.0.conv1", inputs, width, 3, side))
        layers += [conv(f"{stage}.{name}", width, width, 3, side) for name in ("0.conv2", "1.conv1", "1.conv2")]
        if inputs != width:
            layers.append(conv(f"{stage}.0.projection", inputs, width, 1, side))
        inputs = width
    return bare(*layers, Layer(name="fc", kind="linear", weight_shape=(1000, 512), bias=True))


def tfc() -> Inventory:
    """QONNX's TFC: a 784-64-64-64-10 perceptron."""
    widths = (784, 64, 64, 64, 10)
    shapes = [(outputs, inputs) for inputs, outputs in pairwise(widths)]
    return bare(*(Layer(name=f"fc{i}", kind="linear", weight_shape=s, bias=False) for i, s in enumerate(shapes)))


def test_resnet18_has_the_bit_operations_of_hawqs_model_zoo() -> None:
    """1858 GBOPs in float and 116 at 8/8 (https://github.com/Zhen-Dong/HAWQ), from 1814.07 M MACs."""
    assert macs(in_bits(resnet18(), 32)) / 1e6 == pytest.approx(1814.07, abs=0.005)
    assert round(bops(in_bits(resnet18(), 32)) / 1e9) == 1858
    assert round(bops(in_bits(resnet18(), 8)) / 1e9) == 116
    assert params(in_bits(resnet18(), 8)) == 11_689_512 - 9_600  # torchvision's count without the batch norms


def test_tfc_w2a2_has_the_numbers_of_qonnx() -> None:
    """59,008 MACs, 236,032 BOPs and 118,016 weight bits (https://github.com/fastmachinelearning/qonnx_model_zoo)."""
    rows = in_bits(tfc(), 2)
    assert macs(rows) == 59_008
    assert bops(rows) == 236_032
    assert weight_bits(rows) == 118_016
    steps = (64 + 64 + 64 + 10) + 4  # per output channel, and one per activation
    packed = sum(ceil(row.weights / 5) for row in rows)  # five ternary weights in a byte instead of four
    assert size_bytes(rows) == packed + 4 * steps + HEADER_BYTES


def test_the_dense_costs_of_the_small_model() -> None:
    rows = profile(SMALL, DENSE)
    # stem 4·3·9, its norm 2·4, body 6·4 + 6, its norm 2·6, a free parameter of 5, head 10·24 + 10
    assert params(rows) == 108 + 8 + 30 + 12 + 5 + 250
    assert macs(rows) == 108 * 16 + 24 * 16 + 240
    assert bops(rows) == macs(rows) * 32 * 32
    # Weights and biases; the stem's norm leaves its shift only, the other keeps four vectors.
    assert size_bytes(rows) == HEADER_BYTES + 4 * (108 + 4 + 24 + 6 + 4 * 6 + 5 + 240 + 10)


def test_the_costs_of_a_cut_and_quantized_model() -> None:
    plan = Plan(
        groups=(GroupPlan(group="stem", kept=(0, 2, 3)), GroupPlan(group="body.a", kept=(1,))),
        layers=(
            LayerPlan(layer="stem", weight_bits=3, activation_bits=8),
            LayerPlan(layer="body.a", weight_bits=2, activation_bits=4),
        ),
    )
    rows = profile(SMALL, plan)
    stem, body, head = 3 * 27, 1 * 3, 10 * 4
    assert macs(rows) == stem * 16 + body * 16 + head
    assert bops(rows) == stem * 16 * 3 * 8 + body * 16 * 2 * 4 + head * 32 * 32
    packed = ceil(stem * 3 / 8) + 4 * (3 + 3 + 1)  # codes; scales, shifts, activation step
    packed += ceil(body / 5) + 4 * (1 + 1 + 1) + 4 * 4 * 1  # ternary; and an unfolded norm of one channel
    packed += 4 * 5 + 4 * (head + 10)
    assert size_bytes(rows) == HEADER_BYTES + packed


def test_every_layer_starts_on_a_byte() -> None:
    layer = Layer(name="a", kind="linear", weight_shape=(1, 3), bias=False)
    one = in_bits(bare(layer), 3)
    assert size_bytes(one) - HEADER_BYTES == 2 + 4 + 4  # 9 bits
    twins = bare(layer, replace(layer, name="b"))
    assert size_bytes(in_bits(twins, 3)) - HEADER_BYTES == 2 * (2 + 4 + 4)


def assert_no_dearer(small: Profile, large: Profile) -> None:
    """In no cost, on no hardware."""
    for device in (None, *DEVICES.values()):
        less, more = static_costs(small, device), static_costs(large, device)
        # Below 4 bits products move from DSP blocks to LUTs.
        dearer = [name for name in less if name != "luts" and less[name] > more[name] * (1 + 1e-12)]
        assert not dearer, f"{dearer} on {device.name if device else 'nothing'}"


@given(st.integers(1, 8), st.integers(1, 8))
def test_more_bits_never_cost_less(bits: int, other: int) -> None:
    low, high = (in_bits(SMALL, number) for number in sorted((bits, other)))
    assert_no_dearer(low, high)
    assert bops(high) == macs(high) * max(bits, other) ** 2


@given(st.sets(st.integers(0, 3), min_size=1), st.sets(st.integers(0, 5), min_size=1))
def test_fewer_channels_never_cost_more(stem: set[int], body: set[int]) -> None:
    def rows(*kept: set[int]) -> Profile:
        groups = zip(("stem", "body.a"), kept, strict=True)
        return profile(SMALL, Plan(groups=tuple(GroupPlan(group=n, kept=tuple(sorted(units))) for n, units in groups)))

    small, large = rows(stem, body), rows(stem | {0}, body | {0})
    assert_no_dearer(small, large)
    assert macs(large) - macs(small) >= 16 * (0 not in stem)


def test_the_table_counts_what_it_names() -> None:
    rows = in_bits(SMALL, 4)
    assert static_costs(rows) == {
        "params": params(rows), "nonzeros": nonzeros(rows), "weight_bits": weight_bits(rows),
        "size_bytes": size_bytes(rows), "activation_bytes": 0, "macs": macs(rows),
        "effective_macs": effective_macs(rows), "bops": bops(rows), "effective_bops": effective_bops(rows),
        "relative_bops": relative_bops(rows), "baskin_bops": baskin_bops(rows),
        "effective_baskin_bops": effective_baskin_bops(rows),
    }  # fmt: skip
    assert all(name == cost.objective.name and cost.objective.unit and cost.source for name, cost in COSTS.items())


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_a_cost_alone_is_the_cost_in_the_table(device: Hardware) -> None:
    rows = in_bits(SMALL, 4)
    table = static_costs(rows, device)
    assert {name: cost.count(rows, device) for name, cost in costs_for(device).items()} == table
    assert ("luts" in table) == (device.engine == "finn")


def test_a_cost_of_other_hardware_says_so() -> None:
    rows = in_bits(SMALL, 4)
    with pytest.raises(ParetuneError, match="'luts' needs hardware that has it, and 'systolic_16x16' does not"):
        COSTS["luts"].count(rows, DEVICES["systolic_16x16"])
    with pytest.raises(ParetuneError, match="'cycles' needs hardware that has it, and no hardware is named"):
        COSTS["cycles"].count(rows, None)
    side_by_side = replace(DEVICES["fpga_pe16"], target_cycles=1000)
    with pytest.raises(ParetuneError, match="'parallel_cycles' needs hardware"):
        COSTS["parallel_cycles"].count(rows, side_by_side)


def test_nothing_costs_nothing_but_the_header() -> None:
    assert static_costs(()) == {**dict.fromkeys(static_costs(()), 0), "size_bytes": HEADER_BYTES}


def test_bit_operations_with_the_accumulator() -> None:
    """Of n inputs and a k×k kernel: MACs × (w a + w + a + log2 n k²), Baskin et al. 2018."""
    layer = Layer(name="a", kind="conv", weight_shape=(8, 16, 2, 2), bias=False, positions=9)
    half = Pattern(kind="unstructured", nonzeros=256, index_bytes=0, stored="")
    plan = LayerPlan(layer="a", weight_bits=3, activation_bits=5)
    rows, holed = (profile(bare(layer), Plan(layers=(replace(plan, pattern=one),))) for one in (None, half))
    count = 8 * 16 * 4 * 9
    assert baskin_bops(rows) == baskin_bops(holed) == count * (15 + 3 + 5 + 6)
    assert effective_baskin_bops(rows) == baskin_bops(rows)
    assert effective_baskin_bops(holed) == count * (15 / 2 + 3 + 5 + 6)


def test_relative_bit_operations_look_at_the_uncut_float_model() -> None:
    plan = Plan(groups=(GroupPlan(group="stem", kept=(0,)),), layers=(LayerPlan(layer="stem", weight_bits=8),))
    dense = macs(profile(SMALL, DENSE)) * 1024
    assert relative_bops(profile(SMALL, DENSE)) == 1
    assert relative_bops(profile(SMALL, plan)) == bops(profile(SMALL, plan)) / dense < 0.5
    assert relative_bops(in_bits(SMALL, 8)) == 1 / 16


def holed(stem: int, head: int, *, index: int = 0, bits: int = FLOAT) -> Profile:
    """`SMALL` with so many weights left of the 108 of `stem`, at 16 positions, and of the 240 of `head`."""
    left = {"stem": stem, "head": head}
    rows = (
        LayerPlan(
            layer=name, weight_bits=bits, activation_bits=bits,
            pattern=Pattern(kind="unstructured", nonzeros=count, index_bytes=index, stored=""),
        )
        for name, count in left.items()
    )  # fmt: skip
    return profile(SMALL, Plan(layers=tuple(rows)))


def test_the_costs_of_a_masked_model() -> None:
    rows = holed(7, 100, index=5, bits=3)
    dense = profile(SMALL, DENSE)
    assert nonzeros(rows) == params(dense) - (108 - 7) - (240 - 100)
    assert effective_macs(rows) == 7 * 16 + 24 * 16 + 100
    assert effective_bops(rows) == (7 * 16 + 100) * 3 * 3 + 24 * 16 * 32 * 32
    assert size_bytes(rows) == HEADER_BYTES + (
        (
            4 + 3 + 3 + 4 * (4 + 4 + 1)
        )  # rows: 5 pointers and 7 columns in 3 and 5 bits, 21 bits of codes; scales, shifts
        + (30 + 38 + 4 * (10 + 10 + 1))  # 240 bits say which stay, 300 bits are codes
        + 4 * (24 + 6 + 4 * 6 + 5)  # the other layer and its norm, a free parameter
    )
    # Hardware that skips no zeros, and what learns behind a mask, count as before.
    assert (params(rows), macs(rows)) == (params(dense), macs(dense))
    assert bops(rows) == (108 * 16 + 240) * 3 * 3 + 24 * 16 * 32 * 32


def test_without_masks_the_effective_costs_are_the_plain_ones() -> None:
    for rows in (profile(SMALL, DENSE), in_bits(SMALL, 4), holed(108, 240), in_bits(resnet18(), 8)):
        assert nonzeros(rows) == params(rows)
        assert effective_macs(rows) == macs(rows)
        assert effective_bops(rows) == bops(rows)


@given(st.tuples(st.integers(1, 108), st.integers(1, 240)), st.tuples(st.integers(1, 108), st.integers(1, 240)))
def test_fewer_weights_never_cost_more(one: tuple[int, int], two: tuple[int, int]) -> None:
    small, large = (holed(*(pick(pair) for pair in zip(one, two, strict=True)), bits=5) for pick in (min, max))
    assert_no_dearer(small, large)
    assert nonzeros(large) - nonzeros(small) == sum(abs(a - b) for a, b in zip(one, two, strict=True))
