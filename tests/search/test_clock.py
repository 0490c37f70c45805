"""Stages inside stages: every second counts once."""

import pytest

from paretune.errors import OutOfTime
from paretune.search import clock as module
from paretune.search.clock import Clock


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock whose hand the test moves."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_a_stage_has_its_own_seconds_only(hand: list[float]) -> None:
    clock = Clock()
    with clock.stage("train"):
        hand[0] += 1
        with clock.stage("score"):
            hand[0] += 2
            with clock.stage("look"):
                hand[0] += 4
        hand[0] += 8
        with clock.stage("score"):
            hand[0] += 16
    with clock.stage("train"):
        hand[0] += 32
    assert clock.stages == {"train": 1 + 8 + 32, "score": 2 + 16, "look": 4}
    assert sum(clock.stages.values()) == hand[0]


def test_a_stage_that_ends_in_an_error_counts(hand: list[float]) -> None:
    clock = Clock()

    def fail() -> None:
        with clock.stage("train"):
            hand[0] += 1
            with clock.stage("score"):
                hand[0] += 2
                raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    with clock.stage("freeze"):
        hand[0] += 4
    assert clock.stages == {"train": 1, "score": 2, "freeze": 4}


def test_time_is_looked_at_before_every_batch() -> None:
    assert list(Clock().watched([1, 2])) == [1, 2]
    with pytest.raises(OutOfTime, match=r"study\.trial_minutes"):
        list(Clock(deadline=0.0).watched([1]))
