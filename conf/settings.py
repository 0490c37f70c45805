"""What may be set: the composed config, checked once and frozen. Nothing further in sees a config object."""

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from typing import Any, get_args, get_type_hints

from paretune.errors import ParetuneError, near_miss
from paretune.recipe import DISTILL

DEVICES = ("auto", "cpu", "cuda")
KEEP = ("front", "all", "none")
PRECISIONS = (
    "float32", "channels_last", "bfloat16", "bfloat16+channels_last", "float16", "float16+channels_last", "auto",
)  # fmt: skip
DAY = 86400  # seconds


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """How long and under which seed a study runs. `trials` counts in total, also over several runs.

    Once `plateau` searched trials in a row have raised the hypervolume by less than 0.1 % the search ends, too. Then
    every point of the front is evaluated under `repeats` further seeds, while `minutes` last.
    """

    name: str
    trials: int = 64
    seed: int = 0
    minutes: float | None = None
    trial_minutes: float = 10.0
    population: int = 16
    keep: str = "front"
    full_epochs: int = 20
    repeats: int = 0
    plateau: int | None = None

    def __post_init__(self) -> None:
        smallest = {"trials": 1, "seed": 0, "population": 2, "full_epochs": 1, "repeats": 0}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ParetuneError(f"study.{name} must be {least} or more, got {getattr(self, name)}")
        if self.plateau is not None and self.plateau < 1:
            raise ParetuneError(f"study.plateau must be 1 or more, or null, got {self.plateau}")
        if self.trial_minutes <= 0:
            raise ParetuneError(f"study.trial_minutes must be above 0, got {self.trial_minutes:g}")
        if self.minutes is not None and self.minutes <= 0:
            raise ParetuneError(f"study.minutes must be above 0, or null, got {self.minutes:g}")
        if self.keep not in KEEP:
            raise ParetuneError(f"study.keep has no option '{self.keep}'.{near_miss(self.keep, KEEP)}")
        if not Path(self.name).parts or Path(self.name).is_absolute() or ".." in Path(self.name).parts:
            raise ParetuneError(f"study.name is a folder below results_dir, got '{self.name}'")


@dataclass(frozen=True, kw_only=True)
class SeedSettings:
    """The first trials after the controls: at most `count` plans along the front that single effects promise, which are
    measured on `images` of `val` within about `minutes`; with `pairs` also two decisions of a block together.
    """

    count: int = 24
    images: int = 1024
    minutes: float = 5.0
    pairs: bool = False

    def __post_init__(self) -> None:
        for name, least in {"count": 0, "images": 1}.items():
            if getattr(self, name) < least:
                raise ParetuneError(f"seeds.{name} must be {least} or more, got {getattr(self, name)}")
        if not self.minutes > 0:
            raise ParetuneError(f"seeds.minutes must be above 0, got {self.minutes:g}")


@dataclass(frozen=True, kw_only=True)
class RungSettings:
    """After how many `epochs` of recovery a trial is looked at: the best 1 / `eta` of those that came so far go on,
    once there are `minimum`, while a rung's rank correlation with the last scores is at least `correlation`. No epochs:
    no rungs.
    """

    epochs: tuple[int, ...] = (0, 1, 3)
    eta: float = 2.0
    minimum: int = 12
    correlation: float = 0.5

    def __post_init__(self) -> None:
        if list(self.epochs) != sorted(set(self.epochs)) or any(epoch < 0 for epoch in self.epochs):
            raise ParetuneError(f"rungs.epochs must rise from 0 or more, such as [0, 1, 3], got {list(self.epochs)}")
        if not 1 < self.eta < inf:
            raise ParetuneError(f"rungs.eta must be above 1 and finite, got {self.eta:g}")
        if self.minimum < 3:
            raise ParetuneError(f"rungs.minimum must be 3 or more, got {self.minimum}")
        if not -1 <= self.correlation <= 1:
            raise ParetuneError(f"rungs.correlation must lie in [-1, 1], got {self.correlation:g}")


@dataclass(frozen=True, kw_only=True)
class FinishSettings:
    """What the best trial gets when the search is over: `epochs` of training at peak learning rate `lr`; or 0."""

    epochs: int = 0
    lr: float = 0.02
    distill: str = "logits"

    def __post_init__(self) -> None:
        if self.epochs < 0 or not 0 < self.lr < inf:
            raise ParetuneError(f"finish needs epochs of 0 or more and an lr above 0, got {self.epochs} and {self.lr}")
        if self.distill not in DISTILL:
            raise ParetuneError(f"finish.distill has no option '{self.distill}'.{near_miss(self.distill, DISTILL)}")


@dataclass(frozen=True, kw_only=True)
class RivalSettings:
    """A second search with as many trials, shown beside the first: its name, and what its space does otherwise."""

    name: str
    space: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class InventorySettings:
    """Which channels may leave together: found within `seconds`, but for layers that `exclude` names by wildcard; or,
    with a list of `groups`, as these rows say (`paretune.compress.by_hand`)."""

    seconds: float = 60.0
    exclude: tuple[str, ...] = ()
    groups: tuple[dict[str, Any], ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= DAY:
            raise ParetuneError(f"inventory.seconds must be above 0 and at most {DAY}, got {self.seconds:g}")
        if self.groups is not None and self.exclude:
            raise ParetuneError("inventory.groups by hand leave nothing to exclude; drop inventory.exclude")


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """How latency is measured; `study` measures every trial's network, too, so that `latency_ms` can be an
    objective."""

    study: bool = False
    threads: int = 1
    warmup: int = 10
    repeats: int = 50

    def __post_init__(self) -> None:
        for name, least in {"threads": 1, "warmup": 0, "repeats": 3}.items():
            if getattr(self, name) < least:
                raise ParetuneError(f"latency.{name} must be {least} or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A whole study: what is compressed, what may vary, what counts, and where the results go."""

    task: dict[str, Any]
    space: dict[str, Any]
    objectives: tuple[str, ...]
    study: StudySettings
    budget: dict[str, float | None] = dataclasses.field(default_factory=dict)
    sampler: str = "layerwise"
    seeds: SeedSettings = SeedSettings()
    rungs: RungSettings = RungSettings()
    results_dir: str = "results"
    device: str = "auto"
    threads: int | None = None
    precision: str = "float32"
    finish: FinishSettings = FinishSettings()
    rival: RivalSettings | None = None
    hardware: dict[str, Any] = dataclasses.field(default_factory=dict)
    latency: LatencySettings = LatencySettings()
    inventory: InventorySettings = InventorySettings()

    @property
    def folder(self) -> Path:
        """The study's own folder."""
        return Path(self.results_dir) / self.study.name

    @property
    def limits(self) -> dict[str, float]:
        """The budgets that are set."""
        return {name: float(limit) for name, limit in self.budget.items() if limit is not None}


SECTIONS: Mapping[str, type] = {
    "study": StudySettings, "finish": FinishSettings, "rival": RivalSettings, "latency": LatencySettings,
    "inventory": InventorySettings, "seeds": SeedSettings, "rungs": RungSettings,
}  # fmt: skip
# How none of it is written where null is not.
NONE = {
    "seeds": "seeds.count=0", "seeds.count": "seeds.count=0", "rungs": "rungs.epochs=[]",
    "rungs.epochs": "rungs.epochs=[]", "finish": "finish.epochs=0", "study.repeats": "study.repeats=0",
}  # fmt: skip


def parse_settings(plain: Mapping[str, Any]) -> Settings:
    """The settings that `plain` (dicts and lists, fully resolved) describes.

    Raises:
        ParetuneError: an unknown or missing key or a value of the wrong type; the message names the key.
    """
    values = dict(plain)
    for name, kind in SECTIONS.items():
        if isinstance(values.get(name), Mapping):
            values[name] = _build(kind, name, values[name])
    settings: Settings = _build(Settings, "", values)
    if settings.threads is not None and settings.threads < 1:
        raise ParetuneError(f"threads must be 1 or more, or null, got {settings.threads}")
    if settings.device not in DEVICES:
        raise ParetuneError(f"device has no option '{settings.device}'.{near_miss(settings.device, DEVICES)}")
    if settings.precision not in PRECISIONS:
        near = near_miss(settings.precision, PRECISIONS)
        raise ParetuneError(f"precision has no option '{settings.precision}'.{near}")
    if not 2 <= len(settings.objectives) <= 3 or len(set(settings.objectives)) < len(settings.objectives):
        raise ParetuneError(f"objectives needs two or three different names, got {list(settings.objectives)}")
    return settings


def _build(kind: Any, where: str, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind)
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in hints:
            known = [prefix + name for name in hints]
            raise ParetuneError(f"no config key is called '{prefix}{key}'.{near_miss(prefix + str(key), known)}")
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise ParetuneError(f"the config key '{prefix}{field.name}' is missing")
    return kind(**{key: _typed(f"{prefix}{key}", hints[key], value) for key, value in values.items()})


def _typed(key: str, hint: Any, value: Any) -> Any:
    """`value` as `hint`, or an error that names `key`."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(option for option in get_args(hint) if option is not type(None))
    origin = getattr(hint, "__origin__", hint)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_typed(f"each of {key}", get_args(hint)[0], item) for item in value)
    if origin is dict and isinstance(value, Mapping):
        inner = get_args(hint)[1]
        return {str(k): v if inner is Any else _typed(f"{key}.{k}", inner, v) for k, v in value.items()}
    if origin is float and isinstance(value, (int, float)) and not isinstance(value, bool) and not isnan(value):
        return float(value)
    if origin in (int, str, *SECTIONS.values()) and isinstance(value, origin) and not isinstance(value, bool):
        return value
    if origin is bool and isinstance(value, bool):
        return value
    names = {tuple: "a list", float: "a number", int: "a whole number", str: "a word", bool: "true or false"}
    wanted = names.get(origin, "a table of keys")
    raise ParetuneError(f"{key} must be {wanted}, got {value!r}{_instead(key, hint, value)}")


def _instead(key: str, hint: Any, value: Any) -> str:
    """What would work in place of `value`: the end of a message, empty where its beginning says enough."""
    if key in NONE and (not value or value == "none"):
        return f"; for none write {NONE[key]}"
    if hint in SECTIONS.values():
        return f"; set its keys: {', '.join(f'{key}.{field.name}' for field in dataclasses.fields(hint))}"
    item = get_args(hint)[0] if getattr(hint, "__origin__", hint) is tuple else None
    return f"; write {key}=[{value}]" if item in (int, str) and type(value) is item else ""
