"""Whether a network takes the images and tells their classes apart."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from paretune.errors import ParetuneError, first_line
from paretune.tasks.task import Split


@torch.no_grad()
def check_outputs(
    net: nn.Module, split: Split, classes: int | None, least: int, advice: Callable[[str], str]
) -> int:  # fmt: skip
    """How many classes `net`, put into eval mode, tells apart, tried on the first clean images of `split`.

    The data have `classes`, or where nobody knows at least `least` and those of the first images. `advice` says what to
    do about another number than it is given in words.

    Raises:
        ParetuneError: the forward fails, or the outputs are not (n, classes).
    """
    inputs, targets = next(iter(split.batches(None)))
    inputs = inputs[:2]
    try:
        outputs = net.eval()(inputs)
    except Exception as error:  # the user's own forward may raise anything
        raise ParetuneError(f"the model's forward fails on {tuple(inputs.shape)}: {first_line(error)}") from error
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else ()
    least = max(least, int(targets.max()) + 1)
    if len(shape) != 2 or (shape[1] != classes if classes else shape[1] < least):
        told = f"{shape[1]} classes" if len(shape) == 2 else f"outputs of shape {shape or None}"
        wanted = str(classes) if classes else f"at least {least}"
        raise ParetuneError(f"the model has {told} and the data {wanted} classes; {advice(wanted)}")
    return int(shape[1])
