"""Every activation quantizer keeps zero, its formula and its range; the learned ones have their papers' gradients."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from paretune.compress.activations import best_range
from paretune.compress.quantizer import ActivationQuantizer
from paretune.compress.quantizers import ACTIVATIONS, make_activation_quantizer
from paretune.compress.rounding import best_step
from paretune.errors import ImpossiblePlan
from paretune.recipe import Quantizing


def normal(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(shape or (16, 8, 4, 4), generator=torch.Generator().manual_seed(seed))


def heavy() -> Tensor:
    """Two far outliers, one on either side, so that the best range is a small share of the whole one."""
    x = normal().flatten()
    x[0], x[1] = 60, -60
    return x


def lopsided(seed: int = 0) -> Tensor:
    """As a hard-swish leaves it: mostly above zero."""
    return torch.nn.functional.hardswish(2 * normal(seed))


def positive(seed: int = 0) -> Tensor:
    """As a ReLU leaves it: half of it zeros."""
    return normal(seed).relu()


CASES = [(name, bits) for name, row in ACTIVATIONS.items() for bits in range(row.least, row.most + 1)]
SIGNED = [(name, bits) for name, bits in CASES if bits > 1]
INPUTS = {
    "normal": normal(), "heavy": heavy(), "lopsided": lopsided(), "negative": -positive(), "positive": positive(),
}  # fmt: skip
NEW = ("lsq_plus", "min_max", "mse", "pact")
each_case = pytest.mark.parametrize(("name", "bits"), CASES)
each_signed = pytest.mark.parametrize(("name", "bits"), SIGNED)


def made(name: str, bits: int, x: Tensor | None = None, **settings: float) -> ActivationQuantizer:
    """The quantizer, calibrated on `x` if given."""
    quantizer = make_activation_quantizer(name, bits, Quantizing(**settings))  # type: ignore[arg-type]
    if x is not None:
        quantizer.calibrate(x)
    return quantizer


def formula(quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
    """What the export and the thawed model compute."""
    power, step = quantizer.power(), quantizer.positive_step().detach()
    u = x if power == 1 else x.sign() * x.abs() ** power
    return step * (u / step).round().clamp(quantizer.low, quantizer.high)


def check(quantizer: ActivationQuantizer, bits: int, *inputs: Tensor) -> None:
    low, high = quantizer.low, quantizer.high
    assert isinstance(low, int)
    assert isinstance(high, int)
    assert low <= 0 < high
    assert high - low < 2**bits
    assert quantizer.positive_step().item() > 0
    for x in inputs:
        found = quantizer(x)
        assert torch.equal(found, formula(quantizer, x))
        assert not found[x == 0].any()


def trained(quantizer: ActivationQuantizer, x: Tensor, steps: int = 5, lr: float = 0.05) -> None:
    """Some steps of descent on a loss that pulls the range about."""
    x = x.clone().requires_grad_()
    for step in range(steps):
        quantizer.zero_grad()
        (quantizer(x) * (1 if step % 2 else -1)).sum().backward()
        for parameter in quantizer.parameters():
            assert parameter.grad is not None
            parameter.data -= lr * parameter.grad.sign()


@each_case
def test_forward_is_the_formula_bit_for_bit(name: str, bits: int) -> None:
    inputs = (positive(), 3 * positive(1), normal(2), normal(3) * 0)
    check(made(name, bits, positive()), bits, *inputs)
    if bits > 1:
        for seen in (normal(), lopsided()):
            check(made(name, bits, seen), bits, *inputs)


@each_case
def test_forward_is_still_the_formula_after_training(name: str, bits: int) -> None:
    for x in (positive(), lopsided())[: bits if bits < 3 else 2]:
        quantizer = made(name, bits, x)
        trained(quantizer, x)
        check(quantizer, quantizer.bits, x, positive(1))


@each_case
def test_a_range_is_unsigned_if_calibration_saw_nothing_negative(name: str, bits: int) -> None:
    assert made(name, bits, positive()).low == 0
    if bits > 1:
        assert made(name, bits, normal()).low < 0


@each_case
def test_before_calibration_everything_passes(name: str, bits: int) -> None:
    quantizer = made(name, bits)
    assert quantizer.high == 0
    assert torch.equal(quantizer(normal()), normal())


@each_case
def test_calibration_hands_its_batch_back_and_needs_no_gradient(name: str, bits: int) -> None:
    x = positive()
    with torch.no_grad():
        assert make_activation_quantizer(name, bits, Quantizing()).calibrate(x) is x
    quantizer = made(name, bits, positive().requires_grad_())
    assert all(p.is_leaf for p in (*quantizer.parameters(), *quantizer.buffers()))


@each_case
def test_gradients_are_finite_and_stop_far_below_and_far_above(name: str, bits: int) -> None:
    x = positive()
    for seen in (x, lopsided())[: bits if bits < 3 else 2]:
        quantizer = made(name, bits, seen)
        inside = seen.flatten()[seen.flatten() > 0].quantile(0.3).item()
        at = torch.tensor([-1000.0, inside, 0.0, 1000.0], requires_grad=True)
        quantizer(at).sum().backward()
        assert at.grad is not None
        assert at.grad.isfinite().all()
        assert at.grad[[0, 3]].tolist() == [0, 0]
        assert at.grad[1] > 0
        for parameter in quantizer.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()


@each_case
def test_a_batch_of_zeros_gives_a_range_all_the_same(name: str, bits: int) -> None:
    quantizer = made(name, bits, torch.zeros(4, 3))
    check(quantizer, bits, positive(), torch.zeros(2))
    assert quantizer(positive()).isfinite().all()


@each_case
def test_a_power_of_two_moves_the_step_only(name: str, bits: int) -> None:
    one, two = (made(name, bits, factor * positive()) for factor in (1.0, 4.0))
    if one.power() != 1:
        pytest.skip("a power does not commute with a factor")
    torch.testing.assert_close(4 * one(positive()), two(4 * positive()), rtol=1e-5, atol=1e-6)


@each_case
def test_the_same_batch_gives_the_same_range(name: str, bits: int) -> None:
    one, two = (made(name, bits, positive(3)) for _ in range(2))
    assert torch.equal(one(positive(4)), two(positive(4)))
    one.calibrate(8 * positive(3))
    one.calibrate(positive(3))
    assert torch.equal(one(positive(4)), two(positive(4)))


@each_case
def test_a_copy_rounds_and_learns_alike(name: str, bits: int) -> None:
    one = made(name, bits, positive())
    two = copy.deepcopy(one)
    for quantizer in (one, two):
        trained(quantizer, 2 * positive(1))
    assert torch.equal(one(positive(4)), two(positive(4)))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("x", [positive(), lopsided()], ids=["positive", "lopsided"])
def test_more_bits_round_better(name: str, x: Tensor) -> None:
    row = ACTIVATIONS[name]
    widths = [bits for bits in (2, 3, 4, 6, 8) if row.least <= bits <= row.most]
    errors = [(made(name, bits, x)(x) - x).square().mean().item() for bits in widths]
    assert all(fine < coarse for coarse, fine in itertools.pairwise(errors))
    assert errors[-1] < 1e-3 * x.square().mean().item()


@pytest.mark.parametrize("name", [name for name, row in ACTIVATIONS.items() if row.least == 1])
def test_one_bit_has_no_room_for_negative_values(name: str) -> None:
    with pytest.raises(ImpossiblePlan, match="activations below zero need 2 bits or more, got 1"):
        made(name, 1, normal())


@pytest.mark.parametrize(("name", "bits"), [(name, bits) for name in NEW for bits in (0, 9)])
def test_bits_outside_the_table_are_an_impossible_plan(name: str, bits: int) -> None:
    with pytest.raises(ImpossiblePlan, match=f"'{name}' of activations has 1 to 8 bits, got {bits}"):
        made(name, bits)


@pytest.mark.parametrize("bits", range(2, 9))
def test_min_max_ends_at_the_largest_value(bits: int) -> None:
    x, top = normal(), 2 ** (bits - 1) - 1
    assert made("min_max", bits, x).positive_step().item() == pytest.approx(x.abs().max().item() / top)
    assert made("min_max", bits, x.relu()).positive_step().item() == pytest.approx(x.max().item() / (2**bits - 1))
    quantizer = made("min_max", bits, x)
    at = x.clone().requires_grad_()
    quantizer(at).sum().backward()
    assert at.grad is not None
    assert (at.grad == 1).all()  # nothing that calibration saw is outside
    assert (quantizer(x) - x).abs().max() <= quantizer.positive_step() / 2 * (1 + 1e-4)


@pytest.mark.parametrize("bits", range(2, 9))
def test_least_error_is_the_best_step_and_never_worse_than_min_max(bits: int) -> None:
    x, top = normal(), 2 ** (bits - 1) - 1
    quantizer = made("mse", bits, x)
    assert quantizer.positive_step() == best_step(x.flatten()[None], -top, top)[0]
    assert (quantizer(x) - x).square().sum() <= (made("min_max", bits, x)(x) - x).square().sum()


@pytest.mark.parametrize("name", ["min_max", "mse"])
def test_fixed_ranges_have_nothing_to_learn_and_travel_with_the_state(name: str) -> None:
    quantizer, other = made(name, 4, positive()), made(name, 4, 7 * positive())
    assert not list(quantizer.parameters())
    assert not quantizer.positive_step().requires_grad
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other(positive()), quantizer(positive()))


def test_the_gradient_of_a_fixed_range_is_one_up_to_half_a_step_beyond_it() -> None:
    quantizer = made("min_max", 2, torch.tensor([0.0, 3.0]))  # levels 0, 1, 2, 3
    at = torch.tensor([-0.6, -0.4, 0.0, 1.5, 3.4, 3.6], requires_grad=True)
    quantizer(at).sum().backward()
    assert at.grad is not None
    assert at.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_pact_rounds_halves_to_even_between_zero_and_alpha() -> None:
    quantizer = made("pact", 2, torch.tensor([0.0, 3.0]))
    x = torch.tensor([-1.0, 0.4, 0.5, 1.5, 2.5, 9.0])
    assert quantizer(x).tolist() == [0, 0, 0, 2, 2, 3]


def test_the_gradient_of_alpha_is_that_of_all_that_is_clipped_and_its_decay() -> None:
    """Choi et al. 2018, equation 3: dy/dα is 1 where x ≥ α, and 0 below."""
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    x = torch.tensor([-5.0, 0.7, 2.9, 3.0, 7.0], requires_grad=True)
    quantizer = made("pact", 2, torch.tensor([0.0, 3.0]), decay=0.25)
    (quantizer(x) * weights).sum().backward()
    (alpha,) = quantizer.parameters()
    assert alpha.grad == 8 + 16 + 0.25 * 3
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 4, 0, 0]


def test_a_signed_pact_is_clipped_at_both_ends() -> None:
    quantizer = made("pact", 3, torch.tensor([-3.0, 1.0]), decay=0.0)
    x = torch.tensor([-5.0, -3.0, -0.6, 0.4, 3.0, 9.0], requires_grad=True)
    found = quantizer(x)
    assert found.tolist() == [-3, -3, -1, 0, 3, 3]
    (found * torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])).sum().backward()
    (alpha,) = quantizer.parameters()
    assert alpha.grad == -1 - 2 + 16 + 32
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 4, 8, 0, 0]


def test_a_copied_pact_still_decays() -> None:
    quantizer = copy.deepcopy(made("pact", 4, positive(), decay=0.5))
    (alpha,) = quantizer.parameters()
    quantizer(torch.zeros(3)).sum().backward()
    assert alpha.grad == 0.5 * alpha.detach()


def test_a_pact_whose_alpha_turns_negative_still_rounds() -> None:
    quantizer = made("pact", 4, positive(), decay=0.5)
    before = quantizer(positive())
    (alpha,) = quantizer.parameters()
    alpha.data.neg_()
    assert torch.equal(quantizer(positive()), before)
    quantizer(torch.zeros(3)).sum().backward()
    assert alpha.grad == 0.5 * alpha.detach()  # also then towards zero
    alpha.data.zero_()
    assert quantizer(positive()).isfinite().all()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS.keys())
def test_a_range_with_an_offset_is_never_worse_than_a_symmetric_one(x: Tensor, bits: int) -> None:
    x = x.flatten()[None]
    span, top = 2**bits - 1, 2 ** (bits - 1) - 1
    step, low = best_range(x, span)
    assert 1 - span <= low <= 0
    assert low == round(low.item())
    symmetric = best_step(x, -top, top)

    def error(step: Tensor, low: float, high: float) -> float:
        return ((x / step).round().clamp(low, high) * step - x).square().sum().item()

    assert error(step, low.item(), low.item() + span) <= error(symmetric, -top, top) * (1 + 1e-6)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_an_offset_pays_where_the_range_is_lopsided(bits: int) -> None:
    x = lopsided()
    plain, shifted = ((made(name, bits, x)(x) - x).square().sum().item() for name in ("lsq", "lsq_plus"))
    assert shifted < 0.6 * plain
    assert made("lsq_plus", bits, x).low > made("lsq", bits, x).low


def test_a_lopsided_grid_is_found_exactly() -> None:
    codes = torch.randint(-3, 13, (500,), generator=torch.Generator().manual_seed(0)).float()
    x = 0.5 * torch.cat([codes, torch.tensor([-3.0, 12.0])])
    quantizer = made("lsq_plus", 4, x)
    assert (quantizer.low, quantizer.high, quantizer.positive_step().item()) == (-3, 12, 0.5)
    assert torch.equal(quantizer(x), x)


def shifted(offset: float, bits: int = 3) -> ActivationQuantizer:
    """An LSQ+ with step 0.5 and this offset."""
    quantizer = made("lsq_plus", bits, lopsided())
    quantizer.step.data.fill_(0.5)  # type: ignore[union-attr, operator]
    quantizer.offset.data.fill_(offset)  # type: ignore[union-attr, operator]
    return quantizer


def test_the_offset_is_rounded_to_whole_steps_and_held_so_that_a_step_above_zero_stays() -> None:
    found = {offset: (shifted(offset).low, shifted(offset).high) for offset in (-0.9, -0.3, -0.2, 4.0, -9.0)}
    assert found == {-0.9: (-2, 5), -0.3: (-1, 6), -0.2: (0, 7), 4.0: (0, 7), -9.0: (-6, 1)}


def test_the_gradients_of_step_and_offset_are_lsq_plus() -> None:
    """Bhalgat et al. 2020: dβ is 1 for all clipped values; ds is round(v) - v inside, 0 below and 2^b - 1 above."""
    quantizer = shifted(-0.9)  # levels -1 to 2.5
    x = torch.tensor([-3.0, -1.1, -0.9, 0.3, 2.4, 2.6, 9.0], requires_grad=True)
    weights = torch.tensor([1.0, -4.0, 3.0, 4.0, 5.0, -6.0, 7.0])
    (quantizer(x) * weights).sum().backward()
    scale = 1 / math.sqrt(7 * 7)
    inside = 3 * (-2 + 1.8) + 4 * (1 - 0.6) + 5 * (5 - 4.8)
    grads = {name: parameter.grad for name, parameter in quantizer.named_parameters()}
    assert grads["step"] is not None
    assert grads["offset"] is not None
    assert grads["step"].item() == pytest.approx((inside + 7 * (-6 + 7)) * scale, rel=1e-5)
    assert grads["offset"].item() == pytest.approx((1 - 4 - 6 + 7) * scale, abs=1e-7)
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 0, 0]


@pytest.mark.parametrize(("at", "pull", "moves"), [
    (0.0, -1.0, False), (0.0, 1.0, True), (0.4, -1.0, False), (0.4, 1.0, True),
    (-0.5, -1.0, True), (-0.5, 1.0, True), (-3.0, 1.0, False), (-3.0, -1.0, True),
])  # fmt: skip
def test_at_the_ends_the_offset_is_only_pulled_back(at: float, pull: float, moves: bool) -> None:
    quantizer = shifted(at)
    (pull * quantizer(torch.tensor([99.0, 98.0]))).sum().backward()
    grad = dict(quantizer.named_parameters())["offset"].grad
    assert grad is not None
    assert grad.item() == pytest.approx(2 * pull / math.sqrt(2 * 7) if moves else 0.0)


def test_the_codes_of_an_offset_follow_its_parameters_without_a_forward() -> None:
    quantizer = shifted(-0.5)
    state = {key: value.clone() for key, value in quantizer.state_dict().items()}
    quantizer.offset.data.fill_(-1.5)  # type: ignore[union-attr, operator]
    assert (quantizer.low, quantizer.high) == (-3, 4)
    quantizer.load_state_dict(state)
    assert (quantizer.low, quantizer.high) == (-1, 6)
