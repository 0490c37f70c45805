"""Small nets, one per way in which channels can be coupled, for the tests of paretune.compress."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inside: int, outside: int, size: int = 3, **more: int) -> nn.Sequential:
    """Convolution and batch norm."""
    made = nn.Conv2d(inside, outside, size, padding=size // 2, bias=False, **more)  # type: ignore[arg-type]
    return nn.Sequential(made, nn.BatchNorm2d(outside))


class Pooled(nn.Module):
    """Mean over the pixels, then a linear head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class Residual(nn.Module):
    """An identity shortcut, then a strided block with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv(3, 8), conv(8, 6), conv(6, 8)
        self.three, self.four, self.skip = conv(8, 10, stride=2), conv(10, 12), conv(8, 12, 1, stride=2)
        self.head = Pooled(12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.two(F.relu(self.one(x))))
        return self.head(F.relu(self.four(F.relu(self.three(x))) + self.skip(x)))


class Dense(nn.Module):
    """DenseNet: batch norms read concatenations of several layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * depth) for depth in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * depth, 4, 3, padding=1, bias=False) for depth in range(3))
        self.last = nn.BatchNorm2d(18)
        self.head = Pooled(18)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, made in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, made(F.relu(norm(x)))], 1)
        return self.head(F.relu(self.last(x)))


class Twice(nn.Module):
    """The same tensor twice in one concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = conv(3, 6), conv(3, 4), nn.Conv2d(16, 5, 1)
        self.head = Pooled(5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.one(x)), self.two(x)
        return self.head(F.relu(self.three(torch.cat([a, b, a], 1))))


class MixedConcat(nn.Module):
    """Two layers concatenated into one grouped convolution: neither can shrink on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = conv(3, 6), conv(3, 2), nn.Conv2d(8, 8, 3, groups=2)
        self.head = Pooled(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.three(torch.cat([self.one(x), self.two(x)], 1))))


class Shuffled(nn.Module):
    """A channel shuffle, which the tracer takes for a pointwise operation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = conv(3, 8), conv(8, 6), Pooled(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        x = x.view(x.shape[0], 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.head(F.relu(self.two(x)))


class Excited(nn.Module):
    """Squeeze and excite: the gate's last layer follows the channels it scales."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.down, self.up = conv(3, 8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = Pooled(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.one(x))
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return self.head(x * torch.sigmoid(gate))


def chain(act: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Three convolutions in a row."""
    return nn.Sequential(conv(3, 6), act(), conv(6, 8, stride=2), act(), nn.Conv2d(8, 4, 1), act(), Pooled(4))


def flat() -> nn.Module:
    """A flatten with 4 x 4 pixels per channel, then two linear layers."""
    body = (conv(3, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 7), nn.ReLU(), nn.Linear(7, 3))
    return nn.Sequential(*body)


def grouped() -> nn.Module:
    """ResNeXt's middle: a convolution in two conv groups between pointwise ones."""
    return nn.Sequential(conv(3, 8, 1), nn.ReLU(), conv(8, 12, groups=2), nn.ReLU(), conv(12, 6, 1), Pooled(6))


def depthwise() -> nn.Module:
    """MobileNet: pointwise, depthwise with stride, pointwise."""
    body = (conv(3, 6, 1), nn.ReLU6(), conv(6, 6, groups=6, stride=2), nn.ReLU6(), conv(6, 8, 1), nn.ReLU6(), Pooled(8))
    return nn.Sequential(*body)


def bare() -> nn.Module:
    """Batch norms that learn nothing and only keep statistics, one of them in front of a depthwise convolution."""
    first = (nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6, bias=False))
    return nn.Sequential(*first, nn.BatchNorm2d(6, affine=False), nn.Sigmoid(), nn.Conv2d(6, 4, 1), Pooled(4))


class Named(nn.Module):
    """Calls its layers by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(input=F.relu(self.norm(input=self.one(input=x))))
        return self.head(input=x.mean((2, 3)))


def sound() -> nn.Module:
    """One-dimensional convolutions and a flatten."""
    first = (nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 4, 3, stride=2, padding=1))
    return nn.Sequential(*first, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8, 3))


def mlp() -> nn.Module:
    """Linear layers with batch norms."""
    first = (nn.Linear(9, 8, bias=False), nn.BatchNorm1d(8), nn.Sigmoid())
    return nn.Sequential(*first, nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Hardswish(), nn.Linear(6, 3))


IMAGE, SOUND, TABLE = (3, 8, 8), (3, 16), (9,)

# name: (maker, shape of one sample, how many groups can be pruned)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "chain": (chain, IMAGE, 3),
    "sigmoid": (lambda: chain(nn.Sigmoid), IMAGE, 3),
    "hardswish": (lambda: chain(nn.Hardswish), IMAGE, 3),
    "residual": (Residual, IMAGE, 4),
    "dense": (Dense, IMAGE, 4),
    "twice": (Twice, IMAGE, 3),
    "flat": (flat, IMAGE, 2),
    "grouped": (grouped, IMAGE, 3),
    "depthwise": (depthwise, IMAGE, 2),
    "bare": (bare, IMAGE, 2),
    "named": (Named, IMAGE, 2),
    "mixed_concat": (MixedConcat, IMAGE, 1),
    "excited": (Excited, IMAGE, 2),
    "sound": (sound, SOUND, 2),
    "mlp": (mlp, TABLE, 2),
}


def build(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """The net `name` in eval mode and an example (1, ...); statistics are random, so that no channel is neutral."""
    make, shape, _ = NETS[name]
    torch.manual_seed(seed)
    net = randomise(make())
    return net.eval(), torch.randn(1, *shape)


def randomise(net: nn.Module) -> nn.Module:
    """`net` with random batch norm weights and statistics."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -1, 1)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return net
