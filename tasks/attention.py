"""Attention with a layer each for queries, keys, values and output, so that it can be pruned, quantized and counted."""

from collections.abc import MutableMapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.errors import ParetuneError
from paretune.tasks.packed import PARTS, linear, three, unpack


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762), called as `nn.MultiheadAttention`.

    A head is `head_width` channels in a row, whatever their number: with the same heads cut out of the rows of `q`, `k`
    and `v` and the columns of `out`, it goes on with those that are left. Loads state dicts of `nn.MultiheadAttention`.
    """

    _qkv_same_embed_dim = False  # what keeps nn.TransformerEncoderLayer from reading the weights and going its own way

    def __init__(
        self, *, q: nn.Linear, k: nn.Linear, v: nn.Linear, out: nn.Linear, head_width: int, dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.q, self.k, self.v, self.out = q, k, v, out
        self.head_width, self.dropout, self.batch_first = head_width, dropout, batch_first

    @property
    def num_heads(self) -> int:
        """How many heads are left."""
        return self.q.out_features // self.head_width

    @property
    def in_proj_weight(self) -> Tensor | None:
        """As `nn.MultiheadAttention` has it, for a forward that reads it."""
        weights = [self.q.weight, self.k.weight, self.v.weight]
        return torch.cat(weights) if len({weight.shape for weight in weights}) == 1 else None

    @property
    def in_proj_bias(self) -> Tensor | None:
        """As `nn.MultiheadAttention` has it."""
        return None if self.q.bias is None else torch.cat([self.q.bias, self.k.bias, self.v.bias])

    @property
    def out_proj(self) -> nn.Linear:
        """As `nn.MultiheadAttention` has it."""
        return self.out

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        if is_causal and attn_mask is None:
            raise ParetuneError("is_causal only says that attn_mask is causal; give attn_mask as well")
        batched = query.dim() == 3
        query, key, value = (self._turned(x) if batched else x.unsqueeze(0) for x in (query, key, value))
        (b, n), m = query.shape[:2], key.shape[1]
        q = self.q(query).view(b, n, -1, self.head_width).transpose(1, 2)
        k = self.k(key).view(b, m, -1, self.head_width).transpose(1, 2)
        v = self.v(value).view(b, m, -1, self.head_width).transpose(1, 2)
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else _mask(attn_mask, key_padding_mask, q, m)
        dropout, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            scores = (q * self.head_width**-0.5).matmul(k.transpose(-2, -1))
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            x = weights.matmul(v)
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            x = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        x = self.out(x.transpose(1, 2).reshape(b, n, -1))
        if not batched:
            return x.squeeze(0), None if weights is None else weights.squeeze(0)
        return self._turned(x), weights

    def _turned(self, x: Tensor) -> Tensor:
        """From the caller's order of axes to (batch, tokens, channels), and back."""
        return x if self.batch_first else x.transpose(0, 1)

    def rename(self, state: MutableMapping[str, Tensor], prefix: str) -> None:
        """Give the tensors of an `nn.MultiheadAttention` in `state` the names they have here, in place."""
        unpack(state, f"{prefix}in_proj_weight", f"{prefix}in_proj_bias", prefix)
        old = {f"{part}_proj_weight": f"{part}.weight" for part in PARTS}
        old |= {f"out_proj.{kind}": f"out.{kind}" for kind in ("weight", "bias")}
        state.update({prefix + new: state.pop(prefix + key) for key, new in old.items() if prefix + key in state})

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.rename(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def is_attention(module: nn.Module) -> bool:
    """True for PyTorch's attention, not for subclasses, as far as `Attention` can do what it does."""
    return type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn


def attention_of(module: nn.MultiheadAttention) -> Attention:
    """The `Attention` that computes what `module` computes, with copies of its weights."""
    if module._qkv_same_embed_dim:
        q, k, v = three(module.in_proj_weight, module.in_proj_bias)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
        q, k, v = (linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))
    out = linear(module.out_proj.weight, module.out_proj.bias)
    made = Attention(
        q=q, k=k, v=v, out=out, head_width=module.head_dim, dropout=module.dropout, batch_first=module.batch_first
    )
    return made.train(module.training)


def _mask(attn: Tensor | None, padding: Tensor | None, q: Tensor, m: int) -> Tensor | None:
    """What is added to the scores of `q` (b, heads, n, width) with `m` keys; broadcasts to (b, heads, n, m)."""
    b, _, n, _ = q.shape
    if attn is not None:
        attn = _added(attn, q) if attn.dim() == 2 else _added(attn, q).view(b, -1, n, m)
    if padding is not None:
        padding = _added(padding, q).view(b, 1, 1, m)
    if attn is None or padding is None:
        return padding if attn is None else attn
    return attn + padding


def _added(mask: Tensor, q: Tensor) -> Tensor:
    """True, which stands for "not this one", as minus infinity."""
    return mask if mask.is_floating_point() else q.new_zeros(mask.shape).masked_fill(mask, -torch.inf)
