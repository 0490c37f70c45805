"""Which channels leave together, which stay, and why."""

import json
import re
import warnings
from collections import OrderedDict
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from compress_nets import NETS, MixedConcat, Pooled, Residual, build, chain, conv, depthwise
from torch import Tensor, nn
from torch.nn import functional as F

from paretune.compress import channels, groups, proof
from paretune.compress.channels import follow
from paretune.compress.cut import cut
from paretune.compress.groups import discover
from paretune.errors import ParetuneError
from paretune.inventory import Group, Inventory, Member
from paretune.records import from_plain, to_plain

IMAGE = torch.randn(1, 3, 8, 8)


class Lambda(nn.Module):
    """Layers by name and a function of them."""

    def __init__(self, forward, **layers: nn.Module) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)  # type: ignore[no-any-return]


def member(inventory: Inventory, group: str, layer: str, axis: str) -> Member:
    return next(m for m in inventory.group[group].members if (m.layer, m.axis) == (layer, axis))


@pytest.mark.parametrize("name", NETS)
def test_every_prunable_group_is_found(name: str) -> None:
    inventory = discover(*build(name))
    assert len(inventory.groups) == NETS[name][2]
    position = [layer.name for layer in inventory.layers].index
    assert [position(group.name) for group in inventory.groups] == sorted(position(g.name) for g in inventory.groups)
    for group in inventory.groups:
        assert all(len(m.units) == group.channels for m in group.members)
        assert position(group.name) == min(position(m.layer) for m in group.producers)


@pytest.mark.parametrize("name", NETS)
def test_an_inventory_survives_json(name: str) -> None:
    inventory = discover(*build(name))
    again = from_plain(Inventory, json.loads(json.dumps(to_plain(inventory))))
    assert again == inventory
    assert isinstance(again.groups[0].members[0].units[0], tuple)


def test_layers_come_in_order_with_their_shapes() -> None:
    net = chain().eval()
    inventory = discover(net, IMAGE)
    stem = inventory.layers[0]
    assert [layer.name for layer in inventory.layers] == ["0.0", "0.1", "2.0", "2.1", "4", "6.fc"]
    assert [layer.kind for layer in inventory.layers] == ["conv", "norm", "conv", "norm", "conv", "linear"]
    assert (stem.weight_shape, stem.bias, stem.positions, stem.norm) == ((6, 3, 3, 3), False, 64, "0.1")
    assert (stem.input_shape, stem.output_shape, inventory.input_shape) == ((3, 8, 8), (6, 8, 8), (3, 8, 8))
    assert inventory.layer["2.0"].positions == 16
    assert (inventory.layer["4"].norm, inventory.layer["6.fc"].positions) == (None, 1)


def test_a_residual_ties_its_producers() -> None:
    inventory = discover(Residual().eval(), IMAGE)
    assert {m.layer for m in inventory.group["stem.0"].producers} == {"stem.0", "stem.1", "two.0", "two.1"}
    assert inventory.whole == {"head.fc": "its channels are the model's output"}


def test_units_follow_a_concatenation() -> None:
    inventory = discover(*build("twice"))
    assert member(inventory, "one.0", "three", "in").units[1] == (1, 11)
    assert member(inventory, "two.0", "three", "in").units[1] == (7,)


def test_units_follow_a_flatten() -> None:
    inventory = discover(*build("flat"))
    assert member(inventory, "0.0", "3", "in").units[2] == tuple(range(32, 48))


def test_conv_groups_lose_the_same_number() -> None:
    inventory = discover(*build("grouped"))
    assert inventory.group["0.0"].channels == 4
    assert member(inventory, "0.0", "0.0", "out").units[1] == (1, 5)
    assert member(inventory, "0.0", "2.0", "in").units[1] == (1,)
    assert member(inventory, "2.0", "2.0", "out").units[1] == (1, 7)


def test_a_depthwise_layer_shrinks_with_its_input() -> None:
    inventory = discover(depthwise().eval(), IMAGE)
    assert [(m.layer, m.axis) for m in inventory.group["0.0"].members if m.layer == "2.0"] == [("2.0", "out")]
    assert inventory.layer["2.0"].depthwise


def test_the_norm_is_the_only_reader() -> None:
    net = Lambda(lambda s, x: s.fc(s.bn(y := s.one(x)) + y), one=conv(3, 4)[0], bn=nn.BatchNorm2d(4), fc=Pooled(4))
    assert discover(net.eval(), IMAGE).layer["one"].norm is None


def _cross(s: nn.Module, x: Tensor) -> Tensor:
    return s.fc(F.softmax(s.one(x), 1))  # type: ignore[no-any-return]


WHOLE = {
    "input": (lambda s, x: s.fc(s.one(x) + x), {"one": nn.Conv2d(3, 3, 1)}, "tied to the model's input"),
    "output": (lambda s, x: (y := s.one(x), s.fc(y)), {"one": nn.Conv2d(3, 3, 1)}, "are the model's output"),
    "other": (lambda s, x: s.fc(s.act(s.one(x))), {"one": nn.Conv2d(3, 3, 1), "act": nn.PReLU(3)}, r"'act' \(PReLU\)"),
    "group norm": (
        lambda s, x: s.fc(s.gn(s.one(x))),
        {"one": nn.Conv2d(3, 3, 1), "gn": nn.GroupNorm(1, 3, affine=False)},
        r"pass 'gn' \(GroupNorm\), which cannot be sliced",
    ),
    "bare batch norm": (
        lambda s, x: s.fc(s.bn(s.one(x))),
        {"one": nn.Conv2d(3, 3, 1), "bn": nn.BatchNorm2d(3, affine=False, track_running_stats=False)},
        r"pass 'bn' \(BatchNorm2d\), which cannot be sliced",
    ),
    "transposed": (
        lambda s, x: s.fc(s.up(s.one(x))),
        {"one": nn.Conv2d(3, 3, 1), "up": nn.ConvTranspose2d(3, 3, 2)},
        r"'up' \(ConvTranspose2d\)",
    ),
    "shared": (lambda s, x: s.fc(s.one(s.one(x))), {"one": nn.Conv2d(3, 3, 1)}, "'one' is used more than once"),
    "softmax": (_cross, {"one": nn.Conv2d(3, 3, 1)}, r"pass aten._softmax in '' \(Lambda\), which cannot be followed"),
    "view": (
        lambda s, x: s.fc(s.one(x).flatten(1).view(-1, 3, 8, 8).flip(1)),
        {"one": nn.Conv2d(3, 3, 1)},
        "a cut and a zeroed copy disagree",
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_channels_that_cannot_leave_stay_and_say_why(case: str) -> None:
    forward, layers, reason = WHOLE[case]
    inventory = discover(Lambda(forward, **layers, fc=Pooled(3)).eval(), IMAGE)
    assert "one" not in inventory.group
    assert re.search(reason, inventory.whole["one"])


def test_layers_tied_by_a_grouped_convolution_stay() -> None:
    inventory = discover(MixedConcat().eval(), IMAGE)
    reason = "only part of what the grouped convolution 'three' reads"
    assert (inventory.whole["one.0"], inventory.whole["two.0"]) == (reason, reason)


def test_a_multiplied_depthwise_layer_is_one_unit() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), Pooled(8))
    inventory = discover(net.eval(), IMAGE)
    assert inventory.whole["0"] == "its channels can only leave all at once"
    assert inventory.group["1"].channels == 2


def test_one_bad_group_does_not_spoil_the_others() -> None:
    layers = {"one": conv(3, 8), "two": conv(8, 6), "three": conv(6, 5), "fc": Pooled(5)}
    net = Lambda(lambda s, x: s.fc(s.three(s.two(s.one(x).flatten(1).view(-1, 8, 8, 8)))), **layers)
    inventory = discover(net.eval(), IMAGE)
    assert [group.name for group in inventory.groups] == ["two.0", "three.0"]
    assert "a cut and a zeroed copy disagree" in inventory.whole["one.0"]


def test_no_set_of_groups_is_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, ...]] = []

    def counting(model: nn.Module, example: Tensor, inventory: Inventory, some: tuple[Group, ...]) -> bool:
        tried.append(tuple(group.name for group in some))
        return not any(group.name in ("two.0", "six.0") for group in some)

    monkeypatch.setattr(proof, "_agrees", counting)
    names = ("one", "two", "three", "four", "five", "six")
    net = nn.Sequential(OrderedDict({name: conv(3 if name == "one" else 4, 4) for name in names} | {"fc": Pooled(4)}))
    assert [group.name for group in discover(net.eval(), IMAGE).groups] == ["one.0", "three.0", "four.0", "five.0"]
    assert len(tried) == len(set(tried)) > 1


def test_a_layer_used_twice_counts_twice() -> None:
    net = Lambda(lambda s, x: s.fc(s.one(s.one(x))), one=nn.Conv2d(3, 3, 3, padding=1), fc=Pooled(3))
    assert discover(net.eval(), IMAGE).layer["one"].positions == 2 * 64


def test_views_in_the_batch_axis_count() -> None:
    net = Lambda(lambda s, x: s.fc(s.one(x.view(3, 1, 8, 8))).mean(0), one=nn.Conv2d(1, 4, 1), fc=Pooled(4))
    assert discover(net.eval(), IMAGE).layer["one"].positions == 3 * 64


def test_what_a_head_reads_in_training_only_stays() -> None:
    def forward(self: nn.Module, x: Tensor) -> Any:
        x = self.one(x)
        aside = self.aside(x) if self.training else None
        return self.fc(self.two(x)) if aside is None else (self.fc(self.two(x)), aside)

    layers = {"one": nn.Conv2d(3, 6, 1), "two": nn.Conv2d(6, 5, 1), "aside": Pooled(6), "fc": Pooled(5)}
    net = Lambda(forward, **layers).eval()
    inventory = discover(net, IMAGE)
    assert inventory.whole["one"] == "its channels reach 'aside', which runs in training only"
    assert list(inventory.group) == ["two"]
    small = cut(net, inventory, {"two": (0, 3)}).train()
    assert [tuple(made.shape) for made in small(IMAGE)] == [(1, 3), (1, 3)]


def test_modules_never_called_come_last() -> None:
    net = Lambda(lambda s, x: s.fc(s.one(x)), spare=nn.Linear(2, 2), one=nn.Conv2d(3, 4, 1), fc=Pooled(4))
    last = discover(net.eval(), IMAGE).layers[-1]
    assert (last.name, last.kind, last.weight_shape) == ("spare", "other", (6,))


def test_stored_buffers_are_layers_without_parameters() -> None:
    net = Lambda(lambda s, x: s.fc(s.one(x) + s.grid), one=nn.Conv2d(3, 4, 1), fc=Pooled(4))
    net.register_buffer("grid", torch.zeros(1, 1, 8, 8))
    net.register_buffer("scratch", torch.zeros(5), persistent=False)
    net.fc.register_buffer("calls", torch.zeros(7, dtype=torch.int64))
    root = discover(net.eval(), IMAGE).layer[""]
    assert (root.kind, root.weight_shape, root.buffers) == ("other", (0,), 64)
    assert [layer.name for layer in discover(net, IMAGE).layers] == ["one", "fc.fc", ""]


def test_a_norm_without_weight_folds() -> None:
    inventory = discover(*build("bare"))
    assert (inventory.layer["0"].norm, inventory.layer["3"].norm) == ("1", "4")
    norm = inventory.layer["1"]
    assert (norm.kind, norm.weight_shape, norm.affine, norm.bias, norm.buffers) == ("norm", (6,), False, False, 12)


def test_a_layer_that_holds_more_than_its_class_is_not_sliced() -> None:
    net = Lambda(lambda s, x: s.fc(s.one(x)), one=nn.Conv2d(3, 4, 1), fc=Pooled(4))
    net.one.register_buffer("mask", torch.ones(4, 3, 1, 1))
    inventory = discover(net.eval(), IMAGE)
    one = inventory.layer["one"]
    assert (one.kind, one.weight_shape, one.buffers, inventory.groups) == ("other", (16,), 12, ())


def test_layers_called_by_keyword_have_their_shapes() -> None:
    inventory = discover(*build("named"))
    assert [layer.input_shape for layer in inventory.layers] == [(3, 8, 8), (6, 6, 6), (6, 6, 6), (4,)]


def test_the_model_is_left_alone() -> None:
    net = chain().train()
    net.get_parameter("0.0.weight").requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    chance = torch.get_rng_state()
    with torch.no_grad():
        assert len(discover(net, IMAGE).groups) == 3
    assert all(module.training and not module._forward_hooks for module in net.modules())
    assert not net.get_parameter("0.0.weight").requires_grad
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), chance)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.fc = nn.Parameter(torch.ones(1, 3, 1, 1)), Pooled(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x * self.scale)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        discover(Scaled().eval(), IMAGE)
    assert (caught, capfd.readouterr()) == ([], ("", ""))


def test_a_forward_that_fails_is_one_line() -> None:
    message = r"^the model's forward fails on an example of shape \(1, 1, 8, 8\): Given groups=1.*$"
    with pytest.raises(ParetuneError, match=message) as caught:
        discover(chain(), torch.randn(1, 1, 8, 8))
    assert "\n" not in str(caught.value)


def test_channels_are_followed_without_gradients() -> None:
    def blind(self: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.fc(self.one(x).detach().data)  # type: ignore[no-any-return]

    inventory = discover(Lambda(blind, one=nn.Conv2d(3, 4, 1), fc=Pooled(4)).eval(), IMAGE)
    assert list(inventory.group) == ["one"]
    assert inventory.whole == {"fc.fc": "its channels are the model's output"}


def test_a_tracer_that_raises_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("lost\nmany more lines")

    monkeypatch.setattr(groups, "follow", broken)
    with pytest.raises(ParetuneError, match=r"^the model's channels cannot be followed: .*lost"):
        discover(chain(), IMAGE)


def clock(monkeypatch: pytest.MonkeyPatch, module: ModuleType, ticks: int) -> None:
    """Time is up for `module` after it has looked at the clock `ticks` times."""
    looks = iter(range(ticks))
    monkeypatch.setattr(
        module, "time", SimpleNamespace(monotonic=lambda: -1.0 if next(looks, None) is not None else 1e9)
    )


@pytest.mark.parametrize(("ticks", "name"), [(0, "0.1"), (1, "2.1"), (2, "4"), (1000, None)])
def test_when_time_is_up_it_says_where_channels_were_followed(
    ticks: int, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, channels, ticks)  # looked at by what lies between the layers: here an activation each
    if name is None:
        assert discover(chain(), IMAGE).groups
        return
    said = (
        f"finding the channel groups took longer than 60 s, last following channels through '{name}', which inventory."
        "exclude does not shorten: allow more time (inventory.seconds) or give groups by hand (inventory.groups)"
    )
    with pytest.raises(ParetuneError, match=f"^{re.escape(said)}$"):
        discover(chain(), IMAGE)


def test_when_time_is_up_it_says_what_was_being_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, proof, 0)
    said = "took longer than 60 s, last trying to cut '0.0', '2.0', '4'; exclude layers by name (inventory.exclude), "
    with pytest.raises(ParetuneError, match=re.escape(said)):
        discover(chain(), IMAGE)


def test_at_most_five_groups_are_named_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, proof, 0)
    net = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(7)), Pooled(3))
    with pytest.raises(ParetuneError, match="last trying to cut '0', '1', '2', '3', '4' and 2 more; exclude layers"):
        discover(net, IMAGE)


def test_groups_that_passed_before_time_was_up_are_not_named() -> None:
    net = chain().eval()
    inventory = discover(net, IMAGE)
    with pytest.raises(TimeoutError, match=r"^trying to cut '2.0', '4'; exclude layers"):
        groups._checked(net, IMAGE, inventory, inventory.groups[:1], -1.0)


def test_looking_for_where_time_went_leaves_no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[nn.Module] = []

    def kept(model: nn.Module, *given: Any) -> Any:
        seen.append(model)
        return follow(model, *given)

    monkeypatch.setattr(groups, "follow", kept)
    discover(chain(), IMAGE)
    assert len(seen) == 1
    assert not any(module._forward_pre_hooks for module in seen[0].modules())
