"""What of a frozen layer's numbers ONNX can hold: the type of its weights, and the rounding of what it reads."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from paretune.frozen import Frozen, FrozenLayer
from paretune.plan import FLOAT

INT4_OPSET, INT2_OPSET = 21, 25
FREE = {"codebook": "codebook: ONNX has no free levels", "power_of_two": "power_of_two: ONNX has no exponents"}


def held_as_float(frozen: Frozen) -> dict[str, str]:
    """Why the graph holds a quantized layer's weight as float32, by layer; layers held as whole numbers are not named.

    Those floats lie on the layer's grid: the graph computes what the packed file says, it only takes more bytes.
    """
    layers = frozen.layers.items()
    return {name: FREE[layer.grid] for name, layer in layers if layer.weight_bits < FLOAT and layer.grid in FREE}


def stored_type(layer: FrozenLayer) -> int | None:
    """ONNX's narrowest type for the codes: INT2 for 1 and 2 bits, INT4 for 3 and 4, else INT8; None for float."""
    if layer.weight_bits == FLOAT or layer.grid in FREE:
        return None
    narrow = {1: TensorProto.INT2, 2: TensorProto.INT2, 3: TensorProto.INT4, 4: TensorProto.INT4}
    return int(narrow.get(layer.weight_bits, TensorProto.INT8))


def stored_numbers(layer: FrozenLayer) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """What the graph stores of the weight: codes and scales (out,), or the float32 weight and no scales (0,)."""
    if stored_type(layer) is None:
        return layer.weight(), np.empty(0, np.float32)
    return layer.codes, layer.scales


def least_opset(frozen: Frozen) -> int:
    """The lowest opset that has all types of the graph: 25 if a weight is INT2, else 21."""
    narrow = any(stored_type(layer) == TensorProto.INT2 for layer in frozen.layers.values())
    return INT2_OPSET if narrow else INT4_OPSET


def input_grid(name: str, layer: FrozenLayer) -> dict[str, NDArray[Any]]:
    """What the rounding of a layer's input reads, by initializer: step, zero, lowest and highest value, and the power
    unless it is 1; or nothing.
    """
    if layer.activation_bits == FLOAT:
        return {}
    step = np.float32(layer.step)
    grid = {
        "step": step,
        "zero": _zero(layer),
        "low": step * np.float32(layer.low),
        "high": step * np.float32(layer.high),
    }
    if layer.power != 1.0:
        grid["power"] = np.float32(layer.power)
    return {f"{name}.input_{key}": np.asarray(value) for key, value in grid.items()}


def _zero(layer: FrozenLayer) -> np.uint8 | np.int8:
    """The stored code of zero. Its type says which codes there are, so all from `low` to `high` must fit."""
    return np.int8(0) if layer.low == -layer.high < 0 else np.uint8(-layer.low)


def rounding(name: str, layer: FrozenLayer, data: str, call: str) -> list[NodeProto]:
    """Nodes from `data` on that give step × clip(round(u / step), low, high) with u = sign(x) |x|^power.

    QuantizeLinear, DequantizeLinear and Clip. Clip comes last, even where it changes nothing, because it keeps a
    runtime from matching the layer as an integer one. With Clip first, onnxruntime 1.31 rounded biases, took integer
    kernels at 8 bits for both, and did not load 2-bit weights with 8-bit activations: in some nets other classes than
    measured (benchmarks/onnx_order.md).
    """
    grid = [f"{name}.input_step", f"{name}.input_zero"]
    codes, rounded, clipped = (f"{name}.input_{part}{call}" for part in ("codes", "rounded", "clipped"))
    before = _powered(name, data, call) if layer.power != 1.0 else []
    data = before[-1].output[0] if before else data
    return [
        *before,
        helper.make_node("QuantizeLinear", [data, *grid], [codes], f"{name}.round{call}"),
        helper.make_node("DequantizeLinear", [codes, *grid], [rounded], f"{name}.unround{call}"),
        helper.make_node("Clip", [rounded, f"{name}.input_low", f"{name}.input_high"], [clipped], f"{name}.clip{call}"),
    ]


def _powered(name: str, data: str, call: str) -> list[NodeProto]:
    """sign(x) |x|^power, since Pow of a negative number is not one."""
    size, power, sign, out = (f"{name}.input_{part}{call}" for part in ("size", "raised", "sign", "signed"))
    return [
        helper.make_node("Abs", [data], [size], f"{name}.abs{call}"),
        helper.make_node("Pow", [size, f"{name}.input_power"], [power], f"{name}.pow{call}"),
        helper.make_node("Sign", [data], [sign], f"{name}.sign{call}"),
        helper.make_node("Mul", [power, sign], [out], f"{name}.turn{call}"),
    ]
