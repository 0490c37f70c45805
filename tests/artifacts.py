"""An artifact on disk and what it was made from: what the tests of artifacts share."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export_nets import Compressed, images
from numpy.typing import NDArray

from paretune.compress.freeze import freeze, thaw
from paretune.export.artifact import write_artifact

TEST = images(100).numpy()
LABELS = np.arange(100) % 5


class Made:
    """An artifact, and what it was made from."""

    def __init__(self, folder: Path, source: Compressed, pt2: bool = False) -> None:
        self.source, self.pt2 = source, pt2
        self.folder = folder
        self.frozen = freeze(self.source.model, self.source.inventory, self.source.plan)
        self.model = thaw(self.source.dense, self.source.inventory, self.source.plan, self.frozen)
        with torch.no_grad():
            self.predictions: NDArray[Any] = self.model(torch.from_numpy(TEST)).argmax(1).numpy()
        self.error = float((self.predictions != LABELS).mean())
        self.write(folder)

    def write(self, folder: Path, **scores: float) -> None:
        write_artifact(
            folder,
            model=self.model,
            frozen=self.frozen,
            inventory=self.source.inventory,
            plan=self.source.plan,
            example=torch.from_numpy(TEST[:1]),
            scores={"top1_error": self.error, **scores},
            check=(TEST[:8], self.predictions),
            pt2=self.pt2,
        )


def seal(folder: Path) -> None:
    """Make the stored hashes fit again, as a careful forger would."""
    facts = json.loads((folder / "scores.json").read_text())
    for name in facts["files"]:
        blob = (folder / name).read_bytes()
        facts["files"][name] = {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    (folder / "scores.json").write_text(json.dumps(facts))
