"""Hardware in a study and in `inspect`: what is counted on it, what a budget on it saves, and what is refused how."""

import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from door_call import calling
from tiny_task import tiny_task

from paretune.costs.table import static_costs
from paretune.errors import ParetuneError
from paretune.export.latency import Timing
from paretune.plan import DENSE
from paretune.profile import profile
from paretune.search import check, confirm, evaluate
from paretune.search.devices import hardware_of, packaged
from paretune.search.read import read_findings
from paretune.search.study import run_study

SPACE = {
    "groups": [{"match": "*", "ratio": [0.0, 0.25, 0.5]}],
    "layers": [{"match": "*", "weight_bits": [4, 8]}],
    "activation_bits": [4, 8],
    "criterion": "l2",
    "recover": {"epochs": 1, "lr": 0.02},
}
MINE = {"engine": "systolic", "rows": 4, "columns": 4, "energy": "horowitz_45nm", "relative_energy": "eyeriss"}
PAID = ("top1_error", "cycles", "energy_pj")


@pytest.fixture(scope="module")
def task():
    return tiny_task()


def cycles_of_dense(rows, columns):
    """Σ ⌈positions / R⌉ ⌈filters / C⌉ (2 R + C + inner - 2) of TinyNet, outputs staying in place."""
    layers = [(36, 9, 8), (36, 72, 8), (1, 8, 3)]  # positions, inner, filters
    return sum(-(-p // rows) * -(-f // columns) * (2 * rows + columns + inner - 2) for p, inner, f in layers)


def searched(task, out, **changes):
    """A study of six controls and four searched trials."""
    given = {"space": SPACE, "trials": 10, "population": 4, "hardware": "systolic_16x16", "seeds": {"count": 0}}
    given["out"] = out
    return run_study(task, **(given | changes))


@pytest.fixture(scope="module")
def study(task, tmp_path_factory):
    return searched(task, tmp_path_factory.mktemp("results") / "array", objectives=PAID)


def test_objectives_of_the_hardware_are_counted_and_make_the_front(study):
    table = pd.read_csv(study.folder / "trials.csv")
    assert {*PAID, "activation_bytes", "energy_relative", "parallel_cycles"} <= set(table.columns)
    assert "luts" not in table.columns
    assert table["cycles"][0] == cycles_of_dense(16, 16)
    points = table[list(PAID)].to_numpy()
    beaten = [((points <= point).all(axis=1) & (points < point).any(axis=1)).any() for point in points]
    assert set(table["trial"][table["on_front"]]) <= {n for n, lost in enumerate(beaten) if not lost}
    assert len(pd.read_csv(study.folder / "front.csv")) == table["on_front"].sum() >= 2


def test_a_folder_read_again_knows_the_hardware_and_its_dense_costs(study):
    found = read_findings(study.folder)
    assert [objective.name for objective in found.objectives] == list(PAID)
    assert found.reference["cycles"] == cycles_of_dense(16, 16)
    dense = static_costs(profile(found.inventory, DENSE), hardware_of("systolic_16x16"))
    assert {name: found.reference[name] for name in dense} == dense
    assert "modelled" in found.objectives[1].definition
    assert "systolic_16x16" in (study.folder / "report.html").read_text()


def test_dense_costs_are_told_before_the_first_trial(task, tmp_path):
    found = read_findings(searched(task, tmp_path / "tiny", minutes=1e-9).folder)
    assert found.trials == ()
    assert found.reference["cycles"] == cycles_of_dense(16, 16)


def test_a_missed_budget_ends_a_quantized_trial_before_any_training(study, task, tmp_path):
    """Budgets that the seventh trial, the first searched one, misses by a little: each alone would end it."""
    first = study.findings().trials[6]
    assert any(row.weight_bits < 32 for row in first.plan.layers)
    budget = {cost: first.values[cost] * 0.999 for cost in ("cycles", "energy_pj", "activation_bytes")}
    found = searched(task, tmp_path / "tiny", objectives=PAID, trials=7, budget=budget | {"size_bytes": 500}).findings()
    over = found.trials[6]
    assert over.plan.key == first.plan.asked.key
    assert (over.status, over.rungs, set(over.seconds)) == ("over_budget", (), {"plan"})
    # not the size: how small the codes get is known once they are trained
    assert over.reason == ", ".join(f"{cost} {first.values[cost]:g} > {limit:g}" for cost, limit in budget.items())
    assert first.values["size_bytes"] > 500
    assert over.values["cycles"] == first.values["cycles"]
    assert "top1_error" not in over.values
    assert found.trials[0].status == "done"  # controls are scored whatever they cost
    assert not found.trials[0].feasible


def test_a_study_goes_on_with_its_hardware_only(study, task):
    before = study.findings().trials
    for hardware, words in (
        ("mcu", r"another hardware\.name \(systolic_16x16, now mcu\), another hardware\.buffer_bytes .* more changes;"),
        (packaged("hardware", "systolic_16x16") | {"rows": 8}, r"with another hardware\.rows \(16, now 8\); give this"),
    ):
        with pytest.raises(ParetuneError, match=words):
            searched(task, study.folder, objectives=PAID, hardware=hardware)
    same = packaged("hardware", "systolic_16x16")
    more = searched(task, study.folder, objectives=PAID, hardware=same, trials=11).findings().trials
    assert [trial.plan for trial in more[:10]] == [trial.plan for trial in before[:10]]
    assert len(more) == 11


@pytest.mark.parametrize("kind", ["dict", "file", "path"])
def test_hardware_from_python(task, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(yaml.safe_dump(MINE))
    given = {"dict": {"name": "my", **MINE}, "file": "my.yaml", "path": Path("my.yaml")}
    found = searched(task, tmp_path / "tiny", hardware=given[kind], trials=1).findings()
    assert found.trials[0].values["cycles"] == found.reference["cycles"] == cycles_of_dense(4, 4)
    assert found.provenance["hardware"]["name"] == "my"


def test_a_space_may_be_a_file_too(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SPACE))
    assert packaged("space", str(tmp_path / "mine.yaml")) == SPACE


def test_a_study_outlives_the_files_of_its_hardware(task, tmp_path, monkeypatch):
    """What is exported is told the costs of the hardware that was searched for, although its table has gone."""
    monkeypatch.chdir(tmp_path)
    Path("table.yaml").write_text(yaml.safe_dump(packaged("energy", "horowitz_45nm") | {"dram": 1000.0}))
    study = searched(task, tmp_path / "tiny", hardware={"name": "my", **MINE, "energy": "table.yaml"}, trials=2)
    Path("table.yaml").unlink()
    told = []
    monkeypatch.setattr(confirm, "write_artifact", lambda out, scores, **rest: told.append(scores))
    monkeypatch.setattr(confirm, "verify_with", lambda out, task: None)
    study.export("trial=1", tmp_path / "model", latency=False)
    assert told[0]["energy_pj"] == study.findings().trials[1].values["energy_pj"]


def test_a_rate_may_aim_at_cycles(task, tmp_path):
    aim = {"rule": "target", "target": {"cost": "cycles", "share": 0.47, "of": "uniform"}}
    study = searched(task, tmp_path / "tiny", hardware={"name": "my", **MINE}, space=SPACE | {"rate": aim}, trials=2)
    trial = study.findings().trials[1]
    assert (trial.status, len(trial.notes)) == ("done", 1)
    assert trial.values["cycles"] / cycles_of_dense(4, 4) == pytest.approx(0.47, rel=0.011)


def test_a_rate_cannot_aim_at_what_the_hardware_lacks_or_may_raise(task, tmp_path):
    pipeline = packaged("hardware", "fpga_pe16") | {"target_cycles": 100}
    for cost, hardware, words in (
        ("cycles", pipeline, "'cycles' may rise as layers get narrower on hardware=fpga_pe16.*take one of params"),
        ("luts", "systolic_16x16", "'luts' is not told of hardware=systolic_16x16, which has the engine 'systolic'"),
        ("cycels", "systolic_16x16", "no cost is called 'cycels'. Did you mean 'cycles'"),
    ):
        space = SPACE | {"rate": {"rule": "target", "target": {"cost": cost}}}
        with pytest.raises(ParetuneError, match=words):
            searched(task, tmp_path / "tiny", hardware=hardware, space=space)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with files of the user's."""
    monkeypatch.chdir(tmp_path)
    table = packaged("energy", "horowitz_45nm")
    few = {key: value for key, value in table.items() if key != "dram"}
    files = {"my": MINE, "few": few, "list": [1, 2], "small": {**table, "buffer": [[1024, 0.1]]}}
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "broken.yaml").write_text("rows: [1, 2\ncolumns: 3\n")
    (tmp_path / "net_here.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(4, 2)\n")
    conf = tmp_path / "my_conf" / "task"
    conf.mkdir(parents=True)
    (conf / "tiny.yaml").write_text("_target_: tiny_task.tiny_task\nname: tiny\n")
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("systolc", r"^no hardware is called 'systolc'\. Did you mean 'systolic_16x16'\? Known: cpu"),
        ("gone.yaml", r"^gone\.yaml cannot be read \(No such file or directory\); the working folder is /"),
        ("list.yaml", r"^list\.yaml holds a list; it must be a table of keys, as in conf/hardware/\*\.yaml"),
        ("empty.yaml", r"^empty\.yaml is empty; it must be a table of keys"),
        ("broken.yaml", r"^broken\.yaml is no YAML \(while parsing a flow sequence in .* line 1, column 7"),
        ("few.yaml", r"^hardware has no entry '\w+'\..*Known: name, engine"),
        ({"rows": 0}, r"^hardware\.rows must be 1 or more, got 0"),
        ({"pe": 8}, r"^hardware\.pe belongs to engine 'finn'.*'systolic', which has rows, columns"),
        ({"energy": "few.yaml"}, r"^energy table 'few\.yaml' has no entry 'dram'; it needs unit, source"),
        ({"energy": "gone.yaml"}, r"^gone\.yaml cannot be read"),
        ({"energy": "small.yaml"}, r"^energy table 'small' has no memory of 131072 bytes; its largest is 1024 bytes:"),
        ({"energy": "eyeris"}, r"^no energy table is called 'eyeris'\. Did you mean 'eyeriss'\?"),
        ({"energy": "eyeriss"}, r"must be a table in pJ, got 'eyeriss' in"),
    ],
)
def test_what_is_no_hardware_is_refused_in_one_line(here, asked, message):
    with pytest.raises(ParetuneError, match=message) as refused:
        hardware_of(asked if isinstance(asked, str) else {"name": "my", **MINE, **asked})
    assert "\n" not in str(refused.value)


@pytest.fixture
def call(here, monkeypatch, capsys):
    """Run a command; gives (exit code, standard output, standard error)."""
    monkeypatch.setattr(check, "warn_if_stuck_here", lambda bench: None)  # takes a second, and test_door.py has it
    return calling(capsys)


STUDY = ("study", "--config-dir", "my_conf", "task=tiny", "space.recover.epochs=1", "study.trials=1")
ARRAY = "hardware=systolic_16x16"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hardware=systolc"], r"no hardware is called 'systolc'\. Did you mean 'systolic_16x16'\? Known: cpu"),
        (["hardware=gone.yaml"], r"gone\.yaml cannot be read \(No such file or directory\); the working folder is /"),
        ([ARRAY, "hardware.rows=0"], r"hardware\.rows must be 1 or more, got 0"),
        (["hardware=my.yaml", "++hardware.rows=0"], r"hardware\.rows must be 1 or more, got 0"),
        (["hardware=my.yaml", "hardware.row=8"], r"hardware has no entry 'row'\. Did you mean 'rows'\?"),
        (["hardware=my.yaml", "~hardware.rows"], r"~hardware\.rows: take it out of my\.yaml instead"),
        ([ARRAY, "hardware.row=8"], r"no config key is called 'hardware\.row'\. Did you mean 'hardware\.rows'\?"),
        ([ARRAY, "hardware.pe=8"], r"leaves 'hardware\.pe' at its default; to set it, write \+hardware\.pe="),
        ([ARRAY, "hardware.energy=few.yaml"], r"energy table 'few\.yaml' has no entry 'dram'; it needs unit, source"),
        (
            [ARRAY, "objectives=[top1_error,luts]"],
            r"'luts' is known of the engine 'finn', such as hardware=fpga_pe16, and hardware=systolic_16x16 has 'sys",
        ),
        ([ARRAY, "budget.cycles=10"], r"budget\.cycles=10 cannot be met: the space reaches \d+ at least"),
        (["objectives=[top1_error,latency_ms]"], r"latency_ms is measured in .*; switch that on with latency\.study=t"),
        (["latency.study=true", "latency.repeats=2"], r"latency\.repeats must be 3 or more, got 2"),
        (["task=torchvision"], r"task 'torchvision' has a model but neither data .*: it can be inspected, not searche"),
    ],
)
def test_hardware_that_cannot_be_is_refused_in_one_line(call, tmp_path, words, message):
    before = set(tmp_path.rglob("*"))
    code, out, error = call(*STUDY, *words)
    assert re.search(message, error)
    assert (code, out, error.count("\n"), error[:10]) == (2, "", 1, "paretune: ")
    assert set(tmp_path.rglob("*")) == before


def test_a_file_is_changed_by_words_and_the_last_hardware_wins(call):
    mine = (*STUDY, "hardware=my.yaml", "hardware.rows=8")
    assert call(*mine)[0] == 0
    assert read_findings(Path("results/tiny")).reference["cycles"] == cycles_of_dense(8, 4)
    code, _, error = call(*STUDY, "hardware=my.yaml")
    assert code == 2
    assert "results/tiny holds a study with another hardware.rows (8, now 4); give this one its own" in error
    assert call(*mine, "study.trials=2")[0] == 0
    assert len(read_findings(Path("results/tiny")).trials) == 2
    assert call(*STUDY, "hardware=my.yaml", ARRAY, "study.name=last")[0] == 0
    assert read_findings(Path("results/last")).reference["cycles"] == cycles_of_dense(16, 16)


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_latency_is_measured_where_it_is_asked_for(call, monkeypatch, real):
    """Every measurement starts a process, which takes a second; the stand-in says the size of the graph."""
    timings = []

    def stand_in(graphs, inputs, timing):
        timings.append(timing)
        return [SimpleNamespace(median_ms=len(graphs[0]) / 1000)]

    if not real:
        monkeypatch.setattr(evaluate, "measure", stand_in)
    code, out, _ = call(
        *STUDY, "objectives=[top1_error,latency_ms,size_bytes]", "study.trials=2", "latency.study=true",
        "latency.repeats=3", "latency.warmup=0",
    )  # fmt: skip
    assert (code, "report.html" in out) == (0, True)
    found = read_findings(Path("results/tiny"))
    assert found.objectives[1].definition.startswith("measured: median")
    assert timings == ([] if real else [Timing(threads=1, warmup=0, repeats=3)] * 2)
    assert all(trial.status == "done" and 0 < trial.values["latency_ms"] < 1000 for trial in found.trials)
    assert all(trial.seconds["latency"] > 0 for trial in found.trials)
    assert found.reference["latency_ms"] == found.trials[0].values["latency_ms"]
    assert {"latency_ms", "cycles"} <= set(pd.read_csv("results/tiny/trials.csv").columns)
    assert "measured: median" in Path("results/tiny/report.html").read_text()


BARE = ("task=torchvision", "task.model=alexnet")
OTHER = r"give it another task\.input_shape"
OWN = ("task=module", "task.target=net_here.make", "task.input_shape=[4]")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*BARE, "task.input_shape=[3,32,32]"], rf"fails on an example of shape \(1, 3, 32, 32\): .*small; {OTHER}"),
        ([*BARE, "task.input_shape=[1,224,224]"], rf"fails on an example of shape \(1, 1, 224, 224\): .*; {OTHER}"),
        ([*BARE, "task.input_shape=[3,0,32]"], r"must be \[channels, height, width\], in positive whole numbers; got"),
        ([BARE[0], "task.model=resnet81"], r"no torchvision model is called 'resnet81'\. Did you mean 'resnet"),
        ([*OWN, "plan.weight_bits=9"], r"plan\.weight_bits: bits are whole numbers from 1 to 8, .*got 9"),
        ([*OWN, "+plan.weight_bits=9"], r"plan\.weight_bits: bits are whole numbers from 1 to 8, .*got 9"),
        ([*OWN, "plan.ratio=1"], r"plan\.ratio: a ratio is the share removed, in \[0, 1\), got 1"),
        ([*OWN, "plan.weigth_bits=8"], r"plan has no key 'weigth_bits'\. Did you mean 'weight_bits'\?"),
        ([*OWN, "hardware.rows=0"], r"hardware\.rows must be 1 or more, got 0"),
        ([*OWN, ARRAY, "hardware.energy=few.yaml"], r"energy table 'few\.yaml' has no entry 'dram'; it needs unit"),
    ],
)
def test_inspect_refuses_in_one_line_and_prints_nothing(call, words, message):
    code, out, error = call("inspect", *words)
    said = [line for line in error.splitlines() if not line.startswith("looking for channel groups")]
    assert re.search(f"^paretune: .*{message}", "\n".join(said), flags=re.DOTALL)
    assert (code, out, len(said)) == (2, "", 1)
