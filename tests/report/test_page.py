import ast
import importlib.util
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs
from report_fakes import HOSTILE, confirmed, fake_findings, hostile

import paretune.report
from paretune.report.page import SECTIONS, page, write_page
from paretune.report.sections import commands, failed, flat, fronts, provenance, spread, summary, time


def without_library(text):
    return text.replace(get_plotlyjs(), "")


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
}


class Outline(HTMLParser):
    """Collects headings, tags and where things would be loaded from."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.loads, self.tags = [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.mark.parametrize("case", CASES)
def test_every_study_gets_a_well_formed_page_that_loads_nothing(case):
    outline = Outline(without_library(page(CASES[case])))
    assert outline.open == []
    assert outline.loads == []
    assert {"Points worth naming", "Pareto front", "Where the time went", "Provenance"} <= set(outline.headings)


def test_the_page_holds_plotly_once_and_every_chart():
    text = page(CASES["three objectives"])
    assert text.count(get_plotlyjs()) == 1
    ids = re.findall(r'<div id="([\w-]+)" class="plotly-graph-div"', without_library(text))
    assert ids == ["front-0", "front-1", "front-2", "hypervolume", "layers-0", "layers-1", "choices", "stages"]
    assert len(Outline(without_library(text)).headings) == len(SECTIONS)


def test_equal_findings_give_equal_pages(tmp_path):
    path = write_page(fake_findings(), tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == page(fake_findings())
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_no_text_of_the_user_becomes_markup():
    text = without_library(page(hostile(fake_findings())))
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


def test_no_front_means_no_chart():
    assert "plotly" not in fronts(CASES["all failed"])


def test_found_and_confirmed_stand_side_by_side():
    assert "Not confirmed on the test split yet" in summary(fake_findings())
    text = summary(CASES["confirmed"])
    error = 100 * fake_findings().front[0].values["top1_error"]
    assert f">{error:.2f} %</td>" in text
    assert f">{error + 0.3:.2f} ± 0.10 %</td>" in text


def test_spread_is_the_sample_deviation():
    assert spread((0.02, 0.022, 0.024), "share") == "2.20 ± 0.20 %"
    assert spread((0.02,), "share") == "2.00 %"
    assert spread((1000.0, 3000.0), "bytes") == "2.0 kB ± 1.4 kB"
    assert spread((), "share") == "–"


def test_failures_and_their_absence_are_said_plainly():
    findings = fake_findings()
    assert "size_bytes" in failed(findings)
    assert "None: no trial failed" in failed(cut(findings, lambda trial: trial.status == "done"))


def test_commands_are_the_ones_to_type():
    findings = replace(fake_findings(), folder="my results/x")
    assert "paretune study task=tiny study.trials=60" in commands(findings)
    assert "paretune export &#x27;my results/x&#x27; --pick knee --out model/" in commands(findings)
    started_elsewhere = replace(findings, provenance={"command": "from Python"})
    assert "paretune study study.name=tiny-cnn" in commands(started_elsewhere)


def test_time_without_trials_is_zero():
    assert "0 s in 0 trials" in time(CASES["no trial"])


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
            ours = top == "paretune" and (rest[:1] == ["report"] or _ground_floor(name))
            assert ours or top in allowed or top in __import__("sys").stdlib_module_names, f"{file.name}: {name}"


def _ground_floor(name):
    found = importlib.util.find_spec(name)
    return found is not None and found.submodule_search_locations is None and name.count(".") == 1
