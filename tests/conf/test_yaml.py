"""The configs in the package fit the code: every name in them exists."""

import inspect
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import hydra
import pytest
import yaml
from hand_made import small_inventory
from omegaconf import OmegaConf

from paretune.compress.criteria import CRITERIA
from paretune.compress.groups import discover
from paretune.conf.settings import Settings, StudySettings, parse_settings
from paretune.costs.table import COSTS
from paretune.inventory import Inventory
from paretune.samplers.table import SAMPLERS
from paretune.search.study import rival_of
from paretune.spaces.language import parse_space
from paretune.spaces.space import Wish
from paretune.tasks.bare import BARE, make_bare
from paretune.tasks.table import TASKS
from paretune.tasks.task import TOP1_ERROR


def names(group: str) -> list[str]:
    folder = files("paretune.conf") / group
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


@pytest.fixture(autouse=True, scope="module")
def composer() -> Iterator[None]:
    with hydra.initialize_config_module("paretune.conf", version_base="1.3"):
        yield


def composed(*overrides: str) -> Settings:
    plain = OmegaConf.to_container(hydra.compose("config", overrides=list(overrides)), resolve=True)
    assert isinstance(plain, dict)
    return parse_settings({str(key): value for key, value in plain.items()})


@cache
def resnet20() -> Inventory:
    bare = make_bare({"name": "cifar", "model": "resnet20"})
    assert bare is not None
    return discover(bare.model, bare.example)


def inventory_for(spec: Any) -> Inventory:
    """A network that has the layers which the rows of a space name."""
    return resnet20() if "layer1*" in str(spec) else small_inventory()


def check(settings: Settings) -> None:
    """What carrying out a study would check later."""
    inventory = inventory_for(settings.space)
    space = parse_space(settings.space, inventory)
    if settings.rival is not None:
        rival = parse_space(rival_of(settings).space, inventory)
        assert rival.key != space.key, "a rival that searches the same space is none"
        assert set(rival.criteria) <= set(CRITERIA)
    assert set(space.criteria) <= set(CRITERIA)
    assert settings.objectives[0] == TOP1_ERROR.name
    assert set(settings.objectives[1:]) <= set(COSTS)
    assert set(settings.budget) <= set(COSTS)
    assert settings.sampler in SAMPLERS
    arguments = {key for key in settings.task if key != "name"}
    makers = {**TASKS, **BARE}
    assert arguments <= set(inspect.signature(makers[str(settings.task["name"])]).parameters)


def test_there_is_something_to_check() -> None:
    assert {"layerwise", "uniform"} <= set(names("space"))
    assert "digits" in names("experiment")
    assert "digits" in names("task")


@pytest.mark.parametrize("name", names("space"))
def test_a_packaged_space_parses(name: str) -> None:
    spec: Any = yaml.safe_load((files("paretune.conf") / "space" / f"{name}.yaml").read_text())
    inventory = inventory_for(spec)
    space = parse_space(spec, inventory)
    assert set(space.criteria) <= set(CRITERIA)
    assert space.near(Wish(ratio=0.5, weight_bits=8, activation_bits=8))
    removing = space.smallest()
    sparse = [want for want in removing.wanted.values() if want.sparsity or want.kind == "partition"]
    fewer = (
        removing.ratios[inventory.groups[0].name] > 0
        or sparse
        or removing.rate.rule != "per_layer"
        or name == "partition"
    )
    assert fewer or max(removing.weight_bits.values()) <= 8


@pytest.mark.parametrize("name", names("space"))
def test_a_packaged_space_composes(name: str) -> None:
    check(composed(f"space={name}"))


@pytest.mark.parametrize("name", names("task"))
def test_a_packaged_task_composes(name: str) -> None:
    settings = composed(f"task={name}")
    check(settings)
    assert settings.study.name == settings.task["name"]


@pytest.mark.parametrize("name", names("experiment"))
def test_a_packaged_experiment_composes(name: str) -> None:
    check(composed(f"experiment={name}"))


@pytest.mark.parametrize("name", names("experiment"))
def test_two_searches_side_by_side_are_plain_and_one_search_is_by_default(name: str) -> None:
    """The figures in benchmarks/presets.md were measured without seeds and rungs, by nsga2 on both sides."""
    settings, plain = composed(f"experiment={name}"), composed()
    for side in (settings, rival_of(settings)) if settings.rival else ():
        assert (side.sampler, side.seeds.count, side.rungs.epochs) == ("nsga2", 0, ())
    if settings.rival is None:
        assert (settings.sampler, settings.seeds, settings.rungs) == (plain.sampler, plain.seeds, plain.rungs)


def test_the_sampler_of_a_contest_can_still_be_named() -> None:
    settings = composed("experiment=blend_net", "sampler=random", "seeds.count=3", "rungs.epochs=[1]")
    assert (settings.sampler, settings.seeds.count, settings.rungs.epochs) == ("random", 3, (1,))


def test_the_defaults_in_yaml_are_the_defaults_in_python() -> None:
    settings = composed()
    assert settings.study == StudySettings(name=settings.study.name)
    bare = Settings(task={}, space={}, objectives=settings.objectives, study=settings.study)
    assert (settings.sampler, settings.results_dir, settings.device) == (bare.sampler, bare.results_dir, bare.device)
    assert (settings.seeds, settings.rungs) == (bare.seeds, bare.rungs)
    assert settings.limits == bare.limits
    assert set(settings.budget) == set(COSTS)


def test_a_leaf_of_the_space_can_be_narrowed_on_the_command_line() -> None:
    settings = composed("space.recover.lr=0.01", "study.trials=5", "budget.size_bytes=20000")
    assert settings.space["recover"]["lr"] == 0.01
    assert settings.study.trials == 5
    assert settings.limits == {"size_bytes": 20000.0}
