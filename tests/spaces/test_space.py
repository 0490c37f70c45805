"""A space asks every chooser the same questions, and its corners are inside it."""

from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from hand_made import small_inventory
from optuna.trial import FixedTrial

from paretune.recipe import Recipe
from paretune.spaces.language import parse_space
from paretune.spaces.space import Space, Wish

SPEC: dict[str, Any] = {
    "groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.8, "step": 0.05}}],
    "layers": [
        {"match": ["@first", "@last"], "weight_bits": 8, "activation_bits": 8},
        {"match": "*", "weight_bits": [2, 3, 4, 6, 8]},
    ],
    "activation_bits": [4, 6, 8],
    "criterion": ["taylor", "l1"],
    "recover": {"epochs": {"low": 1, "high": 5}, "lr": {"low": 0.01, "high": 1.0, "log": True}, "distill": "logits"},
}
PARAMS = {
    "ratio/stem": 0.25, "ratio/body.a": 0.8, "weight_bits/body.a@index": 1, "activation_bits@index": 2,
    "criterion": "l1", "recover/epochs": 2, "recover/lr": 0.5,
}  # fmt: skip


class Table:
    """A chooser that answers from a table and writes down what it was asked."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params, self.asked = params, list[str]()

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked.append(name)
        return float(self.params[name])

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked.append(name)
        return int(self.params[name])

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        self.asked.append(name)
        return str(self.params[name])


def space_of(**changes: Any) -> Space:
    return parse_space({**SPEC, **changes}, small_inventory())


def test_the_recipe_is_what_was_answered() -> None:
    recipe = space_of().ask(FixedTrial(PARAMS))
    assert recipe.ratios == {"stem": 0.25, "body.a": 0.8}
    assert recipe.weight_bits == {"stem": 8, "body.a": 3, "head": 8}
    assert recipe.activation_bits == {"stem": 8, "body.a": 8, "head": 8}
    assert (recipe.blends["stem"].criteria[0], recipe.recovery.epochs, recipe.recovery.lr) == ("l1", 2, 0.5)
    assert recipe.recovery.distill == "logits"


def test_every_chooser_gets_the_same_questions_in_the_same_order() -> None:
    table, trial = Table(PARAMS), FixedTrial(PARAMS)
    assert space_of().ask(table) == space_of().ask(trial)
    assert table.asked == list(trial.distributions) == list(PARAMS)


def test_a_real_trial_answers_too_and_its_params_give_the_recipe_again() -> None:
    optuna.logging.disable_default_handler()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        recipe = space_of().ask(trial)
        assert space_of().ask(FixedTrial(trial.params)) == recipe
        assert all(0 <= ratio <= 0.8 for ratio in recipe.ratios.values())


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("bits", [2, 5, 8, 32])
def test_the_nearest_point_is_in_the_space(ratio: float, bits: int) -> None:
    """FixedTrial warns about a value outside its distribution, and warnings are errors."""
    wish = Wish(ratio=ratio, weight_bits=bits, activation_bits=bits)
    recipe = space_of().ask(FixedTrial(space_of().near(wish)))
    assert set(recipe.ratios.values()) == {min(ratio, 0.8)}
    assert recipe.weight_bits["body.a"] == {2: 2, 5: 4, 8: 8, 32: 8}[bits]
    assert recipe.activation_bits["body.a"] == {2: 4, 5: 4, 8: 8, 32: 8}[bits]
    assert (recipe.blends["stem"].criteria[0], recipe.recovery.epochs) == ("taylor", 3)
    assert recipe.recovery.lr == pytest.approx(0.1)


def test_the_smallest_recipe_removes_most_and_stores_least() -> None:
    smallest = space_of().smallest()
    assert smallest.ratios == {"stem": 0.8, "body.a": 0.8}
    assert smallest.weight_bits == {"stem": 8, "body.a": 2, "head": 8}
    assert smallest.activation_bits == {"stem": 8, "body.a": 4, "head": 8}
    assert smallest.recovery.epochs == 1


def test_nothing_in_the_space_is_below_the_smallest() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    smallest = space_of().smallest()

    def below(recipe: Recipe) -> bool:
        more_removed = any(recipe.ratios[name] > smallest.ratios[name] for name in recipe.ratios)
        return more_removed or any(recipe.weight_bits[name] < smallest.weight_bits[name] for name in recipe.weight_bits)

    assert not any(below(space_of().ask(study.ask())) for _ in range(20))


def test_the_criteria_a_recipe_may_name() -> None:
    assert space_of().criteria == ("taylor", "l1")
    assert space_of(criterion="l2").criteria == ("l2",)


@pytest.mark.parametrize(
    "change",
    [
        {"groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.8, "step": 0.1}}]},
        {"groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.8, "step": 0.05}, "tie": True}]},
        {"layers": [{"match": "*", "weight_bits": [2, 3, 4, 6, 8]}]},
        {"activation_bits": [4, 8, 6]},
        {"activation_bits": [4, 6]},
        {"activation_bits": 8},
        {"criterion": ["l1", "taylor"]},
        {"recover": {**SPEC["recover"], "epochs": 3}},
        {"recover": {**SPEC["recover"], "lr": {"low": 0.01, "high": 1.0}}},
        {"recover": {**SPEC["recover"], "distill": "none"}},
    ],
)
def test_the_key_changes_when_anything_does(change: dict[str, Any]) -> None:
    assert space_of(**change).key != space_of().key


def test_the_key_stays_when_nothing_does() -> None:
    assert space_of().key == space_of().key
    assert space_of(groups=[dict(reversed(SPEC["groups"][0].items()))]).key == space_of().key


def test_the_description_names_every_question() -> None:
    described = space_of().describe()
    assert list(described) == [question.name for question in space_of().questions]
    assert described["recover/distill"] == "logits"
    assert described["recover/lr"] == "0.01 to 1.0 log"
    assert described["weight_bits/body.a"] == "2 or 3 or 4 or 6 or 8"
    assert described["ratio/stem"] == "0.0 to 0.8 by 0.05"
