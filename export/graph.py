"""A thawed model as an ONNX graph that stores whole numbers: INT2, INT4 or INT8 weights, rounded activations."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor, nn

from paretune.compress.freeze import freeze, thaw
from paretune.compress.quantize import calibrate, quantize
from paretune.errors import ParetuneError, first_line
from paretune.export.grids import input_grid, least_opset, rounding, stored_numbers, stored_type
from paretune.frozen import Frozen, FrozenLayer
from paretune.inventory import Inventory
from paretune.plan import FLOAT, LayerPlan, Plan

MATMULS = ("Conv", "Gemm", "MatMul")  # the nodes a layer can become; each reads data, weight (, bias)


def to_onnx(model: nn.Module, frozen: Frozen, example: Tensor) -> onnx.ModelProto:
    """The graph of `model` (thawed from `frozen`), "input" (n, ...) to "logits" (n, ...).

    `example` is one batch of any size. Weights are stored in the narrowest type that holds them
    (1 and 2 bits: INT2, 3 and 4: INT4, 5 to 8: INT8) as `<layer>.weight_codes` with one float scale per output channel;
    those that ONNX cannot hold (`held_as_float`) as the quantized values in float32. A layer that reads quantized
    activations gets QuantizeLinear, DequantizeLinear and Clip before it.

    Raises:
        ParetuneError: the exporter cannot trace the model, or a layer is not to be found in its graph.
    """
    proto = _traced(_Open(model, frozen), example, least_opset(frozen))
    _strip(proto)
    for name, layer in frozen.layers.items():
        _store_weight(proto.graph, name, layer)
        _store_bias(proto.graph, name, layer)
    _store_steps(proto.graph, frozen, {name: _readers(proto.graph, name) for name in frozen.layers})
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ParetuneError(f"the exported graph is not valid ONNX: {first_line(error)}") from error
    return proto


def check_exportable(model: nn.Module, inventory: Inventory, example: Tensor) -> None:
    """Nothing, if the dense `model` with 8-bit weights and activations can be exported, runs in onnxruntime and
    gives (n, classes); `example` is one batch (n, ...). About two seconds for a small network; nothing is changed.

    Raises:
        ParetuneError: what stands in the way.
    """
    plan = Plan(layers=tuple(LayerPlan(layer=x.name, weight_bits=8, activation_bits=8) for x in inventory.weighted))
    quantized = quantize(copy.deepcopy(model), plan)
    calibrate(quantized, example)
    frozen = freeze(quantized, inventory, plan)
    proto = to_onnx(thaw(model, inventory, plan, frozen), frozen, example)
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        shape = session.run(None, {"input": example.cpu().numpy()})[0].shape
    except Exception as error:
        raise ParetuneError(f"onnxruntime cannot run the exported graph: {first_line(error)}") from error
    if len(shape) != 2 or shape[0] != len(example) or shape[1] < 2:
        wanted = f"({len(example)}, classes) with two classes or more"
        raise ParetuneError(f"an exported model is verified by its top-1 classes, so {wanted} is wanted, got {shape}")


def stored_weights(proto: onnx.ModelProto) -> dict[str, tuple[NDArray[Any], NDArray[np.float32]]]:
    """Weights of a graph from `to_onnx`, by layer: codes and scales, or float weights and no scales."""
    arrays = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = {}
    for name, tensor in arrays.items():
        layer, _, part = name.rpartition(".")
        if part in ("weight", "weight_turned"):
            array = numpy_helper.to_array(tensor)
            found[layer] = (array.T if part == "weight_turned" else array, np.empty(0, np.float32))
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0].endswith(".weight_codes"):
            codes = numpy_helper.to_array(arrays[node.input[0]]).astype(np.int8)
            scales = numpy_helper.to_array(arrays[node.input[1]])
            turned = codes.T if _attribute(node, "axis") == 1 else codes
            found[node.input[0].removesuffix(".weight_codes")] = (turned, scales)
    return found


def stored_floats(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Everything else of a graph from `to_onnx`, by initializer: "<layer>.bias", "<layer>.input_step" and so on."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer if "." in tensor.name}


class _Open(nn.Module):
    """A copy without activation rounding that is called with its layers' weights and biases.

    What is an input, the exporter's optimiser cannot fuse into a norm, merge with its like or drop for being zero.
    """

    def __init__(self, model: nn.Module, frozen: Frozen) -> None:
        super().__init__()
        self.rest = copy.deepcopy(model).cpu().eval()
        self.keys: list[str] = []
        for name, layer in frozen.layers.items():
            self.keys += [f"{name}.weight"] if layer.bias is None else [f"{name}.weight", f"{name}.bias"]
            if layer.activation_bits < FLOAT:
                self.rest.get_submodule(name).activation_rounding = nn.Identity()
        self.given = [self.rest.get_parameter(key.lstrip(".")).detach().clone() for key in self.keys]
        self.eval()

    def forward(self, example: Tensor, given: list[Tensor]) -> Any:
        named = {key.lstrip("."): tensor for key, tensor in zip(self.keys, given, strict=True)}
        return torch.func.functional_call(self.rest, named, (example,))


def _traced(model: _Open, example: Tensor, opset: int) -> onnx.ModelProto:
    # A batch of one would be taken for a constant.
    batch = torch.cat([example, example])[:2].cpu()
    try:
        with _silence():
            program = torch.onnx.export(
                model, (batch, model.given), dynamo=True, opset_version=opset, verbose=False,
                input_names=["input", *model.keys], output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("n")}, [{} for _ in model.given]),
            )  # fmt: skip
    except Exception as error:
        # The exporter wraps what went wrong in advice over many lines.
        cause = error.__cause__ or error
        reason = f"PyTorch cannot export this model with a free batch axis: {first_line(cause)}"
        raise ParetuneError(reason) from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    # The exporter may fall back to the example's shape without a word.
    if proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param != "n":
        raise ParetuneError(
            "PyTorch cannot export this model with a free batch axis: its forward fixes the batch's size"
        )
    return proto


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No warnings, log lines or traced code; the exporter has many, none that a user could act on."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
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


def _store_weight(graph: onnx.GraphProto, name: str, layer: FrozenLayer) -> None:
    """Put the layer's weight where the graph reads it as an input, dequantized under the name `<layer>.weight`."""
    weight, turned = f"{name}.weight", _turned(graph, f"{name}.weight")
    _close(graph, weight)
    numbers, scales = stored_numbers(layer)
    codes, kind = np.ascontiguousarray(numbers.T if turned else numbers), stored_type(layer)
    if kind is None:
        stored = f"{weight}_turned" if turned else weight
        _rename(graph, weight, stored)
        graph.initializer.append(numpy_helper.from_array(codes, stored))
        return
    whole = codes.astype(helper.tensor_dtype_to_np_dtype(kind))
    graph.initializer.append(numpy_helper.from_array(whole, f"{weight}_codes"))
    graph.initializer.append(numpy_helper.from_array(scales, f"{weight}_scale"))
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


def _store_bias(graph: onnx.GraphProto, name: str, layer: FrozenLayer) -> None:
    bias = f"{name}.bias"
    if layer.bias is not None and any(bias in node.input for node in graph.node):
        graph.initializer.append(numpy_helper.from_array(layer.bias, bias))
    _close(graph, bias)


def _close(graph: onnx.GraphProto, name: str) -> None:
    """Strike `name` from the graph's inputs."""
    left = [given for given in graph.input if given.name != name]
    graph.ClearField("input")
    graph.input.extend(left)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if read == old else read for read in node.input]


def _turned(graph: onnx.GraphProto, weight: str) -> bool:
    """True if the graph reads `weight` transposed; then the transposing is taken out of it."""
    readers = [node for node in graph.node if weight in node.input]
    if not readers or any(node.op_type != "Transpose" for node in readers):
        return False
    for node in readers:
        graph.node.remove(node)
        _rename(graph, node.output[0], weight)
    return True


def _readers(graph: onnx.GraphProto, name: str) -> list[NodeProto]:
    """The nodes that multiply with the layer's weight: more than one if the layer is called more than once."""
    weights = {f"{name}.weight", f"{name}.weight_turned"}
    readers = [node for node in graph.node if weights & set(node.input)]
    if not readers:
        raise ParetuneError(f"layer '{name}' is not in the exported graph; its weight is unused")
    if any(node.op_type not in MATMULS or node.input[1] not in weights for node in readers):
        raise ParetuneError(f"layer '{name}' is not in the exported graph as one of {', '.join(MATMULS)}")
    return readers


def _store_steps(graph: onnx.GraphProto, frozen: Frozen, readers: dict[str, list[NodeProto]]) -> None:
    """Round what every layer with quantized activations reads; nodes stay in order of execution."""
    before: dict[str, list[NodeProto]] = {}
    for name, layer in frozen.layers.items():
        if layer.activation_bits == FLOAT:
            continue
        graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in input_grid(name, layer).items())
        for call, node in enumerate(readers[name]):
            added = rounding(name, layer, node.input[0], f".{call}" if call else "")
            node.input[0] = added[-1].output[0]
            before[node.output[0]] = added
    ordered = [new for node in graph.node for new in (*before.get(node.output[0], ()), node)]
    graph.ClearField("node")
    graph.node.extend(ordered)


def _attribute(node: NodeProto, name: str) -> int:
    return int(next(attribute.i for attribute in node.attribute if attribute.name == name))
