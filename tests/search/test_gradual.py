"""Plans whose masks are found in training: what is found is what was asked for, and can be had again."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_task import tiny_task

from paretune.compress.criteria import score_model
from paretune.compress.freeze import thaw
from paretune.compress.patterns import mask_of
from paretune.compress.planning import plan_of
from paretune.costs.table import static_costs
from paretune.export.pack import layout, pack, unpack
from paretune.plan import DENSE, GroupPlan
from paretune.profile import profile
from paretune.recipe import Blend, Keep, Masking, Recipe, Recovery, Wanted
from paretune.search import evaluate as module
from paretune.search import gradual
from paretune.search.bench import lay_out
from paretune.search.clock import Clock
from paretune.search.evaluate import evaluate, quality_of

LAYERS = ("conv1", "conv2", "head")
TRAINED = ("geometric", "cubic", "flipout", "magnitude")
SPARSE = {name: Wanted(kind="unstructured", sparsity=0.75) for name in ("conv1", "conv2")}


@pytest.fixture(scope="module")
def bench():
    return lay_out(tiny_task())


@pytest.fixture(scope="module")
def scores(bench):
    return score_model(
        bench.task.model, bench.inventory, ["l1"], bench.calibration, bench.task.loss, 0, per_weight=True
    )


def recipe(*, wanted=SPARSE, masking=None, ratio=0.0, bits=8, **recovery):
    return Recipe(
        blends=dict.fromkeys(LAYERS, Blend(criteria=("l1",))),
        ratios={"conv1": ratio, "conv2": ratio},
        weight_bits=dict.fromkeys(LAYERS, bits),
        activation_bits=dict.fromkeys(LAYERS, bits),
        recovery=Recovery(**{"epochs": 1, "lr": 0.02} | recovery),
        wanted=dict(wanted),
        masking=masking or Masking(),
        keep=Keep(),
    )


def masking(schedule, **more):
    rounds = {"flipout": 0, "magnitude": 0, "one_shot": 0}.get(schedule, 3)
    return Masking(**{"schedule": schedule, "rounds": rounds, "epochs": 3, "lr": 0.02} | more)


@pytest.fixture(scope="module")
def planned(bench, scores):
    """A plan by schedule, of the recipe above with some changes."""

    def plan(schedule, *, scope="layer", **more):
        settings = masking(schedule, scope=scope)
        return plan_of(recipe(masking=settings, **more), bench.inventory, scores).plan

    return plan


@pytest.fixture(scope="module")
def trained(bench, planned):
    """Every schedule, carried out once."""
    return {name: evaluate(planned(name), bench, seed=0) for name in (*TRAINED, "one_shot")}


def masks(plan, bench):
    """The masks of a plan that cuts no channels."""
    shapes = {layer.name: layer.weight_shape for layer in bench.inventory.weighted}
    return {row.layer: mask_of(row.pattern, shapes[row.layer]) for row in plan.layers if row.pattern}


def zeros(found, bench):
    """How many weights the masks remove; rounding may make zeros of more."""
    rows = profile(bench.inventory, found.plan)
    masked = sum(row.weights - row.kept for row in rows)
    assert found.outcome.values["params"] - found.outcome.values["nonzeros"] >= masked
    return masked


def without_codes(plan):
    return replace(plan, layers=tuple(replace(row, codes=None) for row in plan.layers))


def codes(found):
    return {name: layer.codes for name, layer in found.frozen.layers.items()}


def same_arrays(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("schedule", [*TRAINED, "one_shot"])
def test_the_found_plan_has_exactly_the_sparsity_asked_for(trained, bench, schedule):
    found = trained[schedule]
    assert found.outcome.status == "done", found.outcome.reason
    assert not found.plan.open
    left = {name: int(mask.sum()) for name, mask in masks(found.plan, bench).items()}
    if schedule in ("flipout", "magnitude"):  # one threshold over all layers, always
        assert sum(left.values()) == (72 + 576) // 4
        assert min(left.values()) >= 1
    else:
        assert left == {"conv1": 18, "conv2": 144}
    assert zeros(found, bench) == 72 + 576 - sum(left.values())


@pytest.mark.parametrize("schedule", TRAINED)
def test_the_found_plan_remembers_what_was_asked(trained, planned, schedule):
    plan = planned(schedule)
    assert plan.open
    assert all(row.pattern is None for row in plan.layers)
    assert trained[schedule].plan.asked == plan
    assert trained[schedule].plan != plan


def test_one_shot_has_its_masks_before_any_training(trained, planned):
    plan = planned("one_shot")
    assert not plan.open
    assert plan.pruning is None
    assert trained["one_shot"].plan.asked == plan.asked == plan
    assert without_codes(trained["one_shot"].plan) == plan


@pytest.mark.parametrize("schedule", [*TRAINED, "one_shot"])
def test_masked_weights_are_zero_in_what_is_packed(trained, bench, schedule):
    found = trained[schedule]
    for name, mask in masks(found.plan, bench).items():
        assert (found.model.get_submodule(name).weight.detach().numpy()[~mask] == 0).all()


@pytest.mark.parametrize("schedule", [*TRAINED, "one_shot"])
def test_the_size_is_that_of_the_packed_file(trained, schedule):
    found = trained[schedule]
    assert found.outcome.values["size_bytes"] == len(pack(found.frozen))


@pytest.mark.parametrize("schedule", [*TRAINED, "one_shot"])
def test_the_costs_are_those_of_the_found_plan(trained, bench, schedule):
    costs = static_costs(profile(bench.inventory, (found := trained[schedule]).plan))
    assert found.outcome.values == {"top1_error": found.outcome.values["top1_error"], **costs}


@pytest.mark.parametrize("schedule", [*TRAINED, "one_shot"])
def test_what_is_packed_scores_what_is_told(trained, bench, schedule):
    found = trained[schedule]
    frozen = unpack(pack(found.frozen), json.loads(json.dumps(layout(found.frozen))))
    model = thaw(bench.task.model, bench.inventory, found.plan, frozen)
    assert quality_of(bench, model, bench.task.val, Clock()) == found.outcome.values["top1_error"]


@pytest.mark.parametrize("schedule", TRAINED)
def test_a_found_plan_masks_at_once(trained, bench, monkeypatch, schedule):
    def never(*args, **kwargs):
        raise AssertionError("the masks were searched again")

    monkeypatch.setattr(module, "found_masks", never)
    again = evaluate(trained[schedule].plan, bench, seed=0)
    assert again.outcome.status == "done", again.outcome.reason
    assert without_codes(again.plan) == without_codes(trained[schedule].plan)
    same_arrays(masks(again.plan, bench), masks(trained[schedule].plan, bench))
    assert "prune" not in again.outcome.seconds


@pytest.mark.parametrize("schedule", [*TRAINED, "one_shot"])
def test_asking_again_gives_the_same_masks_weights_and_quality(trained, bench, schedule):
    found = trained[schedule]
    again = evaluate(found.plan.asked, bench, seed=0)
    assert again.outcome.values == found.outcome.values
    assert again.outcome.rungs == found.outcome.rungs
    assert again.plan == found.plan
    same_arrays(codes(again), codes(found))


@pytest.mark.parametrize("schedule", TRAINED)
def test_another_seed_trains_otherwise(trained, bench, schedule):
    other = evaluate(trained[schedule].plan.asked, bench, seed=1)
    assert any((codes(other)[name] != codes(trained[schedule])[name]).any() for name in LAYERS)


def test_the_model_of_the_task_is_left_as_it_was(bench, planned):
    before = {key: value.clone() for key, value in bench.task.model.state_dict().items()}
    for schedule in TRAINED:
        evaluate(planned(schedule, start="scratch"), bench, seed=0)
    assert all(torch.equal(value, before[key]) for key, value in bench.task.model.state_dict().items())


def test_the_global_generator_is_left_alone(bench, planned):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for schedule in TRAINED:
        evaluate(planned(schedule, start="scratch"), bench, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("schedule", ["geometric", "cubic"])
def test_a_global_threshold_keeps_the_total(bench, planned, schedule):
    found = evaluate(planned(schedule, scope="global"), bench, seed=0)
    left = {name: int(mask.sum()) for name, mask in masks(found.plan, bench).items()}
    assert sum(left.values()) == (72 + 576) // 4
    assert left != {"conv1": 18, "conv2": 144}


@pytest.mark.parametrize("schedule", [*TRAINED, "one_shot"])
def test_channels_are_cut_first_and_weights_in_what_is_left(bench, planned, schedule):
    plan = planned(schedule, ratio=0.5)
    found = evaluate(plan, bench, seed=0)
    assert found.outcome.status == "done", found.outcome.reason
    assert {name: len(kept) for name, kept in found.plan.kept.items()} == {"conv1": 4, "conv2": 4}
    rows = {row.name: row for row in profile(bench.inventory, found.plan)}
    assert rows["conv1"].weight_shape == (4, 1, 3, 3)
    assert rows["conv2"].weight_shape == (4, 4, 3, 3)
    assert rows["conv1"].kept + rows["conv2"].kept == (36 + 144) // 4
    assert found.outcome.values["size_bytes"] == len(pack(found.frozen))


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        ({"conv2": Wanted(kind="2:4")}, {"conv2": 288}),
        ({"conv2": Wanted(kind="pe_block", sparsity=0.5, block=4)}, {"conv2": 288}),
        ({"conv1": SPARSE["conv1"], "conv2": Wanted(kind="2:4")}, {"conv1": 18, "conv2": 288}),
    ],
    ids=["2:4", "pe_block", "mixed"],
)
@pytest.mark.parametrize("schedule", ["geometric", "cubic"])
def test_patterns_are_found_in_training_too(bench, planned, schedule, wanted, left):
    found = evaluate(planned(schedule, wanted=wanted), bench, seed=0)
    assert found.outcome.status == "done", found.outcome.reason
    assert {name: int(mask.sum()) for name, mask in masks(found.plan, bench).items()} == left
    assert {row.layer: row.pattern.kind for row in found.plan.layers if row.pattern} == {
        name: want.kind for name, want in wanted.items()
    }


def test_flipout_refuses_patterns_as_a_failed_trial(bench, planned):
    found = evaluate(planned("flipout", wanted={"conv2": Wanted(kind="2:4")}), bench, seed=0)
    assert found.outcome.status == "failed"
    assert "layer 'conv2' asks for '2:4'" in found.outcome.reason
    assert found.outcome.values == {}  # costs are not known before the masks are
    assert found.plan.open


@pytest.mark.parametrize("mode", ["ste_mask", "ste_mask+bn_frozen", "bn_frozen", "frozen_mask"])
@pytest.mark.parametrize("schedule", [*TRAINED, "one_shot"])
def test_every_mode_ends_with_the_zeros_asked_for(bench, planned, schedule, mode):
    found = evaluate(planned(schedule, mode=mode), bench, seed=0)
    assert found.outcome.status == "done", found.outcome.reason
    assert zeros(found, bench) == (72 + 576) // 4 * 3
    for name, mask in masks(found.plan, bench).items():
        assert (found.model.get_submodule(name).weight.detach().numpy()[~mask] == 0).all()


def test_under_straight_gradients_zeros_may_come_back(bench, scores):
    """A learning rate high enough that a masked weight, moving behind its mask, passes one that is not."""
    plans = [
        plan_of(recipe(masking=masking("cubic", lr=0.3, epochs=6), mode=mode), bench.inventory, scores).plan
        for mode in ("frozen_mask", "ste_mask")
    ]
    plain, straight = (evaluate(plan, bench, seed=0) for plan in plans)
    one, other = masks(plain.plan, bench)["conv2"], masks(straight.plan, bench)["conv2"]
    assert one.sum() == other.sum() == 144
    assert (one != other).any()


def test_frozen_batch_norm_keeps_the_statistics_it_had_before_the_fine_tune(bench, planned, monkeypatch):
    seen = {}
    finetune = module.finetune

    def watched(model, *args, **kwargs):
        seen["before"] = statistics(model)
        finetune(model, *args, **kwargs)
        seen["after"] = statistics(model)

    def statistics(model):
        return {key: value.clone().numpy() for key, value in model.state_dict().items() if "running" in key}

    quality, scored = module.quality_of, []

    def scoring(bench, model, *args):
        scored.append(statistics(model))
        return quality(bench, model, *args)

    monkeypatch.setattr(module, "finetune", watched)
    monkeypatch.setattr(module, "quality_of", scoring)
    for mode, alike in (("bn_frozen", True), ("frozen_mask", False)):
        scored.clear()
        evaluate(planned("one_shot", mode=mode, bits=32), bench, seed=0)
        assert len(seen["before"]) == 4
        changed = {key for key, value in seen["before"].items() if (value != seen["after"][key]).any()}
        assert (not changed) == alike
        moved = {key for key, value in seen["before"].items() if (value != scored[1][key]).any()}
        assert (not moved) == alike  # nor measured anew before the score


@pytest.mark.parametrize("distill", ["hints", "logits+hints"])
def test_hints_teach_a_narrower_network(bench, planned, distill):
    plain, taught = (
        evaluate(planned("one_shot", ratio=0.5, distill=how, hint=1.0), bench, seed=0) for how in ("none", distill)
    )
    assert taught.outcome.status == "done", taught.outcome.reason
    assert taught.outcome.values["params"] == plain.outcome.values["params"]
    assert any((codes(plain)[name] != codes(taught)[name]).any() for name in LAYERS)
    assert set(taught.frozen.layers) == set(plain.frozen.layers)  # the adapter is not shipped


@pytest.mark.parametrize("schedule", ["one_shot", "cubic", "flipout"])
def test_compensation_goes_with_masks(bench, planned, schedule):
    plain, repaired = (
        evaluate(planned(schedule, ratio=0.5, compensate=how, images=128), bench, seed=0) for how in ("none", "linear")
    )
    assert repaired.outcome.status == "done", repaired.outcome.reason
    assert zeros(repaired, bench) == zeros(plain, bench) == (36 + 144) // 4 * 3
    assert any((codes(plain)[name] != codes(repaired)[name]).any() for name in LAYERS)
    assert repaired.outcome.values["size_bytes"] == len(pack(repaired.frozen))


def test_compensation_alone_repairs_what_a_cut_breaks(bench):
    """No training: the error after the cut, with and without repair of what reads the removed channels."""
    groups = tuple(GroupPlan(group=name, kept=(0, 2, 4, 6)) for name in ("conv1", "conv2"))
    recovery = Recovery(epochs=0, lr=0.01, images=192)
    plain, repaired = (
        evaluate(replace(DENSE, groups=groups, recovery=replace(recovery, compensate=how)), bench, seed=0)
        for how in ("none", "linear")
    )
    assert repaired.outcome.values["top1_error"] < plain.outcome.values["top1_error"]


@pytest.mark.parametrize("schedule", [*TRAINED, "one_shot"])
def test_a_start_from_scratch_forgets_the_trained_weights(bench, planned, trained, schedule):
    plan = planned(schedule, start="scratch")
    found, again = evaluate(plan, bench, seed=0), evaluate(plan, bench, seed=0)
    assert found.outcome.status == "done", found.outcome.reason
    assert found.outcome.values == again.outcome.values
    same_arrays(codes(found), codes(again))
    assert any((codes(found)[name] != codes(trained[schedule])[name]).any() for name in LAYERS)
    assert zeros(found, bench) == zeros(trained[schedule], bench)


def test_too_few_epochs_for_flipout_are_a_failed_trial(bench, scores):
    asked = recipe(masking=masking("flipout", epochs=2))
    found = evaluate(plan_of(asked, bench.inventory, scores).plan, bench, seed=0)
    assert found.outcome.status == "failed"
    assert "needs at least 3 epochs; got 2" in found.outcome.reason


def test_time_runs_out_while_masks_are_searched(bench, scores):
    asked = recipe(masking=masking("cubic", epochs=3000))
    found = evaluate(plan_of(asked, bench.inventory, scores).plan, bench, seed=0, minutes=0.2 / 60)
    assert found.outcome.status == "failed"
    assert found.outcome.reason.startswith("OutOfTime")
    assert found.outcome.seconds["prune"] < 2
    assert found.plan.open


def test_a_sparsity_of_zero_is_no_pruning(bench, scores):
    wanted = {"conv2": Wanted(kind="unstructured", sparsity=0.0)}
    plan = plan_of(recipe(wanted=wanted, masking=masking("cubic")), bench.inventory, scores).plan
    assert plan.pruning is None
    assert not plan.open


def test_a_layer_that_a_global_threshold_spares_has_its_mask_on_record(bench, scores):
    """Masks without zeros are kept too: the plan is not open, and a replay does not search again."""
    wanted = {name: Wanted(kind="unstructured", sparsity=0.01) for name in LAYERS}
    found = evaluate(
        plan_of(recipe(wanted=wanted, masking=masking("geometric", scope="global")), bench.inventory, scores).plan,
        bench, seed=0,
    )  # fmt: skip
    assert not found.plan.open
    found_masks = masks(found.plan, bench)
    assert set(found_masks) == set(LAYERS)
    assert sum(int((~mask).sum()) for mask in found_masks.values()) == 672 - 665
    assert any(mask.all() for mask in found_masks.values())


@pytest.mark.parametrize("schedule", ["geometric", "cubic"])
def test_statistics_are_measured_anew_on_the_masked_model_in_every_round(bench, planned, monkeypatch, schedule):
    images, recalibrate = [], gradual.recalibrate

    def counted(model, batches):
        images.append(sum(len(inputs) for inputs, _ in batches))
        recalibrate(model, batches)

    monkeypatch.setattr(gradual, "recalibrate", counted)
    found = evaluate(planned(schedule, images=40), bench, seed=0)
    assert found.outcome.status == "done", found.outcome.reason
    assert images == [40] * 3
