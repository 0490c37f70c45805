"""Which packed weights lie in a study's folder: those of its front, of all, or none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_task import tiny_task

from paretune.conf.settings import Settings, parse_settings
from paretune.export.pack import pack
from paretune.findings import Trial
from paretune.frozen import Frozen
from paretune.plan import DENSE
from paretune.search.bench import lay_out
from paretune.search.evaluate import evaluate
from paretune.search.folder import kept_folder
from paretune.search.keeping import Keeping

BETTER, WORSE = {"error": 0.1, "cost": 1.0}, {"error": 0.3, "cost": 3.0}


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    found = evaluate(DENSE, lay_out(tiny_task()), seed=0).frozen
    assert found is not None
    return found


def keeping(folder: Path, keep: str = "front", **more: Any) -> Keeping:
    plain = {
        "task": {}, "space": {}, "hardware": {}, "objectives": ["error", "cost"], "budget": {}, "sampler": "random",
        "study": {"name": "tiny", "keep": keep}, "results_dir": str(folder),
    }  # fmt: skip
    settings: Settings = parse_settings(plain | more)
    return Keeping(settings=settings, folder=folder)


def trial(number: int, values: dict[str, float], **more: Any) -> Trial:
    return Trial(**{
        "number": number, "kind": "search", "label": "", "status": "done", "reason": "", "same_as": None,
        "feasible": True, "values": values, "rungs": (), "seconds": {}, "params": {}, "plan": DENSE,
    } | more)  # fmt: skip


def there(folder: Path) -> set[str]:
    home = kept_folder(folder, 0).parent
    return {path.name for path in home.iterdir()} if home.exists() else set()


@pytest.mark.parametrize(("keep", "kept"), [("front", {"1"}), ("all", {"1", "2"}), ("none", set())])
def test_who_is_kept(tmp_path: Path, frozen: Frozen, keep: str, kept: set[str]) -> None:
    one = keeping(tmp_path, keep)
    one.keep(1, BETTER, frozen, [])
    one.keep(2, WORSE, frozen, [trial(1, BETTER)])
    assert there(tmp_path) == kept
    if kept:
        assert (kept_folder(tmp_path, 1) / "model.safetensors").read_bytes() == pack(frozen)


def test_who_leaves_the_front_is_dropped(tmp_path: Path, frozen: Frozen) -> None:
    one = keeping(tmp_path)
    one.keep(1, WORSE, frozen, [])
    one.keep(2, BETTER, frozen, [trial(1, WORSE)])
    one.tidy([trial(1, WORSE)])
    assert there(tmp_path) == {"1"}  # 2 was killed before it was told
    one.keep(2, BETTER, frozen, [trial(1, WORSE)])
    one.tidy([trial(1, WORSE), trial(2, BETTER)])
    assert there(tmp_path) == {"2"}


def test_an_infeasible_point_is_not_on_the_front(tmp_path: Path, frozen: Frozen) -> None:
    one = keeping(tmp_path, budget={"cost": 2.0})
    one.keep(1, WORSE, frozen, [])
    assert there(tmp_path) == set()


def test_neither_a_repeat_nor_a_stopped_trial_pushes_anyone_out(tmp_path: Path, frozen: Frozen) -> None:
    one = keeping(tmp_path)
    rows = [
        trial(1, WORSE),
        trial(2, BETTER, kind="repeat", of=1),
        trial(3, {"cost": 0.0}, status="stopped"),
        replace(trial(4, BETTER), feasible=False),
    ]
    one.keep(1, WORSE, frozen, rows[1:])
    one.tidy(rows)
    assert there(tmp_path) == {"1"}
