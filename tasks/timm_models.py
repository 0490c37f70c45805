"""timm's networks, if timm is installed. The only file of the project that imports timm."""

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

from paretune.errors import ParetuneError, UnknownName, first_line
from paretune.tasks.torchvision_models import torchvision_models


@cache
def timm_library() -> Any:
    """The module `timm` (PyTorch Image Models, https://github.com/huggingface/pytorch-image-models).

    Raises:
        ParetuneError: timm is not installed or cannot be imported.
    """
    torchvision_models()  # timm imports torchvision, which may need what this declares first
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name == "timm":
            raise ParetuneError("timm is not installed; pip install 'paretune[timm]'") from error
        raise ParetuneError(f"timm cannot be imported: {first_line(error)}; pip install 'paretune[timm]'") from error
    except (ImportError, RuntimeError) as error:
        raise ParetuneError(f"timm cannot be imported: {first_line(error)}") from error
    return timm


def from_timm(
    *, model: str = "resnet18", input_shape: Any = None, classes: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[str, nn.Module, Any]:  # fmt: skip
    """The name of a network of timm, it without weights, and the shape of an input without the batch axis.

    `classes` is what timm calls num_classes; null leaves as many as its published weights have. `arguments` go to
    timm's builder, such as drop_path_rate or img_size. Without an `input_shape` the input is as large as the network's
    default configuration says, or as `arguments` do.

    Raises:
        UnknownName: there is no such network; the message names the nearest.
        ParetuneError: timm is absent, a number of classes that is none, or arguments that the builder refuses.
    """
    net = _created(str(model), classes, arguments or {}, pretrained=False)
    return str(model), net, input_shape or _shape(net, arguments or {})


def timm_pretrained(*, model: str, classes: int | None, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of timm's published weights of `model` ("resnet18", or with a tag "resnet18.a1_in1k"); downloaded at
    the first use.

    Raises:
        ParetuneError: no published weights, weights for another number of classes, or they cannot be downloaded.
    """
    published = timm_settings(model, arguments)
    if not any(published.get(key) for key in ("url", "hf_hub_id", "file")):
        raise ParetuneError(f"timm publishes no weights of {model}; task.model.weights takes a file, or train")
    wanted, had = classes or arguments.get("num_classes"), published.get("num_classes")
    if wanted is not None and wanted != had:
        # timm would leave the last layer untrained without a word.
        raise ParetuneError(
            f"timm's weights of {model} tell {had} classes apart, not {wanted}: set task.model.classes={had}, or take "
            "a file with weights that were trained for your classes, or weights=train"
        )
    return dict(_created(model, classes, arguments, pretrained=True).state_dict())


def timm_settings(model: str, arguments: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """timm's configuration of the published weights of `model`: input_size, mean, std, num_classes and others.

    Raises:
        ParetuneError: timm is absent or does not know the network.
    """
    _check_known(model)
    found = timm_library().get_pretrained_cfg(model)
    return found.to_dict() if found is not None else {}


def _created(model: str, classes: int | None, arguments: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
    if classes is not None and (type(classes) is not int or classes < 1):
        raise ParetuneError(f"task.classes must be a whole number, 1 or more, or null, got {classes!r}")
    if classes is not None and "num_classes" in arguments:
        raise ParetuneError("task.classes and task.arguments.num_classes say the same; set one of them")
    _check_known(model)
    count = {} if classes is None else {"num_classes": classes}
    try:
        net: nn.Module = timm_library().create_model(model, pretrained=pretrained, **count, **arguments)
    except Exception as error:  # a builder checks nothing, and a download fails in many ways
        if pretrained:
            told = f"timm's weights of {model} cannot be had ({type(error).__name__}: {first_line(error)})"
            raise ParetuneError(f"{told}; they are downloaded, which needs internet; or name a file") from error
        raise ParetuneError(f"timm's {model} cannot be made with {dict(arguments)} ({first_line(error)})") from error
    return net


def _check_known(model: str) -> None:
    timm = timm_library()
    name, _, tag = model.partition(".")
    names = timm.list_models()
    if name not in names:
        raise UnknownName(f"no timm model is called '{name}'.{_nearest(name, names)}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")] if tag else []
    if tag and tag not in tags:
        raise UnknownName(f"timm's {name} has no weights '{tag}'. Known: {', '.join(tags) or 'none'}.")


def _nearest(name: str, names: list[str]) -> str:
    """More than a thousand names are no help in a message; the five nearest are."""
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5) or [known for known in names if name in known][:5]
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return f"{hint} timm.list_models() lists all {len(names):,}."


def _shape(net: nn.Module, arguments: Mapping[str, Any]) -> list[int]:
    settings: Any = net.pretrained_cfg
    channels, height, width = settings.get("input_size") or (3, 224, 224)
    side = arguments.get("img_size")
    if side is not None:
        height, width = side if isinstance(side, list | tuple) else (side, side)
    return [int(arguments.get("in_chans", channels)), int(height), int(width)]
