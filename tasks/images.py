"""Small images as bytes on the device: cropped, mirrored and normalised there, whole batches at once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from paretune.errors import ParetuneError
from paretune.tasks.target import whole

MOST = 1024  # images that are scored at a time
ON_CPU, ELSEWHERE = 2**20, 2**28  # bytes of float inputs


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """A split held as `pixels` (n, channels, height, width), uint8, and `targets` (n,), int64, on one device.

    Batches are float32: (pixels / 255 − mean) / std with one number per channel, on the CPU to the last bit what
    torchvision's ToTensor and Normalize make. Training batches are augmented first: a black border of `pad` pixels, a
    crop of the old size anywhere in it, mirrored left to right with probability ½ if `flip` (He et al. 2016, section
    4.2, https://arxiv.org/abs/1512.03385). All chance is drawn on the CPU, so a device changes no crop.

    Raises:
        ParetuneError: pixels that are no bytes of that shape, not as many targets, `mean` or `std` of another length
            than the channels, a `std` that is not above 0, a `batch` or `pad` that is none.
    """

    pixels: Tensor
    targets: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch: int = 128
    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.dim() != 4:
            got = f"{self.pixels.dtype} {tuple(self.pixels.shape)}"
            raise ParetuneError(f"pixels must be torch.uint8 (images, channels, height, width), got {got}")
        if len(self.pixels) != len(self.targets):
            raise ParetuneError(f"there are {len(self.pixels)} images and {len(self.targets)} targets; each needs one")
        channels = self.pixels.shape[1]
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) != channels:
                raise ParetuneError(f"{name} has {len(numbers)} numbers, the images have {channels} channels")
        if not all(0 < number < float("inf") for number in self.std):
            raise ParetuneError(f"std divides, so each of its numbers must be above 0; got {list(self.std)}")
        whole("task.data.batch", self.batch, 1)
        whole("task.data.pad", self.pad, 0)

    def __len__(self) -> int:
        return len(self.targets)

    def steps(self) -> int:
        """How many training batches one epoch has."""
        return max(1, len(self) // self.batch)

    def to(self, device: str) -> "Images":
        """The same split on another device."""
        return replace(self, pixels=self.pixels.to(device), targets=self.targets.to(device))

    def rows(self, index: Tensor) -> "Images":
        """The images at `index` (k,), in its order."""
        index = index.to(self.pixels.device)
        return replace(self, pixels=self.pixels[index], targets=self.targets[index])

    def batches(self, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """See `tasks.task.Split`: clean and in order for None, shuffled and augmented by a seed.

        The last incomplete training batch is dropped if there is a full one, so that batch-norm statistics never come
        from a handful of images.
        """
        mean, std = (torch.tensor(n, device=self.pixels.device)[:, None, None] for n in (self.mean, self.std))
        if seed is None:
            size = evaluated(self.pixels)
            for pixels, targets in zip(torch.split(self.pixels, size), torch.split(self.targets, size), strict=True):
                yield normalised(pixels, mean, std), targets
            return
        parts = (torch.split(drawn.to(self.pixels.device), self.batch) for drawn in self._drawn(seed))
        for rows, down, right, mirrored in zip(*parts, strict=True):
            pixels = self.pixels[rows]
            if self.pad or self.flip:
                pixels = cropped(pixels, down, right, mirrored, pad=self.pad)
            yield normalised(pixels, mean, std), self.targets[rows]

    def _drawn(self, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """An epoch's images in order, the row and column at which each is cropped, and whether it is mirrored."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator)[: self.batch * self.steps()]
        down, right = torch.randint(0, 2 * self.pad + 1, (2, len(order)), generator=generator)
        mirrored = torch.rand(len(order), generator=generator) < (0.5 if self.flip else 0.0)
        return order, down, right, mirrored


def evaluated(pixels: Tensor) -> int:
    """How many of `pixels` (n, c, h, w) are scored at a time: on a CPU as many as make a megabyte of float inputs, 16
    to 1024, because activations that leave the cache take several times as long; elsewhere 1024, or as many as make
    256 MiB of them.
    """
    one = 4 * max(1, pixels[:1].numel())
    if pixels.device.type != "cpu":
        return min(MOST, max(1, ELSEWHERE // one))
    fit = ON_CPU // one
    return min(MOST, max(16, 1 << (max(1, fit).bit_length() - 1)))


def cropped(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor, *, pad: int) -> Tensor:
    """Each of `images` (n, c, h, w), in a border of `pad` zeros, from row `down` and column `right`, maybe mirrored.

    `down` and `right` (n,) lie in [0, 2·pad]; `mirrored` (n,) is boolean. The shape stays.
    """
    height, width = images.shape[2:]
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + right[:, None]
    # One gather over flat images: less than half the time of indexing with rows and columns.
    index = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).flatten(1)
    flat = F.pad(images, [pad] * 4).flatten(2)
    return flat.gather(2, index[:, None].expand(-1, images.shape[1], -1)).view(images.shape)


def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(pixels / 255 − mean) / std as float32; `mean` and `std` are (c, 1, 1), of pixels in [0, 1]."""
    # In place: every further tensor of this size costs more than the arithmetic on it.
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
