"""Hardware by name or from a file, what ships with the package or your own YAML; and how a study measures latency."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from paretune.conf.settings import Settings
from paretune.costs.devices import parse_hardware
from paretune.costs.hardware import Hardware
from paretune.errors import ParetuneError, pick
from paretune.export.latency import Timing


def hardware_of(asked: str | Mapping[str, Any]) -> Hardware:
    """The hardware of a packaged name ("edge_npu"), a YAML file, or its settings as plain dicts.

    Its energy tables are packaged names, files, or tables themselves.

    Raises:
        ParetuneError: an unknown name, a file that cannot be read, a setting or a table's entry that is missing or
        wrong.
    """
    plain = packaged("hardware", asked) if isinstance(asked, str) else asked
    return parse_hardware(plain, lambda name: packaged("energy", name))


def hardware_in(settings: Settings) -> Hardware | None:
    """The hardware of a study; None of one that was made before hardware could be named."""
    return hardware_of(settings.hardware) if settings.hardware else None


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
        return _read(Path(name))
    files = (resources.files("paretune.conf") / group).iterdir()
    known = {path.name.removesuffix(".yaml"): path for path in files if path.name.endswith(".yaml")}
    return dict(yaml.safe_load(pick(known, name, group).read_text()))


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParetuneError(f"{path} cannot be read ({error})") from error
    if not isinstance(plain, dict):
        raise ParetuneError(f"{path} holds no table of keys, but {type(plain).__name__}")
    return {"name": path.stem, **plain}
