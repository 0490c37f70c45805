"""The ONNX graph stores whole numbers and predicts what PyTorch predicts, with and without optimisations."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from compress_nets import build
from export_nets import Compressed, compressed, images, mixed, settle
from masked_nets import of_kind
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from paretune.compress.freeze import freeze, thaw
from paretune.compress.groups import discover
from paretune.compress.patterns import mask_of
from paretune.errors import ParetuneError
from paretune.export.graph import check_exportable, stored_floats, stored_weights, to_onnx
from paretune.export.grids import held_as_float, input_grid
from paretune.frozen import Frozen, FrozenLayer

ALL = ["everything", "hostile", "kept", "bare", "named"]
LEVELS = [onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL]


class Exported:
    """A compressed net, what it froze to, and its graph."""

    def __init__(self, made: Compressed) -> None:
        self.frozen: Frozen = freeze(made.model, made.inventory, made.plan)
        self.model = thaw(made.dense, made.inventory, made.plan, self.frozen)
        self.graph = to_onnx(self.model, self.frozen, made.images[:1])


class Hostile(nn.Module):
    """What tempts an optimiser: no biases, twin weights, a layer called twice, a reflecting pad."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.bare = nn.Conv2d(8, 8, 3, padding=1, bias=False, padding_mode="reflect")
        self.plain = nn.Conv2d(8, 8, 1)
        self.twice = nn.Linear(8, 8)
        self.twin = nn.Linear(8, 8, bias=False)
        self.other_twin = nn.Linear(8, 8, bias=False)
        self.dead = nn.Linear(8, 4)
        for layer in (self.twin, self.other_twin):
            layer.weight.data.copy_(torch.eye(8))
        self.dead.weight.data[1:].zero_()
        self.dead.bias.data.zero_()
        for layer in (self.first, self.bare, self.plain, self.twice):
            nn.init.kaiming_normal_(layer.weight)
        with torch.no_grad():
            self.dead.bias.data[:] = torch.tensor([-float(self(images(64))[:, 0].median()), 0, -1, -1])

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.bare(self.first(x).relu()).relu(), 2)
        x = self.twice(self.plain(x).relu().flatten(2).transpose(1, 2))
        x = self.other_twin(self.twin(self.twice(x)).relu())
        logits: Tensor = self.dead(x.mean(1))
        return logits


class Kept(nn.Module):
    """Norms that no layer can swallow: one reads what another module reads too, one is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.two, self.twice, self.three = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1, bias=False)
        self.tokens, self.bare, self.head = nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 4)
        self.register_buffer("position", torch.randn(1, 6, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = self.two(self.norm(x).relu() + x)
        x = self.twice(self.three(self.twice(x).relu())) + self.position
        logits: Tensor = self.head(self.bare(self.tokens(x.flatten(2).transpose(1, 2)).mean(1)))
        return logits


@pytest.fixture(scope="module")
def kept() -> Exported:
    torch.manual_seed(0)
    net = settle(Kept())
    return Exported(
        compressed(net, {"one": (8, 8), "two": (4, 8), "three": (32, 8), "tokens": (32, 8), "head": (4, 8)})
    )


@pytest.fixture(scope="module")
def bare() -> Exported:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4, bias=False),
        nn.BatchNorm1d(4, affine=False),
    )  # fmt: skip
    return Exported(compressed(settle(net), {"0": (4, 8), "4": (8, 8)}))


@pytest.fixture(scope="module")
def named() -> Exported:
    return Exported(compressed(build("named")[0], {"one": (4, 8), "two": (8, 8), "head": (4, 8)}))


@pytest.fixture(scope="module")
def everything() -> Exported:
    return Exported(mixed())


@pytest.fixture(scope="module")
def hostile() -> Exported:
    torch.manual_seed(0)
    bits = {
        "first": (8, 8),
        "bare": (4, 8),
        "plain": (32, 8),
        "twice": (8, 8),
        "twin": (4, 32),
        "other_twin": (4, 8),
        "dead": (3, 3),
    }
    return Exported(compressed(Hostile().eval(), bits, groups=False))


def run(graph: onnx.ModelProto, inputs: Tensor, level: onnxruntime.GraphOptimizationLevel) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"input": inputs.numpy()})[0]
    return logits


@pytest.mark.parametrize("level", LEVELS, ids=["optimised", "as written"])
@pytest.mark.parametrize("net", ALL)
def test_onnxruntime_predicts_what_pytorch_predicts(
    net: str, level: onnxruntime.GraphOptimizationLevel, request: pytest.FixtureRequest
) -> None:
    exported = request.getfixturevalue(net)
    inputs = images(500)
    with torch.no_grad():
        want = exported.model(inputs).numpy()
    got = run(exported.graph, inputs, level)
    # One value on the edge of a rounding step moves an image's logits by a step; most must agree to float noise.
    off = np.abs(got - want).max(axis=1) / want.std()
    assert np.quantile(off, 0.99) < 1e-5
    assert (got.argmax(1) == want.argmax(1)).all()
    assert len(np.unique(want.argmax(1))) > 1


@pytest.mark.parametrize(("kind", "bits"), [("2:4", 2), ("partition", 4), ("almost all", 8), ("half", 32)])
def test_masked_nets_predict_the_same_and_keep_their_zeros(kind: str, bits: int) -> None:
    made = of_kind(kind, bits)
    exported, inputs = Exported(made), images(200)
    with torch.no_grad():
        want = exported.model(inputs).numpy()
    got = run(exported.graph, inputs, LEVELS[0])
    assert np.quantile(np.abs(got - want).max(axis=1) / want.std(), 0.99) < 1e-5
    assert (got.argmax(1) == want.argmax(1)).all()
    stored = stored_weights(exported.graph)
    for row in made.plan.layers:
        codes = stored[row.layer][0]
        assert np.array_equal(codes, exported.frozen.layers[row.layer].codes)
        if row.pattern is not None:
            live = mask_of(row.pattern, codes.shape)
            assert not codes[~live].any()
            assert codes[live].any()


def test_weights_are_stored_in_the_narrowest_type(everything: Exported) -> None:
    types = {tensor.name: tensor.data_type for tensor in everything.graph.graph.initializer}
    narrow = {
        "stem": TensorProto.INT8, "depthwise": TensorProto.INT2, "grouped": TensorProto.INT4, "join": TensorProto.INT4,
        "tokens": TensorProto.INT8, "hidden": TensorProto.INT8,
    }  # fmt: skip
    assert {name: types[f"{name}.weight_codes"] for name in narrow} == narrow
    assert types["head.weight"] == TensorProto.FLOAT
    assert not any(f"{name}.weight" in types for name in narrow)


@pytest.mark.parametrize("net", ALL)
def test_the_graph_holds_exactly_the_frozen_numbers(net: str, request: pytest.FixtureRequest) -> None:
    exported = request.getfixturevalue(net)
    stored = stored_weights(exported.graph)
    for name, layer in exported.frozen.layers.items():
        codes, scales = stored[name]
        assert np.array_equal(codes, layer.codes)
        assert np.array_equal(scales, layer.scales)
        if layer.bias is not None:
            assert np.array_equal(stored_floats(exported.graph)[f"{name}.bias"], layer.bias)


class Beside(nn.Module):
    """Linear layers that all read the same; their outputs lie beside each other."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 3, bias=False) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], 1)


def linear(**facts: Any) -> FrozenLayer:
    codes = np.array([[1, 0, -1, 1], [0, 1, 1, -1], [-1, 1, 0, 0]], np.int8)
    return FrozenLayer(**{"codes": codes, "scales": np.array([0.5, 2, 1], np.float32), "bias": None, **facts})


def graph_of(*layers: FrozenLayer) -> onnx.ModelProto:
    """The graph of such layers, called "layers.0" and so on, beside each other."""
    named = {f"layers.{at}": layer for at, layer in enumerate(layers)}
    return to_onnx(Beside(len(layers)).eval(), Frozen(layers=named, rest={}), torch.zeros(1, 4))


@pytest.mark.parametrize(("bits", "kind", "opset"), [(1, "INT2", 25), (2, "INT2", 25), (3, "INT4", 21)])
def test_one_bit_is_stored_as_two(bits: int, kind: str, opset: int) -> None:
    layer = linear(weight_bits=bits)
    graph = graph_of(layer)
    types = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    assert types["layers.0.weight_codes"] == TensorProto.DataType.Value(kind)
    assert graph.opset_import[0].version == opset
    assert held_as_float(Frozen(layers={"0": layer}, rest={})) == {}
    assert np.array_equal(run(graph, torch.eye(4), LEVELS[0]), layer.weight().T)


def test_grids_that_onnx_does_not_have_are_held_as_float() -> None:
    free = linear(
        weight_bits=2,
        grid="codebook",
        levels=np.array([-0.7, 0.3], np.float32),
        scales=np.array([1, -2, 0.5], np.float32),
    )
    powers = linear(weight_bits=3, grid="power_of_two")
    graph = graph_of(free, powers)
    assert graph.opset_import[0].version == 21
    for name, layer in {"layers.0": free, "layers.1": powers}.items():
        stored, none = stored_weights(graph)[name]
        assert (stored.dtype, len(none)) == (np.float32, 0)
        assert np.array_equal(stored, layer.weight())
    assert held_as_float(Frozen(layers={"a": free, "b": powers, "c": linear(weight_bits=2)}, rest={})) == {
        "a": "codebook: ONNX has no free levels", "b": "power_of_two: ONNX has no exponents",
    }  # fmt: skip
    want = np.concatenate([free.weight(), powers.weight()]).T
    assert np.array_equal(run(graph, torch.eye(4), LEVELS[0]), want)


@pytest.mark.parametrize("level", LEVELS, ids=["optimised", "as written"])
def test_every_range_and_power_is_rounded_as_its_formula_says(level: onnxruntime.GraphOptimizationLevel) -> None:
    ends = [(0, 1), (0, 3), (0, 255), (-1, 1), (-127, 127), (-1, 2), (-37, 218), (-254, 1)]
    plain = {"weight_bits": 8, "scales": np.ones(3, np.float32), "codes": np.eye(3, 4, dtype=np.int8)}
    layers = [
        linear(**plain, activation_bits=8, step=0.25, low=low, high=high, power=power)
        for low, high in ends
        for power in (1.0, 0.5, 1.7)
    ]
    x = np.linspace(-80, 80, 1001, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    got = np.split(run(graph_of(*layers), torch.from_numpy(x), level), len(layers), axis=1)
    for layer, found in zip(layers, got, strict=True):
        u = np.sign(x) * np.abs(x) ** np.float32(layer.power)
        want = layer.step * np.clip(np.round(u / np.float32(layer.step)), layer.low, layer.high)
        np.testing.assert_allclose(found, want[:, :3], rtol=1e-6)


def test_the_types_of_zero_and_when_there_is_a_power() -> None:
    def grid(low: int, high: int, power: float = 1.0) -> dict[str, NDArray[Any]]:
        return input_grid("a", linear(weight_bits=8, activation_bits=8, step=0.5, low=low, high=high, power=power))

    zeros = [grid(*ends)["a.input_zero"] for ends in ((0, 255), (-7, 7), (-5, 10))]
    assert [(str(zero.dtype), int(zero)) for zero in zeros] == [("uint8", 0), ("int8", 0), ("uint8", 5)]
    assert "a.input_power" not in grid(0, 15)
    assert grid(0, 15, 0.5)["a.input_power"] == np.float32(0.5)


def test_opset_is_the_least_that_holds_the_weights(everything: Exported, hostile: Exported) -> None:
    assert [entry.version for entry in everything.graph.opset_import] == [25]
    assert [entry.version for entry in hostile.graph.opset_import] == [21]


def test_the_batch_is_free_and_the_names_are_ours(everything: Exported) -> None:
    (entered,), (left,) = everything.graph.graph.input, everything.graph.graph.output
    assert (entered.name, left.name) == ("input", "logits")
    assert entered.type.tensor_type.shape.dim[0].dim_param == left.type.tensor_type.shape.dim[0].dim_param == "n"


def test_no_path_of_this_machine_is_in_the_file(everything: Exported) -> None:
    assert b".py" not in everything.graph.SerializeToString()


class Unused(nn.Module):
    """Its second layer runs, but nothing reads what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        logits: Tensor = self.used(x)
        return logits


def test_a_layer_that_left_the_graph_is_named() -> None:
    torch.manual_seed(0)
    with pytest.raises(ParetuneError, match="layer 'idle' is not in the exported graph"):
        Exported(compressed(Unused().eval(), {"idle": (4, 32)}, groups=False, shape=(4,)))


class Stubborn(nn.Module):
    """Does not take any batch but one of two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.view(2, 4))
        return logits


def test_a_fixed_batch_is_an_error_in_one_line() -> None:
    model = Stubborn().eval()
    with pytest.raises(ParetuneError, match="cannot export this model with a free batch axis"):
        to_onnx(model, Frozen(layers={}, rest={}), torch.zeros(2, 4))


def test_norms_that_do_not_fold_stay_in_the_graph(kept: Exported) -> None:
    kinds = [node.op_type for node in kept.graph.graph.node]
    assert kinds.count("BatchNormalization") == 3 + 1  # "twice" twice, and the bare one reads a mean over tokens
    assert not any(node.op_type == "Transpose" and node.input[0] == "tokens.weight" for node in kept.graph.graph.node)


class Branching(nn.Module):
    """Decides by the data, which a graph cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x if x.sum() > 0 else -x)
        return logits


def test_a_model_that_can_be_exported_passes_and_is_left_alone() -> None:
    made = mixed()
    made.dense.train()
    before = {key: value.clone() for key, value in made.dense.state_dict().items()}
    check_exportable(made.dense, made.inventory, made.images[:1])
    assert made.dense.training
    assert all(torch.equal(value, before[key]) for key, value in made.dense.state_dict().items())
    assert not any(hasattr(module, "activation_quantizer") for module in made.dense.modules())


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (Branching(), "cannot export this model with a free batch axis"),
        (Stubborn(), "cannot export this model with a free batch axis"),
        (Unused(), "layer 'idle' is not in the exported graph; its weight is unused"),
        (nn.Sequential(nn.Linear(4, 1)), r"\(2, classes\) with two classes or more is wanted, got \(2, 1\)"),
        (nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3))), r"is wanted, got \(2, 2, 3\)"),
    ],
    ids=["branching", "fixed batch", "unused", "one class", "pixels"],
)
def test_a_model_that_cannot_be_exported_says_why(net: nn.Module, match: str) -> None:
    example = torch.randn(2, 4)
    with pytest.raises(ParetuneError, match=match):
        check_exportable(net.eval(), discover(net.eval(), example), example)
