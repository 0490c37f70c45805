"""Image files and PIL images as bytes (height, width, channels), brought to one shape."""

from collections.abc import Iterable, Mapping, Sequence
from math import isqrt, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paretune.errors import ParetuneError, first_line

Shape = tuple[int, int, int]  # height, width, channels
Bytes = NDArray[np.uint8]
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LIMIT_BYTES = 4 * 2**30


def picture_files(folder: Path) -> list[Path]:
    """The image files in `folder` and below, by suffix and sorted; hidden ones are left out."""
    seen = ((path, path.relative_to(folder).parts) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path, parts in seen if not any(part.startswith(".") for part in parts) and path.is_file())


def shape_of(image: Image.Image, size: int | None) -> Shape:
    """What `as_pixels` makes of `image`, known without decoding it: one channel for grey, three for all others.

    Raises:
        ValueError: more than 8 bits per channel.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode}, 8 bits per channel are needed")
    channels = 1 if image.mode in ("1", "L", "LA", "La") else 3
    return (size or image.height, size or image.width, channels)


def as_pixels(image: Image.Image, channels: int, size: int | None) -> Bytes:
    """Bytes (height, width, channels) of `image`, made a square of `size` where one is given; transparency is dropped.

    The short side is scaled to `size` (bilinear) and the middle cut out, as torchvision's Resize(size) and
    CenterCrop(size) do. Published ImageNet networks were scored after Resize(256) and CenterCrop(224), which cuts more
    off: their published scores do not come out of this to the last digit.
    """
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB Pillow warns about transparency
    image = image.convert("L" if channels == 1 else "RGB")
    array = np.asarray(image if size is None else _square(image, size), dtype=np.uint8)
    return array.reshape(*array.shape[:2], channels)


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
    files: Sequence[tuple[Path, int]], shape: Shape, size: int | None
) -> tuple[Bytes, NDArray[np.int64], dict[Path, str]]:
    """Bytes (n, *shape) and labels (n,) of the files that can be read, in their order, and why the others cannot."""
    pixels = np.empty((len(files), *shape), dtype=np.uint8)
    labels: list[int] = []
    bad: dict[Path, str] = {}
    for path, label in files:
        try:
            with Image.open(path) as image:
                pixels[len(labels)] = as_pixels(image, shape[2], size)
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
        if type(number) is not int or number < 1:
            raise ParetuneError(f"task.data.{key} must be a whole number, 1 or more, got {number!r}")


def _square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    scaled = (int(size * width / short), int(size * height / short))
    image = image if short == size else image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))
