"""From a recipe to a plan: what every rule and pattern must keep, and what nothing asks for must not be there."""

from dataclasses import replace

import numpy as np
import pytest
from scored_nets import INVENTORY, batches, net
from torch import nn

from paretune.compress.blend import cluster, rank_correlations
from paretune.compress.criteria import Scores, score_model
from paretune.compress.narrow import narrow
from paretune.compress.patterns import kept_weights, mask_of
from paretune.compress.planning import Planned, find_masks, plan_of, stored
from paretune.compress.rates import RATES
from paretune.costs.table import COSTS
from paretune.curve import Curve
from paretune.errors import ImpossiblePlan, ParetuneError, UnknownName
from paretune.plan import DENSE, Plan
from paretune.profile import profile
from paretune.recipe import Blend, Keep, Masking, Rate, Recipe, Recovery, Wanted

GROUPS = {"0.0": 6, "2.0": 8, "4": 4}
BANK = ("l1", "l2", "taylor", "bn_scale", "random")
SCORES = score_model(net(), INVENTORY, BANK, batches(), nn.functional.cross_entropy, 0, per_weight=("l1", "taylor"))
LAYERS = tuple(layer.name for layer in INVENTORY.weighted)
NAMES = tuple(dict.fromkeys((*GROUPS, *LAYERS)))
SCHEDULES = ("geometric", "cubic", "flipout", "magnitude")


def recipe(**changes) -> Recipe:
    """Nothing removed, everything in float, ranked by l1."""
    plain = Recipe(
        blends=dict.fromkeys(NAMES, Blend(criteria=("l1",))),
        ratios=dict.fromkeys(GROUPS, 0.0),
        weight_bits=dict.fromkeys(LAYERS, 32),
        activation_bits=dict.fromkeys(LAYERS, 32),
        recovery=Recovery(epochs=1, lr=0.1),
    )
    return replace(plain, **changes)


def curves(criterion: str, reduce: str = "mean") -> dict[str, Curve]:
    """Flat to 0.5, then up to chance."""
    ratios = tuple(step / 20 for step in range(20))
    errors = tuple(0.1 if ratio <= 0.5 else 0.1 + 1.2 * (ratio - 0.5) for ratio in ratios)
    return {name: Curve(group=name, criterion=criterion, ratios=ratios, errors=errors, chance=0.7) for name in GROUPS}


def judge(kept) -> float:
    """More error the more channels leave."""
    return 0.1 + 0.01 * sum(GROUPS[name] - len(units) for name, units in kept.items())


def planned(asked: Recipe, **more) -> Planned:
    return plan_of(asked, INVENTORY, SCORES, **{"curves": curves, "judge": judge} | more)


def widths(plan: Plan) -> dict[str, int]:
    return {name: len(plan.kept.get(name, range(count))) for name, count in GROUPS.items()}


def shape(plan: Plan, layer: str) -> tuple[int, ...]:
    return narrow(INVENTORY, plan.kept).layer[layer].weight_shape


# --- channels


def test_nothing_asked_is_nothing_done():
    plan = planned(recipe()).plan
    assert plan.groups == ()
    assert [row.layer for row in plan.layers] == list(LAYERS)
    assert all(row.pattern is None and row.weight_bits == 32 for row in plan.layers)
    assert profile(INVENTORY, plan) == profile(INVENTORY, DENSE)


def test_a_ratio_of_zero_is_no_group():
    plan = planned(recipe(ratios={"0.0": 0.5, "2.0": 0.0, "4": 0.5})).plan
    assert [group.group for group in plan.groups] == ["0.0", "4"]
    assert widths(plan) == {"0.0": 3, "2.0": 8, "4": 2}


def test_ratios_too_small_to_remove_a_channel_are_the_same_plan_as_none():
    assert planned(recipe(ratios=dict.fromkeys(GROUPS, 0.05))).plan == planned(recipe()).plan


def test_the_best_scored_channels_stay():
    plan = planned(recipe(ratios=dict.fromkeys(GROUPS, 0.5))).plan
    for name, kept in plan.kept.items():
        scores = SCORES.units["l1"][name].mean(axis=0)
        gone = sorted(set(range(GROUPS[name])) - set(kept))
        assert list(kept) == sorted(kept)
        assert scores[list(kept)].min() >= scores[gone].max()


def test_equal_scores_keep_the_first_channels():
    flat = {name: np.ones((1, count)) for name, count in GROUPS.items()}
    found = plan_of(recipe(ratios=dict.fromkeys(GROUPS, 0.5)), INVENTORY, Scores(units={"l1": flat}, weights={}))
    assert found.plan.kept == {"0.0": (0, 1, 2), "2.0": (0, 1, 2, 3), "4": (0, 1)}


RULES = {
    "uniform": Rate(rule="uniform", ratio=0.6),
    "per_layer": Rate(rule="per_layer"),
    "global": Rate(rule="global", ratio=0.6),
    "knee": Rate(rule="knee", drop=0.3),
    "binary": Rate(rule="binary", tolerance=0.2, step=0.9, passes=3),
    "target": Rate(rule="target", cost="macs", share=0.5),
}


def test_every_rule_is_tried_here():
    assert set(RULES) == set(RATES)


@pytest.mark.parametrize("keep", [Keep(), Keep(minimum=3), Keep(multiple=2), Keep(minimum=3, multiple=2)], ids=str)
@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_obeys_the_keep_rules(rule, keep):
    rate = replace(RULES[rule], share=share_in_reach(keep))  # coarse widths may miss half the MACs by more than 1 %
    plan = planned(recipe(rate=rate, keep=keep, ratios=dict.fromkeys(GROUPS, 0.7))).plan
    assert plan.groups, "a rule that removes nothing shows nothing"
    for name, count in widths(plan).items():
        assert count == GROUPS[name] or (count >= keep.minimum and count % keep.multiple == 0), name


def share_in_reach(keep: Keep) -> float:
    """A share of the MACs that is met exactly: that of the plan a uniform half gives."""
    plan = planned(recipe(rate=Rate(rule="uniform", ratio=0.5), keep=keep)).plan
    macs = COSTS["macs"].count
    return macs(profile(INVENTORY, plan), None) / macs(profile(INVENTORY, DENSE), None)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_gives_the_same_plan_twice(rule):
    asked = recipe(rate=RULES[rule], ratios=dict.fromkeys(GROUPS, 0.7))
    assert planned(asked) == planned(asked)


def test_rules_say_what_they_decided():
    assert "target macs 0.5: " in " ".join(planned(recipe(rate=RULES["target"])).notes)
    assert "binary: error 0.1 to " in " ".join(planned(recipe(rate=RULES["binary"])).notes)
    assert planned(recipe(rate=RULES["uniform"])).notes == ()


def targeted(cost: str, share: float, bits: int) -> Planned:
    asked = dict.fromkeys(LAYERS, bits)
    rate = Rate(rule="target", cost=cost, share=share)
    return planned(recipe(rate=rate, weight_bits=asked, activation_bits=asked))


def share_of_dense(cost: str, plan: Plan) -> float:
    """What is left of the float, uncut model's cost."""
    count = COSTS[cost].count
    return count(profile(INVENTORY, plan), None) / count(profile(INVENTORY, DENSE), None)


def test_bits_go_towards_a_target():
    """w4a4 is 1/64 of the bops, so half of that needs the cut that halves them in float."""
    in_float, few_bits = targeted("bops", 0.5, 32).plan, targeted("bops", 0.5 / 64, 4).plan
    assert widths(in_float) == widths(few_bits) != GROUPS
    assert share_of_dense("bops", few_bits) == pytest.approx(0.5 / 64, rel=0.01)


def test_a_target_of_the_size_is_a_share_of_the_float_file():
    whole = share_of_dense("size_bytes", targeted("size_bytes", 1.0, 4).plan)
    assert 4 / 32 < whole < 0.5  # scales and shifts stay in float
    found = targeted("size_bytes", 0.7 * whole, 4)
    assert share_of_dense("size_bytes", found.plan) == pytest.approx(0.7 * whole, rel=0.01)
    assert widths(found.plan) != GROUPS


@pytest.mark.parametrize("cost", ["bops", "size_bytes"])
def test_a_target_that_bits_meet_alone_removes_nothing_and_says_so(cost):
    found = targeted(cost, 0.5, 4)
    assert found.plan.groups == ()
    met = share_of_dense(cost, found.plan)
    assert met < 0.5
    assert found.notes == (f"target {cost} 0.5: {met:.4g} of dense, by bits alone",)


# --- blends


def test_every_group_is_ranked_by_its_own_blend():
    first, rest = ("l1", "bn_scale")
    blends = {name: Blend(criteria=(first if name == "0.0" else rest,)) for name in NAMES}
    ratios = dict.fromkeys(GROUPS, 0.5)
    mixed = planned(recipe(blends=blends, ratios=ratios)).plan
    alone = {
        name: planned(recipe(blends=dict.fromkeys(NAMES, Blend(criteria=(name,))), ratios=ratios)).plan
        for name in (first, rest)
    }
    assert mixed.kept["0.0"] == alone[first].kept["0.0"]
    assert mixed.kept["2.0"] == alone[rest].kept["2.0"]
    assert alone[first].kept["2.0"] != alone[rest].kept["2.0"]


def test_a_blend_with_all_weight_on_one_criterion_ranks_as_it_does():
    ratios = dict.fromkeys(GROUPS, 0.5)
    blend = Blend(criteria=("l1", "taylor"), weights=(0.0, 1.0))
    both = planned(recipe(blends=dict.fromkeys(NAMES, blend), ratios=ratios)).plan
    one = planned(recipe(blends=dict.fromkeys(NAMES, Blend(criteria=("taylor",))), ratios=ratios)).plan
    assert both.groups == one.groups


@pytest.mark.parametrize("pick", [0, 1, 2, 5])
def test_a_pick_names_the_member_of_its_cluster(pick):
    blend = Blend(criteria=BANK, weights=(1.0, 0.0), clusters=2, picks=(pick, 0))
    found = [rank_correlations(SCORES, BANK, group, "mean") for group in GROUPS]
    correlations = np.average(found, axis=0, weights=list(GROUPS.values()))  # few units: those of the whole net
    members = [BANK[place] for place in cluster(correlations, 2)[0]]
    ratios = {"0.0": 0.0, "2.0": 0.5, "4": 0.0}
    found = planned(recipe(blends=dict.fromkeys(NAMES, blend), ratios=ratios)).plan
    alone = Blend(criteria=(members[pick % len(members)],))
    assert found.groups == planned(recipe(blends=dict.fromkeys(NAMES, alone), ratios=ratios)).plan.groups


def test_masks_are_ranked_by_the_blend_of_their_layer():
    wanted = {name: Wanted(kind="unstructured", sparsity=0.5) for name in ("0.0", "2.0")}
    blends = {name: Blend(criteria=("taylor" if name == "2.0" else "l1",)) for name in NAMES}
    mixed = planned(recipe(wanted=wanted, blends=blends)).plan.bits
    plain = planned(recipe(wanted=wanted)).plan.bits
    assert mixed["0.0"].pattern == plain["0.0"].pattern
    assert mixed["2.0"].pattern != plain["2.0"].pattern


# --- masks


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(kind="unstructured", sparsity=0.9),
        Wanted(kind="unstructured", sparsity=1 / 3),
        Wanted(kind="2:4"),
        Wanted(kind="1:4"),
        Wanted(kind="pe_block", sparsity=0.5, block=2),
    ],
    ids=lambda wanted: f"{wanted.kind} {wanted.sparsity:.2f}",
)
def test_counts_are_exact_over_what_the_cut_leaves(wanted, ratio):
    plan = planned(recipe(wanted={"2.0": wanted}, ratios=dict.fromkeys(GROUPS, ratio))).plan
    pattern = plan.bits["2.0"].pattern
    assert [row.layer for row in plan.layers if row.pattern is not None] == ["2.0"]
    assert pattern.kind == wanted.kind
    assert pattern.nonzeros == kept_weights(wanted, shape(plan, "2.0")) == mask_of(pattern, shape(plan, "2.0")).sum()
    assert next(row for row in profile(INVENTORY, plan) if row.name == "2.0").nonzeros == pattern.nonzeros


def test_a_mask_keeps_the_best_of_the_weights_that_are_left():
    plan = planned(
        recipe(wanted={"2.0": Wanted(kind="unstructured", sparsity=0.5)}, ratios=dict.fromkeys(GROUPS, 0.5))
    ).plan
    left = SCORES.weights["l1"]["2.0"][list(plan.kept["2.0"])][:, list(plan.kept["0.0"])]
    mask = mask_of(plan.bits["2.0"].pattern, shape(plan, "2.0"))
    assert left[mask].min() >= left[~mask].max()
    assert mask.sum() == left.size // 2


@pytest.mark.parametrize("kind", ["unstructured", "pe_block"])
@pytest.mark.parametrize("schedule", ["one_shot", *SCHEDULES])
def test_a_sparsity_of_zero_is_no_pattern(kind, schedule):
    wanted = {"2.0": Wanted(kind=kind, sparsity=0.0)}
    rounds = 0 if schedule in ("flipout", "magnitude") else 5
    asked = recipe(wanted=wanted, masking=Masking(schedule=schedule, rounds=rounds))
    assert planned(asked).plan == planned(recipe()).plan


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_masks_of_a_schedule_are_left_to_training(schedule):
    wanted = {
        "0.0": Wanted(kind="unstructured", sparsity=0.0),
        "2.0": Wanted(kind="unstructured", sparsity=0.5),
        "4": Wanted(kind="2:4"),
    }
    masking = Masking(schedule=schedule, rounds=4, epochs=7, lr=0.3, scope="global", noise=0.5, power=1.5)
    asked = recipe(wanted=wanted, masking=masking, keep=Keep(minimum=2))
    plan = planned(asked).plan
    assert plan.open
    assert plan.asked == plan
    assert all(row.pattern is None for row in plan.layers)
    assert plan.pruning.wanted == {name: wanted[name] for name in ("2.0", "4")}
    assert plan.pruning.blends == {name: asked.blends[name] for name in ("2.0", "4")}
    found = plan.pruning
    assert (found.schedule, found.rounds, found.epochs, found.lr) == (schedule, 4, 7, 0.3)
    assert (found.scope, found.noise, found.power, found.minimum) == ("global", 0.5, 1.5, 2)


def test_one_shot_finds_them_before_training():
    plan = planned(recipe(wanted={"2.0": Wanted(kind="2:4")})).plan
    assert plan.pruning is None
    assert not plan.open


def test_one_threshold_over_all_layers_keeps_the_total():
    wanted = {name: Wanted(kind="unstructured", sparsity=0.75) for name in ("0.0", "2.0", "4")}
    by_layer, at_once = (
        planned(recipe(wanted=wanted, masking=Masking(scope=scope))).plan.bits for scope in ("layer", "global")
    )
    counts = [{name: bits[name].pattern.nonzeros for name in wanted} for bits in (by_layer, at_once)]
    assert sum(counts[0].values()) == sum(counts[1].values())
    assert counts[0] != counts[1]


def test_other_patterns_go_by_layer_under_a_global_scope_too():
    wanted = {"0.0": Wanted(kind="unstructured", sparsity=0.5), "2.0": Wanted(kind="2:4")}
    bits = planned(recipe(wanted=wanted, masking=Masking(scope="global"))).plan.bits
    weights = {layer.name: int(np.prod(layer.weight_shape)) for layer in INVENTORY.weighted}
    assert bits["0.0"].pattern.nonzeros == weights["0.0"] // 2
    assert bits["2.0"].pattern.kind == "2:4"


def test_at_least_the_minimum_of_weights_stays():
    wanted = {"4": Wanted(kind="unstructured", sparsity=0.999)}
    for minimum in (1, 5):
        plan = planned(recipe(wanted=wanted, keep=Keep(minimum=minimum))).plan
        assert plan.bits["4"].pattern.nonzeros == minimum


def test_found_masks_can_be_stored_and_read_again():
    wanted = {"0.0": Wanted(kind="unstructured", sparsity=0.5), "2.0": Wanted(kind="2:4")}
    scores = {name: SCORES.weights["l1"][name] for name in wanted}
    found = find_masks(wanted, scores, INVENTORY, "layer", 1, 0)
    assert list(found.masks) == list(wanted)
    for name, pattern in stored(wanted, found).items():
        np.testing.assert_array_equal(mask_of(pattern, scores[name].shape), found.masks[name])


# --- mistakes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rate": Rate(rule="unifrom")}, UnknownName, "no rate rule is called 'unifrom'. Did you mean 'uniform'"),
        ({"rate": Rate(rule="target", cost="mac")}, UnknownName, "no cost is called 'mac'. Did you mean 'macs'"),
        ({"rate": Rate(rule="target", of="target")}, UnknownName, "no rule that a target can scale is called 'target'"),
        ({"rate": Rate(rule="target", share=1e-6)}, ImpossiblePlan, "target macs 1e-06 cannot be met"),
        ({"blends": dict.fromkeys(NAMES, Blend(criteria=("tailor",)))}, UnknownName, "Did you mean 'taylor'"),
        (
            {"blends": dict.fromkeys(NAMES, Blend(criteria=("l1", "l2"), weights=(0.0, 0.0)))},
            ImpossiblePlan, "at least one weight above 0",
        ),
        (
            {"blends": dict.fromkeys(NAMES, Blend(criteria=("l1", "l2"), weights=(1.0,)))},
            ImpossiblePlan, "needs as many weights, got 1",
        ),
        ({"wanted": {"2.0": Wanted(kind="4:2")}}, ParetuneError, "pattern '4:2' keeps 4 of 2 neighbours"),
        ({"wanted": {"2.0": Wanted(kind="blocks")}}, UnknownName, "no pattern is called 'blocks'. Did you mean 'pe_bl"),
        (
            {"wanted": {"2.0": Wanted(kind="2:4")}, "blends": dict.fromkeys(NAMES, Blend(criteria=("bn_scale",)))},
            UnknownName, "no criterion with scores per weight is called 'bn_scale'",
        ),
        ({"reduce": "median"}, UnknownName, "no reduction is called 'median'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        planned(recipe(**changes))


@pytest.mark.parametrize(
    ("rule", "message"),
    [("knee", "no sensitivity curves by 'l1' were measured"), ("binary", "no model is at hand to try a cut on")],
)
def test_rules_that_need_more_say_so(rule, message):
    with pytest.raises(ParetuneError, match=message):
        plan_of(recipe(rate=RULES[rule]), INVENTORY, SCORES)


def test_flat_curves_have_no_knee():
    def flat(criterion, reduce):
        return {name: replace(curve, errors=(0.1,) * 20) for name, curve in curves(criterion).items()}

    with pytest.raises(ImpossiblePlan, match="no group has a knee, as every curve is flat"):
        planned(recipe(rate=RULES["knee"]), curves=flat)
