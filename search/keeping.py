"""The packed weights of the trials on the front: written before a trial is told, dropped when it leaves the front."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paretune.conf.settings import Settings
from paretune.export.pack import packed_with_layout
from paretune.findings import Trial
from paretune.frozen import Frozen
from paretune.pareto import Array, nondominated
from paretune.search.folder import drop_kept, kept_folder, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeping:
    """What `study.keep` asks for, in the study's `folder`."""

    settings: Settings
    folder: Path

    def keep(self, number: int, values: Mapping[str, float], frozen: Frozen, rows: Sequence[Trial]) -> None:
        """Write the packed weights of a trial that belongs to the front of all `rows` (or of any, if asked)."""
        how = self.settings.study.keep
        if how == "none" or (how == "front" and not self._on_front(values, rows)):
            return
        target = kept_folder(self.folder, number)
        partial = target.with_name(f"{number}.part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        blob, placed = packed_with_layout(frozen)
        (partial / "model.safetensors").write_bytes(blob)
        write_json(partial / "layout.json", placed)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)

    def tidy(self, rows: Sequence[Trial]) -> None:
        """Drop the weights of trials that have left the front."""
        if self.settings.study.keep != "front":
            return
        done = _candidates(rows)
        mask = nondominated(self._points([row.values for row in done]))
        drop_kept(self.folder, {row.number for row, on_front in zip(done, mask, strict=True) if on_front})

    def _on_front(self, values: Mapping[str, float], rows: Sequence[Trial]) -> bool:
        if any(values[name] > limit for name, limit in self.settings.limits.items()):
            return False
        return bool(nondominated(self._points([*(row.values for row in _candidates(rows)), values]))[-1])

    def _points(self, values: Sequence[Mapping[str, float]]) -> Array:
        """The objectives of some trials, one row each."""
        rows = [[each[name] for name in self.settings.objectives] for each in values]
        return np.array(rows, dtype=float).reshape(len(rows), len(self.settings.objectives))


def _candidates(rows: Sequence[Trial]) -> list[Trial]:
    return [row for row in rows if row.status == "done" and row.feasible and row.kind != "repeat"]
