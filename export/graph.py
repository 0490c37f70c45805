"""A thawed model as an ONNX graph that stores whole numbers: INT2, INT4 or INT8 weights, rounded activations."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from paretune.errors import ParetuneError
from paretune.frozen import Frozen, FrozenLayer
from paretune.plan import FLOAT

MATMULS = ("Conv", "Gemm", "MatMul")  # the nodes a layer can become; each reads data, weight (, bias)
INT4_OPSET, INT2_OPSET = 21, 25


def to_onnx(model: nn.Module, frozen: Frozen, example: Tensor) -> onnx.ModelProto:
    """The graph of `model` (thawed from `frozen`), "input" (n, ...) to "logits" (n, ...).

    `example` is one batch of any size. Weights are stored in the narrowest type that holds them
    (2 bits: INT2, 3 and 4: INT4, 5 to 8: INT8) as `<layer>.weight_codes` with one float scale per output channel;
    a layer that reads quantized activations gets QuantizeLinear, DequantizeLinear and Clip before it.

    Raises:
        ParetuneError: the exporter cannot trace the model, or a layer is not to be found in its graph.
    """
    opset = INT2_OPSET if any(layer.weight_bits == 2 for layer in frozen.layers.values()) else INT4_OPSET
    plain, marks = _marked(model, frozen)
    proto = _traced(plain, example, opset)
    _strip(proto)
    places = {name: _place(proto.graph, name, marks[name]) for name in frozen.layers}
    for name, layer in frozen.layers.items():
        _store_weight(proto.graph, name, layer, places[name])
    _store_steps(proto.graph, frozen, {name: _readers(proto.graph, name) for name in frozen.layers})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def stored_weights(proto: onnx.ModelProto) -> dict[str, tuple[NDArray[Any], NDArray[np.float32]]]:
    """Weights of a graph from `to_onnx`, by layer: codes and scales, or float weights and no scales."""
    arrays = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = {
        name.removesuffix(".weight"): (numpy_helper.to_array(tensor), np.empty(0, np.float32))
        for name, tensor in arrays.items()
        if name.endswith(".weight")
    }
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0].endswith(".weight_codes"):
            codes = numpy_helper.to_array(arrays[node.input[0]]).astype(np.int8)
            scales = numpy_helper.to_array(arrays[node.input[1]])
            turned = codes.T if _attribute(node, "axis") == 1 else codes
            found[node.input[0].removesuffix(".weight_codes")] = (turned, scales)
    return found


def _marked(model: nn.Module, frozen: Frozen) -> tuple[nn.Module, dict[str, NDArray[np.float32]]]:
    """A copy without activation rounding whose weights are random, and those weights.

    Real weights can be alike (zeros, say), and then the exporter merges layers or drops them.
    """
    plain, marks = copy.deepcopy(model).cpu().eval(), {}
    random = np.random.default_rng(0)
    for name, layer in frozen.layers.items():
        module = plain.get_submodule(name)
        marks[name] = random.standard_normal(layer.codes.shape, np.float32)
        module.weight = nn.Parameter(torch.from_numpy(marks[name].copy()), requires_grad=False)
        if layer.activation_bits < FLOAT:
            module.activation_rounding = nn.Identity()
    return plain, marks


def _traced(model: nn.Module, example: Tensor, opset: int) -> onnx.ModelProto:
    # A batch of one would be taken for a constant.
    batch = torch.cat([example, example])[:2].cpu()
    try:
        with _silence():
            program = torch.onnx.export(
                model, (batch,), dynamo=True, opset_version=opset, verbose=False,
                input_names=["input"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("n")},),
            )  # fmt: skip
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ParetuneError(f"PyTorch cannot export this model with a free batch axis: {first}") from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    # The exporter may fall back to the example's shape without a word.
    if proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param != "n":
        raise ParetuneError(
            "PyTorch cannot export this model with a free batch axis: its forward fixes the batch's size"
        )
    return proto


@contextmanager
def _silence() -> Iterator[None]:
    """No warnings and no log lines; the exporter has many, none that a user could act on."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _strip(proto: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they name files of this machine and outweigh small models."""
    graph = proto.graph
    for owner in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        owner.ClearField("metadata_props")
        owner.ClearField("doc_string")
    graph.ClearField("value_info")
    graph.name = "paretune"


def _place(graph: onnx.GraphProto, name: str, mark: NDArray[np.float32]) -> tuple[TensorProto, bool]:
    """The initializer that holds a layer's weight, and whether the exporter has transposed it."""
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or list(tensor.dims) not in (list(mark.shape), list(mark.T.shape)):
            continue
        array = numpy_helper.to_array(tensor)
        if np.array_equal(array, mark):
            return tensor, False
        if mark.ndim == 2 and np.array_equal(array, mark.T):
            return tensor, True
    raise ParetuneError(f"layer '{name}' is not in the exported graph; its weight is unused or was fused into another")


def _store_weight(graph: onnx.GraphProto, name: str, layer: FrozenLayer, place: tuple[TensorProto, bool]) -> None:
    """Put the layer's real weight where the mark was, dequantized under the name `<layer>.weight`."""
    tensor, turned = place
    codes = layer.codes.T if turned else layer.codes
    marked, weight = tensor.name, f"{name}.weight"
    for node in graph.node:
        node.input[:] = [weight if read == marked else read for read in node.input]
    if layer.weight_bits == FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(codes), weight))
        return
    kind = {2: TensorProto.INT2, 3: TensorProto.INT4, 4: TensorProto.INT4}.get(layer.weight_bits, TensorProto.INT8)
    whole = np.ascontiguousarray(codes).astype(helper.tensor_dtype_to_np_dtype(kind))
    tensor.CopyFrom(numpy_helper.from_array(whole, f"{weight}_codes"))
    graph.initializer.append(numpy_helper.from_array(layer.scales, f"{weight}_scale"))
    levels = f"{weight}_levels" if turned else weight
    nodes = [
        helper.make_node(
            "DequantizeLinear", [f"{weight}_codes", f"{weight}_scale"], [levels], f"{name}.weight_unround",
            axis=int(turned),
        )
    ]  # fmt: skip
    if turned:
        # Without bounds, so it changes nothing; onnxruntime would run a bare MatMul on activations it rounds itself.
        nodes.append(helper.make_node("Clip", [levels], [weight], f"{name}.weight_clip"))
    nodes.extend(graph.node)
    graph.ClearField("node")
    graph.node.extend(nodes)


def _readers(graph: onnx.GraphProto, name: str) -> list[NodeProto]:
    """The nodes that multiply with the layer's weight: more than one if the layer is called more than once."""
    readers = [node for node in graph.node if f"{name}.weight" in node.input]
    if not readers or any(node.op_type not in MATMULS or node.input[1] != f"{name}.weight" for node in readers):
        raise ParetuneError(f"layer '{name}' is not in the exported graph as one of {', '.join(MATMULS)}")
    return readers


def _store_steps(graph: onnx.GraphProto, frozen: Frozen, readers: dict[str, list[NodeProto]]) -> None:
    """Round what every layer with quantized activations reads; nodes stay in order of execution."""
    before: dict[str, list[NodeProto]] = {}
    for name, layer in frozen.layers.items():
        if layer.activation_bits == FLOAT:
            continue
        graph.initializer.extend(_step_tensors(name, layer))
        for call, node in enumerate(readers[name]):
            added = _rounding(name, node.input[0], f".{call}" if call else "")
            node.input[0] = added[-1].output[0]
            before[node.output[0]] = added
    ordered = [new for node in graph.node for new in (*before.get(node.output[0], ()), node)]
    graph.ClearField("node")
    graph.node.extend(ordered)


def _step_tensors(name: str, layer: FrozenLayer) -> list[TensorProto]:
    step = np.float32(layer.step)
    zero = (np.uint8 if layer.low == 0 else np.int8)(0)
    tensors = {"step": step, "zero": zero, "low": step * np.float32(layer.low), "high": step * np.float32(layer.high)}
    return [numpy_helper.from_array(np.asarray(value), f"{name}.input_{key}") for key, value in tensors.items()]


def _rounding(name: str, data: str, call: str) -> list[NodeProto]:
    """QuantizeLinear, DequantizeLinear and Clip from `data` on: step × clip(round(data / step), low, high).

    Clip comes last, even where it changes nothing, because it keeps a runtime from matching the layer as an
    integer one. onnxruntime 1.31 would round its bias to steps of input step × weight step, round float weights to
    8 bits, and fail on 2-bit weights; the graph would no longer predict what was measured.
    """
    grid = [f"{name}.input_step", f"{name}.input_zero"]
    codes, rounded, clipped = (f"{name}.input_{part}{call}" for part in ("codes", "rounded", "clipped"))
    return [
        helper.make_node("QuantizeLinear", [data, *grid], [codes], f"{name}.round{call}"),
        helper.make_node("DequantizeLinear", [codes, *grid], [rounded], f"{name}.unround{call}"),
        helper.make_node("Clip", [rounded, f"{name}.input_low", f"{name}.input_high"], [clipped], f"{name}.clip{call}"),
    ]


def _attribute(node: NodeProto, name: str) -> int:
    return int(next(attribute.i for attribute in node.attribute if attribute.name == name))
