"""The data sets of torchvision that give an image and a class number, in memory."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paretune.errors import ParetuneError, first_line, pick
from paretune.tasks.pictures import LIMIT_BYTES, Shape, as_pixels, check_bytes, check_settings, one_shape, shape_of
from paretune.tasks.raw import Arrays, Raw, checked, raw_of
from paretune.tasks.target import text
from paretune.tasks.torchvision_models import torchvision_datasets

TEST_NAMES = ("test", "val", "valid")  # the first one that it has is the test set


def from_torchvision(
    name: str, root: str, download: bool = False, size: int | None = None, limit_bytes: int = LIMIT_BYTES
) -> Raw:
    """A data set of torchvision.datasets, such as CIFAR10, that gives (PIL image, class number) in two parts.

    Its class takes train=True/False, or split="train" and "test" (or "val"). `root` is the folder that holds it or that
    it is downloaded into. See `from_folder` for `size` and `limit_bytes`.

    Raises:
        ParetuneError: no such data set, it is not in `root` or cannot be downloaded, or it holds something else.
    """
    text("task.data.name", name)
    text("task.data.root", root)
    check_settings(size, limit_bytes)
    known = _of_torchvision()
    make = pick(known, {key.lower(): key for key in known}.get(name.lower(), name), "data set of torchvision")
    train, _ = _part(make, root, download, ("train",))
    test, split = _part(make, root, download, TEST_NAMES)
    notes = () if split == "test" else (f"the test images are those of split={split}",)
    shape = _sample(f"{make.__name__}'s train", train, 0, size)[2]
    check_bytes(len(train) + len(test), shape, limit_bytes)
    arrays = [
        _gathered(f"{make.__name__}'s {part}", held, shape, size) for part, held in (("train", train), ("test", test))
    ]
    return raw_of(arrays[0], arrays[1], getattr(train, "classes", ()), notes)


def _of_torchvision() -> dict[str, Callable[..., Any]]:
    """By name, those made for an image and a label in a training and another part."""
    known = {}
    for name, held in vars(torchvision_datasets()).items():
        takes = inspect.signature(held).parameters if inspect.isclass(held) else {}
        if {"root", "target_transform"} <= set(takes) and {"train", "split"} & set(takes):
            known[name] = held
    return known


def _part(make: Callable[..., Any], root: str, download: bool, names: tuple[str, ...]) -> tuple[Any, str]:
    """The part with the first of `names` that there is, and that name."""
    what, takes = f"torchvision's {make.__name__}", inspect.signature(make).parameters
    settings: dict[str, Any] = {"root": str(Path(root).expanduser())}
    if "download" in takes:
        settings["download"] = bool(download)
    for name in names:
        settings |= {"train": name == "train"} if "train" in takes else {"split": name}
        try:
            return make(**settings), name
        except ValueError as error:  # it has no split of that name
            if name == names[-1]:
                raise ParetuneError(f"data: {what} cannot be read ({first_line(error)})") from error
        except Exception as error:  # urllib's, pickle's, zipfile's, its own: each means the same here
            raise ParetuneError(_absent(what, str(root), download, "download" in takes, error)) from error
    raise AssertionError("at least one name")


def _absent(what: str, root: str, asked: bool, possible: bool, error: Exception) -> str:
    line = first_line(error)
    if not possible:
        return f"data: {what} cannot be read from {root} ({line}); torchvision does not download it, put it there"
    if asked:
        return f"data: {what} cannot be downloaded into {root} ({line}); put its files there, or use data=npz"
    return f"data: {what} is not in {root} ({line}); set task.data.download=true, or task.data.root to where it is"


def _sample(what: str, part: Any, index: int, size: int | None) -> tuple[Image.Image, int, Shape]:
    try:
        image, label = part[index]
        if isinstance(image, Image.Image) and isinstance(label, int | np.integer):
            return image, int(label), shape_of(image, size)
    except Exception as error:  # whatever the image's decoder or the data set stumbles on
        raise ParetuneError(f"data: {what} image {index} cannot be read ({first_line(error)})") from error
    raise ParetuneError(
        f"data: {what} image {index} is a {type(image).__name__} with a {type(label).__name__}; needed are a PIL image "
        "and a class number"
    )


def _gathered(what: str, part: Any, shape: Shape, size: int | None) -> Arrays:
    pixels, labels = np.empty((len(part), *shape), dtype=np.uint8), np.empty(len(part), dtype=np.int64)
    for index in range(len(part)):
        image, labels[index], found = _sample(what, part, index, size)
        if one_shape({f"{what} image 0": shape, f"{what} image {index}": found}) != shape:
            raise ParetuneError(f"data: {what} image {index} is in colour and the first one grey; needed is one kind")
        pixels[index] = as_pixels(image, shape[2], size)
    return checked(pixels, labels, what)
