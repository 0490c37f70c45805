"""The packed weights of the trials on the front: written before a trial is told, dropped when it leaves the front."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paretune.conf.settings import Settings
from paretune.export.pack import packed_with_layout
from paretune.findings import Trial
from paretune.frozen import Frozen
from paretune.pareto import nondominated
from paretune.search.folder import drop_kept, kept_folder, write_json
from paretune.search.fronts import front_of, points_of


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
        drop_kept(self.folder, {row.number for row in front_of(rows, self.settings.objectives)})

    def _on_front(self, values: Mapping[str, float], rows: Sequence[Trial]) -> bool:
        if any(values[name] > limit for name, limit in self.settings.limits.items()):
            return False
        objectives = self.settings.objectives
        rivals = [row.values for row in front_of(rows, objectives)]
        return bool(nondominated(points_of([*rivals, values], objectives))[-1])
