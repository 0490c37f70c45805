"""From a found point to a shipped one: rebuild or replay it, score it on the untouched test split, export, verify."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from paretune.choose import choose
from paretune.compress.freeze import thaw
from paretune.conf.settings import Settings, parse_settings
from paretune.errors import ParetuneError, first_line
from paretune.export.artifact import SAMPLES, add_latency, check_target, write_artifact
from paretune.export.latency import Comparison, Timing, compare, dense_graph, facts_of
from paretune.export.pack import unpack
from paretune.export.verify import Verdict, verify_batches
from paretune.findings import Confirmation, Findings, MeasuredLatency, Trial
from paretune.frozen import Frozen
from paretune.plan import Plan
from paretune.records import to_plain
from paretune.search.bench import Bench, lay_out
from paretune.search.clock import Clock
from paretune.search.devices import hardware_told, timing_in
from paretune.search.evaluate import evaluate, quality_of
from paretune.search.folder import kept_folder, read_json, write_json
from paretune.search.precision import known_choice
from paretune.search.read import read_findings, write_report
from paretune.search.threads import threads_for
from paretune.tasks.table import make_task
from paretune.tasks.task import Split, Task

RECOVER = ("kept", "full")
FRESH_SEEDS = 3
UNSTEADY_IMAGES = 5000


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """One compressed model with its quality on both splits."""

    seed: int
    plan: Plan
    frozen: Frozen
    model: nn.Module
    validated: float
    confirmed: float


def export(
    folder: Path, rule: str, out: Path, *, recover: str = "kept", under: Mapping[str, float] | None = None,
    drop: float | None = None, task: Task | None = None, pt2: bool = False, latency: bool | Mapping[str, int] = True,
) -> Verdict:  # fmt: skip
    """Ship the trial that `rule` picks to `out`, and record found (val) beside confirmed (test) in the study.

    `recover` "kept" ships the weights that the search found; "full" trains the plan again with three fresh seeds and
    the full recovery budget, and ships the one with the best `val` quality (never chosen on `test`). What a training
    found, masks or channels and bits, is kept; ranges and exponents of quantizers are learned anew. `pt2` adds a
    program for `torch.export.load`. The shipped graph is timed on this machine beside the dense model's, as the
    study's settings say, but for what `latency` changes ({"repeats": 200}; False: not at all);
    where one of the two does not run, the artifact says so and is shipped all the same.

    Raises:
        ParetuneError: nothing to pick, or the task is not at hand or not the one of the study.
    """
    if recover not in RECOVER:
        raise ParetuneError(f"recover is one of {', '.join(RECOVER)}, got '{recover}'")
    check_target(out)
    findings = read_findings(folder)
    trial = choose(findings, rule, under=under, drop=drop)
    plan = trial.plan
    if recover == "full" and plan is not None and not plan.recovery.epochs and not (plan.pruning or plan.joint):
        raise ParetuneError(f"trial {trial.number} was not trained, so there is nothing to recover; use kept")
    settings = read_settings(folder)
    task = the_task(folder, findings, settings, task)
    bench = lay_out(task, hardware_told(findings.provenance), asked=settings.inventory)
    choice = known_choice(folder, settings)
    bench = replace(bench, precision=choice.precision)
    with threads_for(bench.inventory, choice.threads):
        replays = _kept(folder, trial, bench, settings) if recover == "kept" else _full(trial, bench, settings)
    best = min(replays, key=lambda replay: (replay.validated, replay.seed))
    costs = bench.costs(best.plan)
    words = _words(rule, under or findings.budget, drop)
    quality = findings.names[0]
    confirmation = Confirmation(
        trial=trial.number, picked_by=words, recover="kept" if recover == "kept" else "full",
        found=trial.values[quality], validated=tuple(replay.validated for replay in replays),
        confirmed=tuple(replay.confirmed for replay in replays), size_bytes=int(costs["size_bytes"]),
        seeds=tuple(replay.seed for replay in replays),
    )  # fmt: skip
    scores = _scores(findings, {**trial.values, **costs}, confirmation, best, bench.task)
    _write(out, best, bench, scores, pt2)
    timed = None if latency is False else _timed(out, bench, _timing(settings, latency))
    _record(folder, replace(confirmation, latency=timed))
    return verify_with(out, bench.task)


def read_settings(folder: Path) -> Settings:
    """The settings a study was run with.

    Raises:
        ParetuneError: config.yaml is missing or damaged.
    """
    try:
        return parse_settings(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise ParetuneError(f"{folder}/config.yaml cannot be read ({error})") from error


def the_task(folder: Path, findings: Findings, settings: Settings, task: Task | None) -> Task:
    """The study's task: the given one, or made again from its config.

    Raises:
        ParetuneError: it was made in Python, or its weights or data are not those of the study.
    """
    if task is None and not settings.task:
        raise ParetuneError(f"the task of {folder} was made in Python; export it there with Study(...).export(...)")
    task = task or make_task(settings.task, device=settings.device)
    known = findings.provenance["task"]
    if known != f"{task.name} {task.fingerprint}":
        raise ParetuneError(f"the task's weights or data have changed: {folder} was searched with {known}")
    return task


def _kept(folder: Path, trial: Trial, bench: Bench, settings: Settings) -> list[Replay]:
    """The found weights from disk, or, where they were dropped, from the same plan and seed again."""
    assert trial.plan is not None
    home = kept_folder(folder, trial.number if trial.same_as is None else trial.same_as)
    seed = settings.study.seed
    if not (home / "model.safetensors").is_file():
        return [_replay(trial.plan.asked, bench, seed)]
    frozen = _as_planned(unpack((home / "model.safetensors").read_bytes(), read_json(home / "layout.json")), trial.plan)
    model = thaw(bench.task.model, bench.inventory, trial.plan, frozen)
    return [_scored(trial.plan, bench, seed, frozen, model)]


def _as_planned(frozen: Frozen, plan: Plan) -> Frozen:
    """With the patterns and encodings that the plan names, so that it is packed as it was."""
    rows = plan.bits
    layers = {
        name: replace(layer, pattern=rows[name].pattern, encoding=rows[name].encoding) if name in rows else layer
        for name, layer in frozen.layers.items()
    }
    return replace(frozen, layers=layers)


def _full(trial: Trial, bench: Bench, settings: Settings) -> list[Replay]:
    assert trial.plan is not None
    recovery = replace(trial.plan.recovery, epochs=settings.study.full_epochs)
    if trial.plan.pruning is not None:
        # Masks that training found are kept; what trains them further are the dense weights.
        recovery = replace(recovery, start="trained")
    plan = replace(trial.plan, recovery=recovery)
    seeds = range(settings.study.seed + 1, settings.study.seed + 1 + FRESH_SEEDS)
    return [_replay(plan, bench, seed) for seed in seeds]


def _replay(plan: Plan, bench: Bench, seed: int) -> Replay:
    trained = evaluate(plan, bench, seed=seed)
    if trained.frozen is None or trained.model is None:
        raise ParetuneError(f"the plan could not be replayed with seed {seed}: {trained.outcome.reason}")
    return _scored(trained.plan, bench, seed, trained.frozen, trained.model)


def _scored(plan: Plan, bench: Bench, seed: int, frozen: Frozen, model: nn.Module) -> Replay:
    return Replay(
        seed=seed, plan=plan, frozen=frozen, model=model,
        validated=quality_of(bench, model, bench.task.val, Clock()),
        confirmed=quality_of(bench, model, bench.task.test, Clock()),
    )  # fmt: skip


def _words(rule: str, under: Mapping[str, float], drop: float | None) -> str:
    if rule == "budget":
        return "budget " + ", ".join(f"{name} <= {limit:g}" for name, limit in under.items())
    return f"goal: dense + {0.01 if drop is None else drop:g}" if rule == "goal" else rule


def _scores(
    findings: Findings, values: Mapping[str, float], confirmation: Confirmation, best: Replay, task: Task
) -> dict[str, Any]:
    dense = findings.dense
    return {
        "study": findings.name,
        "trial": confirmation.trial,
        "picked_by": confirmation.picked_by,
        "recover": confirmation.recover,
        "quality": findings.names[0],
        "found_val": confirmation.found,
        "validated_val": list(confirmation.validated),
        "confirmed_test": list(confirmation.confirmed),
        "shipped_seed": best.seed,
        "shipped_val": best.validated,
        "shipped_test": best.confirmed,
        "dense_val": dense.values[findings.names[0]] if dense else None,
        **values,
        findings.names[0]: best.confirmed,
        "task": task.origin,
        "task_fingerprint": task.fingerprint,
        "provenance": findings.provenance,
    }


def _write(out: Path, best: Replay, bench: Bench, scores: dict[str, Any], pt2: bool) -> None:
    inputs, predictions = tested(best.model, bench.task.test)
    scores = {**scores, "unsteady": unsteady(best.model, bench.task.test)}
    write_artifact(
        out, model=best.model, frozen=best.frozen, inventory=bench.inventory, plan=best.plan,
        example=bench.task.example(), scores=scores, check=(inputs, predictions), pt2=pt2,
    )  # fmt: skip


def _timing(settings: Settings, latency: bool | Mapping[str, int]) -> Timing:
    return replace(timing_in(settings), **({} if isinstance(latency, bool) else latency))


def _timed(out: Path, bench: Bench, timing: Timing) -> MeasuredLatency | None:
    """The latency of the artifact in `out`, which keeps it too; None, and the artifact says why, if a graph fails."""
    with np.load(out / "check.npz") as arrays:
        inputs = arrays["inputs"]
    try:
        # Not kept: whoever wants the dense model has it.
        dense = dense_graph(bench.task.model, bench.inventory, bench.task.example())
        found = compare(out / "model.onnx", dense, inputs, timing)
    except (ParetuneError, OSError, RuntimeError) as error:  # the artifact is written: it ships, measured or not
        add_latency(out, {"measured": False, "reason": first_line(error)})
        return None
    add_latency(out, facts_of(found))
    return _in_short(found)


def _in_short(found: Comparison) -> MeasuredLatency:
    one = found.compressed
    return MeasuredLatency(
        median_ms=one.median_ms, low_ms=one.low_ms, high_ms=one.high_ms, dense_ms=found.dense.median_ms,
        ratio=found.ratio, threads=one.threads, machine=one.machine, onnxruntime=one.onnxruntime,
    )  # fmt: skip


@torch.no_grad()
def tested(model: nn.Module, split: Split) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The first `SAMPLES` inputs of `split` (n, ...) and the top-1 class that `model` predicts for each of all (m,)."""
    first: list[np.ndarray[Any, Any]] = []
    classes = []
    for batch, _ in split.batches(None):
        if sum(len(part) for part in first) < SAMPLES:
            first.append(batch[:SAMPLES].cpu().numpy())
        classes.append(model(batch).argmax(dim=1).cpu().numpy())
    return np.concatenate(first)[:SAMPLES], np.concatenate(classes)


@torch.no_grad()
def unsteady(model: nn.Module, split: Split) -> float:
    """The share of images, of the first `UNSTEADY_IMAGES` or more, whose class in float64 is another than in float32.

    Sums of another order do as much: what is rounded may lie on the edge of a step. 0 where the model runs in float32
    only.
    """
    other = images = 0
    try:
        exact = copy.deepcopy(model).double()
        for batch, _ in split.batches(None):
            other += int((exact(batch.double()).argmax(dim=1) != model(batch).argmax(dim=1)).sum())
            images += len(batch)
            if images >= UNSTEADY_IMAGES:
                break
    except (RuntimeError, TypeError):  # a forward that makes float32 tensors of its own
        return 0.0
    return other / max(images, 1)


def verify_with(out: Path, task: Task) -> Verdict:
    """Check the artifact in `out` on every test image of `task`, in a fresh process."""
    return verify_batches(out, ((x.cpu().numpy(), y.cpu().numpy()) for x, y in task.test.batches(None)))


def _record(folder: Path, confirmation: Confirmation) -> None:
    """Add the confirmation to the study, in place of an earlier one of the same trial, and draw the report anew."""
    path = folder / "confirmations.json"
    known = read_json(path) if path.exists() else []
    new = to_plain(confirmation)
    same = ("trial", "recover")
    known = [old for old in known if [old[key] for key in same] != [new[key] for key in same]]
    write_json(path, [*known, new])
    write_report(folder)
