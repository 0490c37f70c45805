"""A task small enough for tests of the driver: blobs in 1×6×6 images, three classes, a two-layer network."""

import os
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.tasks.memory import InMemory
from paretune.tasks.task import Task, fingerprint


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean(dim=(2, 3)))


class SlowNet(TinyNet):
    """Sleeps in training mode, so that a kill meets a trial at work and a time limit can be outlasted."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            time.sleep(float(os.environ.get("TINY_SLEEP", "0")))
        return super().forward(x)


def blobs(count: int, seed: int) -> InMemory:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    patterns = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    noise = 1.5 * torch.randn(count, 1, 6, 6, generator=generator)
    return InMemory(inputs=patterns[targets] + noise, targets=targets, batch=32)


def tiny_task(*, slow: bool = False, seed: int = 0) -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = SlowNet() if slow else TinyNet()
    train, val, test = blobs(192, 1), blobs(120, 2), blobs(120, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(6):
        model.train()
        for inputs, targets in train.batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(TinyNet.forward(model, inputs), targets).backward()
            optimizer.step()
    model.eval()
    origin = {"_target_": "tiny_task.tiny_task", "slow": slow, "seed": seed}
    return Task(
        name="tiny",
        model=model,
        train=train,
        val=val,
        test=test,
        fingerprint=fingerprint(model, val.inputs),
        origin=origin,
    )
