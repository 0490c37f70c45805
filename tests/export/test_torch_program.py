"""The program for PyTorch rounds as the model does, and names no file of this machine."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from compress_nets import build
from export_nets import compressed, images, mixed
from torch import Tensor, nn

from paretune.compress.freeze import freeze, thaw
from paretune.errors import ParetuneError
from paretune.export.torch_program import run_program, save_program


@pytest.mark.parametrize("net", ["mixed", "named"])
def test_the_program_says_what_the_model_says(net: str, tmp_path: Path) -> None:
    bits = {"one": (4, 8), "two": (8, 8), "head": (4, 8)}
    made = mixed() if net == "mixed" else compressed(build("named")[0], bits)
    frozen = freeze(made.model, made.inventory, made.plan)
    model, inputs = thaw(made.dense, made.inventory, made.plan, frozen), images(7)
    save_program(model, inputs[:1], tmp_path / "model.pt2")
    with torch.no_grad():
        assert np.array_equal(run_program(tmp_path / "model.pt2", inputs.numpy()), model(inputs).numpy())
    rounds = sum(layer.activation_bits < 32 for layer in frozen.layers.values())
    program = torch.export.load(tmp_path / "model.pt2")
    assert [node.target for node in program.graph.nodes].count(torch.ops.aten.round.default) == rounds > 0
    with zipfile.ZipFile(tmp_path / "model.pt2") as opened:
        assert not any(b".py" in opened.read(name) for name in opened.namelist())


class Branching(nn.Module):
    """Decides by the data, which a program cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x if x.sum() > 0 else -x)
        return logits


def test_a_model_that_is_no_program_says_why(tmp_path: Path) -> None:
    with pytest.raises(ParetuneError, match=r"torch\.export cannot trace this model with a free batch axis"):
        save_program(Branching().eval(), torch.zeros(1, 4), tmp_path / "model.pt2")
    (tmp_path / "model.pt2").write_bytes(b"no program")
    with pytest.raises(ParetuneError, match=r"model\.pt2 does not run"):
        run_program(tmp_path / "model.pt2", np.zeros((1, 4), np.float32))
