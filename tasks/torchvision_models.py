"""torchvision's networks without their weights. The only file of the project that imports torchvision."""

import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paretune.errors import ParetuneError, first_line, pick

OPERATORS = ("nms", "qnms")  # what torchvision's import hangs its Python parts on
# Where a builder's defaults do not make the network that weights are published for: googlenet's has no auxiliary heads
# (inception_v3's has), vit_h_14's reads larger images. Drawing the first weights of the inceptions takes seconds.
MORE: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"init_weights": False, "aux_logits": False},
    "inception_v3": {"init_weights": False},
    "vit_h_14": {"image_size": 518},
}


@cache
def torchvision_models() -> Any:
    """The module `torchvision.models`, whether or not torchvision was built for this torch.

    Its wheel may be built for another torch, and then it does not load its C++ part. All that its import misses are two
    operators; they are declared here and never called.

    Raises:
        ParetuneError: torchvision is not installed or cannot be imported.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ParetuneError("torchvision is not installed; pip install torchvision")
    try:
        torch.ops.load_library(str(next(Path(spec.origin).parent.glob("_C.*"))))  # type: ignore[no-untyped-call]
    except (OSError, StopIteration):
        _declare()
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise ParetuneError(f"torchvision cannot be imported: {first_line(error)}") from error
    return models


def torchvision_datasets() -> Any:
    """The module `torchvision.datasets`, whether or not torchvision was built for this torch.

    Raises:
        ParetuneError: torchvision is not installed or cannot be imported.
    """
    torchvision_models()  # its import brings the data sets along, and guards it
    from torchvision import datasets

    return datasets


def torchvision_names() -> tuple[str, ...]:
    """The classification networks, then the segmentation networks."""
    models = torchvision_models()
    return (*models.list_models(module=models), *models.list_models(module=models.segmentation))


def from_torchvision(
    *, model: str = "resnet18", input_shape: Any = None, arguments: Mapping[str, Any] | None = None
) -> tuple[str, nn.Module, Any]:
    """The name of a network of torchvision, it without weights, and the shape of an input without the batch axis.

    `arguments` go to torchvision's builder, such as num_classes, or image_size of a vision transformer. Without an
    `input_shape` the input is as large as what its default weights were scored on (299 for inception_v3, 520 for
    segmentation), or as the one size that a vision transformer takes.

    Raises:
        ParetuneError: an unknown name, or arguments that the builder refuses.
    """
    models = torchvision_models()
    pick(dict.fromkeys(torchvision_names()), str(model), "torchvision model")
    wanted = {"weights": None, **MORE.get(model, {})}
    if model in models.list_models(module=models.segmentation):
        wanted["weights_backbone"] = None  # else it would be downloaded
    try:
        net = models.get_model(model, **{**wanted, **(arguments or {})})
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParetuneError(f"torchvision's {model} cannot be made with {arguments} ({first_line(error)})") from error
    return model, net, input_shape or [3, *2 * (_side(models, model, net),)]


def _side(models: Any, name: str, net: nn.Module) -> int:
    own = getattr(net, "image_size", None)
    if isinstance(own, int):
        return own
    weights = getattr(models.get_model_weights(name), "DEFAULT", None)
    asked = weights.transforms.keywords if weights else {}
    return int(asked.get("crop_size") or asked.get("resize_size") or 224)


@cache
def _library() -> torch.library.Library:
    """Kept for the life of the process: the operators leave with it."""
    return torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]


def _declare() -> None:
    for name in OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            _library().define(schema)  # type: ignore[no-untyped-call]


def is_name(weights: str) -> bool:
    """Whether `weights` names published ones, such as DEFAULT or ResNet18_Weights.DEFAULT, and no file."""
    return re.fullmatch(r"\w+_Weights\.[A-Z0-9_]+", weights) is not None or not Path(weights).suffix


def published_state(model: str, weights: str) -> dict[str, torch.Tensor]:
    """The tensors of torchvision's published weights of `model` by their name, "DEFAULT" or such as "IMAGENET1K_V2",
    also with torchvision's enumeration in front, "ResNet18_Weights.DEFAULT"; downloaded at the first use.

    Raises:
        ParetuneError: no such weights, or they cannot be downloaded.
    """
    models = torchvision_models()
    pick(dict.fromkeys(torchvision_names()), model, "torchvision model")
    known = models.get_model_weights(model)
    found = pick(known.__members__, weights.removeprefix(f"{known.__name__}."), f"set of weights of {model}")
    try:
        return dict(found.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise ParetuneError(f"torchvision's weights {weights} of {model} cannot be had: {first_line(error)}") from error
