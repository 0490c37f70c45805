"""The digits task: scikit-learn's 1,797 handwritten digits and a small network trained on them."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.errors import ParetuneError, pick
from paretune.tasks.memory import InMemory, shift
from paretune.tasks.resnet import ResNet
from paretune.tasks.task import Task, fingerprint
from paretune.tasks.vgg import VGG
from paretune.tasks.weights import cache_folder, load_state, read_state, save_state

EPOCHS = 30
MEAN, STD = 0.3053, 0.3760  # of all pixels, scaled to [0, 1]


NETWORKS: Mapping[str, Callable[[tuple[int, ...]], nn.Module]] = {"resnet": ResNet, "vgg": VGG}


def digits(
    *,
    seed: int = 0,
    network: str = "resnet",
    widths: Sequence[int] = (16, 32, 64),
    weights: str | None = None,
    device: str = "cpu",
) -> Task:
    """Handwritten digits, 1×8×8 pixels, 10 classes (Alpaydin & Kaynak 1998, the UCI test set inside scikit-learn).

    Roles are fixed and stratified: 898 train, 449 val, 450 test images, none in two roles. `seed` trains the
    network ("resnet", or "vgg", which ends in three linear layers; `widths` are its stages); the split never changes.
    The trained weights are kept in the cache folder of this machine and made again if they are missing; `weights` names
    a file to load instead.

    Raises:
        ParetuneError: `weights` cannot be read or does not fit, an unknown network.
    """
    if not widths:
        raise ParetuneError("task.widths needs at least one width, such as [16, 32, 64]")
    train, val, test = _roles()
    model = pick(NETWORKS, network, "network")(tuple(widths))
    if weights is not None:
        load_state(model, read_state(Path(weights)))
    else:
        _train_once(model, train, seed)
    model = model.to(device).eval()
    train, val, test = (split.to(device) for split in (train, val, test))
    return Task(
        name="digits", model=model, train=train, val=val, test=test, device=torch.device(device),
        fingerprint=fingerprint(model, *(t for split in (train, val, test) for t in (split.inputs, split.targets))),
        origin={"name": "digits", "seed": seed, "network": network, "widths": list(widths), "weights": weights},
    )  # fmt: skip


def _roles() -> tuple[InMemory, InMemory, InMemory]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = ((pixels / 16.0).reshape(-1, 1, 8, 8) - MEAN) / STD
    train, rest = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=0)
    val, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=0)

    def role(rows: np.ndarray, batch: int = 64) -> InMemory:
        inputs, targets = torch.tensor(images[rows], dtype=torch.float32), torch.tensor(labels[rows])
        return InMemory(inputs=inputs, targets=targets, batch=batch, augment=shift)

    return role(train), role(val), role(test)


def _train_once(model: nn.Module, train: InMemory, seed: int) -> None:
    recipe = hashlib.sha256(f"{model}{EPOCHS}{len(train)}{seed}{torch.__version__}".encode()).hexdigest()[:12]
    path = cache_folder() / f"digits-seed{seed}-{recipe}.safetensors"
    if state := _cached(path):
        load_state(model, state)
        return
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)  # so that machines with more cores train the same weights
        torch.manual_seed(seed)
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
                layer.reset_parameters()
        _train(model, train, seed)
    torch.set_num_threads(threads)
    save_state(model, path)


def _cached(path: Path) -> dict[str, Tensor] | None:
    try:
        return read_state(path)
    except ParetuneError:
        # Missing or damaged: the same seed trains the same weights again.
        if path.exists():
            os.unlink(path)
        return None


def _train(model: nn.Module, train: InMemory, seed: int) -> None:
    steps = EPOCHS * (len(train) // train.batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    for epoch in range(EPOCHS):
        model.train()
        for inputs, targets in train.batches(seed * 1000 + epoch):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(F.cross_entropy(model(inputs), targets))
            optimizer.step()
            schedule.step()
