"""One contract for every criterion in the table, and closed forms for those that look at weights only."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compress_nets import NETS, build
from scored_nets import INVENTORY, WEIGHT, batches, net, one_layer
from torch import Tensor, nn

from paretune.compress.criteria import CRITERIA, Scores, reduced, score_model
from paretune.compress.groups import discover
from paretune.errors import ParetuneError, UnknownName
from paretune.inventory import Group, Inventory, Member
from paretune.recipe import REDUCE

ALL = tuple(CRITERIA)
LOOKING = tuple(name for name in CRITERIA if name != "random")  # the ones that look at the model
STEADY = tuple(name for name in LOOKING if name != "hessian")  # random signs fall on other weights when they move
SINGLE = tuple(name for name, criterion in CRITERIA.items() if criterion.weights)
ORDER = [3, 1, 0, 5, 4, 2]
FAR = [5 + 41**0.5, 5 + 2**0.5, 41**0.5 + 2**0.5]  # distances between the rows of WEIGHT, added


def scored(model: nn.Module, names: tuple[str, ...] = ALL, seed: int = 0) -> Scores:
    single = tuple(name for name in names if name in SINGLE)
    return score_model(model, INVENTORY, names, batches(), F.cross_entropy, seed, per_weight=single)


def permuted() -> nn.Module:
    """The net with the first group's channels in another order: the same function."""
    model = net()
    state = model.state_dict()
    for key in ("0.0.weight", "0.1.weight", "0.1.bias", "0.1.running_mean", "0.1.running_var"):
        state[key] = state[key][ORDER]
    state["2.0.weight"] = state["2.0.weight"][:, ORDER]
    model.load_state_dict(state)
    return model


def test_the_permuted_net_is_the_same_function() -> None:
    images = batches()[0][0]
    torch.testing.assert_close(permuted()(images), net()(images))


@pytest.mark.parametrize("name", STEADY)
def test_scores_follow_a_permutation_of_the_channels(name: str) -> None:
    before, after = scored(net(), (name,)), scored(permuted(), (name,))
    first, second = before.units[name], after.units[name]
    np.testing.assert_allclose(second["0.0"], first["0.0"][:, ORDER], rtol=1e-4)
    np.testing.assert_allclose(second["2.0"], first["2.0"], rtol=1e-4)
    assert len(set(first["0.0"][0])) > 3
    if name in SINGLE:
        rows, columns = before.weights[name]["0.0"][ORDER], before.weights[name]["2.0"][:, ORDER]
        np.testing.assert_allclose(after.weights[name]["0.0"], rows, rtol=1e-3, atol=1e-5 * rows.max())
        np.testing.assert_allclose(after.weights[name]["2.0"], columns, rtol=1e-3, atol=1e-5 * columns.max())


@pytest.mark.parametrize("name", ALL)
def test_scores_are_finite_not_negative_and_repeatable(name: str) -> None:
    first, again = scored(net(), (name,)), scored(net(), (name,))
    assert set(first.units[name]) == {group.name for group in INVENTORY.groups}
    for group in INVENTORY.groups:
        values = first.units[name][group.name]
        assert values.shape == (1, group.channels)
        assert values.dtype == np.float64
        assert (np.isfinite(values) & (values >= 0)).all()
        np.testing.assert_array_equal(values, again.units[name][group.name])
    for layer, weights in first.weights.get(name, {}).items():
        assert weights.shape == INVENTORY.layer[layer].weight_shape
        assert weights.dtype == np.float32
        np.testing.assert_array_equal(weights, again.weights[name][layer])
    assert set(first.weights.get(name, ())) == ({y.name for y in INVENTORY.weighted} if name in SINGLE else set())


@pytest.mark.parametrize("name", LOOKING)
def test_scores_look_at_the_model(name: str) -> None:
    assert not np.array_equal(scored(net(1), (name,)).units[name]["2.0"], scored(net(2), (name,)).units[name]["2.0"])


@pytest.mark.parametrize("name", ALL)
def test_only_what_draws_depends_on_the_seed(name: str) -> None:
    one, two = (scored(net(), (name,), seed=seed).units[name]["2.0"] for seed in (1, 2))
    assert np.array_equal(one, two) == (name in STEADY)


@pytest.mark.parametrize("name", NETS)
def test_every_coupling_can_be_scored(name: str) -> None:
    model, example = build(name)
    inventory = discover(model, example)
    data = [(torch.randn(6, *example.shape[1:]), torch.arange(6) % 3)]
    scores = score_model(model, inventory, ALL, data, F.cross_entropy, 0, per_weight=SINGLE)
    for criterion in ALL:
        shapes = {group: values.shape[1] for group, values in scores.units[criterion].items()}
        assert shapes == {group.name: group.channels for group in inventory.groups}
        assert all(len(values) >= 1 for values in scores.units[criterion].values())


@pytest.mark.parametrize("name", ALL)
def test_the_model_is_left_as_it_was(name: str) -> None:
    model = net().train()
    model[1].eval()  # type: ignore[index]
    model[0][0].weight.requires_grad_(False)  # type: ignore[index]
    modes = [module.training for module in model.modules()]
    asked = [parameter.requires_grad for parameter in model.parameters()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with torch.no_grad():
        scored(model, (name,))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["taylor", "hessian", "activation"])
def test_the_mode_comes_back_when_the_data_do_not_fit(name: str) -> None:
    model = net().train()
    data = [(torch.zeros(2, 5, 8, 8), torch.arange(2))]
    with pytest.raises((RuntimeError, ParetuneError), match="channels"):
        score_model(model, INVENTORY, [name], data, F.cross_entropy, 0)
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "power"), [("l1", 1), ("l2", 1), ("geometric_median", 1), ("bn_scale", 1), ("lamp", 0), ("random", 0)]
)
def test_scaling_the_weights_scales_the_scores(name: str, power: int) -> None:
    model = net()
    before = scored(model, (name,)).units[name]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-3)
    for group, values in scored(model, (name,)).units[name].items():
        np.testing.assert_allclose(values, 3**power * before[group], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "power"), [("taylor", 2), ("taylor_abs", 1), ("taylor_signed", 2), ("bn_taylor", 2), ("hessian", 2)]
)
def test_scaling_the_loss_scales_the_scores(name: str, power: int) -> None:
    def loud(outputs: Tensor, targets: Tensor) -> Tensor:
        return 3 * F.cross_entropy(outputs, targets)

    quiet = scored(net(), (name,)).units[name]
    found = score_model(net(), INVENTORY, [name], batches(), loud, 0).units[name]
    for group, values in found.items():
        np.testing.assert_allclose(values, 3**power * quiet[group], rtol=1e-3)


@pytest.mark.parametrize(("name", "power"), [("activation", 1), ("apoz", 0)])
def test_a_louder_norm_in_front_of_a_relu_is_read_louder(name: str, power: int) -> None:
    model = net()
    before = scored(model, (name,)).units[name]["0.0"]
    with torch.no_grad():
        for parameter in model[0][1].parameters():  # type: ignore[index]
            parameter.mul_(3)
    np.testing.assert_allclose(scored(model, (name,)).units[name]["0.0"], 3**power * before, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", [7, 0, 2]),
        ("l2", [5, 0, 2**0.5]),
        ("geometric_median", FAR),
        ("bn_scale", [0.5, 2.0, 0.0]),
        ("lamp", [1, 0, 2 / 27]),
    ],
)
def test_the_scores_of_one_layer(name: str, expected: list[float]) -> None:
    model, inventory = one_layer(WEIGHT, torch.tensor([-0.5, 2.0, 0.0]))
    found = score_model(model, inventory, [name], [], F.cross_entropy, 0).units[name]["g"]
    assert found[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", [[3, 4], [0, 0], [1, 1]]),
        ("l2", [[9, 16], [0, 0], [1, 1]]),
        ("lamp", [[9 / 25, 1], [0, 0], [1 / 27, 1 / 27]]),
    ],
)
def test_the_scores_of_the_weights_of_one_layer(name: str, expected: list[list[float]]) -> None:
    model, inventory = one_layer(WEIGHT)
    found = score_model(model, inventory, [name], [], F.cross_entropy, 0, per_weight=True).weights[name]["0"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_falls_back_without_a_norm_or_a_reader() -> None:
    model, inventory = one_layer(WEIGHT)
    names = ["bn_scale", "l2", "bn_taylor", "taylor_signed", "activation", "apoz"]
    data = [(torch.ones(4, 2), torch.arange(4) % 3)]
    found = score_model(model, inventory, names, data, F.cross_entropy, 0).units
    np.testing.assert_array_equal(found["bn_scale"]["g"], found["l2"]["g"])
    np.testing.assert_array_equal(found["bn_taylor"]["g"], found["taylor_signed"]["g"])
    np.testing.assert_array_equal(found["activation"]["g"], found["l2"]["g"])
    np.testing.assert_array_equal(found["apoz"]["g"], found["l2"]["g"])


def test_one_row_per_member() -> None:
    model, example = build("residual")
    inventory = discover(model, example)
    data = [(torch.randn(4, *example.shape[1:]), torch.arange(4) % 3)]
    found = score_model(model, inventory, ["l1", "bn_scale", "apoz", "random"], data, F.cross_entropy, 0).units
    rows = {name: len(by_group["stem.0"]) for name, by_group in found.items()}
    assert rows == {"l1": 2, "bn_scale": 2, "apoz": 3, "random": 2}
    np.testing.assert_allclose(found["l1"]["stem.0"][1], model.two[0].weight.detach().abs().sum((1, 2, 3)), rtol=1e-6)  # type: ignore[union-attr, index, operator]
    np.testing.assert_array_equal(found["random"]["stem.0"][0], found["random"]["stem.0"][1])


def test_bundled_channels_are_added() -> None:
    model, inventory = one_layer(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    members = (
        Member(layer="0", axis="out", units=((0, 2), (1, 3))),
        Member(layer="0", axis="in", units=((0,), (0,))),  # readers do not count
    )
    group = Group(name="g", channels=2, members=members)
    inventory = Inventory(layers=inventory.layers, groups=(group,), input_shape=(1,), whole={})
    found = score_model(model, inventory, ["l1", "l2"], [], F.cross_entropy, 0).units
    assert found["l1"]["g"].tolist() == [[1 + 3, 2 + 4]]
    np.testing.assert_allclose(found["l2"]["g"], [[10**0.5, 20**0.5]])


@pytest.mark.parametrize(("how", "expected"), [("mean", [2, 5]), ("sum", [4, 10]), ("max", [3, 6])])
def test_the_rows_of_a_group_are_reduced(how: str, expected: list[float]) -> None:
    assert how in REDUCE
    assert reduced(np.array([[1.0, 6.0], [3.0, 4.0]]), how).tolist() == expected


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"no reduction is called 'min'.* Known: mean, sum, max"):
        reduced(np.ones((2, 2)), "min")


def test_a_frozen_model_has_the_same_scores() -> None:
    frozen = net().requires_grad_(False)
    for name, by_group in scored(frozen).units.items():
        np.testing.assert_array_equal(by_group["2.0"], scored(net(), (name,)).units[name]["2.0"])
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_random_depends_on_seed_and_name_and_on_nothing_else() -> None:
    first, other = scored(net(1), ("random",)), scored(net(2), ("random",))
    np.testing.assert_array_equal(first.units["random"]["2.0"], other.units["random"]["2.0"])
    np.testing.assert_array_equal(first.weights["random"]["2.0"], other.weights["random"]["2.0"])
    assert not np.array_equal(first.units["random"]["0.0"][0, :4], first.units["random"]["4"][0])
    assert not np.array_equal(first.units["random"]["2.0"][0], first.weights["random"]["2.0"].ravel()[:8])


def test_an_unknown_criterion_is_refused_before_any_work() -> None:
    with pytest.raises(UnknownName, match=r"no criterion is called 'taylr'\. Did you mean 'taylor'"):
        scored(nn.Module(), ("l1", "taylr"))


@pytest.mark.parametrize("name", [name for name in ALL if name not in SINGLE])
def test_channel_criteria_are_refused_for_weights(name: str) -> None:
    with pytest.raises(
        ParetuneError, match=rf"'{name}' scores channels, not single weights; use one of: l1, l2, taylor"
    ):
        score_model(net(), INVENTORY, [name], batches(), F.cross_entropy, 0, per_weight=True)


@pytest.mark.parametrize("name", [name for name in ALL if CRITERIA[name].needs != "weights"])
def test_no_batches_is_refused_where_they_are_needed(name: str) -> None:
    with pytest.raises(ParetuneError, match=f"'{name}' needs calibration batches and got none"):
        score_model(net(), INVENTORY, [name], [], F.cross_entropy, 0)


@pytest.mark.parametrize("name", LOOKING)
def test_a_score_that_is_not_finite_is_refused(name: str) -> None:
    model = net()
    with torch.no_grad():
        model[0][0].weight[0] = float("nan")  # type: ignore[index]
        model[0][1].weight[0] = float("nan")  # type: ignore[index]
    said = rf"criterion '{name}' is not finite on group '0.0'; check the model"
    if name == "reconstruction":  # finds out while it solves, before there is a score
        said = "reads is not finite, so its compensation cannot be solved"
    with pytest.raises(ParetuneError, match=said):
        scored(model, (name,))
