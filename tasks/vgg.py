"""A small VGG for small images: plain convolutions, then fully connected layers that hold most of the weights."""

import torch.nn.functional as F
from torch import Tensor, nn


class VGG(nn.Module):
    """Two 3×3 convolutions with batch norm per entry of `widths`, each pair halves the resolution; then two hidden
    linear layers of `hidden` neurons and a linear head. `size` is the height and width of the input.
    """

    def __init__(
        self, widths: tuple[int, ...], size: int = 8, hidden: int = 128, channels: int = 1, classes: int = 10
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            for given in (channels, width):
                layers += [nn.Conv2d(given, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels, size = width, size // 2
        self.features = nn.Sequential(*layers)
        self.hidden1 = nn.Linear(channels * size * size, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(1)
        logits: Tensor = self.head(F.relu(self.hidden2(F.relu(self.hidden1(x)))))
        return logits
