"""Reads `model.safetensors` by its `layout.json`, with NumPy alone: `load(FOLDER)`; `python reader.py FOLDER` lists it.

"codes" (bytes) holds the weights, each layer in its encoding; "floats" the rest: per layer scales, levels, bias, step,
power. Bits fill every byte from its lowest, every part of an encoding starts on a byte. A code is a whole number within
±`TOP[bits]`, stored as code + top in `code_bits`; in one bit it is a sign. Float weights are their own 32 bits.
"""

import json
import sys
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]  # of a layer, in the layout
TOP = {1: 1, 32: 0} | {bits: 2 ** (bits - 1) - 1 for bits in range(2, 9)}


def load(folder: str | Path) -> dict[str, Any]:
    """Every stored tensor, float32: "<layer>.weight", "<layer>.bias" and the rest; ValueError names a damaged one."""
    layout, found = json.loads(Path(folder, "layout.json").read_text("utf-8")), {}
    if layout.get("format") != 3:
        raise ValueError(f"this reads format 3, the layout has format {layout.get('format', 'below 3')}")
    blob = Path(folder, "model.safetensors").read_bytes()
    floats_at = 8 + int.from_bytes(blob[:8], "little")
    codes_at = floats_at + 4 * layout["floats"]
    for row in layout["layers"] + layout["rest"]:
        payload = blob[codes_at + row["codes_at"] :][: row["codes_bytes"]]
        numbers = blob[floats_at + 4 * row["floats_at"] :][: 4 * row["floats"]]
        if zlib.crc32(numbers, zlib.crc32(payload)) != row["crc32"]:
            raise ValueError(f"'{row['name']}' is damaged: its checksum is not the stored one")
        floats, name = np.frombuffer(numbers, "<f4").astype(np.float32), row["name"]
        if "encoding" not in row:
            found[name] = floats.reshape(row["shape"])
            continue
        scales, levels, bias, _ = np.split(floats, np.cumsum([row["scales"], row["levels"], row["biases"]]))
        found |= {name + ".weight": weight(decode(payload, row), row, scales, levels)}
        found |= {name + ".bias": bias} if row["biases"] else {}
    return found


def weight(codes: Any, row: Row, scales: Any, levels: Any) -> Any:
    """What the codes mean: float32, in the weight's shape."""
    if row["weight_bits"] == 32:
        return codes
    values, top = codes.astype(np.float32), TOP[row["weight_bits"]]
    if row["grid"] == "power_of_two":
        values = np.sign(values) * np.ldexp(np.float32(1), abs(codes.astype(int)) - top)
    if row["grid"] == "codebook":  # the levels of the codes -top to -1, then of 1 to top
        values = np.insert(levels, top, np.float32(0))[codes.astype(int) + top]
    return values * scales.reshape(-1, *[1] * (codes.ndim - 1))


def decode(payload: bytes, row: Row) -> Any:
    """The codes of a layer in the weight's shape: int8, or float32 for float weights."""
    whole = DECODERS[row["encoding"]](payload, row, prod(row["shape"])).reshape(row["shape"])
    return whole.astype("<u4").view("<f4").astype(np.float32) if row["weight_bits"] == 32 else whole.astype(np.int8)


def _take(payload: bytes, width: int, count: int) -> tuple[Any, bytes]:
    """`count` numbers of `width` bits each, and the bytes after them."""
    size = -(-width * count // 8)
    if width in (8, 32):
        return np.frombuffer(payload[:size], f"<u{width // 8}").astype(np.int64), payload[size:]
    bits = np.unpackbits(np.frombuffer(payload[:size], np.uint8), count=width * count, bitorder="little")
    whole = np.packbits(bits.reshape(count, width), axis=1, bitorder="little")
    return np.pad(whole, ((0, 0), (0, 8 - whole.shape[1]))).view("<i8").ravel().astype(np.int64), payload[size:]


def _codes(payload: bytes, row: Row, count: int) -> Any:
    found = _take(payload, row["code_bits"], count)[0]
    return 2 * found - 1 if row["code_bits"] == 1 else found - TOP[row["code_bits"]]


def _csr(payload: bytes, row: Row, weights: int) -> Any:
    rows, count = row["shape"][0], row["nonzeros"]
    pointers, rest = _take(payload, count.bit_length(), rows + 1)  # where every output's numbers start, and their end
    columns, rest = _take(rest, (weights // rows - 1).bit_length(), count)
    places = np.repeat(np.arange(rows), np.diff(pointers)) * (weights // rows) + columns
    return np.bincount(places, _codes(rest, row, count), weights)  # the codes at their places, zeros elsewhere


def _relative(payload: bytes, row: Row, weights: int) -> Any:
    gap, width = payload[0], payload[0] + row["code_bits"]  # an entry: how many zeros are before it, and its number
    found = _take(payload[1:], width, (len(payload) - 1) * 8 // width)[0]
    values = (found >> gap) - TOP[row["code_bits"]]
    real = np.cumsum(values != 0) - (values != 0) < row["nonzeros"]  # what follows the last non-zero is padding
    return np.bincount((np.cumsum((found & 2**gap - 1) + 1) - 1)[real], values[real], weights)


def _codebook(payload: bytes, row: Row, weights: int) -> Any:
    end = 1 + (payload[0] + 1) * (4 if row["weight_bits"] == 32 else 1)  # how many distinct numbers - 1; they; indices
    table = np.frombuffer(payload[1:end], "<u4" if row["weight_bits"] == 32 else "i1")
    return table[_take(payload[end:], payload[0].bit_length(), weights)[0]]


def _masked(payload: bytes, row: Row, weights: int) -> Any:
    """Where weights stay (`index_bytes`; in a bitmap: where they are not zero), then their codes, in C order."""
    shape, pattern = row["shape"], row["pattern"] or {"kind": "1:1"}
    if pattern["kind"] == "partition":  # a weight stays where its row and its column are in the same part
        mask = np.equal.outer(*np.split(_take(payload, (pattern["parts"] - 1).bit_length(), sum(shape))[0], shape[:1]))
    elif pattern["kind"] == "pe_block":  # a bit per block, filter by filter
        width = pattern["block"] if pattern["layout"] == "channel_group" else shape[1]
        blocks = _take(payload, 1, shape[0] * -(-shape[1] // width))[0].reshape(shape[0], -1)
        mask = np.repeat(np.repeat(blocks, width, axis=1)[:, : shape[1]], prod(shape[2:]), axis=1)
    else:  # N:M by (out, height, width): the places of those that stay in every run of inputs that loses one
        n, m = (min(int(number), shape[1]) for number in pattern["kind"].split(":"))
        rows, runs, bits = weights // shape[1], -(-(shape[1] - n) // m) if n < m else 0, (m - 1).bit_length()
        if row["pattern"] is None or rows * runs * n * bits > weights:
            mask = _take(payload, 1, weights)[0]  # a bit per weight, also where that is shorter
        else:
            found = _take(payload, bits, rows * runs * n)[0].reshape(rows, runs, n, 1) == np.arange(m)
            mask = np.hstack([found.any(axis=2).reshape(rows, runs * m), np.ones((rows, shape[1]))])[:, : shape[1]]
            mask = np.moveaxis(mask.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
    codes = _codes(payload[row["index_bytes"] :], row, int(np.count_nonzero(mask)))
    return np.bincount(np.flatnonzero(mask), codes, weights)


def _entropy(payload: bytes, row: Row, weights: int) -> Any:
    occurs, rest = _take(payload, 1, 2 ** row["code_bits"])  # a bit per symbol
    symbols = np.flatnonzero(occurs) - TOP[row["code_bits"]]
    less, rest = _take(rest, 12, len(symbols))  # frequencies - 1; they add up to 2^12
    which, size = np.repeat(np.arange(len(symbols)), less + 1).tolist(), ((less + 1) << 12).tolist()
    first, found, words, state = np.cumsum([0, *size]).tolist(), [], np.frombuffer(rest, "<u4").tolist(), 0
    for _ in range(weights):
        while state < 2**32 and words:
            state = state << 32 | words.pop()  # the coder's stack: its last 32-bit word comes first
        found.append(index := which[(state & 0xFFFFFF) >> 12])
        state = (state >> 24) * size[index] + (state & 0xFFFFFF) - first[index]
    return symbols[found]


DECODERS: Any = {  # by name: (bytes, row, number of weights) -> codes
    "dense": _codes, "bitmap": _masked, "csr": _csr, "relative": _relative, "codebook": _codebook,
    "n:m": _masked, "structured": _masked, "entropy": _entropy,
    "ternary": lambda payload, row, weights: (  # five codes + 1 in a byte, the first is worth 1, the last 81
        np.repeat(np.frombuffer(payload, np.uint8), 5)[:weights] // np.resize([1, 3, 9, 27, 81], weights) % 3 - 1
    ),
    "huffman": lambda payload, row, weights: (  # raw deflate of a byte per code; up to 2 bits, of four codes in a byte
        _take(zlib.decompress(payload, -15), 2 if row["code_bits"] == 2 else 8, weights)[0] - TOP[row["code_bits"]]
    ),
}  # fmt: skip
if __name__ == "__main__":
    load(sys.argv[1])  # checks every byte
    table = json.loads(Path(sys.argv[1], "layout.json").read_text("utf-8"))
    for row in table["layers"] + table["rest"]:
        print(row["name"], row["shape"], row.get("encoding", "floats"), row["codes_bytes"] + 4 * row["floats"], "bytes")
