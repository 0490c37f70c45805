"""The evolutionary sampler: who is a parent, how it learns which mutation works, what it keeps between asks."""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from paretune.pareto import hypervolume
from paretune.samplers.breeding import ARMS
from paretune.samplers.layerwise import ARM, FEWEST, LEVEL, RECENT, LayerwiseSampler, arm_chances, violation
from paretune.samplers.layout import Axis, Layout
from paretune.samplers.table import Setup, make_sampler

LAYERS = 20
LAYOUT = Layout(
    axes=(
        *(
            Axis(name=f"ratio/{i}", distribution=IntDistribution(0, 5), block=f"b{i // 2}", kind="ratio")
            for i in range(LAYERS)
        ),
        *(
            Axis(name=f"bits/{i}", distribution=IntDistribution(0, 4), block=f"b{i // 2}", kind="bits")
            for i in range(LAYERS)
        ),
    )
)
SIZE = np.random.default_rng(0).lognormal(size=LAYERS)
HURT = np.random.default_rng(1).lognormal(size=LAYERS)


def answer(params):
    """A network whose layers differ in size and sensitivity: error and size of a plan, both in [0, 1]."""
    ratio = np.array([params[f"ratio/{i}"] for i in range(LAYERS)]) * 0.15
    bits = np.array([2, 3, 4, 6, 8])[[params[f"bits/{i}"] for i in range(LAYERS)]]
    harm = (HURT * (ratio**2 + 4.0 ** (1 - bits))).sum() / HURT.sum()
    return [1 - np.exp(-10 * harm), (SIZE * (1 - ratio) * bits / 8).sum() / SIZE.sum()]


def make(number, memo, seed=0):
    return LayerwiseSampler(LAYOUT, population_size=8, seed=1000 * seed + number, memo=memo)


def grown(trials, memo=None, seed=0, state=lambda number: TrialState.COMPLETE, limit=None):
    """A study of so many trials; a new memo for every ask if there is none."""
    study = optuna.create_study(directions=["minimize"] * 2)
    for number in range(trials):
        study.sampler = make(number, {} if memo is None else memo, seed)
        trial = study.ask(dict(LAYOUT.distributions))
        values = answer(trial.params)
        if limit is not None:
            trial.set_constraint("size", values[1] / limit - 1)
        done = state(number) == TrialState.COMPLETE
        study.tell(trial, values if done else None, state=state(number))
    return study


def told(study):
    return [(trial.params, trial.system_attrs, trial.values) for trial in study.trials]


def mixed(number):
    return (TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)[number % 4]


def test_what_is_kept_between_asks_changes_nothing():
    kept, rebuilt = (grown(70, memo, state=mixed, limit=0.5) for memo in ({}, None))
    assert told(kept) == told(rebuilt)


def test_all_told_trials_may_be_parents_and_stopped_or_failed_ones_may_not():
    study = grown(60, {}, state=mixed)
    params = {axis.name: 0 for axis in LAYOUT.axes}  # nobody's child: it carries no attribute of ours
    study.add_trial(create_trial(params=params, distributions=dict(LAYOUT.distributions), values=[0.0, 0.0]))
    parents = make(99, {}).select_parent(study, 0)
    assert parents[0].number == 60
    assert {trial.state for trial in parents} == {TrialState.COMPLETE}


def test_an_infeasible_trial_is_no_parent_while_enough_are_feasible():
    study = grown(150, {}, limit=0.5)
    feasible = [trial for trial in study.trials if violation(trial) == 0]
    assert len(feasible) > FEWEST
    assert all(violation(trial) == 0 for trial in make(200, {}).select_parent(study, 0))


def test_violations_add_up_and_slack_does_not_count():
    trial = create_trial(values=[0.0], params={}, distributions={})
    for name, value in {"a": 0.5, "b": -3.0, "c": 0.25}.items():
        trial.set_constraint(name, value)
    assert violation(trial) == 0.75


def test_coherent_levels_come_first_and_every_child_says_how_it_was_made():
    study = grown(FEWEST + 20, {})
    made = [trial.system_attrs[ARM] for trial in study.trials]
    assert made[:FEWEST] == [LEVEL] * FEWEST
    assert set(made[FEWEST:]) <= set(ARMS)


def test_given_points_stand_in_for_levels():
    study = optuna.create_study(directions=["minimize"] * 2)
    for number in range(FEWEST // 2):
        params = {axis.name: number % (axis.levels or 1) for axis in LAYOUT.axes}
        study.add_trial(create_trial(params=params, distributions=dict(LAYOUT.distributions), values=answer(params)))
    study.sampler = make(number, {})
    study.ask(dict(LAYOUT.distributions))
    assert study.trials[-1].system_attrs[ARM] in ARMS


def test_trials_of_another_space_are_no_parents():
    study = grown(10, {})
    study.add_trial(create_trial(params={"y": 0.5}, distributions={"y": FloatDistribution(0, 1)}, values=[-1.0, -1.0]))
    assert 10 not in {trial.number for trial in make(11, {}).select_parent(study, 0)}


def test_nothing_told_but_failures_is_no_crash():
    study = grown(FEWEST + 5, {}, state=lambda number: TrialState.FAIL)
    assert {trial.system_attrs[ARM] for trial in study.trials} == {LEVEL}


def test_a_space_of_nothing_open_is_answered_with_nothing():
    study = optuna.create_study(directions=["minimize"] * 2)
    sampler = LayerwiseSampler(Layout(axes=()), population_size=8, seed=0, memo={})
    assert sampler.sample_relative(study, study.trials, {}) == {}


def test_constant_objectives_are_no_crash():
    study = optuna.create_study(directions=["minimize"] * 2)
    memo = {}
    for number in range(FEWEST + 10):
        study.sampler = make(number, memo)
        study.tell(study.ask(dict(LAYOUT.distributions)), [1.0, 1.0])
    assert len({tuple(trial.params.values()) for trial in study.trials}) > FEWEST


def test_a_question_outside_the_space_gets_a_random_answer():
    study = optuna.create_study(directions=["minimize"] * 2)
    answers = []
    for seed in (0, 0, 1):
        study.sampler = make(seed, {})
        answers.append(study.ask().suggest_float("other", 0, 1))
    assert answers[0] == answers[1] != answers[2]


def test_an_arm_is_drawn_more_often_the_more_of_its_children_stay():
    arms = {number: "1" if number % 2 else "4" for number in range(RECENT)}
    chances = arm_chances(arms, {number for number in arms if number % 2})
    half = RECENT // 2
    shares = {"1": (1 + half) / (len(ARMS) + half), "4": 1 / (len(ARMS) + half), "2": 1 / len(ARMS)}
    assert chances["1"] / chances["4"] == pytest.approx(shares["1"] / shares["4"])
    assert chances["2"] / chances["4"] == pytest.approx(shares["2"] / shares["4"])
    assert sum(chances.values()) == pytest.approx(1)
    assert min(chances.values()) > 0


def test_arms_are_judged_by_their_recent_children():
    old = dict.fromkeys(range(100), "1")
    new = dict.fromkeys(range(100, 100 + RECENT), "4")
    assert arm_chances(old | new, set(old)) == arm_chances(new, set())


@pytest.fixture(scope="module")
def volumes():
    """Hypervolumes after 40, 80 and 120 trials, mean of two seeds, by sampler."""

    def after(name):
        found = []
        for seed in range(2):
            study, memo = optuna.create_study(directions=["minimize"] * 2), {}
            whole = make_sampler(name, Setup(seed=seed, population=16, layout=LAYOUT))
            points = []
            for number in range(120):
                study.sampler = whole if name == "nsga2" else make(number, memo, seed)
                trial = study.ask(dict(LAYOUT.distributions))
                points.append(answer(trial.params))
                study.tell(trial, points[-1])
            found.append([hypervolume(np.array(points[:count]), np.ones(2)) for count in (40, 80, 120)])
        return np.mean(found, axis=0)

    return {name: after(name) for name in ("layerwise", "nsga2")}


def test_it_finds_more_than_nsga2_from_scratch_at_every_budget(volumes):
    assert (volumes["layerwise"] > 2 * volumes["nsga2"]).all(), volumes


def test_it_goes_on_improving_after_its_first_levels(volumes):
    assert volumes["layerwise"][-1] > 1.04 * volumes["layerwise"][0], volumes
