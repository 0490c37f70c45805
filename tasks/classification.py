"""Image classification from parts: a network with its trained weights, and images with their labels."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from paretune.tasks.images import Images
from paretune.tasks.network import advice_on_classes, network, seen_by
from paretune.tasks.normalisation import check_normalisation
from paretune.tasks.outputs import check_outputs
from paretune.tasks.own import FINGERPRINT_BATCHES
from paretune.tasks.splits import AnySplit, labelled, splits_of
from paretune.tasks.streamed import Streamed
from paretune.tasks.task import Task, fingerprint


def classification(*, model: Mapping[str, Any], data: Mapping[str, Any], device: str = "cpu") -> Task:
    """A trained network on `device` and the images that it tells apart, kept there as bytes or read by workers.

    `model` has `source` (a name in `paretune.tasks.bare.BARE`), `weights` (a file, or for torchvision a published set
    by name) and `trained_on` (see `paretune.tasks.roles`); the rest goes to the source. `data` has `source` (a name in
    `paretune.tasks.sources.SOURCES`), `mean` and `std` of pixels in [0, 1] by channel, `batch`, `pad` (of images in
    memory) and `flip` of the training batches, what `roles_of` takes; the rest goes to the source. Your own data
    (source `module`) brings its own normalisation and augmentation.

    Raises:
        ParetuneError: a part that is unknown, missing or cannot be read; weights, labels, classes or channels that do
            not fit.
    """
    check_normalisation(model, data)
    train, val, test, words, classes, least = splits_of(data, seen_by(model, data), torch.device(device))
    net = network(model, train=train, val=val, classes=classes, least=least, device=device)
    count = check_outputs(net, val, classes, least, lambda wanted: advice_on_classes(model, wanted))
    train, val, test = (labelled(split, count) for split in (train, val, test))
    seen = (tensor for split in (train, val, test) for tensor in _numbers(split, training=split is train))
    return Task(
        name="classification", model=net, train=train, val=val, test=test, device=torch.device(device),
        fingerprint=fingerprint(net, *seen), roles=words,
        origin={"name": "classification", "model": dict(model), "data": dict(data)},
    )  # fmt: skip


def _numbers(split: AnySplit, *, training: bool) -> Iterable[Tensor]:
    """All that tells two splits apart but for their augmentation; of your own loaders what is cheap to know."""
    if isinstance(split, Images):
        return split.pixels, split.targets, torch.tensor([split.mean, split.std])
    if isinstance(split, Streamed):
        normalisation = torch.tensor([split.mean or (), split.std or ()])
        return *split.reader.samples.identity(split.rows), torch.from_numpy(split.targets), normalisation
    batches = () if training else islice(split.batches(None), FINGERPRINT_BATCHES)  # training may augment as it likes
    return [tensor for pair in batches for tensor in pair]
