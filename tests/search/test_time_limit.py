"""A trial's time limit is looked at wherever a trial may take long."""

import pytest
from tiny_task import tiny_task

from paretune.errors import OutOfTime
from paretune.recipe import Recovery
from paretune.search.bench import Bench, lay_out
from paretune.search.clock import Clock
from paretune.search.evaluate import _smaller


@pytest.fixture(scope="module")
def bench() -> Bench:
    return lay_out(tiny_task())


def test_the_time_limit_holds_within_a_compensated_cut(bench: Bench) -> None:
    recovery = Recovery(epochs=0, lr=0.01, compensate="linear", images=192)
    kept = dict.fromkeys(("conv1", "conv2"), (0, 2, 4, 6))
    with pytest.raises(OutOfTime, match=r"study.trial_minutes"):
        _smaller(bench.task.model, bench, kept, recovery, Clock(deadline=0.0))
    looks: list[int] = []

    class Looking(Clock):
        def tick(self) -> None:
            looks.append(1)

    _smaller(bench.task.model, bench, kept, recovery, Looking())
    assert len(looks) == 2 * len(bench.some(192))  # every batch, once per group
