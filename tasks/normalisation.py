"""The mean and std of pixels that published weights were trained with, against those of task.data."""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from paretune.errors import ParetuneError
from paretune.tasks.published import PRETRAINED, PUBLISHED
from paretune.tasks.timm_models import timm_settings
from paretune.tasks.torchvision_models import is_name, torchvision_models

AKAMASTER = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # ImageNet's, on CIFAR-10
CLOSE = 0.005  # what others round away


class Statistics(NamedTuple):
    """A number per channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        mean, std = ("[" + ",".join(f"{number:g}" for number in held) + "]" for held in self)
        return f"task.data.mean={mean} task.data.std={std}"


def check_normalisation(model: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Nothing, if task.data says how pixels are normalised or nobody knows how task.model wants them; a line on stderr,
    if its weights are published ones that were trained with other numbers.

    Raises:
        ParetuneError: it does not, and says what the published weights of the network were trained with.
    """
    if data.get("source") == "module":
        return
    missing = [key for key in ("mean", "std") if data.get(key) is None]
    hint = normalisation_hint(model) if missing else ""
    if hint:
        told = "a number per channel, as the weights were trained with"
        raise ParetuneError(f"task.data.{missing[0]} is missing: {told}{hint}")
    theirs = None if missing or not _are_published(model) else _published(model)
    if theirs and any(_differ(data[key], held) for key, held in theirs._asdict().items()):
        told = f"the published weights of {model.get('model')} were trained with {theirs}"
        print(f"{told}, not with mean={list(data['mean'])} std={list(data['std'])}", file=sys.stderr)


def normalisation_hint(model: Mapping[str, Any]) -> str:
    """ "; the published weights of resnet18 have task.data.mean=[...] task.data.std=[...]", or nothing if no published
    weights of task.model are known.
    """
    theirs = _published(model)
    return f"; the published weights of {model.get('model')} have {theirs}" if theirs else ""


def _published(model: Mapping[str, Any]) -> Statistics | None:
    source, name = model.get("source"), str(model.get("model"))
    try:
        if source == "torchvision":
            known, asked = torchvision_models().get_model_weights(name), str(model.get("weights")).split(".")[-1]
            held = vars(known.__members__.get(asked, known.DEFAULT).transforms())
        elif source == "cifar":
            held = AKAMASTER if model.get("weights") == PRETRAINED and name in PUBLISHED else {}
        else:
            held = dict(timm_settings(name)) if source == "timm" else {}
        return Statistics(tuple(held["mean"]), tuple(held["std"]))
    except (ParetuneError, AttributeError, KeyError, ValueError):
        return None  # unknown or unpublished; other messages say so


def _are_published(model: Mapping[str, Any]) -> bool:
    weights = str(model.get("weights"))
    if model.get("source") == "torchvision":
        return weights not in ("None", "train") and is_name(weights)
    return weights == PRETRAINED


def _differ(given: Any, theirs: tuple[float, ...]) -> bool:
    """Of what is no list of as many numbers other messages speak."""
    numbers = given if isinstance(given, list | tuple) and len(given) == len(theirs) else ()
    plain = all(isinstance(one, int | float) for one in numbers)
    return plain and any(abs(one - their) > CLOSE for one, their in zip(numbers, theirs, strict=False))
