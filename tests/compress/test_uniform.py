"""Closed forms of the steps that are computed: min-max, least squares, DoReFa, and LSQ+'s first one."""

import pytest
import torch
from torch import Tensor, nn

from paretune.compress.learned import LearnedWeight, PlusWeight
from paretune.compress.masks import attach
from paretune.compress.quantize import quantize, weight_quantizer
from paretune.compress.quantizer import WeightQuantizer
from paretune.compress.quantizers import make_weight_quantizer
from paretune.compress.rounding import best_step
from paretune.compress.uniform import step_to
from paretune.frozen import top_code
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Quantizing

BITS = range(2, 9)


def normal(seed: int, rows: int = 6, values: int = 50) -> Tensor:
    return 0.3 * torch.randn(rows, values, generator=torch.Generator().manual_seed(seed))


def made(name: str, bits: int, weight: Tensor) -> WeightQuantizer:
    return make_weight_quantizer(name, weight, bits, Quantizing())


def slopes(quantizer: WeightQuantizer, weight: Tensor) -> Tensor:
    """The gradient of the sum of all values."""
    leaf = weight.clone().requires_grad_()
    quantizer(leaf).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def test_a_step_puts_the_last_code_on_the_largest_value() -> None:
    assert step_to(torch.tensor([6.0, 0.0, 1e-20]), 3).tolist() == pytest.approx([2, 1, 1e-12])


@pytest.mark.parametrize("bits", BITS)
def test_lsq_plus_starts_three_sigmas_from_the_mean(bits: int) -> None:
    """Bhalgat et al. 2020: max(|μ - 3σ|, |μ + 3σ|) / 2^(b-1), of every output channel."""
    weight = normal(0) + torch.linspace(-1, 1, 6)[:, None]
    quantizer = made("lsq_plus", bits, weight)
    assert isinstance(quantizer, LearnedWeight)
    mean, sigma = weight.mean(dim=1), weight.std(dim=1, unbiased=False)
    expected = torch.maximum((mean - 3 * sigma).abs(), (mean + 3 * sigma).abs()) / 2 ** (bits - 1)
    torch.testing.assert_close(quantizer.step.detach(), expected[:, None])
    assert isinstance(quantizer.step, nn.Parameter)


@pytest.mark.parametrize("bits", BITS)
def test_lsq_plus_counts_no_zeros(bits: int) -> None:
    weight = normal(0)
    wide = torch.cat([weight, torch.zeros(6, 200)], dim=1)
    one, other = (made("lsq_plus", bits, w) for w in (weight, wide))
    assert isinstance(one, PlusWeight)
    assert isinstance(other, PlusWeight)
    torch.testing.assert_close(one.step, other.step)


def test_lsq_plus_learns_as_lsq_does() -> None:
    plus, plain = made("lsq_plus", 4, normal(0)), made("lsq", 4, normal(0))
    assert isinstance(plus, LearnedWeight)
    assert isinstance(plain, LearnedWeight)
    assert not torch.equal(plus.step, plain.step)
    plain.step.data.copy_(plus.step.data)
    for quantizer in (plus, plain):
        quantizer(normal(1)).square().sum().backward()
    assert torch.equal(plus(normal(1)), plain(normal(1)))
    assert plus.step.grad is not None
    assert plain.step.grad is not None
    assert torch.equal(plus.step.grad, plain.step.grad)


@pytest.mark.parametrize("bits", BITS)
def test_min_max_puts_the_largest_weight_of_a_channel_on_the_last_code(bits: int) -> None:
    weight, top = normal(0), top_code(bits)
    parts = made("min_max", bits, weight).parts(weight)
    largest = weight.abs().amax(dim=1, keepdim=True)
    assert torch.equal(parts.scale, largest / top)
    assert torch.equal(parts.codes, (weight / (largest / top)).round())
    assert parts.codes.abs().amax(dim=1).tolist() == [top] * len(weight)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("bits", BITS)
def test_min_max_clips_nothing_whatever_it_was_fitted_to(bits: int, seed: int) -> None:
    """No weight is further than half a step from its value, and every weight has its whole gradient."""
    quantizer, weight = made("min_max", bits, 0.01 * normal(0)), 10 * normal(seed)
    half = weight.abs().amax(dim=1, keepdim=True) / top_code(bits) / 2
    assert ((quantizer(weight) - weight).abs() <= half * (1 + 1e-5)).all()
    assert torch.equal(slopes(quantizer, weight), torch.ones_like(weight))


@pytest.mark.parametrize("bits", BITS)
def test_mse_has_the_best_step_of_its_first_weight_for_ever(bits: int) -> None:
    first, top = normal(0), top_code(bits)
    quantizer, step = made("mse", bits, first), best_step(first, -top, top)[:, None]
    for weight in (first, 5 * normal(1)):
        assert torch.equal(quantizer.parts(weight).scale, step)
        assert torch.equal(quantizer(weight), (weight / step).clamp(-top, top).round() * step)
    assert not list(quantizer.parameters())
    assert list(quantizer.state_dict()) == ["step"]


@pytest.mark.parametrize("bits", BITS)
def test_mse_gives_no_gradient_to_what_is_clipped(bits: int) -> None:
    quantizer, weight = made("mse", bits, normal(0)), 3 * normal(1)
    inside = weight.abs() <= quantizer.parts(weight).scale * top_code(bits)
    assert inside.any()
    assert not inside.all()
    assert torch.equal(slopes(quantizer, weight), inside.float())


def errors(bits: int, weight: Tensor) -> list[Tensor]:
    """Squared errors of mse and of min_max, by channel."""
    return [(made(name, bits, weight)(weight) - weight).square().sum(dim=1) for name in ("mse", "min_max")]


@pytest.mark.parametrize("bits", BITS)
def test_mse_is_never_worse_than_min_max_and_better_where_a_few_weights_are_far_out(bits: int) -> None:
    weight = normal(0, values=500)
    mse, min_max = errors(bits, weight)
    assert (mse <= min_max).all()
    weight[:, 0] *= 1.5 * weight.abs().amax(dim=1) / weight[:, 0]
    mse, min_max = errors(bits, weight)
    assert (mse <= min_max).all()
    assert bits > 6 or (mse < min_max).all()


@pytest.mark.parametrize("bits", BITS)
def test_dorefa_rounds_what_tanh_makes_of_a_layer(bits: int) -> None:
    """tanh(w) / max|tanh(w)| on the grid of ±top, times max|w|; the maxima are those of the layer."""
    weight, top = 3 * normal(0), top_code(bits)
    share = weight.tanh() / weight.tanh().abs().max()
    expected = (share * top).round() / top * weight.abs().max()
    quantizer = made("dorefa", bits, normal(5))
    torch.testing.assert_close(quantizer(weight), expected)
    assert quantizer.parts(weight).scale.numel() == 1
    assert quantizer(weight).abs().max().item() == pytest.approx(weight.abs().max().item())


@pytest.mark.parametrize("bits", BITS)
def test_the_gradient_of_dorefa_goes_through_tanh(bits: int) -> None:
    weight = 3 * normal(0)
    stretch = weight.abs().max() / weight.tanh().abs().max()
    expected = (1 - weight.tanh().square()) * stretch
    torch.testing.assert_close(slopes(made("dorefa", bits, weight), weight), expected)


def test_dorefa_in_one_bit_is_the_sign_times_the_mean() -> None:
    weight = torch.tensor([[0.5, -1.5, 0.0, 0.0], [0.25, -0.75, 3.0, 0.0]])
    mean = (0.5 + 1.5 + 0.25 + 0.75 + 3.0) / 5
    quantizer = made("dorefa", 1, weight)
    torch.testing.assert_close(quantizer(weight), weight.sign() * mean)
    assert quantizer.parts(weight).codes.unique().tolist() == [-1, 0, 1]
    assert torch.equal(slopes(quantizer, weight), torch.ones_like(weight))


@pytest.mark.parametrize("name", ["min_max", "mse", "lsq_plus"])
def test_channels_do_not_hear_of_each_other(name: str) -> None:
    weight = normal(0)
    other = weight.clone()
    other[1:] *= 7
    assert torch.equal(made(name, 4, weight)(weight)[0], made(name, 4, other)(other)[0])


@pytest.mark.parametrize("name", ["min_max", "mse", "lsq_plus", "dorefa"])
def test_what_a_mask_hides_has_no_say(name: str) -> None:
    """The largest weights are hidden; the others get the values they have alone."""
    layer, weight = nn.Linear(50, 6), normal(0)
    mask = weight.abs() < 0.3
    layer.weight.data.copy_(torch.where(mask, weight, 10 * weight))
    net = nn.Sequential(layer)
    attach(net, {"0": mask.numpy()})
    quantize(net, Plan(layers=(LayerPlan(layer="0", weight_bits=4, weight_quantizer=name),)))
    assert weight_quantizer(net[0]) is not None
    alone = weight * mask
    assert torch.equal(net[0].weight.detach(), made(name, 4, alone)(alone).detach())
