"""One contract for every criterion in the table, and closed forms for each."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compress_nets import build, chain, randomise
from hand_made import units
from torch import Tensor, nn

from paretune.compress.criteria import CRITERIA, Scores, score_groups
from paretune.compress.groups import discover
from paretune.errors import ParetuneError, UnknownName
from paretune.inventory import Group, Inventory, Layer, Member

ALL = tuple(CRITERIA)
LOOKING = tuple(name for name in CRITERIA if name != "random")  # the ones that look at the model


def net(seed: int = 0) -> nn.Module:
    """conv-norm-conv-norm-conv-linear; groups "0.0" (6), "2.0" (8) and "4" (4)."""
    torch.manual_seed(seed)
    return randomise(chain()).eval()


def batches(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 3) for _ in range(2)]


INVENTORY = discover(net(), torch.randn(1, 3, 8, 8))


def scored(model: nn.Module, names: tuple[str, ...] = ALL, seed: int = 0, inventory: Inventory = INVENTORY) -> Scores:
    return score_groups(model, inventory, names, batches(), F.cross_entropy, seed)


def permuted(order: list[int]) -> nn.Module:
    """The net with the first group's channels in another order: the same function."""
    model = net()
    state = model.state_dict()
    for key in ("0.0.weight", "0.1.weight", "0.1.bias", "0.1.running_mean", "0.1.running_var"):
        state[key] = state[key][order]
    state["2.0.weight"] = state["2.0.weight"][:, order]
    model.load_state_dict(state)
    return model


def test_the_permuted_net_is_the_same_function() -> None:
    images = batches()[0][0]
    torch.testing.assert_close(permuted([3, 1, 0, 5, 4, 2])(images), net()(images))


@pytest.mark.parametrize("name", LOOKING)
def test_scores_follow_a_permutation_of_the_channels(name: str) -> None:
    order = [3, 1, 0, 5, 4, 2]
    before, after = scored(net())[name], scored(permuted(order))[name]
    np.testing.assert_allclose(after["0.0"], before["0.0"][order], rtol=1e-4)
    np.testing.assert_allclose(after["2.0"], before["2.0"], rtol=1e-4)
    assert len(set(before["0.0"])) == 6


@pytest.mark.parametrize("name", ALL)
def test_scores_are_finite_not_negative_one_per_unit_and_repeatable(name: str) -> None:
    first, again = scored(net())[name], scored(net())[name]
    assert set(first) == {group.name for group in INVENTORY.groups}
    for group in INVENTORY.groups:
        values = first[group.name]
        assert values.shape == (group.channels,)
        assert np.isfinite(values).all()
        assert (values >= 0).all()
        np.testing.assert_array_equal(values, again[group.name])


@pytest.mark.parametrize("name", LOOKING)
def test_scores_look_at_the_model_and_not_at_the_seed(name: str) -> None:
    assert not np.array_equal(scored(net(1))[name]["2.0"], scored(net(2))[name]["2.0"])
    np.testing.assert_array_equal(scored(net(), seed=1)[name]["2.0"], scored(net(), seed=2)[name]["2.0"])


@pytest.mark.parametrize("name", ["grouped", "residual", "flat", "depthwise", "excited"])
@pytest.mark.parametrize("criterion", ALL)
def test_every_coupling_can_be_scored(criterion: str, name: str) -> None:
    model, example = build(name)
    inventory = discover(model, example)
    images = torch.randn(6, *example.shape[1:])
    scores = score_groups(model, inventory, [criterion], [(images, torch.arange(6) % 3)], F.cross_entropy, 0)
    assert {group: len(values) for group, values in scores[criterion].items()} == {
        group.name: group.channels for group in inventory.groups
    }


@pytest.mark.parametrize("name", ALL)
def test_the_model_is_left_as_it_was(name: str) -> None:
    model = net().train()
    model[1].eval()  # type: ignore[index]
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scored(model, (name,))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 1), ("bn_scale", 1)])
def test_scaling_the_weights_scales_the_scores(name: str, power: int) -> None:
    model = net()
    before = scored(model)[name]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-3)
    for group, values in scored(model)[name].items():
        np.testing.assert_allclose(values, 3**power * before[group], rtol=1e-5)


def test_scaling_the_loss_scales_taylor_by_the_square() -> None:
    def loud(outputs: Tensor, targets: Tensor) -> Tensor:
        return 3 * F.cross_entropy(outputs, targets)

    quiet = scored(net(), ("taylor",))["taylor"]["0.0"]
    found = score_groups(net(), INVENTORY, ["taylor"], batches(), loud, 0)["taylor"]["0.0"]
    np.testing.assert_allclose(found, 9 * quiet, rtol=1e-4)


def one_layer(weight: Tensor, scale: Tensor | None = None) -> tuple[nn.Module, Inventory]:
    """A linear layer with this weight, and a batch norm with this scale behind it."""
    outputs, inputs = weight.shape
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs))
    layers = [Layer(name="0", kind="linear", weight_shape=(outputs, inputs), bias=False)]
    model[0].weight.data = weight
    names = ["0"]
    if scale is not None:
        layers.append(Layer(name="1", kind="norm", weight_shape=(outputs,), bias=True))
        model[1].weight.data = scale
        names.append("1")
    members = tuple(Member(layer=name, axis="out", units=units(outputs)) for name in names)
    group = Group(name="g", channels=outputs, members=members)
    return model.eval(), Inventory(layers=tuple(layers), groups=(group,), input_shape=(inputs,), whole={})


WEIGHT = torch.tensor([[3.0, -4.0], [0.0, 0.0], [-1.0, 1.0]])


@pytest.mark.parametrize(
    ("name", "expected"), [("l1", [7, 0, 2]), ("l2", [5, 0, 2**0.5]), ("bn_scale", [0.5, 2.0, 0.0])]
)
def test_the_scores_of_one_layer(name: str, expected: list[float]) -> None:
    model, inventory = one_layer(WEIGHT, torch.tensor([-0.5, 2.0, 0.0]))
    found = score_groups(model, inventory, [name], [], F.cross_entropy, 0)[name]["g"]
    assert found.tolist() == pytest.approx(expected)


def test_bn_scale_without_a_norm_is_l2() -> None:
    model, inventory = one_layer(WEIGHT)
    scores = score_groups(model, inventory, ["bn_scale", "l2"], [], F.cross_entropy, 0)
    np.testing.assert_array_equal(scores["bn_scale"]["g"], scores["l2"]["g"])


def test_taylor_is_the_sum_of_squared_products_of_mean_gradient_and_weight() -> None:
    """With the loss Σ outputs, the gradient of w[o, i] is the mean over the batches of Σ inputs[:, i]."""
    model, inventory = one_layer(WEIGHT)
    data = [(torch.tensor([[1.0, 2.0]]), torch.zeros(1)), (torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.zeros(2))]
    gradient = ((1 + 3) / 2, (2 + 4) / 2)

    def total(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs.sum() * (1 + model[1].eps) ** 0.5  # type: ignore[index, operator]

    found = score_groups(model, inventory, ["taylor"], data, total, 0)["taylor"]["g"]
    expected = [sum((g * w) ** 2 for g, w in zip(gradient, row, strict=True)) for row in WEIGHT.tolist()]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_coupled_layers_are_averaged_and_bundled_channels_added() -> None:
    model = nn.ModuleDict({"a": nn.Linear(1, 4, bias=False), "b": nn.Linear(1, 2, bias=False)})
    model["a"].weight.data = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    model["b"].weight.data = torch.tensor([[10.0], [20.0]])
    layers = (
        Layer(name="a", kind="linear", weight_shape=(4, 1), bias=False),
        Layer(name="b", kind="linear", weight_shape=(2, 1), bias=False),
    )
    members = (
        Member(layer="a", axis="out", units=((0, 2), (1, 3))),
        Member(layer="b", axis="out", units=((0,), (1,))),
        Member(layer="b", axis="in", units=((0,), (0,))),  # readers do not count
    )
    group = Group(name="g", channels=2, members=members)
    inventory = Inventory(layers=layers, groups=(group,), input_shape=(1,), whole={})
    scores = score_groups(model, inventory, ["l1"], [], F.cross_entropy, 0)["l1"]["g"]
    assert scores.tolist() == [(1 + 3 + 10) / 2, (2 + 4 + 20) / 2]


def test_taylor_works_on_a_frozen_model() -> None:
    frozen = net().requires_grad_(False)
    np.testing.assert_array_equal(scored(frozen)["taylor"]["2.0"], scored(net())["taylor"]["2.0"])
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_random_depends_on_seed_and_group_and_on_nothing_else() -> None:
    first = scored(net(1))["random"]
    np.testing.assert_array_equal(first["2.0"], scored(net(2))["random"]["2.0"])
    assert not np.array_equal(first["2.0"], scored(net(1), seed=1)["random"]["2.0"])
    assert not np.array_equal(first["0.0"][:4], first["4"][:4])


def test_an_unknown_criterion_is_refused_before_any_work() -> None:
    with pytest.raises(UnknownName, match=r"no criterion is called 'taylr'\. Did you mean 'taylor'"):
        scored(nn.Module(), ("l1", "taylr"))


@pytest.mark.parametrize("name", LOOKING)
def test_a_score_that_is_not_finite_is_refused(name: str) -> None:
    model = net()
    with torch.no_grad():
        model[0][0].weight[0] = float("nan")  # type: ignore[index]
        model[0][1].weight[0] = float("nan")  # type: ignore[index]
    with pytest.raises(ParetuneError, match=rf"criterion '{name}' is not finite on group '0.0'; check the model"):
        scored(model, (name,))
