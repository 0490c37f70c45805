"""The surrogate proposes what is new, what fits the limits, and better points than luck; its answers need no memory."""

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from paretune.pareto import hypervolume, nondominated
from paretune.samplers.layout import Axis, Layout
from paretune.samplers.reproducible import ask_seed
from paretune.samplers.surrogate import BATCH, SurrogateSampler, _Past, gained, learned, newest_and_best

LAYERS = 6
RATIO, BITS = FloatDistribution(0.0, 0.75, step=0.15), IntDistribution(0, 4)
LAYERED = [
    Axis(name=f"{kind}/{i}", distribution=distribution, block=f"b{i // 2}", kind=kind)
    for i in range(LAYERS)
    for kind, distribution in (("ratio", RATIO), ("weight_bits", BITS))
]
RULE = Axis(name="rule", distribution=CategoricalDistribution(("a", "b")), block="rule", kind="rule")
LAYOUT = Layout(axes=(*LAYERED, RULE))
WEIGHT = np.linspace(0.2, 1.8, LAYERS) / LAYERS


class Alone(BaseSampler):
    """Asks a surrogate made anew for every trial, with a `memo` or without."""

    def __init__(self, layout, seed=0, memo=None):
        self.layout, self.seed, self.memo = layout, seed, memo

    def infer_relative_search_space(self, study, trial):
        return self.layout.distributions

    def sample_relative(self, study, trial, search_space):
        memo = {} if self.memo is None else self.memo
        made = SurrogateSampler(self.layout, population_size=12, seed=ask_seed(self.seed, trial.number), memo=memo)
        return made.sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        raise AssertionError(f"{param_name} was left out")


def values_of(row):
    """Error and size of a row of places; the heavy layers are the insensitive ones."""
    ratio, bits = row[0 : 2 * LAYERS : 2] / 5, row[1 : 2 * LAYERS : 2] / 4
    harm = (WEIGHT[::-1] * (ratio**2 + (1 - bits) ** 2)).sum() / 2
    return [float(harm), float((WEIGHT * (1 - 0.75 * ratio) * (0.25 + 0.75 * bits)).sum())]


def ran(sampler, trials, limit=None):
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    for _ in range(trials):
        trial = study.ask(LAYOUT.distributions)
        values = values_of(LAYOUT.row(trial.params))
        if limit is not None:
            trial.set_constraint("size", values[1] / limit - 1)
            values = [1.0, values[1]] if values[1] > limit else values
        study.tell(trial, values)
    return study


def volume(study):
    return hypervolume(np.array([trial.values for trial in study.trials]), np.ones(2))


def test_it_is_ahead_of_random_trials():
    lucky = max(volume(ran(RandomSampler(seed=seed), 48)) for seed in range(3))
    assert volume(ran(Alone(LAYOUT, memo={}), 48)) > lucky


def test_an_ask_needs_no_memory():
    first, second = ran(Alone(LAYOUT, memo={}), 19), ran(Alone(LAYOUT), 19)
    assert [trial.params for trial in first.trials] == [trial.params for trial in second.trials]


def test_nothing_is_proposed_twice():
    study = ran(Alone(LAYOUT, memo={}), 28)
    assert len({tuple(trial.params.values()) for trial in study.trials[12:]}) == 16


def test_trials_told_during_a_batch_change_no_candidates_but_may_change_the_choice():
    memo = {}
    study = ran(Alone(LAYOUT, memo=memo), 16)
    keys = []
    for _ in range(BATCH + 1):
        trial = study.ask(LAYOUT.distributions)
        keys.append(memo["surrogate"]["key"])
        study.tell(trial, values_of(LAYOUT.row(trial.params)))
    assert len(set(keys[:BATCH])) == 1
    assert keys[BATCH] != keys[0]


def test_failed_and_pruned_trials_teach_nothing_but_are_not_asked_again():
    study = ran(Alone(LAYOUT, memo={}), 16)
    for state in (TrialState.FAIL, TrialState.PRUNED):
        study.tell(study.ask(LAYOUT.distributions), state=state)
    asked = [study.ask(LAYOUT.distributions) for _ in range(2)]
    assert len({tuple(trial.params.values()) for trial in study.trials[16:]}) == 4
    assert len(asked) == 2


def test_limits_are_learned_although_quality_was_not_measured_beyond_them():
    study = ran(Alone(LAYOUT, memo={}), 36, limit=0.3)
    fits = [all(value <= 0 for value in trial.constraints.values()) for trial in study.trials]
    assert np.mean(fits[16:]) > 0.7
    assert len({trial.values[0] for trial, fit in zip(study.trials, fits, strict=True) if fit}) > 10


def test_a_limit_that_nothing_keeps_leads_to_the_smallest():
    study = ran(Alone(LAYOUT, memo={}), 32, limit=1e-6)
    sizes = [trial.values[1] for trial in study.trials]
    assert np.median(sizes[20:]) < np.quantile(sizes[:12], 0.25)


@pytest.mark.parametrize("values", [[0.5, 2.0], [0.0, 0.0], [0.5, -1.0]])
def test_constant_objectives_leave_it_exploring(values):
    study = optuna.create_study(directions=["minimize"] * 2, sampler=Alone(LAYOUT, memo={}))
    for _ in range(24):
        study.tell(study.ask(LAYOUT.distributions), values)
    assert len({tuple(trial.params.values()) for trial in study.trials[12:]}) == 12


def test_a_space_that_is_used_up_is_asked_again():
    tiny = Layout(axes=(RULE,))
    study = optuna.create_study(directions=["minimize"] * 2, sampler=Alone(tiny, memo={}))
    for _ in range(14):
        study.tell(study.ask(tiny.distributions), [0.1, 0.2])
    assert {trial.params["rule"] for trial in study.trials} == {"a", "b"}


def past_of(values, constraints=None):
    values = np.asarray(values, dtype=float)
    rows = np.array([[place % 6, place % 5] * LAYERS + [place % 2] for place in range(len(values))], dtype=float)
    limits = np.zeros((len(values), 0)) if constraints is None else np.asarray(constraints, dtype=float)
    return _Past(numbers=tuple(range(len(values))), rows=rows, values=values, constraints=limits)


def test_gains_are_differences_of_hypervolumes():
    rng = np.random.default_rng(0)
    told, new = rng.random((20, 3)), rng.random((6, 3))
    front = told[nondominated(told)]
    corner = front.max(axis=0) * 1.3
    wanted = [hypervolume(np.vstack([front, point]), corner) - hypervolume(front, corner) for point in new]
    assert gained(new, past_of(told)) == pytest.approx(wanted, abs=1e-12)


def test_infeasible_points_cover_nothing():
    told = [[0.1, 0.1], [0.5, 1.0], [1.0, 0.5]]
    new = np.array([[0.4, 0.4]])
    assert gained(new, past_of(told))[0] == 0.0
    assert gained(new, past_of(told, [[0.2], [-0.1], [0.0]]))[0] > 0.0


def test_the_worst_quality_of_an_infeasible_trial_is_no_measurement():
    told = [[0.1 + 0.01 * i, 5.0 + i % 3] for i in range(20)]
    over = [*told, *([1.0, 9.0] for _ in range(10))]
    limits = [[-0.5]] * 20 + [[0.5]] * 10
    quality = [learned(LAYOUT, past_of(over, given)).columns[0] for given in (limits, [[-0.5]] * 30)]
    assert [len(column.points) for column in quality] == [20, 30]


def test_the_front_and_the_newest_are_kept():
    values = [[i, 1000 - i] for i in range(10)] + [[2000 + i, 2000 + i] for i in range(50)]
    kept = newest_and_best(past_of(values), 24)
    assert kept.numbers == (*range(10), *range(46, 60))
    assert newest_and_best(past_of(values[:10]), 24).numbers == tuple(range(10))
    assert len(newest_and_best(past_of([[i, -i] for i in range(100)]), 24).numbers) == 24
