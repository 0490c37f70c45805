"""What a product of two activations does to their channels: attention leaves as whole heads."""

from collections.abc import Sequence

from torch import Tensor

from paretune.compress.channel_step import Fields, Rule, Step
from paretune.compress.labels import Field, Labels, first, merged


def contracted(step: Step, one: Labels, two: Labels) -> Labels:
    """The channels in the product of matrices (…, rows, inner) and (…, inner, columns).

    A channel that is summed over leaves both factors. Where the axes in front carry channels too (heads), all channels
    of a head leave together, with the same head of the other factor.
    """
    lead = len(one.shape) - 2
    rows, columns = _others(step, one, two, lead + 1, lead), _others(step, two, one, lead, lead + 1)
    _meet(step, one, two, lead)
    heads = set(range(lead))
    if any(item.spans & heads for item in rows) and any(item.spans & heads for item in columns):
        wide = all(any(item.spans & heads and item.spans - heads for item in side) for side in (rows, columns))
        if wide:  # both stay, at right angles to each other: only the heads can leave
            rows, columns = ([*_heads(step, side, heads)] for side in (rows, columns))
    shape = (
        *(max(a, b) for a, b in zip(one.shape[:lead], two.shape[:lead], strict=True)),
        one.shape[-2],
        two.shape[-1],
    )
    left = Labels(shape=(*one.shape[:-1], 1), fields=tuple(rows), fixed=one.fixed)
    right = Labels(shape=(*two.shape[:-2], 1, two.shape[-1]), fields=tuple(columns), fixed=two.fixed)
    return Labels(shape=shape, fields=merged(step.book, [left, right], shape), fixed=one.fixed)


def _others(step: Step, own: Labels, other: Labels, inner: int, across: int) -> list[Field]:
    """The fields of a factor but for its `inner` axis, which meets the axis `across` of the other factor."""
    facing = any(item.spans == {across} for item in other.fields)
    found = []
    for item in own.fields:
        if inner in item.spans and not (facing and item.spans == {inner}):
            step.book.touch(item, [inner], step.reason)
        kept = first(item, item.spans & {inner})
        found += [kept] if kept else []
    return found


def _meet(step: Step, one: Labels, two: Labels, lead: int) -> None:
    """Ties the channels that are summed over, if they are all that lies there."""
    for a in one.fields:
        for b in two.fields:
            if a.spans == {lead + 1} and b.spans == {lead}:
                step.book.tie(a.atoms, b.atoms.swapaxes(lead, lead + 1))


def _heads(step: Step, fields: Sequence[Field], heads: set[int]) -> Fields:
    kept = (step.book.without(item, item.spans - heads, step.reason) for item in fields)
    return tuple(item for item in kept if item)


def turned(labels: Labels) -> Labels:
    """The last two axes swapped."""
    last = len(labels.shape) - 1
    order = [*range(last - 1), last, last - 1]
    swap = {last: last - 1, last - 1: last}
    fields = tuple(
        Field(item.atoms.transpose(order), frozenset(swap.get(axis, axis) for axis in item.spans))
        for item in labels.fields
    )
    return Labels(shape=tuple(labels.shape[axis] for axis in order), fields=fields, fixed=labels.fixed)


def _matmul(step: Step) -> Sequence[Fields]:
    tensors: list[Tensor] = [value for value in step.given.values() if isinstance(value, Tensor)][-2:]
    return step.every(contracted(step, step.of(tensors[0]), step.of(tensors[1])).fields)


def _added(step: Step) -> Sequence[Fields]:
    product, (bias, *_) = _matmul(step)[0], [v for v in step.given.values() if isinstance(v, Tensor)]
    shape = tuple(step.made[0].shape)
    labels = Labels(shape=shape, fields=product, fixed=step.of(bias).fixed)
    return step.every(merged(step.book, [labels, step.of(bias)], shape))


def _attention(step: Step) -> Sequence[Fields]:
    """softmax(query keyᵀ + mask) value; the mask counts as a summand."""
    query, key, value = (step.of(step.given[name]) for name in ("query", "key", "value"))
    weights = contracted(step, query, turned(key))
    mask = next((m for name in ("attn_mask", "attn_bias") if (m := step.given.get(name)) is not None), None)
    if mask is not None:
        fields = merged(step.book, [weights, step.of(mask)], weights.shape)
        weights = Labels(shape=weights.shape, fields=fields, fixed=weights.fixed)
    last = len(weights.shape) - 1
    for item in weights.fields:
        step.book.touch(item, [last], step.reason)
    made = contracted(step, weights, value).fields
    return [made if tensor.shape == step.made[0].shape else () for tensor in step.made]


PRODUCTS: dict[str, Rule] = {
    "mm": _matmul,
    "bmm": _matmul,
    "addmm": _added,
    "baddbmm": _added,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
}
