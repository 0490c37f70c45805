"""Check a shipped folder again: on the whole test split where the task can be made, else on its own samples."""

from dataclasses import replace
from pathlib import Path

from paretune.errors import ParetuneError
from paretune.export.artifact import read_artifact
from paretune.export.verify import Verdict, verify
from paretune.search.confirm import verify_with
from paretune.tasks.table import make_task


def verify_folder(folder: Path) -> Verdict:
    """The verdict on an exported folder; its message says why, where only the samples could be compared.

    Raises:
        ParetuneError: files are missing, damaged or of a newer format.
    """
    scores = read_artifact(folder).scores["scores"]
    if not scores["task"]:
        return _samples(folder, "its task was made in Python")
    try:
        task = make_task(scores["task"])
    except ParetuneError as error:
        return _samples(folder, str(error))
    if task.fingerprint != scores["task_fingerprint"]:
        return _samples(folder, "the weights or data of its task are others here")
    return verify_with(folder, task)


def _samples(folder: Path, why: str) -> Verdict:
    verdict = verify(folder, None, None)
    return replace(verdict, message=(*verdict.message, f"the test split is not at hand: {why}"))
