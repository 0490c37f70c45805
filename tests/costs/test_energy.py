"""Energy against sums written out by hand and against Horowitz's figures."""

from dataclasses import replace
from importlib.resources import files
from math import prod

import pytest
import yaml
from hand_made_rows import ARRAY, TABLE, linear
from hypothesis import given
from hypothesis import strategies as st

from paretune.costs.devices import parse_energy
from paretune.costs.energy import Spent, energy_of, mac_energy, per_buffer_bit, weight_bits_stored
from paretune.costs.hardware import NO_WORK, Hardware, Work
from paretune.costs.skipping import streamed
from paretune.costs.systolic import systolic_work
from paretune.errors import ParetuneError
from paretune.plan import Codes
from paretune.profile import Row

WORK = Work(cycles=1, macs=0, passes=1, utilisation=1.0, weights_read=7, inputs_read=5, outputs_moved=3)


def shipped(name: str) -> dict[str, object]:
    plain: dict[str, object] = yaml.safe_load((files("paretune.conf") / "energy" / f"{name}.yaml").read_text())
    return plain


def horowitz() -> Hardware:
    table = parse_energy("horowitz_45nm", shipped("horowitz_45nm"))
    return replace(ARRAY, energy=table, buffer_bytes=8192)


def spent(row: Row, hardware: Hardware = ARRAY) -> Spent:
    """With the traffic of `WORK` and all MACs carried out that the hardware's masks leave."""
    return energy_of(row, replace(WORK, macs=prod(streamed(row, hardware, 4))), hardware, hardware.energy)


def test_every_level_by_hand() -> None:
    row = replace(linear(2, 4, 3, bits=4), activation_bits=8, scales=3, floats=5)
    found = spent(row)
    multiply = 0.5 * (4 + 8) / 2 + 0.25 * 4 * 8
    assert found.operations == 24 * (multiply + 0.125 * 16)
    assert found.register == 24 * (4 + 8 + 2 * 16) * 1.0
    assert found.buffer == (7 * 4 + 5 * 8 + 3 * 16) * 2.0
    assert found.dram == (12 * 4 + 32 * (3 + 5)) * 1000.0
    assert found.total == found.operations + found.register + found.buffer + found.dram


@pytest.mark.parametrize(("bits", "add", "multiply"), [(8, 0.025, 0.2), (32, 0.1, 3.1)])
def test_integer_operations_are_horowitzs(bits: int, add: float, multiply: float) -> None:
    """Horowitz 2014, https://doi.org/10.1109/ISSCC.2014.6757323, 45 nm: additions of 8, 16 and 32 bits take 0.03, 0.05
    and 0.1 pJ, multiplications of 8 and 32 bits 0.2 and 3.1. The line through the additions has 0.025 at 8 bits.
    """
    table = horowitz().energy
    linear_part, square = table.multiply
    assert table.add * bits == pytest.approx(add)
    assert table.add * 16 == pytest.approx(0.05)
    assert linear_part * bits + square * bits**2 == pytest.approx(multiply, rel=1e-4)


def test_a_row_in_horowitzs_figures() -> None:
    """100 MACs of 8 bits with 32-bit sums: 0.2 + 0.1 pJ each. Float32: 3.7 + 0.9. DRAM 20.31 per bit. 64 bits from a
    memory of 8 kB: 10.
    """
    hardware = replace(horowitz(), accumulator_bits=32)
    row, floats = linear(1, 10, 10), linear(1, 10, 10, bits=32)
    one = energy_of(
        row, replace(WORK, macs=100, weights_read=8, inputs_read=0, outputs_moved=0), hardware, hardware.energy
    )
    assert one.operations == pytest.approx(100 * (0.2 + 0.1), rel=1e-4)
    assert one.buffer == pytest.approx(10)
    assert one.dram == pytest.approx(800 * 20.31, rel=1e-3)
    assert one.register == pytest.approx(100 * (8 + 8 + 64) * 0.20 / 16)
    assert spent(floats, hardware).operations == pytest.approx(100 * (3.7 + 0.9))
    assert [64 * per_buffer_bit(hardware.energy, size) for size in (8192, 32768, 2**20)] == [10, 20, 100]


def test_eyeriss_counts_in_16_bit_macs() -> None:
    """Register file 1, buffer 6, DRAM 200 per 16-bit word (Chen et al. 2016, https://doi.org/10.1109/ISCA.2016.40)."""
    table = parse_energy("eyeriss", shipped("eyeriss"))
    row = linear(1, 1, 1, bits=16)
    assert mac_energy(row, ARRAY, table) == pytest.approx(1)  # with a 16-bit accumulator
    assert 16 * table.register == 1
    assert 16 * per_buffer_bit(table, 1024) == 6
    assert 16 * table.dram == 200


def test_a_float_on_either_side_makes_the_mac_float() -> None:
    row = linear(1, 4, 3)
    mixed = [replace(row, weight_bits=32), replace(row, activation_bits=32), linear(1, 4, 3, bits=32)]
    assert [mac_energy(each, ARRAY, TABLE) for each in mixed] == [110.0] * 3
    # A sum of floats is 32 bits wide, whatever the accumulator of integers is.
    assert spent(mixed[1]).register == 12 * (8 + 32 + 2 * 32)


def test_ternary_weights_need_no_multiplication_where_hardware_adds() -> None:
    adder = replace(ARRAY, ternary_adds=True)
    narrow, wide = (replace(linear(1, 4, 3), weight_bits=bits) for bits in (2, 3))
    assert spent(narrow, adder).operations == 12 * 0.125 * 16
    assert spent(narrow).operations > spent(narrow, adder).operations
    assert spent(wide, adder) == spent(wide)
    assert mac_energy(replace(narrow, activation_bits=32), adder, TABLE) == 10.0


@pytest.mark.parametrize(
    ("pattern", "skips", "share"),
    [("unstructured", "none", 1), ("unstructured", "blocks", 1), ("unstructured", "all", 0.25),
     ("pe_block", "none", 1), ("pe_block", "blocks", 0.25), ("pe_block", "all", 0.25)],
)  # fmt: skip
def test_masked_weights_cost_no_operation_where_they_are_skipped(pattern: str, skips: str, share: float) -> None:
    row = linear(2, 8, 4, kept=8, pattern=pattern, block=4, index_bytes=1)
    dense, masked = spent(linear(2, 8, 4)), spent(row, replace(ARRAY, skips=skips))
    assert masked.operations == share * dense.operations
    assert masked.register == share * dense.register
    assert masked.dram == (8 * 8 + 8) * 1000.0  # stored without its zeros on any hardware


def test_an_index_that_saves_nothing_is_not_stored() -> None:
    row = linear(2, 8, 4, bits=2, kept=28, pattern="unstructured", index_bytes=4)
    assert weight_bits_stored(row) == 32 * 2 < 28 * 2 + 32


@pytest.mark.parametrize(("alive", "spilled"), [(1024, 0), (1025, (2 * 8 + 2 * 4) * 6)])
def test_activations_go_to_dram_where_the_buffer_is_too_small(alive: int, spilled: int) -> None:
    row = replace(linear(2, 8, 4), activation_bits=6, alive_bytes=alive)
    assert spent(row).dram == (32 * 8 + spilled) * 1000.0


def test_a_row_without_macs_pays_for_its_floats_alone() -> None:
    norm = Row(name="norm", kind="norm", weight_shape=(4,), channels=4, macs=0, params=8, weights=0, weight_bits=32,
               activation_bits=32, scales=0, floats=16, nonzeros=0, alive_bytes=10**9)  # fmt: skip
    assert energy_of(norm, NO_WORK, ARRAY, TABLE) == Spent(operations=0, register=0, buffer=0, dram=16 * 32 * 1000)


def test_a_product_stores_no_weights() -> None:
    row = replace(linear(2, 8, 4, bits=32), kind="product", weights=0, kept=0)
    assert spent(row).dram == 0
    assert spent(row).operations == 64 * 110.0


def test_training_changes_nothing() -> None:
    row = linear(2, 8, 4, kept=8, pattern="unstructured", index_bytes=4)
    codes = Codes(nonzeros=3, distinct=3, entropy_bits=9, huffman_bits=99, gap_bits=3, entries=4)
    trained = replace(row, codes=codes, nonzeros=3, encoding="csr")
    assert energy_of(trained, WORK, ARRAY, TABLE) == energy_of(row, WORK, ARRAY, TABLE)


def test_a_memory_between_two_of_the_table_lies_on_a_power_law() -> None:
    """From 1024 bytes at 2 to 4096 at 3: half way in powers, 2048 bytes are sqrt(2 × 3)."""
    assert [per_buffer_bit(TABLE, size) for size in (1, 1024, 4096)] == [2.0, 2.0, 3.0]
    assert per_buffer_bit(TABLE, 2048) == pytest.approx(6**0.5)
    with pytest.raises(ParetuneError, match=r"table 'mine' has no memory of 4097 bytes; its largest is 4096 bytes"):
        energy_of(linear(1, 1, 1), WORK, replace(ARRAY, buffer_bytes=4097), TABLE)


@given(st.integers(1, 31), st.integers(1, 31), st.booleans())
def test_more_bits_never_take_less(weight: int, activation: int, adds: bool) -> None:
    hardware = replace(ARRAY, ternary_adds=adds)

    def total(weight: int, activation: int) -> float:
        row = replace(linear(6, 8, 4), weight_bits=weight, activation_bits=activation, alive_bytes=2000)
        return energy_of(row, systolic_work(row, hardware), hardware, TABLE).total

    assert total(weight, activation) <= min(total(weight + 1, activation), total(weight, activation + 1))


def test_what_is_written_goes_to_dram_in_its_readers_bits() -> None:
    row = replace(linear(2, 8, 4), activation_bits=6, alive_bytes=1025, output_bits=3)
    assert spent(row).dram == (32 * 8 + 2 * 8 * 6 + 2 * 4 * 3) * 1000.0


def test_an_engine_with_its_weights_on_chip_fetches_none() -> None:
    engine = replace(ARRAY, engine="finn")
    assert spent(linear(2, 8, 4), engine).dram == 0
    assert spent(linear(2, 8, 4)).dram == 32 * 8 * 1000.0


def test_levels_of_a_codebook_multiply_as_floats() -> None:
    adder = replace(ARRAY, ternary_adds=True)
    levels = replace(linear(1, 4, 3, bits=2), quantizer="codebook")
    assert mac_energy(levels, adder, TABLE) == 110.0
    assert mac_energy(linear(1, 4, 3, bits=2), adder, TABLE) < 10
