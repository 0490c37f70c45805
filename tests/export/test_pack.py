"""Packing is exact both ways, and as large as the arithmetic says."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch
from export_nets import compressed, mixed, settle
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_nets import WANTED, masked, of_kind, random_mask, train
from safetensors.numpy import load
from torch import Tensor, nn

from paretune.compress.freeze import freeze
from paretune.compress.masks import masked_layers
from paretune.compress.patterns import index_of, mask_of, pattern_of
from paretune.costs.table import size_bytes
from paretune.errors import ParetuneError
from paretune.export.pack import layout, pack, unpack
from paretune.frozen import HEADER_BYTES, Frozen, FrozenLayer
from paretune.inventory import Inventory
from paretune.plan import Plan
from paretune.profile import profile

SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)


@st.composite
def layers(draw: st.DrawFn) -> FrozenLayer:
    shape, bits = draw(SHAPES), draw(st.sampled_from([2, 3, 4, 5, 6, 7, 8, 32]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    top = 2 ** (min(bits, 8) - 1) - 1
    floats = random.standard_normal(shape, np.float32)
    activation_bits = draw(st.sampled_from([4, 8, 32]))
    return FrozenLayer(
        codes=floats if bits == 32 else random.integers(-top, top + 1, shape).astype(np.int8),
        scales=np.empty(0, np.float32) if bits == 32 else random.random(shape[0], np.float32),
        bias=random.standard_normal(shape[0], np.float32) if draw(st.booleans()) else None,
        weight_bits=bits,
        activation_bits=activation_bits,
        step=float(random.random(dtype=np.float32)) if activation_bits < 32 else 0.0,
        low=draw(st.integers(-127, 0)),
        high=draw(st.integers(1, 255)),
    )


def same(one: FrozenLayer, two: FrozenLayer) -> bool:
    """Equal to the last bit, dtypes included."""
    arrays = [(one.codes, two.codes), (one.scales, two.scales)]
    if one.bias is not None and two.bias is not None:
        arrays.append((one.bias, two.bias))
    keys = ("weight_bits", "activation_bits", "step", "low", "high", "pattern")
    return (
        all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in arrays)
        and (one.bias is None) == (two.bias is None)
        and all(getattr(one, key) == getattr(two, key) for key in keys)
    )


@st.composite
def masked_layer(draw: st.DrawFn) -> FrozenLayer:
    """A layer with a random mask of any kind, of a shape that every kind fits."""
    layer, kind = draw(layers()), draw(st.sampled_from(list(WANTED)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kernel = () if kind == "partition" else draw(st.sampled_from([(), (3,), (3, 3)]))
    shape = (8 * draw(st.integers(1, 2)), 8 * draw(st.integers(1, 3)), *kernel)
    mask = random_mask(WANTED[kind], shape, draw(st.integers(0, 9)))
    top = 2 ** (min(layer.weight_bits, 8) - 1) - 1
    quantized = random.integers(-top, top + 1, shape).astype(np.int8)
    whole = random.standard_normal(shape, np.float32) if layer.weight_bits == 32 else quantized
    scales = layer.scales if layer.weight_bits == 32 else random.random(shape[0], np.float32)
    bias = None if layer.bias is None else random.random(shape[0], np.float32)
    codes = np.where(mask, whole, whole.dtype.type(0))
    return replace(layer, codes=codes, scales=scales, bias=bias, pattern=pattern_of(WANTED[kind], mask))


@settings(deadline=None, max_examples=60)
@given(st.lists(layers() | masked_layer(), max_size=4), st.lists(SHAPES, max_size=2))
def test_unpack_is_the_exact_inverse(made: list[FrozenLayer], shapes: list[tuple[int, ...]]) -> None:
    rest = {f"rest{i}": np.random.default_rng(i).standard_normal(shape, np.float32) for i, shape in enumerate(shapes)}
    frozen = Frozen(layers={f"layer{i}": layer for i, layer in enumerate(made)}, rest=rest)
    back = unpack(pack(frozen), layout(frozen))
    assert list(back.layers) == list(frozen.layers)
    assert all(same(back.layers[name], layer) for name, layer in frozen.layers.items())
    assert list(back.rest) == list(rest)
    assert all(np.array_equal(back.rest[key], array) for key, array in rest.items())


def two_layers() -> Frozen:
    codes = np.array([[-1, 0], [1, 1]], np.int8)
    quantized = FrozenLayer(codes=codes, scales=np.ones(2, np.float32), bias=None, weight_bits=2)
    plain = FrozenLayer(codes=np.ones((2, 2), np.float32), scales=np.empty(0, np.float32), bias=np.zeros(2, np.float32))
    return Frozen(layers={"first": quantized, "second": plain}, rest={"scale": np.ones(3, np.float32)})


def test_two_bit_codes_fill_a_byte_from_its_low_end() -> None:
    tensors = load(pack(two_layers()))
    assert tensors["codes"].tolist() == [0 | 1 << 2 | 2 << 4 | 2 << 6]
    assert tensors["floats"].tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1]


def test_without_patterns_the_bytes_are_those_of_the_first_version() -> None:
    digest = "d97e7486776e471b343a0351eb34be7069c418de666b76549db236f0ebaf2e65"  # written by commit 982161c
    assert hashlib.sha256(pack(two_layers())).hexdigest() == digest


def test_a_layout_of_the_first_version_is_still_read() -> None:
    made, placed = two_layers(), layout(two_layers())
    for row in placed["layers"]:
        assert row.pop("pattern") is None
    back = unpack(pack(made), placed)
    assert all(same(back.layers[name], layer) for name, layer in made.layers.items())


def spotted(kind: str = "half", bits: int = 32) -> FrozenLayer:
    """A masked (8, 16) layer whose weight i is i, or 1 if it is quantized; code 0 at the zeros."""
    mask = random_mask(WANTED[kind], (8, 16))
    whole = np.arange(128, dtype=np.float32).reshape(8, 16) if bits == 32 else np.ones((8, 16), np.int8)
    codes = np.where(mask, whole, whole.dtype.type(0))
    scales = np.empty(0, np.float32) if bits == 32 else np.ones(8, np.float32)
    return FrozenLayer(codes=codes, scales=scales, bias=None, weight_bits=bits, pattern=pattern_of(WANTED[kind], mask))


@pytest.mark.parametrize("kind", WANTED)
def test_a_masked_layer_is_its_index_and_then_what_stays_in_c_order(kind: str) -> None:
    for bits in (32, 2):
        layer = spotted(kind, bits)
        assert layer.pattern is not None
        mask = mask_of(layer.pattern, (8, 16))
        index = index_of(layer.pattern)
        tensors = load(pack(Frozen(layers={"a": layer}, rest={})))
        assert tensors["codes"].tobytes()[: len(index)] == index
        if bits == 2:  # code 1 is stored as 2, four to a byte
            rest = tensors["codes"].tobytes()[len(index) :]
            assert len(rest) == ceil(mask.sum() / 4)
            assert rest[:-1] == bytes([0b10101010]) * (len(rest) - 1)
        else:
            places = tensors["floats"].astype(int)
            assert len(tensors["codes"]) == len(index)
            assert (places.tolist() == np.flatnonzero(mask).tolist()) == (kind != "partition")
            assert sorted(places) == np.flatnonzero(mask).tolist()


def test_a_partition_lies_block_by_block() -> None:
    layer = spotted("partition")
    assert layer.pattern is not None
    mask = mask_of(layer.pattern, (8, 16))
    stored = load(pack(Frozen(layers={"a": layer}, rest={})))["floats"].astype(int).reshape(4, 2, 4)
    found = set()
    for block in stored:
        rows, columns = sorted({n // 16 for n in block.ravel()}), sorted({n % 16 for n in block.ravel()})
        assert block.tolist() == [[16 * row + column for column in columns] for row in rows]
        assert mask[np.ix_(rows, columns)].all()
        found |= set(rows)
    assert found == set(range(8))


def test_the_layout_says_all_that_it_takes_to_decode_without_the_plan() -> None:
    layer = spotted("pe_block, filter", 3)
    assert layer.pattern is not None
    row = layout(Frozen(layers={"a": layer}, rest={}))["layers"][0]
    assert row["pattern"] == {
        "kind": "pe_block", "nonzeros": 32, "index_bytes": len(index_of(layer.pattern)), "block": 4,
        "layout": "filter", "parts": 0,
    }  # fmt: skip
    assert row["codes_bytes"] == row["pattern"]["index_bytes"] + 32 * 3 // 8


@pytest.mark.parametrize("bits", [4, 32])
def test_a_flipped_bit_of_an_index_names_its_layer(bits: int) -> None:
    frozen = Frozen(layers={"first": two_layers().layers["second"], "second": spotted(bits=bits)}, rest={})
    blob = bytearray(pack(frozen))
    blob[HEADER_BYTES + 4 * layout(frozen)["floats"]] ^= 1
    with pytest.raises(ParetuneError, match="'second' is damaged"):
        unpack(bytes(blob), layout(frozen))


@pytest.mark.parametrize("bits", [4, 32])
def test_a_weight_where_the_pattern_has_a_zero_is_refused(bits: int) -> None:
    layer = spotted(bits=bits)
    full = replace(layer, codes=np.ones_like(layer.codes))
    with pytest.raises(ParetuneError, match="layer 'a' holds 64 weights where its pattern 'unstructured' has zeros"):
        pack(Frozen(layers={"a": full}, rest={}))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 32])
@pytest.mark.parametrize("kind", WANTED)
def test_a_masked_net_is_as_large_as_its_profile_says_and_comes_back(kind: str, bits: int) -> None:
    made = of_kind(kind, bits, seed=bits)
    frozen = freeze(made.model, made.inventory, made.plan)
    blob = pack(frozen)
    assert len(blob) == size_bytes(profile(made.inventory, made.plan))
    back = unpack(blob, layout(frozen))
    assert all(same(back.layers[name], layer) for name, layer in frozen.layers.items())
    dense = masked({}, bits, seed=bits)
    whole = len(pack(freeze(dense.model, dense.inventory, dense.plan)))
    patterns = [row.pattern for row in made.plan.layers if row.pattern]
    gone = sum(row.weights - row.nonzeros for row in profile(made.inventory, made.plan))
    saved = gone * bits / 8 - sum(pattern.index_bytes for pattern in patterns)
    assert abs(whole - len(blob) - saved) < len(patterns), "less than a byte of rounding per layer"


@pytest.mark.parametrize("bits", [2, 4, 32])
@pytest.mark.parametrize("straight", [False, True], ids=["frozen", "ste"])
def test_zeros_survive_training_down_to_the_file(straight: bool, bits: int) -> None:
    made = of_kind("2:4", bits)
    for _, _, mask in masked_layers(made.model):
        mask.straight = straight
    train(made.model)
    frozen = freeze(made.model, made.inventory, made.plan)
    back = unpack(pack(frozen), layout(frozen))
    for row in made.plan.layers:
        weight = back.layers[row.layer].weight()
        live = np.ones(weight.shape, np.bool_) if row.pattern is None else mask_of(row.pattern, weight.shape)
        assert not weight[~live].any()
        assert weight[live].any()
        module = made.model.get_submodule(row.layer)
        assert not module.weight.detach().numpy()[~live].any()  # type: ignore[operator, union-attr]


def test_the_file_is_as_large_as_the_profile_says() -> None:
    made = mixed()
    for model, plan in ((made.model, made.plan), (made.dense, Plan())):
        blob = pack(freeze(model, made.inventory, plan))
        assert len(blob) == HEADER_BYTES + payload(made.inventory, plan)


class Held(nn.Module):
    """A convolution, a `stem` between it and the head, and whatever `keep` is given as buffers."""

    def __init__(self, stem: nn.Module, **keep: Tensor) -> None:
        super().__init__()
        self.conv, self.stem, self.head = nn.Conv2d(3, 6, 3), stem, nn.Linear(6, 4)
        for name, tensor in keep.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.conv(x))
        x = x + self.pos if hasattr(self, "pos") else x
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Scaled(nn.Module):
    """A parameter, a float buffer, one that is not stored and one of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, 6, 1, 1))
        self.register_buffer("offset", torch.ones(1, 1, 6, 6))
        self.register_buffer("scratch", torch.ones(9), persistent=False)
        self.register_buffer("calls", torch.zeros(3, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x * self.gain + self.offset
        return made


class Masked(nn.Conv2d):
    """A convolution that holds more than a convolution does."""

    def __init__(self) -> None:
        super().__init__(6, 6, 1)
        self.register_buffer("mask", torch.ones(6, 6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


def twins() -> nn.Module:
    """A norm that is called twice, so it folds nowhere."""
    norm = nn.BatchNorm2d(6)
    return nn.Sequential(norm, nn.Conv2d(6, 6, 1), norm)


HELD: dict[str, Callable[[], nn.Module]] = {
    "root buffer": lambda: Held(nn.ReLU(), pos=torch.ones(1, 6, 6, 6)),
    "buffer beside a parameter": lambda: Held(Scaled()),
    "both": lambda: Held(Scaled(), pos=torch.ones(1, 6, 6, 6), unused=torch.ones(3)),
    "layer with a buffer": lambda: Held(Masked()),
    "bare norm": lambda: Held(nn.BatchNorm2d(6, affine=False)),
    "bare norm, not folded": lambda: Held(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(6, affine=False))),
    "norm, not folded": lambda: Held(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(6))),
    "norm without statistics": lambda: Held(nn.BatchNorm2d(6, track_running_stats=False)),
    "instance norm": lambda: Held(nn.InstanceNorm2d(6, track_running_stats=True)),
    "norm called twice": lambda: Held(twins()),
}


@pytest.mark.parametrize("groups", [True, False], ids=["cut", "whole"])
@pytest.mark.parametrize("make", HELD.values(), ids=HELD.keys())
def test_the_counted_size_is_the_files(make: Callable[[], nn.Module], groups: bool) -> None:
    torch.manual_seed(0)
    made = compressed(settle(make()), {"conv": (3, 8), "head": (4, 32)}, groups=groups)
    assert bool(made.plan.groups) <= groups
    blob = pack(freeze(made.model, made.inventory, made.plan))
    assert len(blob) == size_bytes(profile(made.inventory, made.plan))


def test_a_net_of_many_sizes_keeps_the_header() -> None:
    torch.manual_seed(0)
    net = settle(nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(2304, 300)))
    made = compressed(net, {"0": (3, 8), "3": (5, 32)})
    assert len(pack(freeze(made.model, made.inventory, made.plan))) == HEADER_BYTES + payload(made.inventory, made.plan)


def payload(inventory: Inventory, plan: Plan) -> int:
    rows = profile(inventory, plan)
    return sum(ceil(row.weights * row.weight_bits / 8) + 4 * (row.scales + row.floats) for row in rows)


@pytest.mark.parametrize(("lost", "named"), [(1, "first"), (12, "first"), (44, "first")])
def test_a_truncated_file_names_what_is_lost_first(lost: int, named: str) -> None:
    frozen = two_layers()
    blob = pack(frozen)
    with pytest.raises(ParetuneError, match=f"{len(blob) - lost} of {len(blob)} bytes are there, '{named}'"):
        unpack(blob[:-lost], layout(frozen))


def test_a_truncated_float_layer_is_named() -> None:
    frozen = Frozen(layers={"second": two_layers().layers["second"]}, rest=two_layers().rest)
    blob = pack(frozen)
    with pytest.raises(ParetuneError, match="'scale' is the first"):
        unpack(blob[:-4], layout(frozen))
    with pytest.raises(ParetuneError, match="'second' is the first"):
        unpack(blob[:-13], layout(frozen))


@pytest.mark.parametrize(
    ("at", "named"), [(-1, "first"), (HEADER_BYTES, "first"), (HEADER_BYTES + 8, "second"), (-2, "scale")]
)
def test_a_flipped_bit_names_its_layer(at: int, named: str) -> None:
    frozen = two_layers()
    blob = bytearray(pack(frozen))
    blob[at] ^= 1
    with pytest.raises(ParetuneError, match=f"'{named}' is damaged"):
        unpack(bytes(blob), layout(frozen))


def test_a_damaged_header_is_said_to_be_one() -> None:
    frozen = two_layers()
    with pytest.raises(ParetuneError, match="header is damaged"):
        unpack(bytes(8) + pack(frozen)[8:], layout(frozen))


def test_codes_that_need_more_bits_are_refused() -> None:
    frozen = two_layers()
    wide = replace(frozen.layers["first"], codes=np.array([[2, 0], [0, 0]], np.int8))
    with pytest.raises(ParetuneError, match="'first' holds codes beyond ±1"):
        pack(Frozen(layers={"first": wide}, rest={}))
