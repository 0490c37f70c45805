"""Class numbers against the classes that a network tells apart."""

import torch
from torch import Tensor

from paretune.errors import ParetuneError


def check_labels(targets: Tensor, classes: int | None) -> None:
    """Nothing, if `targets` (n,) are whole numbers from 0 and below `classes`, or no such numbers at all; or if nobody
    knows how many `classes` there are. On a GPU this waits for `targets`.

    Raises:
        ParetuneError: one is not. The loss would stop with an index, and a count would call each such image wrong.
    """
    if classes is None or targets.ndim != 1 or not len(targets) or targets.is_floating_point():
        return
    for label in map(int, torch.aminmax(targets)):
        if not 0 <= label < classes:
            raise ParetuneError(
                f"data: there is the label {label}, and the network tells {classes} classes apart, 0 to {classes - 1}; "
                "mend the labels, or take another network"
            )
