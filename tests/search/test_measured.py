"""Scores and curves are computed once per task and seed, and a damaged cache costs time only."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from tiny_task import tiny_task

from paretune.errors import UnknownName
from paretune.search import measured as module
from paretune.search.bench import lay_out
from paretune.search.measured import Measured
from paretune.search.study import run_study

SPACE = {
    "layers": [{"match": "*", "weight_bits": 8}],
    "criterion": ["l2", "taylor"],
    "rate": {"rule": "knee", "knee": {"by": "l1", "drop": [0.1, 0.2]}},
    "recover": {"epochs": 0},
}
FACTS = {"criterion scores", "sensitivity curves by l1"}


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def bench():
    return lay_out(tiny_task())


@pytest.fixture
def calls(monkeypatch):
    """What is really computed: the criteria that are scored, and "curves"."""
    made = []
    score, measure = module.score_model, module.measure

    def counted_score(model, inventory, names, *args, **kwargs):
        made.extend(names)
        return score(model, inventory, names, *args, **kwargs)

    def counted_measure(*args, **kwargs):
        made.append("curves")
        return measure(*args, **kwargs)

    monkeypatch.setattr(module, "score_model", counted_score)
    monkeypatch.setattr(module, "measure", counted_measure)
    return made


def asked(bench, seed=0):
    """The scores and curves of a run, and where they came from."""
    measured = Measured(bench=bench, seed=seed)
    scores = measured.scores(["l2", "random"], per_weight=True)
    curves = measured.curves("l2")
    return scores, curves, {name: fact["from"] for name, fact in measured.facts.items()}


def same(one, other):
    for mine, yours in ((one.units, other.units), (one.weights, other.weights)):
        assert mine.keys() == yours.keys()
        for name in mine:
            assert mine[name].keys() == yours[name].keys()
            for place, values in mine[name].items():
                assert values.dtype == yours[name][place].dtype
                np.testing.assert_array_equal(values, yours[name][place])


def test_a_second_study_reads_what_the_first_measured(tmp_path, calls):
    task = tiny_task()
    first = run_study(task, space=SPACE, trials=3, out=tmp_path / "first")
    assert sorted(calls) == ["curves", "l1", "l2", "taylor"]
    facts = first.findings().provenance["measured"]
    assert set(facts) == FACTS
    assert all(fact["from"] == "computed" and fact["seconds"] >= 0 for fact in facts.values())
    second = run_study(tiny_task(), space=SPACE, trials=3, sampler="random", out=tmp_path / "second")
    assert len(calls) == 4
    facts = second.findings().provenance["measured"]
    assert {name: fact["from"] for name, fact in facts.items()} == dict.fromkeys(FACTS, "cache")
    assert second.findings().curves == first.findings().curves
    controls = [[t.values for t in s.findings().trials if t.kind == "control"] for s in (first, second)]
    assert controls[0] == controls[1]


def test_what_is_read_is_what_was_computed(bench, calls):
    scores, curves, source = asked(bench)
    again, curves_again, source_again = asked(bench)
    assert set(source.values()) == {"computed"}
    assert set(source_again.values()) == {"cache"}
    same(scores, again)
    assert curves == curves_again
    # Curves rank by the same criterion without its scores per weight, which is another file.
    assert calls == ["l2", "random", "l2", "curves"]


def test_ranking_for_a_curve_leaves_the_facts_about_the_scores_alone(bench):
    measured = Measured(bench=bench, seed=0)
    measured.scores(["l1"], per_weight=False)
    measured.curves("l1")
    assert measured.facts["criterion scores"]["from"] == "computed"


def test_only_what_is_missing_is_scored(bench, calls):
    Measured(bench=bench, seed=0).scores(["l2"], per_weight=False)
    Measured(bench=bench, seed=0).scores(["l1", "l2", "apoz"], per_weight=False)
    assert calls == ["l2", "l1", "apoz"]


@pytest.mark.parametrize("change", ["seed", "weights", "code", "loss", "errors"])
def test_under_other_conditions_everything_is_measured_anew(bench, calls, monkeypatch, change):
    first, _, _ = asked(bench)
    before = len(calls)
    other, seed = bench, 0
    if change == "seed":
        seed = 1
    elif change == "weights":
        other = lay_out(tiny_task(seed=1))
    elif change == "code":
        monkeypatch.setattr(module, "_code", lambda: "another hash")
    elif change == "loss":
        other = replace(bench, task=replace(bench.task, loss=F.multi_margin_loss))
    else:
        other = replace(bench, task=replace(bench.task, errors=lambda outputs, targets: 0.0))
    again, _, source = asked(other, seed)
    assert set(source.values()) == {"computed"}
    assert calls[before:] == calls[:before]
    assert (first.units["random"]["conv1"] != again.units["random"]["conv1"]).any() == (change == "seed")
    assert (first.units["l2"]["conv1"] != again.units["l2"]["conv1"]).any() == (change == "weights")


def regrouped(bench):
    """The same bench but for one group, whose first two channels have changed places."""
    first, *others = bench.inventory.groups
    members = tuple(replace(one, units=(one.units[1], one.units[0], *one.units[2:])) for one in first.members)
    groups = (replace(first, members=members), *others)
    return replace(bench, inventory=replace(bench.inventory, groups=groups))


def test_other_units_under_the_same_names_are_measured_anew(bench, calls):
    """Else scores would be read for channels that they do not belong to."""
    other = regrouped(bench)
    assert [group.name for group in other.inventory.groups] == [group.name for group in bench.inventory.groups]
    asked(bench)
    before = len(calls)
    again, _, source = asked(other)
    assert set(source.values()) == {"computed"}
    assert calls[before:] == calls[:before]
    first, _, source = asked(bench)
    assert set(source.values()) == {"cache"}
    name = bench.inventory.groups[0].name
    assert (first.units["l2"][name] != again.units["l2"][name]).any()


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def no_archive(path):
    path.write_bytes(b"this is neither a zip file nor JSON")


def one_bit_flipped(path):
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 3] ^= 0x80
    path.write_bytes(bytes(blob))


def something_else(path):
    """A whole file of the right kind with other things in it."""
    if path.suffix == ".json":
        path.write_text(json.dumps({"conv1": {"group": "conv1"}}))
    else:
        np.savez(path, other=np.zeros(3))


def a_list(path):
    if path.suffix == ".json":
        path.write_text("[1, 2]")
    else:
        with path.open("wb") as file:
            np.save(file, np.zeros(3), allow_pickle=False)
        path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize("harm", [cut_short, emptied, no_archive, one_bit_flipped, something_else, a_list])
def test_a_damaged_cache_is_computed_again(bench, cache, calls, harm):
    scores, curves, _ = asked(bench)
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".npz", ".json"}
    for path in files:
        harm(path)
    before = len(calls)
    again, curves_again, source = asked(bench)
    same(scores, again)
    assert curves == curves_again
    assert set(source.values()) == {"computed"}
    assert calls[before:] == calls[:before]
    assert set(asked(bench)[2].values()) == {"cache"}  # and whole again


def test_every_truncation_of_a_file_is_survived(tmp_path):
    path = tmp_path / "l2.npz"
    whole = {"units/a": np.arange(4.0)}
    module._save(path, whole)
    blob = path.read_bytes()
    for length in range(0, len(blob), 7):
        path.write_bytes(blob[:length])
        assert module._load(path) == {}
    path.write_bytes(blob)
    np.testing.assert_array_equal(module._load(path)["units/a"], whole["units/a"])


def test_half_written_files_are_never_in_place(bench, cache, monkeypatch):
    def full(path, **arrays):
        Path(path).write_bytes(b"PK half")
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="the disk is full"):
        asked(bench)
    assert [path.name for path in cache.rglob("*.npz") if not path.name.startswith(".")] == []


def test_two_writers_at_once_leave_whole_files(bench, cache, monkeypatch):
    """A second study measures and saves while the first is about to: one file of each in the end, and whole."""
    save, pid = module._save, os.getpid()

    def second_first(path, arrays):
        monkeypatch.setattr(module, "_save", save)
        monkeypatch.setattr(os, "getpid", lambda: pid + 1)
        asked(bench)
        monkeypatch.setattr(os, "getpid", lambda: pid)
        save(path, arrays)

    monkeypatch.setattr(module, "_save", second_first)
    scores, curves, _ = asked(bench)
    names = sorted(path.name for path in cache.rglob("*") if path.is_file())
    assert names == ["curves-l2-mean.json", "l2-weights.npz", "l2.npz", "random-weights.npz"]
    again, curves_again, source = asked(bench)
    assert set(source.values()) == {"cache"}
    same(scores, again)
    assert curves == curves_again


WRITE = """
import os, sys
import numpy as np
from pathlib import Path
from paretune.search.measured import _save
arrays = {f"units/{i}": np.full(2000, i, dtype=float) for i in range(4)}
print("ready", flush=True)
sys.stdin.readline()
for _ in range(100):
    _save(Path(sys.argv[1]), arrays)
"""


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, env = tmp_path / "l2.npz", os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WRITE, str(path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) for _ in "ab"]
    with both[0] as one, both[1] as other:
        for process in (one, other):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        reads = 0
        while one.poll() is None or other.poll() is None:
            found = module._load(path)
            if found:
                reads += 1
                assert [values.sum() for values in found.values()] == [0, 2000, 4000, 6000]
            assert found or not reads
    assert (one.returncode, other.returncode) == (0, 0)
    assert reads > 0
    assert [each.name for each in tmp_path.iterdir()] == ["l2.npz"]


def test_the_user_is_told_what_takes_time(bench):
    said = []
    Measured(bench=bench, seed=0, say=said.append).curves("l1")
    Measured(bench=bench, seed=0, say=said.append).curves("l1")
    assert said[:2] == ["scoring channels by l1 …", "measuring the sensitivity curves of 2 groups …"]
    assert [text.split(" s ")[1] for text in said[2:]] == ["(computed)", "(read from the cache)"]


def test_unknown_criteria_are_named(bench):
    measured = Measured(bench=bench, seed=0)
    with pytest.raises(UnknownName, match="Did you mean 'taylor'"):
        measured.scores(["tailor"], per_weight=False)
    with pytest.raises(UnknownName, match="Did you mean 'taylor'"):
        measured.curves("tailor")


def test_guessing_one_of_three_classes_is_wrong_two_times_in_three(bench):
    for curve in Measured(bench=bench, seed=0).curves("l1").values():
        assert curve.chance == pytest.approx(2 / 3)
