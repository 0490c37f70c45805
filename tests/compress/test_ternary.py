import pytest
import torch
from torch import Tensor

from paretune.compress.quantizers import make_weight_quantizer
from paretune.compress.ternary import Ternary
from paretune.errors import ImpossiblePlan, UnknownName
from paretune.recipe import Quantizing


def ternary(weight: Tensor, threshold: float = 0.05, of: str = "max") -> Ternary:
    return Ternary(weight, 2, Quantizing(threshold=threshold, of=of))


def test_weights_that_reach_a_share_of_the_largest_become_their_mean() -> None:
    weight = torch.tensor([[0.8, -0.4, 0.1], [0.2, -0.3, 0.0]])
    # The threshold is 0.25 × 0.8 = 0.2, which reaches itself.
    parts = ternary(weight, 0.25).parts(weight)
    assert parts.codes.tolist() == [[1, -1, 0], [1, -1, 0]]
    torch.testing.assert_close(parts.scale, torch.tensor((0.8 + 0.4 + 0.2 + 0.3) / 4))


def test_the_mean_takes_no_notice_of_zeros() -> None:
    weight = torch.tensor([[0.8, -0.4, 0.2, 0.0, 0.0, 0.0]])
    # 0.7 × (0.8 + 0.4 + 0.2) / 3 = 0.327; over all six it would be 0.163 and 0.2 would stay.
    parts = ternary(weight, 0.7, "mean").parts(weight)
    assert parts.codes.tolist() == [[1, -1, 0, 0, 0, 0]]
    torch.testing.assert_close(parts.scale, torch.tensor(0.6))


def test_threshold_and_scale_follow_the_weight() -> None:
    quantizer = ternary(torch.tensor([[1.0, 0.01]]))
    torch.testing.assert_close(quantizer(torch.tensor([[0.1, -0.01]])), torch.tensor([[0.055, -0.055]]))


def test_of_all_thresholds_the_published_one_is_near_the_best_for_normal_weights() -> None:
    weight = torch.randn(40, 100, generator=torch.Generator().manual_seed(0))
    shares = [0.1 * step for step in range(14)]
    errors = [float((ternary(weight, share, "mean")(weight) - weight).square().sum()) for share in shares]
    assert errors[7] <= 1.02 * min(errors)


def test_the_gradient_passes_below_one_only() -> None:
    weight = torch.tensor([[0.5, -0.999, 1.0, -1.0, 3.0, 0.001, 0.0]], requires_grad=True)
    slope = torch.arange(1.0, 8.0)[None]
    (ternary(weight.detach())(weight) * slope).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1, 2, 0, 0, 0, 6, 7]]


@pytest.mark.parametrize("of", ["max", "mean"])
def test_a_threshold_of_zero_leaves_zeros_at_zero(of: str) -> None:
    weight = torch.tensor([[0.5, 0.0, -0.001]])
    parts = ternary(weight, 0.0, of).parts(weight)
    assert parts.codes.tolist() == [[1, 0, -1]]
    torch.testing.assert_close(parts.scale, torch.tensor(0.501 / 2))


@pytest.mark.parametrize(("weight", "threshold"), [(torch.zeros(2, 3), 0.05), (torch.ones(2, 3), 1.5)])
def test_a_layer_that_nowhere_reaches_its_threshold_is_zero_with_scale_one(weight: Tensor, threshold: float) -> None:
    parts = ternary(weight, threshold).parts(weight)
    assert not parts.codes.any()
    assert parts.scale == 1


def test_a_threshold_of_something_unknown_is_refused() -> None:
    weight = torch.ones(2, 3)
    with pytest.raises(UnknownName, match=r"no measure of the ternary threshold is called 'median'.*max, mean"):
        ternary(weight, of="median")(weight)


def test_it_has_two_bits_only() -> None:
    with pytest.raises(ImpossiblePlan, match=r"'ternary' of weights has 2 bits.*got 3"):
        make_weight_quantizer("ternary", torch.ones(2, 3), 3, Quantizing())
