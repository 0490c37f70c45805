"""Bare models: a network and an example input, with neither data nor trained weights. Enough to count what it costs."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from paretune.errors import ParetuneError
from paretune.tasks.cifar import from_cifar
from paretune.tasks.opened import opened
from paretune.tasks.target import check_bound, check_known, imported
from paretune.tasks.timm_models import from_timm
from paretune.tasks.torchvision_models import from_torchvision

DEVICES = ("cpu", "meta")
IMAGE = ("torchvision", "timm", "cifar")  # read channels, height and width


def make_bare(config: Mapping[str, Any], *, device: str = "cpu", seed: int = 0) -> "Bare | None":
    """The bare model of a config such as {"name": "torchvision", "model": "resnet18"}; None if it names none.

    `device` "meta" makes a network of shapes alone: no memory, no time to fill it, nothing to run. On "cpu" weights and
    example (1, ...) are random, the same at every call with the same `seed`. The model is in eval mode and its
    attention taken apart (`paretune.tasks.attention`). Whether it accepts the example is not tried here.

    Raises:
        ParetuneError: unknown model or setting, an input shape that is none, a target that cannot be imported or makes
            no module.
    """
    called = str(config.get("name"))
    if config.get("_target_") or called not in BARE:
        return None
    if device not in DEVICES:
        raise ParetuneError(f"a bare model is made on {' or '.join(DEVICES)}, got '{device}'")
    make = BARE[called]
    arguments = {key: value for key, value in config.items() if key not in ("name", "_target_")}
    check_known(make, arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with _Unfilled() if device == "meta" else nullcontext():
            name, model, shape = make(**arguments)
        sizes = _shape(shape, axes=3 if called in IMAGE else None)
        example = torch.randn(1, *sizes).to(device)
    return Bare(name=name, model=opened(model.eval().to(device)), example=example)


def from_target(
    *, target: Any = None, input_shape: Any = None, arguments: Mapping[str, Any] | None = None
) -> tuple[str, nn.Module, Any]:
    """`target`, what this callable makes of `arguments`, and `input_shape`.

    Raises:
        ParetuneError: no target, one that cannot be imported or called with these arguments, or what it returns is no
            module.
    """
    if not isinstance(target, str) or not target:
        raise ParetuneError(f"task.target names what makes the network, such as my_package.my_nets.make; got {target}")
    make = imported(target, "target")
    check_bound(make, arguments or {})
    made = make(**(arguments or {}))
    if not isinstance(made, nn.Module):
        raise ParetuneError(f"task: {target} must return a torch.nn.Module, not a {type(made).__name__}")
    return target, made, input_shape


def _shape(given: Any, *, axes: int | None) -> list[int]:
    whole = isinstance(given, list | tuple) and all(type(size) is int and size > 0 for size in given)
    if not whole or not given or len(given) != (axes or len(given)):
        wanted = "[channels, height, width]" if axes else "a list such as [3, 224, 224], without the batch axis"
        raise ParetuneError(f"task.input_shape must be {wanted}, in positive whole numbers; got {given}")
    return list(given)


class _Unfilled(TorchFunctionMode):
    """Makes weights, which torch.nn asks `torch.empty` for, without memory.

    `torch.device("meta")` would do so with every tensor, and a builder that computes its widths with tensors (RegNet)
    could not read them.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        meta = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **meta})


@dataclass(frozen=True, kw_only=True, eq=False)
class Bare:
    """A network that can be inspected, not searched; `example` is one random input with a batch axis: (1, ...)."""

    name: str
    model: nn.Module
    example: Tensor


BARE: Mapping[str, Callable[..., tuple[str, nn.Module, Any]]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
    "cifar": from_cifar,
    "module": from_target,
}
