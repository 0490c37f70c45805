"""A trace as an inventory tells it: products, steps, and the memory that activations take meanwhile."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from paretune.compress.products import Part
from paretune.compress.trace import Op, Trace
from paretune.inventory import Buffer, Inventory, Layer, Product, Size

AS_DENSE = "told as in the dense model"
SizeOf = Callable[[int], Size]  # a figure of `figures` by its place, for one sample


@dataclass(frozen=True, kw_only=True)
class Course:
    """Names and times in a trace.

    `charged` are the steps, `first` and `last` those of every operation; `names` say by operation what its parts are
    called in the inventory: one layer, or a product for each.
    """

    trace: Trace
    charged: tuple[str, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]


def figures(inventory: Inventory, trace: Trace) -> list[int]:
    """Every number in `trace` that may follow the channels: the sizes, then four dimensions by part of a product."""
    return [*trace.sizes, *(size for op in trace.ops for part in products_of(inventory, op) for size in part.dims)]


def counted(inventory: Inventory, trace: Trace, size: SizeOf, wrong: frozenset[int]) -> Inventory:
    """`inventory` with what `trace` saw. `size` gives a figure as a `Size`, `wrong` are figures that it cannot tell."""
    course = _course(inventory, trace)
    if not course.charged:
        return replace(inventory, operations=_operations(inventory, trace))
    buffers, held = _buffers(inventory, course, size)
    unsure = [f"{_where(course, number)}: the numbers it writes, {AS_DENSE}" for number in held if number in wrong]
    products, loose = _products(inventory, course, size, wrong)
    hidden = (f"{op.place}:{op.name}, its MACs" for op in trace.ops if op.opaque)
    return replace(
        inventory,
        products=products,
        steps=course.charged,
        buffers=buffers,
        operations=_operations(inventory, trace),
        first=_Readers(inventory, trace).of((0,)),
        unsure=tuple(dict.fromkeys([*unsure, *loose, *hidden])),
    )


def _course(inventory: Inventory, trace: Trace) -> Course:
    """An operation takes a step for each of its parts, one if it has none."""
    names = _names(inventory, trace)
    charged: list[str] = [""]
    first, last = [], []
    for op, own in zip(trace.ops, names, strict=True):
        first.append(len(charged))
        owner = op.owner if op.owner in inventory.layer else None
        charged.extend(own or (owner or charged[-1],))
        last.append(len(charged) - 1)
    start = next(filter(None, charged), "")
    steps = tuple(name or start for name in charged) if start else ()
    return Course(trace=trace, charged=steps, first=tuple(first), last=tuple(last), names=names)


def layer_of(inventory: Inventory, op: Op) -> str | None:
    """The convolution or linear layer whose weight `op` applies, or None."""
    layer = inventory.layer.get(op.place)
    return op.place if op.parts and layer is not None and layer.kind in ("conv", "linear") else None


def folding(layers: tuple[Layer, ...], trace: Trace, shared: frozenset[str]) -> dict[str, str]:
    """By convolution or linear layer the batch norm that alone reads its output, and so folds into it.

    A norm without running statistics normalises by the batch even in eval mode, and never folds.
    """
    table = {layer.name: layer for layer in layers if layer.name not in shared}
    readers: dict[int, list[Op]] = {}
    for op in trace.ops:
        for number, _ in op.reads:
            readers.setdefault(number, []).append(op)
    found = {}
    for op in trace.ops:
        layer = table.get(op.place)
        weighted = layer is not None and layer.kind in ("conv", "linear") and op.parts and op.writes
        if layer is None or not weighted or op.writes[0] in trace.outputs:
            continue
        later = readers.get(op.writes[0], [])
        norm = table.get(later[0].place) if len(later) == 1 and later[0].name == "batch_norm" else None
        fits = norm is not None and norm.kind == "norm" and norm.buffers and norm.weight_shape == layer.weight_shape[:1]
        if norm is not None and fits and (layer.kind == "conv" or layer.positions == 1):
            found[layer.name] = norm.name
    return found


def products_of(inventory: Inventory, op: Op) -> tuple[Part, ...]:
    """The parts of `op` that are no layer's own work."""
    return () if layer_of(inventory, op) else op.parts


def _names(inventory: Inventory, trace: Trace) -> tuple[tuple[str, ...], ...]:
    """Products are called "module:what"; equal products with the same weight are one, others get a number."""
    labels = _labels(trace)
    known: dict[tuple[object, ...], str] = {}
    taken: Counter[str] = Counter()
    found: list[tuple[str, ...]] = []
    for index, op in enumerate(trace.ops):
        if layer := layer_of(inventory, op):
            found.append((layer,))
            continue
        own = []
        for part in op.parts:
            name = _called(op, part, labels.get(index, part.label))
            same = (name, op.weight, part.dims) if op.weight else (index, name)
            if same not in known:
                taken[name] += 1
                known[same] = name if taken[name] == 1 else f"{name}.{taken[name]}"
            own.append(known[same])
        found.append(tuple(own))
    return tuple(found)


def _called(op: Op, part: Part, label: str) -> str:
    """With a weight that has a name, by its owner and name: "attention:in_proj"; "weight" itself gives no name."""
    if not op.weight or part.label in ("input", "hidden"):
        return f"{op.place}:{label}"
    owner, _, short = op.weight.rpartition(".")
    plain = "linear" if label == "matmul" else label
    return f"{owner}:{plain if short == 'weight' else short.removesuffix('_weight')}"


def _labels(trace: Trace) -> dict[int, str]:
    """Products around a softmax by their operation: unfused attention has the names of the fused one."""
    found: dict[int, str] = {}
    made: dict[int, int] = {}  # activation -> the product that it comes from, through elementwise operations only
    soft: dict[int, int] = {}  # activation -> the product whose softmax it is
    for index, op in enumerate(trace.ops):
        reads = [number for number, _ in op.reads]
        scores = next((soft[number] for number in reads if number in soft), None)
        if op.parts:
            made.update(dict.fromkeys(op.writes, index))
            if scores is not None and not op.weight:
                found.update({scores: "scores", index: "values"})
        elif op.elementwise or op.name in ("clone", "contiguous"):
            source = next((made[number] for number in reads if number in made), None)
            if op.name == "softmax" and source is not None:
                soft.update(dict.fromkeys(op.writes, source))
            elif scores is not None:
                soft.update(dict.fromkeys(op.writes, scores))
            elif source is not None:
                made.update(dict.fromkeys(op.writes, source))
    return {index: label for index, label in found.items() if trace.ops[index].parts[0].label == "matmul"}


def _products(
    inventory: Inventory, course: Course, size: SizeOf, wrong: frozenset[int]
) -> tuple[tuple[Product, ...], list[str]]:
    """The products in order, and the names of those with a wrong figure. One that runs again adds to the count."""
    found: dict[str, Product] = {}
    loose: list[str] = []
    place = len(course.trace.sizes)
    for op, names in zip(course.trace.ops, course.names, strict=True):
        for name, _ in zip(names, products_of(inventory, op), strict=False):
            figure, place = place, place + 4
            count, rows, inner, columns = (size(figure + axis) for axis in range(4))
            if name in found:
                count = _sum(found[name].count, count)
            found[name] = Product(name=name, count=count, rows=rows, inner=inner, columns=columns)
            loose += [f"{name}, {AS_DENSE}"] if wrong & set(range(figure, place)) else []
    return tuple(found.values()), loose


def _sum(one: Size, two: Size) -> Size:
    per_unit = Counter(dict(one.per_unit))
    per_unit.update(dict(two.per_unit))
    return Size(dense=one.dense + two.dense, per_unit=tuple(per_unit.items()))


def _operations(inventory: Inventory, trace: Trace) -> tuple[tuple[str, int], ...]:
    """How often whatever is no product ran. A batch norm that folds is gone; a bias belongs to its layer."""
    ran: Counter[str] = Counter()
    for op in trace.ops:
        layer = inventory.layer.get(op.place)
        bias = op.name == "add" and layer is not None and layer.kind == "linear"
        folds = op.name == "batch_norm" and op.place in inventory.folded
        if not (op.parts or bias or folds):
            ran[op.name] += 1
    return tuple(sorted(ran.items()))


def _buffers(inventory: Inventory, course: Course, size: SizeOf) -> tuple[tuple[Buffer, ...], list[int]]:
    """The buffers, and the activation that gives each its size."""
    trace, end = course.trace, len(course.charged) - 1
    born, dies = _times(course)
    for number in trace.outputs:
        dies[number] = end
    home = _merged(course, dies)
    aliases: dict[int, list[int]] = {}
    for number in range(len(trace.sizes)):
        if number in dies:
            aliases.setdefault(home[number], []).append(number)
    readers = _Readers(inventory, trace)
    buffers = tuple(
        Buffer(
            numbers=size(group[0]),
            born=born[group[0]],
            dies=max(dies[number] for number in group),
            readers=readers.of(group),
        )
        for group in aliases.values()
    )
    return buffers, list(aliases)


def _times(course: Course) -> tuple[dict[int, int], dict[int, int]]:
    """The step that writes each activation and the last one that reads it. What an operation returns besides its
    first result lives only if it is read."""
    born, dies = {0: 0}, {0: 0}
    for index, op in enumerate(course.trace.ops):
        for number, _ in op.reads:
            dies[number] = course.last[index]
        born.update(dict.fromkeys(op.writes, course.first[index]))
        replacing = dict(op.over)
        for at, number in enumerate(op.writes):
            if at == 0 or number in replacing:
                dies[number] = course.last[index]
    return born, dies


def _merged(course: Course, dies: dict[int, int]) -> dict[int, int]:
    """The first of the activations that lie in the same memory, by every one of them."""
    trace = course.trace
    home = {number: number for number in range(len(trace.sizes))}
    for index, op in enumerate(trace.ops):
        for number, before in op.over:
            home[number] = home[before]
        if not op.elementwise or op.over or not op.writes:
            continue
        new = op.writes[0]
        for number, seen in op.reads:
            spent = dies[number] == course.last[index] and number not in trace.outputs
            if spent and seen == trace.sizes[number] == trace.sizes[new]:
                home[new] = home[number]
                break
    return home


class _Readers:
    """Which layers an activation is stored for."""

    def __init__(self, inventory: Inventory, trace: Trace) -> None:
        self.trace = trace
        self.direct: dict[int, dict[str, None]] = {}
        self.made: dict[int, list[int]] = {}
        for op in trace.ops:
            layer = layer_of(inventory, op)
            for number, _ in op.reads:
                if layer:
                    self.direct.setdefault(number, {})[layer] = None
                elif not op.parts:
                    self.made.setdefault(number, []).extend(op.writes)

    def of(self, group: Sequence[int]) -> tuple[str, ...]:
        """Those that read one of the activations in a memory or, if none reads the last, those that read what is made
        of it; none if it leaves the network or ends where no layer reads it.
        """
        last = () if group[-1] in self.trace.outputs else tuple(self._follow(group[-1], set()))
        earlier = (name for number in group[:-1] for name in self.direct.get(number, ()))
        return tuple(dict.fromkeys([*earlier, *last])) if last else ()

    def _follow(self, number: int, seen: set[int]) -> Iterator[str]:
        front = [number]
        while front:
            at = front.pop()
            if at in seen:
                continue
            seen.add(at)
            if at in self.direct:
                yield from self.direct[at]
            else:
                front.extend(reversed(self.made.get(at, [])))


def _where(course: Course, number: int) -> str:
    for index, op in enumerate(course.trace.ops):
        if number in op.writes:
            return f"{op.name} after '{course.charged[course.first[index]]}'"
    return "the input"
