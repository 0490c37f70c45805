"""The matrix-vector engine against closed forms, brute force and FINN's own estimates."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.costs.finn import brams, finn_work, floats, network_cycles, network_resources, resources_of
from paretune.costs.folding import divisors, fold, too_slow
from paretune.costs.hardware import Energy, Hardware
from paretune.profile import Row

FREE = Energy(
    name="free", unit="none", source="made up", multiply=(0.0, 0.0), add=0.0, float_multiply=0.0, float_add=0.0,
    register=0.0, buffer=((1, 0.0),), dram=0.0,
)  # fmt: skip


def engine(pe: int = 1, simd: int = 1, **more: Any) -> Hardware:
    return Hardware(name="test", engine="finn", energy=FREE, relative_energy=FREE, pe=pe, simd=simd, **more)


def layer(
    filters: int, inner: int, positions: int = 1, *, groups: int = 1, bits: tuple[int, int] = (4, 4), **more: Any
) -> Row:
    """A convolution of `groups` products (positions, inner) × (inner, filters), `bits` of weights and activations."""
    weights = groups * filters * inner
    row = Row(
        name="conv", kind="conv", weight_shape=(groups * filters, inner), channels=groups * filters,
        macs=weights * positions, params=weights, weights=weights, weight_bits=bits[0], activation_bits=bits[1],
        scales=0, floats=0, nonzeros=weights, kept=weights, groups=groups, positions=positions, inner=inner,
        inputs=groups * inner * positions, outputs=groups * filters * positions,
    )  # fmt: skip
    return replace(row, **more)


def norm() -> Row:
    return layer(8, 1, kind="norm", positions=1000, macs=0, weights=0, bits=(32, 32))


SIZES = st.integers(1, 40)
LAYERS = st.one_of(
    st.builds(layer, SIZES, SIZES, st.integers(1, 9), groups=st.integers(1, 3)),
    st.builds(layer, st.just(1), SIZES, st.integers(1, 9), groups=SIZES),  # depthwise
)
TARGETS = st.integers(1, 4000)


def test_filters_and_weights_are_folded_onto_elements_and_lanes() -> None:
    work = finn_work(layer(32, 36, positions=25), engine(pe=8, simd=12))
    folds = (32 // 8) * (36 // 12)
    assert (work.cycles, work.passes, work.utilisation) == (folds * 25, folds, 1.0)
    assert work.weights_read == 25 * 32 * 36  # every weight once per vector
    assert work.inputs_read == 25 * 36 * (32 // 8)  # every input once per fold over the filters
    assert work.outputs_moved == 25 * 32


def test_seventeen_filters_on_sixteen_elements_take_two_passes() -> None:
    sixteen, seventeen = (finn_work(layer(filters, 16, positions=9), engine(16, 16)) for filters in (16, 17))
    assert (sixteen.passes, sixteen.cycles, sixteen.utilisation) == (1, 9, 1.0)
    assert (seventeen.passes, seventeen.cycles, seventeen.utilisation) == (2, 18, 17 / 32)


def test_groups_follow_one_another_but_a_depthwise_layer_shares_out_its_channels() -> None:
    grouped = finn_work(layer(4, 9, positions=5, groups=6), engine(pe=4, simd=3))
    assert (grouped.cycles, grouped.inputs_read, grouped.outputs_moved) == (6 * 1 * 3 * 5, 6 * 9 * 5, 24 * 5)
    depthwise = finn_work(layer(1, 9, positions=5, groups=24), engine(pe=4, simd=3))
    assert (depthwise.cycles, depthwise.utilisation) == ((24 // 4) * 3 * 5, 1.0)
    assert depthwise.inputs_read == 24 * 9 * 5  # each element reads its own channel


def test_a_row_that_does_not_multiply_costs_nothing() -> None:
    for hardware in (engine(4, 4), engine(target_cycles=10)):
        work, needed = finn_work(norm(), hardware), resources_of(norm(), hardware)
        assert (work.cycles, work.utilisation, needed.luts, needed.dsps, needed.brams) == (0, 0.0, 0, 0, 0)


def test_a_pruned_block_saves_its_share_of_the_cycles_if_the_hardware_skips_it() -> None:
    half = layer(32, 64, positions=10, pattern="pe_block", block=16, kept=32 * 64 // 2)
    cycles = {skips: finn_work(half, engine(16, 8, skips=skips)).cycles for skips in ("none", "blocks", "all")}
    assert cycles == {"none": 2 * 8 * 10, "blocks": 2 * 4 * 10, "all": 2 * 4 * 10}
    assert finn_work(half, engine(32, 8, skips="blocks")).cycles == 1 * 8 * 10  # blocks too narrow for the elements


def test_inputs_go_past_whole_where_every_filter_keeps_others() -> None:
    sparse = layer(16, 64, positions=3, pattern="2:4", kept=16 * 32)
    work = finn_work(sparse, engine(8, 8, skips="blocks"))
    assert (work.cycles, work.weights_read, work.inputs_read) == (2 * 4 * 3, 16 * 32 * 3, 2 * 64 * 3)
    blocked = replace(sparse, pattern="pe_block", block=8)
    assert finn_work(blocked, engine(8, 8, skips="blocks")).inputs_read == 2 * 32 * 3


@given(row=LAYERS, pe=SIZES, simd=SIZES)
def test_lanes_do_at_most_one_mac_in_a_cycle(row: Row, pe: int, simd: int) -> None:
    work = finn_work(row, engine(pe, simd))
    assert work.utilisation == pytest.approx(row.macs / (work.cycles * pe * simd))
    assert 0 < work.utilisation <= 1


@given(row=LAYERS, target=TARGETS)
def test_the_folding_is_the_cheapest_that_keeps_to_the_target(row: Row, target: int) -> None:
    depthwise = row.groups == row.channels > 1
    width = row.groups if depthwise else row.filters
    every = [
        fold(row, engine(pe, simd)) for pe in range(1, width + 1) for simd in range(1, row.inner + 1)
        if width % pe == 0 and row.inner % simd == 0
    ]  # fmt: skip
    reached = max(target, min(folding.cycles for folding in every))
    price = {
        (resources_of(row, engine(one.pe, one.simd)).luts, -one.simd): one for one in every if one.cycles <= reached
    }
    assert fold(row, engine(target_cycles=target)) == price[min(price)]


@given(row=LAYERS, targets=st.tuples(TARGETS, TARGETS))
def test_a_stricter_target_never_needs_fewer_lanes(row: Row, targets: tuple[int, int]) -> None:
    strict, loose = (fold(row, engine(target_cycles=target)) for target in sorted(targets))
    assert strict.pe * strict.simd >= loose.pe * loose.simd
    assert strict.cycles <= loose.cycles


def test_of_equally_cheap_engines_that_with_more_lanes_per_element_is_taken() -> None:
    """With sums of W + A = 8 bits, all engines of as many lanes cost the same."""
    folding = fold(layer(16, 16), engine(target_cycles=32, accumulator_bits=8))
    assert (folding.pe, folding.simd, folding.cycles) == (1, 8, 32)


def test_a_target_that_divides_the_work_is_met_exactly() -> None:
    row = layer(64, 576, positions=49)
    for lanes in (1, 64, 576, 64 * 576):
        assert fold(row, engine(target_cycles=row.macs // lanes)).cycles == row.macs // lanes


def test_blocks_are_skipped_by_engines_that_they_are_wide_enough_for() -> None:
    """A quarter of 32 × 64 weights is left in runs of four filters: wider engines must do all of them."""
    row = layer(32, 64, pattern="pe_block", block=4, kept=32 * 16)
    for target, pe, simd in ((16, 2, 16), (8, 4, 16), (4, 8, 64)):
        folding = fold(row, engine(target_cycles=target, skips="blocks"))
        assert (folding.pe, folding.simd, folding.cycles) == (pe, simd, target)
    dense = fold(row, engine(target_cycles=16))
    assert dense.pe * dense.simd == 32 * 64 // 16


def test_what_misses_the_target_is_named() -> None:
    rows = (layer(8, 8, positions=50, name="large"), layer(8, 8, positions=49, name="small"), norm())
    assert too_slow(rows, engine(target_cycles=49)) == ("large",)
    assert fold(rows[0], engine(target_cycles=49)).cycles == 50  # all lanes there can be
    assert too_slow(rows, engine()) == ()


def test_a_shared_engine_runs_layers_in_turn_and_own_engines_at_once() -> None:
    rows = (layer(8, 8, positions=3), layer(16, 8, positions=5))
    shared, own = engine(4, 4), engine(target_cycles=64)
    assert network_cycles([finn_work(row, shared) for row in rows], shared) == 2 * 2 * 3 + 4 * 2 * 5
    cycles = [finn_work(row, own).cycles for row in rows]
    assert network_cycles((finn_work(row, own) for row in rows), own) == max(cycles) <= 64
    assert network_cycles([], own) == network_cycles([], shared) == 0


def test_lookup_tables_as_in_finns_own_test() -> None:
    """FINN's test_fpgadataflow_res_estimate: a 4 × 4 matrix, 2 bits, one lane, a signed input (hence 6 bits of sum).

    Its 317 LUTs are int(300 + 1.1 × (multiplier 1 × 4 + adders 4 × 1 + sum 6) + 2), the last 2 for weights in LUTs,
    which are block RAM here.
    """
    needed = resources_of(layer(4, 4, bits=(2, 2)), engine(accumulator_bits=6))
    assert (needed.luts, needed.dsps, needed.brams) == (int(300 + 1.1 * (4 + 4 + 6)), 0, 1)


def test_resources_of_an_engine_of_dsp_blocks() -> None:
    """W + A = 16 bits, 8 × 16 lanes: adders 16 × 31, sums of log2(256) + 16 bits, no multiplier."""
    needed = resources_of(layer(64, 256, bits=(8, 8)), engine(8, 16))
    accumulator = 8 + 16 + 1  # 256 × 2^15 = 2^23 does not fit 24 bits with a sign
    assert needed.luts == int(300 + 1.1 * 8 * (16 * 31 + accumulator))
    assert needed.dsps == 8 * 16
    assert needed.brams == -(-8 * 16 * 8 // 36)  # 128 words of 1024 bits


def test_narrow_operands_are_multiplied_in_lookup_tables() -> None:
    for bits in ((3, 8), (8, 3)):
        needed = resources_of(layer(1, 1, bits=bits), engine())
        assert needed.luts == int(300 + 1.1 * (3 * 11 + 11 + 12))  # 2⌈11 / 6⌉ - 1 = 3
        assert needed.dsps == 0


def test_ternary_weights_take_adders_only() -> None:
    row = layer(16, 16, bits=(2, 8))
    plain, adds = resources_of(row, engine(4, 4)), resources_of(row, engine(4, 4, ternary_adds=True))
    assert plain.luts - adds.luts == int(1.1 * 4 * 4 * 3 * 10)  # 16 multipliers of (2⌈10 / 6⌉ - 1) × 10 LUTs
    assert (adds.dsps, adds.brams) == (0, plain.brams)


@pytest.mark.parametrize(
    ("width", "depth", "count"),
    [
        (1, 16384, 1), (1, 16385, 2), (2, 8193, 2), (3, 4096, 1), (4, 4097, 2), (9, 2048, 1), (9, 2049, 2),
        (18, 1024, 1), (18, 1025, 2), (36, 512, 1), (37, 512, 2), (36, 513, 2), (36, 1025, 4), (1024, 1, 29),
    ],
)  # fmt: skip
def test_block_rams_by_width_and_depth(width: int, depth: int, count: int) -> None:
    assert brams(width, depth) == count


def test_skipped_weights_need_no_memory() -> None:
    row = layer(16, 4096, bits=(8, 8), pattern="2:4", kept=16 * 2048)
    whole, half = (resources_of(row, engine(1, 1, skips=skips)).brams for skips in ("none", "blocks"))
    assert (whole, half) == (16 * 4096 // 2048, 16 * 2048 // 2048)


def test_a_shared_engine_is_as_large_as_its_neediest_layer_and_holds_all_weights() -> None:
    rows = (layer(16, 64, bits=(2, 2)), layer(8, 32, bits=(8, 8)), layer(8, 32, bits=(6, 6)), norm())
    each = [resources_of(row, engine(4, 8)) for row in rows]
    shared = network_resources(rows, engine(4, 8))
    assert (shared.luts, shared.dsps) == (max(one.luts for one in each), 4 * 8)
    assert shared.brams == sum(one.brams for one in each) > max(one.brams for one in each)
    own = engine(target_cycles=32)
    total, each = network_resources(rows, own), [resources_of(row, own) for row in rows]
    assert total.luts == sum(one.luts for one in each) > max(one.luts for one in each)
    assert total.dsps == sum(one.dsps for one in each) > max(one.dsps for one in each)


def test_float_layers_are_named() -> None:
    rows = (layer(4, 4, name="weights", bits=(32, 8)), layer(4, 4, name="inputs", bits=(8, 32)), layer(4, 4), norm())
    assert floats(rows) == ("weights", "inputs")


def test_divisors_ascend() -> None:
    for number in (1, 2, 17, 36, 360, 4608):
        assert divisors(number) == tuple(low for low in range(1, number + 1) if number % low == 0)
