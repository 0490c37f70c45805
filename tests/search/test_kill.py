"""The law of resume: killed at any three moments, a study ends with the same trials.csv as one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

TRIALS = 16
RUN = f"""
import sys
from paretune.search.study import run_study
from tiny_task import tiny_task
space = dict(
    groups=[dict(match="*", ratio=dict(low=0.0, high=0.75, step=0.125))],
    layers=[dict(match="*", weight_bits=[2, 3, 4, 8])], activation_bits=[4, 8],
    criterion=["l1", "taylor", "random"], recover=dict(epochs=2, lr=0.02, distill=["none", "logits"]),
)
run_study(tiny_task(slow=True), space=space, trials={TRIALS}, population=4, out=sys.argv[1], sampler=sys.argv[2],
          budget=dict(size_bytes=700, macs=12000), seeds=dict(count=2, images=60), repeats=1,
          rungs=dict(epochs=[0, 1], minimum=3, correlation=-1.0))
"""


def start(folder: Path, sampler: str) -> subprocess.Popen[str]:
    env = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]), "TINY_SLEEP": "0.02", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", RUN, str(folder), sampler], env=env, text=True)


def finished(folder: Path) -> int:
    journal = folder / "study.journal"
    return journal.read_bytes().count(b'"op_code":6') if journal.exists() else 0


def without_times(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "trials.csv")
    return table[[name for name in table.columns if not name.startswith("seconds_")]]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.parametrize(
    "sampler",
    ["layerwise", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nsga2", "nsga3", "tpe", "surrogate"))],
)
def test_a_study_killed_three_times_ends_like_one_left_alone(tmp_path, sampler):
    whole, killed = tmp_path / "whole" / "tiny", tmp_path / "killed" / "tiny"
    left_alone = start(whole, sampler)
    chance = random.Random(int.from_bytes(os.urandom(4)))
    for after in (2, 7, 14):
        process = start(killed, sampler)
        while finished(killed) < after and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.4))
        assert process.poll() is None, "the study ended before it could be killed; raise TINY_SLEEP"
        process.kill()
        process.wait()
    assert start(killed, sampler).wait() == 0
    assert left_alone.wait() == 0
    table = without_times(killed)
    pd.testing.assert_frame_equal(table, without_times(whole))
    assert list(table["trial"]) == list(range(len(table)))
    assert set(table["kind"][:TRIALS]) == {"control", "seed", "search"}
    assert set(table["kind"][TRIALS:]) == {"repeat"}
    assert set(table["status"]) <= {"done", "over_budget", "stopped"}
    assert "stopped" in set(table["status"])
    # Weights on disk are those of the front, nothing else.
    kept = {int(path.name) for path in (killed / "trials").iterdir()}
    assert kept == set(table[table["on_front"]]["trial"])
