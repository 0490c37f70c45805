"""A study with a rival beside it and a finish behind it: what is run, remembered, taken up again and shipped."""

import json
import shutil

import pytest
import yaml
from optuna.trial import TrialState
from tiny_task import tiny_task

from paretune.curve import Curve
from paretune.errors import ParetuneError
from paretune.search import driver as driver_module
from paretune.search import evaluate as evaluate_module
from paretune.search import measured as measured_module
from paretune.search import read as read_module
from paretune.search.confirm import read_settings
from paretune.search.evaluate import evaluate
from paretune.search.read import read_findings
from paretune.search.store import load_study
from paretune.search.study import merged, rival_of, run_study

SPACE = {
    "groups": [{"match": "*", "ratio": {"low": 0.0, "high": 0.75, "step": 0.125}}],
    "layers": [{"match": "*", "weight_bits": 8}],
    "activation_bits": 8,
    "criterion": ["l1", "taylor"],
    "recover": {"epochs": 0, "images": 192},
}
PLAIN = {"sampler": "nsga2", "seeds": {"count": 0}, "rungs": {"epochs": []}}  # as in every preset that has a rival
RIVAL = {"name": "guessing <at> random", "space": {"criterion": "random"}}
FINISH = {"epochs": 1, "lr": 0.05, "distill": "none"}


@pytest.fixture(scope="module")
def task():
    return tiny_task()


def run(task, folder, trials, **more):
    settings = {"space": SPACE, "objectives": ("top1_error", "macs"), "population": 4} | PLAIN | more
    return run_study(task, trials=trials, out=folder, **settings)


@pytest.fixture(scope="module")
def both(task, tmp_path_factory):
    """Eight trials, a finish, and the same of a rival."""
    return run(task, tmp_path_factory.mktemp("results") / "tiny", 8, rival=RIVAL, finish=FINISH)


@pytest.fixture
def no_page(monkeypatch):
    """The page takes half the time of so small a study."""
    monkeypatch.setattr(read_module, "write_page", lambda findings, folder: folder / "report.html")


@pytest.fixture
def copy(both, tmp_path):
    """A folder of one's own with the same study in it."""
    return shutil.copytree(both.folder, tmp_path / "tiny")


def searched(findings):
    return [trial for trial in findings.trials if trial.kind != "finish"]


def finishes(findings):
    return [trial for trial in findings.trials if trial.kind == "finish"]


# --- the rival


def test_a_rival_has_its_own_folder_and_as_many_trials(both):
    rival = both.folder / "rival"
    for folder in (both.folder, rival):
        assert {"config.yaml", "study.journal", "trials.csv", "report.html"} <= {path.name for path in folder.iterdir()}
    assert len(searched(read_findings(rival))) == len(searched(both.findings())) == 8
    assert {trial.params.get("criterion") for trial in read_findings(rival).trials} <= {None, "random"}
    assert "criterion" in both.findings().trials[-2].params


@pytest.mark.usefixtures("no_page")
def test_a_rival_with_fewer_controls_searches_as_often(task, tmp_path):
    several = ["l1", "l2", "taylor", "activation", "geometric_median", "hessian", "random", "bn_scale"]
    rival = {"name": "half", "space": {"groups": [{"match": "*", "ratio": 0.5}], "criterion": several}}
    findings = run(task, tmp_path / "tiny", 8, rival=rival).findings()
    kinds = [[trial.kind for trial in one.trials] for one in (findings, findings.rival)]
    assert kinds[0].count("control") > kinds[1].count("control")
    assert kinds[0].count("search") == kinds[1].count("search") > 0


def test_the_rivals_settings_are_the_studys_but_for_its_space(both):
    settings = read_settings(both.folder)
    rival = read_settings(both.folder / "rival")
    assert rival == rival_of(settings)
    assert rival.space == settings.space | {"criterion": "random"}
    assert rival.rival is None
    assert (rival.study.seed, rival.study.trials, rival.finish) == (0, 8, settings.finish)


def test_the_findings_hold_the_rival_under_its_name(both):
    rival = both.findings().rival
    assert rival.name == RIVAL["name"]
    assert [trial.values for trial in rival.trials] == [t.values for t in read_findings(both.folder / "rival").trials]
    assert rival.rival is None


def test_the_page_names_the_rival_and_its_own_page_does_not(both):
    assert "guessing &lt;at&gt; random" in (both.folder / "report.html").read_text()
    assert "guessing" not in (both.folder / "rival" / "report.html").read_text()


@pytest.mark.usefixtures("no_page")
def test_both_are_extended_and_neither_changes(copy, both, task):
    before = both.findings()
    after = run(task, copy, 10, rival=RIVAL, finish=FINISH).findings()
    for old, new in ((before, after), (before.rival, after.rival)):
        assert len(searched(new)) == 10
        assert new.trials[: len(old.trials)] == old.trials


def test_an_interrupted_pair_goes_on_with_the_rival(task, tmp_path, monkeypatch, both):
    """Ctrl-C in the rival's third trial: both pages are written, and the same command ends like an undisturbed one."""
    calls = []

    def tired(*args, **kwargs):
        calls.append(args)
        if len(calls) == 12:
            raise KeyboardInterrupt("by hand")
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(driver_module, "evaluate", tired)
    with pytest.raises(KeyboardInterrupt, match="by hand"):
        run(task, tmp_path / "tiny", 8, rival=RIVAL, finish=FINISH)
    broken = read_findings(tmp_path / "tiny")
    assert len(searched(broken)) == 8
    assert 0 < len(searched(broken.rival)) < 8
    assert "guessing" in (tmp_path / "tiny" / "report.html").read_text()
    monkeypatch.setattr(driver_module, "evaluate", evaluate)
    whole = run(task, tmp_path / "tiny", 8, rival=RIVAL, finish=FINISH).findings()
    for one, other in ((whole, both.findings()), (whole.rival, both.findings().rival)):
        assert [(t.kind, t.label, t.values, t.plan) for t in one.trials] == [
            (t.kind, t.label, t.values, t.plan) for t in other.trials
        ]


@pytest.mark.usefixtures("no_page")
def test_a_rival_may_join_later_and_be_left_out_again(task, tmp_path):
    alone = run(task, tmp_path / "tiny", 3)
    assert alone.findings().rival is None
    joined = run(task, tmp_path / "tiny", 3, rival=RIVAL)
    assert len(joined.findings().rival.trials) == 3
    assert joined.findings().trials == alone.findings().trials
    assert run(task, tmp_path / "tiny", 3).findings().rival is None


def test_another_rival_in_its_folder_is_refused(copy, task):
    with pytest.raises(ParetuneError, match=r"tiny/rival holds .* another space.criterion \(random, now l2\)"):
        run(task, copy, 8, rival={"name": "l2", "space": {"criterion": "l2"}}, finish=FINISH)


def test_a_rival_that_cannot_work_is_refused_before_anything_is_written(task, tmp_path):
    with pytest.raises(ParetuneError, match="Did you mean 'taylor'"):
        run(task, tmp_path / "tiny", 3, rival={"name": "x", "space": {"criterion": "tailor"}})
    with pytest.raises(ParetuneError, match=r"the config key 'rival\.space' is missing"):
        run(task, tmp_path / "tiny", 3, rival={"name": "x"})
    with pytest.raises(ParetuneError, match=r"no config key is called 'finish.epoch'. Did you mean 'finish.epochs'"):
        run(task, tmp_path / "tiny", 3, finish={"epoch": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("plain", "changes", "law"),
    [
        ({"a": 1}, {}, {"a": 1}),
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": {"x": {"deep": 1, "kept": 2}}}, {"a": {"x": {"deep": 9}}}, {"a": {"x": {"deep": 9, "kept": 2}}}),
        ({"a": {"x": 1}}, {"a": "word"}, {"a": "word"}),
        ({"a": "word"}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
    ],
)
def test_changes_go_table_by_table(plain, changes, law):
    before = json.dumps([plain, changes])
    assert merged(plain, changes) == law
    assert merged(merged(plain, changes), changes) == law
    assert json.dumps([plain, changes]) == before


# --- the finish


def test_a_finish_trains_the_best_searched_trial_once(both):
    for findings in (both.findings(), both.findings().rival):
        (finish,) = finishes(findings)
        best = min(
            (t for t in findings.trials if t.kind == "search" and t.status == "done"),
            key=lambda t: (t.values["top1_error"], t.values["macs"], t.number),
        )
        assert finish.number == 8
        assert finish.label == f"trial {best.number} after 1 epochs"
        assert finish.plan.groups == best.plan.groups
        assert finish.plan.asked.layers == best.plan.asked.layers
        assert (finish.plan.recovery.epochs, finish.plan.recovery.lr) == (1, 0.05)
        assert [rung.epochs for rung in finish.rungs] == [0, 1]
        assert finish.rungs[0].score == best.values["top1_error"]  # it starts from where that trial ended


@pytest.mark.usefixtures("no_page")
def test_the_same_command_again_finishes_nothing_again(copy, both, task, monkeypatch):
    monkeypatch.setattr(driver_module, "evaluate", None)
    again = run(task, copy, 8, rival=RIVAL, finish=FINISH).findings()
    assert again.trials == both.findings().trials


@pytest.mark.usefixtures("no_page")
def test_a_study_is_finished_again_only_if_the_best_has_changed(task, tmp_path):
    bests, done, folder = [], [], tmp_path / "tiny"
    for trials in (7, 8, 10, 14, 20):
        findings = run(task, folder, trials, finish=FINISH, sampler="random").findings()
        found = [t for t in findings.trials if t.kind == "search" and t.status == "done"]
        best = min(found, key=lambda t: (t.values["top1_error"], t.values["macs"], t.number)).number
        bests.append(best)
        done = [t.label for t in finishes(findings)]
        assert done == [f"trial {number} after 1 epochs" for number in dict.fromkeys(bests)]
        assert len(searched(findings)) == trials
    assert 1 < len(done) < 5


def test_samplers_never_see_a_finish(both):
    for folder in (both.folder, both.folder / "rival"):
        trial = load_study(folder).get_trials()[8]
        assert trial.state == TrialState.PRUNED
        assert trial.params == {}
        assert trial.values is None


@pytest.mark.usefixtures("no_page")
def test_no_finish_without_a_wish_or_a_searched_trial(task, tmp_path):
    assert finishes(run(task, tmp_path / "a", 7).findings()) == []
    assert finishes(run(task, tmp_path / "b", 3, finish=FINISH).findings()) == []  # controls only


@pytest.mark.usefixtures("no_page")
def test_a_killed_finish_is_taken_up(copy, both, task):
    """The journal of a process that died while the finish trained: asked, never told."""
    journal = copy / "study.journal"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    last = max(place for place, log in enumerate(lines) if log["op_code"] == 4)  # a trial is created
    asked = [log for place, log in enumerate(lines) if place <= last]
    journal.write_text("".join(json.dumps(log) + "\n" for log in asked))
    assert load_study(copy).get_trials()[8].state == TrialState.RUNNING
    again = run(task, copy, 8, rival=RIVAL, finish=FINISH).findings()
    before = both.findings()
    assert [(t.number, t.label, t.values) for t in again.trials] == [
        (t.number, t.label, t.values) for t in before.trials
    ]
    assert load_study(copy).get_trials()[8].state == TrialState.PRUNED


@pytest.mark.usefixtures("no_page")
def test_a_killed_finish_becomes_a_searched_trial_where_more_are_asked_for(copy, task):
    journal = copy / "study.journal"
    lines = journal.read_text().splitlines(keepends=True)
    last = max(place for place, line in enumerate(lines) if json.loads(line)["op_code"] == 4)
    journal.write_text("".join(lines[: last + 1]))
    findings = run(task, copy, 9, rival=RIVAL, finish=FINISH).findings()
    assert [trial.kind for trial in findings.trials[7:]] == ["search", "search", "finish"]


@pytest.mark.usefixtures("no_page")
def test_a_failed_finish_is_a_record_and_is_not_tried_again(task, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise MemoryError("no room")

    monkeypatch.setattr(evaluate_module, "finetune", full)
    findings = run(task, tmp_path / "tiny", 8, finish=FINISH).findings()
    assert finishes(findings)[0].status == "failed"
    assert finishes(findings)[0].reason == "MemoryError: no room"
    monkeypatch.setattr(driver_module, "evaluate", None)
    assert len(finishes(run(task, tmp_path / "tiny", 8, finish=FINISH).findings())) == 1


# --- planning that fails


def test_flat_curves_are_failed_trials_and_then_the_end(task, tmp_path, monkeypatch):
    def flat(inventory, units, judge, chance, criterion):
        ratios = (0.0, 0.5, 0.9)
        errors = (0.1, 0.1, 0.1)
        return {
            group.name: Curve(group=group.name, criterion=criterion, ratios=ratios, errors=errors, chance=chance)
            for group in inventory.groups
        }

    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measured_module, "measure", flat)
    knee = SPACE | {"rate": {"rule": "knee", "knee": {"drop": {"low": 0.02, "high": 0.3}}}}
    with pytest.raises(ParetuneError, match="all of 10 trials failed, the last with: ImpossiblePlan: no group has a"):
        run(task, tmp_path / "tiny", 20, space=knee)
    failed = read_findings(tmp_path / "tiny").trials[1:]
    assert len(failed) == 10
    assert {trial.status for trial in failed} == {"failed"}
    assert all(trial.reason.endswith("as every curve is flat: use another rate.rule") for trial in failed)
    assert all(trial.plan is None and set(trial.seconds) == {"plan"} for trial in failed)
    assert (tmp_path / "tiny" / "report.html").exists()


def test_a_target_out_of_reach_is_a_failed_trial(task, tmp_path):
    """Half of all trials ask for what no cut reaches; the others are done, and the report can be read."""
    space = SPACE | {"rate": {"rule": "target", "target": {"share": [0.001, 0.5]}}}
    findings = run(task, tmp_path / "tiny", 12, space=space, sampler="random").findings()
    status = {trial.status for trial in findings.trials[1:]}
    assert status == {"done", "failed"}
    for trial in findings.trials[1:]:
        share = trial.params["rate/target/share"]
        assert (trial.status == "failed") == (share == 0.001)
        if trial.status == "failed":
            assert trial.reason.startswith("ImpossiblePlan: target macs 0.001 cannot be met: between ")
        else:
            assert abs(trial.values["macs"] / findings.reference["macs"] - 0.5) <= 0.005
            assert trial.notes[0].startswith("target macs 0.5: ")
    assert "cannot be met" in (tmp_path / "tiny" / "report.html").read_text()


@pytest.mark.usefixtures("no_page")
def test_a_study_whose_only_target_is_out_of_reach_stops(task, tmp_path):
    space = SPACE | {"rate": {"rule": "target", "target": {"share": 0.001}}}
    with pytest.raises(ParetuneError, match=r"all of 10 trials failed, .*: target macs 0.001 cannot be met: between"):
        run(task, tmp_path / "tiny", 20, space=space)


def test_the_config_of_a_study_says_what_its_finish_and_rival_were(both):
    plain = yaml.safe_load((both.folder / "config.yaml").read_text())
    assert plain["finish"] == FINISH
    assert plain["rival"] == RIVAL
