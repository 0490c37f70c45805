"""The network of a task with its trained weights: from a file, published ones, or trained here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paretune.errors import ParetuneError, first_line, pick
from paretune.tasks.bare import BARE, make_bare
from paretune.tasks.opened import in_parts
from paretune.tasks.published import fetched, is_address, published
from paretune.tasks.task import Split
from paretune.tasks.timm_models import timm_pretrained, timm_settings
from paretune.tasks.torchvision_models import published_state, torchvision_models
from paretune.tasks.training import train_once, training_of
from paretune.tasks.weights import COUNT, load_state, read_state

OF_MODEL = ("source", "weights", "trained_on", "train")
HERE, PRETRAINED = "train", "pretrained"  # words among weights; a file of that name is ./train
CLASSES = {  # the setting that says how many classes a network of a source tells apart
    "cifar": "task.model.classes",
    "timm": "task.model.classes",
    "torchvision": "task.model.arguments.num_classes",
    "module": "what your target takes for it in task.model.arguments",
}


def network(
    model: Mapping[str, Any], *, train: Split | None = None, val: Split | None = None, classes: int | None = None,
    device: str = "cpu",
) -> nn.Module:  # fmt: skip
    """The network that task.model describes, on `device`, with its weights: see `paretune.tasks.classification`.

    With weights "train" it is trained on `train` alone, with the settings of `model`["train"] (see
    `paretune.tasks.training`), or read from this machine's cache folder if that was done before; `val` is scored for
    people to read. `classes` are those of the data.

    Raises:
        ParetuneError: an unknown source, no weights, weights that cannot be read or do not fit, a training that cannot
            be done.
    """
    source = str(model.get("source"))
    pick(BARE, source, "source of models")
    weights = model.get("weights")
    if weights is None:
        raise ParetuneError(
            "task.model.weights is missing: a file with trained weights (.pth, .th, .safetensors) or its address, "
            "for torchvision a name such as DEFAULT, for cifar and timm pretrained, or train, which trains the network "
            "here"
        )
    config = {"name": source, **{key: held for key, held in model.items() if key not in OF_MODEL and held is not None}}
    if weights == HERE:
        return _trained(config, model, train, val, classes, device)
    bare = make_bare(config)
    assert bare is not None
    _load(bare.model, in_parts(bare.model, _state(source, model, str(weights))), source)
    return bare.model.to(device).eval()


def seen_by(model: Mapping[str, Any]) -> str | None:
    """What the weights of task.model have seen, for `paretune.tasks.roles`: weights trained here have seen `train`
    alone, which is as good as "other" to val and test.

    Raises:
        ParetuneError: they are trained here, and `trained_on` says something else.
    """
    told: str | None = model.get("trained_on")
    if model.get("weights") != HERE:
        return told
    if told not in (None, "other"):
        raise ParetuneError(
            f"task.model.trained_on={told}: with task.model.weights=train this is known already, they see the images "
            "that train alone, none of val or test; leave it null"
        )
    return "other"


def check_normalisation(model: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Nothing, if task.data says how pixels are normalised or nobody knows how task.model wants them.

    Raises:
        ParetuneError: it does not, and says what the published weights of the network were trained with.
    """
    missing = [key for key in ("mean", "std") if data.get(key) is None and data.get("source") != "module"]
    hint = normalisation_hint(model) if missing else ""
    if hint:
        told = "a number per channel, as the weights were trained with"
        raise ParetuneError(f"task.data.{missing[0]} is missing: {told}{hint}")


def normalisation_hint(model: Mapping[str, Any]) -> str:
    """ "; the published weights of resnet18 have task.data.mean=[...] task.data.std=[...]", or nothing if no published
    weights of task.model are known.
    """
    source, name = model.get("source"), str(model.get("model"))
    try:
        if source == "torchvision":
            held = vars(torchvision_models().get_model_weights(name).DEFAULT.transforms())
        else:
            held = dict(timm_settings(name)) if source == "timm" else {}
        mean, std = ("[" + ",".join(f"{number:g}" for number in held[key]) + "]" for key in ("mean", "std"))
    except (ParetuneError, AttributeError, KeyError, ValueError):
        return ""  # unknown or unpublished; other messages say so
    return f"; the published weights of {name} have task.data.mean={mean} task.data.std={std}"


def _trained(
    config: Mapping[str, Any], model: Mapping[str, Any], train: Split | None, val: Split | None, classes: int | None,
    device: str,
) -> nn.Module:  # fmt: skip
    if train is None or val is None:
        raise ParetuneError("task.model.weights=train needs images that train and images that validate")
    how = training_of(model.get("train"))
    bare = make_bare(config, seed=how.seed)
    assert bare is not None
    net = bare.model.to(device)
    _check(net, train, classes, str(config["name"]))
    train_once(net, train, val, how, name=bare.name)
    return net


@torch.no_grad()
def _check(net: nn.Module, train: Split, classes: int | None, source: str) -> None:
    """Before hours of training: does the network take the images, and tell their classes apart?"""
    inputs, targets = next(iter(train.batches(None)))
    inputs = inputs[:2]
    try:
        outputs = net.eval()(inputs)
    except Exception as error:  # the user's own forward may raise anything
        raise ParetuneError(f"the model's forward fails on {tuple(inputs.shape)}: {first_line(error)}") from error
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else ()
    least = int(targets.max()) + 1
    if len(shape) != 2 or (shape[1] != classes if classes else shape[1] < least):
        told = f"{shape[1]} classes" if len(shape) == 2 else f"outputs of shape {shape or None}"
        wanted = classes or f"{least} or more"
        raise ParetuneError(f"the model has {told} and the data {wanted} classes; set {CLASSES[source]}")


def _state(source: str, model: Mapping[str, Any], weights: str) -> dict[str, Tensor]:
    name = str(model.get("model"))
    if source == "torchvision" and not Path(weights).suffix:
        return published_state(name, weights)
    if source == "timm" and weights == PRETRAINED:
        return timm_pretrained(model=name, classes=model.get("classes"), arguments=model.get("arguments") or {})
    if source == "cifar" and weights == PRETRAINED:
        return read_state(published(name))
    return read_state(fetched(weights) if is_address(weights) else Path(weights))


def _load(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """`load_state`, which also says if nothing but the number of classes is another.

    Raises:
        ParetuneError: the weights do not fit.
    """
    try:
        load_state(net, state)
    except ParetuneError as error:
        there, here = _classes(net, state)
        if not there:
            raise
        raise ParetuneError(
            f"{error}. The weights tell {there} classes apart and the model {here}: set {CLASSES[source]} to {there}, "
            f"or take weights that were trained for {here} classes"
        ) from error


def _classes(net: nn.Module, state: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many classes `state` and `net` tell apart if this is all that keeps them apart, else 0 and 0."""
    own = {key: tensor for key, tensor in net.state_dict().items() if not key.endswith(COUNT)}
    given = {key: tensor for key, tensor in state.items() if not key.endswith(COUNT)}
    if own.keys() != given.keys():
        return 0, 0
    other = [key for key in own if own[key].shape != given[key].shape]
    pairs = {(given[key].shape[:1], own[key].shape[:1]) for key in other}
    behind = all(given[key].shape[1:] == own[key].shape[1:] for key in other)
    if len(pairs) != 1 or not behind or not all(key.endswith(("weight", "bias")) for key in other):
        return 0, 0
    there, here = pairs.pop()
    return (there[0], here[0]) if there and here else (0, 0)
