"""What task.data describes, in three roles: images in memory, read by workers, or your own loaders."""

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from math import isfinite
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from paretune.errors import ParetuneError, pick
from paretune.tasks.images import Images
from paretune.tasks.labels import check_labels
from paretune.tasks.own import Loaded
from paretune.tasks.raw import Unread
from paretune.tasks.roles import check_trained_on, roles_of
from paretune.tasks.sources import SOURCES, Arrays, Raw, Three
from paretune.tasks.streamed import Streamed
from paretune.tasks.target import check_known
from paretune.tasks.task import Split

OF_DATA = ("source", "mean", "std", "batch", "pad", "flip")
OF_ROLES = ("val", "val_share", "train_images", "val_images", "seed")
AnySplit = Images | Streamed | Loaded
SomeSplit = TypeVar("SomeSplit", bound=Split)


class Splits(NamedTuple):
    """Three roles, in words as well; `classes` is their number, or None where nobody says, then at least `least`."""

    train: AnySplit
    val: AnySplit
    test: AnySplit
    words: Mapping[str, str]
    classes: int | None
    least: int


def labelled(split: SomeSplit, classes: int) -> SomeSplit:
    """`split`, in which a label that numbers none of `classes` is an error: now where labels are known, else when its
    batch is read.

    Raises:
        ParetuneError: there is one.
    """
    if isinstance(split, Images | Streamed):
        check_labels(torch.as_tensor(split.targets), classes)
    return replace(split, classes=classes) if isinstance(split, Loaded | Streamed) else split


def splits_of(data: Mapping[str, Any], trained_on: str | None, device: torch.device) -> Splits:
    """The roles of task.data for weights that have seen `trained_on`: see `paretune.tasks.roles`.

    Raises:
        ParetuneError: a setting that is unknown, missing or cannot be; images that cannot be read.
    """
    found = _found(data)
    if isinstance(found, Raw):
        return _of_raw(found, trained_on, data, device)
    return _of_three(found, trained_on, data, device)


def _found(data: Mapping[str, Any]) -> Raw | Three:
    make = pick(SOURCES, str(data.get("source")), "source of images")
    rest = {key: value for key, value in data.items() if key not in (*OF_DATA, *OF_ROLES) and value is not None}
    check_known(make, rest)
    for name, parameter in signature(make).parameters.items():
        if parameter.default is parameter.empty and name not in rest:
            raise ParetuneError(f"task.data.{name} is missing; images from '{data.get('source')}' need it")
    return make(**rest)


def _of_raw(raw: Raw, trained_on: str | None, data: Mapping[str, Any], device: torch.device) -> Splits:
    """Splits of a training and a test part, in honest roles."""
    train, test = _part(raw.train, "training"), _part(raw.test, "test")
    given = {key: data[key] for key in OF_ROLES if data.get(key) is not None}
    roles = roles_of(train.targets, test.targets, trained_on=trained_on, **given)
    settings = _settings(data)
    parts = train.part(roles.train), (test if roles.val_of == "test" else train).part(roles.val), test.part(roles.test)
    train_split, val, test_split = (_split(part, settings, device) for part in parts)
    left_out = {"left out": "; ".join(raw.notes)} if raw.notes else {}
    words = {**roles.words, **({"images": raw.how} if raw.how else {}), **left_out}
    count = len(raw.classes)
    return Splits(train_split, val, test_split, words, None if raw.guessed else count, count)


def _part(given: Arrays | Unread | None, which: str) -> Arrays | Unread:
    if given is None:
        raise ParetuneError(f"task.data has no {which} images; a task needs training and test images")
    return given


def _settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """Batches and the normalisation that the weights were trained with; none where your own transforms do that."""
    given = {key: data[key] for key in ("batch", "pad", "flip") if data.get(key) is not None}
    own = data.get("source") == "module"
    for key in ("mean", "std", "pad", "flip") if own else ():
        if data.get(key) is not None:
            raise ParetuneError(f"task.data.{key} is not for data=module, whose own transforms do that; leave it out")
    if not isinstance(given.get("flip", True), bool):
        raise ParetuneError(f"task.data.flip must be true or false, got {given['flip']!r}")
    for key in () if own else ("mean", "std"):
        if data.get(key) is None:
            raise ParetuneError(f"task.data.{key} is missing: a number per channel, as the weights were trained with")
        numbers = data[key]
        plain = isinstance(numbers, list | tuple) and all(type(one) in (int, float) for one in numbers)
        if not plain or not all(map(isfinite, numbers)):
            raise ParetuneError(f"task.data.{key} must be a list of numbers, one per channel, got {data[key]!r}")
        given[key] = tuple(map(float, data[key]))
    return {"flip": False, **given} if own else given


def _split(part: Arrays | Unread, settings: Mapping[str, Any], device: torch.device) -> Images | Streamed:
    if isinstance(part, Unread):
        settings, pad = {key: value for key, value in settings.items() if key != "pad"}, settings.get("pad")
        if pad:
            raise ParetuneError(
                f"task.data.pad={pad} is for images in memory and not used by workers, whose training crops are "
                "task.data.crop; set task.data.pad=0"
            )
        return Streamed(reader=part.reader, rows=part.rows, targets=part.targets, device=device, **settings)
    pixels = torch.from_numpy(np.ascontiguousarray(part.pixels.transpose(0, 3, 1, 2)))
    return Images(pixels=pixels, targets=torch.from_numpy(part.targets), **settings).to(str(device))


def _of_three(three: Three, trained_on: str | None, data: Mapping[str, Any], device: torch.device) -> Splits:
    """Your own three parts in the roles that you say."""
    check_trained_on(trained_on)
    settings = _settings(data)
    for key, plain in (("val", "auto"), ("train_images", None), ("val_images", None)):
        if data.get(key) not in (plain, None):
            raise ParetuneError(f"task.data.{key}: the three parts of your data are its roles; leave it out")
    splits = (_split(one, settings, device) if isinstance(one, Unread) else Loaded(one, device) for one in three)
    train, val, test = splits
    words = {
        role: f"{len(split):,} samples, your own choice"
        for role, split in (("train", train), ("val", val), ("test", test))
    }
    least = max((int(one.targets.max()) + 1 for one in three if isinstance(one, Unread)), default=1)
    seen = "all training samples" if trained_on == "train" else "no val or test samples"
    return Splits(train, val, test, {**words, "weights": f"have seen {seen} (trained_on={trained_on})"}, None, least)
