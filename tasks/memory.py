"""Small data sets as tensors on the device: no worker processes, no copies per batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class InMemory:
    """A split held as `inputs` (n, ...) and `targets` (n,) on one device.

    `augment` is applied to whole training batches; the last incomplete training batch is dropped
    if there is a full one, so that batch-norm statistics never come from a handful of samples.
    """

    inputs: Tensor
    targets: Tensor
    batch: int = 64
    augment: Augment | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def steps(self) -> int:
        """How many training batches one epoch has."""
        return max(1, len(self) // self.batch)

    def to(self, device: str) -> "InMemory":
        """The same split on another device."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def batches(self, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """See `tasks.task.Split`: clean and in order for None, shuffled and augmented by a seed."""
        if seed is None:
            yield from zip(torch.split(self.inputs, 1024), torch.split(self.targets, 1024), strict=True)
            return
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator).to(self.inputs.device)
        usable = min(len(self), self.batch * self.steps())
        for rows in torch.split(order[:usable], self.batch):
            inputs = self.inputs[rows]
            yield (self.augment(inputs, generator) if self.augment else inputs), self.targets[rows]


def shift(images: Tensor, generator: torch.Generator, pixels: int = 1) -> Tensor:
    """`images` (n, c, h, w), each moved by up to `pixels` in both directions; the border is filled with its minimum."""
    padded = torch.nn.functional.pad(images, [pixels] * 4, value=float(images.min()))
    moves = torch.randint(0, 2 * pixels + 1, (2, len(images)), generator=generator).to(images.device)
    rows = moves[0, :, None] + torch.arange(images.shape[2], device=images.device)
    columns = moves[1, :, None] + torch.arange(images.shape[3], device=images.device)
    index = torch.arange(len(images), device=images.device)[:, None, None]
    moved: Tensor = padded.movedim(1, -1)[index, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(-1, 1)
