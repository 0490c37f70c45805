"""Artifacts that several files test."""

import shutil
from pathlib import Path

import pytest
from artifacts import Made
from export_nets import mixed
from masked_nets import WANTED, masked


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("export") / "model", mixed())


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three masked layers, two of them partitioned, in 4 bits with 4-bit activations."""
    wanted = {"conv": WANTED["2:4"], "one": WANTED["partition"], "two": WANTED["partition"]}
    return Made(tmp_path_factory.mktemp("export") / "model", masked(wanted, 4), pt2=True)


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.folder, tmp_path / "copy"))
