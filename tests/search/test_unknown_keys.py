"""A key that no config has is answered with those of the groups that were chosen, not of the default ones."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from paretune import conf
from paretune.errors import ParetuneError
from paretune.search.launch import study_command

OWN = ("task=classification", "data=imagefolder")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*OWN, "task.data.worker=2"], "called 'task.data.worker'. Did you mean 'task.data.workers'"),
        ([*OWN, "task.data.limit_byte=2"], "called 'task.data.limit_byte'. Did you mean 'task.data.limit_bytes'"),
        ([*OWN, "model=torchvision", "task.model.argument=2"], "Did you mean 'task.model.arguments'"),
        (
            ["task=classification", "task.data.workers=2"],
            "'task.data.workers'. Did .* Known: task.data.source, task.data.path",
        ),
        (["experiment=imagenet_resnet18", "task.data.worker=2"], "Did you mean 'task.data.workers'"),
        (["task=digits,classification", "study.trails=2", "--multirun"], "Did you mean 'study.trials'"),
    ],
)
def test_the_chosen_groups_tell_what_there_is(words: list[str], message: str) -> None:
    with pytest.raises(ParetuneError, match=message):
        study_command(words)


@pytest.mark.parametrize("name", ["npz", "imagefolder"])
def test_nobody_guesses_how_your_own_images_are_normalised(name: str, tmp_path: Path) -> None:
    held: Any = yaml.safe_load((Path(conf.__file__).parent / "data" / f"{name}.yaml").read_text())
    assert (held["mean"], held["std"]) == (None, None)
    where = f"task.data.{'path' if name == 'npz' else 'root'}={tmp_path}"
    words = ["task=classification", f"data={name}", where, "model=torchvision", f"results_dir={tmp_path}"]
    with pytest.raises(
        ParetuneError, match=r"task\.data\.mean is missing: .* of resnet18 have task\.data\.mean=\[0\.485,"
    ):
        study_command([*words, "task.model.weights=DEFAULT", "task.model.trained_on=train"])
