"""What can be told before a search."""

import pytest
import torch
from tiny_task import TinyNet, tiny_task
from torch import nn

from paretune.errors import ParetuneError
from paretune.search.bench import lay_out
from paretune.search.check import warn_if_stuck_here
from paretune.tasks.own import from_loaders


class Sorted(TinyNet):
    """Branches on its input, which no exporter can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if float(x.sum()) > 0 else -x)


def test_a_model_that_can_be_exported_is_not_talked_about(capsys):
    warn_if_stuck_here(lay_out(tiny_task()))
    assert capsys.readouterr().err == ""


def test_a_model_that_cannot_be_exported_is_named_before_the_search(capsys):
    rows = [(torch.randn(8, 1, 6, 6), torch.zeros(8, dtype=torch.long))]
    warn_if_stuck_here(lay_out(from_loaders(Sorted(), rows, rows, rows)))
    said = capsys.readouterr().err
    assert said.startswith("paretune: warning: this model can be searched, but not be exported yet: ")
    assert said.count("\n") == 1
    assert "Next steps" not in said


def test_a_regression_is_refused():
    rows = [(torch.randn(8, 5), torch.zeros(8))]
    with pytest.raises(ParetuneError, match="only classifiers"):
        from_loaders(nn.Linear(5, 1), rows, rows, rows)
