"""A target is met within 1 %, by widths that one common factor gives or that lie beside them."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pytest
import torch
from hand_made import small_inventory
from hypothesis import given
from hypothesis import strategies as st

from paretune.compress.groups import discover
from paretune.compress.rates import allowed_counts, kept_count
from paretune.compress.target import meet, shrinking
from paretune.costs.table import static_costs
from paretune.errors import ImpossiblePlan
from paretune.inventory import Inventory
from paretune.plan import DENSE, GroupPlan, LayerPlan, Plan
from paretune.profile import profile
from paretune.recipe import Keep
from paretune.tasks.resnet import ResNet

Cost = Callable[[Mapping[str, int]], float]


def widths(inventory: Inventory, keep: Keep = Keep()) -> dict[str, tuple[int, ...]]:  # noqa: B008
    return {group.name: allowed_counts(group.channels, keep) for group in inventory.groups}


def uncut(inventory: Inventory) -> dict[str, int]:
    return {group.name: group.channels for group in inventory.groups}


def evenly(inventory: Inventory) -> dict[str, float]:
    return {group.name: 1.0 for group in inventory.groups}


def dense_of(name: str, inventory: Inventory) -> float:
    return static_costs(profile(inventory, DENSE))[name]


def cost_of(name: str, inventory: Inventory, bits: int = 32) -> Cost:
    layers = tuple(LayerPlan(layer=layer.name, weight_bits=bits, activation_bits=bits) for layer in inventory.weighted)

    def cost(counts: Mapping[str, int]) -> float:
        groups = tuple(GroupPlan(group=group, kept=tuple(range(count))) for group, count in counts.items())
        return static_costs(profile(inventory, Plan(groups=groups, layers=layers)))[name]

    return cost


@pytest.fixture(scope="module")
def digits() -> Inventory:
    """The inventory of the digits task's network."""
    return discover(ResNet((16, 32, 64)).eval(), torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("bits", [32, 4])
@pytest.mark.parametrize("name", ["macs", "size_bytes", "bops"])
def test_the_digits_net_meets_every_budget_within_one_percent(name: str, bits: int, digits: Inventory) -> None:
    """A share of the dense model's cost, whatever part of the way to it the bits already go."""
    cost, dense = cost_of(name, digits, bits), dense_of(name, digits)
    whole = cost(uncut(digits)) / dense
    assert whole == 1 or bits == 4
    met = []
    for share in np.linspace(0.3 * whole, 0.9 * whole, 13).tolist():
        counts, reached = meet(name, share, evenly(digits), widths(digits), cost, dense)
        assert reached == cost(counts) / dense == pytest.approx(share, rel=0.01)
        met.append(reached)
    assert met == sorted(met)


@pytest.mark.parametrize(("name", "low", "high"), [("size_bytes", 0.125, 0.15), ("bops", 1 / 64, 1 / 64)])
def test_few_bits_go_towards_the_share(name: str, low: float, high: float, digits: Inventory) -> None:
    """w4a4 is 16 of 1024 of the bops and a little more than 4 of 32 of the size; what is asked below it is cut."""
    cost, dense = cost_of(name, digits, 4), dense_of(name, digits)
    assert low <= cost(uncut(digits)) / dense <= high
    asked = low / 2
    counts, reached = meet(name, asked, evenly(digits), widths(digits), cost, dense)
    assert cost(counts) / dense == reached == pytest.approx(asked, rel=0.01)
    assert all(counts[group.name] < group.channels for group in digits.groups)
    assert meet(name, 0.5, evenly(digits), widths(digits), cost, dense)[0] == uncut(digits)


def test_bits_and_widths_multiply_in_bops(digits: Inventory) -> None:
    """MACs × 4 × 4 is 1/64 of MACs × 32 × 32, so the same widths halve the MACs and meet 1/128 of the bops."""
    half, _ = meet("macs", 0.5, evenly(digits), widths(digits), cost_of("macs", digits), dense_of("macs", digits))
    counts, reached = meet(
        "bops", 0.5 / 64, evenly(digits), widths(digits), cost_of("bops", digits, 4), dense_of("bops", digits)
    )
    assert counts == half
    assert 64 * reached == pytest.approx(0.5, rel=0.01)


@given(st.floats(0.06, 1), st.floats(0.06, 1))  # fine enough for 1000 units
def test_a_plan_at_or_under_the_goal_is_left_whole(whole: float, share: float) -> None:
    """Of a dense cost of 1, one group of 1000 units costs `whole` in all, evenly."""
    counts, reached = meet(
        "macs", share, {"a": 1.0}, {"a": tuple(range(1, 1001))}, lambda counts: whole * counts["a"] / 1000, 1.0
    )
    assert reached == whole * counts["a"] / 1000
    if whole <= share:
        assert counts == {"a": 1000}
    else:
        assert reached == pytest.approx(share, rel=0.01)


def test_widths_stay_near_the_common_factor(digits: Inventory) -> None:
    counts, _ = meet("macs", 0.5, evenly(digits), widths(digits), cost_of("macs", digits), dense_of("macs", digits))
    left = [counts[group.name] / group.channels for group in digits.groups]
    assert max(left) - min(left) <= 3 / 16  # one unit of the narrowest group is a sixteenth


@pytest.mark.parametrize("name", static_costs(()))
def test_every_static_cost_can_be_a_target_and_the_whole_of_it_removes_nothing(name: str) -> None:
    there = small_inventory()
    if name == "activation_bytes":  # nobody watched a forward of this net
        with pytest.raises(ImpossiblePlan, match="target activation_bytes: the dense model's is 0"):
            meet(name, 1.0, evenly(there), widths(there), cost_of(name, there), dense_of(name, there))
        return
    found = meet(name, 1.0, evenly(there), widths(there), cost_of(name, there), dense_of(name, there))
    assert found == ({"stem": 4, "body.a": 6}, 1.0)


@pytest.mark.parametrize("name", ["params", "macs", "size_bytes"])
def test_every_share_that_a_common_factor_gives_is_met_exactly(name: str) -> None:
    there = small_inventory()
    cost, dense = cost_of(name, there), dense_of(name, there)
    for factor in np.linspace(0, 0.99, 34).tolist():
        given_widths = {group.name: kept_count(group.channels, factor) for group in there.groups}
        share = cost(given_widths) / dense
        assert meet(name, share, evenly(there), widths(there), cost, dense)[1] == pytest.approx(share, rel=1e-12)


@given(st.floats(0.02, 1))
def test_what_is_called_too_coarse_is_met_by_none_of_the_even_widths(share: float) -> None:
    there = small_inventory()
    cost, dense = cost_of("params", there), dense_of("params", there)
    even = {tuple(kept_count(group.channels, step / 100) for group in there.groups) for step in range(100)}
    shares = [cost({"stem": stem, "body.a": body}) / dense for stem, body in even]
    near = [met for met in shares if abs(met - share) <= 0.0099 * share]
    try:
        reached = meet("params", share, evenly(there), widths(there), cost, dense)[1]
    except ImpossiblePlan:
        assert near == []
    else:
        assert abs(reached - share) <= 0.01 * share


@pytest.mark.parametrize("bits", [32, 4])
def test_out_of_reach_says_what_is_in_reach(bits: int, digits: Inventory) -> None:
    cost, dense = cost_of("size_bytes", digits, bits), dense_of("size_bytes", digits)
    least, most = cost({group.name: 1 for group in digits.groups}) / dense, cost(uncut(digits)) / dense
    assert most == 1 or most < 0.2
    reach = rf"between {least:.3g} and {most:.3g} of dense is reachable"
    with pytest.raises(ImpossiblePlan, match=rf"size_bytes 0\.0001 cannot be met: {reach}"):
        meet("size_bytes", 0.0001, evenly(digits), widths(digits), cost, dense)


@pytest.mark.parametrize(("dense", "share", "near"), [(32, 0.6, 0.5), (320, 0.06, 0.05)])
def test_too_coarse_widths_name_the_nearest_share_and_a_remedy(dense: float, share: float, near: float) -> None:
    def meet_it(share: float) -> float:
        return meet("macs", share, {"a": 1.0}, {"a": (16, 32)}, lambda counts: counts["a"], dense)[1]

    found = rf"{near} of dense is the nearest found; ask for that share or another, or for a smaller keep\.multiple"
    with pytest.raises(ImpossiblePlan, match=rf"macs {share} cannot be met within 1 %.* {found}"):
        meet_it(share)
    assert meet_it(near) == near


def test_nothing_to_scale_reaches_the_dense_model_only() -> None:
    with pytest.raises(ImpossiblePlan, match="between 1 and 1 of dense is reachable"):
        meet("macs", 0.9, {"a": 0.0}, {"a": tuple(range(1, 99))}, lambda counts: counts["a"], 98)


def test_a_plan_is_priced_a_logarithm_of_times_where_widths_are_fine() -> None:
    asked: list[int] = []

    def cost(counts: Mapping[str, int]) -> float:
        asked.append(counts["a"])
        return counts["a"]

    meet("macs", 0.3, {"a": 1.0}, {"a": tuple(range(1, 1025))}, cost, 1024)
    assert len(asked) == len(set(asked)) <= 2 + 10


def test_under_the_goal_is_preferred() -> None:
    """Of 1000 even units 49.96 % cannot be met exactly: 499 is under the goal and 500 nearer to it."""
    counts, reached = meet("macs", 0.4996, {"a": 1.0}, {"a": tuple(range(1, 1001))}, lambda counts: counts["a"], 1000)
    assert (counts, reached) == ({"a": 499}, 0.499)


@pytest.mark.parametrize("keep", [Keep(multiple=8), Keep(minimum=12, multiple=4)])
def test_multiples_are_kept_while_a_target_is_met(keep: Keep, digits: Inventory) -> None:
    cost, dense = cost_of("params", digits), dense_of("params", digits)
    counts, reached = meet("params", 0.5, evenly(digits), widths(digits, keep), cost, dense)
    assert reached == pytest.approx(0.5, rel=0.01)
    for group in digits.groups:
        assert counts[group.name] in allowed_counts(group.channels, keep)
        assert counts[group.name] % keep.multiple == 0


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from([0.0, 0.1, 0.3, 1.0])), min_size=1, max_size=5))
def test_the_path_goes_one_drop_at_a_time_from_dense_to_one_unit(groups: list[tuple[int, float]]) -> None:
    path = shrinking([range(1, channels + 1) for channels, _ in groups], [ratio for _, ratio in groups])
    assert path[0] == tuple(channels - 1 for channels, _ in groups)
    assert path[-1] == tuple(channels - 1 if ratio == 0 else 0 for channels, ratio in groups)
    for wide, narrow in pairwise(path):
        assert sorted(a - b for a, b in zip(wide, narrow, strict=True)) == [0] * (len(groups) - 1) + [1]


@given(st.lists(st.tuples(st.integers(2, 40), st.floats(0.1, 1)), min_size=1, max_size=4), st.floats(0, 0.99))
def test_the_counts_of_any_common_factor_lie_on_the_path(groups: list[tuple[int, float]], factor: float) -> None:
    path = shrinking([range(1, channels + 1) for channels, _ in groups], [ratio for _, ratio in groups])
    assert tuple(kept_count(channels, factor * ratio) - 1 for channels, ratio in groups) in path
