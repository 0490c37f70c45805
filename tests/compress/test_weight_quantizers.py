"""What every weight quantizer promises, at every bit-width it has: a new one is tested by being listed.

Values are those in eval mode: what is scored, frozen and stored. In training mode some weights may still be in float.
"""

import copy
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paretune.compress.masks import attach, mask_module, raw_weight
from paretune.compress.quantize import quantize, tell_quantizers, weight_codes, weight_quantizer
from paretune.compress.quantizer import WeightQuantizer
from paretune.compress.quantizers import WEIGHTS, make_weight_quantizer
from paretune.frozen import GRIDS, FrozenLayer, stored_levels, top_code
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Quantizing

SHAPES = {"linear": (12, 40), "conv": (12, 5, 3, 3), "depthwise": (60, 1, 3, 3)}
DONE = (0.0, 0.3, 0.7, 0.95)  # shares of a training
CURVED = {"dorefa"}  # above 1 bit: tanh(2w) is not 2 tanh(w)

CASES = [(name, bits) for name, row in WEIGHTS.items() for bits in range(row.least, row.most + 1)]
every_case = pytest.mark.parametrize(("name", "bits"), CASES)


def weights(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Small numbers as in a trained layer, filters of different size, and zeros as a mask leaves them."""
    chance = torch.Generator().manual_seed(seed)
    weight = (
        0.1
        * torch.randn(shape, generator=chance)
        * (1 + torch.rand(shape[0], generator=chance)).view(-1, *[1] * (len(shape) - 1))
    )
    weight[torch.rand(shape, generator=chance) < 0.2] = 0
    return weight


def made(name: str, bits: int, weight: Tensor) -> WeightQuantizer:
    """The quantizer fitted to `weight`, in eval mode."""
    return make_weight_quantizer(name, weight.clone(), bits, Quantizing()).eval()


def learn(quantizer: WeightQuantizer, weight: Tensor, done: tuple[float, ...] = DONE) -> Tensor:
    """What a few steps of a training towards other weights make of the float weight; zeros stay, as behind a mask.

    Afterwards the quantizer is in eval mode.
    """
    quantizer.train()
    learned, mask, wanted = weight.clone().requires_grad_(), weight != 0, weights(tuple(weight.shape), seed=9)
    optimizer = torch.optim.SGD([learned, *quantizer.parameters()], lr=1e-3)
    for share in done:
        quantizer.at(share)
        optimizer.zero_grad()
        (quantizer(learned * mask) - wanted).square().sum().backward()
        optimizer.step()
    quantizer.eval()
    return (learned * mask).detach()


def check(quantizer: WeightQuantizer, weight: Tensor) -> None:
    """The laws of one quantizer and one weight."""
    with torch.no_grad():
        parts, value = quantizer.parts(weight), quantizer(weight)
    top = top_code(quantizer.bits)
    assert torch.equal(value, quantizer.value(parts))
    assert value.shape == parts.codes.shape == weight.shape
    assert value.isfinite().all()
    assert torch.equal(parts.codes, parts.codes.round())
    assert parts.codes.abs().max() <= top
    assert parts.scale.isfinite().all()
    assert (parts.scale > 0).all()
    assert parts.scale.numel() in (1, len(weight))
    assert not parts.codes[weight == 0].any()
    assert not value[weight == 0].any()
    assert (parts.levels is not None) == (quantizer.grid == "codebook")
    if parts.levels is not None:
        assert parts.levels.shape == (2 * top,)
        assert (parts.levels.diff() >= 0).all()


def test_the_table_says_what_a_method_has_and_reads() -> None:
    for name, row in WEIGHTS.items():
        assert 1 <= row.least <= row.most <= 8, name
        assert set(row.reads) <= {field.name for field in fields(Quantizing)}, name


@every_case
def test_a_value_is_the_value_of_its_code_times_the_scale(name: str, bits: int) -> None:
    for shape in SHAPES.values():
        weight = weights(shape)
        quantizer = made(name, bits, weight)
        assert (quantizer.name, quantizer.bits) == (name, bits)
        assert quantizer.grid in GRIDS
        check(quantizer, weight)
        assert quantizer.parts(weight).codes.any(), "a weight that is not zero does not become zero everywhere"


@every_case
def test_so_it_is_when_training_is_over(name: str, bits: int) -> None:
    weight = weights(SHAPES["conv"])
    quantizer = made(name, bits, weight)
    learned = learn(quantizer, weight)
    quantizer.at(1.0)
    check(quantizer, learned)


@every_case
def test_so_it_is_for_a_weight_it_was_not_fitted_to(name: str, bits: int) -> None:
    quantizer = made(name, bits, weights(SHAPES["linear"]))
    check(quantizer, 3 * weights(SHAPES["linear"], seed=5))


@every_case
def test_zeros_stay_and_nothing_else_breaks_while_training_runs(name: str, bits: int) -> None:
    weight = weights(SHAPES["linear"])
    quantizer = made(name, bits, weight)
    for at in range(len(DONE)):
        weight = learn(quantizer, weight, DONE[at : at + 1])
        for mode in (True, False):
            value = quantizer.train(mode)(weight)
            assert value.isfinite().all()
            assert not value[weight == 0].any()


@every_case
def test_gradients_are_finite_and_everything_learned_gets_one(name: str, bits: int) -> None:
    weight = weights(SHAPES["conv"])
    for done in (None, *DONE, 1.0):
        quantizer = made(name, bits, weight).train()
        if done is not None:
            quantizer.at(done)
        leaf = weight.clone().requires_grad_()
        (quantizer(leaf) - weights(SHAPES["conv"], seed=9)).square().sum().backward()
        for key, learned in (("weight", leaf), *quantizer.named_parameters()):
            assert learned.grad is not None, (key, done)
            assert learned.grad.isfinite().all(), (key, done)


@every_case
def test_something_learns_at_the_start_of_a_training(name: str, bits: int) -> None:
    """The weight, or with a codebook the values that weights share."""
    weight = weights(SHAPES["linear"])
    quantizer = made(name, bits, weight).train()
    quantizer.at(0.0)
    leaf = weight.clone().requires_grad_()
    (quantizer(leaf) - weights(SHAPES["linear"], seed=9)).square().sum().backward()
    assert any(tensor.grad is not None and tensor.grad.any() for tensor in (leaf, *quantizer.parameters()))


@every_case
def test_a_weight_times_a_power_of_two_has_values_times_that(name: str, bits: int) -> None:
    weight = weights(SHAPES["conv"])
    for factor in (0.25, 8.0):
        one, other = made(name, bits, weight)(weight) * factor, made(name, bits, weight * factor)(weight * factor)
        same = torch.allclose(one, other, rtol=1e-5, atol=1e-5 * factor)
        assert same != (name in CURVED and bits > 1)


def hollow(kind: str) -> Tensor:
    """All zeros; or one filter of zeros."""
    weight = weights(SHAPES["conv"])
    weight[slice(None) if kind == "all" else 4] = 0
    return weight


@pytest.mark.parametrize("kind", ["all", "one filter"])
@every_case
def test_zeros_only_are_no_trouble(name: str, bits: int, kind: str) -> None:
    weight = hollow(kind)
    quantizer = made(name, bits, weight)
    check(quantizer, weight)
    leaf = weight.clone().requires_grad_()
    quantizer(leaf).sum().backward()
    assert leaf.grad is not None
    for tensor in (leaf, *quantizer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    quantizer.at(1.0)
    check(quantizer, weight)


@every_case
def test_the_same_weight_gets_the_same_values_and_no_chance_is_used_up(name: str, bits: int) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        weight = weights(SHAPES["linear"])
        quantizer = made(name, bits, weight)
        learned = learn(quantizer, weight)
        quantizer.at(1.0)
        found.append(quantizer(learned))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*found)


@every_case
def test_fitting_and_looking_leave_the_weight_alone(name: str, bits: int) -> None:
    weight = weights(SHAPES["linear"])
    quantizer = make_weight_quantizer(name, weight, bits, Quantizing()).eval()
    first = quantizer(weight)
    quantizer.parts(weight)
    assert torch.equal(weight, weights(SHAPES["linear"]))
    assert torch.equal(quantizer(weight), first), "looking twice shows the same"


@every_case
def test_a_trained_quantizer_can_be_copied_and_its_state_loaded(name: str, bits: int) -> None:
    weight = weights(SHAPES["linear"])
    quantizer = made(name, bits, weight)
    learned = learn(quantizer, weight)
    quantizer.at(1.0)
    twin, loaded = copy.deepcopy(quantizer), made(name, bits, weights(SHAPES["linear"], seed=3))
    loaded.load_state_dict(quantizer.state_dict())
    loaded.at(1.0)
    for other in (twin, loaded):
        assert torch.equal(other(learned), quantizer(learned))


def inside(name: str, bits: int, make: Callable[[], nn.Module]) -> nn.Module:
    """A masked layer with that quantizer after a few steps of training, in eval mode."""
    torch.manual_seed(0)
    net = nn.Sequential(make())
    shape = net[0].weight.shape
    attach(net, {"0": np.random.default_rng(0).random(shape) < 0.7})
    quantize(net, Plan(layers=(LayerPlan(layer="0", weight_bits=bits, weight_quantizer=name),)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    for done in DONE:
        tell_quantizers(net, done)
        optimizer.zero_grad()
        net[0].weight.square().sum().backward()
        optimizer.step()
    tell_quantizers(net, 1.0)
    return net.eval()[0]


@pytest.mark.parametrize("make", [lambda: nn.Linear(40, 12), lambda: nn.Conv2d(5, 12, 3)], ids=["linear", "conv"])
@every_case
def test_what_is_stored_of_a_trained_masked_layer_is_its_weight(
    name: str, bits: int, make: Callable[[], nn.Module]
) -> None:
    layer = inside(name, bits, make)
    found, mask, quantizer = weight_codes(layer), mask_module(layer), weight_quantizer(layer)
    assert mask is not None
    assert quantizer is not None
    weight = layer.weight.detach().numpy()  # type: ignore[operator]
    stored = FrozenLayer(
        codes=found.codes, scales=found.scales, levels=found.levels, grid=found.grid, weight_bits=found.bits, bias=None,
    )  # fmt: skip
    np.testing.assert_array_equal(stored.weight(), weight)
    assert (found.quantizer, found.bits, found.codes.dtype) == (name, bits, np.int8)
    assert len(found.levels) == stored_levels(name, bits)
    hidden = mask.mask.numpy() == 0
    assert raw_weight(layer).detach().numpy()[hidden].any()
    assert not found.codes[hidden].any()
    assert not weight[hidden].any()


@torch.no_grad()
def squares(name: str, bits: int, weight: Tensor) -> float:
    """The squared error of `weight` under a quantizer fitted to it."""
    return float((made(name, bits, weight)(weight) - weight).square().sum())


@pytest.mark.parametrize("name", [name for name, row in WEIGHTS.items() if row.least < row.most])
def test_most_bits_are_nearer_than_least(name: str) -> None:
    weight, row = weights(SHAPES["conv"]), WEIGHTS[name]
    assert squares(name, row.most, weight) < squares(name, row.least, weight)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["lsq", "mse"])
def test_more_bits_never_enlarge_the_error_of_a_best_step(name: str, seed: int) -> None:
    weight = weights(SHAPES["conv"], seed)
    errors = [squares(name, bits, weight) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * errors[0]
