"""The network of a task with its trained weights: from a file, published ones, or trained here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from paretune.errors import ParetuneError, pick
from paretune.tasks.bare import BARE, make_bare
from paretune.tasks.opened import in_parts
from paretune.tasks.outputs import check_outputs
from paretune.tasks.published import PRETRAINED, fetched, is_address, published
from paretune.tasks.splits import labelled
from paretune.tasks.task import Split
from paretune.tasks.timm_models import timm_pretrained
from paretune.tasks.torchvision_models import is_name, published_state
from paretune.tasks.training import train_once, training_of
from paretune.tasks.weights import COUNT, load_state, read_state

OF_MODEL = ("source", "weights", "trained_on", "train")
HERE = "train"  # a word among weights; a file of that name is ./train
CLASSES = {  # the setting that says how many classes a network of a source tells apart
    "cifar": "task.model.classes",
    "timm": "task.model.classes",
    "torchvision": "task.model.arguments.num_classes",
    "module": "what your target takes for it in task.model.arguments",
}


def network(
    model: Mapping[str, Any], *, train: Split | None = None, val: Split | None = None, classes: int | None = None,
    least: int = 1, device: str = "cpu",
) -> nn.Module:  # fmt: skip
    """The network that task.model describes, on `device`, with its weights: see `paretune.tasks.classification`.

    With weights "train" it is trained on `train` alone, with the settings of `model`["train"] (see
    `paretune.tasks.training`), or read from this machine's cache folder if that was done before; `val` is scored for
    people to read. `classes` are those of the data, at least `least` where nobody knows.

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
        return _trained(config, model, train, val, (classes, least), device)
    bare = make_bare(config)
    assert bare is not None
    _load(bare.model, in_parts(bare.model, _state(source, model, str(weights))), source, classes)
    return bare.model.to(device).eval()


def seen_by(model: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> str | None:
    """What the weights of task.model have seen, for `paretune.tasks.roles`: weights trained here have seen `train`
    alone, which is as good as "other" to val and test.

    Raises:
        ParetuneError: they are trained here, or published for just these images of task.data, and `trained_on` says
            something else.
    """
    told: str | None = model.get("trained_on")
    held = data or {}
    theirs = held.get("source") == "torchvision" and str(held.get("name")).lower() == "cifar10"
    if told == "other" and theirs and model.get("source") == "cifar" and model.get("weights") == PRETRAINED:
        raise ParetuneError(
            "task.model.trained_on=other: the published weights have seen all training images of CIFAR10; use "
            "trained_on=train"
        )
    if model.get("weights") != HERE:
        return told
    if told not in (None, "other"):
        raise ParetuneError(
            f"task.model.trained_on={told}: with task.model.weights=train this is known already, they see the images "
            "that train alone, none of val or test; leave it null"
        )
    return "other"


def advice_on_classes(model: Mapping[str, Any], wanted: str) -> str:
    """What to do about a network that tells other classes apart than the `wanted` number of the data."""
    if model.get("weights") == HERE:
        return f"set {CLASSES[str(model.get('source'))]} to {wanted}"
    return f"take weights trained for {wanted} classes, or task.model.weights=train"


def _trained(
    config: Mapping[str, Any], model: Mapping[str, Any], train: Split | None, val: Split | None,
    classes: tuple[int | None, int], device: str,
) -> nn.Module:  # fmt: skip
    if train is None or val is None:
        raise ParetuneError("task.model.weights=train needs images that train and images that validate")
    how = training_of(model.get("train"))
    bare = make_bare(config, seed=how.seed)
    assert bare is not None
    net = bare.model.to(device)
    # Before hours of training.
    count = check_outputs(net, train, *classes, lambda wanted: advice_on_classes(model, wanted))
    train_once(net, labelled(train, count), labelled(val, count), how, name=bare.name, asked=config)
    return net


def _state(source: str, model: Mapping[str, Any], weights: str) -> dict[str, Tensor]:
    name = str(model.get("model"))
    if source == "torchvision" and is_name(weights):
        return published_state(name, weights)
    if source == "timm" and weights == PRETRAINED:
        return timm_pretrained(model=name, classes=model.get("classes"), arguments=model.get("arguments") or {})
    if source == "cifar" and weights == PRETRAINED:
        return read_state(published(name))
    return read_state(fetched(weights) if is_address(weights) else Path(weights))


def _load(net: nn.Module, state: Mapping[str, Tensor], source: str, classes: int | None) -> None:
    """`load_state`, which also says if nothing but the number of classes is another; the data have `classes`.

    Raises:
        ParetuneError: the weights do not fit.
    """
    try:
        load_state(net, state)
    except ParetuneError as error:
        there, here = _classes(net, state)
        if not there:
            raise
        change = "" if classes and classes != there else f"set {CLASSES[source]} to {there}, or "
        raise ParetuneError(
            f"{error}. The weights tell {there} classes apart and the model {here}: {change}take weights that were "
            f"trained for {classes or here} classes, or task.model.weights=train"
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
