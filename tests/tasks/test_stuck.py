"""A read that does not come back, from a disk that is gone say, is told."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from paretune.errors import ParetuneError
from paretune.tasks import streamed
from paretune.tasks.streamed import Reader


@dataclass(frozen=True)
class Stuck:
    """The second sample never comes."""

    def __len__(self) -> int:
        return 2

    def name(self, row: int) -> str:
        return f"number {row}"

    def read(self, row: int, seed: int | None) -> tuple[Tensor, int]:
        if row == 1:
            time.sleep(1000)
        return torch.zeros(1), row

    def identity(self, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        yield torch.from_numpy(rows)


def test_a_worker_that_is_stuck_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "STUCK", 1)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # how long PyTorch waits for its end
    pairs = Reader(Stuck(), workers=1).read([[(0, None)], [(1, None)]])
    assert next(pairs)[1].tolist() == [0]
    with pytest.raises(ParetuneError, match="data: no image for 1 s, reading is stuck"):
        next(pairs)
