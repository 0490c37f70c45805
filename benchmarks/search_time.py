"""How long the search takes to pass a random one, on ResNet-20 and CIFAR-10.

  python benchmarks/search_time.py run cifar10.npz resnet20.th FOLDER [--minutes 35]     both searches side by side
  python benchmarks/search_time.py overhead                                              ask + tell at 100 parameters
  python benchmarks/search_time.py table FOLDER [--write]                                the page from what is in FOLDER

`cifar10.npz` holds x_train, y_train, x_test and y_test as in conf/data/npz.yaml, `resnet20.th` is the checkpoint of
https://github.com/akamaster/pytorch_resnet_cifar10. Each search gets a process of its own with one thread, both at the
same time, so that whatever else happens on the machine happens to both. A killed run goes on with the same command.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from replay import through

from paretune.conf.settings import RungSettings, parse_settings
from paretune.findings import Findings, Trial
from paretune.report.hypervolume import covered_by, hypervolumes
from paretune.samplers.reproducible import Reproducible
from paretune.search.devices import packaged
from paretune.search.gate import Gate
from paretune.search.provenance import provenance
from paretune.search.read import read_findings
from paretune.search.rungs import Rungs
from paretune.spaces.leaf import Choice, Fixed, Range
from paretune.spaces.mixing import Mixing
from paretune.spaces.question import Question
from paretune.spaces.sections import section
from paretune.spaces.space import Space

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TRAIN_IMAGES, VAL_IMAGES, EPOCHS = 2000, 2000, 3
SPACE = {
    "groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.6, "step": 0.1}}],
    "layers": [
        {"match": ["@first", "@last"], "weight_bits": 8, "activation_bits": 8},
        {"match": "*", "weight_bits": [2, 3, 4, 6, 8]},
    ],
    "activation_bits": [4, 6, 8],
    "criterion": "l1",
    "recover": {"epochs": EPOCHS, "lr": 0.01, "distill": "logits", "compensate": "linear", "images": 512},
}
# The random search looks at its trials on the way, too, but stops none: they are what the rungs are replayed on.
SEARCHES: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random", "seeds": {"count": 0}, "rungs": {"epochs": [0, 1], "minimum": 10**6}},
    "paretune": {"sampler": "layerwise", "rungs": {"epochs": [0, 1]}},
}
ORDERS = 20  # of the replay of the rungs
TRAINING = ("finetune",)
FORWARD = ("recalibrate", "score", "sensitivities", "cut")  # a cut holds the forward passes of its compensation
FILE = "search_overhead.json"


def study(data: str, weights: str, folder: str, name: str, minutes: float) -> None:
    """One of the two searches, or the rest of it."""
    from paretune.search.study import carry_out
    from paretune.tasks.table import make_task

    task = {
        "name": "classification",
        "model": {"source": "cifar", "model": "resnet20", "weights": weights, "trained_on": "train"},
        "data": {
            "source": "npz", "path": data, "mean": MEAN, "std": STD, "train_images": TRAIN_IMAGES,
            "val_images": VAL_IMAGES,
        },
    }  # fmt: skip
    settings = parse_settings({
        "task": task, "space": SPACE, "objectives": ["top1_error", "size_bytes", "bops"], "results_dir": folder,
        "hardware": packaged("hardware", "edge_npu"), "threads": 1, "precision": "bfloat16+channels_last",
        "study": {"name": name, "trials": 100_000, "minutes": minutes, "keep": "none"}, **SEARCHES[name],
    })  # fmt: skip
    carry_out(settings, make_task(task), say=lambda text: print(f"{name}: {text}", flush=True))


def run(data: str, weights: str, folder: str, minutes: float) -> None:
    """Both searches at once, each on its share of the cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    jobs = []
    for place, name in enumerate(SEARCHES):
        words = [sys.executable, __file__, "one", data, weights, folder, "--minutes", str(minutes), "--name", name]
        words += ["--core", str(cores[place % len(cores)])]
        jobs.append(subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"}))
    if any(job.wait() for job in jobs):
        sys.exit("one of the searches failed")


def before(findings: Findings) -> float:
    """Seconds spent before the first trial: criterion scores and sensitivities."""
    return float(sum(fact["seconds"] for fact in findings.provenance.get("measured", {}).values()))


def clock(findings: Findings) -> list[float]:
    """Minutes at the end of every trial, measuring included."""
    spent = np.cumsum([sum(trial.seconds.values()) for trial in findings.trials])
    return [float(second + before(findings)) / 60 for second in spent]


def passed(ours: Findings, other: Findings) -> list[tuple[str, str]]:
    """When ours has what the other one ends with."""
    minutes, curve = clock(ours), hypervolumes(ours)
    final = hypervolumes(other)[-1]
    rows = [("hypervolume", _first(minutes, [value >= final for value in curve]))]
    target = ours.points(other.front)
    shares = []
    for count in range(1, len(ours.trials) + 1):
        done = replace(ours, trials=ours.trials[:count])
        mine = ours.points(done.candidates)
        shares.append(float(np.mean([(mine <= point).all(axis=1).any() for point in target])) if len(mine) else 0.0)
    rows += [(f"{share:.0%} of its front", _first(minutes, [value >= share for value in shares]))
             for share in (0.5, 0.9, 1.0)]  # fmt: skip
    return rows


def _first(minutes: Sequence[float], reached: Sequence[bool]) -> str:
    found = next((minute for minute, yes in zip(minutes, reached, strict=True) if yes), None)
    return "not reached" if found is None else f"{found:.1f}"


def at_minutes(findings: Findings, wanted: Sequence[float]) -> Iterator[float]:
    """The hypervolume reached by then."""
    minutes, curve = clock(findings), hypervolumes(findings)
    for minute in wanted:
        yield max((value for at, value in zip(minutes, curve, strict=True) if at <= minute), default=0.0)


def stages(findings: Findings) -> dict[str, float]:
    """The share of all seconds by kind of work."""
    spent: dict[str, float] = {"sensitivities": before(findings)}
    for trial in findings.trials:
        for name, seconds in trial.seconds.items():
            spent[name] = spent.get(name, 0.0) + seconds
    total = sum(spent.values())
    return {name: seconds / total for name, seconds in sorted(spent.items(), key=lambda item: -item[1])}


def replayed(findings: Findings, settings: RungSettings, seed: int) -> tuple[float, float]:
    """Share of the seconds and of the hypervolume that stays when the searched trials come in another order and the
    rungs stop what they would have stopped; controls go first and always finish.
    """
    rng = np.random.default_rng(seed)
    whole = [t for t in findings.trials if t.kind == "control" or (t.status == "done" and t.kind == "search")]
    controls = [trial for trial in whole if trial.kind == "control"]
    searched = [trial for trial in whole if trial.kind == "search" and trial.same_as is None]
    names, rows, spent = findings.names[1:], list(controls), sum(_seconds(trial) for trial in controls)
    for place in rng.permutation(len(searched)):
        trial = searched[place]

        def priced(row: Trial) -> list[float]:
            return [row.values[name] for name in names]

        gate = Rungs(settings=settings, rows=rows, quality=findings.names[0], costs=priced).gate(
            "search", priced(trial), trial.rungs[-1].epochs
        )
        row, seconds = _through(trial, gate)
        rows.append(row)
        spent += seconds
    full = covered_by(findings, [*controls, *searched])
    kept = covered_by(findings, [row for row in rows if row.status == "done"])
    return spent / sum(_seconds(trial) for trial in (*controls, *searched)), kept / full


def _through(trial: Trial, gate: Gate) -> tuple[Trial, float]:
    """The trial as it would have ended, and the seconds it would have taken."""
    rungs, reason = through(trial.rungs, gate, trial.rungs[-1].epochs)
    if reason:
        return replace(trial, status="stopped", rungs=rungs), _until(trial, rungs[-1].epochs)
    return replace(trial, rungs=rungs), _seconds(trial)


def _seconds(trial: Trial) -> float:
    return float(sum(trial.seconds.values()))


def _until(trial: Trial, epochs: int) -> float:
    """Seconds up to a rung: that share of the fine-tune, and of the scores and calibrations those so far."""
    places = [rung.epochs for rung in trial.rungs]
    done = (places.index(epochs) + 1) / (len(places) + 1)  # the packed model is scored once more
    parts = {"finetune": epochs / places[-1], "score": done, "recalibrate": done, "freeze": 0.0, "driver": 0.0}
    return float(sum(seconds * parts.get(name, 1.0) for name, seconds in trial.seconds.items()))


def overhead(trials: int = 10_000, parameters: int = 100) -> dict[str, Any]:
    """Milliseconds of one ask + tell of `layerwise` after so many trials, and the memory of the process."""
    half = parameters // 2
    space = _wide_space(half)
    study = optuna.create_study(directions=["minimize"] * 3)
    study.sampler = Reproducible("layerwise", seed=0, population=16, space=space, fixed={})
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng, spent, found = np.random.default_rng(0), [], {}
    for number in range(trials):
        start = time.perf_counter()
        trial = study.ask()
        recipe = space.ask(trial)
        error = sum(ratio**2 for ratio in recipe.ratios.values()) / half + 0.01 * rng.random()
        size = sum(bits * (1 - recipe.ratios[name.replace("l", "g")]) for name, bits in recipe.weight_bits.items())
        study.tell(trial, [error, size, size * rng.uniform(0.9, 1.1)])
        spent.append(time.perf_counter() - start)
        if number + 1 in (1_000, trials):
            found[f"{number + 1}"] = 1000 * float(np.median(spent[-200:]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"parameters": parameters, "milliseconds": found, "megabytes": memory}


def _wide_space(half: int) -> Space:
    ratios = tuple(
        Question(name=f"ratio/g{i}", leaf=Range(low=0.0, high=0.8, step=0.05), targets=(f"g{i}",)) for i in range(half)
    )
    bits = tuple(
        Question(name=f"weight_bits/l{i}", leaf=Choice(options=(2, 3, 4, 6, 8)), targets=(f"l{i}",))
        for i in range(half)
    )
    sections = ("recover", "rate", "mask", "quantize", "joint", "keep", "blend", "")
    return Space(
        ratios=ratios, weight_bits=bits,
        activation_bits=(Question(name="activation_bits", leaf=Fixed(value=8), targets=("l0",)),),
        mixing=Mixing(criteria=("l1",), names=("l0",), plain=Question(name="criterion", leaf=Fixed(value="l1"))),
        shared=tuple(question for name in sections for question in section(name, {})),
    )  # fmt: skip


def page(folder: Path) -> str:
    """Everything that was measured, as Markdown."""
    found = {name: read_findings(folder / name) for name in SEARCHES}
    ours, other = found["paretune"], found["random"]
    limit = min(clock(one)[-1] for one in found.values())
    facts = ours.provenance
    machine, packages = facts["machine"], facts["packages"]
    head = (
        f"Measured by `python benchmarks/search_time.py run`, {facts['date']}, commit {facts['commit']}, "
        f"{machine['processor']}, both searches at once with one core and one thread each, Python {facts['python']}, "
        f"torch {packages['torch']}, optuna {packages['optuna']}. Seed 0. One run of each: a single sample."
    )
    about = (
        f"ResNet-20 on CIFAR-10, {TRAIN_IMAGES:,} training and {VAL_IMAGES:,} validation images, {EPOCHS} epochs of "
        "recovery for every trial that is not stopped, in bfloat16 with channels last; a share for each of 9 groups, "
        "bits for each of 18 layers, bits of activations: 28 decisions. Error, bytes and bit-operations on validation "
        "images. Minutes count all stages, sensitivities too. `random` is random sampling after the same controls; it "
        "is scored on the way, too, because the rungs are replayed on it."
    )
    parts = [f"# How long the search takes\n\n{head}\n\n{about}"]
    rows = [(words, minutes) for words, minutes in passed(ours, other)]
    parts.append(f"## Minutes until paretune has what random sampling and controls have after {limit:.0f} minutes")
    parts.append(_table(("what", "minutes"), rows))
    marks = [minute for minute in (5, 7, 10, 15, 20, 25, 30) if minute < limit] + [limit]
    parts.append("## Hypervolume over time")
    parts.append(_table(
        ("search", *(f"{minute:.0f} min" for minute in marks), "trials", "of them stopped"),
        [(name, *(f"{value:.4f}" for value in at_minutes(one, marks)), str(len(one.trials)),
          str(sum(trial.status == "stopped" for trial in one.trials))) for name, one in found.items()],
    ))  # fmt: skip
    parts.append(_kinds(ours))
    parts.append("## Where the seconds went")
    shares = {name: stages(one) for name, one in found.items()}
    every = list(dict.fromkeys(stage for one in shares.values() for stage in one))
    spent = [(stage, *(f"{100 * one.get(stage, 0.0):.2f} %" for one in shares.values())) for stage in every]
    outside = [100 * sum(v for k, v in one.items() if k not in (*TRAINING, *FORWARD)) for one in shares.values()]
    spent.append(("neither training nor forward passes", *(f"{value:.2f} %" for value in outside)))
    parts.append(_table(("stage", *shares), spent))
    parts.append(_rungs(ours, other))
    if (Path(__file__).parent / FILE).exists():
        parts.append(_overhead(json.loads((Path(__file__).parent / FILE).read_text())))
    return "\n\n".join(parts) + "\n"


def _kinds(ours: Findings) -> str:
    def upto(*kinds: str) -> str:
        return f"{covered_by(ours, [trial for trial in ours.trials if trial.kind in kinds]):.4f}"

    return (
        f"Of paretune's: controls alone {upto('control')}, with seeds {upto('control', 'seed')}, with the search "
        f"{upto('control', 'seed', 'search')}; front: {len(ours.front)} points, "
        f"{sum(t.kind == 'search' for t in ours.front)} searched, {sum(t.kind == 'seed' for t in ours.front)} seeds, "
        f"{sum(t.kind == 'control' for t in ours.front)} controls."
    )


def _rungs(ours: Findings, other: Findings) -> str:
    settings = RungSettings(epochs=(0, 1))
    runs = np.array([replayed(other, settings, seed) for seed in range(ORDERS)])
    mean, half = runs.mean(axis=0), 1.96 * runs.std(axis=0, ddof=1) / len(runs) ** 0.5
    lines = [
        "## Rungs, replayed",
        f"The {sum(t.kind == 'search' and t.status == 'done' for t in other.trials)} whole random trials in {ORDERS} "
        "orders, stopped by the product's own rule (after 0 and 1 epochs, eta 2, 12 trials at least): share of all "
        "seconds and of the hypervolume of all trials, mean ± 95 % CI over orders.",
        _table(("seconds", "hypervolume", "worst order"),
               [(f"{mean[0]:.3f} ± {half[0]:.3f}", f"{mean[1]:.4f} ± {half[1]:.4f}", f"{runs[:, 1].min():.4f}")]),
        "In the search itself:",
        _table(("after epochs", "reached", "judged", "stopped", "rank correlation with the last score"),
               [(str(s.epochs), str(s.reached), str(s.judged), str(s.stopped),
                 "–" if s.correlation is None else f"{s.correlation:.2f} ({s.compared} compared)")
                for s in ours.rungs]),
    ]  # fmt: skip
    return "\n\n".join(lines)


def _overhead(found: dict[str, Any]) -> str:
    cells = [(trials, f"{spent:.1f}") for trials, spent in found["milliseconds"].items()]
    return "\n\n".join([
        "## Overhead of `layerwise`",
        f"{found['parameters']} parameters, 3 objectives, storage in memory: milliseconds of one ask + tell, median of "
        f"200, and {found['megabytes']:.0f} MB at the end for the whole process. {found['where']}",
        _table(("trials told", "ms"), cells),
    ])  # fmt: skip


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows))


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "one", "overhead", "table"))
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--minutes", type=float, default=35.0)
    parser.add_argument("--name", choices=SEARCHES, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    if asked.what == "run":
        data, weights, folder = asked.paths
        run(data, weights, folder, asked.minutes)
    elif asked.what == "one":
        if asked.core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {asked.core})
        data, weights, folder = asked.paths
        study(data, weights, folder, asked.name, asked.minutes)
    elif asked.what == "overhead":
        facts = provenance({}, "")
        found = overhead()
        found["where"] = f"{facts['date']}, commit {facts['commit']}, {facts['machine']['processor']}."
        (Path(__file__).parent / FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found, indent=1))
    else:
        text = page(Path(asked.paths[0]))
        print(text)
        if asked.write:
            Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
