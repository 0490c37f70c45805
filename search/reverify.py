"""Check a shipped folder again: on the whole test split where the task can be made, else on its own samples."""

from pathlib import Path

from paretune.export.artifact import read_artifact
from paretune.export.verify import Verdict, verify
from paretune.search.confirm import verify_with
from paretune.tasks.table import make_task


def verify_folder(folder: Path) -> Verdict:
    """The verdict on an exported folder.

    Raises:
        ParetuneError: files are missing, damaged or of a newer format.
    """
    scores = read_artifact(folder).scores["scores"]
    if not scores["task"]:
        return verify(folder, None, None)
    task = make_task(scores["task"])
    if task.fingerprint != scores["task_fingerprint"]:
        return verify(folder, None, None)
    return verify_with(folder, task)
