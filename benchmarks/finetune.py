"""How fast fine-tuning is beside the loop most people write, and what of a trial is not forward or backward:
python benchmarks/finetune.py cifar10.npz resnet20.th [--quick] [--write].

`cifar10.npz` holds x_train, y_train, x_test and y_test as in conf/data/npz.yaml, `resnet20.th` is the checkpoint of
https://github.com/akamaster/pytorch_resnet_cifar10. Three minutes on two idle cores.
"""

import argparse
import copy
import importlib
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from speed import heading
from torch import nn

from paretune.compress import recover
from paretune.compress.precision import PLAIN, Precision
from paretune.compress.quantize import calibrate, quantize
from paretune.compress.recover import Teacher, finetune
from paretune.plan import GroupPlan, LayerPlan, Plan
from paretune.recipe import Recovery
from paretune.search.bench import Bench, lay_out
from paretune.search.clock import Clock
from paretune.search.evaluate import evaluate
from paretune.search.precision import Choice, measured_choice
from paretune.search.threads import threads_for
from paretune.tasks.classification import classification
from paretune.tasks.images import Images, evaluated
from paretune.tasks.task import Task
from paretune.tasks.torchvision_models import torchvision_models

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAIN_IMAGES, FEW_IMAGES, VAL_IMAGES, BATCH, LR = 5000, 1000, 1000, 128, 0.01
RATIO, BITS = 0.3, 4
ABOUT_SPEED = (
    f"CIFAR-10, ResNet-20, {TRAIN_IMAGES:,} training images ({FEW_IMAGES:,} in a quick run), batches of {BATCH}, "
    "random crop and mirror, SGD with momentum: images per second of one epoch, the ways in turn. The plain loop is a "
    "data set of PIL images with torchvision's RandomCrop, RandomHorizontalFlip, ToTensor and Normalize, a DataLoader "
    "and an SGD loop in float32 with PyTorch's default threads; its workers live on between epochs, and the first "
    "epoch of every way is not counted. Ratios are medians of the ratios within a turn, to the plain loop with two "
    "workers."
)
ABOUT_SHARES = (
    f"Trials of one epoch with the same training and {VAL_IMAGES:,} validation images. Inside are all forward "
    "passes (of the student with its quantizers, and of the teacher where it answers), the loss and the backward pass. "
    "Outside is everything else: batches with their augmentation, optimizer, checks; in a whole trial also cutting, "
    "fitting quantizers and freezing. "
    "The teacher answers in the first trial with its seed and is remembered after that."
)

ABOUT_SCORING = (
    f"{VAL_IMAGES:,} images forward in float32, without gradients, the ways in turn. Activations of many images at a "
    "time do not fit in the cache."
)


def task_of(data: str, weights: str, images: int) -> Task:
    """The pretrained network with that many training images."""
    return classification(
        model={"source": "cifar", "model": "resnet20", "weights": weights, "trained_on": "train"},
        data={
            "source": "npz", "path": data, "mean": list(MEAN), "std": list(STD), "batch": BATCH,
            "train_images": images, "val_images": VAL_IMAGES,
        },
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The split as a data set of the usual kind: one PIL image at a time, transformed by torchvision."""

    images: list[Any]
    targets: list[int]
    transform: Callable[[Any], Any]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.targets[index]


def pictures_of(split: Images) -> Pictures:
    """The same images as PIL's."""
    torchvision_models()  # guards torchvision's import
    transforms = importlib.import_module("torchvision.transforms")
    fromarray = importlib.import_module("PIL.Image").fromarray
    chain = [
        transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]  # fmt: skip
    arrays = split.pixels.permute(0, 2, 3, 1).numpy()
    return Pictures(
        images=[fromarray(array) for array in arrays], targets=split.targets.tolist(),
        transform=transforms.Compose(chain),
    )  # fmt: skip


def plain_loop(model: nn.Module, split: Images, workers: int) -> Callable[[], None]:
    """One epoch per call of the loop that most people write."""
    loader = torch.utils.data.DataLoader(
        pictures_of(split), batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True,
        persistent_workers=workers > 0,
    )  # type: ignore[arg-type, var-annotated]  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def epoch() -> None:
        model.train()
        for images, targets in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()

    return epoch


def our_loop(model: nn.Module, split: Images, precision: Precision, threads: int) -> Callable[[], None]:
    """One epoch per call of what a trial runs."""
    recovery = Recovery(epochs=1, lr=LR)

    def epoch() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        finetune(
            model, recovery, loss=F.cross_entropy, teacher=Teacher(model=model, split=split), seeds=lambda epoch: epoch,
            precision=precision,
        )  # fmt: skip
        torch.set_num_threads(before)

    return epoch


def rates(ways: dict[str, Callable[[], None]], images: int, turns: int) -> dict[str, list[float]]:
    """Images per second of every way in every turn; the first turn is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, epoch in ways.items():
            print(f"turn {turn}: {name}", file=sys.stderr)
            start = perf_counter()
            epoch()
            if turn:
                found[name].append(images / (perf_counter() - start))
    return found


def counted(threads: int) -> str:
    """In words."""
    return f"{threads} thread{'' if threads == 1 else 's'}"


def speed_rows(bench: Bench, choice: Choice, turns: int) -> Iterator[Sequence[str]]:
    """Every way with its rate and its ratio to the plain loop with two workers."""
    split, default = bench.task.train, torch.get_num_threads()
    assert isinstance(split, Images)

    def fresh() -> nn.Module:
        return copy.deepcopy(bench.task.model)

    with threads_for(bench.inventory, None):
        usual = torch.get_num_threads()
    ours = f"paretune, {choice.precision}, {counted(choice.threads or usual)} (`precision: auto`)"
    ways = {
        f"plain loop, 2 workers, {counted(default)}": plain_loop(fresh(), split, 2),
        f"plain loop, no workers, {counted(default)}": plain_loop(fresh(), split, 0),
        f"paretune, float32, {counted(usual)} (`precision: float32`)": our_loop(fresh(), split, PLAIN, usual),
        ours: our_loop(fresh(), split, choice.precision, choice.threads or usual),
    }
    found = rates(ways, split.steps() * BATCH, turns)
    plain = next(iter(found.values()))
    for name, each in found.items():
        ratio = statistics.median(one / other for one, other in zip(each, plain, strict=True))
        spread = f"{statistics.median(each):.0f} ({min(each):.0f} – {max(each):.0f}, {len(each)})"
        yield name, spread, f"{ratio:.2f}"


@dataclass
class Meter:
    """Seconds inside forward, loss and backward by stage of a trial, and of two parts outside."""

    inside: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    stage: str = ""
    depth: int = 0

    def counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, whose outermost calls count as inside."""

        def call(*arguments: Any, **named: Any) -> Any:
            self.depth += 1
            start = perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.inside[self.stage] += perf_counter() - start

        return call

    def noted(self, work: Callable[..., Any], part: str) -> Callable[..., Any]:
        """`work`, whose seconds in the fine-tune are noted as a part of what is outside."""

        def call(*arguments: Any, **named: Any) -> Any:
            start = perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                if self.stage == "finetune":
                    self.parts[part] += perf_counter() - start

        return call

    def _batches(self, split: Images, seed: int | None) -> Iterator[Any]:
        made = BATCHES(split, seed)
        following = self.noted(lambda: next(made, None), "batches")
        while (batch := following()) is not None:
            yield batch

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, trials are measured."""

        # Functions, since a bound method in a class would not be given its object.
        def batches(split: Images, seed: int | None) -> Iterator[Any]:
            return self._batches(split, seed)

        def stage(clock: Clock, name: str) -> Any:
            return self._stage(clock, name)

        with ExitStack() as patches:
            replaced = [
                (nn.Module, "__call__", self.counted(nn.Module.__call__)),
                (recover, "_loss", self.counted(recover._loss)),
                (torch.autograd, "backward", self.counted(torch.autograd.backward)),
                (torch.optim.SGD, "step", self.noted(torch.optim.SGD.step, "optimizer")),
                (Images, "batches", batches),
                (Clock, "stage", stage),
            ]
            for where, name, work in replaced:
                patches.enter_context(mock.patch.object(where, name, work))
            yield

    @contextmanager
    def _stage(self, clock: Clock, name: str) -> Iterator[None]:
        self.stage = name
        with STAGE(clock, name):
            yield
        self.stage = ""


BATCHES, STAGE = Images.batches, Clock.stage


def plans(bench: Bench) -> Iterator[tuple[str, Plan]]:
    """A float one with fewer channels, and one with 4 bits too, without and with a teacher."""
    counts = {group.name: max(1, round((1 - RATIO) * group.channels)) for group in bench.inventory.groups}
    groups = tuple(GroupPlan(group=name, kept=tuple(range(count))) for name, count in counts.items())
    layers = tuple(
        LayerPlan(layer=layer.name, weight_bits=BITS, activation_bits=BITS) for layer in bench.inventory.weighted
    )
    for name, rows in (("float", ()), (f"W{BITS}A{BITS}", layers)):
        for distill in ("none", "logits"):
            recovery = Recovery(epochs=1, lr=LR, distill=distill)
            yield f"{name}, distill {distill}", Plan(groups=groups, layers=rows, recovery=recovery)


def share_rows(bench: Bench, choice: Choice) -> Iterator[Sequence[str]]:
    """Every plan in float32 and in the chosen precision."""
    for number, precision in enumerate(dict.fromkeys((PLAIN, choice.precision))):
        threads = choice.threads if number else None
        with threads_for(bench.inventory, threads):
            for name, plan in plans(bench):
                # A teacher of its own: the first trial with its seed asks it.
                asked = replace(bench, precision=precision, teacher=replace(bench.teacher, kept={}))
                answers = ("", ", remembered") if plan.recovery.distill != "none" else ("",)
                for again in answers:
                    print(f"{name}{again}, {precision}", file=sys.stderr)
                    yield f"{name}{again}", str(precision), *shares(plan, asked)


def shares(plan: Plan, bench: Bench) -> Sequence[str]:
    """Seconds of a trial's fine-tune, what of it is outside and why, and what of the whole trial is."""
    meter = Meter()
    with meter.watching():
        seconds = evaluate(plan, bench, seed=0).outcome.seconds
    tuning, whole, inside = seconds["finetune"], sum(seconds.values()), sum(meter.inside.values())
    parts = [f"{100 * meter.parts[part] / tuning:.2f}" for part in ("batches", "optimizer")]
    outside = f"{100 * (1 - meter.inside['finetune'] / tuning):.2f}"
    return f"{tuning:.2f}", outside, *parts, f"{whole:.2f}", f"{100 * (1 - inside / whole):.2f}"


def scoring_rows(bench: Bench, turns: int) -> Iterator[Sequence[str]]:
    """Images scored per second by how many of them go through the network at a time, in turns."""
    split = bench.task.val
    assert isinstance(split, Images)
    inputs = torch.cat([x for x, _ in split.batches(None)])
    layers = tuple(LayerPlan(layer=x.name, weight_bits=BITS, activation_bits=BITS) for x in bench.inventory.weighted)
    rounded = quantize(copy.deepcopy(bench.task.model), Plan(layers=layers))
    calibrate(rounded, inputs[:BATCH])
    used = evaluated(split.pixels)
    for name, model in (("float", bench.task.model), (f"W{BITS}A{BITS}", rounded.eval())):
        with torch.no_grad():
            ways = {
                f"{name}, {size} at a time{' (ours)' if size == used else ''}": partial(_scored, model, inputs, size)
                for size in (1024, 256, used, used // 4)
            }
            found = rates(ways, len(inputs), turns)
        slowest = found[next(iter(ways))]
        for way, per_second in found.items():
            ratio = statistics.median(one / other for one, other in zip(per_second, slowest, strict=True))
            yield way, f"{statistics.median(per_second):.0f}", f"{ratio:.2f}"


def _scored(model: nn.Module, inputs: torch.Tensor, size: int) -> None:
    for batch in torch.split(inputs, size):
        model(batch)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows))


def main() -> None:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", help="cifar10.npz")
    parser.add_argument("weights", help="resnet20.th")
    parser.add_argument("--quick", action="store_true", help="two turns with fewer images")
    parser.add_argument("--write", action="store_true", help="also write benchmarks/finetune.md")
    given = parser.parse_args()
    images, turns = (FEW_IMAGES, 2) if given.quick else (TRAIN_IMAGES, 5)
    source = f"Written by `python benchmarks/finetune.py cifar10.npz resnet20.th --write`: {heading(given.quick)}"
    bench = lay_out(task_of(given.data, given.weights, images))
    page = ""
    for part in parts(bench, turns, source):
        print(part, flush=True)
        page += part + "\n"
    if given.write:
        Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")


def parts(bench: Bench, turns: int, source: str) -> Iterator[str]:
    """The page, a part at a time."""
    choice = measured_choice(bench, None)
    yield f"# Fine-tuning speed\n\n{source}.\n\n## Images per second\n\n{ABOUT_SPEED}\n"
    yield table(("way", "images/s: median (slowest – fastest, turns)", "ratio"), list(speed_rows(bench, choice, turns)))
    measured = [
        (row.dtype, row.memory_format, str(row.threads), row.reason or f"{row.images_per_second:.0f}")
        for row in choice.measured
    ]
    yield f"\nWhat `precision: auto` had measured before, on batches of {choice.batch}:\n"
    yield table(("dtype", "memory format", "threads", "images/s"), measured)
    yield f"\nLoad after this: {os.getloadavg()[0]:.1f}.\n\n## Outside forward and backward\n\n{ABOUT_SHARES}\n"
    columns = (
        "plan", "precision", "fine-tune, s", "outside, %", "of it batches, %", "of it optimizer, %", "trial, s",
        "outside in the trial, %",
    )  # fmt: skip
    yield table(columns, list(share_rows(bench, choice)))
    yield f"\n## Scoring\n\n{ABOUT_SCORING}\n"
    yield table(("way", "images/s, median", "ratio"), list(scoring_rows(bench, turns)))


if __name__ == "__main__":
    main()
