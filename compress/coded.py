"""What is known of a trained layer's numbers: enough to tell its size in every encoding, without running a coder."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.costs.storage import BLOCK_BYTES, FREQUENCY_BITS, stored_bytes
from paretune.frozen import Frozen, FrozenLayer, top_code
from paretune.plan import FLOAT, Codes, LayerPlan, Plan
from paretune.profile import Row

Whole = NDArray[Any]  # int8 codes, or the bits of float weights as uint32
Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]


def with_codes(plan: Plan, frozen: Frozen) -> Plan:
    """`plan` with the facts about the numbers of `frozen`, which it has led to.

    A layer that the plan does not name gets a row only if its file is smaller than the plan alone tells (channels that
    a norm has switched off are zeros).
    """
    named = [replace(row, codes=codes_of(frozen.layers[row.layer])) for row in plan.layers]
    for name, layer in frozen.layers.items():
        if name not in plan.bits:
            row = row_of(name, layer)
            if stored_bytes(row) != stored_bytes(replace(row, codes=None, nonzeros=row.kept)):
                named.append(LayerPlan(layer=name, codes=row.codes, added=True))
    return replace(plan, layers=tuple(named))


def row_of(name: str, layer: FrozenLayer) -> Row:
    """The profile's row of one frozen layer, with the facts about its numbers; MACs are not known here (0)."""
    codes, weights, mask = codes_of(layer), layer.codes.size, layer.pattern
    kept = mask.nonzeros if mask else weights
    bias = 0 if layer.bias is None else layer.bias.size
    rounding = (layer.activation_bits < FLOAT) * (1 + layer.exponent)
    return Row(
        name=name, kind="conv" if layer.codes.ndim > 2 else "linear", weight_shape=layer.codes.shape,
        channels=layer.codes.shape[0], macs=0, params=weights + bias, weights=weights,
        weight_bits=layer.weight_bits, activation_bits=layer.activation_bits, scales=layer.scales.size,
        floats=layer.levels.size + bias + rounding, nonzeros=codes.nonzeros, kept=kept,
        pattern=mask.kind if mask else "", index_bytes=mask.index_bytes if mask else 0,
        parts=mask.parts or 1 if mask else 1, encoding=layer.encoding, codes=codes,
    )  # fmt: skip


def codes_of(layer: FrozenLayer) -> Codes:
    """The facts about a layer's numbers; a float is zero only if all of its bits are."""
    whole, bits = whole_numbers(layer), layer.weight_bits
    found = whole != 0
    gap_bits, entries = gaps_of(np.flatnonzero(found), max(2, bits))
    counts = np.unique(whole, return_counts=True)[1]
    return Codes(
        nonzeros=int(found.sum()),
        distinct=counts.size,
        entropy_bits=0 if bits == FLOAT else _coded_bits(counts),
        huffman_bits=0 if bits == FLOAT else deflate_bits(symbol_bytes(whole, bits)),
        gap_bits=gap_bits,
        entries=entries,
    )


def whole_numbers(layer: FrozenLayer) -> Whole:
    """The layer's numbers, flat: int8 codes, or the 32 bits of every float weight as one uint32."""
    flat: Whole = np.ascontiguousarray(layer.codes).ravel()
    return flat.view(np.uint32) if layer.weight_bits == FLOAT else flat


def entropy_of(counts: Counts) -> float:
    """Bits that no code of independent symbols can save: number × entropy, from how often each symbol (> 0) occurs."""
    return float((counts * np.log2(counts.sum() / counts)).sum())


def frequencies(counts: Counts) -> Counts:
    """Frequencies that add up to 4096, at least 1 each, for symbols that occur `counts` times (> 0; at most 256).

    They start at their share rounded down; then, one by one, those change that make the code shortest.
    """
    total = 1 << FREQUENCY_BITS
    found: Counts = np.maximum(1, counts * total // counts.sum()).astype(np.int64)
    while found.sum() < total:
        found[np.argmax(counts * np.log1p(1 / found))] += 1
    while found.sum() > total:
        loss = np.log1p(1 / np.maximum(1, found - 1))
        found[np.argmin(np.where(found > 1, counts * loss, np.inf))] -= 1
    return found


def gaps_of(places: NDArray[np.intp], number_bits: int) -> tuple[int, int]:
    """(bits of a gap, 1 to 16; entries) of the shortest list that says by gaps where the non-zeros are.

    `places` (nonzeros,) ascend. A gap of k bits counts the zeros before an entry; 2^k zeros and more take fillers,
    entries that say zero after the largest gap. An entry has k + `number_bits` bits. Deep Compression (Han et al. 2016,
    https://arxiv.org/abs/1510.00149); the choice of k is ours.
    """
    zeros = zeros_before(places)
    widths = range(1, 1 + min(16, max(1, int(zeros.max(initial=0)).bit_length())))
    entries = {bits: zeros.size + int((zeros >> bits).sum()) for bits in widths}
    best = min(widths, key=lambda bits: entries[bits] * (bits + number_bits))
    return best, entries[best]


def zeros_before(places: NDArray[np.intp]) -> NDArray[np.intp]:
    """How many zeros come before every non-zero since the last one, (nonzeros,)."""
    zeros: NDArray[np.intp] = np.diff(places, prepend=-1) - 1
    return zeros


def symbol_bytes(codes: Whole, bits: int) -> Bytes:
    """The bytes that are Huffman coded: code + top each; up to 2 bits four codes in one, the first lowest."""
    if bits > 2:
        return (codes.astype(np.int16) + top_code(bits)).astype(np.uint8)
    fours = np.zeros(-(-codes.size // 4) * 4, np.uint8)
    fours[: codes.size] = codes + 1
    packed: Bytes = (fours.reshape(-1, 4) << np.array([0, 2, 4, 6], np.uint8)).sum(axis=1, dtype=np.uint8)
    return packed


def deflate_bits(data: Bytes) -> int:
    """Bits of `data` in deflate (RFC 1951) without matches: blocks with a Huffman table each, or plain where shorter.

    Code lengths are not limited to 15 bits here; blocks are as long as zlib makes them with the largest memory level.
    """
    blocks = [data[start : start + BLOCK_BYTES] for start in range(0, data.size, BLOCK_BYTES)]
    return sum(_block_bits(np.bincount(block, minlength=256).tolist()) for block in blocks)


def _block_bits(counts: list[int]) -> int:
    counts = [*counts, 1]  # the end of the block is a symbol, too
    lengths = huffman_lengths(counts)
    own = sum(count * length for count, length in zip(counts, lengths, strict=True)) + _table_bits(lengths)
    common = 8 * sum(counts[:144]) + 9 * sum(counts[144:256]) + 7
    plain = 8 * (sum(counts) - 1) + 36
    return 3 + min(own, common, plain)


def _table_bits(lengths: Sequence[int]) -> int:
    """Bits of a block's table: runs of code lengths, themselves Huffman coded, then lengths of two unused distances."""
    counts, extra = [0] * 19, 0
    for length, size in [*((length, len(tuple(group))) for length, group in groupby(lengths)), (1, 2)]:
        for symbol, bits in _run(length, size):
            counts[symbol], extra = counts[symbol] + 1, extra + bits
    coded = sum(count * length for count, length in zip(counts, huffman_lengths(counts), strict=True))
    return 14 + 3 * 18 + coded + extra


def _run(length: int, size: int) -> Iterator[tuple[int, int]]:
    """(symbol, extra bits) that say `size` equal code lengths: 16 repeats the last one, 17 and 18 are zeros."""
    if length:
        yield length, 0
        size -= 1
    while size >= 3:
        symbol, most, bits = (16, 6, 2) if length else (17, 10, 3) if size <= 10 else (18, 138, 7)
        yield symbol, bits
        size -= min(size, most)
    yield from [(length, 0)] * size


def huffman_lengths(counts: Sequence[int]) -> list[int]:
    """Bits of every symbol in a Huffman code for these counts, 0 for those that do not occur; one alone has 1 bit."""
    heap = [(count, symbol) for symbol, count in enumerate(counts) if count]
    parents: dict[int, int] = {}
    heapify(heap)
    joint = len(counts)
    while len(heap) > 1:
        (one, left), (two, right) = heappop(heap), heappop(heap)
        parents[left] = parents[right] = joint
        heappush(heap, (one + two, joint))
        joint += 1
    depths = dict.fromkeys((symbol for _, symbol in heap), 0)
    for node in sorted(parents, reverse=True):
        depths[node] = depths[parents[node]] + 1
    return [max(1, depths[symbol]) if count else 0 for symbol, count in enumerate(counts)]


def _coded_bits(counts: Counts) -> int:
    """What the entropy coder spends with its rounded frequencies; of one symbol alone nothing."""
    bits = (counts * np.log2((1 << FREQUENCY_BITS) / frequencies(counts))).sum()
    return int(np.ceil(bits))
