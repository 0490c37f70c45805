"""Tasks by name or by target, and a message for everything that is neither."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from paretune.errors import ParetuneError
from paretune.tasks import table
from paretune.tasks.memory import InMemory
from paretune.tasks.own import from_loaders
from paretune.tasks.resnet import ResNet
from paretune.tasks.table import make_task
from paretune.tasks.task import Task


def made(*, size: int = 2, device: str = "cpu", **rest: Any) -> Task:
    split = InMemory(inputs=torch.ones(size, 3), targets=torch.zeros(size))
    return from_loaders(nn.Linear(3, 2), split, split, split, name=f"made {device} {sorted(rest)}")


@dataclass(frozen=True)
class Needy:
    needed: int


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "TASKS", {"made": made, "needy": Needy})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_name_and_its_settings() -> None:
    assert len(make_task({"name": "made", "size": 5}).val) == 5
    assert make_task({"name": "made"}).name == "made cpu []"


def test_a_target() -> None:
    task = make_task({"_target_": "tiny_task.tiny_task", "seed": 1})
    assert task.name == "tiny"


def test_the_device_of_the_config_wins() -> None:
    assert make_task({"name": "made", "device": "somewhere"}).name == "made somewhere []"


def test_a_maker_that_takes_anything_gets_everything() -> None:
    assert make_task({"name": "made", "colour": "red"}).name == "made cpu ['colour']"


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"name": "mad"}, r"no task is called 'mad'\. Did you mean 'made'\? Known: made, needy"),
        ({}, r"no task is called 'None'"),
        (
            {"_target_": "nowhere.task"},
            r"task: _target_ 'nowhere.task' cannot be imported \(No module named 'nowhere'\)",
        ),
        ({"_target_": "math.nothing"}, r"task: _target_ 'math.nothing' cannot be imported \(module 'math' has no"),
        ({"_target_": "task"}, r"task: _target_ 'task' cannot be imported"),
        ({"_target_": "math.pi"}, r"task: _target_ 'math.pi' is not callable"),
        ({"_target_": "fractions.Fraction"}, r"task: fractions.Fraction must return a .*Task, not a Fraction"),
        ({"_target_": "tiny_task.tiny_task", "sead": 1}, r"task has no setting 'sead'\. Did you mean 'seed'\?"),
        ({"name": "needy"}, r"task: missing a required argument: 'needed'"),
        ({"name": "needy", "needed": 1}, r"task: needy must return a paretune.tasks.task.Task, not a Needy"),
    ],
)
def test_what_is_no_task_is_refused(config: dict[str, Any], match: str) -> None:
    with pytest.raises(ParetuneError, match=match):
        make_task(config)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ParetuneError, match=r"device=cuda: PyTorch sees no GPU here; use cpu or auto"):
        make_task({"name": "made"}, device="cuda")


def test_a_gpu_is_used_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert make_task({"name": "made"}).name == "made cuda []"
    assert make_task({"name": "made"}, device="cpu").name == "made cpu []"


def test_the_residual_network_halves_the_resolution_block_by_block() -> None:
    model = ResNet((4, 6, 8), channels=2, classes=5)
    assert model.blocks(torch.ones(1, 4, 8, 8)).shape == (1, 8, 2, 2)
    assert model(torch.ones(3, 2, 8, 8)).shape == (3, 5)
    assert [len(block.shortcut) for block in model.blocks] == [0, 2, 2]  # type: ignore[arg-type]
