"""A study of ResNet-20 beside its controls and what others published: python benchmarks/cifar10_resnet20.py [--write].

Reads the committed results of the study; --write makes cifar10_resnet20.md beside this file.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from paper import publish

from paretune.compress.layers import survey
from paretune.costs.counts import macs
from paretune.plan import DENSE
from paretune.profile import profile
from paretune.tasks.bare import make_bare

STUDY = Path(__file__).parents[1] / "results" / "cifar10_resnet20_small"
# (what, MACs in millions, parameters in thousands, top-1 in %, that of its dense network, its training)
PUBLISHED = (
    ("distiller, AGP filters v1", 30.66, 120.0, 91.34, 91.78, "180 epochs"),
    ("distiller, AGP filters v2", 30.64, 143.5, 91.63, 91.78, "180 epochs"),
    ("distiller, AGP filters v3", 30.43, 95.9, 91.29, 91.78, "180 epochs"),
    ("distiller, AGP filters v4", 24.72, 78.8, 90.89, 91.78, "180 epochs"),
    ("Vega PruneEA, IND1", 30.11, None, 91.22, 91.45, "992 candidates × 1 epoch, then 400 epochs"),
    ("Vega PruneEA, IND2", 19.14, None, 90.90, 91.45, "992 candidates × 1 epoch, then 400 epochs"),
    ("Vega PruneEA, IND3", 6.14, None, 87.61, 91.45, "992 candidates × 1 epoch, then 400 epochs"),
    ("ModelOpt FastNAS", 29.6, 173.9, 90.28, 90.97, "120 epochs"),
    ("ModelOpt FastNAS, before training", 29.6, 173.9, 60.37, 90.97, "none"),
    ("AMC, Plain-20, paper", None, None, 90.2, 90.5, "half of the MACs"),
)
COLUMNS = (
    "point", "picked as", "MACs, M", "params, k", "file, kB", "bit-operations, M", "top-1, val, %", "top-1, test, %",
    "its dense, %", "training",
)  # fmt: skip


def about() -> str:
    """What was run, in words."""
    facts = json.loads((STUDY / "provenance.json").read_text(encoding="utf-8"))
    roles, machine = facts["roles"], facts["machine"]
    return (
        f"`{facts['command']}`, commit {facts['commit']}, {facts['date']}, {machine['processor']}, "
        f"{machine['threads']} threads, {machine['accelerator']} as accelerator. Train: {roles['train']}; val: "
        f"{roles['val']}; test: {roles['test']}. Val is what the search saw, test what it did not: one epoch of "
        f"recovery on the images named here, nothing after it. MACs are multiply-adds of convolutions and linear "
        f"layers, one sample: {_counted()}, by us and by PyTorch's counter; the published networks have projections in "
        "two shortcuts, ours pads with zeros. Published numbers are of float weights on all 10,000 test images, after "
        "the training that is named; ours of quantized ones, after one short epoch."
    )


def _counted() -> str:
    bare = make_bare({"name": "cifar", "model": "resnet20"})
    assert bare is not None
    return f"{macs(profile(survey(bare.model, bare.example), DENSE)) / 1e6:.2f} M for ours, 40.81 M for most of theirs"


def rows() -> Iterator[Sequence[str]]:
    """Controls, then what was confirmed, then others."""
    trials = pd.read_csv(STUDY / "trials.csv").set_index("trial")
    confirmed = _confirmed()
    picked = [number for number in confirmed if trials.loc[number, "kind"] == "search"]
    controls = [number for number in trials.index if trials.loc[number, "kind"] == "control"]
    dense = trials[trials["label"] == "dense"].iloc[0]
    base = f"{100 * (1 - confirmed[int(dense.name)]['confirmed'][0]):.2f}" if int(dense.name) in confirmed else ""
    for number in (*controls, *picked):
        yield _ours(number, trials.loc[number], confirmed.get(number), base)
    for what, count, params, top1, theirs, training in PUBLISHED:
        numbers = ("" if number is None else f"{number:g}" for number in (count, params))
        yield (what, "published", *numbers, "", "", "", f"{top1:.2f}", f"{theirs:.2f}", training)


def _ours(number: int, row: Any, confirmed: Any, base: str) -> Sequence[str]:
    name = f"control: {row['label']}" if row["kind"] == "control" else f"trial {number}"
    test = "" if confirmed is None else f"{100 * (1 - confirmed['confirmed'][0]):.2f}"
    return (
        name, "" if confirmed is None or row["kind"] == "control" else _why(confirmed, row),
        f"{row['macs'] / 1e6:.2f}", f"{row['params'] / 1e3:.1f}", f"{row['size_bytes'] / 1e3:.1f}",
        f"{row['bops'] / 1e6:.0f}", f"{100 * (1 - row['top1_error']):.2f}", test, base,
        "none" if row["label"] == "dense" else "1 epoch of 5,000 images",
    )  # fmt: skip


def _why(confirmed: Any, row: Any) -> str:
    return "knee" if confirmed["picked_by"].startswith("knee") else str(row.get("picked", confirmed["picked_by"]))


def _confirmed() -> dict[int, Any]:
    """The first confirmation of each trial."""
    held = json.loads((STUDY / "confirmations.json").read_text(encoding="utf-8"))
    found: dict[int, Any] = {}
    for one in held:
        found.setdefault(one["trial"], one)
    return found


if __name__ == "__main__":
    publish(__file__, "ResNet-20 on CIFAR-10", about(), COLUMNS, rows())
