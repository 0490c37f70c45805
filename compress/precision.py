"""In which numbers and in which memory layout a fine-tune computes; weights and everything else stay float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paretune.errors import ParetuneError, pick

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
WORDS = {  # what the config calls them
    "float32": ("float32", "contiguous"),
    "channels_last": ("float32", "channels_last"),
    "bfloat16": ("bfloat16", "contiguous"),
    "bfloat16+channels_last": ("bfloat16", "channels_last"),
    "float16": ("float16", "contiguous"),
    "float16+channels_last": ("float16", "channels_last"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """How the forward and backward passes of a fine-tune compute: a key of `DTYPES` and one of `LAYOUTS`.

    Below float32 it is PyTorch's mixed precision: convolutions and products in `dtype`, weights, batch-norm statistics,
    loss, quantizers, gradients of weights and optimizer in float32. float16 scales the loss, since its small gradients
    would be zero: Micikevicius et al. 2018, Mixed Precision Training, https://arxiv.org/abs/1710.03740.
    """

    dtype: str = "float32"
    memory_format: str = "contiguous"

    def __str__(self) -> str:
        return next(word for word, parts in WORDS.items() if parts == (self.dtype, self.memory_format))

    def outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """What `model` makes of a batch, in float32 again, so that the loss is."""
        if self.dtype == "float32":
            plain: Tensor = model(self._laid(inputs))
            return plain
        with torch.autocast(inputs.device.type, dtype=DTYPES[self.dtype]):
            outputs = model(self._laid(inputs))
        if not isinstance(outputs, Tensor):
            raise ParetuneError(f"precision {self} needs a model that returns one tensor, not {type(outputs).__name__}")
        return outputs.float()

    def _laid(self, inputs: Tensor) -> Tensor:
        if self.memory_format == "contiguous" or inputs.ndim != 4:  # only images have a layout
            return inputs
        return inputs.contiguous(memory_format=LAYOUTS[self.memory_format])

    def scaler(self, device: str) -> torch.amp.GradScaler:
        """Scales the loss where small gradients would be lost; elsewhere it does nothing."""
        return torch.amp.GradScaler(device, init_scale=1024.0, enabled=self.dtype == "float16")


PLAIN = Precision()


def precision_of(word: str) -> Precision:
    """What the config calls `word`, a key of `WORDS`.

    Raises:
        UnknownName: no such word.
    """
    dtype, layout = pick(WORDS, word, "precision")
    return Precision(dtype=dtype, memory_format=layout)


def laid_out(model: nn.Module, precision: Precision) -> nn.Module:
    """`model` with those weights that have four axes in the layout, in place; there is none for others."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=LAYOUTS[precision.memory_format])
    return model


@contextmanager
def training_in(model: nn.Module, precision: Precision) -> Iterator[None]:
    """Inside, `model` has the layout; afterwards the usual one again, so that scores are summed in the same order."""
    if precision.memory_format == PLAIN.memory_format:
        yield
        return
    laid_out(model, precision)
    try:
        yield
    finally:
        laid_out(model, PLAIN)
