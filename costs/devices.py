"""Hardware and energy tables from plain settings, checked."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, fields
from itertools import pairwise
from math import isfinite
from typing import Any

from paretune.costs.hardware import DATAFLOWS, ENGINES, SKIPS, Energy, Hardware
from paretune.errors import ParetuneError, near_miss

CHOICES: Mapping[str, tuple[str, ...]] = {"engine": ENGINES, "dataflow": DATAFLOWS, "skips": SKIPS}
SIZES = ("rows", "columns", "pe", "simd", "target_cycles", "accumulator_bits", "buffer_bytes", "accelerators")
TABLES = ("energy", "relative_energy")
RELATIVE = "16-bit MACs"
DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(Hardware)}
# What only one engine looks at.
OF_ENGINE: Mapping[str, tuple[str, ...]] = {
    "systolic": ("rows", "columns", "dataflow"),
    "finn": ("pe", "simd", "target_cycles"),
}


def parse_hardware(plain: Mapping[str, Any], energy: Callable[[str], Mapping[str, Any]]) -> Hardware:
    """The hardware that plain settings, such as those of conf/hardware/*.yaml, describe.

    `energy` and `relative_energy` in it are the entries of a table, or the name of one, which the function `energy`
    then looks up.

    Raises:
        ParetuneError: a setting that is missing, unknown, of the wrong type or out of range, or one that belongs to
            another engine.
    """
    needed = [name for name, default in DEFAULTS.items() if default is MISSING]
    _check_keys("hardware", plain, needed, DEFAULTS)
    found: dict[str, Any] = {key: _setting(key, value) for key, value in plain.items() if key not in TABLES}
    _check_engine(found)
    tables = {key: _table(key, plain[key], energy) for key in TABLES}
    if (unit := tables["relative_energy"].unit) != RELATIVE:
        raise ParetuneError(
            f"hardware.relative_energy must be a table in {RELATIVE}, got '{tables['relative_energy'].name}' in "
            f"{unit}; a table in pJ goes to hardware.energy"
        )
    if (unit := tables["energy"].unit) != "pJ":
        raise ParetuneError(
            f"hardware.energy must be a table in pJ, got '{tables['energy'].name}' in {unit}; "
            f"a table in {RELATIVE} goes to hardware.relative_energy"
        )
    return Hardware(**found, energy=tables["energy"], relative_energy=tables["relative_energy"])


def parse_energy(name: str, plain: Mapping[str, Any]) -> Energy:
    """The energy table with these entries; it is called `name`, unless it says its own.

    Raises:
        ParetuneError: an entry that is missing, unknown, not a number or negative, or memories that are not ascending.
    """
    where = f"energy table '{name}'"
    entries = [field.name for field in fields(Energy)]
    _check_keys(where, plain, [entry for entry in entries if entry != "name"], entries)
    texts = ("name", "unit", "source")
    single = ("add", "float_multiply", "float_add", "register", "dram")
    found: dict[str, Any] = {key: _text(f"{where}: {key}", plain.get(key, name)) for key in texts}
    found |= {key: _energy(f"{where}: {key}", plain[key]) for key in single}
    linear, square = _pair(f"{where}: multiply", plain["multiply"], "per mean bit and per product of bits")
    return Energy(
        **found,
        multiply=(_energy(f"{where}: multiply", linear), _energy(f"{where}: multiply", square)),
        buffer=_memories(f"{where}: buffer", plain["buffer"]),
    )


def _check_keys(where: str, plain: Any, needed: Iterable[str], known: Collection[str]) -> None:
    needed = list(needed)
    if not isinstance(plain, Mapping):
        raise ParetuneError(f"{where} must be a mapping with {', '.join(needed)}, got {plain!r}")
    for key in plain:
        if key not in known:
            raise ParetuneError(f"{where} has no entry '{key}'.{near_miss(str(key), known)}")
    for key in needed:
        if key not in plain:
            raise ParetuneError(f"{where} has no entry '{key}'; it needs {', '.join(needed)}")


def _setting(key: str, value: Any) -> Any:
    """One setting of the hardware, checked by its kind."""
    where = f"hardware.{key}"
    if key in CHOICES:
        if value not in CHOICES[key]:
            raise ParetuneError(f"{where} cannot be {value!r}.{near_miss(str(value), CHOICES[key])}")
        return value
    if key in SIZES:
        return None if value is None and DEFAULTS[key] is None else _size(where, value)
    if isinstance(DEFAULTS[key], bool):
        if not isinstance(value, bool):
            raise ParetuneError(f"{where} must be true or false, got {value!r}")
        return value
    return _text(where, value)


def _check_engine(found: Mapping[str, Any]) -> None:
    """No setting that the engine would pass over, unless it says nothing but the default."""
    for engine, settings in OF_ENGINE.items():
        for key in settings:
            if engine != found["engine"] and found.get(key, DEFAULTS[key]) != DEFAULTS[key]:
                own = ", ".join(OF_ENGINE[found["engine"]])
                raise ParetuneError(
                    f"hardware.{key} belongs to engine '{engine}', got {found[key]!r} with engine "
                    f"'{found['engine']}', which has {own}"
                )


def _table(key: str, value: Any, energy: Callable[[str], Mapping[str, Any]]) -> Energy:
    if isinstance(value, str):
        return parse_energy(value, energy(value))
    if isinstance(value, Mapping):
        return parse_energy(str(value.get("name", f"hardware.{key}")), value)
    raise ParetuneError(f"hardware.{key} must be the name of an energy table or its entries, got {value!r}")


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ParetuneError(f"{where} must be a text, got {value!r}")
    return value


def _size(where: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ParetuneError(f"{where} must be a whole number, 1 or more, got {value!r}")
    if value < 1:
        raise ParetuneError(f"{where} must be 1 or more, got {value}")
    return value


def _energy(where: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not isfinite(value):
        raise ParetuneError(f"{where} must be a number, 0 or more, got {value!r}")
    if value < 0:
        raise ParetuneError(f"{where} must be 0 or more, got {value}")
    return float(value)


def _pair(where: str, value: Any, meaning: str) -> tuple[Any, Any]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ParetuneError(f"{where} must be two numbers, {meaning}, got {value!r}")
    return value[0], value[1]


def _memories(where: str, value: Any) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ParetuneError(f"{where} must be a list of [bytes, energy per bit], at least one, got {value!r}")
    pairs = [_pair(where, entry, "[bytes, energy per bit]") for entry in value]
    found = tuple((_size(where, size), _energy(where, energy)) for size, energy in pairs)
    sizes = [size for size, _ in found]
    if any(a >= b for a, b in pairwise(sizes)):
        raise ParetuneError(f"{where} must have ascending sizes, each once, got {sizes}; sort them")
    return found
