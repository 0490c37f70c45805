"""One forward, operation by operation: which channels of which layers meet where."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from paretune.compress.channel_mixes import MIXES
from paretune.compress.channel_moves import MOVES, POINTWISE
from paretune.compress.channel_products import PRODUCTS
from paretune.compress.channel_step import Fields, Step
from paretune.compress.labels import LOOSE, Atoms, Ints, Labels, along
from paretune.compress.layers import Watched, tensors
from paretune.compress.trace import watched_by
from paretune.inventory import Axis, Layer

INPUT = "its channels are tied to the model's input"
OWNERLESS = "its channels meet a parameter that belongs to no layer"
OUTPUT = "its channels are the model's output"
Place = tuple[str, Axis]
KNOWN = {**MOVES, **MIXES, **PRODUCTS}


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Which channels lie at which index of the layers' weight axes; a layer called twice has two rows of them.
    `readers` are the layers that read a layer's output as it is, "" for anything else that does."""

    book: Atoms
    places: Mapping[Place, list[Ints]]
    readers: Mapping[str, list[str]]


def follow(model: nn.Module, example: Tensor, watched: Watched, deadline: float) -> Followed:
    """The channels of all convolutions and linear layers, followed through one forward of `model` on `example`.

    Convolutions, linear layers and batch norms are known as such; everything else is followed through the operations
    that PyTorch runs. What an unknown operation reads cannot leave, nor can what reaches a module that runs in training
    only, such as an auxiliary classifier.

    Raises:
        ParetuneError: the monotonic clock is past `deadline`.
    """
    tracer = _Tracer(model, watched, deadline)
    tracer.put(example, (), tracer.book.fixed(INPUT))
    with torch.no_grad(), tracer.watching():
        made = model(example)
    for tensor in tensors(made):
        tracer.read(tensor, "")
        for item in tracer.of(tensor).fields:
            tracer.book.stick(item.atoms, OUTPUT)
    _stay_for_training(tracer, example)
    return Followed(book=tracer.book, places=tracer.places, readers=tracer.readers)


def _stay_for_training(tracer: "_Tracer", example: Tensor) -> None:
    """Sticks what modules read that the forward has not called, but calls in training mode."""
    idle = frozenset(tracer.modules) - set(tracer.called)
    if not any(True for name in idle for _ in tracer.modules[name].parameters(recurse=False)):
        return
    later = _Tracer(tracer.model, tracer.watched, tracer.deadline)
    later.idle = idle
    later.put(example, (), later.book.fixed(INPUT))
    try:
        devices = [example.device] if example.is_cuda else []
        with torch.random.fork_rng(devices), _training(tracer.model), torch.no_grad(), later.watching():
            tracer.model(example)
    except TimeoutError:
        raise
    except Exception:
        pass  # in training it may ask for more than an example; what ran until then was seen
    for (name, axis), rows in later.places.items():
        for reader in tracer.modules if axis == "out" and (name, axis) in tracer.places else ():
            if reader in idle and later.called.get(reader):
                own = tracer.places[name, axis][0][np.isin(rows[0], later.called[reader])]
                tracer.book.stick(own, f"its channels reach '{reader}', which runs in training only")


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Training mode for modules that own no tensors but have children: what dropout and norms compute stays."""
    plain = [module for module in model.modules() if not {**module._parameters, **module._buffers}]
    held = [module for module in plain if next(module.children(), None) is not None and not module.training]
    for module in held:
        module.training = True
    try:
        yield
    finally:
        for module in held:
            module.training = False


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module, watched: Watched, deadline: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.watched, self.deadline = model, watched, deadline
        self.book = Atoms()
        self.places: dict[Place, list[Ints]] = {}
        self.readers: dict[str, list[str]] = {}
        self.idle: frozenset[str] = frozenset()
        self.called: dict[str, list[int]] = {}  # the modules that ran, and what those in `idle` were given
        self._outputs: dict[int, tuple[Any, str]] = {}  # the layer that made a tensor
        self._known: dict[int, tuple[Any, Labels]] = {}
        self._stored: dict[StorageWeakRef, Labels] = {}
        self._stack = [""]
        self._inside = 0  # calls of known layers that are under way
        self._layers = {layer.name: layer for layer in self.watched.layers if layer.kind != "other"}
        self.modules = dict(self.model.named_modules())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it every operation is followed."""
        with watched_by(self, self.model, self._hooks):
            yield

    def of(self, tensor: Tensor) -> Labels:
        """What is known of a tensor; one that does not depend on the input keeps its size."""
        labels = self._seen(tensor)
        if labels is None:
            module = self.modules[self._stack[-1]]
            leaf = next(module.children(), None) is None
            reason = LOOSE if self._heads_follow() else self._passing() if leaf else OWNERLESS
            labels = Labels(shape=tuple(tensor.shape), fixed=self.book.fixed(reason))
        return labels

    def _seen(self, tensor: Tensor) -> Labels | None:
        held, labels = self._known.get(id(tensor), (None, None))
        if labels is not None and held is not None and held() is tensor:
            return labels
        labels = self._stored.get(_storage(tensor))
        if labels is None or labels.shape == tuple(tensor.shape):  # the same under another name, such as `.data`
            return labels
        for item in labels.fields:
            self.book.stick(item.atoms, "its channels are read in a way that cannot be followed")
        return Labels(shape=tuple(tensor.shape), fixed=labels.fixed)

    def read(self, tensor: Tensor, reader: str) -> None:
        """Notes that `reader` reads a tensor, in case it is a layer's output."""
        held, name = self._outputs.get(id(tensor), (None, ""))
        if held is not None and held() is tensor:
            self.readers[name].append(reader)

    def put(self, tensor: Tensor, fields: Fields, fixed: int) -> None:
        """Notes what is in a tensor from now on."""
        labels = Labels(shape=tuple(tensor.shape), fields=fields, fixed=fixed)
        self._known[id(tensor)] = (ref(tensor), labels)
        self._stored[_storage(tensor)] = labels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation as it is, then notes what it does to the channels."""
        made = func(*args, **(kwargs or {}))
        if not self._inside:
            self._note(func, args, kwargs or {}, made)
        return made

    def _note(self, func: Any, args: Any, kwargs: Any, made: Any) -> None:
        if time.monotonic() > self.deadline:
            raise TimeoutError
        given = _bound(func, args, kwargs)
        read = list(tensors(list(given.values())))
        active = [labels for tensor in read if (labels := self._seen(tensor)) is not None]
        results = tuple(tensors(made))
        for tensor in read:
            self.read(tensor, "")
        name = func._schema.name.partition("::")[2]
        if not active or not results or name.startswith("new_"):  # whose size is a number of the module
            return
        reason = self._reason(func._schema.name)
        step = Step(book=self.book, given=given, made=results, of=self.of, reason=reason, module=self._stack[-1])
        rule = KNOWN.get(name) or KNOWN.get(name.removesuffix("_"))
        rule = rule or (POINTWISE if torch.Tag.pointwise in func.tags else None)
        fixed = active[0].fixed
        if rule is None:
            rule, fixed = _opaque, self.book.fixed(reason) if any(one.fields for one in active) else fixed
        found = list(rule(step)) if any(labels.fields for labels in active) else [()] * len(results)
        written = {id(tensor) for tensor in read}
        for tensor, fields in zip(results, [*found, *[()] * len(results)], strict=False):
            if id(tensor) in written:
                self._part(tensor, fields)
            self.put(tensor, fields, fixed)

    def _part(self, tensor: Tensor, fields: Fields) -> None:
        """Channels that are written into a part of another tensor are lost from sight."""
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        before = {item.spans for item in self.of(tensor).fields}
        for item in fields:
            if not whole and item.spans not in before:
                self.book.stick(item.atoms, "its channels are written into a part of another tensor")

    def _heads_follow(self) -> bool:
        """Whether a module that is running says that all it makes follows the heads that are left."""
        return any(getattr(self.modules[name], "heads_follow", False) for name in self._stack)

    def _passing(self, name: str | None = None) -> str:
        name = self._stack[-1] if name is None else name
        return f"its channels pass '{name}' ({type(self.modules[name]).__name__}), which cannot be sliced"

    def _reason(self, operation: str) -> str:
        name = self._stack[-1]
        if next(self.modules[name].children(), None) is None:
            return self._passing()
        kind, spoken = type(self.modules[name]).__name__, operation.replace("::", ".")
        return f"its channels pass {spoken} in '{name}' ({kind}), which cannot be followed"

    def _hooks(self, name: str, module: nn.Module) -> Iterator[Any]:
        layer = self._layers.get(name)

        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            self.called.setdefault(name, [])
            if layer is not None:
                if not self._inside:
                    self._enter(layer, module, next(tensors((args, kwargs))))
                self._inside += 1
            self._stack.append(name)
            read = tensors((args, kwargs)) if name in self.idle else ()
            for item in (item for tensor in read for item in self.of(tensor).fields):
                self.called[name] += np.unique(item.atoms).tolist()

        def leave(_: nn.Module, args: Any, kwargs: Any, made: Any) -> None:
            # A module that failed, and whose caller caught it, may still lie on top.
            while len(self._stack) > 1 and self._stack.pop() != name:
                pass
            if layer is not None:
                self._inside -= 1
                if not self._inside:
                    self._leave(layer, module, next(tensors((args, kwargs))), next(tensors(made)))

        try:
            yield module.register_forward_pre_hook(enter, with_kwargs=True)
            yield module.register_forward_hook(leave, with_kwargs=True, always_call=True)
        except (RuntimeError, TypeError):
            return  # a compiled module may take no hooks: its operations count for its caller

    def _enter(self, layer: Layer, module: nn.Module, given: Tensor) -> None:
        self.read(given, layer.name)
        if layer.kind == "norm" or layer.depthwise:
            return
        atoms = self._arriving(layer, module, given)
        if atoms is not None:
            self.places.setdefault((layer.name, "in"), []).append(atoms)

    def _arriving(self, layer: Layer, module: nn.Module, given: Tensor) -> Ints | None:
        """What lies along the channel axis of a layer's input."""
        axis = _axis(module, given.dim())
        found = None
        for item in self.of(given).fields:
            if layer.name in self.watched.shared:
                self.book.stick(item.atoms, f"'{layer.name}' is used more than once")
            other = item.spans - {axis}
            if layer.kind == "linear" and axis not in item.spans:
                continue
            if axis not in item.spans:
                other -= {0} if given.dim() > 1 else set()
            kept = self.book.without(item, other, self._passing(layer.name))
            if kept is not None and axis in kept.spans:
                found = kept.atoms.reshape(-1)
        return found

    def _leave(self, layer: Layer, module: nn.Module, given: Tensor, made: Tensor) -> None:
        axis = _axis(module, made.dim())
        before = self.of(given)
        self.readers.setdefault(layer.name, [])
        self._outputs[id(made)] = (ref(made), layer.name)
        if layer.kind == "norm" or layer.depthwise:
            atoms = self._arriving(layer, module, given)
            if atoms is None and layer.depthwise:  # its own ones, tied to what it reads
                atoms = self._own(layer)
                self.book.stick(atoms, self.book.reasons[-1 - before.fixed])
            atoms = np.full(made.shape[axis], before.fixed) if atoms is None else atoms
        else:
            atoms = self._own(layer)
        if len(atoms) != made.shape[axis]:
            self.book.stick(atoms, self._passing(layer.name))
            self.put(made, (), before.fixed)
            return
        self.places.setdefault((layer.name, "out"), []).append(atoms)
        if layer.name in self.watched.shared:
            self.book.stick(atoms, f"'{layer.name}' is used more than once")
        keep = range(made.dim()) if layer.kind == "linear" else [0]
        passing = tuple(
            item
            for item in before.fields
            if axis not in item.spans and item.spans <= set(keep) and made.dim() == given.dim()
        )
        own = (along(made.dim(), axis, atoms),) if atoms.max() >= 0 else ()
        self.put(made, (*passing, *own), before.fixed)

    def _own(self, layer: Layer) -> Ints:
        before = self.places.get((layer.name, "out"))
        return before[0] if before else self.book.fresh(layer.weight_shape[0])


def _opaque(step: Step) -> list[Fields]:
    for labels in (step.of(tensor) for tensor in tensors(list(step.given.values()))):
        for item in labels.fields:
            step.book.stick(item.atoms, step.reason)
    return [()] * len(step.made)


def _axis(module: nn.Module, rank: int) -> int:
    """The channel axis of what a known layer reads and writes."""
    if isinstance(module, nn.Linear):
        return rank - 1
    sizes = 2 if isinstance(module, nn.Conv2d) else 1 if isinstance(module, nn.Conv1d) else 0
    return rank - 1 - sizes if sizes else min(1, rank - 1)


def _bound(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
