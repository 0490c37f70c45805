from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_nets import net, tuned

from paretune.compress.codebook import Codebook, centroids, linear_starts, lloyd
from paretune.compress.quantize import quantize
from paretune.errors import ImpossiblePlan
from paretune.frozen import top_code
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Quantizing, Recovery

every_width = pytest.mark.parametrize("bits", range(1, 9))


def codebook(weight: Tensor, bits: int) -> Codebook:
    return Codebook(weight, bits, Quantizing())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = {
    "normal": normal(20, 30),
    "heavy": normal(20, 30) ** 3,
    "skewed": normal(20, 30).abs() - 0.05,
    "positive": normal(20, 30).abs() + 0.01,
    "sparse": F.dropout(normal(20, 30), 0.8),
    "few": (normal(20, 30) * 20).round(),
    "uneven": torch.tensor([[-4.0, -3.0, -3.0, -2.0, -2.0, 5.0]]).repeat(1, 43),  # its own ends are the worse start
    "steps": torch.arange(-300.0, 300.0).view(20, 30) / 7,
}


def squares(weight: Tensor, value: Tensor) -> float:
    return float((weight.double() - value).square().sum())


def nearest(weight: Tensor, table: Tensor) -> Tensor:
    return table[(weight.double()[..., None] - table).abs().argmin(dim=-1)]


def test_one_bit_is_the_mean_of_each_sign() -> None:
    weight = torch.tensor([[0.01, 0.5, 0.9, 0.0], [-0.2, -0.4, 0.0, 0.0]])
    quantizer = codebook(weight, 1)
    parts = quantizer.parts(weight)
    assert parts.levels is not None
    torch.testing.assert_close(parts.levels, torch.tensor([-0.3, 0.47]))
    assert parts.codes.tolist() == [[1, 1, 1, 0], [-1, -1, 0, 0]]
    assert parts.scale == 1


def test_three_bits_find_clusters_and_small_weights_share_the_zero() -> None:
    weight = torch.tensor([[2.9, 3.1, 5.0, 5.2, 8.9, 9.1, 0.1, 0.0], [-2.9, -3.1, -5.0, -5.2, -8.9, -9.1, -0.1, 0.0]])
    parts = codebook(weight, 3).parts(weight)
    assert parts.levels is not None
    torch.testing.assert_close(parts.levels, torch.tensor([-9.0, -5.1, -3.0, 3.0, 5.1, 9.0]))
    assert parts.codes.tolist() == [[1, 1, 2, 2, 3, 3, 0, 0], [-1, -1, -2, -2, -3, -3, 0, 0]]


@pytest.mark.parametrize("name", WEIGHTS)
@every_width
def test_every_weight_has_the_nearest_level_and_every_level_the_mean_of_its_weights(name: str, bits: int) -> None:
    weight = WEIGHTS[name]
    quantizer = codebook(weight, bits)
    parts, value = quantizer.parts(weight), quantizer(weight)
    assert parts.levels is not None
    levels, top = parts.levels.detach(), top_code(bits)
    assert (levels.diff() > 0).all()
    assert (levels[:top] < 0).all()
    assert (levels[top:] > 0).all()
    middle = [] if bits == 1 else [0.0]
    table = torch.tensor([*levels[:top], *middle, *levels[top:]], dtype=torch.float64)
    if bits == 1:
        assert torch.equal(parts.codes, weight.sign())
    else:
        assert squares(weight, value.detach()) == pytest.approx(squares(weight, nearest(weight, table)), rel=1e-6)
    for code, level in zip([*range(-top, 0), *range(1, top + 1)], levels, strict=True):
        members = weight[parts.codes == code]
        if bits < 4 and len(members):
            torch.testing.assert_close(members.mean(), level, rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("name", WEIGHTS)
@every_width
def test_k_means_never_errs_more_than_its_starts_and_an_evenly_spaced_grid(name: str, bits: int) -> None:
    weight, top = WEIGHTS[name], top_code(bits)
    with torch.no_grad():
        error = squares(weight, codebook(weight, bits)(weight))
    values = weight[weight != 0].double()
    for start in linear_starts(values, top):
        sides = [start[start < 0], start[start > 0]] if bits == 1 else []
        table = torch.cat(sides) if sides else start
        rounded = torch.where(values < 0, table[0], table[-1]) if sides else nearest(values, table)
        assert error <= squares(values, rounded) * (1 + 1e-6)
    step = weight.abs().max().double() / top
    even = (weight.sign() if bits == 1 else (weight / step).round()) * step
    assert error <= squares(weight, even) * (1 + 1e-6)


def test_either_start_may_be_the_better_one() -> None:
    better = []
    for name, bits in (("uneven", 3), ("normal", 6)):
        values = WEIGHTS[name].flatten().sort().values.double()
        errors = [lloyd(values, start, bits)[1] for start in linear_starts(values, top_code(bits))]
        better.append(errors.index(min(errors)))
        with torch.no_grad():
            error = squares(WEIGHTS[name], codebook(WEIGHTS[name], bits)(WEIGHTS[name]))
        assert error == pytest.approx(min(errors) ** 2, rel=1e-5)
    assert better == [1, 0]


@pytest.mark.parametrize("name", ["normal", "heavy", "skewed", "sparse"])
def test_more_bits_err_less(name: str) -> None:
    weight = WEIGHTS[name]
    with torch.no_grad():
        errors = [squares(weight, codebook(weight, bits)(weight)) for bits in range(1, 9)]
    assert all(more < fewer for fewer, more in pairwise(errors))


def test_as_few_values_as_levels_are_kept_exactly() -> None:
    weight = torch.tensor([[-3.0, -1.0, 0.0, 2.0, 2.0, 7.0, 5.0, -3.0]]).repeat(2, 1)
    assert torch.equal(codebook(weight, 4)(weight), weight)


def test_a_weight_of_zeros_has_levels_between_minus_one_and_one() -> None:
    torch.testing.assert_close(centroids(torch.zeros(4, 5), 3), torch.tensor([-3, -2, -1, 1, 2, 3]) / 3)


def test_the_gradient_of_a_level_is_the_mean_of_its_weights_gradients() -> None:
    weight = torch.tensor([[1.0, 1.2, 1.1, 0.0], [-0.9, -1.1, 0.1, 0.0]], requires_grad=True)
    quantizer = codebook(weight, 2)
    slope = torch.tensor([[3.0, 6.0, 9.0, 100.0], [-1.0, -2.0, 100.0, 100.0]])
    (quantizer(weight) * slope).sum().backward()
    assert quantizer.centroids.grad is not None
    torch.testing.assert_close(quantizer.centroids.grad, torch.tensor([-1.5, 6.0]))
    assert weight.grad is not None
    assert not weight.grad.any()


def test_who_has_which_level_does_not_change() -> None:
    weight = normal(6, 7)
    quantizer = codebook(weight, 3)
    before = quantizer(weight)
    assert torch.equal(quantizer(weight * 0.5), before)
    masked = weight * (torch.arange(7) > 2)
    assert torch.equal(quantizer(masked), before * (masked != 0))


def test_levels_stay_on_their_side_and_ascend_when_training_swaps_them() -> None:
    weight = torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0, 3.0], [-3.0, -2.0, -1.0, 3.0, 2.0, 1.0]])
    quantizer = codebook(weight, 3)
    torch.testing.assert_close(quantizer.centroids.detach(), torch.tensor([-3.0, -2, -1, 1, 2, 3]))
    quantizer.centroids.data = torch.tensor([-1.0, -2.0, 0.5, 2.0, 4.0, -1.0])
    parts = quantizer.parts(weight)
    assert parts.levels is not None
    assert parts.levels.tolist() == [-2, -1, 0, 0, 2, 4]
    expected = [[-2, 0, 0, 2, 4, 0], [-1, -2, 0, 0, 4, 2]]
    assert quantizer(weight).tolist() == expected
    assert quantizer.value(parts).tolist() == expected
    quantizer(weight).sum().backward()
    assert quantizer.centroids.grad is not None
    assert quantizer.centroids.grad.tolist() == [1] * 6, "one that counts as zero can still be pulled back"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_memory_layout_makes_no_difference(layout: torch.memory_format) -> None:
    weight = normal(4, 6, 3, 3)
    assert torch.equal(codebook(weight.contiguous(memory_format=layout), 3)(weight), codebook(weight, 3)(weight))


def test_a_fine_tune_moves_the_levels_and_nothing_else_of_the_weight() -> None:
    model = net()
    model = quantize(model, Plan(layers=(LayerPlan(layer="0", weight_bits=2, weight_quantizer="codebook"),)))
    quantizer = model[0].parametrizations.weight[0]
    levels, codes = quantizer.centroids.detach().clone(), quantizer.assigned.clone()
    tuned(model, Recovery(epochs=3, lr=0.1)).eval()
    assert torch.equal(quantizer.assigned, codes)
    assert not torch.equal(quantizer.centroids, levels)
    assert len(model[0].weight.unique()) == 3


@pytest.mark.parametrize(
    ("bits", "shape", "match"),
    [
        (8, (5, 6), "a codebook of 254 levels for a weight of 30 numbers: use 5 bits or fewer"),
        (2, (1, 1), "a codebook of 2 levels for a weight of 1 numbers: use another quantizer"),
    ],
)
def test_a_codebook_larger_than_the_weight_is_refused(bits: int, shape: tuple[int, int], match: str) -> None:
    with pytest.raises(ImpossiblePlan, match=match):
        codebook(nn.Linear(*shape).weight, bits)


def test_a_codebook_as_large_as_the_weight_is_not() -> None:
    weight = normal(5, 6)
    assert codebook(weight, 5).parts(weight).levels is not None
