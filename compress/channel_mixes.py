"""What operations do to channels that mix the numbers along some axes, such as a mean or a pooling."""

from collections.abc import Sequence

import numpy as np

from paretune.compress.channel_step import Fields, Rule, Step, mixed, rules
from paretune.compress.labels import PADDED, Field


def _roll(step: Step) -> Sequence[Fields]:
    axes, shifts = step.axes("dims"), step.given["shifts"]
    found: Fields = ()
    for item in step.fields:
        step.book.touch(item, axes, step.reason)
        atoms = item.atoms
        for axis, shift in zip(axes, [shifts] if isinstance(shifts, int) else shifts, strict=False):
            atoms = np.roll(atoms, shift, axis) if axis in item.spans else atoms
        found += (Field(atoms, item.spans),)
    return step.every(found)


def _indexed(step: Step) -> Sequence[Fields]:
    """`index_select`, `index` and `gather`: channels get through on axes that are not looked up."""
    if "indices" not in step.given:
        return step.every(mixed(step, [step.axis()]))
    looked = [axis for axis, index in enumerate(step.given["indices"]) if index is not None]
    first_at, gap = looked[0], looked[-1] - looked[0] + 1 - len(looked)
    fields = mixed(step, looked)
    if gap or not fields:
        for item in fields:
            step.book.stick(item.atoms, step.reason)
        return step.every(())
    more = step.made[0].dim() - (step.rank - len(looked))
    found: Fields = ()
    for item in fields:
        atoms = item.atoms.squeeze(tuple(looked))
        shape = [*atoms.shape[:first_at], *(1,) * more, *atoms.shape[first_at:]]
        spans = frozenset(a if a < first_at else a - len(looked) + more for a in item.spans)
        found += (Field(atoms.reshape(shape), spans),)
    return step.every(found)


def _reduce(step: Step) -> Sequence[Fields]:
    axes = step.axes()
    fields = mixed(step, axes)
    if step.made[0].dim() < step.rank:
        gone = tuple(axes)
        fields = tuple(
            Field(item.atoms.squeeze(gone), frozenset(a - sum(g < a for g in gone) for a in item.spans))
            for item in fields
        )
    return step.every(fields)


def _mixing(step: Step) -> Sequence[Fields]:
    """Every number along an axis depends on all of them, as after a softmax."""
    return _over(step, [step.axis("dim", -1)])


def _over(step: Step, axes: Sequence[int]) -> Sequence[Fields]:
    for item in step.fields:
        step.book.touch(item, axes, step.reason)
    return step.every(step.fields)


def _layer_norm(step: Step) -> Sequence[Fields]:
    last = len(step.given["normalized_shape"])
    return _norm(step, range(step.rank - last, step.rank))


def _channel_norm(step: Step) -> Sequence[Fields]:
    return _norm(step, range(1, step.rank))


def _norm(step: Step, axes: Sequence[int]) -> Sequence[Fields]:
    fields, *_ = _over(step, axes)
    return [fields if made.shape == step.source.shape else () for made in step.made]


def _local(step: Step) -> Sequence[Fields]:
    """Channel by channel: pooling, resampling and padding of the last axes."""
    return step.every(mixed(step, range(2 if step.rank > 3 else step.rank - 1, step.rank)))


def _pad(step: Step) -> Sequence[Fields]:
    found: Fields = ()
    pads, fixed = step.given["pad"], step.book.fixed(PADDED)
    widths = [(0, 0)] * step.rank
    for number in range(len(pads) // 2):
        widths[step.rank - 1 - number] = (pads[2 * number], pads[2 * number + 1])
    for item in step.fields:
        own = [pair if axis in item.spans else (0, 0) for axis, pair in enumerate(widths)]
        atoms = np.pad(item.atoms, [(max(a, 0), max(b, 0)) for a, b in own], constant_values=fixed)
        for axis, (low, high) in enumerate(own):
            start, end = max(-low, 0), atoms.shape[axis] - max(-high, 0)
            atoms = atoms.take(range(start, end), axis) if (low < 0 or high < 0) else atoms
        found += (Field(atoms, item.spans),)
    return step.every(found)


def _pixel_shuffle(step: Step) -> Sequence[Fields]:
    """All that become pixels of one channel leave together."""
    axis, factor = step.rank - 3, step.given["upscale_factor"]
    found: Fields = ()
    for item in mixed(step, [step.rank - 2, step.rank - 1]):
        if axis in item.spans:
            shape = list(item.atoms.shape)
            shape[axis : axis + 1] = [-1, factor * factor]
            parts = item.atoms.reshape(shape)
            step.book.tie(parts, parts.take([0], axis + 1))
            found += (Field(parts.take(0, axis + 1), item.spans),)
        else:
            found += (item,)
    return step.every(found)


def _spread(step: Step) -> Sequence[Fields]:
    """Pixels become channels: every channel lies in several places, one behind the other."""
    axis = step.rank - 3
    times = step.made[0].shape[axis] // step.source.shape[axis]
    fields = mixed(step, range(axis + 1, step.rank))
    found = []
    for item in fields:
        atoms = item.atoms.repeat(times, axis) if axis in item.spans else item.atoms
        found.append(Field(atoms if step.made[0].dim() == step.rank else atoms.squeeze(-1), item.spans))
    return step.every(tuple(found))


def _windows(step: Step) -> Sequence[Fields]:
    """`Tensor.unfold`: sliding windows become one more axis at the end."""
    fields = mixed(step, [step.axis("dimension")])
    return step.every(tuple(Field(item.atoms[..., None], item.spans) for item in fields))


MIXES: dict[str, Rule] = {
    **rules(_roll, "roll"),
    **rules(_indexed, "index_select index"),
    **rules(_reduce, "mean sum amax amin var std prod any all logsumexp linalg_vector_norm var_mean std_mean argmax"),
    **rules(_reduce, "argmin max min norm median"),
    **rules(_mixing, "_softmax _log_softmax softmax log_softmax cumsum sort _safe_softmax"),
    **rules(_layer_norm, "native_layer_norm _fused_rms_norm rms_norm"),
    **rules(_channel_norm, "native_group_norm native_batch_norm _native_batch_norm_legit"),
    **rules(_channel_norm, "_native_batch_norm_legit_no_training cudnn_batch_norm _batch_norm_with_update"),
    **rules(_local, "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d mkldnn_max_pool2d"),
    **rules(_local, "upsample_bilinear2d upsample_nearest2d upsample_bicubic2d upsample_nearest1d upsample_linear1d"),
    **rules(_local, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d"),
    **rules(_local, "replication_pad1d replication_pad2d max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d"),
    **rules(_pad, "constant_pad_nd"),
    **rules(_pixel_shuffle, "pixel_shuffle"),
    **rules(_spread, "pixel_unshuffle im2col"),
    **rules(_windows, "unfold"),
}
