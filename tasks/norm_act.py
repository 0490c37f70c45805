"""Batch norm with the activation that timm keeps inside it, as modules of their own."""

from collections.abc import MutableMapping
from typing import cast

from torch import Tensor, nn

from paretune.tasks.weights import COUNT

CLASS = "BatchNormAct2d"
OWN = ("weight", "bias", "running_mean", "running_var", COUNT)


def is_norm_act(module: nn.Module) -> bool:
    """True for timm's batch norm with an activation, not for subclasses; timm need not be installed."""
    return isinstance(module, nn.BatchNorm2d) and type(module).__name__ == CLASS and hasattr(module, "act")


class NormAct(nn.Module):
    """(n, c, h, w) to the same shape: `bn`, a plain batch norm, then `drop` and `act`.

    The batch norm folds into the convolution before it, and its channels can leave, because there is nothing else in
    it. Takes over the tensors of `source`, and loads its state dicts.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        given = cast(nn.BatchNorm2d, source)
        self.bn = nn.BatchNorm2d(
            given.num_features, eps=given.eps, momentum=given.momentum, affine=given.affine,
            track_running_stats=given.track_running_stats, device="meta",
        )  # fmt: skip
        self.bn._parameters.update(given._parameters)
        self.bn._buffers.update(given._buffers)
        self.drop, self.act = cast(nn.Module, given.drop), cast(nn.Module, given.act)

    @property
    def num_features(self) -> int:
        """As the batch norm has it, for a forward that reads it."""
        return self.bn.num_features

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.act(self.drop(self.bn(x)))
        return made

    def rename(self, state: MutableMapping[str, Tensor], prefix: str) -> None:
        """Give the tensors of timm's module in `state` the names they have here, in place."""
        state.update({f"{prefix}bn.{key}": state.pop(prefix + key) for key in OWN if prefix + key in state})
