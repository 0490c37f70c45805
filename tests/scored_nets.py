"""Models whose scores are known, for the tests of criteria."""

import torch
from compress_nets import chain, randomise
from hand_made import units
from torch import Tensor, nn

from paretune.compress.groups import discover
from paretune.inventory import Group, Inventory, Layer, Member

Batches = list[tuple[Tensor, Tensor]]
WEIGHT = torch.tensor([[3.0, -4.0], [0.0, 0.0], [-1.0, 1.0]])


def net(seed: int = 0) -> nn.Module:
    """conv-norm-conv-norm-conv-linear; groups "0.0" (6), "2.0" (8) and "4" (4)."""
    torch.manual_seed(seed)
    return randomise(chain()).eval()


def batches(seed: int = 0) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 3) for _ in range(2)]


INVENTORY = discover(net(), torch.randn(1, 3, 8, 8))


def one_layer(weight: Tensor, scale: Tensor | None = None) -> tuple[nn.Module, Inventory]:
    """A linear layer with this weight, and a batch norm with this scale behind it."""
    outputs, inputs = weight.shape
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=False))
    layers = [Layer(name="0", kind="linear", weight_shape=(outputs, inputs), bias=False)]
    model[0].weight.data = weight
    names = ["0"]
    if scale is not None:
        model.append(nn.BatchNorm1d(outputs))
        layers.append(Layer(name="1", kind="norm", weight_shape=(outputs,), bias=True))
        model[1].weight.data = scale
        names.append("1")
    members = tuple(Member(layer=name, axis="out", units=units(outputs)) for name in names)
    group = Group(name="g", channels=outputs, members=members)
    return model.eval(), Inventory(layers=tuple(layers), groups=(group,), input_shape=(inputs,), whole={})
