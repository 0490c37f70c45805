"""Attention's weights of queries, keys and values: packed in one tensor, as PyTorch keeps them, or a layer for each."""

from collections.abc import MutableMapping

import torch
from torch import Tensor, nn

PARTS = ("q", "k", "v")


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with copies of `weight` (out, in) and `bias` (out,), on any device; draws no random numbers."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = _copied(weight)
    if bias is not None:
        made.bias = _copied(bias)
    return made


def three(weight: Tensor, bias: Tensor | None) -> list[nn.Linear]:
    """The layers of queries, keys and values in a packed `weight` (3 × out, in) and `bias` (3 × out,)."""
    biases = [None] * 3 if bias is None else [_like(bias, part) for part in bias.chunk(3)]
    return [linear(_like(weight, part), own) for part, own in zip(weight.chunk(3), biases, strict=True)]


def unpack(state: MutableMapping[str, Tensor], weight: str, bias: str, prefix: str) -> None:
    """Replace the packed `weight` and `bias` in `state` by "<prefix>q.weight", "<prefix>q.bias" and so on, in place."""
    for packed, kind in ((weight, "weight"), (bias, "bias")):
        if packed in state:
            parts = zip(PARTS, state.pop(packed).chunk(3), strict=True)
            state.update({f"{prefix}{part}.{kind}": tensor for part, tensor in parts})


def _like(packed: Tensor, part: Tensor) -> Tensor:
    return part.detach().requires_grad_(packed.requires_grad)


def _copied(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format), tensor.requires_grad)
