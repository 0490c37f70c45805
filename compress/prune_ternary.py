"""Ternary weights as directions: signs of one size per filter, times a learned gain.

Liu et al. 2021, Pruning Ternary Quantization, https://arxiv.org/abs/2107.10998. Only the abstract could be read
(normalise, prune, project to ternary directions of unit norm, a refined straight-through estimator): the formulas are
our reading of it. The pruning that comes before is in `paretune.compress.normalised`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from paretune.compress.quantizer import Parts, WeightQuantizer
from paretune.compress.rounding import per_channel
from paretune.errors import pick
from paretune.recipe import Quantizing


def best_support(weight: Tensor) -> Tensor:
    """True for the weights whose signs, all of one size, point most nearly where their filter of (out, ...) does.

    The cosine between v = w / ‖w‖₂ and the direction of its signs on K is ‖v_K‖₁ / √|K|. The best K holds the
    largest |w|, so one sort finds it; it never parts equal |w|. A filter of zeros has none.
    """
    sizes = weight.detach().flatten(1).abs().double()
    ordered = sizes.sort(dim=1, descending=True).values
    counts = torch.arange(1, sizes.shape[1] + 1, device=weight.device)
    best = (ordered.cumsum(dim=1) / counts.sqrt()).argmax(dim=1, keepdim=True)
    least = ordered.gather(1, best)
    return ((sizes >= least) & (sizes > 0)).view_as(weight)


def _per_filter(values: Tensor) -> Tensor:
    """The sums over each filter, (out, 1, ...)."""
    return values.sum(dim=tuple(range(1, values.ndim)), keepdim=True)


def filter_norms(weight: Tensor) -> Tensor:
    """The L2 norm of each filter as (out, 1, ...); 1 for one of zeros, so that it can be divided by."""
    norms = per_channel(torch.linalg.vector_norm(weight.flatten(1), dim=1), weight)
    return torch.where(norms > 0, norms, torch.ones_like(norms))


class _Refined(torch.autograd.Function):
    """codes × scale forward; see `TernaryDirection` for the gradient of the weight."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, scale: Tensor, codes: Tensor, pull: float, tangent: bool, frozen: bool
    ) -> Tensor:
        ctx.save_for_backward(weight, scale, codes)
        ctx.pull, ctx.tangent, ctx.frozen = pull, tangent, frozen
        return codes * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        (grad,) = grads
        weight, scale, codes = ctx.saved_tensors
        by_scale = (grad * codes).sum_to_size(scale.shape)
        if ctx.frozen:
            return torch.zeros_like(weight), by_scale, None, None, None, None
        support = codes.abs()
        by_weight = grad * support
        if ctx.tangent:
            kept = weight * support
            along = kept / filter_norms(kept)
            by_weight = by_weight - along * _per_filter(along * by_weight)
        gap = weight / filter_norms(weight) - codes / _per_filter(support).clamp_min(1).sqrt()
        return by_weight + ctx.pull * gap, by_scale, None, None, None, None


class TernaryDirection(WeightQuantizer):
    """gain × sign(w) / √nnz per filter, on its support: a ternary direction of unit norm, times a learned gain.

    If a filter had a zero among others at construction, as one with a mask has, the support is whatever is not zero;
    otherwise that of `best_support`, found anew in every forward pass. The gain (out, 1, ...) starts at the least-
    squares fit, 1 for a filter of zeros.

    Let v = w / ‖w‖₂ and v̂ = sign(v) / √nnz on the support. The gradient of the weight is that of the output on the
    support and zero elsewhere ("plain"), or its part at right angles to the supported weights ("tangent": with a mask
    (I - v vᵀ) times it), plus `pull` × (v - v̂). In the last share `freeze` of a training, and after it, codes stay what
    they are in its first forward pass, weights have no gradient and only gains learn; the next training frees them.
    """

    signs: Tensor | None  # the codes while they are frozen

    def __init__(self, weight: Tensor, bits: int, settings: Quantizing) -> None:
        super().__init__(weight, bits, settings)
        self.tangent = pick({"tangent": True, "plain": False}, settings.gradient, "gradient of prune_ternary")
        filters = weight.detach().flatten(1)
        # A filter of zeros is no sign of a mask: a training may have switched it off.
        self.masked, self.frozen = bool((filters[filters.any(dim=1)] == 0).any()), False
        self.register_buffer("signs", None, persistent=False)
        weight = weight.detach()
        support = self.codes(weight).abs()
        count = _per_filter(support)
        fit = _per_filter(weight.abs() * support) / count.clamp_min(1).sqrt()
        self.gain = nn.Parameter(torch.where(count > 0, fit, torch.ones_like(fit)))

    def at(self, done: float) -> None:
        self.frozen = done >= 1 - self.settings.freeze
        if not self.frozen or done == 0:
            self.signs = None

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Tensor:
        """-1, 0 or 1 for each weight."""
        codes = self.signs
        if codes is None:
            codes = weight.sign() if self.masked else weight.sign() * best_support(weight)
            self.signs = codes if self.frozen else None
        return codes * (weight != 0)

    def parts(self, weight: Tensor) -> Parts:
        codes = self.codes(weight)
        root = _per_filter(codes.abs()).clamp_min(1).sqrt()
        return Parts(codes=codes, scale=(self.gain.abs() / root).clamp_min(1e-12))

    def forward(self, weight: Tensor) -> Tensor:
        parts = self.parts(weight)
        value: Tensor = _Refined.apply(  # type: ignore[no-untyped-call]
            weight, parts.scale, parts.codes, self.settings.pull, self.tangent, self.frozen
        )
        return value
