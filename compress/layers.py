"""A model's layers in order of execution, as forward hooks see them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paretune.errors import ParetuneError
from paretune.inventory import Kind, Layer

Shapes = tuple[tuple[int, ...], tuple[int, ...], int]  # input and output without the batch axis, numbers in the output


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Layers in order of execution; `shared` names those whose weights are used in more than one place."""

    layers: tuple[Layer, ...]
    shared: frozenset[str]


def watch(model: nn.Module, example: Tensor) -> Watched:
    """Every module that owns parameters, in order of its first call; modules never called come last as "other".

    `model` should be in eval mode; nothing in it is changed. Positions are counted per sample of `example` (N, ...), so
    a model that folds views into the batch axis is charged for all of them.

    Raises:
        ParetuneError: the forward fails on `example`.
    """
    owners = {name: module for name, module in model.named_modules() if _own(module)}
    calls: dict[str, list[Shapes]] = {}
    handles = [module.register_forward_hook(_recorder(name, calls)) for name, module in owners.items()]
    try:
        with torch.no_grad():
            model(example)
    except Exception as error:
        shape = tuple(example.shape)
        raise ParetuneError(f"the model's forward fails on an example of shape {shape}: {first_line(error)}") from error
    finally:
        for handle in handles:
            handle.remove()
    order = [*calls, *(name for name in owners if name not in calls)]
    layers = tuple(_layer(name, owners[name], calls.get(name, []), len(example)) for name in order)
    tied = Counter(id(parameter) for module in owners.values() for parameter in _own(module))
    twice = {name for name, module in owners.items() if any(tied[id(parameter)] > 1 for parameter in _own(module))}
    return Watched(layers=layers, shared=frozenset(twice | {name for name, seen in calls.items() if len(seen) > 1}))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _recorder(name: str, calls: dict[str, list[Shapes]]) -> Any:
    def record(_: nn.Module, given: Any, made: Any) -> None:
        entered, left = (next(tensors(value), torch.empty(0)) for value in (given, made))
        calls.setdefault(name, []).append((tuple(entered.shape[1:]), tuple(left.shape[1:]), left.numel()))

    return record


def _kind(module: nn.Module, called: bool) -> Kind:
    """A parametrised or weight-normed layer rebuilds its weight on every call, so a slice would not last: "other"."""
    if not called or next(module.children(), None) is not None or module._parameters.get("weight") is None:
        return "other"
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return "conv"
    if isinstance(module, nn.Linear):
        return "linear"
    return "norm" if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) else "other"


def _layer(name: str, module: nn.Module, calls: list[Shapes], batch: int) -> Layer:
    kind = _kind(module, bool(calls))
    numel = sum(parameter.numel() for parameter in _own(module))
    shape = (numel,) if kind == "other" else tuple(module.get_parameter("weight").shape)
    given, made, _ = calls[0] if calls else ((), (), 0)
    weighted = kind in ("conv", "linear")
    return Layer(
        name=name,
        kind=kind,
        weight_shape=shape,
        bias=kind != "other" and module._parameters.get("bias") is not None,
        groups=int(getattr(module, "groups", 1)) if kind == "conv" else 1,
        positions=sum(count for *_, count in calls) // (shape[0] * batch) if weighted else 1,
        input_shape=given,
        output_shape=made,
    )
