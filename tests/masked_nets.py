"""A small net with zeros of every kind in its weights: what the tests of masked layers share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from export_nets import Compressed, images, settle
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.compress.cut import cut
from paretune.compress.groups import discover
from paretune.compress.masks import attach
from paretune.compress.patterns import mask_for, mask_of, pattern_of
from paretune.compress.quantize import calibrate, quantize
from paretune.frozen import FrozenLayer
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Wanted

WANTED: Mapping[str, Wanted] = {
    "half": Wanted(kind="unstructured", sparsity=0.5),
    "almost all": Wanted(kind="unstructured", sparsity=0.97),
    "2:4": Wanted(kind="2:4"),
    "1:4": Wanted(kind="1:4"),
    "pe_block, channel_group": Wanted(kind="pe_block", sparsity=0.5, block=8),
    "pe_block, filter": Wanted(kind="pe_block", sparsity=0.75, block=4, layout="filter"),
    "partition": Wanted(kind="partition", parts=4),
}


class Body(nn.Module):
    """Two convolutions whose norms fold, with negative, zero and positive gammas, then a perceptron of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv, self.conv_norm = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.one, self.two, self.head = nn.Linear(16, 24), nn.Linear(24, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        x = self.conv_norm(self.conv(x)).relu().mean((2, 3))
        logits: Tensor = self.head(self.two(self.one(x).relu()).relu())
        return logits


def random_mask(wanted: Wanted, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.bool_]:
    """A mask of that kind at random places."""
    random = np.random.default_rng(seed)
    if wanted.kind != "partition":
        return mask_for(wanted, random.random(shape))
    rows, columns = (random.permutation(size) % wanted.parts for size in shape)
    return np.asarray(rows[:, None] == columns[None, :])


def masked(wanted: Mapping[str, Wanted], bits: int, seed: int = 0) -> Compressed:
    """A `Body` with such random masks by layer, all weights in `bits` and activations in 8 bits (or all float)."""
    torch.manual_seed(seed)
    dense, batch = settle(Body()), images(64)
    inventory = discover(dense, batch[:2])
    masks = {
        name: random_mask(want, tuple(dense.get_submodule(name).weight.shape), seed)  # type: ignore[arg-type, union-attr]
        for name, want in wanted.items()
    }
    rows = (
        LayerPlan(
            layer=layer.name, weight_bits=bits, activation_bits=min(8, bits) if bits < 32 else 32,
            pattern=pattern_of(wanted[layer.name], masks[layer.name]) if layer.name in masks else None,
        )
        for layer in inventory.weighted
    )  # fmt: skip
    plan = Plan(layers=tuple(rows))
    model = cut(dense, inventory, {})
    attach(model, masks)
    calibrate(quantize(model, plan), batch)
    return Compressed(dense=dense, model=model.eval(), inventory=inventory, plan=plan, images=batch)


def of_kind(kind: str, bits: int, seed: int = 0) -> Compressed:
    """A `masked` net with one entry of `WANTED` wherever it can be; a partition is of linear layers only."""
    layers = ("one", "two") if kind == "partition" else ("conv", "one", "two")
    return masked(dict.fromkeys(layers, WANTED[kind]), bits, seed)


def train(model: nn.Module, steps: int = 5) -> None:
    """A few steps of SGD with momentum, weight decay and a learning rate that moves codes, in place."""
    chance = torch.Generator().manual_seed(0)
    named = dict(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [named[name] for name in named if not name.endswith(".step")]},
        {"params": [named[name] for name in named if name.endswith(".step")], "lr": 0.01},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, weight_decay=0.01)
    model.train()
    for _ in range(steps):
        labels = torch.randint(0, 4, (64,), generator=chance)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images(64)), labels).backward()
        optimizer.step()
    model.eval()


def zeros_of(layer: FrozenLayer) -> np.ndarray:
    assert layer.pattern is not None
    return ~mask_of(layer.pattern, layer.codes.shape)
