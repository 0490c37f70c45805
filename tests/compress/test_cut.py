"""A cut model computes what the zeroed model computes, and has the shapes the profile says."""

import random
from functools import cache
from math import prod

import pytest
import torch
from compress_nets import NETS, build
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from paretune.compress.cut import cut, zero
from paretune.compress.groups import discover
from paretune.errors import ImpossiblePlan
from paretune.inventory import Inventory
from paretune.plan import GroupPlan, Plan
from paretune.profile import cut_shape, profile

Kept = dict[str, tuple[int, ...]]


@cache
def known(name: str) -> Inventory:
    return discover(*build(name))


def some(inventory: Inventory, seed: int) -> Kept:
    """Random kept units, for every group at least one and all but at least one."""
    chance = random.Random(seed)
    return {
        group.name: tuple(sorted(chance.sample(range(group.channels), chance.randint(1, group.channels - 1))))
        for group in inventory.groups
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_a_cut_model_equals_the_zeroed_model(name: str, seed: int) -> None:
    net, inventory = build(name)[0], known(name)
    kept, batch = some(inventory, seed), torch.randn(4, *inventory.input_shape)
    with torch.no_grad():
        small, large = cut(net, inventory, kept)(batch), zero(net, inventory, kept)(batch)
        torch.testing.assert_close(small, large, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(large, net(batch), atol=1e-3), (
            "the removed channels did nothing: the law is empty here"
        )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_the_profile_says_what_the_cut_model_has(name: str, seed: int) -> None:
    net, inventory = build(name)[0], known(name)
    kept = some(inventory, seed)
    small = cut(net, inventory, kept)
    for layer in inventory.layers:
        held = small.get_submodule(layer.name)
        assert (held.weight if layer.affine else held.running_mean).shape == cut_shape(inventory, layer, kept)  # type: ignore[union-attr]
    rows = profile(inventory, Plan(groups=tuple(GroupPlan(group=g, kept=units) for g, units in kept.items())))
    assert sum(row.params for row in rows) == sum(parameter.numel() for parameter in small.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(torch.randn(1, *inventory.input_shape))
    assert sum(row.macs for row in rows) == counter.get_total_flops() / 2


@pytest.mark.parametrize("name", NETS)
def test_keeping_everything_is_the_identity(name: str) -> None:
    (net, example), inventory = build(name), known(name)
    every = {group.name: tuple(range(group.channels)) for group in inventory.groups}
    for same in (cut(net, inventory, every), cut(net, inventory, {}), zero(net, inventory, every)):
        assert same is not net
        assert torch.equal(same(example), net(example))


@pytest.mark.parametrize("name", NETS)
def test_the_modules_say_what_their_tensors_are(name: str) -> None:
    net, inventory = build(name)[0], known(name)
    for module in cut(net, inventory, some(inventory, 0)).modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.running_mean is not None
            assert len(module.running_mean) == module.num_features
            assert not module.affine or len(module.weight) == len(module.bias) == module.num_features


def test_the_kept_weights_stay_in_order() -> None:
    net, inventory = build("chain")[0], known("chain")
    small = cut(net, inventory, {"0.0": (1, 4), "2.0": (0, 3, 7)})
    whole = net.get_parameter("2.0.weight")
    assert torch.equal(small.get_parameter("2.0.weight"), whole[[0, 3, 7]][:, [1, 4]])
    assert torch.equal(small.get_buffer("2.1.running_var"), net.get_buffer("2.1.running_var")[[0, 3, 7]])


def test_a_flattened_channel_takes_its_pixels_along() -> None:
    net, inventory = build("flat")[0], known("flat")
    small = cut(net, inventory, {"0.0": (2,)})
    assert torch.equal(small.get_parameter("3.weight"), net.get_parameter("3.weight")[:, 2 * 16 : 3 * 16])


def test_the_model_is_left_alone_and_its_state_is_copied() -> None:
    net, inventory = build("residual")[0].train(), known("residual")
    net.get_parameter("stem.0.weight").requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    small = cut(net, inventory, some(inventory, 0))
    assert small.training
    assert not small.get_parameter("stem.0.weight").requires_grad
    assert small.get_parameter("stem.1.weight").requires_grad
    zero(net, inventory, some(inventory, 0))
    small(torch.randn(4, *inventory.input_shape)).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_cut_model_shares_no_memory() -> None:
    net, inventory = build("dense")[0], known("dense")
    small = cut(net, inventory, some(inventory, 0))
    ours = {tensor.data_ptr() for tensor in net.state_dict().values() if prod(tensor.shape)}
    assert not ours & {tensor.data_ptr() for tensor in small.state_dict().values()}


@pytest.mark.parametrize("act", [cut, zero])
@pytest.mark.parametrize(
    ("kept", "match"),
    [
        ({"stern": (0,)}, "no group is called 'stern'.*Known: 0.0"),
        ({"0.0": ()}, "group '0.0' would lose all of its 6 units"),
        ({"0.0": (0, 6)}, "group '0.0' has no unit 6; its units are 0 to 5"),
        ({"0.0": (-1, 2)}, "group '0.0' has no unit -1"),
        ({"0.0": (2, 1)}, r"must ascend, got \(2, 1\)"),
        ({"0.0": (1, 1)}, r"must ascend, got \(1, 1\)"),
    ],
)
def test_an_impossible_plan_is_refused(act: object, kept: Kept, match: str) -> None:
    with pytest.raises(ImpossiblePlan, match=match):
        act(build("chain")[0], known("chain"), kept)  # type: ignore[operator]
