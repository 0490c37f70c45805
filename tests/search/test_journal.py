"""The journal: Optuna's own format, readable while it grows, mended after a kill, and honest about damage."""

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from paretune.errors import ParetuneError
from paretune.search.journal import Journal, mend_journal, replayed


def grown(path, backend):
    study = optuna.create_study(storage=JournalStorage(backend), study_name="s", load_if_exists=True)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_int("n", 1, 3), n_trials=3)
    return study


def told(study):
    return [(trial.number, trial.params, trial.value, trial.state) for trial in study.get_trials(deepcopy=False)]


def test_optunas_own_backend_reads_what_ours_writes_and_ours_what_it_writes(tmp_path):
    path = tmp_path / "study.journal"
    path.touch()
    ours = grown(path, Journal(path))
    theirs = grown(path, JournalFileBackend(str(path)))
    assert len(told(theirs)) == 6
    assert told(ours) == told(theirs)
    assert told(optuna.load_study(storage=JournalStorage(Journal(path)), study_name="s")) == told(theirs)


def test_a_line_that_is_still_being_written_is_left_for_later(tmp_path):
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"op_code":0}\n{"op_code":1')
    journal = Journal(path)
    assert list(journal.read_logs(0)) == [{"op_code": 0}]
    with path.open("ab") as file:
        file.write(b'1}\n{"op_code":2}\n')
    assert list(journal.read_logs(1)) == [{"op_code": 11}, {"op_code": 2}]
    assert list(journal.read_logs(2)) == [{"op_code": 2}]
    assert list(Journal(path).read_logs(1)) == [{"op_code": 11}, {"op_code": 2}]


@pytest.mark.parametrize("tail", [b'{"op', b'{"op_code": 1}', b"\n", b"7\n", b"\x00\x00"])
def test_an_unfinished_last_line_is_cut(tmp_path, tail):
    journal = tmp_path / "study.journal"
    journal.write_bytes(b'{"op_code": 0}\n{"op_code": 5}\n' + tail)
    assert "has been cut" in mend_journal(journal)
    assert journal.read_bytes() == b'{"op_code": 0}\n{"op_code": 5}\n'
    assert mend_journal(journal) == ""


def test_damage_before_the_last_line_is_not_guessed_at(tmp_path):
    journal = tmp_path / "study.journal"
    journal.write_bytes(b'{"op_code": 0}\n{"op": \n{"op_code": 5}\n')
    with pytest.raises(ParetuneError, match="line 2 is damaged"):
        list(Journal(journal).read_logs(0))


def test_reading_a_whole_journal_leaves_optuna_as_it_was(tmp_path):
    path = tmp_path / "study.journal"
    path.touch()
    ours = grown(path, Journal(path))
    before = optuna.storages.journal._storage.json_to_distribution
    assert told(optuna.load_study(storage=replayed(path), study_name="s")) == told(ours)
    assert optuna.storages.journal._storage.json_to_distribution is before
