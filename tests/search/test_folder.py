"""One writer, whole files."""

import subprocess
import sys

import pytest

from paretune.errors import ParetuneError
from paretune.search.folder import drop_kept, kept_folder, read_json, sole_writer, write_json


def test_a_second_writer_is_told_who_is_first(tmp_path):
    code = "import sys; from pathlib import Path; from paretune.search.folder import sole_writer\n"
    code += "with sole_writer(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(ParetuneError, match=f"is being written by process {first.pid}"), sole_writer(tmp_path):
            pass
        first.kill()  # not a clean end: the lock must be free all the same
        first.wait()
    with sole_writer(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ParetuneError, match="cannot be made"), sole_writer(tmp_path / "file" / "study"):
        pass


def test_optunas_stale_lock_is_removed(tmp_path):
    (tmp_path / "study.journal.lock").symlink_to("study.journal")
    with sole_writer(tmp_path):
        assert not (tmp_path / "study.journal.lock").is_symlink()


def test_only_wanted_weights_are_kept(tmp_path):
    for number in (3, 5, 8):
        kept_folder(tmp_path, number).mkdir(parents=True)
    (tmp_path / "trials" / "9.part").mkdir()
    drop_kept(tmp_path, {5})
    assert [path.name for path in (tmp_path / "trials").iterdir()] == ["5"]


def test_json_is_replaced_in_one_step(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2]})
    assert read_json(tmp_path / "a.json") == {"a": [1, 2]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_missing_and_damaged_json_are_told_apart(tmp_path):
    with pytest.raises(ParetuneError, match="is not the folder of a study"):
        read_json(tmp_path / "provenance.json")
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(ParetuneError, match="is damaged"):
        read_json(tmp_path / "provenance.json")
