"""The table of digits plans holds every plan of its space once, and replaying it without rungs changes nothing."""

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest

from paretune.conf.settings import RungSettings
from paretune.samplers.layout import layout_of

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Any:
    """Imports a module of the benchmarks."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module


def test_every_plan_of_the_space_is_in_the_table_once_with_all_its_numbers(load):
    digits_plans = load("digits_plans")
    layout = layout_of(digits_plans.digits_space())
    source, rows = digits_plans.read()
    found = Counter(tuple(int(row[axis.name]) for axis in layout.axes) for row in rows)
    assert found == Counter(digits_plans.points(layout))
    assert len(rows) >= 2000
    assert "commit" in source
    for name in digits_plans.MEASURED:
        assert all(row[name] >= 0 for row in rows)
    assert all(row[name] <= 1 for name in digits_plans.MEASURED if "error" in name for row in rows)
    assert digits_plans.TABLE.stat().st_size < 1_000_000


def test_a_replay_without_rungs_pays_everything_and_loses_nothing(load, monkeypatch):
    rungs, problem = load("quality_rungs"), load("quality_problems").digits()
    monkeypatch.setattr(rungs, "ORDERS", 1)
    monkeypatch.setattr(rungs, "TRIALS", 40)
    (free,) = rungs.replays(problem, "random", seeded=False, settings=RungSettings(epochs=()))
    assert (free.epochs, free.seconds, free.stopped) == (1, 1, 0)
    assert set(free.shares.values()) == {1}
    (held,) = rungs.replays(problem, "random", seeded=False, settings=RungSettings(epochs=(0, 1), correlation=-1.0))
    assert 0 < held.stopped < 40
    assert held.epochs < 1
    assert max(held.shares.values()) <= 1  # the same points, some of them not finished
