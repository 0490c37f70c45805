"""Training a network here, before anything is searched: on the images of one role, and kept for the next time."""

import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch import Tensor, nn

from paretune.errors import ParetuneError, first_line, near_miss
from paretune.tasks.streamed import Streamed
from paretune.tasks.target import whole
from paretune.tasks.task import Split, fingerprint, misclassified, score
from paretune.tasks.weights import cache_folder, load_state, read_state, save_state

WARM = 20  # the rate rises for a twentieth of all steps
LOOKED_AT = 4  # clean batches in a digest
SEEDS = 1_000_000  # between the epochs of two seeds
MOST_SEED = 10**12  # PyTorch's seeds have 64 bits
RECIPE = 1  # raised when the same settings would train other weights; what was kept before is then trained again


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained from scratch: SGD with Nesterov momentum 0.9 in float32, the weight decay and batches
    of He et al. 2016 (https://arxiv.org/abs/1512.03385, section 4.2), and the rate of Loshchilov & Hutter 2017
    (https://arxiv.org/abs/1608.03983): a linear rise to `lr`, then half a cosine down to 0.

    Raises:
        ParetuneError: a number that cannot be.
    """

    epochs: int = 30
    lr: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        whole("task.model.train.epochs", self.epochs, 1)
        whole("task.model.train.seed", self.seed, 0, MOST_SEED)
        for name, top, words in (
            ("lr", math.inf, "above 0"), ("weight_decay", math.inf, "0 or more"), ("label_smoothing", 1, "in [0, 1)"),
        ):  # fmt: skip
            number = getattr(self, name)
            if type(number) not in (int, float) or not 0 <= number < top or (name == "lr" and number == 0):
                raise ParetuneError(f"task.model.train.{name} must be a number {words}, got {number!r}")


def training_of(given: Any) -> Training:
    """The `Training` of task.model.train, such as {"epochs": 10}; what is null or absent has its default.

    Raises:
        ParetuneError: an unknown setting, or a number that cannot be.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ParetuneError(f"task.model.train holds settings such as epochs and lr, got {given!r}")
    known = [field.name for field in fields(Training)]
    for key in given or {}:
        if key not in known:
            raise ParetuneError(f"task.model.train has no setting '{key}'.{near_miss(str(key), known)}")
    return Training(**{key: held for key, held in (given or {}).items() if held is not None})


def train_once(
    model: nn.Module, train: Split, val: Split, how: Training, *, name: str, asked: Mapping[str, Any] | None = None
) -> None:
    """Train `model` on `train` in place, or load what the same training left in this machine's cache folder.

    The same are first weights, modules, what the network gives out on the first images, what was `asked` for (its part
    of the config), `how`, every image of `train`, our recipe and torch's version. What is left is one .safetensors
    file; while it is under way, a checkpoint per epoch, from which a killed training goes on to the same weights. `val`
    is scored after every epoch for people to read: the weights are those of the last epoch, because the best of many
    epochs on val would be chosen by val, and look better there than it is. Both run on the device of the model. The
    same weights again needs the same kind of machine and as many threads. `model` is left in eval mode.

    Raises:
        ParetuneError: the loss is no longer finite, the model has several outputs in train mode, `train` is not the
            same twice, or the cache folder cannot be written.
    """
    images = digest(train)
    if images != digest(train):
        raise ParetuneError(
            "task.model.weights=train: the images that train are others at every clean pass, so nobody could tell "
            "which ones the kept weights have seen; train the network yourself and name the file"
        )
    wanted = json.dumps(asked, sort_keys=True, default=str)
    parts = (wanted, model, fingerprint(model), _outputs(model, train), how, images, RECIPE, torch.__version__)
    short, known = re.sub(r"\W+", "-", name), hashlib.sha256("\n".join(map(str, parts)).encode())
    path = cache_folder() / f"trained-{short}-{known.hexdigest()[:16]}.safetensors"
    with _alone(path, name):
        if not _loaded(model, path):
            _train(model, train, val, how, name, path.with_suffix(".partial"))
            save_state(model, path)
            path.with_suffix(".partial").unlink(missing_ok=True)
    model.eval()


@torch.no_grad()
def _outputs(model: nn.Module, split: Split) -> str:
    """What `model` gives out on the first images, for people's own modules, which may print alike and compute other
    things. Rounded, and of few: another device or number of threads shall find the same file.
    """
    inputs = next(iter(split.batches(None)))[0][:LOOKED_AT]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = model.eval()(inputs)
    if not isinstance(outputs, Tensor):
        return type(outputs).__name__
    numbers = outputs.detach().flatten().double().cpu()
    scale = float(numbers.abs().max())
    return f"{tuple(outputs.shape)} {scale:.1e} {[round(one, 2) + 0.0 for one in (numbers / (scale or 1)).tolist()]}"


def digest(split: Any) -> str:
    """Hex digits that change when an image, a label or the augmentation of `split` does, but not with its device.

    Of a split that reads its images later they tell rows, labels and settings, and what the first batches hold.
    """
    seen = hashlib.sha256()
    _add(seen.update, split)
    if isinstance(split, Streamed):
        for tensor in split.reader.samples.identity(split.rows):
            _add(seen.update, tensor)
    for pair in islice(split.batches(None), LOOKED_AT):
        for tensor in pair:
            _add(seen.update, tensor)
    return seen.hexdigest()


def _add(update: Callable[[bytes], None], held: Any) -> None:
    """Numbers by their bytes, plain values by what they print as, of anything else what it is made of, or its class:
    what an object of the user's prints as may be its place in memory.
    """
    if isinstance(held, Tensor):
        held = held.detach().cpu().numpy()
    if isinstance(held, np.ndarray):
        update(f"{held.dtype}{held.shape}".encode())
        update(np.ascontiguousarray(held).tobytes())
    elif held is None or isinstance(held, str | int | float | Path):
        update(repr(held).encode())
    elif isinstance(held, list | tuple):
        update(f"{len(held)} of".encode())
        for one in held:
            _add(update, one)
    elif is_dataclass(held):
        for field in fields(held):
            update(field.name.encode())
            _add(update, getattr(held, field.name))
    elif samples := getattr(held, "samples", None):
        _add(update, samples)
    elif not isinstance(held, torch.device):
        update(getattr(held, "__qualname__", type(held).__qualname__).encode())


def _alone(path: Path, name: str) -> AbstractContextManager[object]:
    """A lock that is held: two studies that start at once train one network, not two."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return lock.acquire(timeout=0)
    except Timeout:
        _say(f"another process trains {name}; waiting for it")
        return lock.acquire()
    except OSError as error:
        told = f"the cache folder {path.parent} cannot be written ({first_line(error)})"
        raise ParetuneError(f"task.model.weights=train: {told}; set PARETUNE_CACHE to a folder that can") from error


def _loaded(model: nn.Module, path: Path) -> bool:
    try:
        load_state(model, read_state(path))
    except ParetuneError:
        return False  # missing or damaged: it is trained again
    return True


def _train(model: nn.Module, train: Split, val: Split, how: Training, name: str, partial: Path) -> None:
    layout = _layout(model, next(iter(train.batches(None)))[0][:2])
    model.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=how.lr, momentum=0.9, nesterov=True, weight_decay=how.weight_decay
    )
    done = _resumed(model, optimizer, partial)
    if done:
        _say(f"training {name}: goes on behind epoch {done} of {how.epochs}")
    start = time.monotonic()
    for epoch in range(done, how.epochs):
        loss = _epoch(model, train, optimizer, how, epoch, layout, name)
        error = score(model, ((x.to(memory_format=layout), y) for x, y in val.batches(None)), misclassified)
        _keep({"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, partial)
        left = (time.monotonic() - start) / (epoch + 1 - done) * (how.epochs - epoch - 1)
        told = f"epoch {epoch + 1} of {how.epochs}, loss {loss:.2f}, val error {100 * error:.1f} %"
        _say(f"training {name}: {told}{_about(left)}")
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _epoch(
    model: nn.Module, train: Split, optimizer: torch.optim.Optimizer, how: Training, epoch: int,
    layout: torch.memory_format, name: str,
) -> float:  # fmt: skip
    """One pass over `train`; the mean loss. All chance comes from the seed and the epoch, so it can start anywhere."""
    device = next(model.parameters()).device
    seed, steps = how.seed * SEEDS + epoch, train.steps()
    losses = torch.zeros((), device=device)
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # of dropout
        for step, (inputs, targets) in enumerate(train.batches(seed)):
            for group in optimizer.param_groups:
                group["lr"] = rate(epoch * steps + step, how.epochs * steps, how.lr)
            outputs = model(inputs.to(memory_format=layout))
            if not isinstance(outputs, Tensor):
                told = f"{name} gives a {type(outputs).__name__} in train mode, not one tensor"
                raise ParetuneError(f"task.model.weights=train: {told}; it cannot be trained here")
            loss = F.cross_entropy(outputs, targets, label_smoothing=how.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            losses += loss.detach()
            _tick(f"training {name}: epoch {epoch + 1} of {how.epochs}, step {step + 1} of {steps}")
    mean = float(losses) / max(1, steps)
    if not math.isfinite(mean):
        raise ParetuneError(f"training {name} diverged in epoch {epoch + 1}; task.model.train.lr={how.lr} is too high")
    return mean


def rate(step: int, steps: int, top: float) -> float:
    """The learning rate of `step` (from 0) of `steps`: up to `top` in a line, then half a cosine down towards 0."""
    warm = max(1, steps // WARM)
    if step < warm:
        return top * (step + 1) / warm
    return top / 2 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.no_grad()
def _layout(model: nn.Module, inputs: Tensor) -> torch.memory_format:
    """Channels last for convolutions on images, unless a forward views what then lies in another order."""
    if inputs.dim() != 4 or not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return torch.contiguous_format
    try:
        model.eval()(inputs.to(memory_format=torch.channels_last))
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


def _resumed(model: nn.Module, optimizer: torch.optim.Optimizer, partial: Path) -> int:
    """How many epochs are done; a missing or damaged checkpoint has done none."""
    try:
        held = torch.load(partial, map_location="cpu", weights_only=True)
        done, state, steps = int(held["epoch"]), held["model"], held["optimizer"]
    except Exception:  # torch.load lets pickle's many errors through
        return 0
    model.load_state_dict(state)
    optimizer.load_state_dict(steps)
    return done


def _keep(held: dict[str, Any], path: Path) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    torch.save(held, partial)
    os.replace(partial, path)


def _about(seconds: float) -> str:
    if seconds <= 0:
        return ""
    return f", about {seconds:.0f} s left" if seconds < 90 else f", about {seconds / 60:.0f} min left"


def _say(line: str) -> None:
    end = "\033[K\n" if sys.stderr.isatty() else "\n"
    print(f"{line}{end}", end="", file=sys.stderr, flush=True)


def _tick(line: str) -> None:
    if sys.stderr.isatty():
        print(f"{line}\033[K\r", end="", file=sys.stderr, flush=True)
