"""Zero stays zero, codes stay in range, gradients are LSQ's, more bits never hurt; and how quantizers are attached."""

import numpy as np
import pytest
import torch
from compress_nets import build
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretune.compress.learned import LearnedActivation, LearnedWeight
from paretune.compress.masks import attach
from paretune.compress.quantize import (
    WeightCodes,
    calibrate,
    quantize,
    quantized_weight,
    tell_quantizers,
    weight_codes,
    weight_quantizer,
)
from paretune.compress.quantizer import SAMPLE
from paretune.compress.quantizers import make_activation_quantizer, make_weight_quantizer
from paretune.compress.rounding import activation_range, best_step, straight
from paretune.compress.rounding import rounded as rounded_to
from paretune.errors import ImpossiblePlan, UnknownName
from paretune.frozen import top_code
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Quantizing

BITS = range(2, 9)


def normal(seed: int, rows: int = 16, values: int = 256) -> Tensor:
    return torch.randn(rows, values, generator=torch.Generator().manual_seed(seed))


def heavy(seed: int) -> Tensor:
    """Laplace noise with one far outlier per row."""
    x = normal(seed) * normal(seed + 1000).abs()
    x[:, 0] *= 20
    return x


def rounded(x: Tensor, step: Tensor | float, low: int, high: int) -> Tensor:
    return rounded_to(x, torch.as_tensor(step), low, high)


def of_weight(weight: Tensor, bits: int) -> LearnedWeight:
    made = make_weight_quantizer("lsq", weight, bits, Quantizing())
    assert isinstance(made, LearnedWeight)
    return made


def of_activation(bits: int) -> LearnedActivation:
    made = make_activation_quantizer("lsq", bits, Quantizing())
    assert isinstance(made, LearnedActivation)
    return made


def codes_of(net: nn.Module, name: str = "0") -> WeightCodes:
    return weight_codes(net.get_submodule(name))


def plan_of(bits: int, *names: str, activations: int = 32) -> Plan:
    return Plan(layers=tuple(LayerPlan(layer=n, weight_bits=bits, activation_bits=activations) for n in names))


@pytest.mark.parametrize("bits", BITS)
def test_codes_are_symmetric_and_unsigned_ones_use_every_level(bits: int) -> None:
    assert top_code(bits) == 2 ** (bits - 1) - 1
    assert activation_range(bits, signed=True) == (-top_code(bits), top_code(bits))
    assert activation_range(bits, signed=False) == (0, 2**bits - 1)


@pytest.mark.parametrize("bits", [-1, 0, 9, 16])
def test_bits_that_a_quantizer_has_not_are_an_impossible_plan(bits: int) -> None:
    with pytest.raises(ImpossiblePlan, match=f"the quantizer 'lsq' of weights has 2 to 8 bits, got {bits}$"):
        quantize(nn.Sequential(nn.Linear(2, 2)), plan_of(bits, "0"))
    with pytest.raises(ImpossiblePlan, match=f"the quantizer 'lsq' of activations has 1 to 8 bits, got {bits}$"):
        quantize(nn.Sequential(nn.Linear(2, 2)), plan_of(32, "0", activations=bits))


def test_the_message_says_who_has_these_bits() -> None:
    with pytest.raises(ImpossiblePlan, match=r"'lsq' of weights has 2 to 8 bits, got 1; for 1 use .*dorefa"):
        quantize(nn.Sequential(nn.Linear(2, 2)), plan_of(1, "0"))


@pytest.mark.parametrize("of", ["weight", "activation"])
def test_a_quantizer_that_does_not_exist_is_named_with_the_nearest(of: str) -> None:
    row = LayerPlan(layer="0", **{f"{of}_bits": 4, f"{of}_quantizer": "lsqq"})  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match=f"no {of} quantizer is called 'lsqq'. Did you mean 'lsq'"):
        quantize(nn.Sequential(nn.Linear(2, 2)), Plan(layers=(row,)))


def test_one_bit_is_enough_for_activations_above_zero_only() -> None:
    """{0, step} and no other value; -1 and 1 would leave no zero."""
    quantizer = of_activation(1)
    quantizer.calibrate(normal(0).relu())
    assert (quantizer.low, quantizer.high) == (0, 1)
    assert quantizer(normal(0)).unique().tolist() == [0, quantizer.positive_step().item()]
    with pytest.raises(ImpossiblePlan, match="activations below zero need 2 bits or more, got 1"):
        quantizer.calibrate(normal(0))


def test_rounding_is_what_the_formula_says() -> None:
    x = torch.tensor([-9.0, -1.3, -0.2, 0.0, 0.2, 0.3, 1.3, 9.0])
    assert rounded(x, 0.5, -3, 3).tolist() == [-1.5, -1.5, 0, 0, 0, 0.5, 1.5, 1.5]
    assert rounded(x, 0.5, 0, 15).tolist() == [0, 0, 0, 0, 0, 0.5, 1.5, 7.5]


@pytest.mark.parametrize("bits", BITS)
def test_zero_stays_exactly_zero(bits: int) -> None:
    weight = normal(bits)
    weight[:, ::3] = 0
    quantized = of_weight(weight, bits)(weight)
    assert not quantized[:, ::3].any()
    quantizer = of_activation(bits)
    for x in (normal(1), normal(1).relu()):
        quantizer.calibrate(x)
        assert not quantizer(torch.zeros(5)).any()


def test_a_straight_through_estimate_has_the_value_of_one_and_the_gradient_of_another() -> None:
    x, value = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([5.0, -7.0])
    made = straight(x.square(), value)
    made.sum().backward()
    assert torch.equal(made.detach(), value)
    assert x.grad is not None
    assert x.grad.tolist() == [2, 4]


@pytest.mark.parametrize("bits", BITS)
def test_a_channel_has_at_most_that_many_levels(bits: int) -> None:
    weight = normal(bits, values=2000)
    for row in of_weight(weight, bits)(weight):
        assert len(row.unique()) <= 2**bits - 1
    quantizer = of_activation(bits)
    quantizer.calibrate(weight.relu())
    assert len(quantizer(weight.relu()).unique()) <= 2**bits


def error(x: Tensor, low: int, high: int) -> Tensor:
    """Squared error of every row at its best step."""
    return (rounded(x, best_step(x, low, high)[:, None], low, high) - x).square().sum(dim=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("draw", [normal, heavy])
def test_more_bits_never_enlarge_the_weight_error(draw: object, seed: int) -> None:
    x = draw(seed)  # type: ignore[operator]
    signed = torch.stack([error(x, -top_code(bits), top_code(bits)) for bits in BITS])
    unsigned = torch.stack([error(x.abs(), 0, 2**bits - 1) for bits in BITS])
    for errors in (signed, unsigned):
        assert (errors[1:] <= errors[:-1]).all()
        assert (errors[-1] < 0.2 * errors[0]).all()


@pytest.mark.parametrize("draw", [normal, heavy])
def test_the_best_step_beats_clipping_nothing_and_every_other_point_of_a_grid(draw: object) -> None:
    x = draw(0)  # type: ignore[operator]
    best = error(x, -3, 3)
    top = x.abs().amax(dim=1, keepdim=True)
    for share in (1.0, 0.75, 0.5, 0.25):
        assert (best <= (rounded(x, top * share / 3, -3, 3) - x).square().sum(dim=1) * (1 + 1e-6)).all()


def test_values_on_a_grid_are_kept_exactly() -> None:
    codes = torch.randint(-7, 8, (4, 50), generator=torch.Generator().manual_seed(0)).float()
    codes[:, 0] = 7
    x = codes * torch.tensor([[0.5], [1.0], [2.0], [0.25]])
    assert best_step(x, -7, 7).tolist() == [0.5, 1.0, 2.0, 0.25]
    assert torch.equal(of_weight(x, 4)(x), x)


def test_a_row_of_zeros_gets_a_positive_step() -> None:
    assert best_step(torch.zeros(2, 5), -7, 7).tolist() == [1.0, 1.0]
    assert torch.equal(of_weight(torch.zeros(2, 5), 4)(torch.zeros(2, 5)), torch.zeros(2, 5))


def test_the_gradient_of_the_input_passes_inside_and_stops_outside() -> None:
    x = torch.tensor([-2.0, -1.4, 0.2, 1.4, 1.6, 9.0], requires_grad=True)
    rounded(x, 0.5, -3, 3).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0, 0]


def test_the_gradient_of_the_step_is_lsqs() -> None:
    """Esser et al. 2020, equation 3: -v/s + round(v/s) inside, the clipped code outside; times 1/sqrt(N × high)."""
    x, step = torch.tensor([[-9.0, 0.3, 0.9, 9.0]]), torch.tensor(0.5, requires_grad=True)
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    (rounded(x, step, -3, 3) * weights).sum().backward()
    slopes = [-3, -0.6 + 1, -1.8 + 2, 3]
    expected = sum(w * s for w, s in zip((1, 2, 3, 4), slopes, strict=True)) / (4 * 3) ** 0.5
    assert step.grad is not None
    assert step.grad.item() == pytest.approx(expected)


def test_every_channel_has_the_gradient_of_its_own_values() -> None:
    weight = normal(0, rows=3, values=10)
    quantizer = of_weight(weight, 3)
    quantizer(weight).square().sum().backward()
    for row, grad, step in zip(weight, quantizer.step.grad, quantizer.step.detach(), strict=True):  # type: ignore[arg-type]
        alone = step.clone().requires_grad_()
        rounded(row[None], alone, -3, 3).square().sum().backward()
        torch.testing.assert_close(grad, alone.grad)


def test_where_everything_is_clipped_the_step_has_its_true_derivative() -> None:
    """There the output is high × step: smooth, so finite differences must agree up to LSQ's scale."""
    x, high = torch.linspace(3, 9, 20, dtype=torch.float64), 7
    step = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)

    def loss(at: Tensor) -> Tensor:
        return rounded(x, at, 0, high).pow(3).sum()

    loss(step).backward()
    slope = (loss(step.detach() + 1e-6) - loss(step.detach() - 1e-6)) / 2e-6
    assert step.grad is not None
    assert step.grad.item() * (20 * high) ** 0.5 == pytest.approx(slope.item(), rel=1e-6)


def test_a_step_that_turns_negative_still_quantizes() -> None:
    quantizer = of_weight(normal(0), 4)
    before = quantizer(normal(0))
    quantizer.step.data.neg_()
    assert torch.equal(quantizer(normal(0)), before)
    quantizer.step.data.zero_()
    assert quantizer(normal(0)).isfinite().all()


def test_calibration_finds_out_who_reads_relu_outputs() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.Hardswish(), nn.Linear(4, 2))
    quantize(net, plan_of(32, "0", "2", "4", activations=4))
    calibrate(net, normal(0, 64, 6))
    ranges = [(net[i].activation_quantizer.low, net[i].activation_quantizer.high) for i in (0, 2, 4)]
    assert ranges == [(-7, 7), (0, 15), (-7, 7)]
    assert not any(hook for layer in net for hook in layer._forward_pre_hooks.values() if "first_look" in str(hook))


def test_calibration_sees_inputs_that_are_already_quantized() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    batch = normal(0, 64, 6)
    quantize(net, plan_of(2, "0", "2", activations=2))
    calibrate(net, batch)
    seen = net[1](net[0](batch))
    torch.testing.assert_close(net[2].activation_quantizer.step.data, best_step(seen.flatten()[None], 0, 3)[0])


def test_calibration_looks_at_every_pixel_of_a_large_batch() -> None:
    """The sample must not skip the same columns of every row: here only the first column is tiny."""
    x = normal(0, rows=4 * SAMPLE // 16, values=16).abs() + 1
    x[:, ::4] /= 1000
    quantizer = of_activation(4)
    quantizer.calibrate(x)
    assert quantizer.step.item() == pytest.approx(best_step(x.flatten()[None], 0, 15).item(), rel=0.15)


def test_a_layer_called_by_keyword_is_quantized_as_one_called_by_position() -> None:
    class Positional(type(build("named")[0])):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.two(self.norm(self.one(x)).relu()).mean((2, 3)))

    named, batch = build("named")[0], torch.randn(8, 3, 8, 8)
    twin = Positional().eval()
    twin.load_state_dict(named.state_dict())
    for net in (named, twin):
        calibrate(quantize(net, plan_of(4, "one", "two", "head", activations=3)), batch)
    assert named.two.activation_quantizer.high == 7
    assert torch.equal(named(batch), twin(batch))


def test_an_activation_quantizer_lets_everything_through_until_it_is_calibrated() -> None:
    x = normal(0)
    assert torch.equal(of_activation(4)(x), x)


def test_layers_at_32_bits_stay_as_they_are() -> None:
    net, example = build("chain")
    before = net(example)
    assert quantize(net, plan_of(32, "0.0", "2.0")) is net
    assert torch.equal(net(example), before)
    assert not any(quantized_weight(module) for module in net.modules())


def test_codes_times_steps_are_the_weights_the_layer_uses() -> None:
    net, _ = build("grouped")
    quantize(net, plan_of(3, "2.0"))
    layer = net.get_submodule("2.0")
    assert quantized_weight(layer)
    found = weight_codes(layer)
    codes, steps = found.codes, found.scales
    assert (codes.dtype, codes.shape, steps.shape, found.levels.shape) == (np.int8, (12, 4, 3, 3), (12,), (0,))
    assert (found.bits, found.grid, found.quantizer) == (3, "uniform", "lsq")
    assert np.abs(codes).max() <= 3
    np.testing.assert_array_equal(codes * steps[:, None, None, None], layer.weight.detach().numpy())


def test_the_float_weight_is_kept_and_trained_with_the_step() -> None:
    layer = nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    net = quantize(nn.Sequential(layer), plan_of(2, "0"))
    assert torch.equal(layer.parametrizations.weight.original, before)  # type: ignore[union-attr]
    assert parametrize.is_parametrized(layer)
    assert sorted(name for name, _ in net.named_parameters()) == [
        "0.bias", "0.parametrizations.weight.0.step", "0.parametrizations.weight.original",
    ]  # fmt: skip


def holed(seed: int = 0) -> tuple[nn.Sequential, Tensor]:
    """A linear layer whose largest weights are where its mask, the second item, has zeros; one row is all zeros."""
    layer = nn.Linear(32, 6)
    weight = normal(seed, 6, 32)
    mask = weight.abs() < weight.abs().quantile(0.7)
    mask[4] = False
    layer.weight.data.copy_(weight)
    return nn.Sequential(layer), mask


@pytest.mark.parametrize("bits", BITS)
def test_steps_fit_what_a_mask_leaves(bits: int) -> None:
    net, mask = holed()
    weight = net[0].weight.detach().clone()
    attach(net, {"0": mask.numpy()})
    quantize(net, plan_of(bits, "0"))
    top = top_code(bits)
    steps = codes_of(net).scales
    np.testing.assert_array_equal(steps, best_step(weight * mask, -top, top).numpy())
    assert (steps[:4] < best_step(weight, -top, top).numpy()[:4]).all()
    assert steps[4] == 1


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("first", ["mask", "quantizer"])
def test_codes_are_zero_where_the_mask_is_in_either_order(first: str, bits: int) -> None:
    net, mask = holed()
    if first == "mask":
        attach(net, {"0": mask.numpy()})
    quantize(net, plan_of(bits, "0"))
    if first == "quantizer":
        attach(net, {"0": mask.numpy()})
    found = codes_of(net)
    codes, steps = found.codes, found.scales
    assert found.bits == bits
    assert not codes[~mask.numpy()].any()
    assert codes[mask.numpy()].any()
    np.testing.assert_array_equal(codes * steps[:, None], net[0].weight.detach().numpy())
    assert not net[0].weight[~mask].any()


def test_a_mask_alone_is_no_quantizer() -> None:
    net, mask = holed()
    attach(net, {"0": mask.numpy()})
    assert not quantized_weight(net[0])
    quantize(net, plan_of(4, "0"))
    assert quantized_weight(net[0])


def test_a_mask_of_ones_changes_no_code() -> None:
    (one, _), (two, _) = holed(), holed()
    attach(one, {"0": np.ones((6, 32), np.bool_)})
    found, want = (codes_of(quantize(net, plan_of(3, "0"))) for net in (one, two))
    np.testing.assert_array_equal(found.codes, want.codes)
    np.testing.assert_array_equal(found.scales, want.scales)


def test_layers_that_have_a_quantizer_keep_it() -> None:
    net, _ = holed()
    quantize(net, plan_of(3, "0", activations=4))
    first, hooks = weight_quantizer(net[0]), dict(net[0]._forward_pre_hooks)
    assert first is not None
    first.step.data.mul_(2)  # type: ignore[operator]
    before, rounding = net[0].weight.detach().clone(), net[0].activation_quantizer
    quantize(net, plan_of(3, "0", activations=4))
    assert weight_quantizer(net[0]) is first
    assert net[0].activation_quantizer is rounding
    assert net[0]._forward_pre_hooks == hooks
    assert torch.equal(net[0].weight, before)


def test_every_weight_quantizer_is_told_how_far_training_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[LearnedWeight, float]] = []
    monkeypatch.setattr(LearnedWeight, "at", lambda self, done: told.append((self, done)))
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    quantize(net, plan_of(4, "0", "2", activations=4))
    tell_quantizers(net, 0.25)
    assert told == [(weight_quantizer(net[0]), 0.25), (weight_quantizer(net[2]), 0.25)]


def test_a_calibration_set_must_hold_numbers() -> None:
    net = quantize(nn.Sequential(nn.Linear(6, 2)), plan_of(32, "0", activations=4))
    with pytest.raises(ImpossiblePlan, match="the calibration set is empty"):
        calibrate(net, torch.empty(0, 6))
    batch = normal(0, 8, 6)
    batch[1, 2], batch[3, 4] = float("nan"), float("inf")
    with pytest.raises(ImpossiblePlan, match="the calibration set holds 2 numbers that are not finite"):
        calibrate(net, batch)
