"""Ternary directions and the pruning before them: the cosine law, the refined gradient, frozen signs, unit filters."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_task import TinyNet, blobs
from torch import Tensor, nn

from paretune.compress.masks import attach, mask_module, raw_weight
from paretune.compress.normalised import normalised, unit_filters
from paretune.compress.prune_ternary import TernaryDirection, best_support
from paretune.compress.quantize import quantize, tell_quantizers, weight_codes
from paretune.compress.quantizers import make_weight_quantizer
from paretune.compress.recover import Teacher, finetune, recalibrate
from paretune.errors import ImpossiblePlan, UnknownName
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Pruning, Quantizing, Recovery, Wanted

LAYERS = ("conv1", "conv2", "head")  # 72, 576 and 24 weights


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masked(seed: int, *shape: int) -> Tensor:
    """A weight of which about half is zero."""
    return draw(seed, *shape) * (draw(seed + 1, *shape) > 0)


def made(weight: Tensor, **more: Any) -> TernaryDirection:
    return TernaryDirection(weight, 2, Quantizing(**{"pull": 0.0, **more}))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one.double().flatten() @ other.double().flatten() / (one.double().norm() * other.double().norm()))


def gradient(quantizer: TernaryDirection, weight: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of weight and gain if `above` is that of the output."""
    learned = weight.clone().requires_grad_()
    quantizer.gain.grad = None
    (quantizer(learned) * above).sum().backward()  # type: ignore[no-untyped-call]
    assert learned.grad is not None
    assert quantizer.gain.grad is not None
    return learned.grad, quantizer.gain.grad


@given(st.integers(0, 10_000), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_no_support_points_nearer_to_the_filter(seed: int, size: int) -> None:
    filters = draw(seed, 3, size)
    for v, found in zip(filters / filters.norm(dim=1, keepdim=True), best_support(filters), strict=True):
        every = (list(c) for k in range(1, size + 1) for c in combinations(range(size), k))
        best = max(float(v[c].abs().sum()) / math.sqrt(len(c)) for c in every)
        assert float(v[found].abs().sum()) / math.sqrt(int(found.sum())) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize(
    ("filters", "support"),
    [
        ([4.0, 3.0, 1.0], [1, 1, 0]),  # 4, 7 / √2 = 4.95, 8 / √3 = 4.6
        ([9.0, 3.0, 1.0], [1, 0, 0]),  # 9, 12 / √2 = 8.5
        ([-1.0, 1.0, -1.0], [1, 1, 1]),
        ([0.0, 2.0, 0.0], [0, 1, 0]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_supports_by_hand(filters: list[float], support: list[int]) -> None:
    assert best_support(torch.tensor([filters])).int().tolist() == [support]


@pytest.mark.parametrize("make", [draw, masked])
@pytest.mark.parametrize("shape", [(4, 9), (3, 2, 3, 3)])
def test_the_cosine_is_the_l1_norm_of_the_support_over_the_root_of_its_size(
    make: Callable[..., Tensor], shape: tuple[int, ...]
) -> None:
    weight = make(3, *shape)
    values = made(weight)(weight).detach()
    for w, value in zip(weight, values, strict=True):
        support = value != 0
        law = float(w[support].abs().sum()) / float(w.norm()) / math.sqrt(int(support.sum()))
        assert cosine(w, value) == pytest.approx(law, rel=1e-5)


def test_with_a_mask_every_survivor_is_in_the_support_and_without_one_small_weights_are_not() -> None:
    weight = masked(0, 5, 12)
    assert torch.equal(made(weight).parts(weight).codes, weight.sign())
    dense = draw(0, 5, 12)
    codes = made(dense).parts(dense).codes
    assert torch.equal(codes, dense.sign() * best_support(dense))
    assert 0 < int((codes == 0).sum()) < codes.numel()


@pytest.mark.parametrize("make", [draw, masked])
def test_the_first_values_are_the_least_squares_fit(make: Callable[..., Tensor]) -> None:
    """For given codes the best scale is their mean |w|; 1 over a filter of zeros."""
    weight = make(5, 4, 10)
    weight[1] = 0
    parts = made(weight).parts(weight)
    for w, codes, scale in zip(weight, parts.codes, parts.scale.detach().flatten(), strict=True):
        wanted = float(w[codes != 0].abs().mean()) if codes.any() else 1.0
        assert float(scale) == pytest.approx(wanted, rel=1e-5)


def test_the_gain_is_the_norm_of_a_filter_whatever_its_support() -> None:
    quantizer = made(draw(0, 4, 10))
    quantizer.gain.data = torch.tensor([1.0, -2.0, 3.0, 0.5])[:, None]
    for seed in range(3):
        torch.testing.assert_close(quantizer(draw(seed, 4, 10)).norm(dim=1), torch.tensor([1.0, 2.0, 3.0, 0.5]))


@pytest.mark.parametrize("make", [draw, masked])
def test_the_plain_gradient_is_that_of_the_output_on_the_support(make: Callable[..., Tensor]) -> None:
    weight, above = make(0, 3, 2, 3, 3), draw(9, 3, 2, 3, 3)
    quantizer = made(weight, gradient="plain")
    by_weight, by_gain = gradient(quantizer, weight, above)
    value = quantizer(weight).detach()
    assert torch.equal(by_weight, above * (value != 0))
    law = (above * value).flatten(1).sum(1) / quantizer.gain.detach().flatten()  # value = gain × v̂
    torch.testing.assert_close(by_gain.flatten(), law)


def test_the_tangent_gradient_is_projected_with_the_filter() -> None:
    weight, above = masked(2, 3, 8), draw(9, 3, 8)
    by_weight, _ = gradient(made(weight), weight, above)
    for w, g, found in zip(weight, above * (weight != 0), by_weight, strict=True):
        v = w / w.norm()
        torch.testing.assert_close(found, (torch.eye(8) - torch.outer(v, v)) @ g)


def test_without_a_mask_the_tangent_gradient_stays_on_the_support_and_is_orthogonal_to_the_filter() -> None:
    weight, above = draw(0, 3, 8), draw(9, 3, 8)
    by_weight, _ = gradient(made(weight), weight, above)
    assert not by_weight[~best_support(weight)].any()
    torch.testing.assert_close((by_weight * weight).sum(1), torch.zeros(3), atol=1e-5, rtol=0)
    assert by_weight.abs().sum() > 1


@pytest.mark.parametrize("make", [draw, masked])
@pytest.mark.parametrize("kind", ["plain", "tangent"])
def test_the_pull_is_towards_the_ternary_direction(make: Callable[..., Tensor], kind: str) -> None:
    weight, above = make(2, 3, 8), draw(9, 3, 8)
    without, _ = gradient(made(weight, gradient=kind), weight, above)
    pulled, _ = gradient(made(weight, gradient=kind, pull=0.5), weight, above)
    codes = made(weight).parts(weight).codes
    unit, wanted = (filters / filters.norm(dim=1, keepdim=True) for filters in (weight, codes))
    torch.testing.assert_close(pulled - without, 0.5 * (unit - wanted), atol=1e-5, rtol=1e-4)
    assert cosine(weight - 0.2 * (pulled - without), codes) > cosine(weight, codes)


def test_an_unknown_gradient_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"no gradient of prune_ternary is called 'tangens'.* 'tangent'"):
        made(draw(0, 2, 2), gradient="tangens")


def test_it_has_two_bits_only() -> None:
    with pytest.raises(ImpossiblePlan, match="the quantizer 'prune_ternary' of weights has 2 bits only, got 3"):
        make_weight_quantizer("prune_ternary", draw(0, 2, 2), 3, Quantizing())


@pytest.mark.parametrize("make", [draw, masked])
@pytest.mark.parametrize(("freeze", "late"), [(0.25, 0.75), (0.0, 1.0), (1.0, 0.0)])
def test_signs_freeze_in_the_last_share_and_the_next_training_frees_them(
    make: Callable[..., Tensor], freeze: float, late: float
) -> None:
    weight, other = make(0, 4, 9), make(4, 4, 9)
    quantizer = made(weight, freeze=freeze, pull=0.1)
    free = quantizer.parts(other).codes
    if late:
        quantizer.at(late - 0.01)
        assert torch.equal(quantizer.parts(weight).codes, made(weight).parts(weight).codes)
        assert torch.equal(quantizer.parts(other).codes, free)
    for done in (late, 1.0):
        quantizer.at(done)
        codes = quantizer.parts(weight).codes
        assert torch.equal(quantizer.parts(other).codes, codes * (other != 0))
        assert not torch.equal(quantizer.parts(other).codes, free)
        by_weight, by_gain = gradient(quantizer, weight, draw(9, 4, 9))
        assert not by_weight.any()
        assert by_gain.any()
        assert torch.equal(quantizer(other), quantizer.value(quantizer.parts(other)))
    quantizer.at(0.0)
    assert torch.equal(quantizer.parts(other).codes, free)


def test_a_frozen_code_is_zero_where_the_weight_is() -> None:
    weight = draw(0, 2, 6)
    quantizer = made(weight)
    quantizer.at(1.0)
    codes = quantizer.parts(weight).codes
    holes = torch.ones(2, 6)
    holes[:, ::2] = 0
    assert torch.equal(quantizer.parts(weight * holes).codes, codes * holes)
    torch.testing.assert_close(quantizer(weight * holes).norm(dim=1), quantizer.gain.abs().flatten())


def tiny() -> TinyNet:
    torch.manual_seed(0)
    return TinyNet()


def seeds(epoch: int) -> int:
    return 100 + epoch


def teacher() -> Teacher:
    return Teacher(model=tiny(), split=blobs(96, 1))


def test_in_training_codes_move_at_first_and_not_at_the_end() -> None:
    model = tiny()
    rows = tuple(LayerPlan(layer=name, weight_bits=2, weight_quantizer="prune_ternary") for name in LAYERS)
    quantize(model, Plan(layers=rows, quantizing=Quantizing(freeze=0.5)))
    seen: list[Tensor] = []
    gains: list[Tensor] = []

    def look(now: nn.Module) -> Tensor:
        step = now.conv2.parametrizations["weight"][0]  # type: ignore[index, union-attr]
        seen.append(step.parts(raw_weight(now.conv2).detach()).codes)  # type: ignore[operator, arg-type, union-attr]
        gains.append(step.gain.detach().clone())  # type: ignore[operator, union-attr]
        return torch.zeros(())

    asked = Recovery(epochs=4, lr=0.2)
    finetune(model, asked, loss=F.cross_entropy, teacher=teacher(), seeds=seeds, penalty=look)
    changed = [not torch.equal(one, other) for one, other in pairwise(seen)]
    assert len(seen) == 12
    assert sum(changed[:5]) >= 3
    assert not any(changed[6:])
    assert all(not torch.equal(one, other) for one, other in pairwise(gains))
    assert np.array_equal(weight_codes(model.conv2).codes, seen[-1].numpy())
    tell_quantizers(model, 0.0)
    assert not np.array_equal(weight_codes(model.conv2).codes, seen[-1].numpy())


def pruning(**more: Any) -> Pruning:
    wanted = {name: Wanted(kind="unstructured", sparsity=0.75) for name in LAYERS}
    plain = Pruning(schedule="normalised", rounds=3, epochs=3, lr=0.1, wanted=wanted, blends={})
    return replace(plain, **more)


def pruned(model: nn.Module, asked: Pruning, **more: Any) -> dict[str, NDArray[np.bool_]]:
    return normalised(model, asked, loss=F.cross_entropy, teacher=teacher(), seeds=seeds, **more)


def test_unit_filters_change_nothing_at_first_and_scaling_a_filter_changes_nothing_inside() -> None:
    model, (inputs, _) = tiny().eval(), next(iter(blobs(32, 5).batches(0)))
    before = model(inputs)
    with unit_filters(model, LAYERS):
        torch.testing.assert_close(model(inputs), before)
        for name in LAYERS:
            raw = raw_weight(model.get_submodule(name))
            raw.data *= torch.linspace(0.1, 7, len(raw)).view(-1, *[1] * (raw.ndim - 1))
        torch.testing.assert_close(model(inputs), before)
    torch.testing.assert_close(model(inputs), before)


def test_the_model_computes_the_same_once_the_normaliser_is_gone() -> None:
    model, (inputs, _) = tiny().eval(), next(iter(blobs(32, 5).batches(0)))
    mask = np.random.default_rng(0).random((8, 8, 3, 3)) < 0.4
    mask[2] = False
    attach(model, {"conv2": mask})
    with unit_filters(model, LAYERS):
        for name in LAYERS:
            layer = model.get_submodule(name)
            torch.nn.init.normal_(raw_weight(layer))
            layer.parametrizations["weight"][1].gain.data.uniform_(-2, 2)  # type: ignore[index, union-attr]
        before, weights = model(inputs), {name: model.get_submodule(name).weight for name in LAYERS}
    assert torch.equal(model(inputs), before)
    for name in LAYERS:
        layer = model.get_submodule(name)
        assert len(layer.parametrizations["weight"]) == 1  # type: ignore[index, arg-type]
        assert mask_module(layer) is not None
        assert torch.equal(layer.weight, weights[name])  # type: ignore[arg-type]
    assert not model.conv2.weight[torch.from_numpy(~mask)].any()
    assert raw_weight(model.conv2)[torch.from_numpy(~mask)].any()


def test_filters_without_weights_stay_zero_and_do_no_harm() -> None:
    model = tiny()
    model.conv2.weight.data[3] = 0
    model.norm2.bias.data.fill_(0.5)  # so that the filter has a gradient
    mask = np.ones((8, 8, 3, 3), bool)
    mask[5] = False
    attach(model, {"conv2": mask})
    inputs, targets = next(iter(blobs(32, 5).batches(0)))
    with unit_filters(model, LAYERS):
        F.cross_entropy(model(inputs), targets).backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        assert not raw_weight(model.conv2).grad[[3, 5]].any()  # type: ignore[index]
        assert not model.conv2.weight[[3, 5]].any()
    assert not model.conv2.weight[[3, 5]].any()


class Rounds:
    """A `settle` that remembers the zeros of every round, and checks what was masked in it."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def __call__(self, model: nn.Module) -> None:
        masks = {name: mask_module(model.get_submodule(name)) for name in LAYERS}
        now = {name: mask.mask.bool().clone() for name, mask in masks.items() if mask is not None}
        for name, mask in now.items():
            raw = raw_weight(model.get_submodule(name)).detach()
            seen = raw * (self.kept[-1][name] if self.kept else 1)
            v = seen.abs() / seen.flatten(1).norm(dim=1).view(-1, *[1] * (raw.ndim - 1))
            was = self.kept[-1][name] if self.kept else torch.ones_like(mask)
            assert v[mask].min() >= v[was & ~mask].max()
        self.kept.append(now)
        recalibrate(model, blobs(64, 1).batches(0))


def test_zeros_grow_by_the_cubic_schedule_smallest_v_first() -> None:
    rounds, model, ticks = Rounds(), tiny(), list[int]()
    for layer in (model.conv1, model.conv2):  # so that |w| alone would take whole filters first
        layer.weight.data *= torch.linspace(0.05, 2, 8).view(8, 1, 1, 1)
    found = pruned(model, pruning(), settle=rounds, tick=lambda: ticks.append(1))
    for name, size in zip(LAYERS, (72, 576, 24), strict=True):
        kept = [masks[name] for masks in rounds.kept]
        shares = [0.75 * (1 - (1 - done / 3) ** 3) for done in (1, 2, 3)]
        assert [int(mask.sum()) for mask in kept] == [math.floor(size * (1 - share) + 0.5) for share in shares]
        assert all(not (later & ~sooner).any() for sooner, later in pairwise(kept))
        assert np.array_equal(kept[-1].numpy(), found[name])
        layer = model.get_submodule(name)
        assert np.array_equal(layer.weight.detach().numpy() != 0, found[name])  # type: ignore[operator]
        assert len(layer.parametrizations["weight"]) == 1  # type: ignore[index, arg-type]
    assert len(ticks) >= 9
    assert model.training


def test_it_learns_while_it_prunes() -> None:
    model, (inputs, targets) = tiny(), next(iter(blobs(96, 1).batches(0)))
    pruned(model, pruning(epochs=24))
    recalibrate(model, blobs(96, 1).batches(0))
    assert F.cross_entropy(model(inputs), targets) < 0.8 * F.cross_entropy(tiny().eval()(inputs), targets)


def test_the_same_seeds_give_the_same_masks() -> None:
    one, other = (pruned(tiny(), pruning()) for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in LAYERS)


def test_the_least_number_of_weights_stays() -> None:
    found = pruned(tiny(), pruning(minimum=20, epochs=1))
    assert {name: int(mask.sum()) for name, mask in found.items()} == {"conv1": 20, "conv2": 144, "head": 20}


def test_layers_that_ask_for_no_zeros_are_left_alone() -> None:
    model = tiny()
    asked = {"conv2": Wanted(kind="unstructured", sparsity=0.5), "head": Wanted()}
    assert list(pruned(model, pruning(wanted=asked))) == ["conv2"]
    assert mask_module(model.head) is None


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"wanted": {"conv1": Wanted(kind="pe_block", sparsity=0.5)}},
            "'normalised' finds unstructured zeros, layer 'conv1' asks for 'pe_block'",
        ),
        ({"scope": "global"}, "has a threshold per layer, got the scope 'global': .* use the scope 'layer'"),
        ({"rounds": 0}, "needs at least one round, got 0"),
        ({"lr": 1e30}, "the loss became nan"),
    ],
)
def test_what_cannot_be_pruned_so_is_an_impossible_plan(more: dict[str, Any], text: str) -> None:
    model = tiny()
    with pytest.raises(ImpossiblePlan, match=text):
        pruned(model, pruning(**more))
    for name in LAYERS:
        layer = model.get_submodule(name)
        assert not hasattr(layer, "parametrizations") or len(layer.parametrizations["weight"]) == 1  # type: ignore[index, arg-type]
