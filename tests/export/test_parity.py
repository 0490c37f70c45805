"""Every quantizer in every bit-width: stock onnxruntime says of real digits what PyTorch says."""

import copy
from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_nets import Compressed, Written, descend, written_digits
from onnx import TensorProto
from torch import nn

from paretune.compress.cut import cut
from paretune.compress.freeze import freeze, thaw
from paretune.compress.groups import discover
from paretune.compress.quantize import calibrate, quantize
from paretune.compress.quantizers import ACTIVATIONS, WEIGHTS
from paretune.export.graph import to_onnx
from paretune.export.grids import held_as_float
from paretune.frozen import FrozenLayer
from paretune.inventory import Inventory
from paretune.plan import GroupPlan, LayerPlan, Plan

SHOWN = 450  # digits that no training has seen
# By the number of weights, ascending: a codebook of 8 bits has more levels than the small ones have weights.
LAYERS = ("stem", "depthwise", "point", "join", "head", "mix", "down", "hidden")
TYPES = {1: "INT2", 2: "INT2", 3: "INT4", 4: "INT4", 5: "INT8", 6: "INT8", 7: "INT8", 8: "INT8"}
ROUNDINGS = [
    (name, bits) for name, row in ACTIVATIONS.items() for bits in (2, 4, 8) if row.least <= bits <= row.most
]  # fmt: skip


def plan_for(quantizer: str) -> tuple[LayerPlan, ...]:
    """Every bit-width of a quantizer somewhere in the eight layers, and the next eight ways to round activations."""
    row = WEIGHTS[quantizer]
    widths = range(row.least, row.most + 1)
    first = len(LAYERS) * list(WEIGHTS).index(quantizer)
    roundings = [ROUNDINGS[(first + at) % len(ROUNDINGS)] for at in range(len(LAYERS))]
    return tuple(
        LayerPlan(
            layer=name, weight_quantizer=quantizer, weight_bits=widths[at * len(widths) // len(LAYERS)],
            activation_quantizer=rounding, activation_bits=bits,
        )
        for at, (name, (rounding, bits)) in enumerate(zip(LAYERS, roundings, strict=True))
    )  # fmt: skip


@cache
def pruned() -> tuple[nn.Module, Inventory, tuple[GroupPlan, ...], nn.Module]:
    """A dense net, its inventory, a plan that takes every third channel, and the net trained without them."""
    torch.manual_seed(0)
    dense = Written()
    inventory = discover(dense, written_digits()[0][:2])
    groups = tuple(
        GroupPlan(group=group.name, kept=tuple(unit for unit in range(group.channels) if unit % 3 != 2))
        for group in inventory.groups
    )
    model = cut(dense, inventory, Plan(groups=groups).kept)
    descend(model, 60, 0.05)
    return dense, inventory, groups, model


def compress(quantizer: str) -> Compressed:
    """The pruned net, quantized, calibrated and trained for two steps more."""
    inputs, _ = written_digits()
    dense, inventory, groups, model = pruned()
    plan = Plan(groups=groups, layers=plan_for(quantizer))
    model = quantize(copy.deepcopy(model), plan)
    calibrate(model, inputs[:128])
    for name, values in model.named_parameters():
        if name.endswith("activation_quantizer.exponent"):
            values.data.fill_(0.8)  # two steps would leave it at 1
    descend(model, 2, 0.01)
    return Compressed(dense=dense, model=model, inventory=inventory, plan=plan, images=inputs[-SHOWN:])


def types(graph: onnx.ModelProto) -> Mapping[str, str]:
    """The type of every layer's weight in the graph."""
    found = {}
    for tensor in graph.graph.initializer:
        layer, _, part = tensor.name.rpartition(".")
        if part in ("weight", "weight_turned", "weight_codes"):
            found[layer] = TensorProto.DataType.Name(tensor.data_type)
    return found


def expected_type(layer: FrozenLayer) -> str:
    return TYPES[layer.weight_bits] if layer.grid == "uniform" else "FLOAT"


def test_every_quantizer_is_covered_in_every_width() -> None:
    rows = [row for quantizer in WEIGHTS for row in plan_for(quantizer)]
    weights = {(name, bits) for name, row in WEIGHTS.items() for bits in range(row.least, row.most + 1)}
    assert {(row.weight_quantizer, row.weight_bits) for row in rows} == weights
    assert {(row.activation_quantizer, row.activation_bits) for row in rows} == set(ROUNDINGS)


@pytest.mark.parametrize("quantizer", WEIGHTS)
def test_onnxruntime_predicts_what_pytorch_predicts(quantizer: str) -> None:
    made = compress(quantizer)
    frozen = freeze(made.model, made.inventory, made.plan)
    powers = {row.layer for row in made.plan.layers if row.activation_quantizer == "djpq"}
    assert {name for name, layer in frozen.layers.items() if abs(layer.power - 0.8) < 0.05} == powers
    model = thaw(made.dense, made.inventory, made.plan, frozen)
    graph = to_onnx(model, frozen, made.images[:1])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {"input": made.images.numpy()})[0].argmax(1)
    with torch.no_grad():
        want = model(made.images).argmax(1).numpy()
    assert (got != want).sum() <= SHOWN // 1000
    assert len(np.unique(want)) > 2
    assert types(graph) == {name: expected_type(layer) for name, layer in frozen.layers.items()}
    floats = {name for name, layer in frozen.layers.items() if layer.grid != "uniform"}
    reasons = held_as_float(frozen)
    assert set(reasons) == floats
    assert all(reasons[name].startswith(f"{frozen.layers[name].grid}: ONNX has no") for name in floats)
