"""FlipOut: how many prunes, what the noise is, how flips are counted, and which weights go."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import TinyNet, blobs
from torch import Tensor, nn

from paretune.compress.flipout import FlipOut, flipout, solve
from paretune.compress.masks import masked_layers, raw_weight
from paretune.compress.recover import Teacher
from paretune.errors import ImpossiblePlan, UnknownName
from paretune.recipe import Pruning, Wanted

SIZES = {"conv1": 72, "conv2": 576, "head": 24}


def seeds(epoch: int) -> int:
    return 100 + epoch


def tiny() -> TinyNet:
    torch.manual_seed(0)
    return TinyNet()


def unstructured(sparsity: float, *layers: str) -> dict[str, Wanted]:
    return {name: Wanted(kind="unstructured", sparsity=sparsity) for name in layers or SIZES}


def pruning(sparsity: float = 0.9, **more: Any) -> Pruning:
    plain = Pruning(schedule="flipout", rounds=3, epochs=4, lr=0.1, wanted=unstructured(sparsity), blends={})
    return replace(plain, **more)


def pruned(model: nn.Module, asked: Pruning, *, by: str = "flips", seed: int = 0) -> dict[str, np.ndarray]:
    teacher = Teacher(model=model, split=blobs(96, 1))
    return flipout(model, asked, loss=F.cross_entropy, teacher=teacher, seeds=seeds, seed=seed, by=by)


def line(*weights: float) -> nn.Sequential:
    """A linear layer with one output and these weights."""
    model = nn.Sequential(nn.Linear(len(weights), 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([weights]))
    return model


def watch(model: nn.Module, sparsity: float, **more: Any) -> FlipOut:
    plain: dict[str, Any] = {"epochs": 2, "rounds": 1, "noise": 0.0, "seed": 0}
    return FlipOut(model, unstructured(sparsity, "0"), **{**plain, **more})


def step(watcher: FlipOut, model: nn.Module, *weights: float, grads: Tensor | None = None) -> None:
    """One optimizer step that ends at these weights."""
    raw = raw_weight(model.get_submodule("0"))
    raw.grad = torch.ones_like(raw) if grads is None else grads
    watcher.on_gradients(model)
    with torch.no_grad():
        raw.copy_(torch.tensor([weights]))
    watcher.on_step(model)


def stay(watcher: FlipOut) -> list[int]:
    return np.flatnonzero(watcher.masks()["0"]).tolist()


@pytest.mark.parametrize(
    ("every", "count", "sparsity"),
    [(117, 2, 0.75), (70, 4, 0.9375), (50, 6, 0.984375), (39, 8, 0.99609375), (32, 10, 0.9990234375)],
)
def test_the_papers_table_of_halvings(every: int, count: int, sparsity: float) -> None:
    """350 epochs and a rate of one half; their interval, and ours, give as many prunes before the last epoch."""
    prunes = solve(sparsity, 350)
    assert prunes.count == count
    assert prunes.rate == pytest.approx(0.5)
    assert 349 // prunes.every == 349 // every == count


@given(st.floats(0.001, 0.999), st.integers(20, 400), st.integers(0, 19))
def test_the_prunes_end_at_the_target_before_the_last_epoch(sparsity: float, epochs: int, rounds: int) -> None:
    prunes = solve(sparsity, epochs, rounds=rounds)
    assert 1 - (1 - prunes.rate) ** prunes.count == pytest.approx(sparsity)
    assert prunes.every >= 1
    assert prunes.count * prunes.every <= epochs - 1
    if rounds:
        assert prunes.count == rounds
    else:
        assert prunes.rate <= 0.5 + 1e-9  # and one prune less would need a higher one
        assert 1 - 0.5 ** (prunes.count - 1) < sparsity


def test_the_last_digit_of_a_logarithm_costs_no_prune() -> None:
    assert solve(0.9744, 9, rate=0.6).count == 4  # 1 - 0.4^4
    assert solve(0.3439, 9, rate=0.1).count == 4  # 1 - 0.9^4


def test_no_sparsity_needs_no_prunes() -> None:
    assert solve(0.0, 1).count == 0


@pytest.mark.parametrize(
    ("sparsity", "epochs", "rounds", "text"),
    [
        (0.9, 4, 0, "prunes 4 times to reach sparsity 0.9, .* it needs at least 5 epochs; got 4"),
        (0.5, 1, 1, "prunes 1 times to reach sparsity 0.5, .* it needs at least 2 epochs; got 1"),
        (0.5, 7, 7, "it needs at least 8 epochs; got 7"),
        (1.0, 9, 2, r"flipout needs a sparsity in \[0, 1\), got 1"),
    ],
)
def test_a_target_that_cannot_be_reached_is_an_impossible_plan(
    sparsity: float, epochs: int, rounds: int, text: str
) -> None:
    with pytest.raises(ImpossiblePlan, match=text):
        solve(sparsity, epochs, rounds=rounds)


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_the_noise_is_as_long_as_the_gradient_times_its_factor(noise: float) -> None:
    """λ × ‖g‖ / √n × ε has the length λ × ‖g‖ × ‖ε‖ / √n, and ‖ε‖ / √n comes near 1 for n numbers."""
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 50))
    watcher = FlipOut(model, unstructured(0.5, "0"), epochs=2, rounds=1, noise=noise, seed=3)
    before = {}
    for name, parameter in model.named_parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 7
        before[name] = parameter.grad.clone()
    watcher.on_gradients(model)
    assert len(before) == 4
    for name, parameter in model.named_parameters():  # those of no pruned layer too
        assert parameter.grad is not None
        added = float((parameter.grad - before[name]).norm() / before[name].norm())
        assert added == pytest.approx(noise, rel=4 / math.sqrt(2 * parameter.numel()))


def test_the_seed_draws_the_noise_and_the_global_generator_is_left_alone() -> None:
    def shaken(seed: int) -> Tensor:
        watcher = watch(model, 0.5, noise=1.0, seed=seed)
        raw = raw_weight(model.get_submodule("0"))
        raw.grad = torch.ones_like(raw)
        watcher.on_gradients(model)
        return raw.grad

    model = line(1, 2, 3, 4)
    one = shaken(1)
    torch.manual_seed(6)
    before = torch.get_rng_state()
    assert torch.equal(shaken(1), one)
    assert not torch.equal(shaken(2), one)
    assert torch.equal(torch.get_rng_state(), before)


def test_flips_are_counted_by_sign_over_the_whole_run() -> None:
    model = line(1.0, -1.0, 2.0, 0.0)
    watcher = watch(model, 0.5, epochs=9, rounds=1)
    step(watcher, model, -1.0, -2.0, 3.0, 0.0)
    assert watcher.flips["0"].tolist() == [[1, 0, 0, 0]]
    step(watcher, model, 0.5, 1.0, 3.5, 0.1)  # the last one leaves zero, which counts as a flip
    assert watcher.flips["0"].tolist() == [[2, 1, 0, 1]]
    watcher.on_epoch(0)  # 9 epochs, one prune: not yet
    step(watcher, model, 0.0, -1.0, 4.0, 0.2)  # so does arriving there
    assert watcher.flips["0"].tolist() == [[3, 2, 0, 1]]
    assert stay(watcher) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("power", "by", "kept"),
    [
        (1.0, "flips", [2, 3]),  # 3/4, 0.8, 4/1, 1: |w| / (flips + 1)
        (2.0, "flips", [0, 2]),  # 9/4, 0.64, 16, 1
        (1.0, "magnitude", [0, 2]),
        (2.0, "magnitude", [0, 2]),
    ],
)
def test_the_least_of_weight_to_a_power_over_flips_and_one_goes(power: float, by: str, kept: list[int]) -> None:
    model = line(3.0, 0.8, 4.0, -1.0)
    watcher = watch(model, 0.5, power=power, by=by)
    for sign in (-1, 1, -1):
        step(watcher, model, sign * 3.0, 0.8, 4.0, -1.0)
    watcher.on_epoch(0)
    assert stay(watcher) == kept


def test_what_is_pruned_stays_zero_and_forgets_its_flips() -> None:
    model = line(0.1, 2.0, 0.2, 3.0)
    watcher = watch(model, 0.5, noise=1.0)
    step(watcher, model, -0.1, 2.0, -0.2, 3.0)
    watcher.on_epoch(0)
    raw = raw_weight(model.get_submodule("0"))
    assert raw.tolist() == [[0.0, 2.0, 0.0, 3.0]]
    assert watcher.flips["0"].tolist() == [[0, 0, 0, 0]]
    step(watcher, model, 5.0, -2.0, 5.0, 3.0)  # momentum moves what is masked
    assert raw.tolist() == [[0.0, -2.0, 0.0, 3.0]]
    assert raw.grad is not None
    assert (raw.grad != 0).tolist() == [[False, True, False, True]]  # neither gradient nor noise
    assert watcher.flips["0"].tolist() == [[0, 1, 0, 0]]


def test_what_is_pruned_goes_before_a_zero_that_is_not() -> None:
    model = line(0.1, 1.0, 2.0, 3.0)
    watcher = watch(model, 0.5, epochs=3, rounds=2)  # 4, 3, 2
    watcher.on_epoch(0)
    assert stay(watcher) == [1, 2, 3]
    step(watcher, model, 0.0, 0.0, 0.0, 3.0)
    watcher.on_epoch(1)
    assert stay(watcher) == [1, 3]


def test_the_prunes_are_spread_over_the_epochs_and_then_stop() -> None:
    model = line(*range(1, 65))
    watcher = watch(model, 0.9375, epochs=12, rounds=0)  # 64, 32, 16, 8, 4
    assert (watcher.prunes.count, watcher.prunes.every) == (4, 2)
    left = []
    for epoch in range(12):
        watcher.on_epoch(epoch)
        left.append(len(stay(watcher)))
    assert left == [64, 32, 32, 16, 16, 8, 8, 4, 4, 4, 4, 4]
    assert stay(watcher) == [60, 61, 62, 63]


def test_equal_weights_leave_from_the_end() -> None:
    watcher = watch(model := line(1, 1, 1, 1, 1), 0.4)
    watcher.on_epoch(0)
    assert stay(watcher) == [0, 1, 2]
    assert model[0].weight.tolist() == [[1, 1, 1, 0, 0]]


@pytest.mark.parametrize("by", ["flips", "magnitude"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.7777, 0.95])
def test_the_sparsity_in_all_is_exact(by: str, sparsity: float) -> None:
    model = tiny()
    masks = pruned(model, pruning(sparsity), by=by)
    assert {name: mask.size for name, mask in masks.items()} == SIZES
    assert sum(mask.sum() for mask in masks.values()) == math.floor(672 * (1 - sparsity) + 0.5)
    on = {name: (layer.weight, mask) for name, layer, mask in masked_layers(model)}
    for name, mask in masks.items():
        weight, _ = on[name]
        assert isinstance(weight, Tensor)
        assert np.array_equal(weight.detach().numpy() != 0, mask)


def test_layers_may_ask_for_different_shares_and_share_one_ranking() -> None:
    wanted = unstructured(0.5, "conv1") | unstructured(0.9, "conv2") | unstructured(0.0, "head")
    masks = pruned(tiny(), pruning(wanted=wanted))
    assert masks["head"].all()  # nothing was asked of it
    assert masks["conv1"].sum() + masks["conv2"].sum() == math.floor(72 * 0.5 + 576 * 0.1 + 0.5)
    assert masks["conv1"].sum() != 36


@pytest.mark.parametrize("minimum", [1, 5])
def test_no_layer_is_emptied(minimum: int) -> None:
    model = tiny()
    with torch.no_grad():
        model.conv2.weight.mul_(1e-6)  # one threshold would take them all
    masks = pruned(model, pruning(0.95, minimum=minimum, lr=1e-4, noise=0.0))
    assert masks["conv2"].sum() == minimum
    assert sum(mask.sum() for mask in masks.values()) == 34


def test_a_minimum_above_the_target_wins() -> None:
    masks = pruned(tiny(), pruning(0.99, minimum=10, rounds=1))
    assert [int(mask.sum()) for mask in masks.values()] == [10, 10, 10]


def test_magnitude_at_equal_budget_is_magnitude() -> None:
    """One prune after the first of two epochs of a learning rate too small to change any order."""
    model = tiny()
    weights = {name: raw_weight(model.get_submodule(name)).detach().abs().numpy().copy() for name in SIZES}
    masks = pruned(model, pruning(0.5, rounds=1, epochs=2, lr=1e-12), by="magnitude")
    threshold = np.sort(np.concatenate([weight.ravel() for weight in weights.values()]))[336]
    assert all(np.array_equal(masks[name], weights[name] >= threshold) for name in SIZES)


def test_flips_and_magnitude_end_at_different_masks() -> None:
    by_flips, by_size = (pruned(tiny(), pruning(0.9), by=by) for by in ("flips", "magnitude"))
    assert sum(mask.sum() for mask in by_flips.values()) == sum(mask.sum() for mask in by_size.values())
    assert any(not np.array_equal(by_flips[name], by_size[name]) for name in SIZES)


def test_flipout_is_repeatable_and_depends_on_its_seed() -> None:
    one, again, other = (tiny() for _ in range(3))
    masks = pruned(one, pruning())
    torch.manual_seed(7)
    assert all(np.array_equal(masks[name], mask) for name, mask in pruned(again, pruning()).items())
    pruned(other, pruning(), seed=1)
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_the_network_learns_while_it_is_pruned() -> None:
    split, model = blobs(192, 1), tiny()
    teacher = Teacher(model=model, split=split)
    asked = pruning(0.75, rounds=2, epochs=8)
    flipout(model, asked, loss=F.cross_entropy, teacher=teacher, seeds=seeds, seed=0)
    with torch.no_grad():
        right = (model(split.inputs).argmax(1) == split.targets).float().mean()
    assert right > 0.65  # 0.78 without zeros and noise, a third by chance


def test_zeros_in_a_pattern_are_not_flipouts() -> None:
    wanted = {"conv1": Wanted(kind="channel"), "conv2": Wanted(kind="2:4")}
    with pytest.raises(ImpossiblePlan, match="flipout finds unstructured zeros, layer 'conv2' asks for '2:4'"):
        pruned(tiny(), pruning(wanted=wanted))


def test_an_unknown_ranking_is_told() -> None:
    with pytest.raises(UnknownName, match=r"no ranking of flipout is called 'flip'\. .*'flips'"):
        pruned(tiny(), pruning(), by="flip")
