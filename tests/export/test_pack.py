"""Packing is exact both ways, and as large as the arithmetic says."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from export_nets import compressed, mixed, settle
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_nets import WANTED, of_kind, random_mask, train
from safetensors.numpy import load, save
from stored_layers import SHAPES, a_layer, any_layer
from torch import Tensor, nn

from paretune.compress.coded import row_of, with_codes
from paretune.compress.freeze import freeze
from paretune.compress.masks import masked_layers
from paretune.compress.partition import blocks
from paretune.compress.patterns import index_of, mask_of, pattern_of
from paretune.costs.counts import size_bytes
from paretune.errors import ParetuneError
from paretune.export.encodings import packed
from paretune.export.pack import layout, pack, storage_table, unpack
from paretune.frozen import HEADER_BYTES, Frozen, FrozenLayer
from paretune.inventory import Inventory
from paretune.plan import Plan
from paretune.profile import profile
from paretune.records import to_plain


def same(one: FrozenLayer, two: FrozenLayer) -> bool:
    """Equal to the last bit, dtypes included; `two` comes from a file, which holds some patterns only."""
    arrays = [(one.codes, two.codes), (one.scales, two.scales), (one.levels, two.levels)]
    if one.bias is not None and two.bias is not None:
        arrays.append((one.bias, two.bias))
    keys = ("weight_bits", "activation_bits", "step", "low", "high", "power", "exponent", "grid")
    held = one.pattern if two.encoding in ("n:m", "structured") else None
    return (
        all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in arrays)
        and (one.bias is None) == (two.bias is None)
        and all(getattr(one, key) == getattr(two, key) for key in keys)
        and two.pattern == held
    )


@given(st.lists(any_layer(), max_size=4), st.lists(SHAPES, max_size=2))
def test_unpack_is_the_exact_inverse(made: list[FrozenLayer], shapes: list[tuple[int, ...]]) -> None:
    rest = {f"rest{i}": np.random.default_rng(i).standard_normal(shape, np.float32) for i, shape in enumerate(shapes)}
    frozen = Frozen(layers={f"layer{i}": layer for i, layer in enumerate(made)}, rest=rest)
    back = unpack(pack(frozen), layout(frozen))
    assert list(back.layers) == list(frozen.layers)
    assert all(same(layer, back.layers[name]) for name, layer in frozen.layers.items())
    assert list(back.rest) == list(rest)
    assert all(np.array_equal(back.rest[key], array) for key, array in rest.items())
    assert pack(back) == pack(frozen)


@settings(max_examples=30)
@given(st.lists(any_layer(), max_size=6), st.integers(0, 2**32))
def test_the_file_is_as_large_as_predicted(made: list[FrozenLayer], seed: int) -> None:
    random = np.random.default_rng(seed)
    layers = {f"layer{i}": layer for i, layer in enumerate(made)}
    for i, bits in enumerate(random.integers(1, 9, 2).tolist()):
        width, density = random.integers(10, 60), random.random()
        layers[f"large{i}"] = a_layer((int(width), 50, 3), bits, density, seed=seed, peaked=bool(i))
    size = len(pack(frozen := Frozen(layers=layers, rest={"scale": np.ones(3, np.float32)})))
    predicted = size_bytes(tuple(row_of(name, layer) for name, layer in frozen.layers.items())) + 12
    assert abs(predicted - size) <= max(256, size / 100)


def two_layers() -> Frozen:
    codes = np.array([[-1, 0], [1, 1]], np.int8)
    quantized = FrozenLayer(codes=codes, scales=np.ones(2, np.float32), bias=None, weight_bits=2)
    plain = FrozenLayer(codes=np.ones((2, 2), np.float32), scales=np.empty(0, np.float32), bias=np.zeros(2, np.float32))
    return Frozen(layers={"first": quantized, "second": plain}, rest={"scale": np.ones(3, np.float32)})


def test_codes_lie_in_their_encoding_and_floats_behind_one_another() -> None:
    tensors = load(pack(two_layers()))
    table = bytes([0]) + np.float32(1).tobytes()  # a codebook of one number, so no indices
    assert tensors["codes"].tobytes() == bytes([0 | 1 << 2 | 2 << 4 | 2 << 6]) + table
    assert tensors["floats"].tolist() == [1, 1, 0, 0, 1, 1, 1]


def old(kind: str = "", bits: int = 32) -> tuple[FrozenLayer, dict[str, Any], bytes]:
    """A layer, its row and its file as format 2 had them: what a pattern leaves, dense, floats among the floats."""
    layer = a_layer((8, 16), bits, 1.0, kind=kind, activation_bits=8)
    kept, index = layer.codes.ravel(), b""
    if layer.pattern is not None:
        mask, index = mask_of(layer.pattern, (8, 16)), index_of(layer.pattern)
        kept = blocks(layer.codes, layer.pattern)[0].ravel() if kind == "partition" else layer.codes[mask]
    bias = np.zeros(8, np.float32) if layer.bias is None else layer.bias
    floats = [layer.scales, bias, np.float32([layer.step])]
    codes = index if bits == 32 else index + packed(kept.astype(np.int16) + 2 ** (bits - 1) - 1, bits)
    told = np.concatenate([kept, *floats] if bits == 32 else floats, dtype=np.float32)
    pattern = {key: value for key, value in to_plain(layer.pattern).items() if key != "stored"} if kind else None
    row = {
        "name": "a", "shape": [8, 16], "bias": True, "weight_bits": bits, "activation_bits": 8, "low": layer.low,
        "high": layer.high, "pattern": pattern, "codes_at": 0, "codes_bytes": len(codes), "floats_at": 0,
        "floats": told.size, "crc32": zlib.crc32(told.tobytes(), zlib.crc32(codes)),
    }  # fmt: skip
    return layer, row, save({"codes": np.frombuffer(codes, np.uint8), "floats": told})


@pytest.mark.parametrize("kind", ["", *WANTED])
@pytest.mark.parametrize("bits", [2, 5, 32])
def test_a_layout_of_the_older_formats_is_still_read(kind: str, bits: int) -> None:
    layer, row, blob = old(kind, bits)
    if not kind:  # the first format did not know the key
        del row["pattern"]
    placed = {"codes_bytes": row["codes_bytes"], "floats": row["floats"], "layers": [row], "rest": []}
    back = unpack(blob, placed).layers["a"]
    assert back.pattern == layer.pattern
    assert same(replace(layer, pattern=None), replace(back, pattern=None))


def test_a_layout_of_a_newer_format_is_refused() -> None:
    placed = layout(two_layers())
    assert placed["format"] == 3
    with pytest.raises(ParetuneError, match="format 4, this paretune reads up to 3; update paretune"):
        unpack(pack(two_layers()), placed | {"format": 4})


def spotted(kind: str = "half", bits: int = 32) -> FrozenLayer:
    """A masked (8, 16) layer whose weight i is i, or 1 if it is quantized; code 0 at the zeros."""
    mask = random_mask(WANTED[kind], (8, 16))
    whole = np.arange(128, dtype=np.float32).reshape(8, 16) if bits == 32 else np.ones((8, 16), np.int8)
    codes = np.where(mask, whole, whole.dtype.type(0))
    scales = np.empty(0, np.float32) if bits == 32 else np.ones(8, np.float32)
    return FrozenLayer(codes=codes, scales=scales, bias=None, weight_bits=bits, pattern=pattern_of(WANTED[kind], mask))


def test_the_layout_says_all_that_it_takes_to_decode_without_the_plan() -> None:
    layer = replace(spotted("pe_block, filter", 3), encoding="structured")
    assert layer.pattern is not None
    row = layout(Frozen(layers={"a": layer}, rest={}))["layers"][0]
    index = len(index_of(layer.pattern))
    assert row["pattern"] == {
        "kind": "pe_block", "nonzeros": 32, "index_bytes": index, "block": 4, "layout": "filter", "parts": 0,
    }  # fmt: skip
    assert (row["encoding"], row["code_bits"], row["index_bytes"], row["nonzeros"]) == ("structured", 3, index, 32)
    assert row["codes_bytes"] == index + 32 * 3 // 8


def test_the_table_for_reports_says_what_was_saved() -> None:
    ternary, floats, wide = a_layer((20, 20), 2, 0.1), a_layer((4, 4), 32, 1.0), a_layer((4, 4), 6, 1.0)
    frozen = Frozen(layers={"a": ternary, "b": floats, "c": wide}, rest={})
    rows = storage_table(frozen, layout(frozen))
    assert [row["layer"] for row in rows] == ["a", "b", "c"]
    assert [(row["raw"], row["raw_2_bit"]) for row in rows] == [(100, 100), (64, None), (12, None)]
    assert rows[0]["entropy"] <= rows[0]["stored"] < 100
    assert rows[1] | {"entropy": None, "stored": 64, "encoding": "dense"} == rows[1]


@pytest.mark.parametrize("bits", [4, 32])
def test_a_flipped_bit_of_an_index_names_its_layer(bits: int) -> None:
    held = replace(spotted("2:4", bits), encoding="n:m")
    frozen = Frozen(layers={"first": two_layers().layers["second"], "second": held}, rest={})
    blob = bytearray(pack(frozen))
    blob[HEADER_BYTES + 4 * layout(frozen)["floats"] + layout(frozen)["layers"][1]["codes_at"]] ^= 1
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
    assert as_predicted(len(blob), made.inventory, with_codes(made.plan, frozen))
    assert len(blob) <= size_bytes(profile(made.inventory, made.plan))
    back = unpack(blob, layout(frozen))
    assert all(same(layer, back.layers[name]) for name, layer in frozen.layers.items())


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
    frozen = freeze(made.model, made.inventory, made.plan)
    assert as_predicted(len(pack(frozen)), made.inventory, with_codes(made.plan, frozen))
    dense = len(pack(freeze(made.dense, made.inventory, Plan())))
    assert 0 <= size_bytes(profile(made.inventory, Plan())) - dense < 8 * 9 * 4, "a channel that its norm switched off"


def as_predicted(size: int, inventory: Inventory, plan: Plan) -> bool:
    return abs(size_bytes(profile(inventory, plan)) - size) <= max(256, size / 100)


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
    frozen = freeze(made.model, made.inventory, made.plan)
    told = size_bytes(profile(made.inventory, with_codes(made.plan, frozen)))
    assert abs(told - len(pack(frozen))) <= 16, "floats to the byte, two small weights nearly"


def test_a_net_of_many_sizes_keeps_the_header() -> None:
    torch.manual_seed(0)
    net = settle(nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(2304, 300)))
    made = compressed(net, {"0": (3, 8), "3": (5, 32)})
    frozen = freeze(made.model, made.inventory, made.plan)
    blob = pack(frozen)
    assert as_predicted(len(blob), made.inventory, with_codes(made.plan, frozen))
    assert int.from_bytes(blob[:8], "little") == HEADER_BYTES - 8


@pytest.mark.parametrize(("lost", "named"), [(1, "second"), (6, "first"), (44, "first")])
def test_a_truncated_file_names_what_is_lost_first(lost: int, named: str) -> None:
    frozen = two_layers()
    blob = pack(frozen)
    with pytest.raises(ParetuneError, match=f"{len(blob) - lost} of {len(blob)} bytes are there, '{named}'"):
        unpack(blob[:-lost], layout(frozen))


def test_a_truncated_float_layer_is_named() -> None:
    frozen = Frozen(layers={"second": two_layers().layers["second"]}, rest=two_layers().rest)
    blob = pack(frozen)
    with pytest.raises(ParetuneError, match="'second' is the first"):
        unpack(blob[:-4], layout(frozen))
    bare = Frozen(layers={}, rest=two_layers().rest)
    with pytest.raises(ParetuneError, match="'scale' is the first"):
        unpack(pack(bare)[:-4], layout(bare))


@pytest.mark.parametrize(
    ("at", "named"),
    [(-1, "second"), (-6, "first"), (HEADER_BYTES, "first"), (HEADER_BYTES + 8, "second"), (-7, "scale")],
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
