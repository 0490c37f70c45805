"""Samples read by worker processes while they are needed: data sets that do not fit into memory."""

import logging
import os
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from paretune.errors import ParetuneError, first_line
from paretune.tasks.images import normalised
from paretune.tasks.labels import check_labels
from paretune.tasks.target import whole

MOST_WORKERS = 8  # of workers=auto
STUCK = 300  # seconds without a batch; a server that is gone would be waited for for ever
Rows = NDArray[np.int64]
log = logging.getLogger("paretune")


class Samples(Protocol):
    """Numbered samples. Read in other processes, so it must be picklable and `read` must not change it."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, row: int, seed: int | None) -> tuple[Tensor, int]:
        """Input and class of a sample: clean for None, augmented by nothing but `seed` and `row`; any error is told."""

    def name(self, row: int) -> str:
        """What messages call it."""

    def identity(self, rows: Rows) -> Iterable[Tensor]:
        """Numbers that tell the samples at `rows` (n,) from others, without reading them all."""


class Batch(NamedTuple):
    """What a worker read: inputs (k, ...) or None, classes (k,), and why which rows could not be read."""

    inputs: Tensor | None
    targets: Tensor
    bad: list[tuple[int, str]]


Key = tuple[int, int | None]  # row, seed
_Read = tuple[Tensor | str, int, Key]


class Reader:
    """Reads batches of `samples` in `workers` processes (0: in this one), which stay for the next pass.

    A sample that cannot be read is named once in a warning. In training it is replaced by the next one of its batch,
    behind the last comes the first, so that batches keep their size; in evaluation it is left out, because a sample
    that is scored twice would lie. A batch without any that can be read is left out. What comes out does not depend on
    the number of workers. The processes end with the last reference to the reader. `lost` samples were left out
    beforehand and count.
    """

    def __init__(self, samples: Samples, *, workers: int, corrupt: float = 0.0, lost: int = 0) -> None:
        self.samples, self.workers = samples, workers
        self._corrupt, self._lost = corrupt, lost
        self._bad: set[int] = set()
        self._idle: list[DataLoader[Any]] = []

    def read(self, batches: Iterable[list[Key]]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Inputs (k, ...) as they are stored and classes (k,), a batch for each of `batches`.

        May be stopped at any batch and may run several times at once.

        Raises:
            ParetuneError: more samples than the share `corrupt` of all cannot be read, or a process died or is stuck.
        """
        loader = self._idle.pop() if self._idle else self._loader()
        loader.batch_sampler.batches = batches  # type: ignore[union-attr]
        try:
            for batch in self._alive(loader):
                for row, reason in batch.bad:
                    self._note(row, reason)
                if batch.inputs is not None:
                    yield batch.inputs, batch.targets
        except GeneratorExit:
            self._idle.append(loader)  # PyTorch throws away what is still under way when the next pass starts
            raise
        self._idle.append(loader)

    def _alive(self, loader: DataLoader[Any]) -> Iterator[Batch]:
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of it for every fork of a process with threads, which PyTorch's always have.
                warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
                batches = iter(loader)
        except Exception as error:  # no memory, no process, or what cannot be pickled where processes start anew
            raise ParetuneError(
                f"data: workers cannot start ({first_line(error)}); task.data.workers=0 reads without any"
            ) from error
        try:
            yield from batches
        except RuntimeError as error:  # a worker was killed, or there is no shared memory left
            if "timed out" in str(error):
                told = f"no image for {STUCK} s, reading is stuck; are the files on a disk that is gone?"
                raise ParetuneError(f"data: {told} task.data.workers=0 waits for ever") from error
            told = "workers could not go on" if self.workers else "reading failed"
            raise ParetuneError(
                f"data: {told} ({first_line(error)}); fewer task.data.workers need less memory, 0 reads without any"
            ) from error

    def _note(self, row: int, reason: str) -> None:
        new = row not in self._bad
        self._bad.add(row)
        bad, total = len(self._bad) + self._lost, len(self.samples) + self._lost
        what = f"data: {self.samples.name(row)} cannot be read ({reason}); {bad:,} of {total:,} so far"
        if bad > self._corrupt * total:
            raise ParetuneError(f"{what}, more than the share {self._corrupt} that may; mend or remove them")
        if new:
            log.warning("%s, left out", what)

    def _loader(self) -> DataLoader[Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")  # more than cores: as asked
            return DataLoader(
                _Items(self.samples),
                batch_sampler=_Batches(),
                num_workers=self.workers,
                timeout=STUCK if self.workers else 0,
                collate_fn=gathered,
                persistent_workers=self.workers > 0,
                generator=torch.Generator(),  # else it would draw from the global one
            )


@dataclass
class _Batches:
    """What the next pass reads; a loader takes its sampler once, so this one changes."""

    batches: Iterable[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


@dataclass(frozen=True)
class _Items(Dataset[_Read]):
    samples: Samples

    def __getitem__(self, key: Key) -> _Read:
        try:
            return *self.samples.read(*key), key
        except Exception as error:  # a broken file raises whatever its decoder stumbles on
            return first_line(error), -1, key


def gathered(found: Sequence[_Read]) -> Batch:
    """A batch of what was read, without or, in training, with a replacement for each sample that was not."""
    good = [place for place, (inputs, _, _) in enumerate(found) if isinstance(inputs, Tensor)]
    first = found[good[0]][0] if good else None
    bad = {place: str(inputs) for place, (inputs, _, _) in enumerate(found) if isinstance(inputs, str)}
    for place in good:
        inputs = found[place][0]
        assert isinstance(inputs, Tensor)
        assert isinstance(first, Tensor)
        if (inputs.shape, inputs.dtype) != (first.shape, first.dtype):
            bad[place] = f"{_kind(inputs)}, the first of its batch is {_kind(first)}"
    good = [place for place in good if place not in bad]
    told = [(found[place][2][0], reason) for place, reason in sorted(bad.items())]
    if not good:
        return Batch(None, torch.empty(0, dtype=torch.int64), told)
    places = good if found[0][2][1] is None else [_next(good, place) for place in range(len(found))]
    inputs = torch.stack([found[place][0] for place in places])  # type: ignore[misc]
    return Batch(inputs, torch.tensor([found[place][1] for place in places]), told)


def _next(good: Sequence[int], place: int) -> int:
    return next((other for other in good if other >= place), good[0])


def _kind(inputs: Tensor) -> str:
    return f"{tuple(inputs.shape)} {inputs.dtype}".replace("torch.", "")


@dataclass(frozen=True, kw_only=True, eq=False)
class Streamed:
    """A split held as `rows` (n,) of a `reader`, whose worker processes all splits of a task share.

    Bytes travel to `device` as such, from pinned memory to a GPU, and become float32 there: (pixels / 255 − mean) / std
    with one number per channel, or pixels / 255 without `mean`; other inputs stay as they were read. Training batches
    are in an order that depends on the seed only, mirrored left to right with probability ½ if `flip`, and the
    samples draw their own augmentation from the seed and their number, so that nothing depends on how many workers
    there are. Evaluation takes batches of the same size. What becomes of samples that cannot be read: see `Reader`.
    With `classes`, a batch with a label that numbers none of so many is an error.

    Raises:
        ParetuneError: `mean` and `std` of different lengths, a `std` that is not above 0, a `batch` that is none.
    """

    reader: Reader
    rows: Rows
    targets: Rows
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch: int = 64
    flip: bool = True
    device: torch.device = torch.device("cpu")
    classes: int | None = None

    def __post_init__(self) -> None:
        if len(self.mean or ()) != len(self.std or ()):
            raise ParetuneError(f"mean and std need one number per channel each, got {self.mean} and {self.std}")
        if not all(0 < number < float("inf") for number in self.std or ()):
            raise ParetuneError(f"std divides, so each of its numbers must be above 0; got {list(self.std or ())}")
        whole("task.data.batch", self.batch, 1)

    def __len__(self) -> int:
        return len(self.rows)

    def steps(self) -> int:
        """How many training batches one epoch has."""
        return max(1, len(self) // self.batch)

    def batches(self, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """See `tasks.task.Split`: clean and in order for None, shuffled and augmented by a seed.

        The last incomplete training batch is dropped if there is a full one, so that batch-norm statistics never come
        from a handful of images.
        """
        places, mirrored = self._drawn(seed)
        flips = torch.split(mirrored, self.batch)
        with closing(self.reader.read(self._keys(self.rows[places], seed))) as pairs:
            for number, (inputs, targets) in enumerate(pairs):
                check_labels(targets, self.classes)
                ready = self._ready(inputs)
                if seed is not None and self.flip:
                    flip = flips[number].to(self.device)[:, None, None, None]
                    ready = torch.where(flip, ready.flip(3), ready)
                yield ready, self._moved(targets)

    def _keys(self, rows: Rows, seed: int | None) -> Iterator[list[Key]]:
        for start in range(0, len(rows), self.batch):
            yield [(row, seed) for row in rows[start : start + self.batch].tolist()]

    def _drawn(self, seed: int | None) -> tuple[Rows, Tensor]:
        """A pass's samples in order, and whether each is mirrored."""
        if seed is None:
            return np.arange(len(self)), torch.zeros(len(self), dtype=torch.bool)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator)[: self.batch * self.steps()]
        return order.numpy(), torch.rand(len(order), generator=generator) < 0.5

    def _ready(self, inputs: Tensor) -> Tensor:
        moved = self._moved(inputs)
        if moved.dtype != torch.uint8:
            return moved
        if self.mean is None:
            return moved.to(torch.float32).div_(255)
        if len(self.mean) != moved.shape[1]:
            raise ParetuneError(f"mean has {len(self.mean)} numbers, the images have {moved.shape[1]} channels")
        mean, std = (torch.tensor(n, device=self.device)[:, None, None] for n in (self.mean, self.std))
        return normalised(moved, mean, std)

    def _moved(self, tensor: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)


def worker_count(workers: object) -> int:
    """How many processes `workers` means: a whole number, or "auto" for one per core, 8 at most.

    Raises:
        ParetuneError: neither.
    """
    if workers == "auto":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(MOST_WORKERS, cores)
    if type(workers) is not int or workers < 0:
        raise ParetuneError(f"task.data.workers must be auto or a whole number, 0 or more, got {workers!r}")
    return workers
