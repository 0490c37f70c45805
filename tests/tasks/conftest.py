"""The digits task, trained once per session."""

import pytest

from paretune.tasks.task import Task


@pytest.fixture(scope="session")
def digits_task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """The digits task with seed 0, trained into a cache folder of this session."""
    from paretune.tasks.digits import digits

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return digits(seed=0)
