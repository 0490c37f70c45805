"""A data set and a network that train in milliseconds, for the tests of what trains."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.compress.recover import Teacher, finetune
from paretune.recipe import Recovery
from paretune.tasks.memory import InMemory


def data(count: int = 96, batch: int = 16) -> InMemory:
    """Three noisy directions in eight dimensions."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(count) % 3
    inputs = 2 * torch.eye(8)[targets] + 0.5 * torch.randn(count, 8, generator=generator)
    return InMemory(inputs=inputs, targets=targets, batch=batch)


def net(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    body = (nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(dropout), nn.Linear(6, 3))
    return nn.Sequential(*body)


def seeds(epoch: int) -> int:
    return 100 + epoch


def tuned(
    model: nn.Module, recovery: Recovery, split: InMemory | None = None, teacher: nn.Module | None = None
) -> nn.Module:
    made = Teacher(model=teacher or net(9), split=split or data())
    finetune(model, recovery, loss=F.cross_entropy, teacher=made, seeds=seeds)
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())
