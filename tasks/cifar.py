"""The networks that CIFAR papers compress, without weights: residual ones with padded shortcuts and four VGGs."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from paretune.errors import ParetuneError, pick

POOL = 0  # among the widths of a VGG: halve the resolution
TINY = (16, 16, POOL, 32, 32, POOL, *3 * (64,), POOL, *3 * (128,))
VGG7 = (128, 128, POOL, 256, 256, POOL, 512, 512, POOL)
VGG16 = (64, 64, POOL, 128, 128, POOL, *2 * (256,), 256, POOL, *3 * (512,), POOL, *3 * (512,), POOL)
VGG19 = (64, 64, POOL, 128, 128, POOL, *4 * (256,), POOL, *4 * (512,), POOL, *4 * (512,), POOL)


def from_cifar(*, model: str = "resnet20", input_shape: Any = None, classes: int = 10) -> tuple[str, nn.Module, Any]:
    """The name of a network, it without weights, and the shape of an input without the batch axis.

    Raises:
        UnknownName: there is no such network.
        ParetuneError: a number of classes that is none.
    """
    make = pick(NETWORKS, str(model), "CIFAR model")
    if type(classes) is not int or classes < 1:
        raise ParetuneError(f"task.classes must be a whole number, 1 or more, got {classes!r}")
    return model, make(classes=classes), input_shape or [3, 32, 32]


class Shortcut(nn.Module):
    """Every second pixel, with as many zero channels before as behind: option A of He et al. 2016."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm and a residual add."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = Shortcut(outputs - inputs) if stride != 1 else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """6n + 2 layers for n = `blocks`: three stages of 16, 32 and 64 channels.

    He et al. 2016, section 4.2 (https://arxiv.org/abs/1512.03385). The modules have the names of
    https://github.com/akamaster/pytorch_resnet_cifar10, so that its checkpoints fit.
    """

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class CifarVGG(nn.Module):
    """3×3 convolutions of `widths` with batch norm, then linear layers: `flat` inputs, those in `hidden`, the classes.

    With nothing hidden the modules have the names of https://github.com/kuangliu/pytorch-cifar, so that its checkpoints
    fit.
    """

    def __init__(self, widths: tuple[int, ...], flat: int, hidden: tuple[int, ...] = (), classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in widths:
            if width == POOL:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(inputs, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
        self.features = nn.Sequential(*layers)
        head: list[nn.Module] = []
        for width in hidden:
            head += [nn.Linear(flat, width), nn.ReLU()]
            flat = width
        last = nn.Linear(flat, classes)
        self.classifier = nn.Sequential(*head, last) if head else last

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


# VGG7 is that of Ternary Weight Networks (Li et al. 2016, https://arxiv.org/abs/1605.04711) as Bayesian Bits has it:
# 4 × 4 × 512 numbers reach 1024 neurons. Others pool them to 512, with less than half the parameters.
#
# TinyVGG16 is what Partition Pruning (Shahhosseini et al. 2019, https://arxiv.org/abs/1901.11391) prunes. Its abstract
# names no widths. Public code of that name is VGG-16 for Tiny ImageNet (as https://github.com/pat-coady/tiny_imagenet
# has it): without the last stage, 4096 and 2048 neurons. Ours, a reading for 32 × 32 pixels, has a quarter of each of
# these widths and batch norm instead of dropout: 3.1 million parameters, 2.6 million of them in its linear layers.
NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    **{f"resnet{6 * n + 2}": partial(CifarResNet, n) for n in (3, 5, 7, 9, 18)},
    "vgg7": partial(CifarVGG, VGG7, 8192, (1024,)),
    "tinyvgg16": partial(CifarVGG, TINY, 2048, (1024, 512)),
    "vgg16_bn": partial(CifarVGG, VGG16, 512),
    "vgg19_bn": partial(CifarVGG, VGG19, 512),
}
