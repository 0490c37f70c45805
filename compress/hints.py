"""Feature hints: a student is drawn towards what the teacher's last layer reads, not only to what it says.

Romero et al. 2015, FitNets, https://arxiv.org/abs/1412.6550.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.compress.quantize import with_input
from paretune.errors import ParetuneError
from paretune.inventory import Inventory


class Hints:
    """The distance between the inputs of one layer in a student and in its teacher.

    The student's features (n, c_s, ...) go through `adapter`, a learned linear map of channels with a bias (a 1×1
    convolution if there are pixels), which belongs to neither model and is thrown away after training. It starts with
    the student's i-th channel in the place `kept[i]` among the teacher's, by default i, and zeros in the places of the
    removed ones, so that a student that has only been cut starts from what it has lost.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, layer: str | None, kept: Sequence[int] | None = None
    ) -> None:
        """`layer` is a convolution or linear layer that both models have.

        Raises:
            ParetuneError: no layer, one of another kind, or `kept` that does not fit.
        """
        if layer is None:
            raise ParetuneError("distill 'hints' needs a teacher with a hint_layer, such as the name of the last layer")
        self.layer, module = layer, student.get_submodule(layer)
        self.channels_last = isinstance(module, nn.Linear)
        width, full = _inputs(module, layer), _inputs(teacher.get_submodule(layer), layer)
        places = list(range(width)) if kept is None else list(kept)
        if len(places) != width or len(set(places)) != width or not all(0 <= place < full for place in places):
            raise ParetuneError(
                f"the student's '{layer}' reads {width} features and the teacher's {full}, so `kept` needs {width} "
                f"different places below {full}; got {places[:20]}"
            )
        self.adapter = _adapter(places, full).to(next(module.parameters()))

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over all numbers of (adapted student - teacher)², a scalar.

        The mean over channels too, not their sum, is ours: the weight of a hint means the same at every width.
        """
        if self.channels_last:
            return F.mse_loss(self.adapter(student), teacher)
        return F.mse_loss(self.adapter(student.movedim(1, -1)).movedim(-1, 1), teacher)


def _inputs(module: nn.Module, name: str) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return module.in_channels
    raise ParetuneError(f"the hint layer '{name}' is a {type(module).__name__}; name a convolution or a linear layer")


def _adapter(places: Sequence[int], full: int) -> nn.Linear:
    # Its usual first values would be drawn from the global generator.
    adapter = nn.Linear(len(places), full, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        adapter.weight.zero_()
        adapter.bias.zero_()
        adapter.weight[places, range(len(places))] = 1.0
    return adapter


@contextmanager
def reading(model: nn.Module, layer: str | None) -> Iterator[list[Tensor]]:
    """Inside, a list that fills with what `layer` is given, call by call, before any rounding; None watches nothing."""
    seen: list[Tensor] = []
    if layer is None:
        yield seen
        return

    def keep(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    def look(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        with_input(keep, inputs, named)

    # First of all hooks: the one that rounds a quantized layer's input comes later.
    hook = model.get_submodule(layer).register_forward_pre_hook(look, prepend=True, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def kept_inputs(inventory: Inventory, layer: str, kept: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """The input channels of `layer` that are left once groups keep only the units in `kept`, ascending.

    None, which means that nothing is known, for a convolution in several conv groups.
    """
    row = inventory.layer[layer]
    if row.groups > 1:
        return None
    gone = {
        index
        for group, member in inventory.cuts[layer]
        if member.axis == "in" and group in kept
        for unit in set(range(inventory.group[group].channels)) - set(kept[group])
        for index in member.units[unit]
    }
    return tuple(index for index in range(row.weight_shape[1]) if index not in gone)
