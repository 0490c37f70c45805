"""A frozen model as one safetensors file of two tensors, and the table that says what lies where.

"codes" holds, layer by layer and each starting on a byte, the weights in their encodings (`paretune.export.encodings`).
"floats" holds what stays float32: per layer scales, levels, bias, activation step and power; then the rest.
"""

import base64
import zlib
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from paretune.compress.coded import entropy_of, whole_numbers
from paretune.compress.partition import blocks
from paretune.compress.patterns import mask_of
from paretune.errors import ParetuneError
from paretune.export.encodings import encoded
from paretune.export.reader import decode
from paretune.frozen import HEADER_BYTES, Frozen, FrozenLayer
from paretune.plan import FLOAT, Pattern

FORMAT = 3  # of the layout; 1 knew no patterns, 2 no encodings, and neither says its number
Floats = NDArray[np.float32]


def pack(frozen: Frozen) -> bytes:
    """The file alone, of `packed_with_layout`."""
    return packed_with_layout(frozen)[0]


def layout(frozen: Frozen) -> dict[str, Any]:
    """What lies where in it alone, of `packed_with_layout`."""
    return packed_with_layout(frozen)[1]


def packed_with_layout(frozen: Frozen) -> tuple[bytes, dict[str, Any]]:
    """The file, and what lies where in it: a plain dict, ready for JSON.

    The file is `HEADER_BYTES`, then four bytes per float, then the encoded weights, the smallest way or as asked. A
    layer's row holds how its weight is stored (`paretune.export.encodings.storage_row`), its grid and activation range,
    where its bytes in "codes" and its numbers in "floats" start, how many there are (of these: scales, levels, biases),
    and the CRC-32 of both. A row of "rest" is one float tensor of the state.

    Raises:
        ParetuneError: a code that does not fit its layer's bits, or a weight where the pattern has a zero; names the
            layer.
        ImpossiblePlan: a layer asks for an encoding that does not fit it.
    """
    stored = {name: encoded(name, layer) for name, layer in frozen.layers.items()}
    return _file(frozen, b"".join(codes for _, codes in stored.values())), _layout(frozen, stored)


def _file(frozen: Frozen, codes: bytes) -> bytes:
    floats = [_floats(layer) for layer in frozen.layers.values()]
    floats += [array.ravel() for array in frozen.rest.values()]
    blob = save({
        "codes": np.frombuffer(codes, np.uint8),
        "floats": np.concatenate([np.empty(0, np.float32), *floats], dtype=np.float32),
    })  # fmt: skip
    length = int.from_bytes(blob[:8], "little")
    # Blanks after the JSON are part of the format; a header of constant size makes the size of a plan plain arithmetic.
    header = blob[8 : 8 + length].rstrip().ljust(HEADER_BYTES - 8)
    return len(header).to_bytes(8, "little") + header + blob[8 + length :]


def _layout(frozen: Frozen, stored: dict[str, tuple[dict[str, Any], bytes]]) -> dict[str, Any]:
    rows, rest, codes_at, floats_at = [], [], 0, 0
    for name, layer in frozen.layers.items():
        (row, codes), floats = stored[name], _floats(layer)
        rows.append({
            "name": name, **row, "grid": layer.grid, "scales": layer.scales.size, "levels": layer.levels.size,
            "biases": 0 if layer.bias is None else layer.bias.size, "activation_bits": layer.activation_bits,
            "low": layer.low, "high": layer.high, "exponent": layer.exponent, "codes_at": codes_at,
            "codes_bytes": len(codes), "floats_at": floats_at, "floats": len(floats), "crc32": _crc(codes, floats),
        })  # fmt: skip
        codes_at, floats_at = codes_at + len(codes), floats_at + len(floats)
    for name, array in frozen.rest.items():
        rest.append({
            "name": name, "shape": list(array.shape), "codes_at": codes_at, "codes_bytes": 0,
            "floats_at": floats_at, "floats": array.size, "crc32": _crc(b"", array),
        })  # fmt: skip
        floats_at += array.size
    return {"format": FORMAT, "codes_bytes": codes_at, "floats": floats_at, "layers": rows, "rest": rest}


def storage_table(frozen: Frozen, placed: dict[str, Any]) -> list[dict[str, Any]]:
    """How every layer's weight is stored, without its scales: plain rows, sizes in bytes; `placed` is its layout.

    `raw` is at the layer's bits, `raw_2_bit` what one or two bits would take in two (None for others), `stored` what
    the file holds, `entropy` what independent coding of the numbers cannot go below (None for float weights).
    """
    rows = []
    for row in placed["layers"]:
        layer = frozen.layers[row["name"]]
        counts, bits = np.unique(whole_numbers(layer), return_counts=True)[1], layer.weight_bits
        rows.append({
            "layer": row["name"], "encoding": row["encoding"], "weight_bits": bits, "weights": layer.codes.size,
            "nonzeros": row["nonzeros"], "raw": -(-layer.codes.size * bits // 8),
            "raw_2_bit": -(-layer.codes.size // 4) if bits <= 2 else None, "stored": row["codes_bytes"],
            "entropy": None if bits == FLOAT else entropy_of(counts) / 8,
        })  # fmt: skip
    return rows


def unpack(blob: bytes, layout: dict[str, Any]) -> Frozen:
    """The frozen model again, exactly, but for a pattern that the encoding does not hold: the plan knows it.

    Every layer has the encoding that the file has. A layout of format 1 or 2 is read, too.

    Raises:
        ParetuneError: missing or changed bytes; names the first layer or tensor that is hit. Or a newer format.
    """
    version = layout.get("format", 2)
    if version > FORMAT:
        raise ParetuneError(f"the layout has format {version}, this paretune reads up to {FORMAT}; update paretune")
    codes, floats = _tensors(blob, layout)
    layers, rest = {}, {}
    for row in layout["layers"]:
        own_codes, own_floats = _slices(row, codes, floats)
        layers[row["name"]] = (_layer if version == FORMAT else _old_layer)(row, own_codes, own_floats)
    for row in layout["rest"]:
        rest[row["name"]] = _slices(row, codes, floats)[1].reshape(row["shape"])
    return Frozen(layers=layers, rest=rest)


def _floats(layer: FrozenLayer) -> Floats:
    bias = np.empty(0) if layer.bias is None else layer.bias
    rounding = [layer.step, layer.power] if layer.exponent else [layer.step]
    told = rounding if layer.activation_bits < FLOAT else []
    return np.concatenate([layer.scales, layer.levels, bias, told], dtype=np.float32, casting="unsafe")


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
    ends = np.cumsum([row["scales"], row["levels"], row["biases"]])
    scales, levels, bias, rounding = np.split(floats, ends)
    return FrozenLayer(
        codes=decode(codes, row), scales=scales, levels=levels, grid=row["grid"],
        bias=bias if row["biases"] else None, weight_bits=row["weight_bits"], activation_bits=row["activation_bits"],
        step=float(rounding[0]) if rounding.size else 0.0, low=row["low"], high=row["high"],
        power=float(rounding[1]) if rounding.size > 1 else 1.0, exponent=row["exponent"],
        pattern=_pattern(row, codes), encoding=row["encoding"],
    )  # fmt: skip


def _pattern(row: dict[str, Any], codes: bytes) -> Pattern | None:
    facts = row.get("pattern")
    if facts is None:
        return None
    return Pattern(**facts, stored=base64.b64encode(codes[: facts["index_bytes"]]).decode())


def _old_layer(row: dict[str, Any], codes: bytes, floats: Floats) -> FrozenLayer:
    """A layer of format 1 or 2: a pattern's index, then the weights it leaves, dense; float weights are in "floats".

    They are in C order, of a partition one block after another.
    """
    shape, bits, pattern = tuple(row["shape"]), row["weight_bits"], _pattern(row, codes)
    quantized, count = bits < FLOAT, pattern.nonzeros if pattern else prod(shape)
    ends = np.cumsum([0 if quantized else count, shape[0] if quantized else 0, shape[0] if row["bias"] else 0])
    weights, scales, bias, step = np.split(floats, ends)
    if quantized:
        dense = {"encoding": "dense", "shape": [count], "weight_bits": bits, "code_bits": bits}
        weights = decode(codes[pattern.index_bytes if pattern else 0 :], dense)
    return FrozenLayer(
        codes=_spread(weights, shape, pattern), scales=scales, bias=bias if row["bias"] else None, weight_bits=bits,
        activation_bits=row["activation_bits"], step=float(step[0]) if row["activation_bits"] < FLOAT else 0.0,
        low=row["low"], high=row["high"], pattern=pattern,
    )  # fmt: skip


def _spread(stored: NDArray[Any], shape: tuple[int, ...], pattern: Pattern | None) -> NDArray[Any]:
    """The weight of `shape` whose kept weights these are."""
    if pattern is None:
        return stored.reshape(shape)
    places = np.arange(prod(shape)).reshape(shape)
    kept = blocks(places, pattern)[0] if pattern.kind == "partition" else places[mask_of(pattern, shape)]
    whole = np.zeros(prod(shape), stored.dtype)
    whole[kept.ravel()] = stored
    return whole.reshape(shape)
