"""Where the zeros of a weight may be: how each kind of pattern makes its mask, and how a file says where they are."""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import numpy as np

from paretune.compress.bits import Mask, Scores, Shape, numbered, other_pattern, recorded, to_bits, unpacked
from paretune.compress.counts import at_least, best, half_up, share_left
from paretune.compress.n_of_m import nm_bits, nm_decode, nm_encode, nm_kept, nm_mask, nm_numbers
from paretune.compress.partition import part_bits, part_weights, parts_of_mask, split_parts
from paretune.compress.pe_block import pe_bits, pe_decode, pe_encode, pe_kept, pe_mask
from paretune.errors import ImpossiblePlan, pick
from paretune.plan import Pattern
from paretune.recipe import Wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One kind of pattern: how many weights stay, which, and the bits of its index.

    `kept` and `choose` end with the least number of weights that stays. `encode` refuses a mask of another pattern, or
    gives bits that do not decode to it.
    """

    kept: Callable[[Wanted, Shape, int], int]
    choose: Callable[[Wanted, Scores, int], Mask]
    bits: Callable[[Wanted, Shape], int]
    encode: Callable[[Wanted, Mask], Mask]
    decode: Callable[[Wanted, Mask, Shape], Mask]


def parse_kind(text: str) -> tuple[str, int, int]:
    """(name in `PATTERNS`, N, M) of a kind; N and M are 0 unless it is written in numbers, such as "2:4".

    Raises:
        ParetuneError: no such kind, or an N that is not within 1 to M.
    """
    if (numbers := nm_numbers(text)) is not None:
        return "n:m", *numbers
    pick(PATTERNS, text, "pattern")
    return text, 0, 0


def kept_weights(wanted: Wanted, shape: Shape, minimum: int = 1) -> int:
    """How many weights of a weight tensor stay: exactly as many as `mask_for` leaves.

    Raises:
        ImpossiblePlan: the pattern cannot leave `minimum` weights, or does not fit the shape.
    """
    return _method(wanted).kept(wanted, shape, minimum)


def stand_in(wanted: Wanted, shape: Shape, minimum: int = 1) -> Pattern:
    """A pattern with as many zeros and as large an index as the mask will have, but with the zeros nowhere in
    particular: all that costs ask for.

    Raises:
        ImpossiblePlan: the pattern does not fit the shape.
        UnknownName: no such pattern.
    """
    blocks = wanted.kind == "pe_block"
    return Pattern(
        kind=wanted.kind, nonzeros=kept_weights(wanted, shape, minimum), index_bytes=index_bytes_of(wanted, shape),
        stored="", block=wanted.block if blocks else 0, layout=wanted.layout if blocks else "",
        parts=wanted.parts if wanted.kind == "partition" else 0,
    )  # fmt: skip


def mask_for(wanted: Wanted, scores: Scores, minimum: int = 1) -> Mask:
    """True where a weight stays: the highest scores that the pattern allows; of equal ones the first in C order.

    Blocks are ranked by the sum of their scores. At least `minimum` weights stay (all, if there are fewer).

    Raises:
        ImpossiblePlan: scores that are not numbers (training diverged), a `minimum` that the pattern cannot leave,
            or a partition, which is found over all its layers at once.
    """
    return _method(wanted).choose(wanted, numbered(scores), minimum)


def global_masks(wanted: Mapping[str, Wanted], scores: Mapping[str, Scores], minimum: int = 1) -> dict[str, Mask]:
    """Masks by layer under one threshold over all of them; Σ weights × (1 - sparsity) stay, rounded half up.

    The best `minimum` weights of a layer stay in any case, because one threshold can empty a layer. Of equal scores
    the first stays, in the order of `wanted`.

    Raises:
        ImpossiblePlan: a kind other than "unstructured", or scores that are not numbers.
    """
    for layer, item in wanted.items():
        if item.kind != "unstructured":
            why = "one threshold over all layers is for 'unstructured' only; set the scope to 'layer'"
            raise ImpossiblePlan(f"layer '{layer}' asks for '{item.kind}', but {why}")
    flat = {layer: numbered(scores[layer]).ravel() for layer in wanted}
    if not flat:
        return {}
    kept = np.concatenate([best(values, min(minimum, values.size)) for values in flat.values()])
    total = half_up(sum((flat[layer].size * share_left(item) for layer, item in wanted.items()), Fraction(0)))
    others = np.flatnonzero(~kept)
    added = best(np.concatenate(list(flat.values()))[others], max(0, total - int(kept.sum())))
    kept[others[added]] = True
    ends = np.cumsum([values.size for values in flat.values()])[:-1]
    return {layer: part.reshape(scores[layer].shape) for layer, part in zip(flat, np.split(kept, ends), strict=True)}


def pattern_of(wanted: Wanted, mask: Mask) -> Pattern:
    """The plan's record of a mask. Its sparsity may be another: under a global threshold it differs by layer.

    Raises:
        ImpossiblePlan: the mask has not the pattern `wanted.kind`. "channel" has none: such a layer's plan has no
            pattern.
    """
    method, pe = _method(wanted), wanted.kind == "pe_block"
    bits = method.encode(wanted, mask)
    if not np.array_equal(method.decode(wanted, bits, mask.shape), mask):
        raise other_pattern(wanted, mask)
    return recorded(
        bits, kind=wanted.kind, nonzeros=int(mask.sum()), block=wanted.block if pe else 0,
        layout=wanted.layout if pe else "", parts=wanted.parts if wanted.kind == "partition" else 0,
    )  # fmt: skip


def index_of(pattern: Pattern) -> bytes:
    """The index as the packed file holds it, `index_bytes` long; bits fill every byte from its lowest.

    unstructured: one bit per weight in C order. n:m: N ascending positions of ⌈log2 M⌉ bits for every run of neighbours
    that loses one, in the order of `paretune.compress.n_of_m.nm_encode`; one bit per weight in C order where that is
    shorter. pe_block: one bit per block, filter by filter. partition: the part of every row, then of every column, in
    ⌈log2 K⌉ bits.

    Raises:
        ImpossiblePlan: `stored` is not base64, or has another length.
    """
    try:
        index = base64.b64decode(pattern.stored, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImpossiblePlan(f"the stored '{pattern.kind}' pattern is not base64: {error}") from error
    if len(index) != pattern.index_bytes:
        raise ImpossiblePlan(f"the stored '{pattern.kind}' pattern has {len(index)} bytes, not {pattern.index_bytes}")
    return index


def index_bytes_of(wanted: Wanted, shape: Shape) -> int:
    """Bytes of the index of any mask of this pattern over a weight of this shape."""
    return -(-_method(wanted).bits(wanted, shape) // 8)


def mask_of(pattern: Pattern, shape: Shape) -> Mask:
    """The mask that `pattern_of` was given, True where a weight stays.

    Raises:
        ImpossiblePlan: the pattern was made for another shape, or is damaged.
    """
    wanted = Wanted(kind=pattern.kind, block=pattern.block, layout=pattern.layout, parts=pattern.parts)
    method, index = _method(wanted), index_of(pattern)
    if (needs := index_bytes_of(wanted, shape)) != len(index):
        raise ImpossiblePlan(f"a '{pattern.kind}' index of shape {tuple(shape)} has {needs} bytes, not {len(index)}")
    mask = method.decode(wanted, unpacked(index, method.bits(wanted, shape)), shape)
    if (left := mask.sum()) != pattern.nonzeros:
        raise ImpossiblePlan(f"the stored '{pattern.kind}' pattern leaves {left} weights, not {pattern.nonzeros}")
    return mask


def _method(wanted: Wanted) -> Method:
    return PATTERNS[parse_kind(wanted.kind)[0]]


def _loose_kept(wanted: Wanted, shape: Shape, minimum: int) -> int:
    weights = prod(shape)
    return max(half_up(weights * share_left(wanted)), min(minimum, weights))


def _no_choice(wanted: Wanted, scores: Scores, minimum: int) -> Mask:
    raise ImpossiblePlan("a partition is found over all its layers at once, by paretune.compress.partition")


def _no_encode(wanted: Wanted, mask: Mask) -> Mask:
    raise ImpossiblePlan("pattern 'channel' has no mask to store: the plan of such a layer has no pattern")


PATTERNS: Mapping[str, Method] = {
    "channel": Method(
        kept=lambda wanted, shape, minimum: prod(shape),
        choose=lambda wanted, scores, minimum: np.ones(scores.shape, dtype=bool),
        bits=lambda wanted, shape: 0,
        encode=_no_encode,
        decode=lambda wanted, bits, shape: np.ones(shape, dtype=bool),
    ),
    "unstructured": Method(
        kept=_loose_kept,
        choose=lambda wanted, scores, minimum: best(scores, _loose_kept(wanted, scores.shape, minimum)),
        bits=lambda wanted, shape: prod(shape),
        encode=lambda wanted, mask: mask.ravel(),
        decode=lambda wanted, bits, shape: bits.reshape(shape),
    ),
    "n:m": Method(
        kept=nm_kept,
        choose=nm_mask,
        bits=nm_bits,
        encode=nm_encode,
        decode=nm_decode,
    ),
    "pe_block": Method(
        kept=pe_kept,
        choose=pe_mask,
        bits=pe_bits,
        encode=pe_encode,
        decode=pe_decode,
    ),
    "partition": Method(
        kept=lambda wanted, shape, minimum: at_least(part_weights(wanted.parts, shape), minimum, wanted, shape),
        choose=_no_choice,
        bits=lambda wanted, shape: part_bits(wanted.parts, shape),
        encode=lambda wanted, mask: to_bits(np.concatenate(parts_of_mask(mask, wanted.parts)), wanted.parts),
        decode=lambda wanted, bits, shape: np.equal.outer(*split_parts(bits, wanted.parts, shape)),
    ),
}
