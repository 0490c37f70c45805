"""Image files and PIL images as bytes (height, width, channels), brought to one shape."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import exp, isqrt, log, prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paretune.errors import ParetuneError, first_line
from paretune.tasks.target import whole

Shape = tuple[int, int, int]  # height, width, channels
Span = tuple[float, float]
Bytes = NDArray[np.uint8]
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LIMIT_BYTES = 4 * 2**30


def picture_files(folder: Path) -> list[tuple[str, int]]:
    """Name and bytes of the image files in `folder` and below, by suffix and sorted; hidden ones are left out."""
    return sorted(_walked(str(folder), ""), key=lambda found: found[0].split("/"))


def _walked(folder: str, inside: str) -> Iterator[tuple[str, int]]:
    # Not Path.rglob, which makes a Path of every file.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walked(entry.path, f"{inside}{entry.name}/")
            elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                yield inside + entry.name, entry.stat().st_size


def shape_of(image: Image.Image, size: int | None) -> Shape:
    """What `as_pixels` makes of `image`, known without decoding it: one channel for grey, three for all others.

    Raises:
        ValueError: more than 8 bits per channel.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode}, 8 bits per channel are needed")
    channels = 1 if image.mode in ("1", "L", "LA", "La") else 3
    return (size or image.height, size or image.width, channels)


def as_pixels(image: Image.Image, channels: int, size: int | None, resize: int | None = None) -> Bytes:
    """Bytes (height, width, channels) of `image`, made a square of `size` where one is given; transparency is dropped.

    The short side is scaled to `resize` (bilinear; without it to `size`) and the middle cut out, as torchvision's
    Resize(resize) and CenterCrop(size) do. Published ImageNet networks were scored after Resize(256) and
    CenterCrop(224), which cuts more off than Resize(224).
    """
    image = _of_channels(image, channels)
    return _bytes(image if size is None else _middle(image, size, resize or size), channels)


def cut_pixels(image: Image.Image, channels: int, size: int, crop: Span, chance: np.random.Generator) -> Bytes:
    """Bytes (size, size, channels) of a random part of `image`, see `random_box`, scaled as torchvision scales it."""
    image = _of_channels(image, channels)
    part = image.crop(random_box(image.width, image.height, crop, chance))
    return _bytes(part.resize((size, size), Image.Resampling.BILINEAR), channels)


def random_box(width: int, height: int, crop: Span, chance: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random part: a share of the area in `crop`, its width 3/4 to 4/3 of its height.

    If ten tries do not fit, the largest part in the middle whose sides are of that ratio (Szegedy et al. 2015,
    https://arxiv.org/abs/1409.4842, as torchvision's RandomResizedCrop does it).
    """
    for _ in range(10):
        area = width * height * chance.uniform(*crop)
        ratio = exp(chance.uniform(log(3 / 4), log(4 / 3)))
        w, h = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(chance.integers(width - w + 1)), int(chance.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _of_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB Pillow warns about transparency
    return image.convert("L" if channels == 1 else "RGB")


def _bytes(image: Image.Image, channels: int) -> Bytes:
    array = np.asarray(image, dtype=np.uint8)
    return array.reshape(*array.shape[:2], channels)


def _middle(image: Image.Image, size: int, resize: int) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    scaled = (int(resize * width / short), int(resize * height / short))
    image = image if short == resize else image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def shapes(files: Iterable[Path], size: int | None) -> tuple[dict[Path, Shape], dict[Path, str]]:
    """The shape of each file that has a readable head, and why each other one has none."""
    good, bad = {}, {}
    for path in files:
        try:
            with Image.open(path) as image:
                good[path] = shape_of(image, size)
        except Exception as error:  # a broken file raises whatever its decoder stumbles on
            bad[path] = first_line(error)
    return good, bad


def decoded(
    files: Sequence[tuple[Path, int]], shape: Shape, size: int | None, resize: int | None = None
) -> tuple[Bytes, NDArray[np.int64], dict[Path, str]]:
    """Bytes (n, *shape) and labels (n,) of the files that can be read, in their order, and why the others cannot."""
    pixels = np.empty((len(files), *shape), dtype=np.uint8)
    labels: list[int] = []
    bad: dict[Path, str] = {}
    for path, label in files:
        try:
            with Image.open(path) as image:
                pixels[len(labels)] = as_pixels(image, shape[2], size, resize)
        except Exception as error:
            bad[path] = first_line(error)
        else:
            labels.append(label)
    return pixels[: len(labels)], np.array(labels, dtype=np.int64), bad


def one_shape(found: Mapping[str, Shape]) -> Shape:
    """The height and width that all images have, and three channels if any has; `found` is by name and not empty.

    Raises:
        ParetuneError: two sizes; the message names an image of each.
    """
    first, (height, width, _) = next(iter(found.items()))
    for name, (h, w, _) in found.items():
        if (h, w) != (height, width):
            raise ParetuneError(
                f"data: images of mixed size, {first} is {width}×{height} and {name} {w}×{h} (width × height); set "
                f"task.data.size={min(height, width, h, w)}, to which the short side is scaled and the middle cut out"
            )
    return height, width, max(channels for _, _, channels in found.values())


def check_bytes(images: int, shape: Shape, limit: int) -> None:
    """Nothing, if so many images of a shape fit into `limit` bytes.

    Raises:
        ParetuneError: they do not; says which side would.
    """
    need = images * prod(shape)
    if need > limit:
        side = isqrt(limit // (3 * images))
        smaller = f"task.data.size={side} or less" if side else "fewer images"
        raise ParetuneError(
            f"data: {images:,} images of {shape[1]}×{shape[0]} take {need:,} bytes of memory or more, allowed are "
            f"task.data.limit_bytes={limit:,}; {smaller} would fit"
        )


def check_settings(size: Any, limit_bytes: Any) -> None:
    """Nothing, if both are whole numbers from 1; `size` may also be None.

    Raises:
        ParetuneError: one is not.
    """
    for key, number in (("size", 1 if size is None else size), ("limit_bytes", limit_bytes)):
        whole(f"task.data.{key}", number, 1)
