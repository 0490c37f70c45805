"""The shipped hardware and energy tables can be read and used."""

from functools import cache
from importlib.resources import files
from typing import Any

import pytest
import yaml
from hand_made_rows import linear

from paretune.costs.devices import parse_energy, parse_hardware
from paretune.costs.energy import energy_of
from paretune.costs.hardware import Hardware
from paretune.costs.systolic import systolic_work


def names(group: str) -> list[str]:
    folder = files("paretune.conf") / group
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


@cache
def plain(group: str, name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((files("paretune.conf") / group / f"{name}.yaml").read_text("utf-8"))
    return read


def preset(name: str) -> Hardware:
    return parse_hardware(plain("hardware", name), lambda table: plain("energy", table))


def test_there_is_something_to_check() -> None:
    assert {"mcu", "fpga_pe16", "systolic_16x16", "edge_npu", "cpu"} <= set(names("hardware"))
    assert {"horowitz_45nm", "eyeriss"} <= set(names("energy"))


@pytest.mark.parametrize("name", names("energy"))
def test_every_table_can_be_read_and_nearer_memory_is_cheaper(name: str) -> None:
    table = parse_energy(name, plain("energy", name))
    levels = [table.register, *(energy for _, energy in table.buffer), table.dram]
    assert table.name == name
    assert levels == sorted(levels)
    assert table.unit
    assert "https://" in table.source


@pytest.mark.parametrize("name", names("hardware"))
def test_every_preset_can_be_read_and_says_what_it_stands_for(name: str) -> None:
    hardware = preset(name)
    assert hardware.name == name
    assert hardware.lanes >= 1
    assert hardware.note.endswith(".")


@pytest.mark.parametrize("name", names("hardware"))
def test_every_preset_fits_its_tables_and_costs_something(name: str) -> None:
    hardware, row = preset(name), linear(10, 64, 17)
    work = systolic_work(row, hardware)
    for table in (hardware.energy, hardware.relative_energy):
        assert energy_of(row, work, hardware, table).total > 0


def test_seventeen_channels_cost_two_passes_on_the_sixteen_wide_array() -> None:
    works = [systolic_work(linear(16, 64, filters), preset("systolic_16x16")) for filters in (16, 17, 32)]
    assert [work.passes for work in works] == [1, 2, 2]
    assert works[2].utilisation == works[0].utilisation > works[1].utilisation
