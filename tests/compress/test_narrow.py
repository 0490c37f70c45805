"""The inventory of a cut model is what discovering it anew would give, and two cuts are one."""

import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from compress_nets import NETS, build
from hand_made import small_inventory
from torch import nn

from paretune.compress.cut import cut
from paretune.compress.groups import discover
from paretune.compress.narrow import narrow, slice_weight
from paretune.errors import ImpossiblePlan
from paretune.inventory import Buffer, Inventory, Product, Size

Kept = dict[str, tuple[int, ...]]


@cache
def known(name: str) -> Inventory:
    return discover(*build(name))


def some(inventory: Inventory, seed: int, least: int = 1) -> Kept:
    """Random kept units, for every group at least `least`."""
    chance = random.Random(seed)
    return {
        group.name: tuple(sorted(chance.sample(range(group.channels), chance.randint(least, group.channels))))
        for group in inventory.groups
        if group.channels >= least
    }


def assert_same_model(one: nn.Module, two: nn.Module) -> None:
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_narrowing_is_discovering_the_cut_model(name: str, seed: int) -> None:
    (net, example), inventory = build(name), known(name)
    kept = some(inventory, seed, least=2)
    assert narrow(inventory, kept) == discover(cut(net, inventory, kept), example)


@pytest.mark.parametrize("name", ["chain", "residual", "flat", "dense", "mlp"])
def test_a_group_with_one_unit_stays_listed(name: str) -> None:
    (net, example), inventory = build(name), known(name)
    first = inventory.groups[0].name
    left = narrow(inventory, {first: (1,)})
    seen = discover(cut(net, inventory, {first: (1,)}), example)
    assert left.layers == seen.layers
    assert left.group[first].channels == 1
    assert replace(left, groups=left.groups[1:]).groups == seen.groups


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_two_cuts_are_one(name: str, seed: int) -> None:
    net, inventory = build(name)[0], known(name)
    first = some(inventory, seed)
    left = narrow(inventory, first)
    second = some(left, seed + 100)
    both = {name: tuple(first[name][unit] for unit in second[name]) for name in first.keys() & second.keys()}
    once = {**second, **first, **both}
    assert_same_model(cut(cut(net, inventory, first), left, second), cut(net, inventory, once))
    assert narrow(left, second) == narrow(inventory, once)


@pytest.mark.parametrize("name", NETS)
def test_keeping_everything_changes_nothing(name: str) -> None:
    inventory = known(name)
    every = {group.name: tuple(range(group.channels)) for group in inventory.groups}
    assert narrow(inventory, every) == narrow(inventory, {}) == inventory


def test_what_follows_a_narrower_layer() -> None:
    left = narrow(small_inventory(), {"stem": (0, 3), "body.a": (2, 4, 5)})
    assert [layer.weight_shape for layer in left.layers] == [(2, 3, 3, 3), (2,), (3, 2, 1, 1), (3,), (5,), (10, 12)]
    assert [layer.buffers for layer in left.layers] == [0, 4, 0, 6, 0, 0]
    assert left.group["body.a"].members[2].units == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    assert left.input_shape == (3, 4, 4)


def test_sizes_lose_what_the_groups_lose() -> None:
    size = Size(dense=100, per_unit=(("stem", 7), ("body.a", 3)))
    product = Product(name="x:scores", count=Size(dense=2), rows=size, inner=size, columns=Size(dense=5))
    whole = replace(
        small_inventory(), products=(product,), steps=("stem", "stem"),
        buffers=(Buffer(numbers=size, born=0, dies=1, readers=("stem",)),),
    )  # fmt: skip
    left = narrow(whole, {"stem": (0, 3), "body.a": (2, 4, 5)})  # 2 of 4 and 3 of 6 are gone
    less = replace(size, dense=100 - 2 * 7 - 3 * 3)
    assert left.buffers == (replace(whole.buffers[0], numbers=less),)
    assert left.products == (replace(product, rows=less, inner=less),)
    assert (left.steps, left.operations) == (whole.steps, whole.operations)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_a_sliced_weight_is_the_cut_models(name: str, seed: int) -> None:
    net, inventory = build(name)[0], known(name)
    kept = some(inventory, seed)
    small = cut(net, inventory, kept)
    for layer in inventory.layers:
        if layer.affine:
            dense = net.get_parameter(f"{layer.name}.weight").detach().numpy()
            part = small.get_parameter(f"{layer.name}.weight").detach().numpy()
            np.testing.assert_array_equal(slice_weight(inventory, layer.name, dense, kept), part)


def test_a_mask_is_sliced_as_it_is() -> None:
    mask = np.arange(24).reshape(6, 4, 1, 1) % 2 == 0
    part = slice_weight(small_inventory(), "body.a", mask, {"stem": (0, 2), "body.a": (1, 5)})
    assert part.dtype == np.bool_
    assert part.shape == (2, 2, 1, 1)
    assert part.all()


def test_an_array_of_another_shape_is_refused() -> None:
    with pytest.raises(ImpossiblePlan, match=r"'body.a' has the shape \(6, 4, 1, 1\), got an array of \(6, 4\)"):
        slice_weight(small_inventory(), "body.a", np.zeros((6, 4)), {})


@pytest.mark.parametrize(
    ("kept", "match"),
    [({"stern": (0,)}, "no group is called 'stern'"), ({"stem": ()}, "would lose all"), ({"stem": (4,)}, "no unit 4")],
)
def test_an_impossible_cut_is_refused(kept: Kept, match: str) -> None:
    with pytest.raises(ImpossiblePlan, match=match):
        narrow(small_inventory(), kept)
