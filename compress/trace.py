"""One forward, operation by operation: what each of them reads, writes and multiplies."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from paretune.compress.products import OPAQUE, RULES, Part, Rule
from paretune.errors import first_line

# PyTorch does not tag these as pointwise; they too may write over what they read.
IN_PLACE = {"batch_norm", "layer_norm", "group_norm", "softmax", "log_softmax", "hardswish", "hardsigmoid", "prelu"}
COPIES = {"clone", "copy", "to_copy", "contiguous"}  # tagged as pointwise, but they move numbers to another place


@dataclass(frozen=True, kw_only=True, slots=True)
class Op:
    """One operation that writes activations. An activation is known by a number, its place in `Trace.sizes`.

    `place` is the innermost module that runs it; `owner` is the same if that has no children or a tensor of its own is
    read, else None. `weight` is the full name of a parameter or stored buffer that a matrix product reads, or "".
    `reads` come with the numbers in the view that is read. `over` are pairs of a written activation and the one it
    replaces in the same memory. `opaque` operations multiply matrices in a way that is not known here.
    """

    name: str
    place: str
    owner: str | None
    weight: str
    reads: tuple[tuple[int, int], ...]
    writes: tuple[int, ...]
    over: tuple[tuple[int, int], ...]
    parts: tuple[Part, ...]
    elementwise: bool
    opaque: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """The operations in order. `sizes` counts the numbers in every activation (the input is the first); `outputs` are
    those that leave the network."""

    ops: tuple[Op, ...]
    sizes: tuple[int, ...]
    outputs: frozenset[int]


class _Nature(NamedTuple):
    """What is known of an operator before it runs.

    `shaped` ones look at the shape of what they are given alone; `mutable` are position and name of the arguments that
    they write.
    """

    name: str
    rule: Rule | None
    elementwise: bool
    opaque: bool
    shaped: bool
    mutable: tuple[tuple[int, str], ...]


@cache
def _nature(operator: Any) -> _Nature:
    schema = operator._schema
    space, _, given = schema.name.partition("::")
    plain = given if space in ("aten", "torchvision") else f"{space}.{given}"
    name = _spoken(plain)
    rule = RULES.get(plain)
    written = (
        (position, argument.name)
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    return _Nature(
        name=name,
        rule=rule,
        elementwise=name in IN_PLACE or (torch.Tag.pointwise in operator.tags and name not in COPIES),
        opaque=rule is None and (operator._overloadpacket in flop_registry or plain in OPAQUE),
        shaped=plain.startswith("new_") or plain.endswith("_like"),
        mutable=() if torch.Tag.inplace_view in operator.tags else tuple(written),
    )


def _spoken(name: str) -> str:
    """ "batch_norm" for "_native_batch_norm_legit_no_training", "max_pool2d" for "max_pool2d_with_indices"."""
    name = name.strip("_").removeprefix("native_").removesuffix("_with_indices").removesuffix("_kernel")
    if "batch_norm" in name:
        return "batch_norm"
    return name.removeprefix("safe_")


WATCHING = threading.RLock()  # the switch of the fast path belongs to the whole process


@contextmanager
def watched_by(
    mode: TorchDispatchMode, model: nn.Module, hooks: Callable[[str, nn.Module], Iterable[Any]]
) -> Iterator[None]:
    """Within it `mode` sees every operation, and `hooks(name, module)` are on every module of `model`.

    Attention is not fused into whole encoder layers meanwhile.
    """
    handles = [handle for name, module in model.named_modules() for handle in hooks(name, module)]
    try:
        with WATCHING:
            fast = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                with mode:
                    yield
            finally:
                torch.backends.mha.set_fastpath_enabled(fast)
    finally:
        for handle in handles:
            handle.remove()


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations on what depends on `example` while `watching`.

    Parameters and what is made of them alone are no activations, so a sum of weights or a table of positions is not
    recorded. A matrix product of them is, since the forward runs it, but it writes nothing.

    The forward is never disturbed: whatever goes wrong here ends the recording, and `broken` says why.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.broken = ""
        self._ops: list[Op] = []
        self._sizes = [example.numel()]
        # A weak reference keeps the address from being used again without keeping the memory.
        self._known = {_storage(example): 0}
        owned = [*model.named_parameters(), *model.named_buffers()]
        self._names = {_storage(tensor): name for name, tensor in owned if tensor.layout == torch.strided}
        self._stack = [""]
        self._leaves = {name for name, module in model.named_modules() if next(module.children(), None) is None}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it every operation is recorded."""
        with watched_by(self, self.model, self._hooks):
            yield

    def trace(self, outputs: Iterable[Tensor]) -> Trace | None:
        """What was seen, or None if recording failed; `outputs` are the tensors that the forward returned."""
        if self.broken:
            return None
        found = (self._known.get(_storage(tensor)) for tensor in outputs)
        left = frozenset(number for number in found if number is not None)
        return Trace(ops=tuple(self._ops), sizes=tuple(self._sizes), outputs=left)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation as it is, then notes it."""
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # there PyTorch does not take composite operations apart by itself
            with self:
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        made = func(*args, **kwargs)
        if not self.broken:
            try:
                self._note(_nature(func), args, kwargs, made)
            except Exception as error:
                self.broken = first_line(error) or type(error).__name__
        return made

    def _hooks(self, name: str, module: nn.Module) -> Iterator[Any]:
        def enter(*_: Any) -> None:
            self._stack.append(name)

        def leave(*_: Any) -> None:
            # A module that failed, and whose caller caught it, may still lie on top.
            while len(self._stack) > 1 and self._stack.pop() != name:
                pass

        try:
            yield module.register_forward_pre_hook(enter)
            yield module.register_forward_hook(leave, always_call=True)
        except (RuntimeError, TypeError):
            return  # a compiled module may take no hooks: its operations count for its caller

    def _note(self, nature: _Nature, args: Any, kwargs: Any, made: Any) -> None:
        given = [*_flat(args), *_flat(kwargs.values())]
        keys = [_storage(tensor) for tensor in given]
        reads = tuple(
            (self._known[key], tensor.numel())
            for key, tensor in zip(keys, given, strict=True)
            if key in self._known and not nature.shaped
        )
        changed = [args[at] if at < len(args) else kwargs.get(name) for at, name in nature.mutable]
        writes, over = self._written([*_flat(made), *_flat(changed)], bool(changed)) if reads else ((), ())
        if not writes and (reads or not (nature.rule or nature.opaque)):  # a view, or a number for Python
            return
        place = self._stack[-1]
        names = {
            self._names[key]: tensor.numel() for key, tensor in zip(keys, given, strict=True) if key in self._names
        }
        own = place in self._leaves or any(name.rpartition(".")[0] == place for name in names)
        op = Op(
            name=nature.name, place=place, owner=place if own else None,
            weight=max(names, key=names.__getitem__, default="") if nature.rule else "",  # a bias is smaller
            reads=reads, writes=writes, over=over, elementwise=nature.elementwise, opaque=nature.opaque,
            parts=nature.rule(args, next(_flat(made))) if nature.rule else (),
        )  # fmt: skip
        self._ops.append(op)

    def _written(self, tensors: list[Tensor], changing: bool) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Numbers for the activations that are new, and those among them that replace another."""
        writes: dict[StorageWeakRef, int] = {}
        over: list[tuple[int, int]] = []
        for tensor in tensors:
            key = _storage(tensor)
            before = self._known.get(key)
            if key in writes or not tensor.numel() or (before is not None and not changing):
                continue
            whole = tensor.untyped_storage().nbytes() // tensor.element_size() if changing else tensor.numel()
            writes[key] = len(self._sizes)
            if before is not None:
                over.append((writes[key], before))
            self._sizes.append(whole if before is None else self._sizes[before])
        self._known.update(writes)
        return tuple(writes.values()), tuple(over)


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _flat(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Iterable) and not isinstance(values, str):
        for value in values:
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, (tuple, list)):
                yield from _flat(value)
