"""The page says what every rung came to, what stopping saved, and which rung was switched off."""

import math
import re
from dataclasses import replace

import pytest
from report_fakes import fake_findings
from report_fakes_search import with_rungs, with_stopped

from paretune.findings import RungState
from paretune.report.rules import rungs
from paretune.report.rungs import rungs_info

STATE = RungState(epochs=1, reached=38, judged=9, stopped=2, compared=14, correlation=0.8, bound=0.5, on=True)


def info_of(**changes):
    return rungs_info(replace(fake_findings(), rungs=(replace(STATE, **changes),)))


@pytest.mark.parametrize(
    ("changes", "shown", "state"),
    [
        ({}, "0.80", "judging"),
        ({"correlation": 0.31, "on": False}, "0.31", "switched off: 0.31 is below 0.50"),
        ({"correlation": 0.498, "on": False}, "0.498", "switched off: 0.498 is below 0.50"),
        ({"correlation": -0.2, "on": False}, "-0.20", "switched off: -0.20 is below 0.50"),
        ({"correlation": 0.5}, "0.50", "judging"),
        ({"correlation": None, "on": False}, "–", "too few to tell"),
        ({"correlation": math.nan, "on": False}, "–", "too few to tell"),
        ({"correlation": None}, "–", "judging, too few to tell how well"),
        ({"correlation": None, "on": False, "enough": True}, "–", "switched off: scores do not vary"),
        ({"correlation": 0.9, "on": False}, "0.90", "not judging"),
    ],
)
def test_a_rung_is_told_as_it_stands(changes, shown, state):
    (row,) = info_of(**changes).rows
    assert (row.correlation, row.state) == (shown, state)
    assert (row.after, row.reached, row.judged, row.stopped, row.compared) == ("1 epoch", 38, 9, 2, "14 trials")


@pytest.mark.parametrize(("epochs", "after"), [(0, "recalibration"), (1, "1 epoch"), (3, "3 epochs")])
def test_a_rung_is_named_by_its_training(epochs, after):
    assert info_of(epochs=epochs).rows[0].after == after


def test_a_rung_that_was_switched_off_has_a_sentence():
    assert info_of().off == ()
    assert info_of(correlation=None, on=False).off == ()
    assert info_of(correlation=0.31, on=False).off == (
        "The rung after 1 epoch was switched off: the rank correlation of its scores with the last ones, 0.31 over 14 "
        "trials, is below 0.50.",
    )


def test_what_stopping_saved_in_closed_form():
    findings = fake_findings()
    pattern = next(t for t in findings.trials if t.kind == "search" and t.status == "done")

    def saved(*rows):
        trials = [
            replace(pattern, number=i, status=status, kind=kind, seconds={"a": s})
            for i, (kind, status, s) in enumerate(rows)
        ]
        return rungs_info(replace(findings, trials=tuple(trials))).saved

    done = [("search", "done", 10.0), ("search", "done", 30.0), ("control", "done", 500.0), ("repeat", "done", 500.0)]
    assert saved(*done) == "No trial was stopped early."
    assert saved(*done, ("search", "stopped", 4.0), ("search", "stopped", 6.0)) == (
        "2 of 4 searched trials were stopped early; a stopped trial took 25 % of the time of a finished one on average "
        "(5 s and 20 s)."
    )
    assert saved(("search", "stopped", 4.0)) == "1 of 1 searched trial was stopped early."


def test_the_section_has_a_row_per_rung_and_none_without_rungs():
    findings = with_rungs(with_stopped(fake_findings()))
    text = rungs(findings)
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in text.split("<tr>")[2:]]
    assert " ".join(rows[0]).startswith("recalibration 50 32 12 0.81 18 trials judging")
    assert [row[0] for row in rows] == ["recalibration", "1", "3"]
    assert text.count("was switched off") == 1
    assert " stopped early; a stopped trial took " in text
    assert rungs(fake_findings()) == ""
