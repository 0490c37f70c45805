"""Channels and bits found by one training: what the penalty counts, what is found, and that it holds together."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compress_nets import NETS, build
from torch import Tensor, nn
from training_nets import data, net, same, seeds

from paretune.compress import joint
from paretune.compress.cut import cut
from paretune.compress.djpq import CurvedActivation, CurvedWeight
from paretune.compress.freeze import freeze, thaw
from paretune.compress.gates import Gates, attach_gates
from paretune.compress.groups import discover
from paretune.compress.joint import find_jointly, relative_bops, whole_bits
from paretune.compress.quantize import calibrate, quantize, weight_quantizer
from paretune.compress.recover import Teacher, finetune, no_tick, recalibrate
from paretune.costs.counts import bops
from paretune.errors import ImpossiblePlan
from paretune.inventory import Inventory
from paretune.plan import DENSE, GroupPlan, LayerPlan, Pattern, Plan
from paretune.profile import cut_shape, profile
from paretune.recipe import Joint, Recovery
from paretune.tasks.memory import InMemory


def asked(inventory: Inventory, start: int = 8, **numbers: Any) -> Plan:
    """A plan with free bits everywhere that start at `start`."""
    rows = tuple(
        LayerPlan(
            layer=layer.name, weight_bits=start, activation_bits=start, weight_quantizer="djpq",
            activation_quantizer="djpq",
        )
        for layer in inventory.weighted
    )  # fmt: skip
    first = {row.layer: start for row in rows}
    usual = {"epochs": 4, "lr": 0.02, "rate": 0.05, "gamma": 0.0, "beta": 0.0, "threshold": 1.0, "softness": 1.0}
    return Plan(layers=rows, joint=Joint(weight_bits=first, activation_bits=first, **(usual | numbers)))


def found(dense: nn.Module, plan: Plan, inventory: Inventory, split: InMemory, seed: int = 0) -> tuple[nn.Module, Plan]:
    model = cut(dense, inventory, {})
    return find_jointly(
        model, inventory, plan, loss=F.cross_entropy, teacher=Teacher(model=dense, split=split), seeds=seeds,
        seed=seed, calibration=tuple(split.batches(99)), tick=no_tick,
    )  # fmt: skip


@cache
def trained() -> nn.Module:
    """The small net, trained in float; to be copied, not changed."""
    model = net()
    recovery = Recovery(epochs=6, lr=0.1)
    finetune(model, recovery, loss=F.cross_entropy, teacher=Teacher(model=net(9), split=data()), seeds=seeds)
    return model.eval()


def small(seed: int = 0, start: int = 8, **numbers: Any) -> tuple[nn.Module, Plan, Inventory]:
    dense = trained()
    inventory = discover(dense, data().inputs[:1])
    model, plan = found(dense, asked(inventory, start, **numbers), inventory, data(), seed)
    return model, plan, inventory


def pictures(name: str) -> tuple[nn.Module, Inventory, InMemory]:
    dense, x = build(name)
    inputs = torch.randn(48, *x.shape[1:], generator=torch.Generator().manual_seed(2))
    return dense, discover(dense, x), InMemory(inputs=inputs, targets=torch.arange(48) % 3, batch=16)


def bits_of(plan: Plan) -> list[int]:
    return [bits for row in plan.layers for bits in (row.weight_bits, row.activation_bits)]


def share(inventory: Inventory, plan: Plan) -> float:
    return bops(profile(inventory, plan)) / bops(profile(inventory, DENSE))


@pytest.mark.parametrize("name", NETS)
def test_bit_operations_are_the_exact_ones_for_whole_channels_and_bits(name: str) -> None:
    dense, x = build(name)
    inventory = discover(dense, x)
    assert float(relative_bops(inventory, {}, {})) == pytest.approx(1.0, rel=1e-6)
    stay = {group.name: torch.arange(group.channels) % 3 != 1 for group in inventory.groups}
    bits = {layer.name: (2 + number % 7, 3 + number % 5) for number, layer in enumerate(inventory.weighted[:-1])}
    plan = Plan(
        groups=tuple(GroupPlan(group=key, kept=tuple(keep.nonzero()[:, 0].tolist())) for key, keep in stay.items()),
        layers=tuple(LayerPlan(layer=key, weight_bits=w, activation_bits=a) for key, (w, a) in bits.items()),
    )
    counted = relative_bops(inventory, bits, {key: keep.float() for key, keep in stay.items()})
    assert float(counted) == pytest.approx(share(inventory, plan), rel=1e-5)


def test_bit_operations_have_gradients_for_channels_and_bits() -> None:
    dense, x = build("residual")
    inventory = discover(dense, x)
    stay = {group.name: torch.full((group.channels,), 0.7, requires_grad=True) for group in inventory.groups}
    bits = {layer.name: (torch.tensor(5.0, requires_grad=True), 4) for layer in inventory.weighted}
    relative_bops(inventory, bits, stay).backward()
    for leaf in [*stay.values(), *(weight for weight, _ in bits.values())]:
        assert leaf.grad is not None
        assert bool((leaf.grad > 0).all())


@pytest.mark.parametrize(
    ("bits", "least", "free", "restricted"),
    [(1.2, 2, 2, 2), (2.4, 2, 2, 2), (3.6, 2, 4, 4), (5.6, 2, 6, 4), (5.7, 2, 6, 8), (9.3, 2, 8, 8), (2.2, 3, 3, 4),
     (4.0, 5, 5, 8)],
)  # fmt: skip
def test_bits_become_whole(bits: float, least: int, free: int, restricted: int) -> None:
    assert whole_bits(bits, least, False) == free
    assert whole_bits(bits, least, True) == restricted


def test_without_a_price_nothing_leaves_and_bits_stay_near_the_start() -> None:
    _, plan, _ = small(start=6, rate=1e-3)
    assert plan.groups == ()
    assert all(abs(bits - 6) <= 1 for bits in bits_of(plan))


def test_a_higher_price_buys_fewer_bit_operations() -> None:
    shares = [share(inventory, plan) for _, plan, inventory in (small(beta=beta) for beta in (0.0, 0.1, 30.0))]
    assert shares[0] >= shares[1] >= shares[2]
    assert shares[0] > 1.2 * shares[2]


def test_the_more_information_costs_the_fewer_channels_stay() -> None:
    kept = []
    for gamma in (0.01, 0.1):
        _, plan, inventory = small(gamma=gamma, epochs=6, rate=0.13, threshold=30.0)
        (group,) = plan.groups
        assert group.group == inventory.groups[0].name
        kept.append(len(group.kept))
    assert 1 <= kept[1] < kept[0] < inventory.groups[0].channels
    _, plan, _ = small(gamma=100.0, epochs=3, rate=0.2, threshold=1e3, minimum=2)
    assert len(plan.groups[0].kept) == 2


@pytest.mark.parametrize("least", [2, 4])
def test_restricted_bits_are_powers_of_two(least: int) -> None:
    _, plan, _ = small(beta=10.0, start=6, least=least, epochs=3, bits="power_of_two")
    assert set(bits_of(plan)) <= {bits for bits in (2, 4, 8) if bits >= least}


def test_bits_stay_within_their_bounds() -> None:
    _, plan, _ = small(beta=1000.0, start=4, least=3, rate=0.3)
    assert set(bits_of(plan)) == {3}


def test_exponents_are_learned_only_if_asked() -> None:
    for exponent in (0, 1):
        model, _, _ = small(beta=1.0, exponent=exponent, epochs=2)
        values = [parameter for name, parameter in model.named_parameters() if name.endswith("exponent")]
        assert len(values) == 4
        assert all(value.requires_grad == bool(exponent) for value in values)
        assert all((value.item() == 1.0) == (not exponent) for value in values)


def test_the_same_seed_finds_the_same_and_leaves_the_global_generator_alone() -> None:
    dense = trained()
    inventory = discover(dense, data().inputs[:1])
    plan = asked(inventory, gamma=0.1, beta=1.0, epochs=2)
    before = torch.get_rng_state()
    one, other, another = (found(dense, plan, inventory, data(), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one[1] == other[1]
    assert same(one[0], other[0])
    assert not same(one[0], another[0])


@pytest.mark.parametrize("name", ["residual", "dense", "flat", "depthwise", "mlp"])
def test_what_is_found_is_what_is_returned_and_can_be_frozen(name: str) -> None:
    dense, inventory, split = pictures(name)
    plan = asked(inventory, gamma=1e-3, beta=10.0, epochs=3, threshold=6000.0, rate=0.05, minimum=2)
    model, plan = found(dense, plan, inventory, split)
    assert plan.groups
    assert plan.joint is not None
    assert plan.joint.done
    assert not plan.open
    for layer in inventory.layers:
        weight = getattr(model.get_submodule(layer.name), "weight", None)
        if isinstance(weight, Tensor):
            assert tuple(weight.shape) == cut_shape(inventory, layer, plan.kept)
    assert not any(module._forward_hooks for module in model.modules())
    for row in plan.layers:
        layer_module = model.get_submodule(row.layer)
        quantizer = weight_quantizer(layer_module)
        assert isinstance(quantizer, CurvedWeight)
        assert isinstance(layer_module.activation_quantizer, CurvedActivation)
        assert (quantizer.bits, layer_module.activation_quantizer.bits) == (row.weight_bits, row.activation_bits)
        assert quantizer.step is None
    ranges = [parameter.clone() for key, parameter in model.named_parameters() if key.endswith("edge")]
    quantize(model, plan)
    calibrate(model, split.inputs)
    after = [parameter for key, parameter in model.named_parameters() if key.endswith("edge")]
    assert all(torch.equal(one, other) for one, other in zip(ranges, after, strict=True))
    recalibrate(model, split.batches(0))
    tune = Recovery(epochs=1, lr=0.01)
    finetune(model, tune, loss=F.cross_entropy, teacher=Teacher(model=dense, split=split), seeds=seeds)
    thawed = thaw(dense, inventory, plan, freeze(model.eval(), inventory, plan))
    with torch.no_grad():
        torch.testing.assert_close(thawed(split.inputs), model(split.inputs), atol=1e-4, rtol=1e-4)
        assert float(model(split.inputs).std(0).min()) > 0


def test_layers_of_other_quantizers_keep_what_the_plan_says() -> None:
    dense, inventory, split = pictures("chain")
    plan = asked(inventory, gamma=1.0, beta=100.0, epochs=3, threshold=1000.0, rate=0.2)
    first, second, third, last = plan.layers
    lsq = LayerPlan(layer=second.layer, weight_bits=5, activation_bits=6)
    rows = (LayerPlan(layer=first.layer), lsq, third, replace(last, weight_quantizer="lsq", weight_bits=3))
    model, plan = found(dense, replace(plan, layers=rows), inventory, split)
    assert plan.groups
    assert plan.layers[:2] == rows[:2]
    assert plan.layers[3].weight_bits == 3
    assert plan.layers[2].weight_bits < 8
    assert isinstance(model.get_submodule(last.layer).activation_quantizer, CurvedActivation)
    for row in plan.layers[1:]:
        quantizer = weight_quantizer(model.get_submodule(row.layer))
        assert quantizer is not None
        assert (quantizer.name, quantizer.bits) == (row.weight_quantizer, row.weight_bits)
    assert model(split.inputs).isfinite().all()


def spread_gates(model: nn.Module, inventory: Inventory, seed: int) -> Gates:
    """Gates whose means are all over, negative ones too."""
    gates = attach_gates(model, inventory, seed)
    for gate in gates.by_group.values():
        gate.mean.data.normal_(0, 2, generator=torch.Generator().manual_seed(seed))
    return gates


def test_the_returned_model_computes_what_the_gated_one_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint, "attach_gates", spread_gates)
    dense = trained()
    inventory, split = discover(dense, data().inputs[:1]), data()
    plan = asked(inventory, epochs=0, threshold=1e-9)
    model, _ = found(dense, plan, inventory, split, seed=3)
    gated = quantize(cut(dense, inventory, {}), plan)
    recalibrate(gated, split.batches(99))
    calibrate(gated, next(iter(split.batches(99)))[0])
    recalibrate(gated, split.batches(99))
    spread_gates(gated, inventory, 3)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(split.inputs), gated.eval()(split.inputs), atol=1e-5, rtol=1e-5)


def test_a_mean_that_goes_into_weights_takes_their_range_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint, "attach_gates", spread_gates)
    dense, inventory, split = pictures("flat")
    model, _ = found(dense, asked(inventory, epochs=0, threshold=1e-9), inventory, split)
    layer = next(one.name for one in inventory.weighted if one.norm is None)
    quantizer, before = weight_quantizer(model.get_submodule(layer)), dense.get_submodule(layer).weight
    assert isinstance(quantizer, CurvedWeight)
    assert isinstance(before, Tensor)
    means = spread_gates(cut(dense, inventory, {}), inventory, 0).by_group[layer].mean
    wanted = float(before.detach().abs().max() * means.detach().abs().max())
    assert float(quantizer.edge.detach()) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("change", ["cut", "masked", "done", "none"])
def test_a_plan_that_has_found_already_cannot_be_searched(change: str) -> None:
    dense, inventory, split = pictures("chain")
    plan = asked(inventory)
    pattern = Pattern(kind="unstructured", nonzeros=1, index_bytes=1, stored="")
    assert plan.joint is not None
    changed = {
        "cut": replace(plan, groups=(GroupPlan(group=inventory.groups[0].name, kept=(0,)),)),
        "masked": replace(plan, layers=(replace(plan.layers[0], pattern=pattern), *plan.layers[1:])),
        "done": replace(plan, joint=replace(plan.joint, done=True)),
        "none": replace(plan, joint=None),
    }
    with pytest.raises(
        ImpossiblePlan, match="finds its channels itself" if change in ("cut", "masked") else "not done"
    ):
        found(dense, changed[change], inventory, split)
