"""Attention taken apart computes what it did, and its heads can leave."""

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from paretune.compress.cut import cut, zero
from paretune.compress.freeze import freeze, thaw
from paretune.compress.groups import discover
from paretune.compress.layers import survey
from paretune.compress.quantize import calibrate, quantize
from paretune.costs.counts import macs, params
from paretune.errors import ParetuneError
from paretune.export.graph import check_exportable, to_onnx
from paretune.inventory import Group, Inventory, Member
from paretune.plan import DENSE, LayerPlan, Plan
from paretune.profile import profile
from paretune.tasks.attention import Attention
from paretune.tasks.network import network
from paretune.tasks.opened import in_parts, opened
from paretune.tasks.torchvision_models import torchvision_models
from paretune.tasks.weights import load_state, save_state
from paretune.tasks.window_attention import WindowAttention

WINDOWS: dict[str, Any] = {
    "patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4],
    "num_classes": 5, "stochastic_depth_prob": 0.0,
}  # fmt: skip
SIZES = {"vit": (16, 16), "swin": (40, 36), "swin_v2": (40, 36)}  # the windows of 4 × 4 patches stand over


def transformer() -> nn.Module:
    made: nn.Module = torchvision_models().vision_transformer.VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=24, num_classes=5
    )
    return made


def windows(version: int) -> nn.Module:
    swin = torchvision_models().swin_transformer
    newer = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2} if version == 2 else {}
    made: nn.Module = swin.SwinTransformer(**WINDOWS, **newer)
    return made


NETS: dict[str, Callable[[], nn.Module]] = {
    "vit": transformer, "swin": lambda: windows(1), "swin_v2": lambda: windows(2)
}  # fmt: skip


def network_of(name: str) -> tuple[nn.Module, Tensor]:
    """A small network of torchvision with no zeros where it starts with zeros, and a batch of two images."""
    torch.manual_seed(0)
    net = NETS[name]().eval()
    for key, parameter in net.named_parameters():
        if parameter.dim() < 2 or "head" in key or "table" in key:
            nn.init.normal_(parameter, 0.2, 0.3)
    return net, torch.randn(2, 3, *SIZES[name])


def attention(**settings: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(8, 2, **settings)
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    return made


def by_heads(net: nn.Module, inventory: Inventory) -> Inventory:
    """`inventory` with one group per attention, whose units are its heads."""
    groups = []
    for name, module in net.named_modules():
        if isinstance(module, (Attention, WindowAttention)):
            last = "out" if isinstance(module, Attention) else "proj"
            width, channels = module.head_width, module.q.out_features
            units = tuple(tuple(range(first, first + width)) for first in range(0, channels, width))
            places = (("q", "out"), ("k", "out"), ("v", "out"), (last, "in"))
            members = tuple(Member(layer=f"{name}.{part}", axis=axis, units=units) for part, axis in places)  # type: ignore[arg-type]
            groups.append(Group(name=name, channels=len(units), members=members))
    return replace(inventory, groups=tuple(groups))


@pytest.mark.parametrize("name", NETS)
def test_a_network_computes_what_it_did_and_costs_what_it_did(name: str) -> None:
    """Four layers more for every attention; torchvision's counted as products, or `proj` as a layer never called."""
    net, images = network_of(name)
    before = survey(net, images)
    new = opened(copy.deepcopy(net))
    for training in (False, True):
        torch.testing.assert_close(new.train(training)(images), net.train(training)(images), rtol=1e-5, atol=1e-6)
    after = survey(new, images)
    assert macs(profile(after, DENSE)) == macs(profile(before, DENSE))
    assert params(profile(after, DENSE)) == params(profile(before, DENSE))
    count = sum(isinstance(module, (Attention, WindowAttention)) for module in new.modules())
    assert count == (2 if name == "vit" else 4)
    assert len(after.weighted) == len(before.weighted) + 4 * count
    assert not after.unsure


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_the_same(name: str) -> None:
    net, images = network_of(name)
    new = opened(copy.deepcopy(net))
    for one in (net, new):
        one(images).square().sum().backward()
    expected = in_parts(new, {key: held.grad for key, held in net.named_parameters() if held.grad is not None})
    found = {key: held.grad for key, held in new.named_parameters()}
    for key, gradient in expected.items():
        if name != "swin_v2" or not key.endswith("attn.k.bias"):  # zero there, so it is not trained
            torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", NETS)
def test_the_tracer_finds_the_heads(name: str) -> None:
    net, images = network_of(name)
    opened(net)
    traced = discover(net, images[:1])
    for wanted in by_heads(net, traced).groups:
        found = traced.group[f"{wanted.name}.q"]
        assert found.channels == wanted.channels
        assert {(m.layer, m.axis): m.units for m in found.members} == {
            (m.layer, m.axis): m.units for m in wanted.members
        }


@pytest.mark.parametrize("name", NETS)
def test_heads_leave(name: str) -> None:
    """The first head leaves, so that the second must find its own bias of positions."""
    net, images = network_of(name)
    inventory = by_heads(opened(net), survey(net, images))
    kept = {group.name: tuple(range(1, group.channels)) for group in inventory.groups}
    with torch.no_grad():
        small, quiet = cut(net, inventory, kept), zero(net, inventory, kept)
        torch.testing.assert_close(small(images), quiet(images), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(small(images), net(images), rtol=1e-3)
    one = next(module for module in small.modules() if isinstance(module, (Attention, WindowAttention)))
    assert one.q.weight.shape[0] == len(kept[inventory.groups[0].name]) * one.head_width
    assert one.state_dict().keys() == next(m for m in net.modules() if type(m) is type(one)).state_dict().keys()


@pytest.mark.parametrize("name", NETS)
def test_weights_load_whether_saved_before_or_after(name: str) -> None:
    net, images = network_of(name)
    wanted = net(images)
    old, new = net.state_dict(), opened(copy.deepcopy(net)).state_dict()
    for state in (old, new):
        for load in (load_state, nn.Module.load_state_dict):
            fresh = opened(NETS[name]().eval())
            load(fresh, in_parts(fresh, state) if load is load_state else state)
            torch.testing.assert_close(fresh(images), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_shapes_alone_are_opened_too_and_no_random_number_is_drawn(name: str) -> None:
    net, images = network_of(name)
    here, there = opened(copy.deepcopy(net)), opened(copy.deepcopy(net).to("meta"))
    assert {tensor.device.type for tensor in (*there.parameters(), *there.buffers())} == {"meta"}
    rows = [profile(survey(one, images.to(at)), DENSE) for one, at in ((here, "cpu"), (there, "meta"))]
    assert macs(rows[0]) == macs(rows[1])
    state = torch.get_rng_state()
    opened(net)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "name", ["vit", pytest.param("swin", marks=pytest.mark.slow), pytest.param("swin_v2", marks=pytest.mark.slow)]
)
def test_a_quantized_network_is_stored_and_exported(name: str) -> None:
    net, images = network_of(name)
    inventory = survey(opened(net), images)
    layers = [LayerPlan(layer=x.name, weight_bits=4, activation_bits=8) for x in inventory.weighted]
    layers = [replace(row, weight_bits=8) if row.layer.endswith((".q", ".proj")) else row for row in layers]
    plan = Plan(layers=tuple(layers))
    model = quantize(copy.deepcopy(net), plan)
    calibrate(model, images)
    frozen = freeze(model, inventory, plan)
    small = thaw(net, inventory, plan, frozen)
    graph = to_onnx(small, frozen, images[:1])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(small(images), model(images), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found, small(images).numpy(), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(small(images), net(images), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_a_network_can_be_exported(name: str) -> None:
    net, images = network_of(name)
    inventory = survey(opened(net), images)
    check_exportable(net, inventory, images)
    assert not inventory.unsure


MASKS: dict[str, tuple[Tensor | None, bool]] = {
    "none": (None, False), "float": (torch.linspace(-1, 1, 16).view(4, 4), False),
    "bool": (torch.eye(4, dtype=torch.bool), False), "heads": (torch.linspace(-1, 1, 6 * 16).view(6, 4, 4), False),
    "causal": (torch.full((4, 4), -torch.inf).triu(1), True),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("padding", [None, torch.bool, torch.float])
def test_it_is_called_as_pytorchs(mask: str, padding: torch.dtype | None) -> None:
    """Every combination of what a call and a constructor may say, three samples of four tokens."""
    masked, causal = MASKS[mask]
    away = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]])
    for first, bias, need, average, widths in product(
        (True, False), (True, False), (True, False), (True, False), (8, 5)
    ):
        old = attention(batch_first=first, bias=bias, kdim=widths, vdim=widths - 1 if widths < 8 else 8)
        new = opened(copy.deepcopy(old))
        given = [torch.randn(3, 4, width) for width in (8, old.kdim, old.vdim)]
        more: dict[str, Any] = {
            "key_padding_mask": None if padding is None else away.to(padding), "need_weights": need,
            "attn_mask": masked, "average_attn_weights": average, "is_causal": causal,
        }  # fmt: skip
        given = given if first else [tensor.transpose(0, 1) for tensor in given]
        for one, two in zip(old(*given, **more), new(*given, **more), strict=True):
            torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("need", [True, False])
def test_a_single_sample_needs_no_batch_axis(need: bool) -> None:
    old, x = attention(batch_first=True), torch.randn(4, 8)
    away, mask = torch.tensor([False, False, False, True]), torch.randn(2, 4, 4)
    found = opened(copy.deepcopy(old))(x, x, x, attn_mask=mask, key_padding_mask=away.float(), need_weights=need)
    for one, two in zip(
        old(x, x, x, attn_mask=mask, key_padding_mask=away.float(), need_weights=need), found, strict=True
    ):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


def test_causal_alone_is_refused() -> None:
    x = torch.randn(1, 4, 8)
    with pytest.raises(ParetuneError, match="is_causal only says that attn_mask is causal"):
        opened(attention())(x, x, x, is_causal=True)


def test_weights_are_dropped_in_training_mode_only() -> None:
    new, x = opened(attention(dropout=0.5, batch_first=True)), torch.randn(1, 4, 8)
    assert not torch.equal(new.train()(x, x, x, need_weights=False)[0], new(x, x, x, need_weights=False)[0])
    assert torch.equal(new.eval()(x, x, x, need_weights=False)[0], new(x, x, x, need_weights=False)[0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_pytorchs_encoder_and_decoder_go_on(training: bool, grad: bool) -> None:
    """In eval mode and without gradients PyTorch's encoder would read the packed weights itself."""
    torch.manual_seed(0)
    net = nn.Transformer(16, 4, 2, 2, 32, dropout=0.0, batch_first=True).train(training)
    new, x, y = opened(copy.deepcopy(net)), torch.randn(3, 5, 16), torch.randn(3, 4, 16)
    away = torch.arange(5) >= torch.tensor([[5], [4], [3]])
    causal = nn.Transformer.generate_square_subsequent_mask(4)
    more: dict[str, Any] = {"tgt_mask": causal, "tgt_is_causal": True}
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(new(x, y, **more), net(x, y, **more), rtol=1e-5, atol=1e-5)
        whole = new.encoder(x, src_key_padding_mask=away)[~away]
        torch.testing.assert_close(whole, net.encoder(x, src_key_padding_mask=away)[~away], rtol=1e-5, atol=1e-5)
    assert sum(isinstance(module, Attention) for module in new.modules()) == 6


def hooked() -> nn.Module:
    made = attention()
    made.out_proj.register_forward_pre_hook(lambda *_: None)
    return made


def tied() -> nn.Module:
    one, two = attention(), attention()
    two.in_proj_weight = one.in_proj_weight
    return nn.ModuleList([one, two])


class Own(nn.MultiheadAttention):
    """A user's subclass."""


@pytest.mark.parametrize(
    "make",
    [lambda: attention(add_bias_kv=True), lambda: attention(add_zero_attn=True), hooked, tied, lambda: Own(8, 2)],
)
def test_what_is_not_known_is_left_as_it_is(make: Callable[[], nn.Module]) -> None:
    net = make()
    parts = list(net.modules())
    assert opened(net) is net
    assert list(net.modules()) == parts


def test_one_attention_under_two_names_stays_one_and_keeps_what_is_trained() -> None:
    shared = attention()
    shared.in_proj_weight.requires_grad_(False)
    net = opened(nn.ModuleDict({"one": shared.train(False), "two": shared}))
    one = net.get_submodule("one")
    assert isinstance(one, Attention)
    assert one is net.get_submodule("two")
    trained = {key for key, parameter in one.named_parameters() if parameter.requires_grad}
    assert trained == {"q.bias", "k.bias", "v.bias", "out.weight", "out.bias"}
    assert not one.training
    storages = {parameter.untyped_storage().data_ptr() for parameter in one.parameters()}
    assert len(storages) == 8  # a layer that is cut or saved takes no other along


def test_a_forward_that_reads_the_packed_weights_still_can() -> None:
    old = attention(batch_first=True)
    new = opened(copy.deepcopy(old))
    assert torch.equal(new.in_proj_weight, old.in_proj_weight)
    assert torch.equal(new.in_proj_bias, old.in_proj_bias)
    assert torch.equal(new.out_proj.weight, old.out_proj.weight)
    assert new.num_heads == 2


class Reader(nn.Module):
    """A user's network with an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.attention(x, x, x)[0].mean(1))
        return made


def test_a_tasks_network_is_opened_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ModuleType("own_attention")
    own.__dict__.update(Reader=Reader)
    monkeypatch.setitem(sys.modules, "own_attention", own)
    net, x = Reader().eval(), torch.randn(2, 4, 8)
    for name, state in (("before", net), ("after", opened(copy.deepcopy(net)))):
        save_state(state, tmp_path / f"{name}.safetensors")
        weights = str(tmp_path / f"{name}.safetensors")
        found = network(
            {"source": "module", "target": "own_attention.Reader", "input_shape": [4, 8], "weights": weights}
        )
        assert isinstance(found.get_submodule("attention"), Attention)
        torch.testing.assert_close(found(x), net(x), rtol=1e-5, atol=1e-6)
