"""From shares to counts: exact, inside the keep rules, the best units stay and ties are stable."""

from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hand_made import small_inventory
from hypothesis import given
from hypothesis import strategies as st

from paretune.compress.blend import rank
from paretune.compress.knee import GRID
from paretune.compress.rates import (
    RATES,
    Answer,
    Ground,
    Kept,
    allowed_counts,
    apply_keep,
    choose_units,
    kept_count,
    kept_units,
)
from paretune.costs.table import COSTS
from paretune.curve import Curve
from paretune.errors import ImpossiblePlan, UnknownName
from paretune.inventory import Group, Inventory, Layer, Member
from paretune.plan import DENSE, GroupPlan, Plan
from paretune.profile import profile
from paretune.recipe import Keep, Rate

WIDTHS = (12, 40, 64, 40)
NAMES = tuple(f"layer{index}" for index in range(len(WIDTHS)))
KEEPS = [Keep(), Keep(minimum=5), Keep(multiple=8), Keep(minimum=3, multiple=16)]
keeps = st.builds(Keep, minimum=st.integers(1, 20), multiple=st.sampled_from([1, 2, 3, 8, 16]))


def chain(widths: tuple[int, ...] = WIDTHS) -> Inventory:
    """1×1 convolutions in a row, each at half the positions of the one before, and a linear head."""
    outs = (*widths, 10)
    layers = [
        Layer(name=f"layer{i}", kind="conv", weight_shape=(out, ins, 1, 1), bias=False, positions=256 >> i)
        for i, (ins, out) in enumerate(zip((3, *outs), outs, strict=False))
    ]

    def group(index: int) -> Group:
        units = tuple((unit,) for unit in range(widths[index]))
        sides = (Member(layer=f"layer{index}", axis="out", units=units),)
        return Group(
            name=f"layer{index}",
            channels=widths[index],
            members=(*sides, Member(layer=f"layer{index + 1}", axis="in", units=units)),
        )

    groups = tuple(group(index) for index in range(len(widths)))
    return Inventory(layers=tuple(layers), groups=groups, input_shape=(3, 16, 16), whole={})


def curve(group: str, middle: float, *, chance: float = 0.9) -> Curve:
    """A sigmoid from no error to chance around the ratio `middle`."""
    errors = chance / (1 + np.exp(-30 * (np.array(GRID) - middle)))
    return Curve(group=group, criterion="l1", ratios=GRID, errors=tuple(errors.tolist()), chance=chance)


def ground(inventory: Inventory | None = None, **changes: object) -> Ground:
    """A ground whose error is the mean share of units lost, and whose group k has its knee near 0.4 + 0.1 k."""
    there = inventory or chain()
    sizes = {group.name: group.channels for group in there.groups}
    random = np.random.default_rng(7)

    def cost(name: str, kept: Kept) -> float:
        groups = tuple(GroupPlan(group=group, kept=units) for group, units in kept.items())
        return COSTS[name].count(profile(there, Plan(groups=groups)), None)

    made = Ground(
        inventory=there,
        units={name: random.random(size) for name, size in sizes.items()},
        ratios={name: 0.1 + 0.2 * (place % 4) for place, name in enumerate(sizes)},
        keep=Keep(),
        cost=cost,
        dense=lambda name: COSTS[name].count(profile(there, DENSE), None),
        curves=lambda _: {name: curve(name, 0.4 + 0.1 * place) for place, name in enumerate(sizes)},
        judge=lambda kept: float(sum(1 - len(units) / sizes[name] for name, units in kept.items())) / len(sizes),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def rule(name: str, there: Ground, **numbers: object) -> Answer:
    return RATES[name](Rate(rule=name, **numbers), there)  # type: ignore[arg-type]


def gone(answer: Answer, there: Ground) -> int:
    return sum(group.channels - answer.counts[group.name] for group in there.inventory.groups)


# From a share to a count


@given(st.integers(1, 2048), st.integers(0, 99))
def test_the_count_is_exact_for_hundredths(channels: int, percent: int) -> None:
    """channels × share, rounded half up, in whole-number arithmetic: no noise of binary fractions."""
    removed = floor(Fraction(channels * percent, 100) + Fraction(1, 2))
    assert kept_count(channels, percent / 100) == max(1, channels - removed)


@pytest.mark.parametrize(
    ("channels", "ratio", "left"), [(10, 0.0, 10), (10, 0.35, 6), (45, 0.7, 13), (8, 0.99, 1), (1, 0.9, 1)]
)
def test_counts_by_hand(channels: int, ratio: float, left: int) -> None:
    assert kept_count(channels, ratio) == left


@given(st.integers(1, 512), st.floats(0, 0.999), st.floats(0, 0.999))
def test_removing_more_never_leaves_more(channels: int, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert 1 <= kept_count(channels, more) <= kept_count(channels, less) <= channels


# The keep rules


@given(st.integers(1, 200), st.integers(1, 200), keeps)
def test_a_kept_count_is_allowed_and_stays_when_asked_again(count: int, channels: int, keep: Keep) -> None:
    there = apply_keep(count, channels, keep)
    assert min(keep.minimum, channels) <= there <= channels
    assert there % keep.multiple == 0 or there == channels
    assert there == apply_keep(there, channels, keep)
    assert there in allowed_counts(channels, keep)


@given(st.integers(1, 100), keeps)
def test_a_kept_count_never_falls_while_the_asked_one_rises(channels: int, keep: Keep) -> None:
    counts = [apply_keep(count, channels, keep) for count in range(1, channels + 1)]
    assert counts == sorted(counts)
    assert counts[-1] == channels
    assert allowed_counts(channels, keep) == tuple(sorted(set(counts)))


@pytest.mark.parametrize(
    ("count", "channels", "keep", "left"),
    [
        (3, 30, Keep(), 3),
        (3, 30, Keep(minimum=5), 5),
        (3, 4, Keep(minimum=5), 4),
        (12, 30, Keep(multiple=8), 16),  # half up
        (11, 30, Keep(multiple=8), 8),
        (1, 30, Keep(multiple=8), 8),
        (29, 30, Keep(multiple=8), 30),
        (30, 30, Keep(multiple=8), 30),
        (2, 6, Keep(multiple=8), 6),  # no multiple fits
        (1, 30, Keep(minimum=9, multiple=8), 16),
    ],
)
def test_keep_rules_by_hand(count: int, channels: int, keep: Keep, left: int) -> None:
    assert apply_keep(count, channels, keep) == left


# Which units


def test_the_best_units_stay_in_ascending_order_and_ties_keep_the_first() -> None:
    assert choose_units(np.array([0.3, 0.1, 0.4, 0.2]), 2) == (0, 2)
    assert choose_units(np.array([1.0, 5, 1, 1, 5, 1]), 3) == (0, 1, 4)
    assert all(type(unit) is int for unit in choose_units(np.ones(3), 2))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.data())
def test_no_unit_that_stays_scores_less_than_one_that_leaves(scores: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(scores)))
    kept = choose_units(np.array(scores, dtype=float), count)
    left = set(range(len(scores))) - set(kept)
    assert len(set(kept)) == count
    assert list(kept) == sorted(kept)
    assert all((scores[one], -one) > (scores[other], -other) for one in kept for other in left)


def test_a_group_that_loses_nothing_is_not_named() -> None:
    units = {"a": np.arange(3.0), "b": np.arange(2.0)}
    assert kept_units({"a": 2, "b": 2}, units) == {"a": (1, 2)}


# What holds for every rule

NOTHING = {
    "uniform": {"ratio": 0.0},
    "per_layer": {},
    "global": {"ratio": 0.0},
    "knee": {"drop": 0.0},
    "binary": {"tolerance": 0.0},
    "target": {"share": 1.0},
}
SOMETHING: dict[str, dict[str, object]] = {
    "uniform": {"ratio": 0.37},
    "per_layer": {},
    "global": {"ratio": 0.37, "cost_power": 0.5},
    "knee": {},
    "binary": {"tolerance": 0.1, "step": 0.5},
    "target": {"share": 0.5, "cost": "params"},
}


@pytest.mark.parametrize("name", RATES)
def test_removing_nothing_is_the_identity(name: str) -> None:
    there = ground()
    if name == "per_layer":
        there = replace(there, ratios=dict.fromkeys(NAMES, 0.0))
    assert rule(name, there, **NOTHING[name]).counts == dict(zip(NAMES, WIDTHS, strict=True))


@pytest.mark.parametrize("keep", KEEPS, ids=str)
@pytest.mark.parametrize("name", RATES)
def test_every_rule_keeps_to_the_keep_rules(name: str, keep: Keep) -> None:
    there = ground(chain((16, 48, 64, 32)), keep=keep)
    half = kept_units(rule("uniform", there, ratio=0.5).counts, there.units)
    known = {"share": there.cost("macs", half) / there.cost("macs", {})}  # others may be out of reach in multiples
    counts = rule(name, there, **(known if name == "target" else SOMETHING[name])).counts
    assert list(counts) == list(NAMES)
    assert sum(counts.values()) < sum((16, 48, 64, 32))
    for group in there.inventory.groups:
        assert counts[group.name] in allowed_counts(group.channels, keep)
        assert type(counts[group.name]) is int


@pytest.mark.parametrize("name", RATES)
def test_the_same_question_has_the_same_answer(name: str) -> None:
    assert rule(name, ground(), **SOMETHING[name]) == rule(name, ground(), **SOMETHING[name])


# uniform, per_layer


def test_uniform_and_per_layer_by_hand() -> None:
    there = ground(small_inventory(), ratios={"stem": 0.75, "body.a": 0.5})
    assert rule("uniform", there, ratio=0.25).counts == {"stem": 3, "body.a": 4}
    assert rule("uniform", there, ratio=0.999).counts == {"stem": 1, "body.a": 1}
    assert rule("per_layer", there, ratio=0.25) == Answer(counts={"stem": 1, "body.a": 3})


# global


@given(st.floats(0, 0.9), st.integers(0, 4), st.floats(0, 2))
def test_the_global_count_is_exact(ratio: float, seed: int, power: float) -> None:
    random = np.random.default_rng(seed)
    units = {name: random.gamma(1, size=width) for name, width in zip(NAMES, WIDTHS, strict=True)}
    there = ground(units=units)
    wanted = floor(round(sum(WIDTHS) * ratio, 9) + 0.5)
    assert gone(rule("global", there, ratio=ratio, cost_power=power), there) == wanted


def test_one_threshold_separates_what_stays_from_what_leaves() -> None:
    there = ground()
    counts = rule("global", there, ratio=0.4).counts
    fair = {name: np.sort(scores / scores.mean()) for name, scores in there.units.items()}
    left = [score for name in NAMES for score in fair[name][: -counts[name]]]
    stay = [score for name in NAMES for score in fair[name][-counts[name] :]]
    assert max(left) <= min(stay)


def test_a_groups_scale_does_not_count_but_its_spread_does() -> None:
    even, uneven = np.array([1.0, 1.1, 0.9, 1.0]), np.array([5.0, 0.1, 0.2, 5, 0.1, 0.1])
    for scale in (1e-6, 1.0, 1e6):
        there = ground(small_inventory(), units={"stem": even * scale, "body.a": uneven})
        assert rule("global", there, ratio=0.4).counts == {"stem": 4, "body.a": 2}


def test_cost_power_takes_more_from_the_dear_group() -> None:
    there = ground(chain((40, 40, 40)))  # the first convolutions have the most positions
    removed = []
    for power in (0.0, 0.5, 2.0):
        answer = rule("global", there, ratio=0.3, cost_power=power)
        removed.append(40 - answer.counts["layer1"])
        assert gone(answer, there) == 36
    assert removed == sorted(removed)
    assert removed[0] < removed[-1]


def test_global_keeps_the_minimum_and_says_what_could_not_leave() -> None:
    there = ground(keep=Keep(minimum=30))
    answer = rule("global", there, ratio=0.9)
    assert answer.counts == {"layer0": 12, "layer1": 30, "layer2": 30, "layer3": 30}
    assert answer.notes == ("global: 86 of 140 units stay because every group keeps 30",)


def test_equal_and_zero_scores_still_give_the_exact_count() -> None:
    there = ground(units={name: np.zeros(width) for name, width in zip(NAMES, WIDTHS, strict=True)})
    assert gone(rule("global", there, ratio=0.5, cost_power=1.0), there) == 78


# knee


def test_the_knee_rule_reads_each_group_off_its_own_curve() -> None:
    there = ground(chain((100, 100, 100)))
    counts = [rule("knee", there).counts[name] for name in NAMES[:3]]
    assert counts == sorted(counts, reverse=True)
    assert all(100 * (1 - 0.4 - 0.1 * place) < count < 90 for place, count in enumerate(counts))


def test_several_curves_of_one_group_share_the_smallest_rate() -> None:
    def several(_: str) -> dict[str, Curve]:
        return {"one": curve("stem", 0.8), "other": curve("stem", 0.4), "body": curve("body.a", 0.8)}

    there = ground(small_inventory(), units={"stem": np.arange(4.0), "body.a": np.arange(6.0)})
    assert rule("knee", replace(there, curves=several)).counts["stem"] == 3
    only = replace(there, curves=lambda _: {"s": curve("stem", 0.8), "b": curve("body.a", 0.8)})
    assert rule("knee", only).counts["stem"] < 3


def test_multiples_never_remove_more_than_the_guard_allows() -> None:
    free = ground(chain((20, 20)))
    rounded = rule("knee", replace(free, keep=Keep(multiple=16))).counts
    assert all(rounded[name] >= count for name, count in rule("knee", free).counts.items())


def test_one_flat_curve_is_a_note_and_all_flat_curves_are_an_impossible_plan() -> None:
    flat = replace(curve("stem", 0.5), errors=(0.1,) * len(GRID))
    there = ground(small_inventory(), curves=lambda _: {"stem": flat, "body.a": curve("body.a", 0.5)})
    answer = rule("knee", there)
    assert answer.counts["stem"] == 1
    assert answer.notes[0] == "the curve of group 'stem' is flat: it has no knee: guard 0.95"
    with pytest.raises(ImpossiblePlan, match=r"no group has a knee.*another rate\.rule"):
        rule("knee", replace(there, curves=lambda _: {"stem": flat, "body.a": replace(flat, group="body.a")}))


# binary and target, as rules; their own laws are in their own files


def test_binary_judges_the_best_units_and_says_what_it_took() -> None:
    asked: list[Kept] = []
    there = ground(small_inventory())

    def judge(kept: Kept) -> float:
        asked.append(kept)
        return there.judge(kept)

    answer = rule("binary", replace(there, judge=judge), tolerance=0.3, step=0.9, passes=1)
    assert answer.counts == {"stem": 2, "body.a": 6}  # half of one group is a quarter of the error
    assert asked[0] == {}
    assert all(kept["stem"] == choose_units(there.units["stem"], len(kept["stem"])) for kept in asked if "stem" in kept)
    assert answer.notes == (f"binary: error 0 to 0.25 in 1 of 1 passes and {len(asked)} evaluations",)


@pytest.mark.parametrize("of", [name for name in RATES if name != "target"])
def test_a_target_scales_every_other_rule(of: str) -> None:
    there = ground()
    answer = rule("target", there, of=of, cost="macs", share=0.5, tolerance=0.2, step=0.5)
    met = there.cost("macs", kept_units(answer.counts, there.units)) / there.cost("macs", {})
    assert met == pytest.approx(0.5, rel=0.01)
    assert answer.notes[-1] == f"target macs 0.5: {met:.4g} of dense"


@pytest.mark.parametrize(("share", "left"), [(1.0, 1.0), (0.25, 1.0), (0.2, 0.8), (0.1, 0.4)])
def test_a_target_is_a_share_of_the_dense_model_not_of_the_uncut_plan(share: float, left: float) -> None:
    """Bits that make everything cost a quarter: an even cut has to bring what is missing, and nothing else."""
    there = ground(chain((1000,)))
    quarter = replace(there, cost=lambda name, kept: there.cost(name, kept) / 4)
    answer = rule("target", quarter, cost="macs", share=share)
    met = there.cost("macs", kept_units(answer.counts, there.units)) / there.cost("macs", {}) / 4
    assert met == pytest.approx(left / 4, rel=0.01)
    assert answer.counts["layer0"] == pytest.approx(1000 * left, rel=0.01)
    alone = ", by bits alone" if left == 1 else ""
    assert answer.notes == (f"target macs {share:g}: {met:.4g} of dense{alone}",)


def test_a_target_that_a_float_plan_meets_whole_is_not_met_by_bits() -> None:
    assert rule("target", ground(), cost="macs", share=1.0).notes == ("target macs 1: 1 of dense",)


def test_a_blend_by_rank_makes_one_threshold_nearly_uniform() -> None:
    """Ranks spread alike in every group: each loses the share asked for, to a unit."""
    random = np.random.default_rng(3)
    spread = (50.0, 0.1, 50.0, 0.1)  # small: a few units have it all
    raw = {name: random.gamma(s, size=width) for name, width, s in zip(NAMES, WIDTHS, spread, strict=True)}
    ranks = {name: rank(scores) for name, scores in raw.items()}
    even = rule("uniform", ground(), ratio=0.5).counts
    by_raw, by_rank = (rule("global", ground(units=units), ratio=0.5).counts for units in (raw, ranks))
    assert max(abs(by_rank[name] - even[name]) for name in NAMES) <= 1
    assert max(abs(by_raw[name] - even[name]) for name in NAMES) > 5


def test_a_target_of_itself_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match=r"no rule that a target can scale is called 'target'.*Known: uniform"):
        rule("target", ground(), of="target")


def test_a_target_keeps_the_proportions_of_per_layer() -> None:
    there = ground(chain((100, 100, 100)), ratios={"layer0": 0.0, "layer1": 0.2, "layer2": 0.4})
    counts = rule("target", there, of="per_layer", cost="params", share=0.6).counts
    assert counts["layer0"] == 100
    assert (100 - counts["layer2"]) / (100 - counts["layer1"]) == pytest.approx(2, rel=0.1)
