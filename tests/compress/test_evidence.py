"""Scores that look at data: closed forms, finite differences and exact second derivatives."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compress_nets import build
from scored_nets import INVENTORY, WEIGHT, Batches, batches, net, one_layer
from torch import Tensor, nn

from paretune.compress.criteria import Array, score_model
from paretune.compress.evidence import Evidence
from paretune.compress.groups import discover
from paretune.compress.masks import attach
from paretune.errors import ParetuneError
from paretune.inventory import Inventory, Layer


def total(outputs: Tensor, _: Tensor) -> Tensor:
    return outputs.sum()


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("taylor", lambda products: np.mean([sum(p**2 for p in batch) for batch in products])),
        ("taylor_abs", lambda products: np.mean([sum(abs(p) for p in batch) for batch in products])),
        ("taylor_signed", lambda products: np.mean([sum(batch) ** 2 for batch in products])),
    ],
)
def test_taylor_reductions_on_one_layer(name: str, unit: Callable[[list[list[float]]], float]) -> None:
    """With the loss Σ outputs, the gradient of w[o, i] on one batch is Σ inputs[:, i]: here (1, 2), then (3, 4)."""
    model, inventory = one_layer(WEIGHT)
    data = [(torch.tensor([[1.0, 2.0]]), torch.zeros(1)), (torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.zeros(2))]
    found = score_model(model, inventory, [name], data, total, 0).units[name]["g"][0]
    expected = [unit([[1 * a, 2 * b], [3 * a, 4 * b]]) for a, b in WEIGHT.tolist()]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def slopes(model: nn.Module, tensors: list[Tensor], data: Batches, step: float = 1e-5) -> list[float]:
    """Per batch, the derivative of the loss by a common factor on `tensors`, in place and back."""
    found, before = [], [tensor.clone() for tensor in tensors]
    for inputs, targets in data:
        ends = []
        for sign in (1, -1):
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value * (1 + sign * step))
            ends.append(F.cross_entropy(model(inputs), targets).item())
        found.append((ends[0] - ends[1]) / (2 * step))
    for tensor, value in zip(tensors, before, strict=True):
        tensor.copy_(value)
    return found


@torch.no_grad()
def test_taylor_scores_are_finite_differences_of_the_loss() -> None:
    model = net().double()
    data = [(inputs.double(), targets) for inputs, targets in batches()]
    scores = score_model(
        model, INVENTORY, ["taylor_signed", "bn_taylor"], data, F.cross_entropy, 0, per_weight=("taylor", "taylor_abs")
    )
    conv, norm = model[2]  # type: ignore[index, misc]
    for unit in (0, 5):
        whole, gate = (
            slopes(model, [conv.weight[unit]], data),
            slopes(model, [norm.weight[unit], norm.bias[unit]], data),
        )
        assert scores.units["taylor_signed"]["2.0"][0, unit] == pytest.approx(np.mean(np.square(whole)), rel=1e-4)
        assert scores.units["bn_taylor"]["2.0"][0, unit] == pytest.approx(np.mean(np.square(gate)), rel=1e-4)
        one = slopes(model, [conv.weight[unit, 1, 2, 0]], data)
        assert scores.weights["taylor"]["2.0"][unit, 1, 2, 0] == pytest.approx(np.mean(np.square(one)), rel=1e-4)
        assert scores.weights["taylor_abs"]["2.0"][unit, 1, 2, 0] == pytest.approx(np.mean(np.abs(one)), rel=1e-4)


def test_hessian_is_the_squared_change_of_a_loss_without_mixed_terms() -> None:
    """With one-hot inputs and the loss Σ k outputs², removing w changes the loss by −k w²."""
    model, inventory = one_layer(WEIGHT)
    k = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # (input, output)
    data = [(torch.eye(2), k)]
    found = score_model(model, inventory, ["hessian"], data, lambda y, k: (k * y**2).sum(), 0, per_weight=True)
    np.testing.assert_allclose(found.weights["hessian"]["0"], (k.T * WEIGHT**2) ** 2, rtol=1e-5)
    np.testing.assert_allclose(found.units["hessian"]["g"][0], ((k.T * WEIGHT**2) ** 2).sum(1), rtol=1e-5)


def test_the_estimated_diagonal_nears_the_exact_one() -> None:
    model, inventory = one_layer(WEIGHT)
    inputs, targets = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3

    def loss(weight: Tensor) -> Tensor:
        return F.cross_entropy(inputs @ weight.T, targets)

    exact = torch.autograd.functional.hessian(loss, WEIGHT).reshape(6, 6).diagonal().reshape(3, 2)
    errors = []
    for probes in (1, 2000):
        evidence = Evidence(
            model=model, inventory=inventory, batches=[(inputs, targets)], loss=F.cross_entropy, seed=0, probes=probes
        )
        errors.append(float((evidence.curvature["0"] - exact).norm() / exact.norm()))
    assert errors[1] < 0.05 < errors[0]


def test_hessian_of_a_loss_that_is_linear_in_the_weights_is_first_order() -> None:
    model, inventory = one_layer(WEIGHT)
    data = [(torch.ones(1, 2), torch.zeros(1))]
    found = score_model(model, inventory, ["hessian"], data, total, 0).units["hessian"]["g"][0]
    assert found.tolist() == pytest.approx([25, 0, 2])


def by_hand(read: Tensor) -> tuple[Array, Array]:
    """Mean absolute value and share of non-zeros of each channel of (images, channels, ...)."""
    flat = read.detach().movedim(1, 0).flatten(1)
    return flat.abs().mean(1).double().numpy(), (flat != 0).double().mean(1).numpy()


@pytest.mark.parametrize("name", ["flat", "grouped", "depthwise"])
def test_activations_are_measured_where_they_are_read(name: str) -> None:
    model, example = build(name)
    inventory = discover(model, example)
    inputs = torch.randn(6, *example.shape[1:])
    data = [(inputs[:4], torch.zeros(4)), (inputs[4:], torch.zeros(2))]  # batches of unequal size
    found = score_model(model, inventory, ["activation", "apoz"], data, F.cross_entropy, 0).units
    seen = model[:4](inputs) if name == "depthwise" else model[:2](inputs)  # type: ignore[index]
    size, busy = by_hand(seen)
    if name == "grouped":  # a unit is a place in both conv groups
        size, busy = size.reshape(2, 4).mean(0), busy.reshape(2, 4).mean(0)
    np.testing.assert_allclose(found["activation"]["0.0"], size[None], rtol=1e-5)
    np.testing.assert_allclose(found["apoz"]["0.0"], busy[None], rtol=1e-6)


def test_a_masked_weight_is_looked_at_before_its_mask() -> None:
    model, plain = net(), net()
    mask = np.ones((8, 6, 3, 3), dtype=bool)
    mask[:4] = False
    attach(model, {"2.0": mask})
    found = score_model(model, INVENTORY, [], batches(), F.cross_entropy, 0, per_weight=["l1", "taylor"]).weights
    np.testing.assert_array_equal(found["l1"]["2.0"], plain.get_parameter("2.0.weight").detach().abs())
    assert not found["taylor"]["2.0"][:4].any()
    assert found["taylor"]["2.0"][4:].any()


def test_layers_that_share_a_weight_share_its_scores() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    layers = tuple(Layer(name=name, kind="linear", weight_shape=(3, 3), bias=False) for name in ("0", "2"))
    inventory = Inventory(layers=layers, groups=(), input_shape=(3,), whole={})
    data = [(torch.eye(3), torch.arange(3))]
    found = score_model(model, inventory, ["taylor", "hessian"], data, F.cross_entropy, 0, per_weight=True).weights
    for name in ("taylor", "hessian"):
        assert found[name]["0"].any()
        np.testing.assert_array_equal(found[name]["0"], found[name]["2"])


def test_evidence_is_gathered_once_for_all_that_ask() -> None:
    calls: list[int] = []

    def counted(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(targets))
        return F.cross_entropy(outputs, targets)

    names = ["taylor", "taylor_abs", "taylor_signed", "bn_taylor"]
    score_model(net(), INVENTORY, names, batches(), counted, 0, per_weight=["taylor", "l1"])
    assert calls == [8, 8]
    evidence = Evidence(model=net(), inventory=INVENTORY, batches=[], loss=counted, seed=0)
    assert [evidence.once("key", lambda: calls.append(0)) for _ in range(3)] == [None] * 3
    assert calls == [8, 8, 0]


def test_what_cannot_be_differentiated_twice_is_named() -> None:
    def apart(outputs: Tensor, _: Tensor) -> Tensor:
        return F.pdist(outputs).square().sum()

    with pytest.raises(ParetuneError, match=r"the Hessian's diagonal needs second derivatives: .*not implemented"):
        score_model(net(), INVENTORY, ["hessian"], batches(), apart, 0)
