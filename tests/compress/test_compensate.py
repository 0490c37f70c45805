"""A repaired layer computes what the dense one computes on reconstructed inputs; the greedy order is the exact one."""

import copy
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from compress_nets import NETS, Pooled, build, randomise
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.compress import compensate
from paretune.compress.compensate import Reader, compensated_cut, drop, losses, reader, reconstruction
from paretune.compress.cut import cut
from paretune.compress.groups import discover
from paretune.compress.layers import tensors
from paretune.compress.narrow import narrow
from paretune.errors import ImpossiblePlan, OutOfTime, ParetuneError
from paretune.inventory import Inventory, Layer

Array = NDArray[np.float64]
Batches = list[tuple[Tensor, Tensor]]


@cache
def known(name: str) -> Inventory:
    return discover(*build(name))


def images(shape: tuple[int, ...], count: int = 120) -> Batches:
    """Two uneven batches of noise; nobody looks at the targets."""
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(5))
    return [(part, torch.zeros(len(part))) for part in (noise[:50], noise[50:])]


def entering(model: nn.Module, name: str, batches: Batches) -> Tensor:
    """What the layer `name` reads, all batches in one."""
    seen: list[Tensor] = []
    keep = lambda _, given, named: seen.append(next(tensors((given, named))))  # noqa: E731
    handle = model.get_submodule(name).register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        for inputs, _ in batches:
            model(inputs)
    handle.remove()
    return torch.cat(seen)


def samples(layer: Layer, given: Tensor) -> Array:
    """(pixels, features) in float64, by numpy's own means."""
    array = given.double().numpy()
    return array if layer.kind == "linear" else np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])


def pre_activation(model: nn.Module, layer: Layer, given: Tensor) -> Tensor:
    """The layer without its padding, so that only interior pixels are left, and the norm that folds into it."""
    module = copy.deepcopy(model.get_submodule(layer.name)).double()
    if layer.kind == "conv":
        module.padding = (0,) * (given.dim() - 2)
    with torch.no_grad():
        made = module(given.double())
        return made if layer.norm is None else copy.deepcopy(model.get_submodule(layer.norm)).double()(made)


def rebuilt(layer: Layer, given: Tensor, removed: list[int]) -> tuple[Tensor, list[int]]:
    """`given` with the removed features replaced by their least-squares fit on the others, and who those are.

    Per conv group; with a constant only if the layer has a place for it.
    """
    pixels, width = samples(layer, given), layer.weight_shape[1]
    fitted, left = pixels.copy(), []
    for group in range(layer.groups):
        gone = [group * width + index for index in removed]
        stay = [index for index in range(group * width, (group + 1) * width) if index not in gone]
        known = pixels[:, stay]
        if layer.bias or layer.norm:
            known = np.column_stack([known, np.ones(len(known))])
        fitted[:, gone] = known @ np.linalg.lstsq(known, pixels[:, gone], rcond=1e-10)[0]
        left += stay
    shape = given.shape if layer.kind == "linear" else (len(given), *given.shape[2:], given.shape[1])
    whole = torch.from_numpy(fitted.reshape(shape))
    return (whole if layer.kind == "linear" else whole.movedim(-1, 1)), left


def halved(inventory: Inventory, name: str) -> tuple[int, ...]:
    return tuple(range(0, inventory.group[name].channels, 2))


@pytest.mark.parametrize("number", [0, 1, 2, 3])
@pytest.mark.parametrize("name", NETS)
def test_a_repaired_layer_is_the_dense_one_on_reconstructed_inputs(name: str, number: int) -> None:
    net, inventory = build(name)[0], known(name)
    if number >= len(inventory.groups):
        assert len(inventory.groups) == NETS[name][2]
        return
    group, batches = inventory.groups[number], images(inventory.input_shape)
    units = halved(inventory, group.name)
    small = compensated_cut(net, inventory, {group.name: units}, batches, 0.0)
    readers = [member for member in group.members if member.axis == "in"]
    for member in readers:
        layer = inventory.layer[member.layer]
        given = entering(net, layer.name, batches)
        removed = [index for unit in set(range(group.channels)) - set(units) for index in member.units[unit]]
        whole, left = rebuilt(layer, given, removed)
        part = whole[..., left] if layer.kind == "linear" else whole[:, left]
        ours, wanted = pre_activation(small, layer, part), pre_activation(net, layer, whole)
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
    assert readers


def mixed(constant: float) -> tuple[nn.Module, Inventory]:
    """Six channels, of which the last two are linear combinations of the others and a constant; then 3×3, padded."""
    torch.manual_seed(0)
    stem, wide = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
    mix = torch.tensor([[0.5, -1.0, 0.0, 2.0], [1.0, 1.0, 0.3, -0.7]])
    with torch.no_grad():
        stem.bias.zero_()
        stem.weight[4:] = (mix @ stem.weight[:4].flatten(1)).view(2, 3, 3, 3)
        stem.bias[4:] = constant
    net = nn.Sequential(stem, wide, nn.ReLU(), Pooled(5)).eval()
    return net, discover(net, torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("ridge", [0.0, 1e-8])
@pytest.mark.parametrize("constant", [0.0, 1.5])
def test_redundant_channels_cost_nothing(constant: float, ridge: float) -> None:
    net, inventory = mixed(constant)
    batches = images((3, 8, 8))
    small = compensated_cut(net, inventory, {"0": (0, 1, 2, 3)}, batches, ridge)
    with torch.no_grad():
        ours, wanted = small[:2](batches[0][0]), net[:2](batches[0][0])  # type: ignore[index]
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(ours[inside], wanted[inside], atol=1e-4, rtol=1e-4)
    # Zero padding is not the constant: exact at the border only without one.
    assert torch.allclose(ours, wanted, atol=1e-4, rtol=1e-4) is (constant == 0.0)
    plain = cut(net, inventory, {"0": (0, 1, 2, 3)})
    assert not torch.allclose(plain[:2](batches[0][0])[inside], wanted[inside], atol=0.1)  # type: ignore[index]


@pytest.mark.parametrize("name", NETS)
def test_keeping_everything_is_the_identity(name: str) -> None:
    net, inventory = build(name)[0], known(name)
    every = {group.name: tuple(range(group.channels)) for group in inventory.groups}
    same = compensated_cut(net, inventory, every, images(inventory.input_shape), 1e-4)
    assert same is not net
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in same.state_dict().items())


@pytest.mark.parametrize("name", NETS)
def test_the_shapes_are_those_of_a_cut(name: str) -> None:
    net, inventory = build(name)[0], known(name)
    kept = {group.name: halved(inventory, group.name) for group in inventory.groups}
    small = compensated_cut(net, inventory, kept, images(inventory.input_shape), 1e-4)
    plain = cut(net, inventory, kept).state_dict()
    assert {key: value.shape for key, value in small.state_dict().items()} == {k: v.shape for k, v in plain.items()}
    assert any(not torch.equal(value, plain[key]) for key, value in small.state_dict().items())
    assert torch.isfinite(small(images(inventory.input_shape)[0][0])).all()


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 1.0, 1e6])
def test_compensation_never_hurts_what_a_pointwise_layer_computes(ridge: float) -> None:
    net, inventory = build("chain")[0], known("chain")
    batches, kept = images(inventory.input_shape), {"2.0": (0, 3, 5)}
    given = entering(net, "4", batches)
    wanted = net[4](given)  # type: ignore[index]
    error = [
        (small[4](given[:, [0, 3, 5]]) - wanted).square().mean((0, 2, 3))  # type: ignore[index]
        for small in (compensated_cut(net, inventory, kept, batches, ridge), cut(net, inventory, kept))
    ]
    assert (error[0] <= error[1]).all()
    assert ridge > 1 or (error[0] < 0.9 * error[1]).all()


def test_an_endless_ridge_leaves_the_mean() -> None:
    net, inventory = build("chain")[0], known("chain")
    batches = images(inventory.input_shape)
    small = compensated_cut(net, inventory, {"2.0": (0, 3, 5)}, batches, 1e12)
    gone = [1, 2, 4, 6, 7]
    mean = entering(net, "4", batches).mean((0, 2, 3))[gone]
    weight, bias = net.get_parameter("4.weight")[:, :, 0, 0], net.get_parameter("4.bias")
    torch.testing.assert_close(small.get_parameter("4.weight")[:, :, 0, 0], weight[:, [0, 3, 5]])
    torch.testing.assert_close(small.get_parameter("4.bias"), bias + weight[:, gone] @ mean)


def test_the_next_group_is_measured_on_the_repaired_model() -> None:
    net, inventory = build("residual")[0], known("residual")
    batches = images(inventory.input_shape)
    kept = {group.name: halved(inventory, group.name) for group in inventory.groups}
    at_once = compensated_cut(net, inventory, kept, batches, 1e-4).state_dict()
    small, left = net, inventory
    for name, units in kept.items():
        small, left = compensated_cut(small, left, {name: units}, batches, 1e-4), narrow(left, {name: units})
    assert all(torch.equal(value, at_once[key]) for key, value in small.state_dict().items())
    # Measured on the dense model, the last layer would be another one.
    last = inventory.groups[-1].name
    stale = compensated_cut(net, inventory, {last: kept[last]}, batches, 1e-4)
    assert not torch.allclose(stale.get_parameter("head.fc.weight"), at_once["head.fc.weight"], atol=1e-3)


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_constant_channels_and_few_images_stay_finite(ridge: float) -> None:
    net, inventory = build("flat")[0], known("flat")
    with torch.no_grad():
        net.get_parameter("0.1.weight")[[0, 1]] = 0
    two = [(inputs[:2], targets[:2]) for inputs, targets in images(inventory.input_shape)[:1]]
    small = compensated_cut(net, inventory, {"0.0": (0, 2), "3": (1, 2)}, two, ridge)
    assert all(torch.isfinite(value).all() for value in small.state_dict().values())
    # All that stays is constant: nothing to regress on, so the mean takes over.
    small = compensated_cut(net, inventory, {"0.0": (0, 1)}, images(inventory.input_shape), ridge)
    assert torch.equal(small.get_parameter("3.weight"), net.get_parameter("3.weight")[:, :32])
    assert not torch.equal(small.get_parameter("3.bias"), net.get_parameter("3.bias"))
    order = reconstruction(net, inventory, images(inventory.input_shape), ridge)["0.0"]
    assert set(np.argsort(order)[:2]) == {0, 1}
    assert sorted(reconstruction(net, inventory, two, ridge)["0.0"]) == list(range(5))


def test_the_model_is_left_alone_and_its_mode_is_copied() -> None:
    net, inventory = build("residual")[0].train(), known("residual")
    net.stem[1].eval()  # type: ignore[index,union-attr]
    net.get_parameter("stem.0.weight").requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    kept = {group.name: halved(inventory, group.name) for group in inventory.groups}
    small = compensated_cut(net, inventory, kept, images(inventory.input_shape), 1e-4)
    reconstruction(net, inventory, images(inventory.input_shape), 1e-4)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [module.training for module in small.modules()] == [module.training for module in net.modules()]
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in net.parameters()]
    assert not any(module._forward_pre_hooks for model in (net, small) for module in model.modules())


def test_batches_may_be_a_generator_and_every_pass_ticks_and_stops_early() -> None:
    net, inventory = build("chain")[0], known("chain")
    batches, calls, reached = images(inventory.input_shape), [], []
    net[6].register_forward_hook(lambda *_: reached.append(1))  # type: ignore[index]

    def once() -> Iterator[tuple[Tensor, Tensor]]:
        yield from batches

    kept = {"0.0": (0, 1, 2), "2.0": (1, 2)}
    small = compensated_cut(net, inventory, kept, once(), 1e-4, tick=lambda: calls.append(1))
    again = compensated_cut(net, inventory, kept, batches, 1e-4)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in small.state_dict().items())
    assert len(calls) == 2 * len(batches)
    assert not reached
    reconstruction(net, inventory, once(), 1e-4, tick=lambda: calls.append(1))
    assert len(calls) == 3 * len(batches)


@pytest.mark.parametrize("last", [0, 2, 3])
def test_a_tick_stops_the_cut_between_any_two_batches_and_leaves_the_model_alone(last: int) -> None:
    net, inventory = build("chain")[0], known("chain")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    batches, calls = images(inventory.input_shape), list[int]()
    assert len(batches) == 2  # so that the third look comes in the second group

    def tick() -> None:
        calls.append(1)
        if len(calls) > last:
            raise OutOfTime("the time is up")

    with pytest.raises(OutOfTime, match="the time is up"):
        compensated_cut(net, inventory, {"0.0": (0, 1, 2), "2.0": (1, 2)}, batches, 1e-4, tick=tick)
    assert len(calls) == last + 1
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, inventory = build("chain")[0], known("chain")
    batches, kept = images(inventory.input_shape), {"0.0": (0, 1)}
    broken = [(torch.full((2, 3, 8, 8), torch.nan), torch.zeros(2))]
    with pytest.raises(ImpossiblePlan, match=r"what '2\.0' reads is not finite"):
        compensated_cut(net, inventory, kept, broken, 1e-4)
    with pytest.raises(ImpossiblePlan, match=r"what '2\.0' reads is not finite"):
        reconstruction(net, inventory, broken, 1e-4)
    with pytest.raises(ParetuneError, match="got no images"):
        compensated_cut(net, inventory, kept, [], 1e-4)
    for ridge in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ParetuneError, match="must be a number of at least 0"):
            compensated_cut(net, inventory, kept, batches, ridge)
    with pytest.raises(ImpossiblePlan, match="no group is called"):
        compensated_cut(net, inventory, {"0": (1,)}, batches, 1e-4)
    monkeypatch.setattr(compensate, "FEATURES", 5)
    with pytest.raises(ImpossiblePlan, match=r"'2\.0' reads 6 features; compensation can solve for 5 at most"):
        compensated_cut(net, inventory, kept, batches, 1e-4)


def test_a_repair_that_overflows_is_refused() -> None:
    net, inventory = build("chain")[0], known("chain")
    with torch.no_grad():
        net.get_parameter("0.1.bias")[2:] = 1000
        net.get_parameter("2.0.weight")[:, 2:] = 3e38
    with pytest.raises(ImpossiblePlan, match=r"the compensation of '2\.\d' is not finite; a larger ridge"):
        compensated_cut(net, inventory, {"0.0": (0, 1)}, images(inventory.input_shape), 1e-4)


def chance(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def correlated(features: int, seed: int = 0) -> Array:
    """(2000, features) centred pixels with some structure."""
    pixels = chance(seed, 2000, features) @ chance(seed + 1, features, features)
    centred: Array = pixels - pixels.mean(axis=0)
    return centred


def made(pixels: Array, weight: Array, size: int = 1) -> Reader:
    units = [tuple(range(first, first + size)) for first in range(0, pixels.shape[1], size)]
    return reader(np.linalg.inv(pixels.T @ pixels / len(pixels))[None], weight[None], units)


@pytest.mark.parametrize("size", [1, 3])
def test_a_loss_is_the_error_of_the_best_repair(size: int) -> None:
    pixels, weight = correlated(12), chance(7, 5, 12)
    for unit, loss in enumerate(losses(made(pixels, weight, size), 12 // size)):
        gone = list(range(unit * size, unit * size + size))
        stay = [index for index in range(12) if index not in gone]
        fit = np.linalg.lstsq(pixels[:, stay], pixels[:, gone], rcond=None)[0]
        rest = (pixels[:, gone] - pixels[:, stay] @ fit) @ weight[:, gone].T
        assert loss == pytest.approx((rest**2).sum(axis=1).mean())


@pytest.mark.parametrize("size", [1, 2])
def test_the_downdated_inverse_is_the_one_from_scratch(size: int) -> None:
    pixels, weight = correlated(16), chance(7, 5, 16)
    units = 16 // size
    one, here = made(pixels, weight, size), list(range(units))
    for _ in range(units - 1):
        stay = [unit * size + offset for unit in here for offset in range(size)]
        scratch = losses(made(pixels[:, stay], weight[:, stay], size), len(here))
        np.testing.assert_allclose(losses(one, units)[here], scratch, rtol=1e-7)
        unit = here.pop(int(np.argmin(scratch)))
        drop(one, unit)


@pytest.mark.parametrize("name", ["chain", "grouped", "flat", "twice", "residual"])
def test_the_order_is_the_greedy_one(name: str) -> None:
    """By brute force: no unit that was still there would have cost less than the one that went."""
    net, inventory = build(name)[0], known(name)
    batches, group = images(inventory.input_shape), inventory.groups[0]
    order = reconstruction(net, inventory, batches, 1e-4)[group.name]
    assert sorted(order) == list(range(group.channels))
    gone: list[int] = []
    for unit in np.argsort(order)[: group.channels - 1]:
        lost = {u: loss_of(net, inventory, batches, gone, u) for u in range(group.channels) if u not in gone}
        assert lost[int(unit)] <= 1.001 * min(lost.values()) + 1e-6
        gone.append(int(unit))


def loss_of(net: nn.Module, inventory: Inventory, batches: Batches, gone: list[int], unit: int) -> float:
    """The squared error of the readers of the first group when `unit` goes after `gone`, by ridge regression."""
    total = 0.0
    for member in inventory.groups[0].members:
        layer = inventory.layer[member.layer]
        if member.axis == "out":
            continue
        pixels, width = samples(layer, entering(net, layer.name, batches)), layer.weight_shape[1]
        pixels = pixels - pixels.mean(axis=0) * bool(layer.bias or layer.norm)
        weight = net.get_parameter(f"{layer.name}.weight").detach().double().numpy()
        weight = weight.reshape(len(weight), width, -1)
        for group, rows in enumerate(np.split(weight, layer.groups)):
            part = pixels[:, group * width : (group + 1) * width]
            second = part.T @ part / len(part) + 1e-4 * (part**2).mean() * np.eye(width)
            dead = [index for other in gone for index in member.units[other]]
            lost = list(member.units[unit])
            stay = [index for index in range(width) if index not in (*dead, *lost)]
            mix = np.linalg.solve(second[np.ix_(stay, stay)], second[np.ix_(stay, lost)])
            rest = second[np.ix_(lost, lost)] - second[np.ix_(lost, stay)] @ mix
            total += np.einsum("oit,ij,ojt->", rows[:, lost], rest, rows[:, lost])
    return total


def test_a_copy_and_a_channel_that_nobody_reads_go_first() -> None:
    torch.manual_seed(1)
    stem = nn.Conv2d(3, 6, 3, padding=1)
    net = randomise(nn.Sequential(stem, nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), Pooled(8))).eval()
    with torch.no_grad():
        stem.weight[4], stem.bias[4] = stem.weight[1], stem.bias[1]
        net.get_parameter("2.weight")[:, 3] = 0
    inventory = discover(net, torch.randn(1, 3, 8, 8))
    order = reconstruction(net, inventory, images((3, 8, 8)), 1e-8)["0"]
    assert order[3] == 0
    assert {int(unit) for unit in np.flatnonzero(order == 1)} <= {1, 4}
    assert max(order[1], order[4]) > 1  # the other copy is needed


def test_many_channels_are_ordered_quickly_and_exactly() -> None:
    pixels, weight = correlated(256, seed=3), chance(4, 10, 256)
    one = made(pixels, weight)
    position = compensate._order([one], 256)
    assert sorted(position) == list(range(256))
    last = int(np.argmax(position))
    fresh = weight[:, last] @ weight[:, last] * (pixels[:, last] ** 2).mean()
    # When it is alone, nothing explains any of its variance.
    alone = made(pixels, weight)
    for unit in np.argsort(position)[:-1]:
        drop(alone, int(unit))
    assert losses(alone, 256)[last] == pytest.approx(fresh, rel=1e-5)
