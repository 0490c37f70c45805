"""Every plan of a small space on digits, really evaluated: python benchmarks/digits_plans.py ROWS.csv, half an hour.

ROWS.csv grows a line per plan and is gone on with where it ends; when all are there they are packed as
`digits_plans.csv.xz` beside this script, which `search_quality.py` reads.
"""

import argparse
import csv
import io
import itertools
import lzma
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretune.plan import Plan
from paretune.samplers.layout import Layout, layout_of
from paretune.search.bench import TRACED, Bench, inventory_of, lay_out
from paretune.search.clock import Clock
from paretune.search.controls import Given
from paretune.search.evaluate import evaluate
from paretune.search.gate import Gate
from paretune.search.measured import Measured
from paretune.search.planner import Planner
from paretune.search.provenance import provenance
from paretune.spaces.language import parse_space
from paretune.spaces.space import Space
from paretune.tasks.resnet import ResNet
from paretune.tasks.table import make_task

TABLE = Path(__file__).with_name("digits_plans.csv.xz")
WIDTHS = (16, 32, 64)
SEED = 0
EPOCHS = 3
SPACE: Mapping[str, Any] = {
    "groups": [
        {"match": ["stem", "blocks.0*"], "ratio": {"low": 0.0, "high": 0.75, "step": 0.25}, "tie": True},
        {"match": "blocks.1*", "ratio": {"low": 0.0, "high": 0.75, "step": 0.25}, "tie": True},
        {"match": "blocks.2*", "ratio": {"low": 0.0, "high": 0.75, "step": 0.25}, "tie": True},
    ],
    "layers": [
        {"match": ["@first", "@last"], "weight_bits": 8, "activation_bits": 8},
        {"match": "blocks.0*", "weight_bits": [2, 4], "tie": True},
        {"match": "blocks.1*", "weight_bits": [2, 3, 4], "tie": True},
        {"match": "blocks.2*", "weight_bits": [2, 3, 4], "tie": True},
    ],
    "activation_bits": [4, 8],
    "criterion": "l2",
    "recover": {"epochs": EPOCHS, "lr": 0.02, "distill": "logits"},
}
# Scores after so many epochs, each continuing from the last one's weights; seconds up to the first score, of one
# epoch with its score on the mean, and of what then remains for the end.
MEASURED = (
    "error_0", "error_1", "error_2", "top1_error", "size_bytes", "bops", "seconds_start", "seconds_epoch",
    "seconds_end",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Digits:
    """The task laid out, the space, and who turns its points into plans."""

    bench: Bench
    space: Space
    planner: Planner

    @classmethod
    def ready(cls) -> "Digits":
        """The task with its network trained, or read from this machine's cache."""
        bench = lay_out(make_task({"name": "digits", "widths": list(WIDTHS)}))
        space = digits_space()
        planner = Planner.ready(bench, space, Measured(bench=bench, seed=SEED))
        return cls(bench=bench, space=space, planner=planner)

    def plan(self, params: Mapping[str, Any]) -> Plan:
        """The plan of one point of the space."""
        return self.planner.plan(self.space.ask(Given(params)), Clock()).plan


def digits_space() -> Space:
    """The space of the table; an untrained network of the same shape tells its layers."""
    return parse_space(SPACE, inventory_of(ResNet(WIDTHS).eval(), torch.zeros(1, 1, 8, 8), TRACED))


def measured(digits: Digits, params: Mapping[str, Any]) -> dict[str, float]:
    """The `MEASURED` of one plan, timed at the rungs."""
    times = [time.perf_counter()]

    def note(epochs: int, score: float) -> None:
        times.append(time.perf_counter())

    gate = Gate(epochs=tuple(range(EPOCHS)), judge=note)
    outcome = evaluate(digits.plan(params), digits.bench, seed=SEED, gate=gate).outcome
    total, (first, *later) = time.perf_counter() - times[0], np.diff(times)
    each = float(np.mean(later))
    errors = [rung.score for rung in outcome.rungs[:EPOCHS]]
    told = [outcome.values[name] for name in ("top1_error", "size_bytes", "bops")]
    values = (*errors, *told, float(first), each, total - float(first) - EPOCHS * each)
    return dict(zip(MEASURED, values, strict=True))


def points(layout: Layout) -> Iterator[tuple[int, ...]]:
    """Every point of a finite space, by its places."""
    yield from itertools.product(*(range(axis.levels or 0) for axis in layout.axes))


def grow(rows: Path, digits: Digits) -> None:
    """Append a line for every plan that `rows` does not hold yet."""
    layout = layout_of(digits.space)
    header = [*(axis.name for axis in layout.axes), *MEASURED]
    done = set()
    if rows.exists():
        with rows.open(encoding="utf-8", newline="") as file:
            done = {tuple(int(row[axis.name]) for axis in layout.axes) for row in csv.DictReader(file)}
    with rows.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not done:
            writer.writerow(header)
        for places in points(layout):
            if places not in done:
                found = measured(digits, layout.params(list(places)))
                writer.writerow([*places, *(f"{value:.6g}" if value % 1 else int(value) for value in found.values())])
                file.flush()


def pack(rows: Path) -> None:
    """Write `TABLE`: the rows, below a line that says where they come from."""
    facts = provenance({}, "")
    source = (
        f"# Every plan of one space on digits, by python benchmarks/digits_plans.py: {facts['date']}, commit "
        f"{facts['commit']}, {facts['machine']['processor']}, 1 thread, torch {facts['packages']['torch']}\n"
    )
    TABLE.write_bytes(lzma.compress((source + rows.read_text(encoding="utf-8")).encode(), preset=9))


def read(path: Path = TABLE) -> tuple[str, list[dict[str, float]]]:
    """Where the rows come from, in words, and the rows: places by parameter name, then the `MEASURED`."""
    source, text = lzma.decompress(path.read_bytes()).decode().split("\n", 1)
    return source.lstrip("# "), [{k: float(v) for k, v in row.items()} for row in csv.DictReader(io.StringIO(text))]


def seconds_of(row: Mapping[str, float], epochs: int) -> float:
    """What a row's plan takes until its score after so many epochs; the last ones with the freezing."""
    end = row["seconds_end"] if epochs == EPOCHS else 0.0
    return row["seconds_start"] + epochs * row["seconds_epoch"] + end


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate what is missing, then pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="the file that grows a line per plan")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    digits = Digits.ready()
    grow(chosen.rows, digits)
    pack(chosen.rows)


if __name__ == "__main__":
    main()
