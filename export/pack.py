"""A frozen model as one safetensors file of two tensors, and the table that says what lies where.

"codes" holds, layer by layer and each starting on a byte: where the weights of a masked layer are (`index_of` its
pattern), then a quantized layer's bits, code + offset, little-endian. "floats" holds what stays float32: per layer
(float weights) scales, bias, activation step; then the rest. Of a masked layer only the weights that its pattern leaves
are stored, as codes or as floats, in C order; of a partition one block after another, each in C order.
"""

import base64
import zlib
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from paretune.compress.partition import blocks
from paretune.compress.patterns import index_of, mask_of
from paretune.compress.quantize import weight_levels
from paretune.errors import ParetuneError
from paretune.frozen import HEADER_BYTES, Frozen, FrozenLayer
from paretune.plan import FLOAT, Pattern
from paretune.records import to_plain

Floats = NDArray[np.float32]


def pack(frozen: Frozen) -> bytes:
    """The file: `HEADER_BYTES`, then four bytes per float, then the packed codes.

    A layer takes index bytes + ⌈stored weights × bits / 8⌉ + 4 × (scales, bias and step) bytes; without a pattern
    it has no index bytes and stores every weight.

    Raises:
        ParetuneError: a code that does not fit its layer's bits, or a weight where the pattern has a zero; names the
            layer.
    """
    codes = b"".join(_codes(name, layer) for name, layer in frozen.layers.items())
    floats = [_floats(name, layer) for name, layer in frozen.layers.items()]
    floats += [array.ravel() for array in frozen.rest.values()]
    blob = save({
        "codes": np.frombuffer(codes, np.uint8),
        "floats": np.concatenate([np.empty(0, np.float32), *floats], dtype=np.float32),
    })  # fmt: skip
    length = int.from_bytes(blob[:8], "little")
    # Blanks after the JSON are part of the format; a header of constant size makes the size of a plan plain arithmetic.
    header = blob[8 : 8 + length].rstrip().ljust(HEADER_BYTES - 8)
    return len(header).to_bytes(8, "little") + header + blob[8 + length :]


def layout(frozen: Frozen) -> dict[str, Any]:
    """What lies where in `pack(frozen)`: a plain dict, ready for JSON.

    A layer's row holds its shape, bits, activation range, where its bytes in "codes" and its numbers in "floats" start,
    how many there are, and the CRC-32 of both. Its "pattern" is null, or the `Pattern` but for the position
    information, which is the first `index_bytes` of its bytes. A row of "rest" is one float tensor of the state.
    """
    rows, rest, codes_at, floats_at = [], [], 0, 0
    for name, layer in frozen.layers.items():
        codes, floats = _codes(name, layer), _floats(name, layer)
        rows.append({
            "name": name, "shape": list(layer.codes.shape), "bias": layer.bias is not None,
            "weight_bits": layer.weight_bits, "activation_bits": layer.activation_bits,
            "low": layer.low, "high": layer.high, "pattern": _pattern_row(layer.pattern),
            "codes_at": codes_at, "codes_bytes": len(codes), "floats_at": floats_at, "floats": len(floats),
            "crc32": _crc(codes, floats),
        })  # fmt: skip
        codes_at, floats_at = codes_at + len(codes), floats_at + len(floats)
    for name, array in frozen.rest.items():
        rest.append({
            "name": name, "shape": list(array.shape), "codes_at": codes_at, "codes_bytes": 0,
            "floats_at": floats_at, "floats": array.size, "crc32": _crc(b"", array),
        })  # fmt: skip
        floats_at += array.size
    return {"codes_bytes": codes_at, "floats": floats_at, "layers": rows, "rest": rest}


def unpack(blob: bytes, layout: dict[str, Any]) -> Frozen:
    """The frozen model again, exactly; a layout from before there were patterns is read as one without.

    Raises:
        ParetuneError: missing or changed bytes; names the first layer or tensor that is hit.
    """
    codes, floats = _tensors(blob, layout)
    layers, rest = {}, {}
    for row in layout["layers"]:
        own_codes, own_floats = _slices(row, codes, floats)
        layers[row["name"]] = _layer(row, own_codes, own_floats)
    for row in layout["rest"]:
        rest[row["name"]] = _slices(row, codes, floats)[1].reshape(row["shape"])
    return Frozen(layers=layers, rest=rest)


def _codes(name: str, layer: FrozenLayer) -> bytes:
    """The layer's index, then its stored codes, shifted to start at zero, `weight_bits` bits each."""
    index = b"" if layer.pattern is None else index_of(layer.pattern)
    if layer.weight_bits == FLOAT:
        return index
    offset = weight_levels(layer.weight_bits)
    whole = _stored(name, layer).astype(np.int16).reshape(-1, 1)
    if np.abs(whole).max(initial=0) > offset:
        raise ParetuneError(f"layer '{name}' holds codes beyond ±{offset}, which do not fit {layer.weight_bits} bits")
    bits = np.unpackbits((whole + offset).astype(np.uint8), axis=1, bitorder="little")
    return index + np.packbits(bits[:, : layer.weight_bits], bitorder="little").tobytes()


def _decoded(packed: bytes, weights: int, weight_bits: int) -> NDArray[np.int8]:
    count = weights * weight_bits
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=count, bitorder="little").reshape(-1, weight_bits)
    whole = np.packbits(bits, axis=1, bitorder="little").astype(np.int16)
    return (whole - weight_levels(weight_bits)).astype(np.int8).ravel()


def _stored(name: str, layer: FrozenLayer) -> NDArray[Any]:
    """The weights that the file holds, in its order, (stored,)."""
    if layer.pattern is None:
        return layer.codes.ravel()
    stored: NDArray[Any] = layer.codes.ravel()[_places(layer.pattern, layer.codes.shape)]
    lost = np.count_nonzero(layer.codes) - np.count_nonzero(stored)
    if lost:
        raise ParetuneError(f"layer '{name}' holds {lost} weights where its pattern '{layer.pattern.kind}' has zeros")
    return stored


def _places(pattern: Pattern, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Where the stored weights lie in the flat weight, in the order of the file."""
    if pattern.kind != "partition":
        return np.flatnonzero(mask_of(pattern, shape))
    places: NDArray[np.intp] = blocks(np.arange(prod(shape)).reshape(shape), pattern)[0].ravel()
    return places


def _pattern_row(pattern: Pattern | None) -> dict[str, Any] | None:
    return None if pattern is None else {key: value for key, value in to_plain(pattern).items() if key != "stored"}


def _floats(name: str, layer: FrozenLayer) -> Floats:
    weights = _stored(name, layer) if layer.weight_bits == FLOAT else np.empty(0)
    bias = np.empty(0) if layer.bias is None else layer.bias
    step = [layer.step] if layer.activation_bits < FLOAT else []
    return np.concatenate([weights, layer.scales, bias, step], dtype=np.float32, casting="unsafe")


def _crc(codes: bytes, floats: Floats) -> int:
    return zlib.crc32(floats.tobytes(), zlib.crc32(codes))


def _tensors(blob: bytes, layout: dict[str, Any]) -> tuple[bytes, Floats]:
    try:
        tensors = load(blob)
        return tensors["codes"].tobytes(), np.frombuffer(tensors["floats"].tobytes(), np.float32)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ParetuneError(f"the packed weights cannot be read: {_damage(blob, layout)} ({error})") from error


def _damage(blob: bytes, layout: dict[str, Any]) -> str:
    """Which layer an unreadable file loses first; floats come before codes in it."""
    codes_at = HEADER_BYTES + 4 * layout["floats"]
    size = codes_at + layout["codes_bytes"]
    for row in [*layout["layers"], *layout["rest"]]:
        in_floats = HEADER_BYTES + 4 * (row["floats_at"] + row["floats"])
        in_codes = codes_at + row["codes_at"] + row["codes_bytes"] if row["codes_bytes"] else 0
        if max(in_floats, in_codes) > len(blob):
            return f"{len(blob)} of {size} bytes are there, '{row['name']}' is the first that is not whole"
    return f"{len(blob)} bytes for {size}, the header is damaged"


def _slices(row: dict[str, Any], codes: bytes, floats: Floats) -> tuple[bytes, Floats]:
    own_codes = codes[row["codes_at"] : row["codes_at"] + row["codes_bytes"]]
    own_floats = floats[row["floats_at"] : row["floats_at"] + row["floats"]].copy()
    if _crc(own_codes, own_floats) != row["crc32"]:
        raise ParetuneError(f"'{row['name']}' is damaged in the packed weights: its checksum is not the stored one")
    return own_codes, own_floats


def _layer(row: dict[str, Any], codes: bytes, floats: Floats) -> FrozenLayer:
    shape, bits, pattern = tuple(row["shape"]), row["weight_bits"], _pattern(row, codes)
    quantized, count = bits < FLOAT, pattern.nonzeros if pattern else prod(shape)
    weights, scales, bias, step = np.split(floats, np.cumsum([
        0 if quantized else count, shape[0] if quantized else 0, shape[0] if row["bias"] else 0
    ]))  # fmt: skip
    stored = _decoded(codes[pattern.index_bytes if pattern else 0 :], count, bits) if quantized else weights
    return FrozenLayer(
        codes=_spread(stored, shape, pattern), scales=scales,
        bias=bias if row["bias"] else None, weight_bits=bits, activation_bits=row["activation_bits"],
        step=float(step[0]) if row["activation_bits"] < FLOAT else 0.0, low=row["low"], high=row["high"],
        pattern=pattern,
    )  # fmt: skip


def _pattern(row: dict[str, Any], codes: bytes) -> Pattern | None:
    facts = row.get("pattern")
    if facts is None:
        return None
    return Pattern(**facts, stored=base64.b64encode(codes[: facts["index_bytes"]]).decode())


def _spread(stored: NDArray[Any], shape: tuple[int, ...], pattern: Pattern | None) -> NDArray[Any]:
    """The weight of `shape` whose `_stored` this is."""
    if pattern is None:
        return stored.reshape(shape)
    whole = np.zeros(prod(shape), stored.dtype)
    whole[_places(pattern, shape)] = stored
    return whole.reshape(shape)
