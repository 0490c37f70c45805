"""The systolic array against cases worked out by hand and against SCALE-Sim."""

from dataclasses import replace

import pytest
from hand_made_rows import ARRAY, linear
from hypothesis import given
from hypothesis import strategies as st

from paretune.costs.hardware import DATAFLOWS, NO_WORK, SKIPS, Hardware
from paretune.costs.systolic import MAPPINGS, TRAFFIC, systolic_work
from paretune.profile import Row

SIZES = st.integers(1, 40)


def array(rows: int, columns: int, dataflow: str = "output", skips: str = "none") -> Hardware:
    return replace(ARRAY, rows=rows, columns=columns, dataflow=dataflow, skips=skips)


def test_output_stationary_by_hand() -> None:
    """5 positions on 2 rows are 3 folds, 3 filters on 2 columns 2, and 4 inputs stream by."""
    work = systolic_work(linear(5, 4, 3), array(2, 2))
    assert work.passes == 3 * 2
    assert work.cycles == 6 * (2 * 2 + 2 + 4 - 2)
    assert work.utilisation == (5 * 4 * 3) / (48 * 4)
    assert work.inputs_read == 5 * 4 * 2  # for each of the two folds of filters
    assert work.weights_read == 4 * 3 * 3  # for each of the three folds of positions
    assert work.outputs_moved == 5 * 3


def test_weight_stationary_by_hand() -> None:
    """4 inputs on 2 rows are 2 folds, 3 filters on 2 columns 2, and 5 positions stream by."""
    work = systolic_work(linear(5, 4, 3), array(2, 2, "weight"))
    assert work.passes == 2 * 2
    assert work.cycles == 4 * (2 * 2 + 2 + 5 - 2)
    assert work.utilisation == (5 * 4 * 3) / (36 * 4)
    assert work.weights_read == 4 * 3
    assert work.inputs_read == 5 * 4 * 2
    assert work.outputs_moved == 5 * 3 * 3  # out, back in, out


def test_input_stationary_by_hand() -> None:
    """4 inputs on 2 rows are 2 folds, 5 positions on 2 columns 3, and 3 filters stream by."""
    work = systolic_work(linear(5, 4, 3), array(2, 2, "input"))
    assert work.passes == 2 * 3
    assert work.cycles == 6 * (2 * 2 + 2 + 3 - 2)
    assert work.utilisation == (5 * 4 * 3) / (42 * 4)
    assert work.inputs_read == 5 * 4
    assert work.weights_read == 4 * 3 * 3
    assert work.outputs_moved == 5 * 3 * 3


@pytest.mark.parametrize(
    ("dataflow", "lines", "weights", "inputs"),
    [("output", 8 * 12, 168, 140), ("weight", 108, 42, 140), ("input", 126, 126, 70)],
)
def test_scale_sim_says_the_same(dataflow: str, lines: int, weights: int, inputs: int) -> None:
    """10 × 7 times 7 × 6 on 3 × 4 in scalesim 3.0.0 (https://pypi.org/project/scalesim): lines of the demand matrix of
    outputs, and requests. Output stationary it has R = 3 cycles less in each of the 8 folds: R + C + T - 2 = 12.
    """
    work = systolic_work(linear(10, 7, 6), array(3, 4, dataflow))
    assert work.cycles == lines + (3 * 8 if dataflow == "output" else 0)
    assert (work.weights_read, work.inputs_read) == (weights, inputs)


def test_one_filter_too_many_costs_a_second_pass() -> None:
    """17 filters on 16 columns."""
    fits, spills = (systolic_work(linear(16, 64, filters), array(16, 16)) for filters in (16, 17))
    assert (fits.passes, spills.passes) == (1, 2)
    assert spills.cycles == 2 * fits.cycles == 2 * (2 * 16 + 16 + 64 - 2)
    assert spills.utilisation == pytest.approx(fits.utilisation * 17 / 32)


def test_every_conv_group_is_a_tile_of_its_own() -> None:
    """A depthwise 3×3 convolution of 8 channels at 16 positions: eight products with a single filter each."""
    row = replace(
        linear(16, 9, 8), kind="conv", weight_shape=(8, 1, 3, 3), groups=8, inner=9, channels=8, macs=16 * 9 * 8
    )
    work = systolic_work(row, array(4, 4))
    assert work.passes == 8 * 4
    assert work.cycles == 32 * (8 + 4 + 9 - 2)
    assert (work.weights_read, work.inputs_read, work.outputs_moved) == (72 * 4, 16 * 9 * 8, 16 * 8)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_skipped_blocks_save_time_and_masked_ones_do_no_work(dataflow: str) -> None:
    row = linear(8, 64, 16, kept=512, pattern="pe_block", block=16)
    plain, skipping = (systolic_work(row, array(8, 16, dataflow, skips)) for skips in ("none", "blocks"))
    half = systolic_work(linear(8, 32, 16), array(8, 16, dataflow))
    assert skipping.cycles == half.cycles < plain.cycles
    assert skipping.utilisation == half.utilisation
    assert plain.utilisation * plain.cycles * 128 == 512 * 8  # half of what is multiplied is a masked weight
    assert skipping.weights_read * 2 == plain.weights_read
    assert skipping.inputs_read == plain.inputs_read


def test_a_partition_runs_as_so_many_small_products() -> None:
    row = linear(1, 64, 32, kept=64 * 32 // 4, pattern="partition", parts=4)
    work = systolic_work(row, array(8, 8, "weight", "blocks"))
    assert work.passes == 4 * 2 * 1  # 16 inputs on 8 rows, 8 filters on 8 columns
    assert work.cycles == 8 * (16 + 8 + 1 - 2)
    assert (work.weights_read, work.inputs_read, work.outputs_moved) == (512, 64, 32 * 3)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("row", [replace(linear(5, 4, 3), macs=0), linear(5, 4, 3, kept=0, pattern="unstructured")])
def test_no_macs_are_no_work(row: Row, dataflow: str) -> None:
    assert systolic_work(row, array(2, 2, dataflow, "all")) == NO_WORK
    assert NO_WORK.cycles == NO_WORK.passes == NO_WORK.utilisation == NO_WORK.outputs_moved == 0


@given(SIZES, SIZES, SIZES, st.integers(1, 9), st.integers(1, 9), st.sampled_from(DATAFLOWS), st.sampled_from(SKIPS))
def test_no_array_is_busier_than_full(
    positions: int, inner: int, filters: int, rows: int, columns: int, dataflow: str, skips: str
) -> None:
    kept = (inner * filters + 1) // 2
    row = linear(positions, inner, filters, kept=kept, pattern="pe_block", block=columns)
    work = systolic_work(row, array(rows, columns, dataflow, skips))
    assert 0 < work.utilisation <= 1
    assert work.outputs_moved >= positions * filters
    assert work.inputs_read >= positions * inner
    assert work.weights_read >= kept


@given(SIZES, SIZES, SIZES, st.integers(1, 9), st.integers(1, 9), st.sampled_from(DATAFLOWS))
def test_less_is_never_slower(p: int, inner: int, filters: int, rows: int, columns: int, dataflow: str) -> None:
    small = systolic_work(linear(p, inner, filters), array(rows, columns, dataflow))
    for large in (linear(p + 1, inner, filters), linear(p, inner + 1, filters), linear(p, inner, filters + 1)):
        assert systolic_work(large, array(rows, columns, dataflow)).cycles >= small.cycles


def test_every_dataflow_has_a_mapping_and_its_traffic() -> None:
    assert set(MAPPINGS) == set(TRAFFIC) == set(DATAFLOWS)


def test_blocks_smaller_than_the_array_run_as_the_dense_layer() -> None:
    """8 inputs, 8 outputs and 8 blocks on 8 × 8: eight times 2·8 + 8 + 1 - 2 against once 2·8 + 8 + 8 - 2."""
    big = replace(ARRAY, rows=8, columns=8, skips="blocks")
    row = linear(1, 8, 8, kept=8, pattern="partition")
    blocks, dense = replace(row, parts=8), linear(1, 8, 8)
    assert 8 * 23 > systolic_work(dense, big).cycles == 30
    assert systolic_work(blocks, big).cycles == 30
    assert systolic_work(blocks, big).macs == 64
