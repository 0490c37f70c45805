"""A small net with one of everything, compressed with every bit-width: what the export tests share."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from paretune.compress.cut import cut
from paretune.compress.groups import discover
from paretune.compress.quantize import calibrate, quantize, tell_quantizers
from paretune.inventory import Inventory
from paretune.plan import GroupPlan, LayerPlan, Plan
from paretune.tasks.digits import MEAN, STD


class Mixed(nn.Module):
    """Residual, concat, depthwise, grouped, tokens, batch norms that fold and one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.depthwise_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.grouped, self.grouped_norm = nn.Conv2d(8, 12, 1, groups=2), nn.BatchNorm2d(12)
        self.join_norm = nn.BatchNorm2d(20)
        self.join = nn.Conv2d(20, 8, 1, bias=False)
        self.tokens = nn.Linear(8, 10)
        self.hidden, self.hidden_norm = nn.Linear(10, 12, bias=False), nn.BatchNorm1d(12)
        self.scale = nn.Parameter(torch.ones(10))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        y = self.depthwise_norm(self.depthwise(x)).relu()
        z = self.grouped_norm(self.grouped(y)).relu()
        x = x + self.join(self.join_norm(torch.cat([x, z], 1)).relu())
        x = self.tokens(x.flatten(2).transpose(1, 2)).relu().mean(1) * self.scale
        logits: Tensor = self.head(self.hidden_norm(self.hidden(x)).relu())
        return logits


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A dense model and what a trial made of it."""

    dense: nn.Module
    model: nn.Module
    inventory: Inventory
    plan: Plan
    images: Tensor


BITS = {
    "stem": (8, 32), "depthwise": (2, 8), "grouped": (3, 4), "join": (4, 8),
    "tokens": (6, 8), "hidden": (5, 6), "head": (32, 32),
}  # fmt: skip


class Written(nn.Module):
    """Eight layers for digits (n, 1, 8, 8), ten classes: residual, concatenation, depthwise, three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.depthwise, self.depthwise_norm = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.point, self.point_norm = nn.Conv2d(12, 18, 1, bias=False), nn.BatchNorm2d(18)
        self.join = nn.Conv2d(30, 12, 1)
        self.down, self.down_norm = nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24)
        self.hidden, self.mix, self.head = nn.Linear(384, 24), nn.Linear(24, 24, bias=False), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        y = self.point_norm(self.point(self.depthwise_norm(self.depthwise(x)).relu())).relu()
        x = x + self.join(torch.cat([x, y], 1))
        x = self.hidden(self.down_norm(self.down(x)).relu().flatten(1)).relu()
        logits: Tensor = self.head(self.mix(x).relu())
        return logits


@cache
def written_digits() -> tuple[Tensor, Tensor]:
    """All 1,797 digits of scikit-learn in a fixed random order, scaled as the digits task does, and their classes."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    scaled = (pixels[order] / 16.0).reshape(-1, 1, 8, 8)
    return torch.tensor((scaled - MEAN) / STD, dtype=torch.float32), torch.tensor(labels[order])


def descend(model: nn.Module, steps: int, lr: float) -> None:
    """SGD on the first 900 digits in batches of 64, in place; quantizers are told how far it is."""
    inputs, labels = written_digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    for step in range(steps):
        rows = (torch.arange(64) + 64 * step) % 900
        tell_quantizers(model, step / steps)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    tell_quantizers(model, 1.0)
    model.eval()


def images(count: int, shape: tuple[int, ...] = (3, 8, 8)) -> Tensor:
    """Half noise, half smooth ramps; (count, *shape)."""
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))
    noise[::2] = torch.linspace(-2, 2, shape[-1]) + noise[::2].flatten(1)[:, 0].view(-1, *[1] * len(shape))
    return noise


def settle(model: nn.Module, shape: tuple[int, ...] = (3, 8, 8)) -> nn.Module:
    """Real running statistics on `images`, and norms with negative, zero and positive gammas; in place."""
    generator = torch.Generator().manual_seed(0)
    for norm in (module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))):
        norm.momentum = None
        if not norm.affine:
            continue
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.weight.data[::3] *= -1
        norm.weight.data[1] = 0
        norm.bias.data.normal_(0, 0.5, generator=generator)
    with torch.no_grad():
        model.train()(images(64, shape))
    return model.eval()


def compressed(
    dense: nn.Module, bits: dict[str, tuple[int, int]], *, groups: bool = True, shape: tuple[int, ...] = (3, 8, 8)
) -> Compressed:
    """`dense`, cut by a third where it can be, quantized to (weight, activation) `bits` and calibrated."""
    batch = images(64, shape)
    inventory = discover(dense, batch[:2])
    plan = Plan(
        groups=tuple(
            GroupPlan(group=group.name, kept=tuple(unit for unit in range(group.channels) if unit % 3 != 2))
            for group in inventory.groups
        )
        if groups
        else (),
        layers=tuple(LayerPlan(layer=name, weight_bits=w, activation_bits=a) for name, (w, a) in bits.items()),
    )
    model = quantize(cut(dense, inventory, plan.kept), plan)
    calibrate(model, batch)
    return Compressed(dense=dense, model=model.eval(), inventory=inventory, plan=plan, images=batch)


def mixed(seed: int = 0) -> Compressed:
    """The `Mixed` net in 2, 3, 4, 5, 6, 8 and 32 bits."""
    torch.manual_seed(seed)
    return compressed(settle(Mixed()), BITS)
