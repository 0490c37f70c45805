"""One contract for every sampler: bounds, determinism, exact resume, controls that evolution can see."""

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from paretune.errors import UnknownName
from paretune.samplers.layout import distributions
from paretune.samplers.reproducible import Reproducible, ask_seed
from paretune.samplers.table import SAMPLERS
from paretune.search.store import unfinished
from paretune.spaces.leaf import Choice, Fixed, Range
from paretune.spaces.mixing import Mixing
from paretune.spaces.question import Question
from paretune.spaces.sections import section
from paretune.spaces.space import Space

SPACE = Space(
    ratios=tuple(
        Question(name=f"ratio/g{i}", leaf=Range(low=0.0, high=0.8, step=0.05), targets=(f"g{i}",)) for i in range(3)
    ),
    weight_bits=(Question(name="weight_bits/a", leaf=Choice(options=(2, 3, 4, 6, 8)), targets=("a",)),),
    activation_bits=(Question(name="activation_bits", leaf=Fixed(value=8), targets=("a",)),),
    mixing=Mixing(
        criteria=("l1", "taylor"),
        names=("g0", "g1", "g2", "a"),
        plain=Question(name="criterion", leaf=Choice(options=("l1", "taylor"))),
    ),
    shared=tuple(
        question
        for name, given in {
            "recover": {"epochs": 3, "lr": {"low": 0.001, "high": 0.1, "log": True}},
            **{key: {} for key in ("rate", "mask", "quantize", "joint", "keep", "blend", "")},
        }.items()
        for question in section(name, given)
    ),
)
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
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
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
    trial.set_constraint("size", recipe.weight_bits["a"] - 7)
    study.tell(trial, [error, recipe.weight_bits["a"] - light])


def told(study):
    return [(t.number, t.state.name, t.params, t.values) for t in study.get_trials(deepcopy=False)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_killed_study_goes_on_as_if_nothing_had_happened(name, tmp_path):
    trials = 24 if name != "gp" else 14  # a Gaussian process takes a second per ask once it has ten trials
    whole = open_at(tmp_path / "whole", name)
    for _ in range(trials):
        one(whole)
    for number in range(trials):
        try:
            # Killed before the first question, between two, and after the last one but before telling.
            if number in (1, 5, 13, 14, 20):
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
        assert trial.distributions == distributions(SPACE)
        assert all(
            dist._contains(dist.to_internal_repr(trial.params[key])) for key, dist in trial.distributions.items()
        )


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_evolution_counts_controls_as_parents(name, tmp_path):
    study = open_at(tmp_path / "j", name)
    for _ in range(10):
        one(study)
    generations = [v for k, v in study.trials[1].system_attrs.items() if k.endswith("generation")]
    assert generations == [0]


def test_an_unknown_sampler_is_answered_with_the_near_miss():
    with pytest.raises(UnknownName, match="no sampler is called 'nsga'"):
        Reproducible("nsga", seed=0, population=4, space=SPACE, fixed={})


def test_ask_seeds_differ():
    seeds = {ask_seed(seed, number, name) for seed in range(5) for number in range(50) for name in ("", "a")}
    assert len(seeds) == 500
