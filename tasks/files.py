"""Image files that worker processes decode while they are needed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from paretune.errors import ParetuneError, first_line
from paretune.tasks.pictures import Span, as_pixels, cut_pixels, shape_of
from paretune.tasks.raw import Raw, Unread
from paretune.tasks.streamed import Reader, worker_count

CROP = (0.08, 1.0)  # the share of the area in ImageNet's usual recipe
LOOKED_AT = 256  # files that are decoded beforehand
DOUBT = 0.001  # so improbable must the broken ones among them be to be too many


class Listed(NamedTuple):
    """Image files by name in the root, with their sizes in bytes and their classes."""

    names: list[str]
    sizes: list[int]
    labels: list[int]


class View(NamedTuple):
    """What workers make of an image: the middle square of `size` where its short side is `resize`, and in training a
    random part with a share of its area in `crop`, scaled to that square.
    """

    size: int
    resize: int
    crop: Span
    workers: int


def view_of(size: int | None, resize: object, crop: object, workers: object, *, needed: bool) -> View | None:
    """The view with defaults, `resize` 256/224 of `size`; None without a `size`, unless it is `needed`.

    Raises:
        ParetuneError: a setting that is missing or out of its range.
    """
    count = worker_count(workers)
    if size is None and (needed or crop is not None):
        raise ParetuneError(
            "task.data.size is missing: load=workers and task.data.crop cut every image to it, to 224 for most networks"
        )
    if size is None:
        if resize is not None:
            raise ParetuneError("task.data.resize needs task.data.size, the square that is cut out afterwards")
        return None
    side = round(size * 256 / 224) if resize is None else resize
    if type(side) is not int or side < size:
        raise ParetuneError(f"task.data.resize must be a whole number, task.data.size={size} or more, got {resize!r}")
    return View(size, side, _span(crop), count)


def _span(crop: object) -> Span:
    if crop is None:
        return CROP
    numbers = crop if isinstance(crop, list | tuple) else ()
    if len(numbers) != 2 or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers):
        numbers = (0, 0)
    if not 0 < numbers[0] <= numbers[1] <= 1:
        raise ParetuneError(f"task.data.crop must be [low, high], shares of the area in (0, 1], got {crop!r}")
    return float(numbers[0]), float(numbers[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Image files as samples: bytes (channels, size, size), grey (1) or in colour (3).

    `names` (n,) are encoded, below `root`, and one array: of a million Python objects every worker would end up with a
    copy, since counting references writes to them.
    """

    root: str
    names: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    view: View
    channels: int = 3

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        """Its path below the root."""
        return bytes(self.names[row]).decode("utf-8", "surrogateescape")

    def read(self, row: int, seed: int | None) -> tuple[Tensor, int]:
        """See `Samples`; more than 8 bits, or colours where all should be grey, are errors."""
        with Image.open(f"{self.root}/{self.name(row)}") as image:
            if shape_of(image, None)[2] > self.channels:
                raise ValueError("in colour, the images that were looked at beforehand are all grey")
            if seed is None:
                pixels = as_pixels(image, self.channels, self.view.size, self.view.resize)
            else:
                chance = np.random.default_rng([seed % 2**64, row])
                pixels = cut_pixels(image, self.channels, self.view.size, self.view.crop, chance)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), int(self.labels[row])

    def identity(self, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        """Names, sizes in bytes and classes of the files, and what is made of them for evaluation."""
        yield torch.from_numpy(self.names[rows].view(np.uint8))
        yield torch.from_numpy(np.stack([self.sizes[rows], self.labels[rows]]))
        yield torch.tensor([self.view.size, self.view.resize, self.channels])

    def only(self, rows: NDArray[np.int64], channels: int) -> "Pictures":
        """Those at `rows`, with so many channels."""
        return Pictures(
            root=self.root, names=self.names[rows], sizes=self.sizes[rows], labels=self.labels[rows], view=self.view,
            channels=channels,
        )  # fmt: skip


def streamed(
    root: Path, parts: Mapping[str, Listed], classes: tuple[str, ...], view: View, corrupt: float,
    notes: tuple[str, ...],
) -> Raw:  # fmt: skip
    """The files of the training and the test part, unread but for a check of some.

    A fixed random choice of `LOOKED_AT` of them (all, if there are fewer) is decoded: broken ones are left out, and if
    there are too many to be the share `corrupt` of all by chance, that is an error now. The others are found when they
    are read (see `paretune.tasks.streamed.Reader`).

    Raises:
        ParetuneError: too many broken images, or a part with no others.
    """
    names = [name.encode("utf-8", "surrogateescape") for part in parts.values() for name in part.names]
    everything = Pictures(
        root=str(root), names=np.array(names), view=view,
        sizes=np.array([size for part in parts.values() for size in part.sizes], dtype=np.int64),
        labels=np.array([label for part in parts.values() for label in part.labels], dtype=np.int64),
    )  # fmt: skip
    bad, channels, looked_at = _looked_at(everything)
    _check_bad(everything, bad, looked_at, corrupt)
    kept = np.setdiff1d(np.arange(len(everything)), [*bad], assume_unique=True)
    reader = Reader(everything.only(kept, channels), workers=view.workers, corrupt=corrupt, lost=len(bad))
    first = len(next(iter(parts.values())).names)
    unread = []
    for name, inside in zip(parts, (kept < first, kept >= first), strict=True):
        rows = np.flatnonzero(inside)
        if not len(rows):
            raise ParetuneError(f"data: no image of {name} can be read; at least one is needed")
        unread.append(Unread(reader=reader, rows=rows, targets=everything.labels[kept[rows]]))
    if bad:
        found = f"{len(bad)} of {looked_at:,} images looked at cannot be read, first {everything.name(min(bad))}"
        notes += (found,)
    return Raw(train=unread[0], test=unread[1], classes=classes, notes=notes, how=_how(view))


def _looked_at(pictures: Pictures) -> tuple[dict[int, str], int, int]:
    """Which rows of a sample cannot be read and why, the channels of the others, and how many were looked at."""
    rows = np.sort(np.random.default_rng(0).permutation(len(pictures))[:LOOKED_AT])
    bad: dict[int, str] = {}
    channels = 1
    for row in rows.tolist():
        try:
            with Image.open(f"{pictures.root}/{pictures.name(row)}") as image:
                found = shape_of(image, None)[2]
                image.load()
            channels = max(channels, found)
        except Exception as error:  # whatever its decoder stumbles on
            bad[row] = first_line(error)
    return bad, channels, len(rows)


def _check_bad(pictures: Pictures, bad: Mapping[int, str], looked_at: int, corrupt: float) -> None:
    whole = looked_at == len(pictures)
    if len(bad) > corrupt * looked_at and (whole or _tail(len(bad), looked_at, corrupt) < DOUBT):
        first = ", ".join(pictures.name(row) for row in sorted(bad)[:3])
        what = f"{len(bad)} of {looked_at:,} images" + ("" if whole else " looked at")
        raise ParetuneError(
            f"data: {what} cannot be read, more than the share task.data.corrupt={corrupt}: {first} ({bad[min(bad)]}); "
            "mend or remove them"
        )


def _tail(bad: int, count: int, share: float) -> float:
    """How probable `bad` or more of `count` are, each with probability `share`."""
    return sum(comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(bad, count + 1))


def _how(view: View) -> str:
    low, high = view.crop
    part = f"for training {low:g} to {high:g} of the area, scaled to {view.size}"
    return f"read while they are needed: short side {view.resize}, middle {view.size}; {part}"
