"""Gates: where they stand, what they let through, what they cost, and that they fold away."""

import math

import pytest
import torch
from compress_nets import NETS, build
from torch import Tensor, nn

from paretune.compress.cut import cut, zero
from paretune.compress.gates import Gates, attach_gates, fold
from paretune.compress.groups import discover
from paretune.inventory import Inventory

every_net = pytest.mark.parametrize("name", NETS)


def gated(name: str, seed: int = 0) -> tuple[nn.Module, Tensor, Inventory, Gates]:
    """A net whose gates have means all over, negative ones too."""
    net, x = build(name)
    inventory = discover(net, x)
    gates = attach_gates(net, inventory, seed)
    generator = torch.Generator().manual_seed(1)
    for gate in gates.by_group.values():
        gate.mean.data.normal_(0, 1, generator=generator)
    return net, torch.randn(4, *x.shape[1:], generator=generator), inventory, gates


@every_net
def test_a_folded_net_computes_what_its_gates_did(name: str) -> None:
    net, x, _, gates = gated(name)
    with torch.no_grad():
        before = net(x)
        fold(net, gates)
        torch.testing.assert_close(net(x), before, atol=1e-5, rtol=1e-5)
    assert not any(module._forward_hooks for module in net.modules())


@every_net
def test_a_closed_gate_is_a_removed_channel(name: str) -> None:
    net, x, inventory, gates = gated(name)
    kept = {group: tuple(range(0, len(gate.mean), 2)) for group, gate in gates.by_group.items()}
    for group, gate in gates.by_group.items():
        gate.mean.data[[unit for unit in range(len(gate.mean)) if unit not in kept[group]]] = 0
    with torch.no_grad():
        before = net(x)
        fold(net, gates)
        quiet, small = zero(net, inventory, kept), cut(net, inventory, kept)
        torch.testing.assert_close(small(x), quiet(x), atol=1e-4, rtol=1e-4)
        if name not in ("sigmoid", "bare", "mlp", "excited"):  # elsewhere a zero stays a zero up to the reader
            torch.testing.assert_close(small(x), before, atol=1e-4, rtol=1e-4)


@every_net
def test_every_producer_of_a_group_is_gated_behind_its_norm(name: str) -> None:
    _, _, inventory, gates = gated(name)
    for group in inventory.groups:
        norms = {member.layer for member in group.producers if inventory.layer[member.layer].kind == "norm"}
        plain = {
            member.layer
            for member in group.producers
            if inventory.layer[member.layer].kind != "norm" and inventory.layer[member.layer].norm is None
        }
        found = {place.module for place in gates.places if gates.by_group.get(group.name) is place.gate}
        foldable = all(inventory.layer[norm].affine for norm in norms)
        assert found == (norms | plain if foldable else set())


def test_noise_comes_in_training_only_and_per_sample() -> None:
    net, x, _, gates = gated("chain")
    same = x[:1].expand(3, -1, -1, -1)
    conv = net[4]
    assert isinstance(conv, nn.Conv2d)
    for gate in gates.by_group.values():
        gate.log_variance.data.fill_(0.0)
    given = torch.randn(1, 8, 4, 4).expand(3, -1, -1, -1)
    with torch.no_grad():
        quiet = conv.eval()(given)
        torch.testing.assert_close(quiet[0], quiet[1])
        torch.manual_seed(0)
        noisy = conv.train()(given)
        torch.manual_seed(0)
        torch.testing.assert_close(conv(given), noisy)
        assert torch.equal(net.eval()(same), net(same))
    ratio = noisy / quiet
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(noisy[0], noisy[1])


def test_gates_start_open_and_by_their_seed() -> None:
    net, x = build("chain")
    inventory = discover(net, x)
    before = torch.get_rng_state()
    one, two, other = (attach_gates(net, inventory, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    for name, gate in one.by_group.items():
        assert torch.equal(gate.mean, two.by_group[name].mean)
        assert not torch.equal(gate.mean, other.by_group[name].mean)
        assert float((gate.mean.detach() - 1).abs().max()) < 0.06
        assert float((gate.log_variance.detach() + 9).abs().max()) < 0.06
    assert one.kept(1.0, 1) == {}


def test_information_is_the_formula_weighted_by_the_side_of_the_map() -> None:
    _, _, inventory, gates = gated("chain")
    total = 0.0
    for group, side in zip(inventory.groups, (8, 4, 4), strict=True):
        gate = gates.by_group[group.name]
        pairs = zip(gate.mean.tolist(), gate.log_variance.tolist(), strict=True)
        total += side * sum(0.5 * math.log(1 + mean**2 / (math.exp(log) + 1e-8)) for mean, log in pairs)
    assert float(gates.information(torch.zeros(())).detach()) == pytest.approx(total, rel=1e-5)


def test_a_channel_leaves_when_its_alpha_is_below_the_threshold() -> None:
    _, _, _, gates = gated("chain")
    name, gate = next(iter(gates.by_group.items()))
    gate.log_variance.data.fill_(math.log(0.01))
    gate.mean.data.copy_(torch.tensor([1.0, -1.0, 0.01, 0.2, 0.0, -0.05]))  # α is 100, 100, 0.01, 4, 0, 0.25
    assert gates.kept(1.0, 1)[name] == (0, 1, 3)
    assert gates.kept(0.1, 1)[name] == (0, 1, 3, 5)
    assert gates.kept(1e6, 1)[name] == (0,)
    assert gates.kept(1e6, 4)[name] == (0, 1, 3, 5)
    assert name not in gates.kept(1e6, 99)
    for threshold, softness in ((1.0, 1.0), (0.1, 3.0)):
        stay = gates.stay(threshold, softness)[name].tolist()
        for alpha, share in zip((100, 100, 0.01, 4, None, 0.25), stay, strict=True):
            if alpha is not None:
                wanted = 1 / (1 + (threshold / alpha) ** (1 / softness))
                assert share == pytest.approx(wanted, abs=1e-4)
    assert stay[4] < 0.01


def test_gradients_are_finite_where_a_gate_is_shut() -> None:
    _, _, _, gates = gated("chain")
    for gate in gates.by_group.values():
        gate.mean.data[0] = 0.0
        gate.log_variance.data[1] = -60.0
    value = gates.information(torch.zeros(())) + sum(stay.sum() for stay in gates.stay(1.0, 0.1).values())
    value.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in gates.parameters())
