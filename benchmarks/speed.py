"""How fast paretune is beside the training it drives: python benchmarks/speed.py [--quick] [--write].

A limit is met if the median keeps it; "at best" if only the fastest repeat does, as on a machine with other work.
"""

import argparse
import os
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import optuna
import torch
from long_study import BUDGET, LongStudy, resnet56
from rich.console import Console
from rich.table import Table

from paretune.compress.cut import cut
from paretune.compress.groups import discover
from paretune.costs.hardware import Hardware
from paretune.costs.table import static_costs
from paretune.findings import Trial
from paretune.inventory import Inventory
from paretune.plan import GroupPlan, LayerPlan, Plan
from paretune.profile import profile
from paretune.report.hypervolume import hypervolumes
from paretune.search import driver, store
from paretune.search.devices import hardware_of
from paretune.search.driver import Driver
from paretune.search.keeping import Keeping
from paretune.search.planner import Planner
from paretune.search.provenance import provenance
from paretune.search.read import read_findings, write_report
from paretune.search.study import run_study
from paretune.spaces.space import Space
from paretune.tasks.bare import make_bare
from paretune.tasks.digits import digits

COLUMNS = ("what", "median (fastest – slowest, repeats)", "limit", "met?")
PARTS: dict[str, tuple[Any, str]] = {  # pieces of the trial loop that do not overlap
    "ask": (optuna.Study, "ask"),
    "suggest": (Space, "ask"),
    "suggest again": (Space, "choices"),
    "plan": (Planner, "plan"),
    "keep weights": (Keeping, "keep"),
    "tell": (driver, "tell"),
    "read back": (driver, "read_trial"),
    "drop weights": (Keeping, "tidy"),
    "log": (Driver, "_log"),
    "evaluate": (driver, "evaluate"),
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the table. `times` are seconds or, if `share`, shares of a whole; `limit` is in the same unit."""

    what: str
    times: Sequence[float]
    limit: float | None = None
    share: bool = False

    def cells(self) -> tuple[str, str, str, str]:
        """The texts under `COLUMNS`."""
        show = _percent if self.share else _seconds
        middle, least, most = statistics.median(self.times), min(self.times), max(self.times)
        spread = f" ({show(least)} – {show(most)}, {len(self.times)})" if len(self.times) > 1 else ""
        if self.limit is None:
            return self.what, show(middle) + spread, "", ""
        met = "yes" if middle <= self.limit else "at best" if least <= self.limit else "NO"
        return self.what, show(middle) + spread, f"≤ {show(self.limit)}", met


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def timed(work: Callable[[], object], repeats: int = 1) -> list[float]:
    """Seconds of each of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return times


def driver_lines(folder: Path, trials: int) -> Iterator[Line]:
    """What a digits trial costs beside compressing, recovering and scoring, seen from outside."""
    spent: dict[str, float] = defaultdict(float)
    ends: list[tuple[float, Trial]] = []
    with ExitStack() as patches:
        for label, (owner, name) in PARTS.items():
            patches.enter_context(mock.patch.object(owner, name, _watched(getattr(owner, name), label, spent)))
        patches.enter_context(mock.patch.object(Driver, "_one", _marked(Driver._one, ends, spent)))
        run_study(digits(), sampler="nsga2", out=folder, trials=trials)
    # From the end of one trial to the end of the next, so everything the loop does is in it; dense and twins are not.
    laps = [(end - start, row) for (start, _), (end, row) in pairwise(ends) if "driver" in row.seconds]
    overheads = [lap - _staged(row) for lap, row in laps]
    shares = [overhead / lap for overhead, (lap, _) in zip(overheads, laps, strict=True)]
    yield Line(what="digits trial with nsga2", times=[lap for lap, _ in laps])
    yield Line(what="- its driver overhead", times=overheads)
    yield Line(what="- its driver overhead, share", times=shares, limit=0.05, share=True)
    spent["static costs in evaluate"] = spent.pop("evaluate") - sum(_staged(row) for _, row in ends[1:])
    for label in sorted(spent, key=spent.__getitem__, reverse=True)[:3]:
        yield Line(what=f"- most of it: {label} (mean)", times=[spent[label] / (len(ends) - 1)])


def _watched(real: Callable[..., Any], label: str, spent: dict[str, float]) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        result = real(*args, **kwargs)
        spent[label] += perf_counter() - start
        return result

    return watched


def _marked(
    real: Callable[..., Trial], ends: list[tuple[float, Trial]], spent: dict[str, float]
) -> Callable[..., Trial]:
    def marked(*args: Any) -> Trial:
        row = real(*args)
        if not ends:
            spent.clear()  # what came before the first lap
        ends.append((perf_counter(), row))
        return row

    return marked


def _staged(row: Trial) -> float:
    """Seconds in the stages of `evaluate`; planning counts as overhead."""
    return sum(seconds for stage, seconds in row.seconds.items() if stage not in ("driver", "plan"))


def cut_lines(repeats: int) -> Iterator[Line]:
    """Finding the groups of ResNet-56 and taking half the channels of each."""
    model, example = resnet56(), torch.randn(1, 3, 32, 32)
    yield Line(what="ResNet-56: discovery", times=timed(lambda: discover(model, example), max(3, repeats // 4)))
    inventory = discover(model, example)
    kept = {group.name: tuple(range(0, group.channels, 2)) for group in inventory.groups}
    yield Line(what="ResNet-56: cut to half", times=timed(lambda: cut(model, inventory, kept), repeats), limit=0.05)


def ask_lines(home: Path, long: LongStudy, trials: int) -> Iterator[Line]:
    """Ask, suggest and tell on copies of the study in `home`."""
    for sampler, limit in (("nsga2", 0.1), ("nsga3", None), ("tpe", 0.3), ("random", None)):
        yield _asks(home, long, sampler, trials, limit)


def _asks(home: Path, long: LongStudy, sampler: str, trials: int, limit: float | None = None) -> Line:
    folder = Path(shutil.copytree(home, home.with_name(f"{home.name}-{sampler}")))
    study = long.open(folder, sampler)
    long.turn(study)  # a real run has stored the parents of earlier generations by now
    what = f"ask+suggest+tell: {sampler}, {long.size} parameters, {trials} trials"
    return Line(what=what, times=[long.turn(study) for _ in range(10)], limit=limit)


def open_lines(home: Path, long: LongStudy, trials: int, repeats: int) -> Iterator[Line]:
    """Resuming and reporting the study in `home`."""

    def fresh(work: Callable[[], object]) -> list[float]:
        def anew() -> object:
            return work()

        return timed(anew, repeats)

    def resume() -> list[Trial]:
        return store.rows_of(long.open(home, "nsga2"), BUDGET)

    name = f"{trials} trials of {long.size} parameters"
    yield Line(what=f"{name}: open_study", times=fresh(lambda: long.open(home, "nsga2")))
    yield Line(what=f"{name}: open and read as a resume does", times=fresh(resume), limit=2.0)
    yield Line(what=f"{name}: read_findings", times=fresh(lambda: read_findings(home)))
    yield Line(what=f"{name}: write_report", times=fresh(lambda: write_report(home)))
    findings = read_findings(home)
    yield Line(what=f"{name}: hypervolume of the progress line", times=timed(lambda: hypervolumes(findings), repeats))


def cost_lines(plans: int) -> Iterator[Line]:
    """All static costs of random plans, each for the first time, from the inventory alone."""
    nets: dict[str, tuple[dict[str, Any], float]] = {
        "ResNet-20 (CIFAR)": ({"name": "cifar", "model": "resnet20"}, 0.001),
        "ResNet-50 (224²)": ({"name": "torchvision", "model": "resnet50"}, 0.005),
    }
    for name, (config, limit) in nets.items():
        bare = make_bare(config)
        assert bare is not None
        inventory = discover(bare.model, bare.example)
        for hardware in map(hardware_of, ("systolic_16x16", "fpga_pe16")):
            chosen = [random_plan(inventory, seed) for seed in range(plans)]
            times = [_priced(inventory, plan, hardware) for plan in chosen]
            yield Line(what=f"{name}: static costs of a plan on {hardware.name}", times=times, limit=limit)


def _priced(inventory: Inventory, plan: Plan, hardware: Hardware) -> float:
    return timed(lambda: static_costs(profile(inventory, plan), hardware))[0]


def random_plan(inventory: Inventory, seed: int) -> Plan:
    """Other widths for every group, other bits for every layer."""
    chance = np.random.default_rng(seed)
    counts = [int(chance.integers(1, group.channels + 1)) for group in inventory.groups]
    groups = (
        GroupPlan(group=group.name, kept=tuple(range(count)))
        for group, count in zip(inventory.groups, counts, strict=True)
    )
    bits = ((layer.name, *chance.choice((2, 3, 4, 6, 8), 2).tolist()) for layer in inventory.weighted)
    layers = (LayerPlan(layer=name, weight_bits=weight, activation_bits=act) for name, weight, act in bits)
    return Plan(groups=tuple(groups), layers=tuple(layers))


def measure(folder: Path, *, quick: bool) -> Iterator[Line]:
    """All rows, one after another."""
    trials, repeats = (100, 3) if quick else (1000, 7)
    yield from cut_lines(repeats=3 * repeats)
    inventory = discover(resnet56(), torch.randn(1, 3, 32, 32))
    long, short = LongStudy(inventory=inventory, size=100), LongStudy(inventory=inventory, size=10)
    long.build(folder / "long", trials)
    yield from cost_lines(10 if quick else 100)
    yield from open_lines(folder / "long", long, trials, repeats)
    yield from ask_lines(folder / "long", long, trials)
    short.build(folder / "short", 100)
    yield _asks(folder / "short", short, "gp", 100)
    yield from driver_lines(folder / "digits", 8 if quick else 30)


def heading(quick: bool) -> str:
    """Where and when this was measured."""
    facts = provenance({}, "")
    machine, packages = facts["machine"], facts["packages"]
    return (
        f"{facts['date']}, commit {facts['commit']}, {machine['processor']}, {os.cpu_count()} cores, "
        f"{machine['threads']} threads, load {os.getloadavg()[0]:.1f} before the start, Python {facts['python']}, "
        f"torch {packages['torch']}, optuna {packages['optuna']}{', a quick run: smaller studies' if quick else ''}"
    )


def markdown(title: str, lines: Sequence[Line]) -> str:
    """The table for a page."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(line.cells() for line in lines)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"# Speed\n\nWritten by `python benchmarks/speed.py --write`: {title}\n\n{table}\n"


def main() -> None:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="smaller studies, about a minute")
    parser.add_argument("--write", action="store_true", help="also write benchmarks/speed.md")
    chosen = parser.parse_args()
    title, console = heading(chosen.quick), Console()
    with tempfile.TemporaryDirectory() as folder, console.status("measuring"):
        lines = list(measure(Path(folder), quick=chosen.quick))
    table = Table(*COLUMNS, title=title, caption="a limit is met if the median keeps it")
    for line in lines:
        table.add_row(*line.cells())
    console.print(table)
    if chosen.write:
        Path(__file__).with_suffix(".md").write_text(markdown(title, lines), encoding="utf-8")


if __name__ == "__main__":
    main()
