import math

import pytest
import torch
from torch import Tensor, nn
from training_nets import net, tuned

from paretune.compress.powers import Incremental, PowerOfTwo, frozen_share, power_codes, power_scale
from paretune.compress.quantize import quantize, weight_quantizer
from paretune.errors import ImpossiblePlan
from paretune.frozen import top_code
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Quantizing, Recovery

every_width = pytest.mark.parametrize("bits", range(2, 9))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inq(weight: Tensor, bits: int = 4, steps: int = 4) -> Incremental:
    return Incremental(weight, bits, Quantizing(steps=steps))


def test_the_scale_is_the_power_of_two_nearest_to_the_largest_weight() -> None:
    for largest in (0.7, 0.74999, 0.75, 1.0, 1.49, 1.5, 6.0, 1e-3, 123.4):
        expected = 2.0 ** math.floor(math.log2(4 / 3 * largest))
        assert power_scale(torch.tensor([[0.1 * largest, -largest]])) == expected
    assert power_scale(torch.zeros(2, 2)) == 1


def test_three_bits_by_hand() -> None:
    # Levels 1, 1/2, 1/4 and zero; borders at 3/4, 3/8 and 1/8.
    weight = torch.tensor([[1.4, 0.75, 0.74, 0.375, -0.37, 0.125, 0.1249, -0.01, 0.0]])
    parts = PowerOfTwo(weight, 3, Quantizing()).parts(weight)
    assert parts.scale == 1
    assert parts.codes.tolist() == [[3, 3, 2, 2, -1, 1, 0, 0, 0]]
    value = PowerOfTwo(weight, 3, Quantizing())(weight)
    assert value.tolist() == [[1, 1, 0.5, 0.5, -0.25, 0.25, 0, 0, 0]]


@every_width
def test_values_are_powers_of_two_and_no_level_is_nearer(bits: int) -> None:
    weight = normal(20, 50) * torch.logspace(0, -12, 50)
    quantizer = PowerOfTwo(weight, bits, Quantizing())
    value, top = quantizer(weight), top_code(bits)
    mantissas, _ = torch.frexp(value[value != 0].abs())
    assert (mantissas == 0.5).all()
    levels = power_scale(weight).double() * 2.0 ** -torch.arange(top)
    table = torch.cat([-levels, levels, torch.zeros(1)])
    nearest = (weight.double()[..., None] - table).abs().amin(dim=-1)
    torch.testing.assert_close((weight.double() - value).abs(), nearest, rtol=1e-12, atol=0)


def test_levels_too_small_for_a_float_are_zero() -> None:
    weight = torch.tensor([[2.0**-20, 2.0**-126, 2.0**-127, 2.0**-140, 0.0]])
    value = PowerOfTwo(weight, 8, Quantizing())(weight)
    assert value.tolist() == [[2.0**-20, 2.0**-126, 0, 0, 0]]
    assert power_scale(torch.full((1, 1), 2.0**-140)) == 1


def test_a_doubled_scale_moves_only_what_the_old_one_clipped_and_the_smallest() -> None:
    weight = normal(10, 30)
    before, scale, top = PowerOfTwo(weight, 4, Quantizing())(weight), power_scale(weight), 7
    grown = weight.clone()
    grown[0, 0] = 1.5 * scale
    after = PowerOfTwo(weight, 4, Quantizing())(grown)
    kept = (before.abs() > scale * 2.0 ** (1 - top)) & (grown == weight)
    assert power_scale(grown) == 2 * scale
    assert torch.equal(after[kept], before[kept])


def test_the_gradient_passes_straight() -> None:
    weight, slope = normal(3, 4).requires_grad_(), normal(3, 4, seed=1)
    (PowerOfTwo(weight, 3, Quantizing())(weight) * slope).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, slope)


def test_when_which_share_freezes() -> None:
    shares = {0.0: 0.5, 0.29: 0.5, 0.3: 0.75, 0.59: 0.75, 0.6: 0.875, 0.89: 0.875, 0.9: 1.0, 1.0: 1.0}
    assert {done: frozen_share(done, 4) for done in shares} == shares
    assert [frozen_share(done, 1) for done in (0.0, 0.5, 1.0)] == [1, 1, 1]
    assert [frozen_share(done, 2) for done in (0.0, 0.89, 0.9)] == [0.5, 0.5, 1]
    for steps in range(2, 9):
        path = [frozen_share(step / 40, steps) for step in range(41)]
        assert path == sorted(path)
        assert len(set(path)) == steps


def test_the_largest_freeze_first_and_exactly_as_many_as_asked() -> None:
    weight = normal(7, 9)
    weight[:, :2] = 0
    alive = 49
    quantizer = inq(weight)
    assert torch.equal(quantizer(weight), weight), "before a training starts everything is in float"
    for done, share in ((0.0, 0.5), (0.3, 0.75), (0.6, 0.875)):
        quantizer.at(done)
        value = quantizer(weight)
        frozen = quantizer.frozen
        assert int(frozen.sum()) == math.ceil(share * alive)
        assert weight[frozen].abs().min() >= weight[~frozen].abs().max()
        assert not frozen[weight == 0].any()
        assert torch.equal(value[~frozen], weight[~frozen])
        assert torch.equal(value[frozen], quantizer.value(quantizer.parts(weight))[frozen])
    quantizer.at(0.9)
    assert torch.equal(quantizer(weight), quantizer.value(quantizer.parts(weight)))
    assert quantizer.frozen.all()


def test_equal_weights_freeze_in_their_order() -> None:
    weight = torch.full((2, 400), 0.5)
    quantizer = inq(weight)
    quantizer.at(0.0)
    quantizer(weight)
    assert quantizer.frozen.tolist() == [[True] * 400, [False] * 400]


def test_out_of_training_everything_is_rounded_and_nothing_freezes() -> None:
    weight = normal(5, 6)
    quantizer = inq(weight).eval()
    quantizer.at(0.5)
    rounded = PowerOfTwo(weight, 4, Quantizing())(weight)
    assert torch.equal(quantizer(weight), rounded)
    assert not quantizer.frozen.any()


def test_momentum_and_decay_cannot_move_what_is_frozen() -> None:
    weight = nn.Parameter(normal(8, 10))
    quantizer, chance = inq(weight), torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD([weight], lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1)
    seen: list[tuple[Tensor, Tensor]] = []  # which had frozen by a step, and their values then
    for step in range(40):
        quantizer.at(step / 40)
        optimizer.zero_grad()
        value = quantizer(weight)
        (value * torch.randn(8, 10, generator=chance)).sum().backward()
        assert weight.grad is not None
        assert not weight.grad[quantizer.frozen].any()
        assert weight.grad[~quantizer.frozen].all()
        seen.append((quantizer.frozen.clone(), value.detach().clone()))
        optimizer.step()
    quantizer.at(1.0)
    last = quantizer(weight)
    for frozen, then in seen:
        assert torch.equal(last[frozen], then[frozen])
    assert not torch.allclose(last, power_codes(weight, quantizer.scale, 7)), "the raw weights did move"
    assert [int(frozen.sum()) for frozen, _ in (seen[0], seen[12], seen[24], seen[36])] == [40, 60, 70, 80]


def test_a_frozen_weight_behind_a_later_mask_is_zero() -> None:
    weight = normal(4, 5)
    quantizer = inq(weight)
    quantizer.at(1.0)
    quantizer(weight)
    masked = weight * (torch.arange(5) > 1)
    value = quantizer(masked)
    assert torch.equal(value, quantizer.value(quantizer.parts(masked)))
    assert not value[:, :2].any()


def test_a_second_training_leaves_the_first_ones_weights() -> None:
    weight = normal(4, 5)
    quantizer = inq(weight)
    quantizer.at(1.0)
    first = quantizer(weight)
    quantizer.at(0.0)
    assert torch.equal(quantizer(-2 * weight), first)


@pytest.mark.parametrize("epochs", [1, 4])
def test_a_fine_tune_ends_with_powers_of_two(epochs: int) -> None:
    rows = tuple(LayerPlan(layer=name, weight_bits=4, weight_quantizer="inq") for name in ("0", "4"))
    model = quantize(net(), Plan(layers=rows))
    start = model.eval()[0].weight.detach().clone()
    tuned(model, Recovery(epochs=epochs, lr=0.1)).eval()
    for layer in (model[0], model[4]):
        quantizer = weight_quantizer(layer)
        assert isinstance(quantizer, Incremental)
        assert torch.equal(layer.weight, quantizer.value(quantizer.parts(layer.parametrizations.weight.original)))
        mantissas, _ = torch.frexp(layer.weight.detach()[layer.weight != 0].abs())
        assert (mantissas == 0.5).all()
    assert not torch.equal(model[0].weight, start)


def test_no_step_at_all_is_refused() -> None:
    with pytest.raises(ImpossiblePlan, match="1 step or more, got steps 0"):
        inq(normal(2, 2), steps=0)
