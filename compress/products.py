"""The matrix products inside an operation of PyTorch, by its name."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """`dims` are (count, rows, inner, columns): so many times a matrix (rows, inner) meets one of (inner, columns).

    `batch` is the place in `dims` that counts samples as well.
    """

    label: str
    dims: tuple[int, int, int, int]
    batch: int = 1


Rule = Callable[[Sequence[Any], Tensor], tuple[Part, ...]]


def _matrix(first: int = 0) -> Rule:
    """Two matrices, from the argument `first` on; the second may be a vector."""

    def parts(args: Sequence[Any], _: Tensor) -> tuple[Part, ...]:
        one, two = args[first], args[first + 1]
        rows = one.shape[0] if one.dim() == 2 else 1
        return (Part("matmul", (1, rows, one.shape[-1], two.shape[1] if two.dim() == 2 else 1)),)

    return parts


def _batched(first: int = 0) -> Rule:
    def parts(args: Sequence[Any], _: Tensor) -> tuple[Part, ...]:
        (count, rows, inner), columns = args[first].shape, args[first + 1].shape[2]
        return (Part("matmul", (count, rows, inner, columns), 0),)

    return parts


def _convolution(args: Sequence[Any], made: Tensor) -> tuple[Part, ...]:
    """A transposed one multiplies every input pixel with the whole kernel, then adds up what overlaps."""
    given, weight = args[0], args[1]
    transposed = len(args) > 6 and args[6] is True
    channels = given.shape[1]
    if transposed:
        groups, pixels = made.shape[1] // weight.shape[1], given.shape[0] * prod(given.shape[2:])
        return (Part("conv_transpose", (groups, pixels, channels // groups, prod(weight.shape[1:]))),)
    groups, pixels = channels // weight.shape[1], made.shape[0] * prod(made.shape[2:])
    return (Part("conv", (groups, pixels, prod(weight.shape[1:]), made.shape[1] // groups)),)


def _attention(args: Sequence[Any], _: Tensor) -> tuple[Part, ...]:
    """Queries (batch, heads, queries, size) with keys, and their weights with the values."""
    (samples, heads, queries, size), keys, width = args[0].shape, args[1].shape[2], args[2].shape[3]
    count = samples * heads
    return Part("scores", (count, queries, size, keys), 0), Part("values", (count, queries, keys, width), 0)


def _recurrent(args: Sequence[Any], _: Tensor) -> tuple[Part, ...]:
    """One layer of an LSTM in one direction: all inputs at once, then the hidden state step by step."""
    (steps, samples, size), (gates, hidden) = args[0].shape, args[2].shape
    return Part("input", (1, steps * samples, size, gates)), Part("hidden", (steps, samples, hidden, gates))


RULES: dict[str, Rule] = {
    "mm": _matrix(), "addmm": _matrix(1), "mv": _matrix(), "addmv": _matrix(1), "dot": _matrix(), "vdot": _matrix(),
    "_int_mm": _matrix(), "_scaled_mm": _matrix(), "bmm": _batched(), "baddbmm": _batched(1), "addbmm": _batched(1),
    "convolution": _convolution, "_convolution": _convolution,
    "convolution_overrideable": _convolution, "cudnn_convolution": _convolution, "mkldnn_convolution": _convolution,
    "_slow_conv2d_forward": _convolution, "deform_conv2d": _convolution, "mkldnn_rnn_layer": _recurrent,
    "_scaled_dot_product_flash_attention": _attention, "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention, "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention, "_scaled_dot_product_attention_math": _attention,
}  # fmt: skip

# They multiply matrices as well, but PyTorch's flop counter does not know them and nor does the table above.
OPAQUE = {"_trilinear", "_cudnn_rnn", "miopen_rnn", "quantized_lstm", "quantized_gru"}
