"""A thawed model as a program of `torch.export`: one .pt2 file that PyTorch runs without the model's code."""

import copy
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.errors import ParetuneError, first_line

NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def save_program(model: nn.Module, example: Tensor, file: Path) -> None:
    """Write `model` (thawed) to `file`: it takes one batch (n, ...) and gives its outputs.

    Its float32 weights lie on the quantization grid and the rounding of activations is part of it. `example` is a
    batch of any size; only its shape is used, and `model` stays as it is.

    Raises:
        ParetuneError: the model cannot be traced with a free batch axis.
    """
    # Zeros, because the file keeps the inputs it was traced with; a batch of one would be taken for a constant.
    batch = torch.zeros(2, *example.shape[1:], dtype=example.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = _traced(copy.deepcopy(model).cpu().eval(), batch)
        torch.export.save(program, file)


def run_program(file: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the program in `file` gives for `inputs` (n, ...).

    Raises:
        ParetuneError: it cannot be loaded or run.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            found: NDArray[np.float32] = torch.export.load(file).module()(torch.from_numpy(inputs)).numpy()
    except Exception as error:
        raise ParetuneError(f"{file} does not run: {first_line(error)}") from error
    return found


def _traced(model: nn.Module, batch: Tensor) -> torch.export.ExportedProgram:
    try:
        program = torch.export.export(model, (batch,), dynamic_shapes=({0: torch.export.Dim("n")},))
    except Exception as error:
        reason = f"torch.export cannot trace this model with a free batch axis: {first_line(error)}"
        raise ParetuneError(reason) from error
    # The tracer's notes name files of this machine.
    for node in program.graph.nodes:
        for note in NOTES:
            node.meta.pop(note, None)
    return program
