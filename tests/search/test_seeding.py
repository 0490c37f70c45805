"""Seeds are different feasible plans along the front, from effects that are measured once, or it is said why not."""

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from tiny_task import tiny_task

from paretune.conf.settings import parse_settings
from paretune.effects import Effect, Effects, Pair
from paretune.errors import ImpossiblePlan
from paretune.pareto import nondominated
from paretune.search import seeding as module
from paretune.search.bench import lay_out
from paretune.search.clock import Clock
from paretune.search.controls import Given, controls_of
from paretune.search.decisions import decisions_of, mildest
from paretune.search.measured import Measured
from paretune.search.planner import Planner
from paretune.search.study import run_study
from paretune.spaces.language import parse_space

SPACE = {
    "groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.75, "step": 0.25}}],
    "layers": [{"match": "*", "weight_bits": [2, 4, 8]}],
    "activation_bits": 8,
    "criterion": ["l2", "l1"],
    "recover": {"epochs": [0, 1], "lr": {"low": 0.01, "high": 0.03}},
}
COSTLY = {"layers": [{"match": "*", "pattern": "unstructured", "sparsity": [0.5, 0.9], "tie": True}]}


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def bench():
    return lay_out(tiny_task())


def harm(decisions, steep):
    """Effects by a rule: decision by decision and step by step, `steep` more each."""
    rows = [
        Effect(decision=decision.name, setting=setting, loss=1.0 + steep * (which + 1) * option**2, error=0.1)
        for which, decision in enumerate(decisions)
        for option, setting in enumerate(decision.settings)
    ]
    return Effects(loss=1.0, error=0.1, effects=tuple(rows), images=120)


@pytest.fixture
def free(monkeypatch):
    """Effects that cost nothing to measure; a list that grows by one whenever they are."""
    calls = []

    def measure(decisions, plan_at, bench, settings, *, say, tell):
        plan_at((0,) * len(decisions))
        calls.append(settings)
        return harm(decisions, 0.1)

    monkeypatch.setattr(module, "measure_effects", measure)
    return calls


class Case:
    """A space on the tiny task, and its seeds under some settings."""

    def __init__(self, bench, spec=SPACE, *, seed=0, hardware=None, objectives=("size_bytes", "bops"), **settings):
        self.bench = replace(bench, hardware=hardware)
        self.space = parse_space(spec, bench.inventory)
        plain = {"task": {}, "space": spec, "objectives": ["top1_error", *objectives], "study": {"name": "s"}}
        self.settings = parse_settings(plain | settings)
        self.measured = Measured(bench=self.bench, seed=seed)
        self.planner = Planner.ready(self.bench, self.space, self.measured)
        self.controls = controls_of(self.space)
        self.said = []

    def seeds(self):
        return module.make_seeds(
            self.settings, self.space, self.planner, self.controls, say=self.said.append, tell=lambda done, total: None
        )

    def plan(self, params):
        return self.planner.plan(self.space.ask(Given(params)), Clock()).plan

    @property
    def source(self):
        return self.measured.facts["sensitivities"]["from"]


def test_seeds_are_different_plans_and_none_is_a_control(bench, free):
    case = Case(bench)
    found = case.seeds()
    assert len(found.params) == 24
    assert found.note == ""
    keys = {case.plan(params).key for params in found.params}
    assert len(keys) == 24
    assert not keys & {case.plan(control.params).key for control in case.controls if control.params}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_there_are_as_many_as_asked_for(bench, free, count):
    assert len(Case(bench, seeds={"count": count}).seeds().params) == count


def test_what_is_no_decision_is_at_its_default(bench, free):
    case = Case(bench)
    base = mildest(case.space, decisions_of(case.space))
    names = {decision.param for decision in decisions_of(case.space)}
    for params in case.seeds().params:
        assert params.keys() == base.keys()
        assert {name: value for name, value in params.items() if name not in names} == {
            name: value for name, value in base.items() if name not in names
        }
        recipe = case.space.ask(Given(params))
        assert (recipe.recovery.epochs, recipe.recovery.lr) == (1, pytest.approx(0.02))


def test_seeds_are_within_the_budgets(bench, free):
    free_case = Case(bench)
    sizes = sorted(free_case.bench.costs(free_case.plan(p))["size_bytes"] for p in free_case.seeds().params)
    limit = sizes[len(sizes) // 2]
    case = Case(bench, budget={"size_bytes": limit, "bops": None})
    found = case.seeds()
    assert found.params
    assert all(case.bench.costs(case.plan(params))["size_bytes"] <= limit for params in found.params)


def test_a_budget_that_leaves_little_says_so(bench, free):
    smallest = Case(bench)
    cheapest = {d.param: d.params[-1] for d in decisions_of(smallest.space)}
    base = mildest(smallest.space, decisions_of(smallest.space))
    limit = smallest.bench.costs(smallest.plan({**base, **cheapest}))["size_bytes"]
    case = Case(bench, budget={"size_bytes": limit})
    found = case.seeds()
    assert [case.plan(params).key for params in found.params] == [case.plan({**base, **cheapest}).key]
    assert found.note.startswith("1 of 24 seeds: there are no more different plans within the budget")


def test_a_budget_on_nothing_feasible_leaves_none(bench, free):
    found = Case(bench, budget={"size_bytes": 1.0}).seeds()
    assert found.params == ()
    assert found.note.startswith("0 of 24 seeds")


def test_no_seed_is_worse_than_another_by_what_was_measured(bench, free):
    """Neither in the harm that single effects promise nor in the costs."""
    case = Case(bench)
    decisions = decisions_of(case.space)
    found = case.seeds()
    loss = {(effect.decision, effect.setting): effect.loss - 1.0 for effect in found.effects.effects}
    rows = []
    for params in found.params:
        total = sum(loss[d.name, d.settings[d.params.index(params[d.param])]] for d in decisions)
        costs = case.bench.costs(case.plan(params))
        rows.append([total, costs["size_bytes"], costs["bops"]])
    assert nondominated(rows).all()


def test_latency_alone_is_stood_in_for_by_macs(bench, free):
    case = Case(bench, objectives=("latency_ms",), seeds={"count": 4})
    macs = [case.bench.costs(case.plan(params))["macs"] for params in case.seeds().params]
    assert len(set(macs)) == 4


def test_plans_that_cannot_be_carried_out_are_no_seeds(bench, free, monkeypatch):
    case = Case(bench)
    plan = Planner.plan

    def picky(self, recipe, clock):
        if recipe.ratios["conv1"] > 0.3:
            raise ImpossiblePlan("too little of conv1 is left")
        return plan(self, recipe, clock)

    monkeypatch.setattr(Planner, "plan", picky)
    found = case.seeds()
    assert len(found.params) > 1
    assert all(case.space.ask(Given(params)).ratios["conv1"] <= 0.3 for params in found.params)


def test_if_none_can_be_carried_out_it_is_said(bench, free, monkeypatch):
    case = Case(bench)

    def never(self, recipe, clock):
        raise ImpossiblePlan("the layers are too thin")

    monkeypatch.setattr(Planner, "plan", never)
    found = case.seeds()
    assert found == module.Seeding(
        note="no seeds: not even the mildest plan can be carried out (the layers are too thin)"
    )


@pytest.mark.parametrize(
    ("spec", "settings", "note"),
    [
        (SPACE, {"seeds": {"count": 0}}, ""),
        ({"layers": [{"match": "*", "weight_bits": 4}], "criterion": ["l1", "l2"]}, {},
         "no seeds: the space leaves neither shares nor bits open"),
        (COSTLY | {"mask": {"schedule": "geometric"}, "recover": {"epochs": 1}}, {},
         "no seeds: what this space finds in training cannot be measured before it"),
    ],
)  # fmt: skip
def test_where_there_can_be_none_nothing_is_measured(bench, free, spec, settings, note):
    case = Case(bench, spec, **settings)
    assert case.seeds() == module.Seeding(note=note)
    assert free == case.said == []


def test_masks_that_need_no_training_have_seeds(bench, free):
    found = Case(bench, COSTLY | {"recover": {"epochs": 1}}).seeds()
    assert found.params
    assert len(free) == 1


def test_effects_are_measured_once(bench, free):
    first, second = Case(bench), Case(bench)
    assert first.seeds() == second.seeds()
    assert (first.source, second.source) == ("computed", "cache")
    assert len(free) == 1


UNCHANGED = {
    "count": {"seeds": {"count": 5}},
    "budget": {"budget": {"size_bytes": 4000}},
    "objectives": {"objectives": ("bops",)},
    "lr": {"spec": SPACE | {"recover": {"epochs": [0, 1], "lr": 0.5}}},
}
CHANGED = {
    "criterion": {"spec": SPACE | {"criterion": "l1"}},
    "images": {"seeds": {"images": 64}},
    "minutes": {"seeds": {"minutes": 1.0}},
    "pairs": {"seeds": {"pairs": True}},
    "base": {"spec": SPACE | {"activation_bits": 4}},
    "settings": {"spec": SPACE | {"layers": [{"match": "*", "weight_bits": [2, 8]}]}},
    "compensation": {"spec": SPACE | {"recover": {"epochs": [0, 1], "compensate": "linear"}}},
    "seed": {"seed": 1},
}


@pytest.mark.parametrize(
    ("change", "source"),
    [*((change, "cache") for change in UNCHANGED.values()), *((change, "computed") for change in CHANGED.values())],
    ids=[*UNCHANGED, *CHANGED],
)
def test_effects_are_measured_for_what_they_depend_on_and_for_nothing_else(bench, free, change, source):
    Case(bench).seeds()
    other = Case(bench, **change)
    other.seeds()
    assert other.source == source


def test_a_damaged_file_is_measured_again(bench, free, cache):
    first = Case(bench).seeds()
    (file,) = cache.rglob("effects-*.json")
    for damage in ("", "[1, 2]", file.read_text()[:100], json.dumps({"loss": 1.0})):
        file.write_text(damage)
        again = Case(bench)
        assert again.seeds() == first
        assert again.source == "computed"
    assert Case(bench).seeds() == first
    assert len(free) == 5


def test_pairs_are_used(bench, monkeypatch):
    """A pair that is ruinous together, harmless alone: seeds avoid it once they know."""

    def together(found, decisions):
        one, two = decisions[0], decisions[1]
        hits = [found_params[one.param] and found_params[two.param] for found_params in found.params]
        return sum(map(bool, hits))

    def measure(decisions, plan_at, bench, settings, *, say, tell):
        plain = harm(decisions, 0.01)
        if not settings.pairs:
            return plain
        names, at = (decisions[0].name, decisions[1].name), (decisions[0].settings[2], decisions[1].settings[2])
        return replace(plain, pairs=(Pair(decisions=names, settings=at, loss=50.0),))

    monkeypatch.setattr(module, "measure_effects", measure)
    counts = []
    for pairs in (False, True):
        case = Case(bench, seeds={"pairs": pairs})
        counts.append(together(case.seeds(), decisions_of(case.space)))
    assert counts[1] < counts[0] / 2


def test_seeds_are_kept_in_the_study_and_measured_once(tmp_path, free):
    def run(trials):
        return run_study(
            tiny_task(), space=SPACE, trials=trials, seeds={"count": 3}, rungs={"epochs": []}, out=tmp_path / "s"
        )

    first = run(7).findings()
    kinds = [trial.kind for trial in first.trials]
    controls = kinds.count("control")
    assert kinds == ["control"] * controls + ["seed"] * (7 - controls)
    assert first.effects is not None
    for file in Path(tmp_path / "cache").rglob("effects-*.json"):
        file.unlink()
    second = run(controls + 4).findings()
    assert [trial.kind for trial in second.trials] == ["control"] * controls + ["seed"] * 3 + ["search"]
    assert second.trials[:7] == first.trials
    assert len(free) == 1
    assert second.effects == first.effects


def test_a_study_of_controls_only_measures_nothing(tmp_path, free):
    found = run_study(tiny_task(), space=SPACE, trials=3, out=tmp_path / "s").findings()
    assert free == []
    assert found.effects is None


def test_stored_seeds_are_those_that_were_kept():
    study = optuna.create_study()
    assert module.stored(study) is None
    seeding = module.Seeding(params=({"ratio/a": 0.5, "bits@index": 1},), note="fewer")
    module.keep(study, seeding)
    assert module.stored(study) == seeding
