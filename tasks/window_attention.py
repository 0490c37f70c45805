"""Attention inside shifted windows of an image, with a layer each for queries, keys, values and output."""

from collections.abc import MutableMapping
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.tasks.packed import three, unpack

MODULE = "torchvision.models.swin_transformer"
CLASSES = ("ShiftedWindowAttention", "ShiftedWindowAttentionV2")
APART = -100.0  # what is added to the scores of pixels that are neighbours only because the image was rolled


def is_window_attention(module: nn.Module) -> bool:
    """True for torchvision's attention of Swin networks, not for subclasses; torchvision need not be installed."""
    return type(module).__module__ == MODULE and type(module).__name__ in CLASSES


class WindowAttention(nn.Module):
    """The attention of Swin networks (Liu et al. 2021, https://arxiv.org/abs/2103.14030), (n, height, width, channels)
    to the same shape; with a `logit_scale` that of Swin V2 (Liu et al. 2022, https://arxiv.org/abs/2111.09883).

    A head is `head_width` channels in a row. Every row of `q` knows the head it came from, so that with heads cut out
    of the rows of `q`, `k` and `v` and the columns of `proj`, those that are left find their bias in the whole table of
    biases by position. Loads state dicts of torchvision's modules. Takes over the tensors of `source`, one of them.
    """

    heads_follow = True  # for whoever follows channels: what is added to the scores has the heads that are left

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.window_size, self.shift_size = tuple(source.window_size), tuple(source.shift_size)
        self.attention_dropout, self.dropout = source.attention_dropout, source.dropout
        self.q, self.k, self.v = three(source.qkv.weight, source.qkv.bias)
        self.proj = source.proj
        self.head_width = self.q.out_features // source.num_heads
        heads = torch.arange(source.num_heads, device=self.q.weight.device)
        # A buffer of the layer, because whatever cuts the rows of a layer cuts its buffers with them.
        self.q.register_buffer("head", heads.repeat_interleave(self.head_width), persistent=False)
        self.register_buffer("relative_position_index", source.relative_position_index)
        self.logit_scale = getattr(source, "logit_scale", None)
        if self.logit_scale is None:
            self.relative_position_bias_table = source.relative_position_bias_table
            return
        self.cpb_mlp = source.cpb_mlp
        self.register_buffer("relative_coords_table", source.relative_coords_table)
        if self.k.bias is not None:  # torchvision reads zeros, whatever is there
            self.k.bias = nn.Parameter(torch.zeros_like(self.k.bias), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        tall, wide = self.window_size
        if height % tall or width % wide:
            x = F.pad(x, (0, 0, 0, -width % wide, 0, -height % tall))
        size = (x.shape[1], x.shape[2])
        # A window that spans the image has nothing to shift.
        down, right = (0 if w >= s else by for w, s, by in zip(self.window_size, size, self.shift_size, strict=True))
        if down or right:
            x = x.roll((-down, -right), (1, 2))
        bias = self._bias()
        if down or right:
            bias = bias + self._apart(size, (down, right), x)
        x = self._joined(self._attended(self._windows(x), bias), size)
        if down or right:
            x = x.roll((down, right), (1, 2))
        return x[:, :height, :width].contiguous()

    def _attended(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x` (windows, pixels, channels) after attention; `bias` is (heads, pixels, pixels), or such for each window
        of an image."""
        b, n, _ = x.shape
        q = self.q(x).view(b, n, -1, self.head_width).transpose(1, 2)
        k = self.k(x).view(b, n, -1, self.head_width).transpose(1, 2)
        v = self.v(x).view(b, n, -1, self.head_width).transpose(1, 2)
        if self.logit_scale is None:
            scores = (q * self.head_width**-0.5).matmul(k.transpose(-2, -1))
        else:
            scale = self.logit_scale[self._heads()].clamp(max=log(100.0)).exp()
            scores = F.normalize(q, dim=-1).matmul(F.normalize(k, dim=-1).transpose(-2, -1)) * scale
        weights = F.dropout(_added(scores, bias).softmax(-1), self.attention_dropout, self.training)
        x = self.proj(weights.matmul(v).transpose(1, 2).reshape(b, n, -1))
        return F.dropout(x, self.dropout, self.training)

    def _heads(self) -> Tensor:
        """The first number of every head that is left, (heads,)."""
        head = self.q.head
        assert isinstance(head, Tensor)
        return head[:: self.head_width]

    def _bias(self) -> Tensor:
        """What is added to the scores by relative position, (heads, pixels, pixels)."""
        if self.logit_scale is None:
            table = self.relative_position_bias_table
        else:
            table = 16 * self.cpb_mlp(self.relative_coords_table).flatten(0, 2).sigmoid()
        pixels = self.window_size[0] * self.window_size[1]
        bias: Tensor = table[:, self._heads()][self.relative_position_index]
        return bias.view(pixels, pixels, -1).permute(2, 0, 1)

    def _windows(self, x: Tensor) -> Tensor:
        """(n, height, width, channels) as (n × windows, pixels, channels)."""
        (tall, wide), (n, height, width, channels) = self.window_size, x.shape
        x = x.view(n, height // tall, tall, width // wide, wide, channels).transpose(2, 3)
        return x.reshape(-1, tall * wide, channels)

    def _joined(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """What `_windows` took apart."""
        (tall, wide), (height, width) = self.window_size, size
        x = x.view(-1, height // tall, width // wide, tall, wide, x.shape[-1]).transpose(2, 3)
        return x.reshape(-1, height, width, x.shape[-1])

    def _apart(self, size: tuple[int, int], shift: tuple[int, int], like: Tensor) -> Tensor:
        """What keeps the sides of a rolled image apart, (windows, 1, pixels, pixels)."""
        regions = []
        for length, window, by in zip(size, self.window_size, shift, strict=True):
            place = torch.arange(length, device=like.device)
            regions.append((place >= length - window).long() + (place >= length - by).long())
        region = self._windows((3 * regions[0][:, None] + regions[1])[None, ..., None]).squeeze(-1)
        differ = region[:, None, :, None] != region[:, None, None, :]
        return torch.zeros(differ.shape, dtype=like.dtype, device=like.device).masked_fill(differ, APART)

    def rename(self, state: MutableMapping[str, Tensor], prefix: str) -> None:
        """Give the tensors of torchvision's module in `state` the names they have here, in place."""
        bias = f"{prefix}qkv.bias"
        packed = bias in state
        unpack(state, f"{prefix}qkv.weight", bias, prefix)
        if packed and self.logit_scale is not None:
            state[f"{prefix}k.bias"] = torch.zeros_like(state[f"{prefix}k.bias"])

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.rename(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _added(scores: Tensor, bias: Tensor) -> Tensor:
    if bias.dim() == 3:
        return scores + bias
    return (scores.view(-1, len(bias), *scores.shape[1:]) + bias).flatten(0, 1)
