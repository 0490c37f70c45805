"""Partitions of dense chains: as good as brute force, chained layers agree, and what cannot be cut says why."""

from itertools import combinations, product

import numpy as np
import pytest
from hand_made import small_inventory, units
from numpy.typing import NDArray
from partition_nets import drawn, tower, wanted

from paretune.compress.partition import partition, parts_of
from paretune.compress.patterns import mask_for, mask_of
from paretune.errors import ImpossiblePlan, ParetuneError
from paretune.inventory import Group, Inventory, Layer, Member
from paretune.recipe import Wanted


def halves(count: int) -> list[NDArray[np.intp]]:
    """Every way to put half of the units in part 1."""
    return [np.isin(np.arange(count), chosen).astype(np.intp) for chosen in combinations(range(count), count // 2)]


@pytest.mark.parametrize("seed", range(10))
def test_a_small_layer_is_cut_as_well_as_brute_force_can(seed: int) -> None:
    net = tower(4, 4)
    scores = drawn(net, seed)
    pattern = partition(net, wanted(2, "fc1", restarts=20), scores, seed)["fc1"]
    best = max(scores["fc1"][rows[:, None] == columns].sum() for rows, columns in product(halves(4), halves(4)))
    assert scores["fc1"][mask_of(pattern, (4, 4))].sum() == pytest.approx(best)


def test_two_chained_layers_are_cut_as_well_as_brute_force_can() -> None:
    net = tower(4, 4, 4)
    scores = drawn(net, 3)
    patterns = partition(net, wanted(2, "fc1", "fc2", restarts=20), scores, 0)
    best = max(
        scores["fc1"][b[:, None] == a].sum() + scores["fc2"][c[:, None] == b].sum()
        for a, b, c in product(halves(4), repeat=3)
    )
    assert sum(scores[name][mask_of(patterns[name], (4, 4))].sum() for name in patterns) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(5))
def test_it_keeps_more_than_every_one_of_fifty_random_partitions(seed: int) -> None:
    net = tower(16, 24, 16, pixels=2)
    scores = drawn(net, seed)
    patterns = partition(net, wanted(4, "fc1", "fc2"), scores, seed)
    found = sum(scores[name][mask_of(p, scores[name].shape)].sum() for name, p in patterns.items())
    generator = np.random.default_rng(seed)
    for _ in range(50):
        a, b, c = (generator.permutation(np.arange(width) % 4) for width in (16, 24, 16))
        masks = {"fc1": b[:, None] == np.repeat(a, 2), "fc2": c[:, None] == b}
        assert found > sum(scores[name][mask].sum() for name, mask in masks.items())


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("pixels", [1, 4])
def test_planted_blocks_are_found_through_a_whole_chain(parts: int, pixels: int) -> None:
    net, generator = tower(16, 32, 24, pixels=pixels), np.random.default_rng(7)
    a, b, c = (generator.permutation(np.arange(width) % parts) for width in (16, 32, 24))
    planted = {"fc1": b[:, None] == np.repeat(a, pixels), "fc2": c[:, None] == b}
    scores = {name: 0.3 * generator.random(mask.shape) + mask for name, mask in planted.items()}
    patterns = partition(net, wanted(parts, *planted), scores, 0)
    for name, mask in planted.items():
        np.testing.assert_array_equal(mask_of(patterns[name], mask.shape), mask)


# What comes out


def test_parts_are_equal_follow_channels_and_agree_between_layers() -> None:
    net = tower(8, 12, 16, pixels=4)
    patterns = partition(net, wanted(4, "fc1", "fc2"), drawn(net), 0)
    rows, columns = parts_of(patterns["fc1"], (12, 32))
    after, before = parts_of(patterns["fc2"], (16, 12))
    np.testing.assert_array_equal(before, rows)
    np.testing.assert_array_equal(columns.reshape(8, 4), np.repeat(columns[::4], 4).reshape(8, 4))
    for labels in (rows, columns, after):
        assert np.bincount(labels).tolist() == [labels.size // 4] * 4
    assert patterns["fc1"].nonzeros == 12 * 32 // 4
    assert patterns["fc1"].index_bytes == (12 + 32) * 2 // 8


def test_parts_are_numbered_as_they_come_so_equal_masks_are_equal_plans() -> None:
    net = tower(8, 12, 16)
    scores, asked = drawn(net), wanted(4, "fc1", "fc2")
    patterns = partition(net, asked, scores, 0)
    _, columns = parts_of(patterns["fc1"], (12, 8))
    firsts = [columns.tolist().index(part) for part in range(4)]
    assert firsts == sorted(firsts)
    assert partition(net, dict(reversed(asked.items())), scores, 0) == patterns


def test_the_same_seed_gives_the_same_and_more_restarts_never_keep_less() -> None:
    net = tower(12, 12)
    scores = drawn(net, 5)

    def kept(restarts: int) -> float:
        pattern = partition(net, wanted(3, "fc1", restarts=restarts), scores, 1)["fc1"]
        return float(scores["fc1"][mask_of(pattern, (12, 12))].sum() / scores["fc1"].sum())

    few = [kept(restarts) for restarts in (0, 1, 2, 4, 8)]
    assert few == sorted(few)
    assert kept(4) == kept(4)
    assert few[-1] > 1 / 3


def test_layers_that_share_no_group_may_have_different_parts() -> None:
    net = tower(8, 8, 9, 9)
    patterns = partition(net, {**wanted(4, "fc1"), **wanted(3, "fc3"), "fc2": Wanted()}, drawn(net), 0)
    assert {name: pattern.parts for name, pattern in patterns.items()} == {"fc1": 4, "fc3": 3}


def test_one_part_is_the_identity() -> None:
    net = tower(8, 6)
    pattern = partition(net, wanted(1, "fc1"), drawn(net), 0)["fc1"]
    assert mask_of(pattern, (6, 8)).all()
    assert pattern.index_bytes == 0


def test_several_groups_may_feed_a_layer_one_of_them_twice() -> None:
    """A concatenation [a, b, a] in front of a linear layer."""
    twice = tuple((u, u + 8) for u in range(4))
    middle = tuple((u + 4,) for u in range(4))
    groups = (
        Group(name="a", channels=4, members=(Member(layer="fc", axis="in", units=twice),)),
        Group(name="b", channels=4, members=(Member(layer="fc", axis="in", units=middle),)),
        Group(name="fc", channels=4, members=(Member(layer="fc", axis="out", units=units(4)),)),
    )
    layers = (Layer(name="fc", kind="linear", weight_shape=(4, 12), bias=False),)
    net = Inventory(layers=layers, groups=groups, input_shape=(1,), whole={})
    generator = np.random.default_rng(0)
    rows = np.array([0, 1, 0, 1])
    a, b = generator.permutation(rows), generator.permutation(rows)
    columns = np.concatenate([a, b, a])
    planted = rows[:, None] == columns
    pattern = partition(net, wanted(2, "fc", restarts=10), {"fc": planted + 0.1 * generator.random((4, 12))}, 0)["fc"]
    np.testing.assert_array_equal(mask_of(pattern, (4, 12)), planted)


def test_a_residual_layer_has_one_group_on_both_sides() -> None:
    members = (Member(layer="fc", axis="out", units=units(12)), Member(layer="fc", axis="in", units=units(12)))
    layers = (Layer(name="fc", kind="linear", weight_shape=(12, 12), bias=False),)
    groups = (Group(name="fc", channels=12, members=members),)
    net = Inventory(layers=layers, groups=groups, input_shape=(1,), whole={})
    part = np.random.default_rng(0).permutation(np.arange(12) % 3)
    planted = part[:, None] == part
    pattern = partition(net, wanted(3, "fc", restarts=20), {"fc": planted.astype(float)}, 0)["fc"]
    np.testing.assert_array_equal(mask_of(pattern, (12, 12)), planted)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_scores_of_zero_still_give_equal_parts_that_chain(parts: int) -> None:
    net = tower(8, 12, 16, pixels=2)
    scores = {name: np.zeros_like(values) for name, values in drawn(net).items()}
    patterns = partition(net, wanted(parts, "fc1", "fc2"), scores, 0)
    rows, columns = parts_of(patterns["fc1"], (12, 16))
    after, before = parts_of(patterns["fc2"], (16, 12))
    np.testing.assert_array_equal(before, rows)
    for labels in (rows, columns, after):
        assert np.bincount(labels, minlength=parts).tolist() == [labels.size // parts] * parts
    for name, shape in (("fc1", (12, 16)), ("fc2", (16, 12))):
        assert patterns[name].nonzeros == mask_of(patterns[name], shape).sum() == 12 * 16 // parts
    assert partition(net, wanted(parts, "fc1", "fc2"), scores, 0) == patterns


# What cannot be cut


def test_a_partition_is_not_made_layer_by_layer() -> None:
    with pytest.raises(ImpossiblePlan, match="found over all its layers at once"):
        mask_for(Wanted(kind="partition"), np.ones((8, 8)))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (wanted(2, "head"), "layer 'head' cannot be partitioned: its outputs are in no channel group; leave it out"),
        (wanted(2, "stem"), "layer 'stem' cannot be partitioned: it is not a linear layer; leave it out"),
        (
            wanted(3, "fc1"),
            r"'fc1' cannot be cut into 3 parts: its groups have 12 \('fc1'\) and 8 \('stem'\) channels; .* works: 2, 4",
        ),
        (wanted(5, "fc2"), r"9 \('fc2'\) and 12 \('fc1'\) channels; what works: 3, or channels kept in multiples of 5"),
        (wanted(0, "fc1"), "'fc1' cannot be cut into 0 parts"),
    ],
)
def test_what_cannot_be_cut_says_what_works(asked: dict[str, Wanted], message: str) -> None:
    net = tower(8, 12, 9)
    with pytest.raises(ImpossiblePlan, match=message):
        partition(net, asked, drawn(net), 0)


def test_widths_without_a_common_divisor_say_so() -> None:
    net = tower(8, 9)
    with pytest.raises(ImpossiblePlan, match="what works: none above 1"):
        partition(net, wanted(2, "fc1"), drawn(net), 0)


def test_chained_layers_need_the_same_number_of_parts() -> None:
    net = tower(8, 12, 16)
    asked = {**wanted(4, "fc1"), **wanted(2, "fc2")}
    with pytest.raises(ImpossiblePlan, match="'fc1' and 'fc2' share group 'fc1' but ask for 4 and 2 parts"):
        partition(net, asked, drawn(net), 0)


def test_a_layer_that_reads_the_data_cannot_be_cut() -> None:
    net = tower(8, 12)
    cut = Inventory(layers=net.layers, groups=net.groups[1:], input_shape=net.input_shape, whole=net.whole)
    with pytest.raises(ImpossiblePlan, match="'fc1' cannot be partitioned: its inputs are in no channel group"):
        partition(cut, wanted(2, "fc1"), drawn(net), 0)


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(ParetuneError, match=r"no layer is called 'heads'\. Did you mean 'head'"):
        partition(small_inventory(), wanted(2, "heads"), {}, 0)


def test_scores_that_are_not_numbers_are_a_failed_trial() -> None:
    net = tower(4, 4)
    with pytest.raises(ImpossiblePlan, match="16 of 16 scores are not numbers"):
        partition(net, wanted(2, "fc1"), {"fc1": np.full((4, 4), np.nan)}, 0)
