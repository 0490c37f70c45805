"""Hardware by name or from a file, what ships with the package or your own YAML; and how a study measures latency."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from paretune.conf.settings import Settings
from paretune.costs.devices import parse_hardware
from paretune.costs.energy import per_buffer_bit
from paretune.costs.hardware import Hardware
from paretune.errors import ParetuneError, pick
from paretune.export.latency import Timing
from paretune.records import from_plain

KINDS = {"energy": "energy table"}  # what the options of a group are, where its name does not say it


def hardware_of(asked: str | Mapping[str, Any]) -> Hardware:
    """The hardware of a packaged name ("edge_npu"), a YAML file, or its settings as plain dicts.

    Its energy tables are packaged names, files, or tables themselves.

    Raises:
        ParetuneError: an unknown name, a file that cannot be read, a setting or a table's entry that is missing or
        wrong, a table without a memory as large as the buffer.
    """
    plain = packaged("hardware", asked) if isinstance(asked, str) else asked
    found = parse_hardware(plain, lambda name: packaged("energy", name))
    for table in (found.energy, found.relative_energy):
        per_buffer_bit(table, found.buffer_bytes)  # a memory that is too small is found now, not in the first trial
    return found


def hardware_in(settings: Settings) -> Hardware | None:
    """The hardware of a study; None of one that was made before hardware could be named."""
    return hardware_of(settings.hardware) if settings.hardware else None


def hardware_told(provenance: Mapping[str, Any]) -> Hardware | None:
    """The hardware that a study was searched for, as its record tells it: its files may have changed or moved since."""
    known = provenance.get("hardware")
    return from_plain(Hardware, known) if known else None


def timing_in(settings: Settings) -> Timing:
    """How a study measures latency."""
    asked = settings.latency
    return Timing(threads=asked.threads, warmup=asked.warmup, repeats=asked.repeats)


def packaged(group: str, name: str) -> dict[str, Any]:
    """One option of a config group as plain dicts and lists; a name that ends in .yaml is a file of the user's.

    Raises:
        ParetuneError: no option has this name, or the file is not a YAML table.
    """
    if name.endswith((".yaml", ".yml")):
        plain = _read(Path(name), group)
        return plain if group == "space" else {"name": Path(name).stem, **plain}
    files = (resources.files("paretune.conf") / group).iterdir()
    known = {path.name.removesuffix(".yaml"): path for path in files if path.name.endswith(".yaml")}
    return dict(yaml.safe_load(pick(dict(sorted(known.items())), name, KINDS.get(group, group)).read_text()))


def _read(path: Path, group: str) -> dict[str, Any]:
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParetuneError(f"{path} cannot be read ({error.strerror}); the working folder is {Path.cwd()}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParetuneError(f"{path} is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(plain, dict):
        what = "is empty" if plain is None else f"holds a {type(plain).__name__}"
        raise ParetuneError(f"{path} {what}; it must be a table of keys, as in conf/{group}/*.yaml")
    return plain
