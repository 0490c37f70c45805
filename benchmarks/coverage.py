"""Which published networks can be pruned, and whether what is left is right: python benchmarks/coverage.py [--write].

Every network is checked in a process of its own and adds one line to a log, so that a run that was stopped goes on
where it was. The table is made from the log.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import resource
import statistics
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import torch
from coverage_check import RATIO, SAME, SECONDS, Checked, check
from coverage_models import HARD, Case, cases, made

from paretune.errors import first_line
from paretune.search.provenance import provenance
from paretune.tasks.timm_models import timm_library

LIMIT = 300.0  # seconds for one network, all its checks together
MEMORY = 16 * 2**30  # bytes of address space for one network


def _child(case: Case, log: Path, patience: float) -> None:
    """Checks one network and adds its line to the log."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        found: Mapping[str, Any] = asdict(check(*made(case), patience))
    except BaseException as error:
        found = _failed("build", f"{type(error).__name__}: {first_line(error)}", traceback.format_exc()[-2500:])
    _add(log, case, found)


def _failed(stage: str, reason: str, trace: str = "") -> Mapping[str, Any]:
    return asdict(Checked(input_shape=(), wrong={stage: reason}, traces={stage: trace}))


def _add(log: Path, case: Case, found: Mapping[str, Any]) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**asdict(case), **found}) + "\n")


def run(wanted: Iterable[Case], log: Path, jobs: int, patience: float = 1.0) -> None:
    """Checks every case that the log does not know, so many at a time; the clock's limits are times `patience`."""
    known = {(row["kind"], row["name"]) for row in read(log)}
    left = [case for case in wanted if (case.kind, case.name) not in known]
    fork = multiprocessing.get_context("fork")
    running: dict[multiprocessing.context.ForkProcess, tuple[Case, float]] = {}
    while left or running:
        while left and len(running) < jobs:
            case = left.pop(0)
            process = fork.Process(target=_child, args=(case, log, patience), daemon=True)
            process.start()
            running[process] = (case, perf_counter())
        sleep(0.05)
        for process, (case, start) in list(running.items()):
            late = perf_counter() - start > LIMIT * patience
            if process.is_alive() and not late:
                continue
            if late:
                process.kill()
            process.join()
            if process.exitcode:
                why = (
                    f"stopped after {LIMIT * patience:.0f} s" if late else f"its process ended with {process.exitcode}"
                )
                _add(log, case, _failed("build", why))
            print(f"{perf_counter() - start:6.1f} s  {case.kind}/{case.name}  {_told(log, case)}", flush=True)
            del running[process]


def _told(log: Path, case: Case) -> str:
    row = next(row for row in reversed(read(log)) if (row["kind"], row["name"]) == (case.kind, case.name))
    return "; ".join(f"{stage}: {why}" for stage, why in row["wrong"].items()) or f"{row['groups']} groups"


def read(log: Path) -> list[dict[str, Any]]:
    """The lines of the log; of a network that stands there twice the later one."""
    if not log.exists():
        return []
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return list({(row["kind"], row["name"]): row for row in rows}.values())


COLUMNS = (
    "model", "input", "parameters", "layers", "groups", "layers that shrink", "MACs left", "s to find groups",
    "cut − zeroed", "recount", "note",
)  # fmt: skip
ABOUT = f"""Random weights, scrambled norms, the smallest input that the network takes (of 64, 96, … 256 pixels, else
its own). Every channel group loses {RATIO:.0%} of its units, drawn at random. Layers are convolutions and linear
layers; one shrinks if inputs or outputs of it leave. Cut − zeroed is the largest difference between the cut network's
outputs and those of the zeroed one, relative to the largest output; it may be {SAME:g}. Recount: the plan's MACs are
those that PyTorch's FlopCounterMode sees in the cut network, and its parameters those that it holds. Forward and
backward: the cut network makes finite outputs, and a training step on two inputs gives finite gradients. Finding the
groups may take {SECONDS:.0f} s of processor time on one thread, a network {LIMIT:.0f} s and {MEMORY >> 30} GiB in
all."""


def page(rows: list[dict[str, Any]], missing: list[str]) -> str:
    """The whole report in Markdown; `missing` are the networks that the log does not know."""
    facts = provenance({}, "")
    head = (
        f"Written by `python benchmarks/coverage.py --write`: {facts['date']}, commit {facts['commit']}, "
        f"{facts['machine']['processor']}, 1 thread for each network, Python {facts['python']}, "
        f"torch {facts['packages']['torch']}, torchvision {_version('torchvision')}, timm {_version('timm')}."
    )
    of = {key: [row for row in rows if _part(row) == key] for key in ("hard", "torchvision", "timm")}
    titles = {
        "hard": f"Known to be hard: {', '.join(HARD)}",
        "torchvision": "torchvision",
        "timm": "timm, the smallest network of every model file",
    }
    parts = ["# Which networks can be pruned", head, ABOUT, "## Summary", *_summary(of)]
    parts += [f"Not checked yet, {len(missing)}: {', '.join(missing)}."] if missing else []
    for key, some in of.items():
        parts += [f"## {titles[key]}", _table(COLUMNS, map(_line, some))] if some else []
    return "\n\n".join(parts) + "\n"


def _part(row: Mapping[str, Any]) -> str:
    hard = Case(kind=row["kind"], name=row["name"], family=row["family"]).hard
    return "hard" if hard else str(row["kind"])


def _summary(of: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    tests = {
        "networks": lambda row: True,
        "groups found in time": lambda row: _reached(row, "find"),
        "something to cut": lambda row: row["groups"] > 0,
        "forward": lambda row: _reached(row, "forward"),
        "backward": lambda row: _reached(row, "backward"),
        "cut equals zeroed": lambda row: _reached(row, "equal"),
        "recount": lambda row: _reached(row, "recount"),
        "all of it": _good,
    }
    lists = {**of, "all": [row for some in of.values() for row in some]}
    counts = [[name, *(str(sum(map(test, some))) for some in lists.values())] for name, test in tests.items()]
    yield _table(("", *lists), counts)
    rows = [row for row in lists["all"] if _reached(row, "find")]
    if rows:
        shown = {
            "seconds to find groups": f"{statistics.median(row['seconds'] for row in rows):.2g}",
            "layers that shrink": f"{statistics.median(row['shrink'] for row in rows):.0%}",
            "MACs left": f"{statistics.median(row['macs_left'] for row in rows):.0%}",
        }
        slow = sorted(rows, key=lambda row: -row["seconds"])[:5]
        slowest = ", ".join(f"{row['name']} ({row['seconds']:.1f} s)" for row in slow)
        yield f"Medians: {', '.join(f'{name} {value}' for name, value in shown.items())}. Slowest to find: {slowest}."
    failed = [row for row in lists["all"] if not _good(row)]
    if failed:
        yield "Not all of it:"
        yield "\n".join(f"- {row['name']}: {_why(row)}" for row in failed)


def _reached(row: Mapping[str, Any], stage: str) -> bool:
    """Whether a stage was tried and passed."""
    if stage in row["wrong"] or {"build", "find"} & set(row["wrong"]):
        return False
    return stage == "find" or not {"cut", "forward"} & set(row["wrong"])


def _good(row: Mapping[str, Any]) -> bool:
    return not row["wrong"] and row["groups"] > 0


def _why(row: Mapping[str, Any]) -> str:
    told = [f"{stage}: {why}" for stage, why in row["wrong"].items()]
    return "; ".join([*told, *([] if told or row["groups"] else [f"no groups; {_note(row)}"])]).replace("|", "/")


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    side = "×".join(map(str, row["input_shape"][1:]))
    recount = "yes" if _reached(row, "recount") else "NO" if "recount" in row["wrong"] else "–"
    found = _reached(row, "find")
    off = "–" if row["off"] is None else f"{row['off']:.1g}"
    middle = (
        f"{row['layers']}", f"{row['groups']}", f"{row['shrink']:.0%}", f"{row['macs_left']:.0%}",
        f"{row['seconds']:.1f}", "NO" if "equal" in row["wrong"] else off, recount,
    ) if found else ("–",) * 7  # fmt: skip
    name = row["name"] if row["kind"] == "torchvision" else f"{row['family']}: {row['name']}"
    note = "; ".join(filter(None, (_why(row) if row["wrong"] else "", _note(row))))
    return (name, side, f"{row['parameters']:,}", *middle, note)


def _note(row: Mapping[str, Any]) -> str:
    """The most frequent reasons why layers stay whole, and what is not counted."""
    reasons = sorted(row["whole"].items(), key=lambda item: -item[1])
    told = [f"{count} whole: {reason}" for reason, count in reasons[:3]]
    rest = sum(count for _, count in reasons[3:])
    told += [f"{rest} whole for other reasons"] if rest else []
    return "; ".join([*told, *row["unsure"]]).replace("|", "/")


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def main() -> None:
    """Check what the log does not know, print the report and perhaps write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="*", help="a shell pattern: networks, families or kinds")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time; 0 only makes the table of the log")
    parser.add_argument(
        "--log", type=Path, default=Path("coverage.jsonl"), help="one line per network; what is there is not run again"
    )
    parser.add_argument(
        "--patience", type=float, default=1.0, help="stretches limits by the clock, for a machine with other work on it"
    )
    parser.add_argument("--write", action="store_true", help="also write benchmarks/coverage.md")
    chosen = parser.parse_args()
    have = importlib.util.find_spec("timm") is not None
    if have:
        timm_library()  # imported once, not in every process
    wanted = [case for case in cases() if case.like(chosen.only) and (have or case.kind != "timm")]
    if chosen.jobs:
        run(wanted, chosen.log, chosen.jobs, chosen.patience)
    rows = {(row["kind"], row["name"]): row for row in read(chosen.log)}
    known = [rows[case.kind, case.name] for case in wanted if (case.kind, case.name) in rows]
    missing = [case.name for case in wanted if (case.kind, case.name) not in rows]
    text = page(known, missing)
    print(text)
    if chosen.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
