"""The network of a task with its trained weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from paretune.errors import ParetuneError, pick
from paretune.tasks.bare import BARE, make_bare
from paretune.tasks.torchvision_models import published_state
from paretune.tasks.weights import load_state, read_state

OF_MODEL = ("source", "weights", "trained_on")


def network(model: Mapping[str, Any]) -> nn.Module:
    """The network that task.model describes, with its weights: see `paretune.tasks.classification`.

    Raises:
        ParetuneError: an unknown source, no weights, or weights that cannot be read or do not fit.
    """
    source = str(model.get("source"))
    pick(BARE, source, "source of models")
    rest = {key: value for key, value in model.items() if key not in OF_MODEL and value is not None}
    bare = make_bare({"name": source, **rest})
    assert bare is not None
    weights = model.get("weights")
    if weights is None:
        raise ParetuneError(
            "task.model.weights is missing: a file with trained weights (.pth, .th, .safetensors), or for torchvision "
            "a name such as DEFAULT"
        )
    load_state(bare.model, _state(source, str(model.get("model")), str(weights)))
    return bare.model


def _state(source: str, model: str, weights: str) -> dict[str, Tensor]:
    if source == "torchvision" and not Path(weights).suffix:
        return published_state(model, weights)
    return read_state(Path(weights))
