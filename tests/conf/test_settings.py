"""A config becomes frozen settings, or the message names the key."""

import ast
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from paretune.conf.settings import NONE, RungSettings, SeedSettings, Settings, StudySettings, parse_settings
from paretune.errors import ParetuneError

PLAIN: dict[str, Any] = {
    "task": {"name": "digits"},
    "space": {"criterion": "l2"},
    "objectives": ["top1_error", "size_bytes"],
    "study": {"name": "x"},
}


def parsed(**changes: Any) -> Settings:
    return parse_settings({**PLAIN, **changes})


def study(**changes: Any) -> StudySettings:
    return parsed(study={"name": "x", **changes}).study


def test_the_smallest_config_gets_the_defaults() -> None:
    settings = parsed()
    assert settings.study == StudySettings(name="x")
    assert settings.objectives == ("top1_error", "size_bytes")
    assert (settings.sampler, settings.device, settings.limits) == ("layerwise", "auto", {})
    assert (settings.seeds.count, settings.rungs.epochs) == (24, (0, 1, 3))
    assert settings.folder == Path("results/x")


def test_whole_numbers_are_fine_where_floats_are_wanted() -> None:
    minutes = study(trial_minutes=3, minutes=1).trial_minutes
    assert (minutes, type(minutes)) == (3.0, float)


def test_a_limit_of_null_is_none() -> None:
    assert parsed(budget={"size_bytes": 100, "bops": None}).limits == {"size_bytes": 100.0}


def test_a_study_may_lie_deeper() -> None:
    settings = parsed(study={"name": "sweep/seed=1"}, results_dir="elsewhere")
    assert settings.folder == Path("elsewhere/sweep/seed=1")


def test_settings_are_frozen_and_the_config_is_left_alone() -> None:
    plain = {**PLAIN, "study": {"name": "x"}}
    settings = parse_settings(plain)
    assert plain["study"] == {"name": "x"}
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"sampler"):
        settings.sampler = "tpe"  # type: ignore[misc]


@pytest.mark.parametrize("key", ["task", "space", "objectives", "study"])
def test_a_missing_key_is_named(key: str) -> None:
    plain = {name: value for name, value in PLAIN.items() if name != key}
    with pytest.raises(ParetuneError, match=rf"the config key '{key}' is missing"):
        parse_settings(plain)


def test_a_missing_study_name_is_named() -> None:
    with pytest.raises(ParetuneError, match=r"the config key 'study.name' is missing"):
        parsed(study={"trials": 3})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sampeler": "tpe"}, "no config key is called 'sampeler'. Did you mean 'sampler'"),
        ({3: 3}, "no config key is called '3'"),
        ({"study": {"name": "x", "trial": 3}}, "no config key is called 'study.trial'. Did you mean 'study.trials'"),
    ],
)
def test_an_unknown_key_gets_the_near_miss(changes: dict[Any, Any], match: str) -> None:
    with pytest.raises(ParetuneError, match=match):
        parse_settings({**PLAIN, **changes})


WRONG = [
    ("task", "digits", "task must be a table of keys, got 'digits'"),
    ("inventory", 3, "inventory must be a table of keys, got 3"),
    ("space", [], r"space must be a table of keys, got \[\]"),
    ("study", 3, "study must be a table of keys, got 3"),
    ("study", None, "study must be a table of keys, got None"),
    ("objectives", "top1_error", r"objectives must be a list, got 'top1_error'; write objectives=\[top1_error\]"),
    ("objectives", None, "objectives must be a list, got None$"),
    ("objectives", ["top1_error", 3], "each of objectives must be a word, got 3"),
    ("objectives", ["top1_error"], "objectives needs two or three different names"),
    ("objectives", ["a", "b", "c", "d"], "objectives needs two or three different names"),
    ("objectives", ["a", "b", "a"], "objectives needs two or three different names"),
    ("budget", None, "budget must be a table of keys, got None"),
    ("budget", 4, "budget must be a table of keys, got 4"),
    ("budget", {"size_bytes": "small"}, "budget.size_bytes must be a number, got 'small'"),
    ("budget", {"size_bytes": True}, "budget.size_bytes must be a number, got True"),
    ("budget", {"size_bytes": math.nan}, "budget.size_bytes must be a number, got nan"),
    ("sampler", 2, "sampler must be a word, got 2"),
    ("sampler", None, "sampler must be a word, got None"),
    ("results_dir", 1.5, "results_dir must be a word"),
    ("threads", 0, "threads must be 1 or more, or null, got 0"),
    ("threads", "two", "threads must be a whole number, got 'two'"),
    ("device", True, "device must be a word"),
    ("device", "gpu", "device has no option 'gpu'. Did you mean 'cpu'"),
    ("finish", 3, "finish must be a table of keys, got 3; set its keys: finish.epochs, finish.lr, finish.distill$"),
    ("finish", None, "finish must be a table of keys, got None; for none write finish.epochs=0$"),
    ("finish", {"epoch": 3}, "no config key is called 'finish.epoch'. Did you mean 'finish.epochs'"),
    ("finish", {"epochs": -1}, "finish needs epochs of 0 or more and an lr above 0, got -1 and 0.02"),
    ("finish", {"lr": 0}, "finish needs epochs of 0 or more and an lr above 0, got 0 and 0"),
    ("finish", {"distill": "logit"}, "finish.distill has no option 'logit'. Did you mean 'logits'"),
    ("hardware", "edge_npu", "hardware must be a table of keys, got 'edge_npu'"),
    ("latency", 3, "latency must be a table of keys, got 3"),
    ("latency", {"threads": 0}, "latency.threads must be 1 or more, got 0"),
    ("latency", {"repeats": 2}, "latency.repeats must be 3 or more, got 2"),
    ("latency", {"study": "yes"}, "latency.study must be true or false, got 'yes'"),
    ("precision", "bf16", "precision has no option 'bf16'"),
    ("precision", "bfloat15", "precision has no option 'bfloat15'. Did you mean 'bfloat16'"),
    ("rival", "random", "rival must be a table of keys, got 'random'"),
    ("rival", {"name": "x"}, "the config key 'rival.space' is missing"),
    ("rival", {"name": "x", "space": 3}, "rival.space must be a table of keys, got 3"),
    ("seeds", 24, "seeds must be a table of keys, got 24; set its keys: seeds.count, seeds.images, seeds.minutes, see"),
    ("seeds", None, "seeds must be a table of keys, got None; for none write seeds.count=0$"),
    ("seeds", {"number": 3}, "no config key is called 'seeds.number'.*Known: seeds.count, seeds.images, seeds.minutes"),
    ("rungs", None, r"rungs must be a table of keys, got None; for none write rungs.epochs=\[\]$"),
    ("rungs", "none", r"rungs must be a table of keys, got 'none'; for none write rungs.epochs=\[\]$"),
    ("rungs", [0, 1], r"rungs must be a table of keys, got \[0, 1\]; set its keys: rungs.epochs, rungs.eta, rungs.min"),
    ("rungs", {"epoch": [1]}, "no config key is called 'rungs.epoch'. Did you mean 'rungs.epochs'"),
]


@pytest.mark.parametrize(("key", "value", "match"), WRONG)
def test_a_wrong_value_names_its_key(key: str, value: object, match: str) -> None:
    with pytest.raises(ParetuneError, match=match):
        parsed(**{key: value})


WRONG_STUDY = [
    ("name", 17, "study.name must be a word, got 17"),
    ("name", "", "study.name is a folder below results_dir, got ''"),
    ("name", ".", "study.name is a folder below results_dir, got '.'"),
    ("name", "/tmp/x", "study.name is a folder below results_dir"),
    ("name", "a/../../b", "study.name is a folder below results_dir"),
    ("trials", 0, "study.trials must be 1 or more, got 0"),
    ("trials", 1.0, "study.trials must be a whole number, got 1.0"),
    ("trials", "64", "study.trials must be a whole number, got '64'"),
    ("trials", True, "study.trials must be a whole number, got True"),
    ("trials", None, "study.trials must be a whole number, got None"),
    ("seed", -1, "study.seed must be 0 or more, got -1"),
    ("population", 1, "study.population must be 2 or more, got 1"),
    ("full_epochs", 0, "study.full_epochs must be 1 or more, got 0"),
    ("minutes", 0, "study.minutes must be above 0, or null, got 0"),
    ("minutes", "ten", "study.minutes must be a number, got 'ten'"),
    ("minutes", math.nan, "study.minutes must be a number, got nan"),
    ("trial_minutes", -1, "study.trial_minutes must be above 0, got -1"),
    ("trial_minutes", None, "study.trial_minutes must be a number, got None"),
    ("keep", "fronts", "study.keep has no option 'fronts'. Did you mean 'front'"),
    ("keep", False, "study.keep must be a word, got False"),
    ("plateau", 0, "study.plateau must be 1 or more, or null, got 0"),
    ("plateau", 1.5, "study.plateau must be a whole number, got 1.5"),
    ("repeats", -1, "study.repeats must be 0 or more, got -1"),
    ("repeats", None, "study.repeats must be a whole number, got None; for none write study.repeats=0"),
]


@pytest.mark.parametrize(("key", "value", "match"), WRONG_STUDY)
def test_a_wrong_study_value_names_its_key(key: str, value: object, match: str) -> None:
    with pytest.raises(ParetuneError, match=match):
        study(**{key: value})


WRONG_SEEDS = [
    ("count", -1, "seeds.count must be 0 or more, got -1"),
    ("count", None, "seeds.count must be a whole number, got None; for none write seeds.count=0"),
    ("images", 0, "seeds.images must be 1 or more, got 0"),
    ("minutes", 0, "seeds.minutes must be above 0, got 0"),
    ("minutes", math.nan, "seeds.minutes must be a number, got nan"),
    ("pairs", 1, "seeds.pairs must be true or false, got 1"),
]
WRONG_RUNGS = [
    ("epochs", [3, 1], r"rungs.epochs must rise from 0 or more, such as \[0, 1, 3\], got \[3, 1\]"),
    ("epochs", [1, 1], r"rungs.epochs must rise from 0 or more, such as \[0, 1, 3\], got \[1, 1\]"),
    ("epochs", [-1, 1], r"rungs.epochs must rise from 0 or more, such as \[0, 1, 3\], got \[-1, 1\]"),
    ("epochs", 3, r"rungs.epochs must be a list, got 3; write rungs.epochs=\[3\]"),
    ("epochs", "all", "rungs.epochs must be a list, got 'all'$"),
    ("epochs", None, r"rungs.epochs must be a list, got None; for none write rungs.epochs=\[\]"),
    ("epochs", [0.5], "each of rungs.epochs must be a whole number, got 0.5"),
    ("eta", 1, "rungs.eta must be above 1 and finite, got 1"),
    ("eta", math.inf, "rungs.eta must be above 1 and finite, got inf"),
    ("minimum", 2, "rungs.minimum must be 3 or more, got 2"),
    ("correlation", 1.5, r"rungs.correlation must lie in \[-1, 1\], got 1.5"),
]


@pytest.mark.parametrize(
    ("section", "key", "value", "match"),
    [*(("seeds", *row) for row in WRONG_SEEDS), *(("rungs", *row) for row in WRONG_RUNGS)],
)
def test_a_wrong_value_of_a_section_names_its_key(section: str, key: str, value: object, match: str) -> None:
    with pytest.raises(ParetuneError, match=f"^{match}"):
        parsed(**{section: {key: value}})


@pytest.mark.parametrize("key", NONE)
def test_what_the_messages_write_for_none_works(key: str) -> None:
    path, value = NONE[key].split("=")
    section, _, name = path.partition(".")
    study = {"name": "x"} if section == "study" else {}
    more = {section: {**study, name: ast.literal_eval(value)}}
    assert not getattr(getattr(parsed(**more), section), name)


def test_every_key_of_the_settings_is_tried() -> None:
    for kind, rows in (
        (Settings, WRONG), (StudySettings, WRONG_STUDY), (SeedSettings, WRONG_SEEDS), (RungSettings, WRONG_RUNGS),
    ):  # fmt: skip
        assert {field.name for field in dataclasses.fields(kind)} == {row[0] for row in rows}
