"""A study of ResNet-20 beside its controls and what others published: python benchmarks/cifar10_resnet20.py [--write].

Reads results/cifar10_resnet20_small, where the study was run (its journal must be there), and runs uniform plans once
more as its trials were run. Two minutes on two cores.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from paper import publish

from paretune.compress.layers import survey
from paretune.costs.counts import macs
from paretune.plan import DENSE, Plan
from paretune.profile import profile
from paretune.search.bench import lay_out
from paretune.search.clock import Clock
from paretune.search.confirm import read_settings, the_task
from paretune.search.evaluate import evaluate, quality_of
from paretune.search.measured import Measured
from paretune.search.planner import Planner
from paretune.search.precision import known_choice
from paretune.search.read import read_findings
from paretune.search.threads import threads_for
from paretune.spaces.language import parse_space
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
# (name, bits of weights and activations, ratio); the first and last layer have the bits that the study gives them
UNIFORM = (
    ("dense", 8, 0.0), ("uniform w8 a8", 8, 0.0), ("uniform w6 a6", 6, 0.0), ("uniform w4 a4", 4, 0.0),
    ("uniform w8 a8, ratio 0.3", 8, 0.3), ("uniform w4 a4, ratio 0.3", 4, 0.3), ("uniform w4 a4, ratio 0.5", 4, 0.5),
)  # fmt: skip
TRAINING = "1 epoch of 5,000 images"
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
    """Uniform plans, then what was confirmed, then others."""
    yield from uniform()
    trials = pd.read_csv(STUDY / "trials.csv").set_index("trial")
    front = trials[trials["on_front"] & trials["kind"].isin(("seed", "search"))]
    names = {front["size_bytes"].idxmin(): "smallest file", front["top1_error"].idxmin(): "most accurate"}
    for number, one in _confirmed().items():
        row = trials.loc[number]
        for recover in ("kept", "full"):
            if recover in one:
                yield _ours(f"trial {number}", names.get(number, one[recover]["picked_by"]), row, one[recover])
    for what, count, params, top1, theirs, training in PUBLISHED:
        numbers = ("" if number is None else f"{number:g}" for number in (count, params))
        yield (what, "published", *numbers, "", "", "", f"{top1:.2f}", f"{theirs:.2f}", training)


def uniform() -> Iterator[Sequence[str]]:
    """The dense network and the same bits and ratio everywhere, with the training of the study's trials."""
    settings = read_settings(STUDY)
    findings = read_findings(STUDY)
    choice = known_choice(STUDY, settings)
    bench = replace(lay_out(the_task(STUDY, findings, settings, None)), precision=choice.precision)
    with threads_for(bench.inventory, choice.threads):
        for label, layers, ratio in UNIFORM:
            plain = {**settings.space, "groups": [{"match": "*", "ratio": ratio}]}
            plain |= {"layers": [settings.space["layers"][0], {"match": "*", "weight_bits": layers}]}
            space = parse_space({**plain, "activation_bits": layers}, bench.inventory)
            planner = Planner.ready(bench, space, Measured(bench=bench, seed=settings.study.seed))
            recipe = space.answer(lambda question: question.leaf.ends()[0])
            plan = Plan() if label == "dense" else planner.plan(recipe, Clock()).plan
            done = evaluate(plan, bench, seed=settings.study.seed)
            assert done.model is not None
            test = quality_of(bench, done.model, bench.task.test, Clock())
            known = [trial for trial in findings.trials if trial.plan is not None and trial.plan.asked == plan]
            found = "control" if known else "not in the study"
            yield _line(
                label, found, done.outcome.values, f"{100 * (1 - test):.2f}", "none" if label == "dense" else TRAINING
            )


def _ours(name: str, picked: str, row: Any, confirmed: Any) -> Sequence[str]:
    tests = [100 * (1 - error) for error in confirmed["confirmed"]]
    mean = f"{sum(tests) / len(tests):.2f}"
    full = confirmed["recover"] == "full"
    values = {**row, "size_bytes": confirmed["size_bytes"]}
    if full:
        values["top1_error"] = sum(confirmed["validated"]) / len(tests)
        mean += f" ({min(tests):.2f} to {max(tests):.2f})"
    return _line(name, picked, values, mean, f"{len(tests)} × {_epochs()} epochs of it" if full else TRAINING)


def _line(name: str, picked: str, values: Any, test: str, training: str) -> Sequence[str]:
    return (
        name, picked, f"{values['macs'] / 1e6:.2f}", f"{values['params'] / 1e3:.1f}",
        f"{values['size_bytes'] / 1e3:.1f}", f"{values['bops'] / 1e6:.0f}",
        f"{100 * (1 - values['top1_error']):.2f}", test, "", training,
    )  # fmt: skip


def _epochs() -> int:
    return read_settings(STUDY).study.full_epochs


def _confirmed() -> dict[int, dict[str, Any]]:
    """Confirmations by trial and way of recovery, the most accurate trial first."""
    held = json.loads((STUDY / "confirmations.json").read_text(encoding="utf-8"))
    found: dict[int, dict[str, Any]] = {}
    for one in sorted(held, key=lambda one: one["found"]):
        found.setdefault(one["trial"], {})[one["recover"]] = one
    return found


if __name__ == "__main__":
    publish(__file__, "ResNet-20 on CIFAR-10", about(), COLUMNS, rows(), threads="as many threads as the study")
