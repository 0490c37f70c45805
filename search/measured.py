"""What is measured once per task and seed and read from this machine's cache by later studies: scores and curves."""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import torch

import paretune
from paretune.compress.criteria import CRITERIA, Scores, reduced, score_model
from paretune.compress.knee import measure
from paretune.curve import Curve
from paretune.effects import Effects
from paretune.errors import first_line, pick
from paretune.files import write_text
from paretune.records import digest, from_plain, to_plain
from paretune.search.bench import Bench
from paretune.search.clock import Clock
from paretune.search.evaluate import judge_of
from paretune.tasks.weights import cache_folder

T = TypeVar("T")

log = logging.getLogger("paretune")

HOME = Path(paretune.__file__).parent
# The files whose change makes old measurements worthless.
CODE = (
    "criteria", "evidence", "compensate", "knee", "rates", "narrow", "cut", "groups", "layers", "proof", "recover",
)  # fmt: skip
LOOKING = ("evaluate", "sensitivity", "grid")  # of search/, the same for sensitivities


@dataclass(kw_only=True, eq=False)
class Measured:
    """Criterion scores and sensitivity curves of one task under one seed.

    `facts` say what took how long, and whether the cache had it; `say` is told the same in words.
    """

    bench: Bench
    seed: int
    say: Callable[[str], None] = lambda text: None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def scores(self, criteria: Sequence[str], *, per_weight: bool) -> Scores:
        """The scores by every criterion in `criteria`, per unit, and per weight if asked.

        Raises:
            UnknownName: a criterion that is not in the table.
        """
        start = time.perf_counter()
        arrays, missing = self._scored(criteria, per_weight)
        self._note("criterion scores", time.perf_counter() - start, computed=bool(missing))
        return Scores(
            units={name: _part(arrays[name], "units/") for name in criteria},
            weights={name: _part(arrays[name], "weights/") for name in criteria if per_weight},
        )

    def curves(self, criterion: str, reduce: str = "mean") -> Mapping[str, Curve]:
        """The sensitivity curve of every group, its channels ranked by `criterion`, reduced over layers by `reduce`.

        Raises:
            UnknownName: a criterion that is not in the table.
        """
        pick(CRITERIA, criterion, "criterion")
        start = time.perf_counter()
        path = self._file(f"curves-{criterion}-{reduce}.json")
        found = _read(path, lambda plain: {group: from_plain(Curve, curve) for group, curve in plain.items()})
        computed = found is None
        if found is None:
            found = self._measured(criterion, reduce)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(to_plain(found)))
        self._note(f"sensitivity curves by {criterion}", time.perf_counter() - start, computed=computed)
        return found

    def effects(self, key: str, compute: Callable[[], Effects]) -> Effects:
        """The effects of single decisions that `key` stands for, from the cache or from `compute`."""
        start = time.perf_counter()
        path = self._file(f"effects-{key}-{_everything()}.json")
        found = _read(path, lambda plain: from_plain(Effects, plain))
        computed = found is None
        if found is None:
            found = compute()
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(to_plain(found)))
        self._note("sensitivities", time.perf_counter() - start, computed=computed)
        return found

    def _scored(self, criteria: Sequence[str], per_weight: bool) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """The arrays of every criterion by name, "units/<group>" and "weights/<layer>", and what had to be computed."""
        files = {name: self._score_file(name, per_weight) for name in criteria}
        wanted = {f"units/{group.name}" for group in self.bench.inventory.groups}
        wanted |= {f"weights/{layer.name}" for layer in self.bench.inventory.weighted if per_weight}
        arrays = {name: known for name, path in files.items() if (known := _load(path)).keys() == wanted}
        missing = [name for name in criteria if name not in arrays]
        if missing:
            self.say(f"scoring channels by {', '.join(missing)} …")
            task = self.bench.task
            found = score_model(
                task.model, self.bench.inventory, missing, self.bench.calibration, task.loss, self.seed,
                per_weight=per_weight,
            )  # fmt: skip
            for name in missing:
                units = {f"units/{group}": values for group, values in found.units[name].items()}
                weights = {f"weights/{layer}": values for layer, values in found.weights.get(name, {}).items()}
                arrays[name] = {**units, **weights}
                _save(files[name], arrays[name])
        return arrays, missing

    def _measured(self, criterion: str, reduce: str) -> dict[str, Curve]:
        groups = self.bench.inventory.groups
        arrays = self._scored([criterion], False)[0][criterion]
        units = {group.name: reduced(arrays[f"units/{group.name}"], reduce) for group in groups}
        self.say(f"measuring the sensitivity curves of {len(groups)} groups …")
        judge = judge_of(self.bench, None, Clock())
        return measure(self.bench.inventory, units, judge, _chance(self.bench), criterion)

    @cached_property
    def _home(self) -> Path | None:
        """The folder of these measurements; None if the task's functions cannot be told apart by name."""
        task = self.bench.task
        if not (_named(task.loss) and _named(task.errors)):
            return None
        key = digest({
            "task": f"{task.name} {task.fingerprint}", "seed": self.seed, "device": task.device.type,
            "threads": torch.get_num_threads(), "torch": torch.__version__, "code": _code(),
            "loss": _name(task.loss), "errors": _name(task.errors), "calibration": _seen(self.bench),
            "groups": to_plain(self.bench.inventory.groups),
        })  # fmt: skip
        return cache_folder() / "measured" / key

    def _file(self, name: str) -> Path | None:
        return None if self._home is None else self._home / name

    def _score_file(self, criterion: str, per_weight: bool) -> Path | None:
        pick(CRITERIA, criterion, "criterion")
        return self._file(f"{criterion}{'-weights' if per_weight else ''}.npz")

    def _note(self, what: str, seconds: float, *, computed: bool) -> None:
        source = "computed" if computed else "cache"
        self.facts[what] = {"seconds": round(seconds, 3), "from": source}
        text = f"{what}: {seconds:.2f} s ({'computed' if computed else 'read from the cache'})"
        log.info(text)
        self.say(text)


@torch.no_grad()
def _chance(bench: Bench) -> float:
    """The error of guessing: all classes alike."""
    classes = int(bench.task.model(bench.task.example()).shape[1])
    return 1 - 1 / classes


def _name(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"


def _named(function: Any) -> bool:
    """True if the function is what its module holds under its name: no lambda, partial or object with settings."""
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    return found is not None and getattr(found, getattr(function, "__qualname__", ""), None) is function


def _seen(bench: Bench) -> str:
    """A hash of the calibration batches: what they hold, how they were augmented, and how many there are."""
    seen = hashlib.sha256()
    for batch in bench.calibration:
        for tensor in batch:
            seen.update(tensor.cpu().numpy().tobytes())
    return seen.hexdigest()[:16]


@cache
def _everything() -> str:
    """A hash of all code that a compressed model is made and looked at with."""
    return _hashed([*sorted((HOME / "compress").glob("*.py")), *(HOME / "search" / f"{name}.py" for name in LOOKING)])


@cache
def _code() -> str:
    return _hashed(path for path in sorted((HOME / "compress").glob("*.py")) if path.stem in CODE)


def _hashed(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _save(path: Path | None, arrays: Mapping[str, Any]) -> None:
    """Whole or not at all: another study may be reading."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(partial, **arrays)
    partial.replace(path)


def _load(path: Path | None) -> dict[str, Any]:
    """The arrays of a file, none of them if it is missing or damaged."""
    if path is None:
        return {}
    try:
        with path.open("rb") as file, np.load(file) as stored:
            return {key: stored[key] for key in stored.files}
    except FileNotFoundError:
        return {}
    except (BadZipFile, EOFError, OSError, ValueError, RuntimeError) as problem:  # what a bent zip may end in
        _log_damage(path, problem)
        return {}


def _read(path: Path | None, parse: Callable[[Any], T]) -> T | None:
    """What `parse` makes of a JSON file; None if it is missing or damaged."""
    if path is None:
        return None
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, KeyError) as problem:  # no JSON, or other JSON
        _log_damage(path, problem)
        return None


def _log_damage(path: Path, problem: Exception) -> None:
    log.warning("%s is damaged (%s) and is computed again", path, first_line(problem))


def _part(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}
