"""The command line: what is typed, what is printed, which exit code. Everything runs in this process but for Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from door_call import calling


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with the user's own config folder beside it."""
    monkeypatch.chdir(tmp_path)
    conf = tmp_path / "my_conf" / "task"
    conf.mkdir(parents=True)
    (conf / "tiny.yaml").write_text("_target_: tiny_task.tiny_task\nname: tiny\n")
    (conf / "broken.yaml").write_text("_target_: broken_task.make\nname: broken\n")
    (conf / "nameless.yaml").write_text("_target_: tiny_task.tiny_task\n")
    (conf / "nowhere.yaml").write_text("_target_: no_such_module.make\nname: nowhere\n")
    return tmp_path


@pytest.fixture
def call(here, capsys):
    """Run a command; gives (exit code, standard output, standard error)."""
    return calling(capsys)


# What is measured before the first trial is said with its seconds; nothing else belongs on standard error.
SCORED = r"(scoring channels by .* …\n)?criterion scores: [0-9.]+ s \((computed|read from the cache)\)\n"
SEEDED = (
    rf"{SCORED}(measuring sensitivities: .*\n)?sensitivities: [0-9.]+ s \((computed|read from the cache)\)\n"
    r"choosing \d+ seeds .*\n(\d+ of \d+ seeds: .*\n)?(\d+ controls and \d+ seeds leave none .*\n)?"
)
STUDY = ("study", "--config-dir", "my_conf", "task=tiny", "space.recover.epochs=1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sampler=nsga"], "no sampler is called 'nsga'. Did you mean 'nsga"),
        (["space.criterion=tailor"], "no criterion is called 'tailor'. Did you mean 'taylor'?"),
        (["task=digit"], "no task is called 'digit'. Did you mean 'digits'?"),
        (["space=layers"], "no space is called 'layers'. Did you mean 'layerwise'?"),
        (["experiment=digit"], "no experiment is called 'digit'. Did you mean 'digits'?"),
        (["objectives=[top1_error,size]"], "no objective is called 'size'. Did you mean 'size_bytes'?"),
        (["objectives=[size_bytes,macs]"], "objectives: the first must be the task's quality, 'top1_error'"),
        (["study.trails=3"], "no config key is called 'study.trails'. Did you mean 'study.trials'?"),
        (["studdy.trials=3"], "no config key is called 'studdy.trials'. Did you mean 'study'?"),
        (["+study.trails=3"], "no config key is called 'study.trails'. Did you mean 'study.trials'?"),
        (["study.trials=many"], "study.trials must be a whole number, got 'many'"),
        (["study.trials"], "missing EQUAL"),
        (["space.groups=[{match: '*', ratio: 1.0}]"], "a ratio is the share removed, in [0, 1), got 1.0"),
        (["space.groups=[{match: '*', ratio: -0.1}]"], "a ratio is the share removed, in [0, 1), got -0.1"),
        (["space.groups=[{match: 'konv*', ratio: 0.5}]"], "'konv*' matches nothing. Did you mean 'conv"),
        (["space.activation_bits=9"], "bits are whole numbers from 1 to 8, or 32 for float, got 9"),
        (["space.activation_bits=4.5"], "bits are whole numbers from 1 to 8, or 32 for float, got 4.5"),
        (
            ["space.layers=[{match: '*', weight_bits: 1}]"],
            "'lsq' of weights has 2 to 8 bits, got 1; for 1 use dorefa, co",
        ),
        (["+space.colour=red"], "space has no key 'colour'. Known: groups"),
        (["budget.size_bytes=200"], "budget.size_bytes=200 cannot be met: the space reaches"),
        (["space.rate=knee"], "the space leaves 'space.rate' at its default; to set it, write +space.rate=..."),
        (["+space.rate.rule=kneee"], "no rate rule is called 'kneee'. Did you mean 'knee'?"),
        (["budget.size=300"], "no config key is called 'budget.size'. Did you mean 'budget.size_bytes'?"),
        (["task=digits", "task.weights=nowhere.pth"], "weights: no file at nowhere.pth"),
        (["task=digits", "task.weights=bad.pth"], "bad.pth is no .safetensors file or PyTorch state dict"),
        (["task=broken"], "the model's forward fails on (8, 1, 6, 6): "),
        (["task=nowhere"], "_target_ 'no_such_module.make' cannot be imported"),
        (["device=tpu"], "device has no option 'tpu'. Did you mean 'cpu'?"),
        (["task=null"], "config: Config group override must be a string or a list"),
        (["space=null"], "config: Config group override must be a string or a list"),
        (["task=digits", "task.widths=16"], "task digits cannot be made of"),
        (["task=digits", "task.widths=[]"], "task.widths needs at least one width"),
        (["task=digits", "task.seed=abc"], "task digits cannot be made of"),
        (["task=nameless"], "config: "),
        (["study.name=../up"], "study.name is a folder below results_dir"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(here, call, words, message):
    (here / "bad.pth").write_bytes(b"not weights")
    (here / "broken_task.py").write_text(
        "import torch\nfrom paretune.tasks.own import from_loaders\n"
        "def make():\n"
        "    rows = [(torch.zeros(8, 1, 6, 6), torch.zeros(8, dtype=torch.long))]\n"
        "    return from_loaders(torch.nn.Linear(5, 2), rows, rows, rows)\n"
    )
    before = set(here.rglob("*"))
    code, out, error = call(*STUDY, *words)
    assert message in error
    assert code == 2
    assert out == ""
    assert error.startswith("paretune: ")
    assert error.count("\n") == 1
    assert {path for path in here.rglob("*") if "__pycache__" not in path.parts} == before


def test_a_study_is_run_reported_exported_and_verified(here, call):
    code, out, error = call(*STUDY, "study.trials=8", "study.population=3", "budget.size_bytes=2000")
    assert code == 0
    assert re.fullmatch(SEEDED, error)
    assert "dense" in out
    assert "knee" in out
    assert "results/tiny/report.html" in out
    table = pd.read_csv("results/tiny/trials.csv")
    assert list(table["trial"]) == list(range(8))

    code, out, _ = call("report", "results/tiny")
    assert code == 0
    assert "written: results/tiny/report.html" in out

    code, out, error = call(
        "export", "results/tiny", "--pick", "budget", "--under", "size_bytes=2000", "--out", "model",
        "--latency-threads", "2", "--latency-repeats", "3",
    )  # fmt: skip
    assert (code, error) == (0, "")
    said = re.search(
        r"latency in onnxruntime, 2 threads, batch 1: (.*) ms \(.*\) against dense fp32 .* × as long\n", out
    )
    latency = json.loads(Path("model/scores.json").read_text())["latency"]
    assert latency["measured"]
    assert latency["dense"]["repeats"] == 3
    assert said[1] == f"{latency['compressed']['median_ms']:.3f}"
    assert "latency here, measured" in Path("results/tiny/report.html").read_text()
    assert "How the weights are stored" in out
    assert "entropy" in out or "dense" in out or "huffman" in out
    assert "0 of 120 predictions differ" in out

    code, out, _ = call("verify", "model")
    assert code == 0
    assert "top-1 error on 120 test images, in a fresh process" in out

    code, out, _ = call(*STUDY, "study.trials=10", "study.population=3", "budget.size_bytes=2000")
    assert code == 0
    assert len(pd.read_csv("results/tiny/trials.csv")) == 10

    code, _, error = call(*STUDY, "study.trials=10", "study.population=3", "budget.size_bytes=1999")
    assert code == 2
    assert "results/tiny holds a study with another budget.size_bytes" in error

    graph = bytearray(Path("model/model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    Path("model/model.onnx").write_bytes(graph)
    code, _, error = call("verify", "model")
    assert code == 2
    assert "model/model.onnx was changed after the export" in error


def test_a_damaged_folder_is_named(here, call):
    assert call(*STUDY, "study.trials=3", "results_dir=runs", "study.name=a")[0] == 0
    journal = Path("runs/a/study.journal")
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"wor')  # a line that a kill cut short
    assert call(*STUDY, "study.trials=4", "results_dir=runs", "study.name=a")[0] == 0
    assert len(pd.read_csv("runs/a/trials.csv")) == 4
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"{\n", *lines[3:]]))
    code, _, error = call(*STUDY, "study.trials=5", "results_dir=runs", "study.name=a")
    assert code == 2
    assert "study.journal line 4 is damaged" in error
    code, _, error = call("report", "runs/a")
    assert code == 2
    assert "is damaged" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "nowhere"], "nowhere is not the folder of a study"),
        (["verify", "nowhere"], "nowhere is not an artifact"),
        (["export", "nowhere", "--out", "model"], "nowhere is not the folder of a study"),
        (["export", "nowhere", "--out", "model", "--under", "size"], "--under needs COST=LIMIT"),
        (["export", "nowhere", "--out", "model", "--latency-repeats", "2"], "repeats is a whole number of at least 3"),
        (["reprot", "results/tiny"], "no command is called 'reprot'. Did you mean 'report'?"),
        (["inspect", "task=digits", "format=yaml"], "format is table or json, got 'yaml'"),
    ],
)
def test_the_other_commands_refuse_in_one_line_too(call, words, message):
    code, _, error = call(*words)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_another_search_of_the_same_problem_gets_its_own_folder(call):
    same = (*STUDY, "study.trials=2")
    assert call(*same)[0] == 0
    code, out, error = call(*same, "sampler=random", "study.seed=1")
    assert code == 0
    assert "results/tiny holds another search; this one goes to results/tiny-random-seed1" in error
    assert "results/tiny-random-seed1/report.html" in out
    code, _, error = call(*same, "sampler=random", "study.seed=1", "study.name=tiny")
    assert code == 2
    assert "give this one its own, such as study.name=tiny-2" in error
    code, _, error = call(*same, "sampler=random", "space.activation_bits=8")
    assert code == 2
    assert "another space.activation_bits" in error


def test_a_shipped_folder_is_verified_where_its_task_is_unknown(here, call, monkeypatch):
    assert call(*STUDY, "study.trials=2")[0] == 0
    code, out, _ = call("export", "results/tiny", "--pick", "trial=1", "--out", "model", "--no-latency")
    assert code == 0
    assert "latency" not in out + Path("model/scores.json").read_text()
    scores = Path("model/scores.json").read_text()
    Path("model/scores.json").write_text(scores.replace("tiny_task.tiny_task", "elsewhere.tiny_task"))
    code, out, error = call("verify", "model")
    assert (code, error) == (0, "")
    assert "0 of 32 predictions differ" in out
    assert "the test split is not at hand: task: _target_ 'elsewhere.tiny_task' cannot be imported" in out


def test_a_sweep_gives_every_job_its_own_folder(here, call):
    code, _, error = call(*STUDY, "--multirun", "study.trials=2", "sampler=random,nsga2")
    assert code == 0
    assert re.fullmatch(f"({SCORED}){{2}}", error)
    names = {path.name for path in Path("results").iterdir() if path.is_dir()}
    assert len(names) == 2
    assert all(name.startswith("tiny-") for name in names)
    assert any("sampler=random" in name for name in names)
    assert {path.name for path in here.iterdir()} == {"my_conf", "results"}


def test_inspect_prints_tables_and_json(call):
    code, out, _ = call("inspect", "--config-dir", "my_conf", "task=tiny")
    assert code == 0
    assert "conv2" in out
    assert "left whole: head" in out
    code, out, _ = call("inspect", "--config-dir", "my_conf", "task=tiny", "format=json")
    assert code == 0
    facts = json.loads(out)
    assert facts["totals"]["macs"] == 36 * 9 * 8 + 36 * 9 * 64 + 24
    assert [group["name"] for group in facts["inventory"]["groups"]] == ["conv1", "conv2"]


@pytest.mark.parametrize("words", [[], ["--help"], ["study", "--help"], ["export", "--help"], ["inspect", "--help"]])
def test_help_teaches(call, words):
    code, out, error = call(*words)
    assert (code, error) == (0, "")
    assert re.search(r"paretune (study|export|inspect)", out)


def test_the_config_can_be_printed(call):
    code, out, _ = call("study", "--cfg", "job", "study.seed=7")
    assert code == 0
    assert "seed: 7" in out
    assert not Path("results").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGINT"), reason="needs POSIX signals")
def test_ctrl_c_writes_the_tables_and_says_how_to_go_on(here):
    words = [*STUDY, "study.trials=500", "+task.slow=true"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TINY_SLEEP": "0.02"}
    # A shell's background job, such as this suite may be, ignores SIGINT, and its children inherit that.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; import sys; from paretune.search.door import main; main(sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, *words], env=env, stderr=subprocess.PIPE, text=True)
    log = here / "results" / "tiny" / "study.log"
    while not (log.exists() and "trial 2 " in log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run the same command to go on" in error
    assert len(pd.read_csv(here / "results" / "tiny" / "trials.csv")) >= 3
    assert (here / "results" / "tiny" / "report.html").exists()
