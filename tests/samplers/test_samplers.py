"""One contract for every sampler: bounds, determinism, exact resume, no point twice, seeds that are seen."""

from itertools import pairwise

import numpy as np
import optuna
import pytest

from paretune.errors import UnknownName
from paretune.samplers import layerwise, reproducible
from paretune.samplers.layout import distributions, layout_of
from paretune.samplers.reproducible import TRIES, Reproducible, ask_seed
from paretune.samplers.table import SAMPLERS, make_sampler
from paretune.search.journal import replayed
from paretune.search.store import unfinished
from paretune.spaces.leaf import Choice, Fixed, Range
from paretune.spaces.mixing import Mixing
from paretune.spaces.question import Question
from paretune.spaces.sections import section
from paretune.spaces.space import Space


def space_of(ratio, groups, bits, criterion, lr):
    return Space(
        ratios=tuple(Question(name=f"ratio/g{i}", leaf=ratio, targets=(f"g{i}",)) for i in range(groups)),
        weight_bits=(Question(name="weight_bits/a", leaf=bits, targets=("a",)),),
        activation_bits=(Question(name="activation_bits", leaf=Fixed(value=8), targets=("a",)),),
        mixing=Mixing(
            criteria=("l1", "taylor"),
            names=(*(f"g{i}" for i in range(groups)), "a"),
            plain=Question(name="criterion", leaf=criterion),
        ),
        shared=tuple(
            question
            for name, given in {
                "recover": {"epochs": 3, "lr": lr},
                **{key: {} for key in ("rate", "mask", "quantize", "joint", "keep", "blend", "")},
            }.items()
            for question in section(name, given)
        ),
    )


SPACE = space_of(
    Range(low=0.0, high=0.8, step=0.05), 3, Choice(options=(2, 3, 4, 6, 8)), Choice(options=("l1", "taylor")),
    {"low": 0.001, "high": 0.1, "log": True},
)  # fmt: skip
ONE_POINT = space_of(Fixed(value=0.5), 2, Fixed(value=4), Fixed(value="l1"), 0.01)
CONTROL = {
    "ratio/g0": 0.5,
    "ratio/g1": 0.5,
    "ratio/g2": 0.5,
    "weight_bits/a@index": 4,
    "criterion": "l1",
    "recover/lr": 0.01,
}


class Killed(Exception):
    pass


def open_at(path, name, seed=0):
    """The study of a journal, with its sampler made anew, as a resumed process would."""
    path.touch()
    study = optuna.create_study(
        storage=replayed(path),
        study_name="s",
        directions=["minimize"] * 2,
        load_if_exists=True,
    )
    study.sampler = Reproducible(name, seed=seed, population=6, space=SPACE, fixed={1: CONTROL})
    return study


def one(study, questions_before_kill=None):
    """Ask, answer with a synthetic trade-off, tell; optionally die after some questions, or just before telling."""
    trial = unfinished(study) or study.ask()
    if trial.number == 0:  # like the dense model: no parameters, told PRUNED
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return
    asked = 0

    class Mortal:
        def __getattr__(self, name):
            def ask(*args, **kwargs):
                nonlocal asked
                if questions_before_kill is not None and asked == questions_before_kill:
                    raise Killed
                asked += 1
                return getattr(trial, name)(*args, **kwargs)

            return ask

    recipe = SPACE.ask(Mortal())
    if questions_before_kill is not None:
        raise Killed
    light = sum(recipe.ratios.values())
    error = sum(r**3 for r in recipe.ratios.values()) + 1 / recipe.weight_bits["a"] + recipe.recovery.lr
    trial.set_constraint("size", recipe.weight_bits["a"] - 7)  # 8 bits are infeasible
    if trial.number % 6 in (3, 4):
        study.tell(trial, state=(optuna.trial.TrialState.FAIL, optuna.trial.TrialState.PRUNED)[trial.number % 6 - 3])
    else:
        study.tell(trial, [error, recipe.weight_bits["a"] - light])


def told(study):
    return [(t.number, t.state.name, t.params, t.values) for t in study.get_trials(deepcopy=False)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_killed_study_goes_on_as_if_nothing_had_happened(name, tmp_path, monkeypatch):
    monkeypatch.setattr(layerwise, "FEWEST", 6)  # so that children come early
    trials = 24 if name != "gp" else 14  # a Gaussian process takes a second per ask once it has ten trials
    whole = open_at(tmp_path / "whole", name)
    for _ in range(trials):
        one(whole)
    for number in range(trials):
        try:
            # Killed before the first question, between two, and after the last one but before telling.
            if number in (1, 3, 4, 5, 13, 14, 20):
                one(open_at(tmp_path / "killed", name), questions_before_kill=number % 7)
        except Killed:
            pass
        one(open_at(tmp_path / "killed", name))
    assert told(open_at(tmp_path / "killed", name)) == told(whole)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_seed_decides(name, tmp_path):
    studies = [open_at(tmp_path / f"{i}", name, seed) for i, seed in enumerate((0, 0, 1))]
    for study in studies:
        for _ in range(4):
            one(study)
    first, same, other = (told(study) for study in studies)
    assert first == same
    assert first[2:] != other[2:]


@pytest.mark.parametrize("name", SAMPLERS)
def test_controls_get_their_parameters_and_everything_stays_in_bounds(name, tmp_path):
    study = open_at(tmp_path / "j", name)
    for _ in range(12):
        one(study)
    assert study.trials[1].params == CONTROL
    for trial in study.trials[1:]:
        assert trial.distributions == distributions(SPACE)  # all that is open, nothing that is fixed
        assert "activation_bits" not in trial.params
        assert all(
            dist._contains(dist.to_internal_repr(trial.params[key])) for key, dist in trial.distributions.items()
        )


def asked(name, space, trials, *, fixed=None, population=6, answer=lambda params: [0.0, 0.0]):
    """A study of `space` in memory; the driver's memory of evaluated points is `known`."""
    study = optuna.create_study(directions=["minimize"] * 2)
    known = set()
    study.sampler = Reproducible(
        name, seed=0, population=population, space=space, fixed=fixed or {},
        known=lambda params: tuple(params.items()) in known,
    )  # fmt: skip
    for _ in range(trials):
        trial = study.ask()
        space.ask(trial)
        known.add(tuple(trial.params.items()))
        study.tell(trial, answer(trial.params))
    return study


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_point_is_proposed_twice_until_there_is_no_other(name):
    groups = 1 if name == "gp" else 3
    space = space_of(Choice(options=(0.0, 0.5)), groups, Choice(options=(2, 4)), Choice(options=("l1", "taylor")), 0.01)
    size = 2 ** (groups + 2)
    trials = asked(name, space, size + 1, answer=lambda params: [1.0 - sum(map(len, map(str, params))), 0.0]).trials
    points = [tuple(trial.params.items()) for trial in trials]
    assert len(set(points[:-1])) == size
    assert points[-1] in points[:-1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_known_point_of_a_large_space_is_left_by_steps(name):
    """Even a sampler that only ever proposes evaluated points finds another one near them."""
    study = optuna.create_study(directions=["minimize"] * 2)
    calls = []
    study.sampler = Reproducible(
        name, seed=0, population=6, space=SPACE, fixed={},
        known=lambda params: calls.append(dict(params)) or len(calls) < TRIES + 3,
    )  # fmt: skip
    trial = study.ask()
    SPACE.ask(trial)
    assert len(calls) == TRIES + 3
    assert trial.params == calls[-1]
    changed = [sum(one[key] != other[key] for key in one) for one, other in pairwise(calls[TRIES - 1 :])]
    assert all(1 <= axes <= 4 for axes in changed)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_point_is_known_by_the_numbers_that_its_trial_holds(name):
    trials = asked(name, SPACE, 6, fixed={2: CONTROL | {"ratio/g0": 0.05 * 3}}).trials  # 0.15000000000000002
    grid = {round(0.05 * place, 2) for place in range(17)}
    assert all(trial.params[f"ratio/g{i}"] in grid for trial in trials for i in range(3))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_space_of_one_point_is_asked_nothing(name):
    trials = asked(name, ONE_POINT, 3).trials
    assert [trial.params for trial in trials] == [{}] * 3
    sampler = Reproducible(name, seed=0, population=6, space=ONE_POINT, fixed={}, known=lambda params: True)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    assert study.ask().relative_params == {}


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("random", "gp")])
def test_seeds_are_parents(name):
    """Forty seeds lie in one corner and are the best there is: what follows lies near them, not anywhere."""
    seeds = {
        number: CONTROL | {f"ratio/g{i}": 0.05 * (number // 3**i % 3) for i in range(3)} | {"recover/lr": lr}
        for number, lr in enumerate(np.geomspace(0.001, 0.1, 40).tolist())
    }
    study = asked(
        name, SPACE, 60, fixed=seeds, population=40,
        answer=lambda params: [sum(params[f"ratio/g{i}"] for i in range(3)), params["recover/lr"]],
    )  # fmt: skip
    assert [trial.params for trial in study.trials[:40]] == [layout_of(SPACE).on_grid(seeds[i]) for i in range(40)]
    ratios = [trial.params[f"ratio/g{i}"] for trial in study.trials[40:] for i in range(3)]
    assert np.mean(ratios) < 0.2  # of the seeds it is 0.05, of random points 0.4


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_controls_belong_to_the_first_generation_of_optunas_own(name, tmp_path):
    study = open_at(tmp_path / "j", name)
    for _ in range(10):
        one(study)
    generations = [v for k, v in study.trials[1].system_attrs.items() if k.endswith("generation")]
    assert generations == [0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_asked_twice_only_where_asking_changes_what_is_stored(name, monkeypatch):
    """NSGA stores parents at its first answer; all others answer once, and not at all for given parameters."""
    made = []

    def counting(name, setup):
        sampler = make_sampler(name, setup)
        answer = sampler.sample_relative
        sampler.sample_relative = lambda *args: made.append(args[1].number) or answer(*args)
        return sampler

    monkeypatch.setattr(reproducible, "make_sampler", counting)
    asked(name, SPACE, 3, fixed={1: CONTROL})
    assert made == ([0, 0, 1, 1, 2, 2] if name in ("nsga2", "nsga3") else [0, 2])


def test_an_unknown_sampler_is_answered_with_the_near_miss():
    with pytest.raises(UnknownName, match="no sampler is called 'nsga'"):
        Reproducible("nsga", seed=0, population=4, space=SPACE, fixed={})


def test_ask_seeds_differ():
    seeds = {ask_seed(seed, number, name) for seed in range(5) for number in range(50) for name in ("", "a")}
    assert len(seeds) == 500
