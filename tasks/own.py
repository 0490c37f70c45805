"""A task from your own module and data loaders."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from paretune.errors import ParetuneError, first_line
from paretune.findings import Objective
from paretune.tasks.labels import check_labels
from paretune.tasks.task import TOP1_ERROR, Errors, Loss, Split, Task, fingerprint, misclassified

FINGERPRINT_BATCHES = 16


@dataclass(frozen=True, eq=False)
class Loaded:
    """A split read through a data loader (or any iterable that starts anew) of (inputs, targets) pairs.

    A seed is set before each pass, so a shuffling loader without worker processes repeats its order. With `classes`, a
    batch with a label that numbers none of so many is an error.
    """

    loader: Iterable[Any]
    device: torch.device
    classes: int | None = None

    def __len__(self) -> int:
        dataset = getattr(self.loader, "dataset", None)
        if isinstance(dataset, Sized) and isinstance(self.loader, Sized):
            return len(dataset) if len(self.loader) else 0  # drop_last may leave no batch
        return sum(len(batch[1]) for batch in self.loader)

    def steps(self) -> int:
        """How many batches a pass has: the loader's own length, or counted."""
        return len(self.loader) if isinstance(self.loader, Sized) else sum(1 for _ in self.loader)

    def batches(self, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """See `tasks.task.Split`; a loader's own augmentation is not switched off for None."""
        # The loader draws from PyTorch's global generator, which it only holds while it makes a batch.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0 if seed is None else seed)
            pairs, state = iter(self.loader), torch.get_rng_state()
        while True:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(state)
                try:
                    inputs, targets = next(pairs)
                except StopIteration:
                    return
                state = torch.get_rng_state()
            check_labels(targets, self.classes)
            yield inputs.to(self.device), targets.to(self.device)


def from_loaders(
    model: nn.Module,
    train: Iterable[Any] | Split,
    val: Iterable[Any] | Split,
    test: Iterable[Any] | Split,
    *,
    name: str = "mine",
    loss: Loss = torch.nn.functional.cross_entropy,
    errors: Errors = misclassified,
    quality: Objective = TOP1_ERROR,
    device: str | torch.device = "cpu",
) -> Task:
    """A task around a trained `model`; each loader yields (inputs, targets) batches.

    `train` should shuffle and augment as in training; `val` steers the search, `test` only confirms, and the
    three must not share samples. `errors(outputs, targets)` returns a batch's summed error; `loss` is what
    fine-tuning minimises. The model is moved to `device` and put into eval mode. So far only classifiers are served:
    outputs (n, classes) and a quality that is a share in [0, 1], such as another error rate.

    Raises:
        ParetuneError: a split is empty or can be read only once, the model's forward fails on the first batch of
            `val`, its outputs or the quality are not of that kind, or a label numbers none of the classes.
    """
    where = torch.device(device)
    splits = [_split(source, where) for source in (train, val, test)]
    for role, given, split in zip(("train", "val", "test"), (train, val, test), splits, strict=True):
        if isinstance(given, Iterator):
            raise ParetuneError(f"task '{name}': the {role} split can be read only once; give a DataLoader or a list")
        if len(split) == 0:
            raise ParetuneError(f"task '{name}': the {role} split is empty")
    model = model.to(where).eval()
    inputs = next(iter(splits[1].batches(None)))[0]
    try:
        with torch.no_grad():
            outputs = model(inputs[:2])
    except Exception as error:
        raise ParetuneError(
            f"task '{name}': the model's forward fails on {tuple(inputs.shape)}: {first_line(error)}"
        ) from error
    if quality.unit != "share" or not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ParetuneError(f"task '{name}': only classifiers, outputs (n, classes), with a quality in [0, 1] so far")
    if errors is misclassified:
        splits = [replace(split, classes=outputs.shape[1]) if isinstance(split, Loaded) else split for split in splits]
    return Task(
        name=name, model=model, train=splits[0], val=splits[1], test=splits[2], loss=loss, errors=errors,
        quality=quality, origin={}, device=where,
        fingerprint=fingerprint(model, *_seen(splits[1:])),
    )  # fmt: skip


def _split(source: Iterable[Any] | Split, device: torch.device) -> Split:
    return cast(Split, source) if hasattr(source, "batches") else Loaded(source, device)


def _seen(splits: Sequence[Split]) -> Iterator[Tensor]:
    """The numbers that tell data sets apart: the first batches of `val` and `test`; `train` may augment as it likes."""
    for split in splits:
        for inputs, targets in islice(split.batches(None), FINGERPRINT_BATCHES):
            yield from (inputs, targets)
