import math

import pytest
from report_fakes import fake_findings

from paretune.report.picks import limit_text
from paretune.report.text import change, counted, duration, human, label, measured, spread, tick


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.019, "share", "1.9 %"), (0.5, "share", "50.0 %"), (0.0042, "share", "0.42 %"), (0.0, "share", "0.0 %"),
        (12_400, "bytes", "12.4 kB"), (999, "bytes", "999 B"), (999_960, "bytes", "1.0 MB"),
        (3_100_000, "MACs", "3.1 M"), (7.66e9, "bit-operations", "7.7 G"), (12, "parameters", "12"),
        (999.7, "ms", "1.0 k"), (2.345, "ms", "2.35"), (math.nan, "bytes", "–"),
    ],
)  # fmt: skip
def test_numbers_are_said_with_few_digits(value, unit, said):
    assert human(value, unit) == said


@pytest.mark.parametrize(
    ("dense", "value", "unit", "said"),
    [
        (123, 10, "bytes", "12.3× smaller"), (10, 20, "bytes", "2.00× larger"), (4, 1, "MACs", "4.00× fewer"),
        (0.019, 0.022, "share", "+0.30 points"), (0.03, 0.01, "share", "-2.0 points"),
        (0.02, 0.02, "share", "+0.0 points"), (5, 5, "bytes", "the same"), (5, 0, "bytes", "–"),
    ],
)  # fmt: skip
def test_changes_name_factor_and_direction(dense, value, unit, said):
    assert change(dense, value, unit) == said


def test_ticks_drop_the_digits_that_round_numbers_do_not_need():
    assert [tick(10_000, "bytes"), tick(0.02, "share"), tick(0.125, "share"), tick(2_500, "MACs")] == [
        "10 kB", "2 %", "12.5 %", "2.5 k",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.02, "0.02 s"), (42.3, "42 s"), (59.7, "1 min 0 s"), (725, "12 min 5 s"), (12_000, "3 h 20 min")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_labels_fall_back_on_the_name():
    assert [label("top1_error"), label("made_up")] == ["top-1 error", "made up"]


def test_counts_add_up_to_the_trials():
    findings = fake_findings()
    numbers = [int(word) for word in counted(findings).replace(":", "").replace(",", "").split() if word.isdigit()]
    assert numbers[0] == len(findings.trials) == sum(numbers[1:])


def test_a_missing_value_is_a_dash():
    findings = fake_findings(2)
    over = next(trial for trial in findings.trials if trial.status == "over_budget")
    assert measured(findings, over).startswith("top-1 error –, size ")


def test_spread_is_the_sample_deviation():
    assert spread((0.02, 0.022, 0.024), "share") == "2.20 ± 0.20 %"
    assert spread((0.02,), "share") == "2.00 %"
    assert spread((1000.0, 3000.0), "bytes") == "2.0 kB ± 1.4 kB"
    assert spread((), "share") == "–"


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.25, "pJ", "0.25 pJ"), (999.4, "pJ", "999 pJ"), (999.5, "pJ", "1 nJ"), (3_140_000.0, "pJ", "3.14 µJ"),
        (2.5e9, "pJ", "2.5 mJ"), (7e15, "pJ", "7e+03 J"), (12_400, "bytes", "12.4 kB"), (0.031, "share", "3.1 %"),
        (4_700, "cycles", "4.7 k"),
    ],
)  # fmt: skip
def test_a_number_carries_its_unit_where_it_has_one(value, unit, said):
    assert human(value, unit) == said


def test_a_limit_names_its_cost_but_for_the_file() -> None:
    limits = {"size_bytes": 30_000, "activation_bytes": 4000, "energy_pj": 2.5e6, "macs": 5e6, "unheard_of": 3}
    assert [limit_text(fake_findings(3, limit=1e9), name, limit) for name, limit in limits.items()] == [
        "30.0 kB", "4.0 kB peak activations", "2.5 µJ energy", "5.0 M MACs", "3 unheard of",
    ]  # fmt: skip
