"""Hardware and energy tables from plain settings: what is read, and what is refused with which words."""

from collections.abc import Mapping
from typing import Any

import pytest
from hand_made_rows import TABLE

from paretune.costs.devices import parse_energy, parse_hardware
from paretune.costs.hardware import Energy, Hardware
from paretune.errors import ParetuneError, pick
from paretune.records import digest, from_plain, to_plain

MINE: dict[str, Any] = {key: value for key, value in to_plain(TABLE).items() if key != "name"}
TABLES: Mapping[str, Mapping[str, Any]] = {"mine": MINE, "relative": {**MINE, "unit": "16-bit MACs"}}
PLAIN = {"name": "small", "engine": "systolic", "energy": "mine", "relative_energy": "relative"}


def tables(name: str) -> Mapping[str, Any]:
    return pick(TABLES, name, "energy table")


def parsed(**changes: Any) -> Hardware:
    return parse_hardware({**PLAIN, **changes}, tables)


def test_what_is_not_said_has_its_default() -> None:
    relative = parse_energy("relative", TABLES["relative"])
    assert parsed() == Hardware(name="small", engine="systolic", energy=TABLE, relative_energy=relative)


def test_what_is_said_is_taken() -> None:
    array = parsed(rows=3, columns=5, dataflow="weight", skips="blocks", buffer_bytes=64, accelerators=2, note="rough")
    assert (array.rows, array.columns, array.dataflow, array.lanes) == (3, 5, "weight", 15)
    assert (array.skips, array.buffer_bytes, array.accelerators, array.note) == ("blocks", 64, 2, "rough")
    engine = parsed(engine="finn", pe=4, simd=2, target_cycles=1000, ternary_adds=True, accelerators=None)
    assert (engine.pe, engine.simd, engine.target_cycles, engine.ternary_adds) == (4, 2, 1000, True)
    assert (engine.lanes, engine.accelerators) == (8, None)


def test_a_table_can_stand_in_place() -> None:
    assert parsed(energy={**MINE, "dram": 1}).energy.dram == 1.0
    assert parsed(energy=MINE).energy.name == "hardware.energy"
    assert parsed(energy={**MINE, "name": "own"}).energy.name == "own"


def test_hardware_is_a_record() -> None:
    one, other = parsed(rows=4), parsed(rows=5)
    assert from_plain(Hardware, to_plain(one)) == one
    assert parse_hardware(to_plain(one), tables) == one
    assert len({one, parsed(rows=4), other}) == 2
    assert digest(one) == digest(parsed(rows=4)) != digest(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": 4}, r"hardware has no entry 'row'. Did you mean 'rows'\?"),
        ({"engine": "sistolic"}, r"hardware.engine cannot be 'sistolic'. Did you mean 'systolic'\?"),
        ({"dataflow": "row"}, r"hardware.dataflow cannot be 'row'.* Known: output, weight, input"),
        ({"skips": True}, r"hardware.skips cannot be True"),
        ({"skips": ["all"]}, r"hardware.skips cannot be \['all'\]"),
        ({"rows": 0}, r"hardware.rows must be 1 or more, got 0"),
        ({"columns": -3}, r"hardware.columns must be 1 or more, got -3"),
        ({"rows": 2.5}, r"hardware.rows must be a whole number, 1 or more, got 2.5"),
        ({"rows": float("nan")}, r"hardware.rows must be a whole number, 1 or more, got nan"),
        ({"rows": "4"}, r"hardware.rows must be a whole number, 1 or more, got '4'"),
        ({"rows": True}, r"hardware.rows must be a whole number, 1 or more, got True"),
        ({"rows": None}, r"hardware.rows must be a whole number, 1 or more, got None"),
        ({"accelerators": 0}, r"hardware.accelerators must be 1 or more, got 0"),
        ({"buffer_bytes": 0}, r"hardware.buffer_bytes must be 1 or more, got 0"),
        ({"accumulator_bits": 0}, r"hardware.accumulator_bits must be 1 or more, got 0"),
        ({"ternary_adds": "yes"}, r"hardware.ternary_adds must be true or false, got 'yes'"),
        ({"name": 5}, r"hardware.name must be a text, got 5"),
        ({"note": None}, r"hardware.note must be a text, got None"),
        ({"target_cycles": 100}, r"hardware.target_cycles belongs to engine 'finn', got 100 with engine 'systolic'"),
        ({"pe": 2}, r"hardware.pe belongs to engine 'finn', got 2 with engine 'systolic', which has rows, columns"),
        ({"engine": "finn", "rows": 2}, r"hardware.rows belongs to engine 'systolic', got 2 with engine 'finn'"),
        ({"energy": "mien"}, r"no energy table is called 'mien'. Did you mean 'mine'\?"),
        ({"energy": 3}, r"hardware.energy must be the name of an energy table or its entries, got 3"),
        ({"energy": "relative"}, r"hardware.energy must be a table in pJ, got 'relative' in 16-bit MACs"),
    ],
)
def test_bad_hardware_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParetuneError, match=message):
        parsed(**changes)


@pytest.mark.parametrize("key", PLAIN)
def test_what_hardware_needs_cannot_be_left_out(key: str) -> None:
    plain = {name: value for name, value in PLAIN.items() if name != key}
    with pytest.raises(ParetuneError, match=f"hardware has no entry '{key}'; it needs name, engine, energy, rel"):
        parse_hardware(plain, tables)


@pytest.mark.parametrize("key", MINE)
def test_a_table_needs_every_entry(key: str) -> None:
    plain = {name: value for name, value in MINE.items() if name != key}
    with pytest.raises(ParetuneError, match=f"energy table 'mine' has no entry '{key}'; it needs unit, source, mult"):
        parse_energy("mine", plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drum": 1}, r"energy table 'mine' has no entry 'drum'. Did you mean 'dram'\?"),
        ({"dram": -1}, r"energy table 'mine': dram must be 0 or more, got -1"),
        ({"dram": float("nan")}, r"energy table 'mine': dram must be a number, 0 or more, got nan"),
        ({"add": float("inf")}, r"energy table 'mine': add must be a number, 0 or more, got inf"),
        ({"add": "1e-3"}, r"energy table 'mine': add must be a number, 0 or more, got '1e-3'"),
        ({"add": None}, r"energy table 'mine': add must be a number, 0 or more, got None"),
        ({"add": True}, r"energy table 'mine': add must be a number, 0 or more, got True"),
        ({"unit": 3}, r"energy table 'mine': unit must be a text, got 3"),
        ({"multiply": 3}, r"energy table 'mine': multiply must be two numbers, .* got 3"),
        ({"multiply": [1, 2, 3]}, r"energy table 'mine': multiply must be two numbers, .* got \[1, 2, 3\]"),
        ({"multiply": [1, -2]}, r"energy table 'mine': multiply must be 0 or more, got -2"),
        ({"buffer": []}, r"energy table 'mine': buffer must be a list of .* at least one, got \[\]"),
        ({"buffer": 2.0}, r"energy table 'mine': buffer must be a list of .*, got 2.0"),
        ({"buffer": [8]}, r"energy table 'mine': buffer must be two numbers, .* got 8"),
        ({"buffer": [[0, 1]]}, r"energy table 'mine': buffer must be 1 or more, got 0"),
        ({"buffer": [[8, -1]]}, r"energy table 'mine': buffer must be 0 or more, got -1"),
        ({"buffer": [[9, 1], [8, 2]]}, r"energy table 'mine': buffer must have ascending sizes, .* got \[9, 8\]"),
        ({"buffer": [[8, 1], [8, 2]]}, r"energy table 'mine': buffer must have ascending sizes, .* got \[8, 8\]"),
    ],
)
def test_a_bad_table_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParetuneError, match=message):
        parse_energy("mine", {**MINE, **changes})


@pytest.mark.parametrize("plain", [None, "pJ", [1]])
def test_something_else_than_a_mapping_is_refused(plain: Any) -> None:
    with pytest.raises(ParetuneError, match="energy table 'mine' must be a mapping with unit, source"):
        parse_energy("mine", plain)
    with pytest.raises(ParetuneError, match="hardware must be a mapping with name, engine"):
        parse_hardware(plain, tables)


def test_a_table_is_read_as_it_is_written() -> None:
    assert parse_energy("mine", MINE) == TABLE
    assert parse_energy("other", MINE).name == "other"
    assert from_plain(Energy, to_plain(TABLE)) == TABLE
