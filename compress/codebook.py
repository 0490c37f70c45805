"""Weights that share a few values: k-means finds them, training moves them.

Han et al. 2016, Deep Compression, https://arxiv.org/abs/1510.00149. Ours: zero is one more value and stays exactly
zero, each sign has half of the others, and a value's gradient is the mean of its weights', where the paper has the sum.
"""

from typing import Any

import torch
from torch import Tensor, nn

from paretune.compress.quantizer import Parts, WeightQuantizer
from paretune.errors import ImpossiblePlan
from paretune.frozen import top_code
from paretune.recipe import Quantizing

ROUNDS = 100  # of Lloyd's algorithm at most


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, centroids: Tensor, value: Tensor, sharing: Tensor) -> Tensor:
        ctx.save_for_backward(sharing)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (sharing,) = ctx.saved_tensors
        return grads[0] / sharing, None, None


def _shared(centroids: Tensor, value: Tensor, sharing: Tensor) -> Tensor:
    """`value` exactly, with the gradient of `centroids`, each divided by its number of `sharing` weights."""
    found: Tensor = _Shared.apply(centroids, value, sharing)  # type: ignore[no-untyped-call]
    return found


def borders(table: Tensor, bits: int) -> Tensor:
    """Where the nearest entry of `table` (ascending, zero in its middle) changes, one number less than it has entries.

    With 1 bit no number is rounded to zero: the sign decides.
    """
    return (table[1:] + table[:-1]) / 2 if bits > 1 else torch.zeros_like(table[1:])


def linear_starts(values: Tensor, top: int) -> list[Tensor]:
    """Tables to start k-means from, evenly spaced between zero and the ends.

    There are `top` entries on each side of zero; a side ends at its own largest value, or both at the larger of them.
    """
    ends = torch.stack([-values.min(), values.max()]).clamp_min(0)
    widest = ends.amax()
    low, high = torch.where(ends > 0, ends, widest)
    even = torch.arange(-top, top + 1, dtype=values.dtype) / top
    return [torch.where(even < 0, even * low, even * high), even * widest]


def lloyd(values: Tensor, table: Tensor, bits: int) -> tuple[Tensor, float]:
    """`table` after Lloyd's algorithm on sorted `values`, none of them zero, and the error it leaves.

    The error is the Euclidean distance. The middle of the table stays zero; an entry that no value is nearest to stays
    where it is.
    """
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    for _ in range(ROUNDS):
        counts = _counts(values, table, bits)
        ends = counts.cumsum(0)
        moved = torch.where(counts > 0, (sums[ends] - sums[ends - counts]) / counts.clamp_min(1), table)
        moved[len(table) // 2] = 0
        if torch.equal(moved, table):
            break
        table = moved
    rounded = table.repeat_interleave(_counts(values, table, bits))
    return table, float(torch.dist(values, rounded))


def _counts(values: Tensor, table: Tensor, bits: int) -> Tensor:
    """How many of the sorted `values` belong to each entry."""
    below = torch.searchsorted(values, borders(table, bits), right=True)
    return torch.diff(below, prepend=below.new_zeros(1), append=below.new_full((1,), len(values)))


def _without_middle(table: Tensor) -> Tensor:
    return torch.cat([table[: len(table) // 2], table[len(table) // 2 + 1 :]])


def centroids(weight: Tensor, bits: int) -> Tensor:
    """The levels of a weight, ascending, float32: half of the 2 × top below zero, half above.

    K-means from the better of two linear starts; it takes no notice of weights that are exactly zero. A weight of
    zeros gets levels evenly spaced between -1 and 1.
    """
    # On the CPU, where a sum does not depend on chance.
    values = weight.detach().cpu().flatten()
    values = values[values != 0].sort().values.double()
    top = top_code(bits)
    starts = linear_starts(values if len(values) else values.new_ones(1), top)
    table, _ = min((lloyd(values, start, bits) for start in starts), key=lambda found: found[1])
    return _without_middle(table).float()


class Codebook(WeightQuantizer):
    """One table of learned values for the layer; which weight has which is decided at the start, as in the paper.

    Small weights share the zero, except with 1 bit, where only weights of zero do. The gradient of a value is the mean
    of its weights', so that it moves as fast as a weight would; the sum is as many times larger as weights share it.
    A value that is pulled across zero counts as zero until it is pulled back. Raw weights have a gradient of zero.

    Raises:
        ImpossiblePlan: more levels than the weight has numbers.
    """

    grid = "codebook"
    assigned: Tensor
    sharing: Tensor

    def __init__(self, weight: Tensor, bits: int, settings: Quantizing) -> None:
        super().__init__(weight, bits, settings)
        if 2 * self.high > weight.numel():
            fitting = max((b for b in range(1, bits) if 2 * top_code(b) <= weight.numel()), default=0)
            instead = f"{fitting} bits or fewer" if fitting else "another quantizer"
            raise ImpossiblePlan(
                f"a codebook of {2 * self.high} levels for a weight of {weight.numel()} numbers: use {instead}"
            )
        self.centroids = nn.Parameter(centroids(weight, bits).to(weight.device))
        table = self._table(self.centroids.detach())
        places = torch.searchsorted(borders(table, bits), weight.detach().contiguous())
        codes = torch.where(weight.detach() == 0, 0, places - self.high)
        counts = torch.bincount((codes + self.high).flatten(), minlength=len(table))
        self.register_buffer("assigned", codes.to(torch.int8))
        self.register_buffer("sharing", _without_middle(counts).clamp_min(1))

    def _table(self, levels: Tensor) -> Tensor:
        return torch.cat([levels[: self.high], levels.new_zeros(1), levels[self.high :]])

    def parts(self, weight: Tensor) -> Parts:
        """Codes, the ascending levels, and a scale of 1; a weight of zero has code 0 whatever it had at the start."""
        below, above = self.centroids[: self.high].clamp(max=0), self.centroids[self.high :].clamp(min=0)
        table = self._table(_shared(self.centroids, torch.cat([below, above]), self.sharing))
        # Stored levels ascend, but training may swap neighbours. A stable order leaves the zero in the middle.
        order = table.argsort(stable=True)
        places, table = order.argsort(), table[order]
        codes = (places[self.assigned.long() + self.high] - self.high).to(weight.dtype)
        levels = _without_middle(table)
        return Parts(codes=codes * (weight != 0), scale=levels.new_ones(()), levels=levels)

    def forward(self, weight: Tensor) -> Tensor:
        value = self.value(self.parts(weight))
        # So that the raw weight has a gradient, of zero.
        return value + 0 * weight
