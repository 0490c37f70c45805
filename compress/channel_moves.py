"""What operations do to channels that move numbers about, or make each number of those at the same position."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from paretune.compress.channel_step import Fields, Rule, Step, rules
from paretune.compress.labels import Field, Labels, Split, first, merged, moved, reshaped, sliced


def _pointwise(step: Step) -> Sequence[Fields]:
    read = [value for value in step.given.values() if isinstance(value, Tensor)]
    return step.every(merged(step.book, [step.of(tensor) for tensor in read], step.made[0].shape))


def _copied(step: Step) -> Sequence[Fields]:
    return step.every(merged(step.book, [step.of(step.given["src"])], step.made[0].shape))


def _lists(step: Step) -> Sequence[Fields]:
    """Element by element of a list of tensors."""
    lists = [value for value in step.given.values() if isinstance(value, (list, tuple))]
    rows = zip(*([item for item in one if isinstance(item, Tensor)] for one in lists), strict=False)
    return [
        merged(step.book, [step.of(tensor) for tensor in row], made.shape)
        for row, made in zip(rows, step.made, strict=False)
    ]


def _like(step: Step) -> Sequence[Fields]:
    return step.every(step.fields)


def _reshape(step: Step) -> Sequence[Fields]:
    return step.every(_reshaped(step, step.fields, step.source.shape, step.made[0].shape))


def _reshaped(step: Step, fields: Fields, old: Sequence[int], new: Sequence[int]) -> Fields:
    found: Fields = ()
    for item in fields:
        done = reshaped(item, old, new)
        if done is None:
            step.book.stick(item.atoms, step.reason)
            continue
        kept, apart = done
        found += (kept,) if kept else ()
        for atoms in apart:
            step.book.splits.append(Split(atoms=atoms, module=step.module))
    return found


def _permute(step: Step) -> Sequence[Fields]:
    order = [axis % step.rank for axis in step.given["dims"]]
    return step.every(tuple(moved(item, order) for item in step.fields))


def _transpose(step: Step) -> Sequence[Fields]:
    order = list(range(step.rank))
    one, two = (step.axis("dim0"), step.axis("dim1")) if "dim0" in step.given else (0, step.rank - 1)
    order[one], order[two] = order[two], order[one]
    return step.every(tuple(moved(item, order) for item in step.fields))


def _expand(step: Step) -> Sequence[Fields]:
    return step.every(merged(step.book, [step.of(step.source)], step.made[0].shape))


def _repeat(step: Step) -> Sequence[Fields]:
    (wide,) = step.every(
        merged(step.book, [step.of(step.source)], (1,) * (step.made[0].dim() - step.rank) + tuple(step.source.shape))
    )[:1]
    times = list(step.given["repeats"])
    done = (
        Field(np.tile(item.atoms, [t if a in item.spans else 1 for a, t in enumerate(times)]), item.spans)
        for item in wide
    )
    return step.every(tuple(done))


def _cat(step: Step) -> Sequence[Fields]:
    tensors = [tensor for tensor in step.given["tensors"] if tensor.numel() or tensor.dim() > 1]
    rank = tensors[0].dim()
    axis = int(step.given.get("dim", 0)) % rank
    labels = [step.of(tensor) for tensor in tensors]
    others = [_beside(step, one, axis) for one in labels]
    if not any(axis in item.spans for one in labels for item in one.fields):
        shape = [1 if at == axis else size for at, size in enumerate(tensors[0].shape)]
        return step.every(merged(step.book, others, shape))
    merged(step.book, others, [1 if at == axis else size for at, size in enumerate(tensors[0].shape)])
    return step.every(_joined(step, labels, axis))


def _beside(step: Step, labels: Labels, axis: int) -> Labels:
    """What lies on the other axes."""
    shape = tuple(1 if at == axis else size for at, size in enumerate(labels.shape))
    fields = tuple(kept for item in labels.fields if (kept := first(item, item.spans & {axis})))
    return Labels(shape=shape, fields=fields, fixed=labels.fixed)


def _joined(step: Step, labels: Sequence[Labels], axis: int) -> Fields:
    rows, spans = [], frozenset([axis])
    for one in labels:
        hit = [item for item in one.fields if axis in item.spans]
        fixed = np.full([one.shape[axis] if at == axis else 1 for at in range(len(one.shape))], one.fixed)
        rows.append(hit[0].atoms if hit else fixed)
        spans |= hit[0].spans if hit else frozenset()
    wide = [max(row.shape[at] for row in rows) for at in range(rows[0].ndim)]
    rows = [
        np.broadcast_to(row, [row.shape[at] if at == axis else size for at, size in enumerate(wide)]) for row in rows
    ]
    rest = {
        item.spans: item for one in labels for item in one.fields if axis not in item.spans and not item.spans & spans
    }
    return (Field(np.concatenate(rows, axis), spans), *rest.values())


def _stack(step: Step) -> Sequence[Fields]:
    """Channel by channel, so that they leave together; along the new axis they do not differ."""
    tensors = step.given["tensors"]
    fields = merged(step.book, [step.of(tensor) for tensor in tensors], tensors[0].shape)
    axis = int(step.given.get("dim", 0)) % step.made[0].dim()
    return step.every(
        tuple(
            Field(np.expand_dims(item.atoms, axis), frozenset(at + (at >= axis) for at in item.spans))
            for item in fields
        )
    )


def _split(step: Step) -> Sequence[Fields]:
    axis, start, found = step.axis(), 0, []
    sizes = [made.shape[axis] for made in step.made]
    for item in step.fields:
        if item.spans == {axis} and len(sizes) > 1:
            if len(set(sizes)) == 1:
                step.split(item.atoms.reshape(len(sizes), -1))
            else:
                step.book.stick(item.atoms, step.reason)
    for size in sizes:
        found.append(tuple(sliced(item, axis, slice(start, start + size)) for item in step.fields))
        start += size
    return found


def _unbind(step: Step) -> Sequence[Fields]:
    return [_selected(step, step.axis(), index) for index in range(len(step.made))]


def _select(step: Step) -> Sequence[Fields]:
    axis = step.axis()
    return step.every(_selected(step, axis, int(step.given["index"]) % step.source.shape[axis]))


def _selected(step: Step, axis: int, index: int) -> Fields:
    found: Fields = ()
    for item in step.fields:
        if item.spans == {axis}:
            step.book.stick(item.atoms, step.reason)
            continue
        at = sliced(item, axis, [index])
        found += (Field(at.atoms.squeeze(axis), frozenset(a - (a > axis) for a in at.spans - {axis})),)
    return found


def _slice(step: Step) -> Sequence[Fields]:
    axis, size = step.axis(), step.source.shape[step.axis()]
    start, end, pace = slice(step.given.get("start"), step.given.get("end"), step.given.get("step") or 1).indices(size)
    for item in step.fields:
        if item.spans == {axis} and (start, end, pace) != (0, size, 1):
            length = max(end - start, 0)
            if (np.delete(item.atoms, slice(start, end, pace), axis) < 0).all():
                continue  # what was padded loses its padding
            if pace > 1 and size % pace == 0 and start < pace and end == size:
                lined = item.atoms.reshape(-1, pace)
                step.book.tie(lined, lined[:, :1])
            elif pace == 1 and length and size % length == 0 and start % length == 0:
                step.split(item.atoms.reshape(-1, length))
            else:
                step.book.stick(item.atoms, step.reason)
    return step.every(tuple(sliced(item, axis, slice(start, end, pace)) for item in step.fields))


def _flip(step: Step) -> Sequence[Fields]:
    axes = step.axes("dims")
    return step.every(
        tuple(Field(np.flip(item.atoms, tuple(a for a in axes if a in item.spans)), item.spans) for item in step.fields)
    )


def _channel_shuffle(step: Step) -> Sequence[Fields]:
    shape, groups = list(step.source.shape), step.given["groups"]
    apart = [shape[0], groups, shape[1] // groups, *shape[2:]]
    fields = _reshaped(step, step.fields, shape, apart)
    order = [0, 2, 1, *range(3, len(apart))]
    fields = tuple(moved(item, order) for item in fields)
    return step.every(_reshaped(step, fields, [apart[axis] for axis in order], shape))


POINTWISE: Rule = _pointwise
MOVES: dict[str, Rule] = {
    **rules(_pointwise, "clone _to_copy contiguous detach alias lift_fresh dropout native_dropout hardswish"),
    **rules(_copied, "copy"),
    **rules(_pointwise, "hardsigmoid prelu _prelu_kernel where masked_fill nan_to_num glu_jvp _conj expand_as"),
    **rules(_lists, "_foreach_add _foreach_mul"),
    **rules(_like, "zeros_like ones_like empty_like full_like rand_like randn_like"),
    **rules(_reshape, "view _unsafe_view reshape _reshape_alias squeeze unsqueeze view_copy _reshape_copy flatten"),
    **rules(_permute, "permute"),
    **rules(_transpose, "transpose t swapaxes"),
    **rules(_expand, "expand"),
    **rules(_repeat, "repeat"),
    **rules(_cat, "cat concat"),
    **rules(_stack, "stack"),
    **rules(_split, "split split_with_sizes unsafe_split unsafe_chunk chunk"),
    **rules(_unbind, "unbind"),
    **rules(_select, "select"),
    **rules(_slice, "slice"),
    **rules(_flip, "flip"),
    **rules(_channel_shuffle, "channel_shuffle native_channel_shuffle"),
}
