"""Image classification from parts: a network with its trained weights, and images with their labels."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paretune.errors import ParetuneError, first_line, pick
from paretune.tasks.images import Images
from paretune.tasks.network import network
from paretune.tasks.roles import Roles, roles_of
from paretune.tasks.sources import SOURCES, Arrays, Raw
from paretune.tasks.target import check_known
from paretune.tasks.task import Task, fingerprint

OF_DATA = ("source", "mean", "std", "batch", "pad", "flip")
OF_ROLES = ("val", "val_share", "train_images", "val_images", "seed")


def classification(*, model: Mapping[str, Any], data: Mapping[str, Any], device: str = "cpu") -> Task:
    """A trained network and the images that it tells apart, both kept on `device`; images as bytes.

    `model` has `source` (a name in `paretune.tasks.bare.BARE`), `weights` (a file, or for torchvision a published set
    by name) and `trained_on` (see `paretune.tasks.roles`); the rest goes to the source. `data` has `source` (a name in
    `paretune.tasks.sources.SOURCES`), `mean` and `std` of pixels in [0, 1] by channel, `batch`, `pad` and `flip` of the
    training batches, what `roles_of` takes; the rest goes to the source.

    Raises:
        ParetuneError: a part that is unknown, missing or cannot be read; weights, classes or channels that do not fit.
    """
    net = network(model)
    raw = _raw(data)
    roles = roles_of(
        _arrays(raw.train, "training").targets, _arrays(raw.test, "test").targets, trained_on=model.get("trained_on"),
        **{key: data[key] for key in OF_ROLES if key in data},
    )  # fmt: skip
    splits = [split.to(device) for split in _splits(raw, roles, data)]
    net = net.to(device).eval()
    _check_outputs(net, splits[1], len(raw.classes))
    train, val, test = splits
    return Task(
        name="classification", model=net, train=train, val=val, test=test, device=torch.device(device),
        fingerprint=fingerprint(net, *(tensor for split in splits for tensor in _numbers(split))),
        origin={"name": "classification", "model": dict(model), "data": dict(data)},
        roles={**roles.words, **({"left out": "; ".join(raw.notes)} if raw.notes else {})},
    )  # fmt: skip


def _raw(data: Mapping[str, Any]) -> Raw:
    make = pick(SOURCES, str(data.get("source")), "source of images")
    rest = {key: value for key, value in data.items() if key not in (*OF_DATA, *OF_ROLES) and value is not None}
    check_known(make, rest)
    for name, parameter in signature(make).parameters.items():
        if parameter.default is parameter.empty and name not in rest:
            raise ParetuneError(f"task.data.{name} is missing; images from '{data.get('source')}' need it")
    return make(**rest)


def _arrays(given: Arrays | None, which: str) -> Arrays:
    if given is None:
        raise ParetuneError(f"task.data has no {which} images; a task needs training and test images")
    return given


def _splits(raw: Raw, roles: Roles, data: Mapping[str, Any]) -> tuple[Images, Images, Images]:
    """Train, val and test as bytes with the normalisation that the weights were trained with."""
    given = {key: data[key] for key in ("batch", "pad", "flip") if data.get(key) is not None}
    for key in ("mean", "std"):
        if data.get(key) is None:
            raise ParetuneError(f"task.data.{key} is missing: a number per channel, as the weights were trained with")
        if not isinstance(data[key], (list, tuple)) or not all(isinstance(one, (int, float)) for one in data[key]):
            raise ParetuneError(f"task.data.{key} must be a list of numbers, one per channel, got {data[key]!r}")
        given[key] = tuple(map(float, data[key]))

    def split(arrays: Arrays | None, rows: np.ndarray[Any, Any]) -> Images:
        assert arrays is not None
        pixels = torch.from_numpy(np.ascontiguousarray(arrays.pixels[rows].transpose(0, 3, 1, 2)))
        return Images(pixels=pixels, targets=torch.from_numpy(arrays.targets[rows]), **given)

    steer = raw.test if roles.val_of == "test" else raw.train
    return split(raw.train, roles.train), split(steer, roles.val), split(raw.test, roles.test)


def _numbers(split: Images) -> tuple[Tensor, ...]:
    """All that tells two splits apart but for their augmentation."""
    return split.pixels, split.targets, torch.tensor([split.mean, split.std])


@torch.no_grad()
def _check_outputs(net: nn.Module, split: Images, classes: int) -> None:
    inputs = next(iter(split.batches(None)))[0][:2]
    try:
        outputs = net(inputs)
    except Exception as error:
        raise ParetuneError(f"the model's forward fails on {tuple(inputs.shape)}: {first_line(error)}") from error
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else None
    if shape is None or len(shape) != 2 or shape[1] != classes:
        told = f"{shape[1]} classes" if shape and len(shape) == 2 else f"outputs of shape {shape}"
        raise ParetuneError(f"the model has {told} and the data {classes} classes; set task.model.classes={classes}")
