"""Sensitivities are single effects on `val`, measured without training, within their time, and nothing else changes."""

import copy
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_task import tiny_task
from torch import nn

from paretune.conf.settings import SeedSettings
from paretune.errors import ImpossiblePlan
from paretune.search import sensitivity as module
from paretune.search.bench import lay_out
from paretune.search.clock import Clock
from paretune.search.decisions import decisions_of, mildest
from paretune.search.measured import Measured
from paretune.search.planner import Planner
from paretune.search.seeding import _Way
from paretune.search.sensitivity import measure_effects
from paretune.spaces.language import parse_space

SPACE = {
    "groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.75, "step": 0.125}}],
    "layers": [{"match": "*", "weight_bits": [1, 2, 4, 8]}],
    "activation_bits": 8,
    "criterion": "l1",
}


class NoTest:
    """A split that must not be read."""

    def __len__(self):
        return 1

    def batches(self, seed):
        raise AssertionError("the test split was read")


@pytest.fixture(scope="module")
def bench():
    task = tiny_task()
    return lay_out(replace(task, test=NoTest()))


def way_of(bench, spec=SPACE):
    space = parse_space(spec, bench.inventory)
    planner = Planner.ready(bench, space, Measured(bench=bench, seed=0))
    decisions = decisions_of(space)
    return _Way(space=space, planner=planner, decisions=decisions, base=mildest(space, decisions))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def way(bench):
    return way_of(bench)


def measured(way, *, settings=None, bench=None, plan_at=None, say=lambda text: None, tell=lambda done, total: None):
    return measure_effects(
        way.decisions, plan_at or way.plan, bench or way.planner.bench, settings or SeedSettings(), say=say, tell=tell
    )


@pytest.fixture(scope="module")
def effects(way):
    return measured(way)


@pytest.fixture
def second_long(monkeypatch):
    """A clock by which every look lasts a second."""
    ticks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


@pytest.fixture
def stalling(monkeypatch):
    """A clock by which looks last a second while it is estimated, and a minute from then on."""
    ticks = itertools.chain(range(8), itertools.count(60, 60))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


def losses(effects, name):
    return [effect.loss for effect in effects.effects if effect.decision == name]


def test_every_setting_is_measured_and_the_mildest_is_the_base(way, effects):
    asked = [(d.name, s) for d in way.decisions for s in d.settings]
    assert [(effect.decision, effect.setting) for effect in effects.effects] == asked
    assert all(effect.measured for effect in effects.effects)
    assert effects.note == ""
    for decision in way.decisions:
        first = next(effect for effect in effects.effects if effect.decision == decision.name)
        assert (first.loss, first.error) == (effects.loss, effects.error)


def test_the_strongest_settings_harm(way, effects):
    for decision in way.decisions:
        first, *_, last = losses(effects, decision.name)
        assert last > first, decision.name


def test_an_effect_is_the_score_of_that_plan_by_hand(bench, way, effects):
    """Loss and error over all of `val`, of the network that the plan gives before any training, in eval mode."""
    options = [0] * len(way.decisions)
    options[1] = 4
    plan = way.plan(tuple(options))
    plan = replace(plan, recovery=replace(plan.recovery, epochs=0, images=module.CALIBRATION))
    model = module.untrained(plan, bench, Clock())
    assert not any(part.training for part in model.modules())
    inputs, targets = bench.task.val.inputs, bench.task.val.targets
    with torch.no_grad():
        outputs = model(inputs)
    decision = way.decisions[1]
    found = next(e for e in effects.effects if (e.decision, e.setting) == (decision.name, decision.settings[4]))
    assert found.loss == pytest.approx(float(F.cross_entropy(outputs, targets)), rel=1e-5)
    assert found.error == pytest.approx(float((outputs.argmax(1) != targets).float().mean()))


@pytest.mark.parametrize("images", [1, 20, 32, 50, 10**6])
def test_the_mean_is_over_the_first_images(bench, way, images):
    """Also where a batch (of 32) is cut, and where there are fewer."""
    task = replace(
        bench.task, loss=lambda _, targets: targets.float().mean(), errors=lambda _, targets: float(targets.sum())
    )
    found = measured(way, settings=SeedSettings(images=images, minutes=1e-9), bench=lay_out(task))
    wanted = float(bench.task.val.targets[:images].float().mean())
    assert found.loss == pytest.approx(wanted)
    assert found.error == pytest.approx(wanted)
    assert found.images == min(images, len(bench.task.val))


def test_any_loss_will_do(bench, way):
    task = replace(bench.task, loss=lambda outputs, targets: F.multi_margin_loss(outputs, targets, margin=2.0))
    found = measured(way, bench=lay_out(task), settings=SeedSettings(minutes=1e-9))
    with torch.no_grad():
        dense = float(F.multi_margin_loss(task.model(task.val.inputs), task.val.targets, margin=2.0))
    assert found.loss == pytest.approx(dense, abs=0.1)


def test_model_generators_and_modes_stay_as_they_were(bench, way):
    model = bench.task.model
    before = copy.deepcopy(model.state_dict())
    modes = [part.training for part in model.modules()]
    random = torch.get_rng_state(), np.random.get_state()[1].tolist()
    measured(way, settings=SeedSettings(images=32))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random[0])
    assert np.random.get_state()[1].tolist() == random[1]


def test_measuring_again_finds_the_same(way, effects):
    assert measured(way) == effects


def test_the_cost_is_said_before_anything_is_measured(way, second_long):
    heard = []
    measured(way, say=heard.append, tell=lambda done, total: heard.append((done, total)))
    total = sum(len(decision.settings) - 1 for decision in way.decisions)
    assert heard[0] == f"measuring sensitivities: {total} settings of {len(way.decisions)} decisions, about {total} s"
    assert heard[1:] == [(done, total) for done in range(total + 1)]


@pytest.mark.parametrize(("seconds", "said"), [(12, "one setting in 2"), (7, "one setting in 4"), (2, "the strongest")])
def test_the_budget_caps_it_by_a_coarser_grid(way, second_long, seconds, said):
    heard, told = [], []
    found = measured(
        way, settings=SeedSettings(minutes=seconds / 60), say=heard.append, tell=lambda *at: told.append(at)
    )
    assert said in found.note
    assert said in heard[0]
    assert f"seeds.minutes={seconds / 60:g}" in heard[0]
    assert told[-1][0] == told[-1][1] <= seconds
    mild = len(way.decisions)
    assert sum(effect.measured for effect in found.effects) == told[-1][1] + mild
    assert len(found.effects) == sum(len(decision.settings) for decision in way.decisions)


def test_what_takes_much_longer_than_foreseen_ends_with_what_it_has(way, stalling):
    told = []
    found = measured(way, settings=SeedSettings(minutes=6.0, pairs=True), tell=lambda *at: told.append(at))
    total = told[-1][1]
    assert found.note == f"it took longer than foreseen and ended after {told[-1][0]} of {total} settings"
    assert len(way.decisions) < told[-1][0] < 15 < total
    assert found.pairs == ()
    sure = {(effect.decision, effect.setting) for effect in found.effects if effect.measured}
    assert {(decision.name, decision.settings[-1]) for decision in way.decisions} <= sure


def test_settings_that_are_one_plan_are_looked_at_once(bench, monkeypatch):
    """8 channels have 8 shares to remove; a grid of 33 asks for each of them several times."""
    way = way_of(bench, {"groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.8, "step": 0.025}, "tie": True}]})
    plans, untrained = [], module.untrained

    def counted(plan, *rest):
        plans.append(plan.key)
        return untrained(plan, *rest)

    monkeypatch.setattr(module, "untrained", counted)
    found = measured(way)
    base = plans[0]
    assert len(found.effects) == 33
    assert len([key for key in plans if key != base]) == len({*plans} - {base}) < 9


def test_a_setting_that_cannot_be_carried_out_is_as_bad_as_guessing(way):
    last = len(way.decisions[0].settings) - 1

    def plan_at(options):
        if options[0] == last:
            raise ImpossiblePlan("no")
        return way.plan(options)

    found = measured(way, plan_at=plan_at, settings=SeedSettings(images=120))
    row = found.effects[last]
    assert row.loss == pytest.approx(math.log(3))
    assert row.error == pytest.approx(2 / 3)
    assert row.measured


def test_a_loss_that_is_not_finite_is_as_bad_as_guessing(bench, way):
    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets) if outputs.abs().max() < 1e4 else torch.tensor(math.nan)

    class Loud(nn.Module):
        def forward(self, inputs):
            return torch.full((len(inputs), 3), 1e5)

    untrained, base = module.untrained, way.plan((0,) * len(way.decisions)).groups

    def broken(plan, *rest):
        return untrained(plan, *rest) if plan.groups == base else Loud()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "untrained", broken)
        found = measured(way, bench=lay_out(replace(bench.task, loss=loss)))
    ratios = [e for e in found.effects if e.decision.startswith("ratio") and e.setting]
    assert {round(effect.loss, 5) for effect in ratios} == {round(math.log(3), 5)}


def test_without_a_mildest_plan_there_are_none(bench, way):
    def never(options):
        raise ImpossiblePlan("nothing fits")

    with pytest.raises(ImpossiblePlan, match="nothing fits"):
        measured(way, plan_at=never)

    def too_large(options):
        raise MemoryError("32 GB asked for")

    with pytest.raises(ImpossiblePlan, match="32 GB asked for"):
        measured(way, plan_at=too_large)
    task = replace(bench.task, loss=lambda outputs, targets: torch.tensor(math.nan))
    with pytest.raises(ImpossiblePlan, match="its loss is nan"):
        measured(way, bench=lay_out(task))


def test_a_pair_is_what_both_cost_beyond_the_sum(bench, way, effects):
    found = measured(way, settings=SeedSettings(pairs=True))
    assert found.effects == effects.effects
    assert found.pairs
    place = {decision.name: at for at, decision in enumerate(way.decisions)}
    alone = {(effect.decision, effect.setting): effect.loss for effect in effects.effects}
    for pair in found.pairs:
        one, two = (way.decisions[place[name]] for name in pair.decisions)
        assert one.block == two.block
        options = [0] * len(way.decisions)
        for decision, setting in zip((one, two), pair.settings, strict=True):
            options[place[decision.name]] = decision.settings.index(setting)
        plan = way.plan(tuple(options))
        recovery = replace(plan.recovery, epochs=0, images=module.CALIBRATION)
        model = module.untrained(replace(plan, recovery=recovery), bench, Clock())
        with torch.no_grad():
            both = float(F.cross_entropy(model(bench.task.val.inputs), bench.task.val.targets))
        sums = sum(alone[key] for key in zip(pair.decisions, pair.settings, strict=True)) - effects.loss
        assert pair.loss == pytest.approx(both - sums, abs=1e-4)


def test_pairs_get_the_time_that_is_left(way, second_long):
    total = sum(len(decision.settings) - 1 for decision in way.decisions)
    heard = []
    found = measured(way, settings=SeedSettings(pairs=True, minutes=(total + 1) / 60), say=heard.append)
    assert len(found.pairs) == 1
    assert "1 of " in found.note
    assert found.note in heard[0]
