"""Your own data: two or three data sets that workers read, or three loaders, from a callable of yours."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from paretune.errors import ParetuneError, first_line
from paretune.tasks.pictures import as_pixels, shape_of
from paretune.tasks.raw import MOST_CLASSES, Raw, Unread
from paretune.tasks.streamed import Key, Reader, worker_count
from paretune.tasks.target import check_bound, imported, text
from paretune.tasks.torchvision_models import torchvision_datasets

NAMES = ("train", "val", "test")
COMPARED = 16  # samples that tell data sets apart
COUNTED = 64  # samples per batch of the pass that finds the class numbers
WANTED = "two data sets (train, test) or three data sets or loaders (train, val, test)"


class Three(NamedTuple):
    """Data whose roles are their maker's word: loaders of (inputs, targets) batches, or samples yet to be read."""

    train: Iterable[Any] | Unread
    val: Iterable[Any] | Unread
    test: Iterable[Any] | Unread


def from_module(target: str, arguments: Mapping[str, Any] | None = None, workers: object = "auto") -> Raw | Three:
    """What the callable `target` ("my_package.my_data.make") returns for `arguments`, by keyword.

    Data sets have a length and give (image, class number) by number: a float tensor as the network takes it, bytes
    (channels, height, width) or a PIL image, which both become numbers in [0, 1]. `workers` processes read them through
    their own transforms; before each sample the generators of Python, NumPy and PyTorch are seeded. Two are a training
    and a test part, of which the roles are made; class numbers come from `targets` where the data set has it, else from
    one pass. Three data sets or loaders are in the roles that you say.

    Raises:
        ParetuneError: a target that cannot be imported or called, or what it returns is something else or empty.
    """
    text("task.data.target", target)
    count = worker_count(workers)
    with suppress(ParetuneError):  # your transforms are torchvision's as a rule; its wheel may lack operators till now
        torchvision_datasets()
    make: Callable[..., Any] = _tried(target, lambda: imported(target, "data.target"))
    if arguments is not None and not isinstance(arguments, Mapping):
        raise ParetuneError(f"task.data.arguments must be names and values, got {arguments!r}")
    check_bound(make, arguments or {})
    made = _tried(target, lambda: make(**(arguments or {})))
    if not isinstance(made, list | tuple) or len(made) not in (2, 3):
        got = f"{len(made)} things" if isinstance(made, list | tuple) else f"a {type(made).__name__}"
        raise ParetuneError(f"task.data.target {target} must return {WANTED}, not {got}")
    names = NAMES if len(made) == 3 else ("train", "test")
    told = dict(zip(names, made, strict=True))
    if all(_numbered(one) for one in made) and (len(made) == 2 or all(isinstance(one, Dataset) for one in made)):
        unread = _unread(target, told, count)
        return _raw(unread["train"], unread["test"], made) if len(made) == 2 else Three(**unread)
    if len(made) == 2:
        kinds = " and ".join(type(one).__name__ for one in made)
        raise ParetuneError(f"task.data.target {target} must return {WANTED}, not two of {kinds}")
    for name, loader in told.items():
        _check_loader(f"task.data.target {target}: the {name} loader", loader)
    return Three(**told)


def _tried(target: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ParetuneError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {first_line(error)}"
        raise ParetuneError(f"task.data.target {target} failed ({told})") from error


def _numbered(found: object) -> bool:
    return (
        hasattr(found, "__getitem__")
        and hasattr(found, "__len__")
        and not isinstance(found, Iterator | DataLoader | IterableDataset | Mapping)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnSamples:
    """Data sets one behind the other as samples; `names` are theirs."""

    names: tuple[str, ...]
    sets: tuple[Any, ...]

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    def name(self, row: int) -> str:
        """Its data set and its number there, from 0."""
        part, number = self._place(row)
        return f"sample {number} of {self.names[part]}"

    def read(self, row: int, seed: int | None) -> tuple[Tensor, int]:
        """See `Samples`; anything but an image and a class number is an error."""
        part, number = self._place(row)
        with _seeded([] if seed is None else [seed % 2**64], row):
            sample = self.sets[part][number]
        if not isinstance(sample, list | tuple) or len(sample) != 2:
            raise ValueError(f"a {type(sample).__name__}, needed are an image and a class number")
        return _image(sample[0]), _label(sample[1])

    def identity(self, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        """The first inputs that are the same when they are read twice, and how many there are.

        Raises:
            ParetuneError: one cannot be read.
        """
        yield torch.tensor([len(rows)])
        for row in rows[:COMPARED].tolist():
            try:
                one, other = self.read(row, None)[0], self.read(row, None)[0]
            except Exception as error:  # the user's own code may raise anything
                raise ParetuneError(f"data: {self.name(row)} cannot be read ({first_line(error)}); mend it") from error
            if torch.equal(one, other):
                yield one

    def _place(self, row: int) -> tuple[int, int]:
        for part, held in enumerate(self.sets):
            if row < len(held):
                return part, row
            row -= len(held)
        raise IndexError(row)


@contextmanager
def _seeded(seed: list[int], row: int) -> Iterator[None]:
    """Inside, what the three usual generators give depends on these numbers only; afterwards they go on as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    number = int(np.random.SeedSequence([*seed, row]).generate_state(1)[0])
    try:
        random.seed(number)
        np.random.seed(number)
        torch.default_generator.manual_seed(number)  # torch.manual_seed would reach for the GPU
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _image(found: object) -> Tensor:
    if isinstance(found, Image.Image):
        return torch.from_numpy(as_pixels(found, shape_of(found, None)[2], None).transpose(2, 0, 1).copy())
    if not isinstance(found, Tensor) or (found.dtype != torch.uint8 and not found.is_floating_point()):
        kind = f"tensor of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"the image is a {kind}; needed is a PIL image or a tensor of floats or bytes")
    return found.detach().cpu()


def _label(found: object) -> int:
    if isinstance(found, Tensor | np.ndarray) and found.ndim == 0:
        found = found.item()
    if isinstance(found, bool) or not isinstance(found, int | np.integer) or not 0 <= found < MOST_CLASSES:
        raise ValueError(f"the class is {found!r}; needed is a whole number, counted from 0")
    return int(found)


def _unread(target: str, sets: Mapping[str, Any], workers: int) -> dict[str, Unread]:
    for name, held in sets.items():
        if not len(held):
            raise ParetuneError(f"task.data.target {target}: the {name} data set is empty")
    samples = OwnSamples(names=tuple(sets), sets=tuple(sets.values()))
    reader, start, found = Reader(samples, workers=workers), 0, {}
    for name, held in sets.items():
        rows = np.arange(start, start + len(held))
        start += len(held)
        targets = _targets(held)
        if targets is None:
            keys: list[Key] = [(row, None) for row in rows.tolist()]
            batches = (keys[first : first + COUNTED] for first in range(0, len(keys), COUNTED))
            targets = torch.cat([labels for _, labels in reader.read(batches)]).numpy()
        elif targets.shape != rows.shape or targets.min() < 0 or targets.max() >= MOST_CLASSES:
            raise ParetuneError(f"task.data.target {target}: `targets` of {name} must be {len(rows)} numbers from 0")
        found[name] = Unread(reader=reader, rows=rows, targets=targets)
    return found


def _targets(held: Any) -> NDArray[np.int64] | None:
    """The class numbers that a data set keeps, if it gives out just these."""
    if getattr(held, "targets", None) is None or getattr(held, "target_transform", None) is not None:
        return None
    try:
        targets = np.asarray(held.targets)
    except ValueError:  # ragged
        return None
    return targets.astype(np.int64) if targets.dtype.kind in "iu" else None


def _raw(train: Unread, test: Unread, sets: Iterable[Any]) -> Raw:
    count = int(max(train.targets.max(), test.targets.max())) + 1
    names = tuple(map(str, next((held.classes for held in sets if hasattr(held, "classes")), ())))
    return Raw(
        train=train, test=test, classes=names if len(names) >= count else tuple(map(str, range(count))),
        how="read while they are needed, through the transforms of the data set that they are from",
        guessed=len(names) < count,
    )  # fmt: skip


def _check_loader(what: str, loader: Any) -> None:
    if isinstance(loader, Iterator):
        raise ParetuneError(f"{what} can be read only once; give a DataLoader or a list")
    if not isinstance(loader, Iterable):
        raise ParetuneError(f"{what} is a {type(loader).__name__}; needed are (inputs, targets) batches")
    for batch in loader:
        pair = batch if isinstance(batch, list | tuple) and len(batch) == 2 else ()
        if not pair or not all(isinstance(one, Tensor) and one.ndim for one in pair) or len(pair[0]) != len(pair[1]):
            raise ParetuneError(f"{what} gives a {type(batch).__name__}; needed are (inputs, targets) batches")
        return
    raise ParetuneError(f"{what} is empty")
