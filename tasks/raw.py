"""Labelled images as they came: bytes or what is yet to be read, and class numbers, in two parts, checked."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paretune.errors import ParetuneError
from paretune.tasks.streamed import Reader

MOST_CLASSES = 1_000_000  # a label above it is no class number


class Arrays(NamedTuple):
    """Bytes (n, height, width, channels) and class numbers (n,) from 0."""

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]

    def part(self, rows: NDArray[np.int64]) -> "Arrays":
        """Those at `rows`, in that order."""
        return Arrays(self.pixels[rows], self.targets[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class Unread:
    """Samples that are read while they are needed: which `rows` (n,) of `reader`, and class numbers (n,) from 0."""

    reader: Reader
    rows: NDArray[np.int64]
    targets: NDArray[np.int64]

    def part(self, rows: NDArray[np.int64]) -> "Unread":
        """Those at `rows`, in that order."""
        return replace(self, rows=self.rows[rows], targets=self.targets[rows])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Raw:
    """Images as they came, both parts of one kind, arrays of one shape; a class may occur in neither.

    `classes` are the names by number; `guessed` if they are only counted up to the largest label. `notes`
    say in words what was left out, `how` the same of how the images are read, where that is not plain.
    """

    train: Arrays | Unread | None
    test: Arrays | Unread | None
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    how: str = ""
    guessed: bool = False


def raw_of(train: Arrays, test: Arrays, classes: Iterable[object], notes: tuple[str, ...] = ()) -> Raw:
    """Both parts together; numbers for the names where `classes` has none for the largest label.

    Raises:
        ParetuneError: the parts have images of different shapes.
    """
    one, other = ("×".join(map(str, part.pixels.shape[1:])) for part in (train, test))
    if one != other:
        raise ParetuneError(
            f"data: train images are {one} and test images {other} (height×width×channels); both need one shape"
        )
    names = tuple(map(str, classes))
    count = int(max(train.targets.max(), test.targets.max())) + 1
    guessed = len(names) < count
    if guessed:
        names = tuple(map(str, range(count)))
    return Raw(train=train, test=test, classes=names, notes=notes, guessed=guessed)


def checked(pixels: NDArray[Any], labels: NDArray[Any], part: str) -> Arrays:
    """A part from images (n, h, w) or (n, h, w, c) and labels (n,); `part` is its name in messages.

    Raises:
        ParetuneError: another type or shape, other lengths, none at all, or labels that number no classes.
    """
    x, y = f"data: the images of {part}", f"data: the labels of {part}"
    if pixels.dtype != np.uint8:
        raise ParetuneError(f"{x} are {pixels.dtype}; needed are uint8, pixels from 0 to 255")
    if pixels.ndim not in (3, 4):
        raise ParetuneError(f"{x} have the shape {pixels.shape}; needed is (n, height, width, channels)")
    pixels = pixels if pixels.ndim == 4 else pixels[..., None]
    if pixels.shape[1] <= 4 < pixels.shape[3]:
        raise ParetuneError(f"{x} have the shape {pixels.shape}, channels first; needed is x.transpose(0, 2, 3, 1)")
    if labels.ndim != 1:
        raise ParetuneError(f"{y} have the shape {labels.shape}; needed is one class number per image, (n,)")
    if len(pixels) != len(labels):
        raise ParetuneError(f"data: {part} has {len(pixels)} images and {len(labels)} labels; both need one length")
    if not pixels.size:
        raise ParetuneError(f"{x} have the shape {pixels.shape}: there are none; at least one is needed")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= MOST_CLASSES:
        odd = f"{labels.dtype}" if labels.dtype.kind not in "iu" else f"from {labels.min()} to {labels.max()}"
        raise ParetuneError(f"{y} are {odd}; needed are whole numbers, classes counted from 0")
    return Arrays(pixels, labels.astype(np.int64))
