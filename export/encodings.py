"""How the numbers of one weight become bytes: one table by name. `paretune.export.reader` says what the bytes are."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.compress.coded import Whole, gaps_of, row_of, symbol_bytes, whole_numbers, zeros_before
from paretune.compress.patterns import index_of, mask_of
from paretune.costs.storage import CHEAPEST, code_bits, sizes, stored_as, value_bits
from paretune.errors import ParetuneError
from paretune.export.entropy import entropy_coded
from paretune.frozen import FrozenLayer, top_code
from paretune.plan import FLOAT
from paretune.records import to_plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """One way to store a weight; which ones fit and how large they get says `paretune.costs.storage.ENCODINGS`.

    `bits` are those of one stored number, from the layer's bits and its numbers.
    """

    encode: Callable[[FrozenLayer], bytes]
    bits: Callable[[FrozenLayer], int]


def encoded(name: str, layer: FrozenLayer) -> tuple[dict[str, Any], bytes]:
    """How a layer's weight is stored, as the layout says it, and its bytes: those of the encoding it asks for, or the
    fewest, of equally many the first in `ENCODINGS`.

    Raises:
        ParetuneError: a code that does not fit the layer's bits, or a weight where its pattern has a zero.
        ImpossiblePlan: it asks for an encoding that does not fit it.
    """
    _check(name, layer)
    row = row_of(name, layer)
    if layer.encoding != CHEAPEST:
        near = [stored_as(row)]
    else:  # the size of coded numbers is known within 16 bytes + 1 %
        told = sizes(row)
        least = min(told.values())
        near = [encoding for encoding, size in told.items() if size <= 1.03 * least + 40]
    payloads = {encoding: ENCODINGS[encoding].encode(layer) for encoding in near}
    best = min(payloads, key=lambda encoding: len(payloads[encoding]))
    return storage_row(layer, best), payloads[best]


def storage_row(layer: FrozenLayer, encoding: str) -> dict[str, Any]:
    """All that it takes to decode a weight that is stored like this, but for the bytes: a plain dict.

    "pattern" is the layer's `Pattern` without its position information, where the encoding holds that; else None.
    """
    held = layer.pattern if encoding in ("n:m", "structured") else None
    pattern = held and {key: value for key, value in to_plain(held).items() if key != "stored"}
    index = -(-layer.codes.size // 8) if encoding == "bitmap" else held.index_bytes if held else 0
    return {
        "shape": list(layer.codes.shape), "encoding": encoding, "weight_bits": layer.weight_bits,
        "code_bits": ENCODINGS[encoding].bits(layer), "nonzeros": int(np.count_nonzero(whole_numbers(layer))),
        "index_bytes": index, "pattern": pattern,
    }  # fmt: skip


def packed(numbers: NDArray[Any], width: int) -> bytes:
    """Numbers (>= 0) in `width` bits each, the lowest first; bits fill every byte from its lowest."""
    kind = np.dtype(f"<u{next(size for size in (1, 2, 4, 8) if width <= 8 * size)}")
    whole = np.ascontiguousarray(numbers, dtype=kind)
    if width == 8 * kind.itemsize:
        return whole.tobytes()
    bits = np.unpackbits(whole.view(np.uint8).reshape(-1, kind.itemsize), axis=1, bitorder="little")
    return np.packbits(bits[:, :width], bitorder="little").tobytes()


def _check(name: str, layer: FrozenLayer) -> None:
    top, whole = top_code(layer.weight_bits), whole_numbers(layer)
    if layer.weight_bits < FLOAT and np.abs(whole.astype(np.int16)).max(initial=0) > top:
        raise ParetuneError(f"layer '{name}' holds codes beyond ±{top}, which do not fit {layer.weight_bits} bits")
    lost = np.count_nonzero(whole) - np.count_nonzero(_kept(layer))
    if lost:
        kind = layer.pattern.kind if layer.pattern else ""
        raise ParetuneError(f"layer '{name}' holds {lost} weights where its pattern '{kind}' has zeros")


def _kept(layer: FrozenLayer) -> Whole:
    """The numbers that the layer's pattern leaves, in C order."""
    whole = whole_numbers(layer)
    return whole if layer.pattern is None else whole[mask_of(layer.pattern, layer.codes.shape).ravel()]


def _written(numbers: Whole, width: int) -> bytes:
    """Numbers as they are stored: shifted to start at 0, in one bit the sign, floats as they are."""
    if width == FLOAT:
        return packed(numbers, FLOAT)
    whole = numbers.astype(np.int16)
    return packed((whole + 1) // 2 if width == 1 else whole + top_code(width), width)


def _zero_bits(numbers: Whole, bits: int) -> int:
    return code_bits(bits, bool((numbers == 0).any()))


def _dense(layer: FrozenLayer) -> bytes:
    whole = whole_numbers(layer)
    return _written(whole, _zero_bits(whole, layer.weight_bits))


def _ternary(layer: FrozenLayer) -> bytes:
    digits = np.zeros((-(-layer.codes.size // 5), 5), np.uint8)
    digits.reshape(-1)[: layer.codes.size] = whole_numbers(layer) + 1
    fives: NDArray[np.uint8] = (digits * np.array([1, 3, 9, 27, 81], np.uint8)).sum(axis=1, dtype=np.uint8)
    return fives.tobytes()


def _bitmap(layer: FrozenLayer) -> bytes:
    whole = whole_numbers(layer)
    return packed(whole != 0, 1) + _written(whole[whole != 0], value_bits(layer.weight_bits))


def _csr(layer: FrozenLayer) -> bytes:
    whole = whole_numbers(layer).reshape(layer.codes.shape[0], -1)
    pointers = np.cumsum([0, *np.count_nonzero(whole, axis=1)])
    columns = packed(np.nonzero(whole)[1], (whole.shape[1] - 1).bit_length())
    values = _written(whole[whole != 0], value_bits(layer.weight_bits))
    return packed(pointers, int(pointers[-1]).bit_length()) + columns + values


def _relative(layer: FrozenLayer) -> bytes:
    whole, number_bits = whole_numbers(layer), max(2, layer.weight_bits)
    places = np.flatnonzero(whole)
    gap_bits, entries = gaps_of(places, number_bits)
    zeros, longest = zeros_before(places), (1 << gap_bits) - 1
    zero = 0 if number_bits == FLOAT else top_code(number_bits)
    listed = np.full(entries, longest | zero << gap_bits, np.uint64)  # fillers, but where there is a number:
    at = np.cumsum((zeros >> gap_bits) + 1) - 1
    listed[at] = (zeros & longest) | (whole[places].astype(np.int64) + zero) << gap_bits
    return bytes([gap_bits]) + packed(listed, gap_bits + number_bits)


def _codebook(layer: FrozenLayer) -> bytes:
    table, index = np.unique(whole_numbers(layer), return_inverse=True)
    head = bytes([table.size - 1]) + table.astype(table.dtype.newbyteorder("<")).tobytes()
    return head + packed(index, (table.size - 1).bit_length())


def _masked(layer: FrozenLayer) -> bytes:
    assert layer.pattern is not None
    kept = _kept(layer)
    return index_of(layer.pattern) + _written(kept, _zero_bits(kept, layer.weight_bits))


def _huffman(layer: FrozenLayer) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(symbol_bytes(whole_numbers(layer), layer.weight_bits).tobytes()) + coder.flush()


def _entropy(layer: FrozenLayer) -> bytes:
    bits = _two_up(layer)
    present, often, words = entropy_coded(whole_numbers(layer).astype(np.int16) + top_code(bits))
    alphabet = np.zeros(1 << bits, np.uint8)
    alphabet[present] = 1
    return packed(alphabet, 1) + packed(often - 1, 12) + words


def _two_up(layer: FrozenLayer) -> int:
    return max(2, layer.weight_bits)


def _value_bits(layer: FrozenLayer) -> int:
    return value_bits(layer.weight_bits)


def _dense_bits(layer: FrozenLayer) -> int:
    return _zero_bits(whole_numbers(layer), layer.weight_bits)


def _kept_bits(layer: FrozenLayer) -> int:
    return _zero_bits(_kept(layer), layer.weight_bits)


ENCODINGS: Mapping[str, Encoding] = {
    "dense": Encoding(encode=_dense, bits=_dense_bits),
    "ternary": Encoding(encode=_ternary, bits=_two_up),
    "bitmap": Encoding(encode=_bitmap, bits=_value_bits),
    "csr": Encoding(encode=_csr, bits=_value_bits),
    "relative": Encoding(encode=_relative, bits=_two_up),
    "codebook": Encoding(encode=_codebook, bits=_two_up),
    "n:m": Encoding(encode=_masked, bits=_kept_bits),
    "structured": Encoding(encode=_masked, bits=_kept_bits),
    "huffman": Encoding(encode=_huffman, bits=_two_up),
    "entropy": Encoding(encode=_entropy, bits=_two_up),
}
