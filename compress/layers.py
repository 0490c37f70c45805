"""A model's layers in order of execution, as forward hooks see them."""

import copy
import math
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paretune.compress.following import followed
from paretune.compress.lifetimes import counted, figures, folding, products_of
from paretune.compress.trace import Trace, Tracer
from paretune.errors import ParetuneError, first_line
from paretune.inventory import Inventory, Kind, Layer, Size

STATISTICS = ("running_mean", "running_var")
NOTHING = torch.empty(0)
UNFOLLOWED = (
    "attention and other products, operations and activations in memory are not counted: the forward could not be "
    "followed operation by operation"
)


class Call(NamedTuple):
    """One call of a module: shapes of its input and output without the batch axis, and the numbers in them with it."""

    given: tuple[int, ...]
    made: tuple[int, ...]
    read: int
    wrote: int


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Layers in order of execution; `shared` names those whose weights are used in more than one place. `trace` are the
    operations of the forward, None if they could not be recorded."""

    layers: tuple[Layer, ...]
    shared: frozenset[str]
    trace: Trace | None = None


def watch(model: nn.Module, example: Tensor) -> Watched:
    """Every module with floats in its own state, in order of its first call; those never called come last as "other".

    `model` should be in eval mode; nothing in it is changed. Positions are counted per sample of `example` (N, ...), so
    a model that folds views into the batch axis is charged for all of them.

    Raises:
        ParetuneError: the forward fails on `example`.
    """
    owners = {name: module for name, module in model.named_modules() if own_floats(module)}
    calls: dict[str, list[Call]] = {}
    handles = [handle for name, module in owners.items() for handle in _recording(name, module, calls)]
    try:
        trace = _seen(model, example, calls)
    except Exception as error:
        shape = tuple(example.shape)
        raise ParetuneError(f"the model's forward fails on an example of shape {shape}: {first_line(error)}") from error
    finally:
        for handle in handles:
            handle.remove()
    order = [*calls, *(name for name in owners if name not in calls)]
    layers = tuple(_layer(name, owners[name], calls.get(name, []), len(example)) for name in order)
    layers = tuple(_as_run(layer, trace, len(example)) for layer in layers) if trace else layers
    own = {name: [id(tensor) for tensor in own_floats(module).values()] for name, module in owners.items()}
    tied = Counter(tensor for held in own.values() for tensor in held)
    twice = {name for name, held in own.items() if any(tied[tensor] > 1 for tensor in held)}
    shared = frozenset(twice | {name for name, seen in calls.items() if len(seen) > 1})
    return Watched(layers=layers, shared=shared, trace=trace)


def _as_run(layer: Layer, trace: Trace, samples: int) -> Layer:
    """`layer` with the positions that its operations had: its own forward may pool, pad or repeat besides."""
    if layer.kind not in ("conv", "linear"):
        return layer
    work = sum(prod(part.dims) for op in trace.ops if op.place == layer.name for part in op.parts)
    each = prod(layer.weight_shape) * samples
    return replace(layer, positions=work // each) if work and work % each == 0 else layer


def twin_of(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of `model` in eval mode, on the device of `example`.

    Raises:
        ParetuneError: it cannot be copied.
    """
    try:
        return copy.deepcopy(model).to(example.device).eval()
    except Exception as error:
        raise ParetuneError(f"the model cannot be copied: {first_line(error)}") from error


def with_norms(watched: Watched) -> tuple[Layer, ...]:
    """The layers, each with the batch norm that folds into it, as far as the forward could be followed."""
    norms = folding(watched.layers, watched.trace, watched.shared) if watched.trace else {}
    return tuple(replace(layer, norm=norms.get(layer.name)) for layer in watched.layers)


def survey(model: nn.Module, example: Tensor) -> Inventory:
    """The layers of `model` and what one forward on `example` (N, ...) runs and keeps in memory; no channel groups.

    Works on the meta device, and for models that the tracer of channel groups does not get through. `model` is left
    untouched.

    Raises:
        ParetuneError: the model cannot be copied to the example's device, or its forward fails on `example`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = twin_of(model, example)
        watched = watch(twin, example)
    weighted = (layer.name for layer in watched.layers if layer.kind in ("conv", "linear"))
    inventory = Inventory(
        layers=with_norms(watched),
        groups=(),
        input_shape=tuple(example.shape[1:]),
        whole=dict.fromkeys(weighted, "channel groups were not looked for"),
    )
    return observed(twin, example, inventory, watched.trace)


def observed(
    model: nn.Module, example: Tensor, inventory: Inventory, trace: Trace | None, deadline: float = math.inf
) -> Inventory:
    """`inventory` with the products, steps, buffers and operations of `trace`, a forward of `model` on `example`.

    They are counted per sample of `example` (N, ...). If there is no trace, or it cannot be told in such terms, they
    stay empty and `unsure` says so; it also says what could not be checked before the monotonic clock is past
    `deadline`, and stays as in the dense model.
    """
    if trace is None:
        return replace(inventory, unsure=(UNFOLLOWED,))
    try:
        return _observed(model, example, inventory, trace, deadline)
    except Exception as error:
        # An inventory without them serves most purposes; the layers and groups are known already.
        return replace(inventory, unsure=(f"{UNFOLLOWED} ({first_line(error)})",))


def _observed(model: nn.Module, example: Tensor, inventory: Inventory, trace: Trace, deadline: float) -> Inventory:
    def see(small: nn.Module, given: Tensor) -> Trace | None:
        return _traced(small, given) if time.monotonic() < deadline else None

    found = followed(model, example, inventory, trace, see)
    dense, divisors = figures(inventory, trace), _divisors(inventory, trace, len(example))
    order = [group.name for group in inventory.groups]

    def size(figure: int) -> Size:
        share, divisor = found.shares[figure], divisors[figure]
        each = ((group, share[group] // divisor) for group in order if share.get(group))
        return Size(dense=-(-dense[figure] // divisor), per_unit=tuple(each))

    return counted(inventory, trace, size, found.wrong)


def _divisors(inventory: Inventory, trace: Trace, samples: int) -> list[int]:
    """What makes a figure one per sample; a product of weights alone runs once, whatever the number of samples."""
    divisors = [samples] * len(trace.sizes)
    for op in trace.ops:
        for part in products_of(inventory, op):
            axes = (part.batch, 0, 1, 3) if op.reads else ()
            axis = next((axis for axis in axes if part.dims[axis] % samples == 0), None)
            divisors += [samples if at == axis else 1 for at in range(4)]
    return divisors


def _seen(model: nn.Module, example: Tensor, calls: dict[str, list[Call]]) -> Trace | None:
    """Runs the forward once; if it does not bear being watched, a second time as it is."""
    try:
        return _traced(model, example)
    except Exception:
        calls.clear()
        with torch.no_grad():
            model(example)
        return None


def _traced(model: nn.Module, example: Tensor) -> Trace | None:
    tracer = Tracer(model, example)
    with torch.no_grad(), tracer.watching():
        made = model(example)
    return tracer.trace(tensors(made))


def own_floats(module: nn.Module) -> dict[str, Tensor]:
    """The float tensors that a state dict holds of `module` itself, not of its children, by their short names."""
    buffers = {key: tensor for key, tensor in module._buffers.items() if key not in module._non_persistent_buffers_set}
    own = {**module._parameters, **buffers}
    return {key: tensor for key, tensor in own.items() if tensor is not None and tensor.is_floating_point()}


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def _recording(name: str, module: nn.Module, calls: dict[str, list[Call]]) -> Iterator[Any]:
    try:
        yield module.register_forward_hook(_recorder(name, calls), with_kwargs=True)
    except (RuntimeError, TypeError):
        return  # a compiled module may take no hooks: it is a layer that was never called


def _recorder(name: str, calls: dict[str, list[Call]]) -> Any:
    def record(_: nn.Module, given: Any, named: Any, made: Any) -> None:
        entered, left = (next(tensors(value), NOTHING) for value in ((given, named), made))
        calls.setdefault(name, []).append(
            Call(tuple(entered.shape[1:]), tuple(left.shape[1:]), entered.numel(), left.numel())
        )

    return record


def _kind(module: nn.Module, called: bool) -> Kind:
    """A parametrised or weight-normed layer rebuilds its weight on every call, so a slice would not last: "other".

    So is a layer that holds more than its class does, since nobody knows how that would be cut.
    """
    held = set(own_floats(module))
    if not called or next(module.children(), None) is not None:
        return "other"
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return "norm" if held <= {"weight", "bias", *STATISTICS} else "other"
    if "weight" not in held or not held <= {"weight", "bias"}:
        return "other"
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return "conv"
    return "linear" if isinstance(module, nn.Linear) else "other"


def _layer(name: str, module: nn.Module, calls: list[Call], batch: int) -> Layer:
    kind, own = _kind(module, bool(calls)), own_floats(module)
    learned = sum(tensor.numel() for tensor in own.values() if isinstance(tensor, nn.Parameter))
    # A batch norm without weight has running statistics, or it would hold nothing and not be here.
    shape = (learned,) if kind == "other" else tuple(own.get("weight", own.get(STATISTICS[0], torch.empty(0))).shape)
    given, made = (calls[0].given, calls[0].made) if calls else ((), ())
    weighted = kind in ("conv", "linear")
    groups = int(getattr(module, "groups", 1)) if kind == "conv" else 1
    if weighted and 0 in shape:
        raise ParetuneError(f"layer '{name}' has a weight of shape {shape}: there is nothing to compute with")
    inputs = shape[1] * groups if weighted else 1
    return Layer(
        name=name,
        kind=kind,
        weight_shape=shape,
        bias=kind != "other" and "bias" in own,
        affine="weight" in own or kind != "norm",
        buffers=sum(tensor.numel() for tensor in own.values()) - learned,
        groups=groups,
        positions=sum(call.wrote for call in calls) // (shape[0] * batch) if weighted else 1,
        reads=sum(call.read for call in calls) // (inputs * batch) if weighted and len(calls) > 1 else 0,
        input_shape=given,
        output_shape=made,
    )
