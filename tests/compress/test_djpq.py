"""Closed forms of the curved grid, its gradients and its bit-width."""

import math

import pytest
import torch
from torch import Tensor

from paretune.compress.djpq import CurvedActivation, CurvedGrid, CurvedWeight
from paretune.errors import ImpossiblePlan
from paretune.recipe import Quantizing

EDGE, EXPONENT, STEP = 0.9, 1.3, 0.11


def some(count: int = 400, seed: int = 0) -> Tensor:
    x = torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))
    x[::7] = 0
    return x


def weight(x: Tensor, bits: int = 4) -> CurvedWeight:
    return CurvedWeight(x, bits, Quantizing())


def set_to(grid: CurvedGrid, edge: float, exponent: float, step: float | None = None) -> CurvedGrid:
    grid.edge.data.fill_(edge)
    grid.exponent.data.fill_(exponent)
    if step is not None:
        grid.free()
        assert grid.step is not None
        grid.step.data.fill_(step)
    return grid


def reading(x: Tensor, bits: int = 4) -> CurvedActivation:
    made = CurvedActivation(bits, Quantizing())
    made.calibrate(x)
    return made


def by_hand(x: float, edge: float, exponent: float, step: float) -> float:
    """The rule of the paper for one number; Python rounds halves to even, as torch does."""
    return math.copysign(step * round(min(abs(x), edge) ** exponent / step), x)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 1.7])
@pytest.mark.parametrize("step", [None, STEP])
def test_a_value_is_the_rule_of_the_paper(exponent: float, step: float | None) -> None:
    x = some()
    quantizer = set_to(weight(x), EDGE, exponent, step)
    used = EDGE**exponent / 7 if step is None else step
    expected = [by_hand(value, EDGE, exponent, used) for value in x.flatten().tolist()]
    torch.testing.assert_close(quantizer(x).detach().flatten(), torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_it_starts_at_the_largest_weight_with_a_straight_grid() -> None:
    x = some()
    quantizer = weight(x, bits=5)
    assert (float(quantizer.edge.detach()), float(quantizer.exponent.detach())) == (float(x.abs().max()), 1.0)
    torch.testing.assert_close(quantizer.positive_step().detach(), x.abs().max() / 15)


def test_free_gradients_are_those_of_the_paper() -> None:
    x = some().requires_grad_()
    quantizer = set_to(weight(x), EDGE, EXPONENT, STEP)
    grad = some(seed=1)
    quantizer(x).backward(grad)
    with torch.no_grad():
        sign, clipped = x.sign(), x.abs() > EDGE
        held = x.abs().clamp(max=EDGE)
        u = held**EXPONENT
        logs = torch.where(held > 0, held, torch.ones_like(held)).log()
        wanted = {
            "step": (grad * sign * ((u / STEP).round() - u / STEP)).sum(),
            "exponent": (grad * sign * u * logs).sum(),
            "edge": (grad * sign * clipped * EXPONENT * EDGE ** (EXPONENT - 1)).sum(),
        }
    for name, value in wanted.items():
        torch.testing.assert_close(quantizer.get_parameter(name).grad, value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x.grad, grad)


@pytest.mark.parametrize("name", ["edge", "exponent"])
def test_gradients_are_those_of_a_grid_that_does_not_round(name: str) -> None:
    """Where rounding changes nothing, step × u / step, finite differences in double precision are the whole truth."""
    x = some().double()
    quantizer = set_to(weight(x).double(), EDGE, EXPONENT, 1e-7)
    quantizer(x).sum().backward()
    found = quantizer.get_parameter(name).grad

    def value(shift: float) -> float:
        edge = EDGE + shift * (name == "edge")
        exponent = EXPONENT + shift * (name == "exponent")
        return float((x.sign() * x.abs().clamp(max=edge) ** exponent).sum())

    assert found is not None
    assert float(found) == pytest.approx((value(1e-6) - value(-1e-6)) / 2e-6, rel=1e-4)


def test_a_tied_step_is_learned_through_the_range_and_scaled_as_lsq_scales() -> None:
    x, grad = some(), some(seed=1)
    free, tied = set_to(weight(x), EDGE, EXPONENT), set_to(weight(x), EDGE, EXPONENT)
    free.free()
    free(x).backward(grad)
    tied(x).backward(grad)
    assert isinstance(free.step, Tensor)
    assert free.step.grad is not None
    share = (x.numel() * 7) ** -0.5
    by_step = free.step.grad * EXPONENT * EDGE ** (EXPONENT - 1) / 7
    torch.testing.assert_close(tied.edge.grad, (free.edge.grad + by_step) * share, rtol=1e-4, atol=1e-5)
    by_step = free.step.grad * EDGE**EXPONENT * math.log(EDGE) / 7
    torch.testing.assert_close(tied.exponent.grad, (free.exponent.grad + by_step) * share, rtol=1e-4, atol=1e-5)


def test_inputs_far_beyond_what_it_was_fitted_to_have_no_gradient() -> None:
    quantizer = weight(torch.tensor([[1.0], [-0.5]]))
    x = torch.tensor([[1.9], [-1.9], [2.1], [-2.1], [0.0]], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1.0, 1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_bits_are_those_of_the_definition(bits: int, signed: bool) -> None:
    quantizer = reading(some() if signed else some().abs(), bits)
    assert float(quantizer.bits_now().detach()) == pytest.approx(bits, abs=1e-4)
    set_to(quantizer, EDGE, EXPONENT, STEP)
    wanted = math.log2(EDGE**EXPONENT / STEP + 1) + signed
    assert float(quantizer.bits_now().detach()) == pytest.approx(wanted, abs=1e-5)


def test_bits_have_the_gradients_of_the_definition() -> None:
    quantizer = set_to(weight(some()), EDGE, EXPONENT, STEP)
    quantizer.bits_now().backward()
    ratio = EDGE**EXPONENT / STEP
    outer = ratio / (ratio + 1) / math.log(2)
    wanted = {"step": -outer / STEP, "edge": outer * EXPONENT / EDGE, "exponent": outer * math.log(EDGE)}
    for name, value in wanted.items():
        assert float(quantizer.get_parameter(name).grad) == pytest.approx(value, rel=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [2.0, 3.7, 8.0])
@pytest.mark.parametrize("signed", [True, False])
def test_the_step_can_be_set_for_any_bits(bits: float, signed: bool) -> None:
    quantizer = set_to(reading(some() if signed else some().abs()), EDGE, EXPONENT, STEP)
    quantizer.aim(bits)
    assert float(quantizer.bits_now().detach()) == pytest.approx(bits, abs=1e-4)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_settling_keeps_the_range_and_fills_the_codes(bits: int, signed: bool) -> None:
    x = some() if signed else some().abs()
    quantizer = set_to(reading(x), EDGE, EXPONENT, STEP)
    quantizer.settle(bits)
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    assert (quantizer.bits, quantizer.low, quantizer.high) == (bits, -top if signed else 0, top)
    assert dict(quantizer.named_parameters()).keys() == {"edge", "exponent"}
    codes = quantizer(10 * x).detach() / quantizer.positive_step().detach()
    assert float(codes.max()) == pytest.approx(top, abs=1e-3)
    torch.testing.assert_close(quantizer(10 * x).detach().max(), torch.tensor(EDGE**EXPONENT))


@pytest.mark.parametrize("exponent", [1.0, 0.6])
@pytest.mark.parametrize("signed", [True, False])
def test_an_activation_is_what_the_frozen_layer_says(exponent: float, signed: bool) -> None:
    x = some()
    quantizer = set_to(reading(x if signed else x.abs()), EDGE, exponent)
    assert isinstance(quantizer, CurvedActivation)
    step, power = quantizer.positive_step().detach(), quantizer.power()
    u = x.sign() * x.abs() ** power
    wanted = step * (u / step).round().clamp(quantizer.low, quantizer.high)
    assert torch.equal(quantizer(x).detach(), wanted)


def test_what_is_below_an_unsigned_range_has_no_gradient() -> None:
    quantizer = reading(some().abs())
    x = torch.tensor([-0.5, 0.5], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0]
    alone = set_to(reading(some().abs()), EDGE, EXPONENT, STEP)
    alone(torch.full((3,), -0.5)).sum().backward()
    assert [float(p.grad) for p in alone.parameters() if p.grad is not None] == [0.0, 0.0, 0.0]


def test_the_exponent_stays_within_its_bounds_and_ranges_stay_positive() -> None:
    quantizer = set_to(weight(some()), -EDGE, 99.0)
    assert float(quantizer.held_exponent().detach()) == 4.0
    assert float(quantizer.positive_step().detach()) == pytest.approx(EDGE**4 / 7)
    set_to(quantizer, 0.0, 1.0)
    assert bool(quantizer(some()).isfinite().all())
    assert float(quantizer.positive_step().detach()) > 0


def test_one_bit_is_too_little_for_a_sign() -> None:
    with pytest.raises(ImpossiblePlan, match="need 2 bits or more"):
        weight(some()).settle(1)
