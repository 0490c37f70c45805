"""A task: a trained model, its data in three roles, and how its quality is counted."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.errors import ParetuneError
from paretune.findings import Objective

TOP1_ERROR = Objective(name="top1_error", unit="share", definition="share of wrongly classified images, in [0, 1]")


class Split(Protocol):
    """One role's samples. Reading it twice with the same seed gives the same batches in the same order."""

    def __len__(self) -> int:
        """How many samples there are."""

    def steps(self) -> int:
        """How many training batches one epoch has."""

    def batches(self, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, targets) batches: shuffled and augmented by `seed`, or clean and in order for None."""


Loss = Callable[[Tensor, Tensor], Tensor]
Errors = Callable[[Tensor, Tensor], float]


def misclassified(outputs: Tensor, targets: Tensor) -> float:
    """How many rows of `outputs` (n, classes) do not have their maximum at `targets` (n,)."""
    return float((outputs.argmax(dim=1) != targets).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is to be compressed and what counts as good.

    The search trains on `train` and steers by `val`; `test` is touched by confirm and export only.
    `model` is trained and never modified. `errors` returns a sum over a batch; divided by the number of samples it is
    the quality metric, which is minimised. `origin` says how to make the task again (a config), or is
    empty for a task made in Python. `fingerprint` changes when weights or the data it was
    made from do. `roles` say in words which images are in which role, where that is not plain.
    """

    name: str
    model: nn.Module
    train: Split
    val: Split
    test: Split
    fingerprint: str
    origin: dict[str, object]
    quality: Objective = TOP1_ERROR
    loss: Loss = F.cross_entropy
    errors: Errors = misclassified
    device: torch.device = torch.device("cpu")
    roles: Mapping[str, str] = field(default_factory=dict)

    def example(self) -> Tensor:
        """One clean input with a batch axis: (1, ...)."""
        return next(iter(self.val.batches(None)))[0][:1]


def fingerprint(model: nn.Module, *data: Tensor) -> str:
    """Sixteen hex digits that change when a weight of `model` or a number in `data` does."""
    seen = hashlib.sha256()
    for tensor in data:
        seen.update(tensor.cpu().numpy().tobytes())
    for key, tensor in sorted(model.state_dict().items()):
        seen.update(key.encode())
        seen.update(tensor.cpu().numpy().tobytes())
    return seen.hexdigest()[:16]


@torch.no_grad()
def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], errors: Errors) -> float:
    """The quality metric of `model`, put into eval mode, over `batches`.

    Raises:
        ParetuneError: there is nothing to score.
    """
    model.eval()
    wrong, seen = 0.0, 0
    for inputs, targets in batches:
        wrong += errors(model(inputs), targets)
        seen += len(targets)
    if not seen:
        raise ParetuneError("the split to be scored is empty; val and test need at least one sample")
    return wrong / seen
