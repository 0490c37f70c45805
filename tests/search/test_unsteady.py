"""How many predictions hang on the last bits of a float."""

import pytest
import torch
from torch import Tensor, nn

from paretune.search.confirm import unsteady
from paretune.tasks.memory import InMemory


class Cancelling(nn.Module):
    """Class 1 by a term that float32 loses beside a large one where the input is large, class 0 by nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x[:, 0]), (x[:, 0] + 0.25) - x[:, 0]], dim=1)


class Float32Only(nn.Module):
    """Has a table of its own that does not follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.eye(1, 2, dtype=torch.float32)


def split(*values: float) -> InMemory:
    inputs = torch.tensor(values)[:, None]
    return InMemory(inputs=inputs, targets=torch.zeros(len(values), dtype=torch.long))


def test_a_class_that_float32_loses_counts() -> None:
    assert unsteady(Cancelling(), split(0.0, 1.0, 2.0, 2.0**30)) == pytest.approx(1 / 4)


def test_a_steady_model_has_none_and_one_that_runs_in_float32_only_tells_none() -> None:
    assert unsteady(nn.Linear(1, 2), split(-1.0, 1.0)) == 0
    assert unsteady(Float32Only(), split(-1.0, 1.0)) == 0
