import ast
import importlib.util
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs
from report_fakes import (
    HOSTILE,
    confirmed,
    everything,
    fake_findings,
    hostile,
    with_curves,
    with_finish,
    with_notes,
    with_quantizers,
    with_rival,
)
from report_fakes_search import with_repeats, with_rungs, with_seeds, with_stopped

import paretune.report
from paretune.effects import Effects
from paretune.report.origin import commands, flat, provenance
from paretune.report.page import SECTIONS, page, write_page
from paretune.report.rules import NOTES, decided
from paretune.report.sections import failed, fronts, summary, time

RUNS = [
    {"from_trial": 0, "date": "2026-05-01", "command": "paretune study task=tiny", "commit": "0123abc",
     "torch": "2.13.0", "threads": 2, "device": "none"},
    {"from_trial": 40, "date": "2026-05-02", "command": "from Python", "commit": "4567def",
     "torch": "2.14.0", "threads": 16, "device": "H200"},
]  # fmt: skip


def without_library(text):
    return text.replace(get_plotlyjs(), "")


def known(findings, **more):
    return replace(findings, provenance=findings.provenance | more)


def cut(findings, keep):
    return replace(findings, trials=tuple(trial for trial in findings.trials if keep(trial)))


CASES = {
    "three objectives": fake_findings(3),
    "two objectives": fake_findings(2),
    "no trial": cut(fake_findings(), lambda trial: False),
    "dense only, over budget": cut(fake_findings(), lambda trial: trial.label == "dense"),
    "dense only": cut(fake_findings(limit=1e9), lambda trial: trial.label == "dense"),
    "one searched trial": cut(fake_findings(), lambda trial: trial.number == 30),
    "all failed": cut(fake_findings(), lambda trial: trial.status != "done"),
    "no dense model": cut(fake_findings(), lambda trial: trial.label != "dense"),
    "controls only": cut(fake_findings(), lambda trial: trial.kind == "control"),
    "no provenance": replace(fake_findings(), provenance={}),
    "no inventory": replace(fake_findings(), inventory=replace(fake_findings().inventory, groups=())),
    "confirmed": confirmed(fake_findings(), fake_findings().front[0]),
    "runs": known(fake_findings(), runs=RUNS),
    "from Python": known(fake_findings(), command="from Python"),
    "no budget": replace(fake_findings(), budget={}),
    "everything": everything(fake_findings(3)),
    "quantizers without masks": with_quantizers(fake_findings(2)),
    "a finish alone": cut(with_finish(fake_findings()), lambda trial: trial.kind == "finish"),
    "sixty curves": with_curves(fake_findings(2), 60),
    "rival without trials": replace(
        with_rival(fake_findings()), rival=cut(fake_findings(), lambda trial: False), budget={}
    ),
    "all stopped": replace(
        fake_findings(), trials=tuple(replace(t, status="stopped", values={}) for t in fake_findings().trials)
    ),
    "seeds only": cut(with_seeds(fake_findings()), lambda trial: trial.kind == "seed"),
    "seeds, rungs and re-evaluations": with_rungs(with_repeats(with_stopped(with_seeds(fake_findings(2))))),
    "no effects but the start": replace(fake_findings(), effects=Effects(loss=0.2, error=0.02, effects=(), images=8)),
    "rival of an empty study": with_rival(cut(fake_findings(), lambda trial: False)),
}


def charts(text):
    return re.findall(r'<div id="([\w-]+)" class="plotly-graph-div"', without_library(text))


class Outline(HTMLParser):
    """Collects headings, tags and where things would be loaded from."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.loads, self.tags, self.rows, self.code = [], [], [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "code":
            self.code.append("")
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] == "code":
            self.code[-1] += data


@pytest.mark.parametrize("case", CASES)
def test_every_study_gets_a_well_formed_page_that_loads_nothing(case):
    outline = Outline(without_library(page(CASES[case])))
    assert outline.open == []
    assert outline.loads == []
    assert {"Points worth naming", "Pareto front", "Where the time went", "Provenance"} <= set(outline.headings)


def test_the_page_holds_plotly_once_and_every_chart():
    text = page(CASES["everything"])
    assert text.count(get_plotlyjs()) == 1
    assert charts(text) == [
        "front-0", "front-1", "front-2", "beside", "hypervolume", "hypervolume-time", "effects-0", "effects-1",
        "effects-2", "curves", "layers-0", "layers-1", "layers-2", "layers-3", "layers-4", "hardware", "choices",
        "stages",
    ]  # fmt: skip
    assert len(Outline(without_library(text)).headings) == len(SECTIONS)


def test_what_a_study_does_not_have_gets_no_section():
    text = page(CASES["three objectives"])
    assert charts(text) == [
        "front-0", "front-1", "front-2", "hypervolume", "hypervolume-time", "layers-0", "layers-1", "layers-2",
        "choices", "stages",
    ]  # fmt: skip
    gone = {"Beside best single criterion", "Sensitivity curves", "What rules decided", "How alike the criteria rank",
            "What the hardware pays", "Sensitivities", "Rungs"}  # fmt: skip
    whole, plain = (Outline(without_library(page(CASES[case]))).headings for case in ("everything", "three objectives"))
    assert set(whole) - set(plain) == gone
    assert set(plain) < set(whole)


def test_equal_findings_give_equal_pages(tmp_path):
    path = write_page(fake_findings(), tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == page(fake_findings())
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_no_text_of_the_user_becomes_markup():
    text = without_library(page(hostile(CASES["everything"])))
    assert HOSTILE not in text
    assert "<script>alert" not in text
    assert "b" not in Outline(text).tags
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no trial", "No trial has finished"), ("all failed", "No trial has finished"),
        ("controls only", "No searched trial has finished"), ("no dense model", "the dense model has not been scored"),
        ("dense only", "Nothing found so far is a better trade-off"),
    ],
)  # fmt: skip
def test_poor_studies_are_told_as_they_are(case, said):
    assert said in without_library(page(CASES[case]))


@pytest.mark.parametrize("case", ["no trial", "all failed", "controls only", "dense only"])
def test_a_budget_is_mentioned_only_where_there_is_one(case):
    assert "within the budget" in without_library(page(CASES[case]))
    assert "within the budget" not in without_library(page(replace(CASES[case], budget={})))


def test_front_members_are_named_by_their_mean():
    text = summary(with_repeats(fake_findings(2), seeds=2, harm=0.003))
    assert " ± 0.30 %<small>" in text
    assert "points, mean ± standard deviation of 3 random seeds</small>" in text
    assert "mean of" not in summary(fake_findings(2))


def test_a_confirmed_point_tells_what_the_search_saw_under_its_seeds():
    findings = with_repeats(fake_findings(2))
    error = 100 * findings.front[0].values["top1_error"]
    text = summary(confirmed(findings, findings.front[0]))
    assert f">{error:.2f} %<small>{error + 0.3:.2f} ± 0.30 % (mean of 3 random seeds)</small>" in text


def test_what_the_chart_of_the_front_leaves_out_is_said():
    said = ("A square with a dark edge is a seed", "Trials stopped early have no last score", "a dash at the mean")
    assert all(one in fronts(CASES["seeds, rungs and re-evaluations"]) for one in said)
    assert not any(one in fronts(fake_findings(2)) for one in said)


def test_no_front_means_no_chart():
    assert "plotly" not in fronts(CASES["all failed"])


def test_found_and_confirmed_stand_side_by_side():
    assert "Not confirmed on the test split yet" in summary(fake_findings())
    text = summary(CASES["confirmed"])
    error = 100 * fake_findings().front[0].values["top1_error"]
    assert f">{error:.2f} %</td>" in text
    assert f">{error + 0.3:.2f} ± 0.10 %</td>" in text


def test_front_members_tell_what_rules_decided():
    findings = with_notes(fake_findings())
    rows = Outline(decided(findings)).rows
    assert [row[0] for row in rows[1:]] == [str(trial.number) for trial in findings.front if trial.kind == "search"]
    assert rows[1][2] == "knee 0.85 of 'stem' costs 0.31: guard 0.60; no knee in 'b2.a': 0.45"
    assert decided(fake_findings()) == ""


def test_the_notes_of_a_trial_have_an_end_on_the_page():
    front = fake_findings().front
    long = replace(front[0], notes=tuple(f"note {i}" for i in range(NOTES + 3)))
    text = decided(replace(fake_findings(), trials=(long,)))
    assert f"note {NOTES - 1}; … 3 more in front.csv" in text
    assert f"note {NOTES};" not in text


def test_failures_and_their_absence_are_said_plainly():
    findings = fake_findings()
    assert "size_bytes" in failed(findings)
    assert "None: no trial failed, and none was over the budget" in failed(
        cut(findings, lambda trial: trial.status == "done")
    )
    assert "budget" not in failed(cut(CASES["no budget"], lambda trial: trial.status == "done"))


def test_commands_are_the_ones_to_type():
    findings = replace(fake_findings(), folder="my results/x")
    assert Outline(commands(findings)).code == [
        "paretune study task=tiny study.trials=60",
        "paretune export 'my results/x' --pick knee --out model/\nparetune verify model/",
    ]
    quoted = "paretune study 'study.name=a b'"
    assert Outline(commands(known(findings, command=quoted))).code[0] == quoted
    assert "paretune study study.name=tiny-cnn" in commands(CASES["no provenance"])


@pytest.mark.parametrize("folder", ["results/x", 'a "quoted" folder', "back\\slash", "drei Größen"])
def test_a_study_made_in_python_is_repeated_and_shipped_in_python(folder):
    again, ship, verify = Outline(commands(replace(CASES["from Python"], folder=folder))).code
    assert again.splitlines()[-1].startswith("run_study(task, ..., out=")
    assert ship.splitlines()[-1].endswith('.export("knee", "model/")')
    assert verify == "paretune verify model/"
    for text in (again, ship):
        nodes = list(ast.walk(ast.parse(text)))
        assert [node.value for node in nodes if isinstance(node, ast.Constant)].count(folder) == 1
        for node in [node for node in nodes if isinstance(node, ast.ImportFrom)]:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_lines_for_python_in_full():
    assert Outline(commands(CASES["from Python"])).code[:2] == [
        "from paretune.search.study import run_study\n\n"
        'run_study(task, ..., out="results/tiny-cnn")',
        "from pathlib import Path\n\nfrom paretune.search.study import Study\n\n"
        'Study(folder=Path("results/tiny-cnn"), task=task).export("knee", "model/")',
    ]  # fmt: skip


def test_time_without_trials_is_zero():
    assert "0 s in 0 trials" in time(CASES["no trial"])


def test_every_run_of_the_command_has_its_row():
    rows = Outline(provenance(CASES["runs"])).rows
    at = rows.index(["from trial", "date", "command", "commit", "torch", "threads", "device"])
    assert rows[at + 1 : at + 3] == [[str(value) for value in run.values()] for run in RUNS]
    assert not [row for row in rows if row[0].startswith("runs")]


@pytest.mark.parametrize("runs", [None, [], [{"from_trial": 0, "date": "d"}, {"commit": "c"}]])
def test_runs_may_be_absent_or_know_less(runs):
    findings = fake_findings() if runs is None else known(fake_findings(), runs=runs)
    rows = Outline(provenance(findings)).rows
    assert ["commit", "0123abc"] in rows
    assert (["–", "–", "c"] in rows) == (["from trial", "date", "commit"] in rows) == bool(runs)


def test_provenance_is_flat():
    record = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": None}]}
    assert flat(record) == [("a.b", "1"), ("a.c", "1, 2"), ("d.0.e", "None")]
    assert "versions.torch" in provenance(fake_findings())
    assert "None was recorded" in provenance(CASES["no provenance"])


def test_a_report_needs_neither_torch_nor_optuna():
    allowed = {"paretune.report", "plotly", "pandas", "numpy"}
    for file in Path(paretune.report.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        for name in names:
            top, *rest = name.split(".")
            ours = top == "paretune" and (rest[:1] in (["report"], ["costs"]) or _ground_floor(name))
            assert ours or top in allowed or top in __import__("sys").stdlib_module_names, f"{file.name}: {name}"


def _ground_floor(name):
    found = importlib.util.find_spec(name)
    return found is not None and found.submodule_search_locations is None and name.count(".") == 1
