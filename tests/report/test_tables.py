import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from report_fakes import fake_findings, with_finish, with_masks, with_notes
from report_fakes_search import with_repeats

from paretune import files
from paretune.report.tables import front_table, trials_table, write_tables

FIRST = ["trial", "kind", "label", "status", "reason", "notes", "same_as", "of", "feasible", "on_front"]


def test_columns_stand_in_the_documented_order():
    columns = list(trials_table(fake_findings()))
    after = ["top1_error", "size_bytes", "bops", "macs", "params", "hypervolume", "score_epoch_0", "score_epoch_2"]
    assert columns[: len(FIRST) + len(after)] == FIRST + after
    params = [name for name in columns if name.startswith("param:")]
    assert params == sorted(params)
    start = columns.index("plan_key")
    assert columns[start - len(params) : start] == params
    assert columns[start + 1 :] == [
        f"seconds_{s}" for s in ("plan", "build", "recalibrate", "recover", "score", "total")
    ]


def test_there_is_one_row_per_trial_and_it_says_what_the_trial_says():
    findings = fake_findings()
    table = trials_table(findings)
    assert list(table["trial"]) == [trial.number for trial in findings.trials]
    assert list(table["on_front"][table["on_front"]].index) == sorted(trial.number for trial in findings.front)
    row, trial = table.iloc[30], findings.trials[30]
    assert row["size_bytes"] == trial.values["size_bytes"]
    assert row["param:lr"] == trial.params["lr"]
    assert row["plan_key"] == trial.plan.key
    assert row["seconds_total"] == sum(trial.seconds.values())


def test_whole_choices_stay_whole_and_floats_keep_every_digit(tmp_path):
    findings = fake_findings()
    write_tables(findings, tmp_path)
    cells = pd.read_csv(tmp_path / "trials.csv", dtype=str, keep_default_na=False).iloc[30]
    trial = findings.trials[30]
    assert cells["param:weight_bits:head"] == str(trial.params["weight_bits:head"])
    assert cells["param:lr"] == repr(trial.params["lr"])
    assert cells["top1_error"] == repr(trial.values["top1_error"])
    assert cells["same_as"] == ""


def test_the_front_table_tells_the_plan():
    findings = fake_findings()
    table = front_table(findings)
    assert list(table["trial"]) == [trial.number for trial in findings.front]
    assert not [name for name in table if name.startswith("param:")]
    plan, group = findings.front[0].plan, findings.inventory.groups[1].name
    assert table["kept:" + group][0] == plan.kept_share(findings.inventory, group)
    assert table["weight_bits:head"][0] == plan.bits["head"].weight_bits
    assert table["activation_bits:head"][0] == 8
    assert list(table)[-1] == "seconds_total"


def test_notes_are_joined_and_empty_where_there_are_none(tmp_path):
    findings = with_notes(fake_findings())
    write_tables(findings, tmp_path)
    cells = pd.read_csv(tmp_path / "trials.csv", dtype=str, keep_default_na=False)["notes"]
    assert cells[30] == "knee 0.85 of 'stem' costs 0.31: guard 0.60; no knee in 'b2.a': 0.45"
    assert cells[0] == ""
    front = pd.read_csv(tmp_path / "front.csv", dtype=str, keep_default_na=False)["notes"]
    assert list(front) == ["; ".join(trial.notes) for trial in findings.front]


def test_a_finish_is_a_row_of_its_own_kind():
    row = trials_table(with_finish(fake_findings())).iloc[-1]
    assert (row["trial"], row["kind"], row["on_front"]) == (60, "finish", True)
    assert row["label"].endswith(" after 10 epochs")


def test_costs_that_count_masks_have_columns_like_any_other():
    findings = fake_findings()
    more = {"nonzeros": 5.0, "effective_macs": 6.0, "effective_bops": 7.0}
    trials = tuple(replace(trial, values=trial.values | more) for trial in findings.trials)
    for table in (trials_table, front_table):
        row = table(replace(findings, trials=trials)).iloc[0]
        assert {name: row[name] for name in more} == more


def test_the_front_table_tells_masks_only_where_there_are_some():
    findings = with_masks(fake_findings())
    table = front_table(findings)
    at = next(i for i, trial in enumerate(findings.front) if trial.kind == "search")
    assert (table["pattern:b1.b"][at], table["weights_kept:b1.b"][at]) == ("2:4", pytest.approx(0.5, abs=0.01))
    assert [name for name in table if name.startswith(("pattern:", "weights_kept:"))] == [
        "pattern:b1.b", "pattern:b3.b", "weights_kept:b1.b", "weights_kept:b3.b",
    ]  # fmt: skip
    assert not [name for name in front_table(fake_findings()) if name.startswith(("pattern:", "weights_kept:"))]


def test_a_layer_the_plan_does_not_name_is_float():
    findings = fake_findings(limit=1e9)  # the dense model is within this budget, so on the front
    row = front_table(findings).iloc[0]
    assert row["label"] == "dense"
    assert (row["weight_bits:stem"], row["kept:stem"]) == (32, 1.0)


def test_equal_findings_write_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_tables(fake_findings(), tmp_path / name)
    for table in ("trials.csv", "front.csv"):
        assert (tmp_path / "a" / table).read_bytes() == (tmp_path / "b" / table).read_bytes()


def test_no_trial_still_gives_a_header(tmp_path):
    write_tables(replace(fake_findings(), trials=()), tmp_path)
    for name in ("trials.csv", "front.csv"):
        table = pd.read_csv(io.StringIO((tmp_path / name).read_text()))
        assert list(table)[: len(FIRST)] == FIRST
        assert len(table) == 0


def test_hypervolume_is_the_running_one():
    volumes = trials_table(fake_findings())["hypervolume"].to_numpy()
    assert (np.diff(volumes) >= 0).all()
    assert 0 < volumes[-1] < 1


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = files.write_text(tmp_path / "report.html", "old")
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_text(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


def test_the_front_table_has_mean_and_spread_over_seeds(tmp_path):
    findings = with_repeats(fake_findings(2), seeds=2, harm=0.003)
    table = front_table(findings)
    errors = [trial.values["top1_error"] for trial in findings.front]
    assert list(table["top1_error"]) == errors
    assert list(table["top1_error_mean"]) == pytest.approx([error + 0.003 for error in errors])
    assert list(table["top1_error_std"]) == pytest.approx([0.003] * len(errors))
    assert list(table["seeds"]) == [3] * len(errors)
    write_tables(fake_findings(2), tmp_path)
    cells = pd.read_csv(tmp_path / "front.csv", dtype=str, keep_default_na=False)
    assert set(cells["top1_error_std"]) == {""}
    assert set(cells["seeds"]) == {"1"}
    assert list(cells["top1_error_mean"]) == list(cells["top1_error"])


def test_a_re_evaluation_names_the_trial_it_goes_back_to(tmp_path):
    findings = with_repeats(fake_findings(2))
    write_tables(findings, tmp_path)
    cells = pd.read_csv(tmp_path / "trials.csv", dtype=str, keep_default_na=False)
    assert list(cells["of"][-len(findings.front) :]) == [str(trial.number) for trial in findings.front]
    assert set(cells["of"][:60]) == {""}
    assert not cells["on_front"][60:].eq("True").any()
    assert "top1_error_mean" not in cells
