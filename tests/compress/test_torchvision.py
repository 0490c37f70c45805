"""Published architectures can be cut: about a third of every group, and what is left computes what it should."""

import random
from typing import Any

import pytest
import torch
from compress_nets import randomise
from torch import nn

from paretune.compress.cut import cut, zero
from paretune.compress.groups import discover
from paretune.errors import ParetuneError
from paretune.inventory import Inventory
from paretune.plan import GroupPlan, Plan
from paretune.profile import profile
from paretune.tasks.torchvision_models import torchvision_models

REMOVED = 0.3
SAME = 1e-6  # relative, in float64; a wrong index is near 1
# pixels per side of the example: 64 where the model allows it
QUICK = {"resnet18": 64, "mobilenet_v2": 64, "squeezenet1_1": 64}
SLOW = {
    "alexnet": 64, "vgg11_bn": 64, "resnet50": 64, "wide_resnet50_2": 64, "resnext50_32x4d": 64, "densenet121": 64,
    "googlenet": 64, "inception_v3": 96, "mnasnet0_5": 64, "mobilenet_v3_small": 64, "efficientnet_b0": 64,
    "regnet_x_400mf": 64, "regnet_y_400mf": 64, "shufflenet_v2_x0_5": 64, "swin_t": 64,
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}


@pytest.fixture(scope="session")
def models() -> Any:
    """`torchvision.models`; the tests are skipped where it cannot be imported."""
    try:
        return torchvision_models()
    except ParetuneError as error:
        pytest.skip(str(error))


def some(inventory: Inventory) -> dict[str, tuple[int, ...]]:
    """Random kept units: about 70 % of every group, at least one."""
    chance = random.Random(0)
    return {
        group.name: tuple(sorted(chance.sample(range(group.channels), max(1, round(group.channels * (1 - REMOVED))))))
        for group in inventory.groups
    }


def check(net: nn.Module, side: int) -> None:
    """Discover, cut and compare, in float64, with random statistics so that no channel is neutral."""
    net = randomise(net).eval()
    inventory = discover(net, torch.randn(1, 3, side, side))
    assert inventory.groups
    net = net.double()
    kept, batch = some(inventory), torch.randn(2, 3, side, side, dtype=torch.float64)
    small = cut(net, inventory, kept)
    with torch.no_grad():
        got, want, dense = small(batch), zero(net, inventory, kept)(batch), net(batch)
    assert want.isfinite().all()
    assert (got - want).norm() <= SAME * want.norm()
    assert (want - dense).norm() > 1e3 * SAME * dense.norm(), "the removed channels did nothing: the law is empty here"
    rows = profile(inventory, Plan(groups=tuple(GroupPlan(group=name, kept=units) for name, units in kept.items())))
    assert sum(row.params for row in rows) == sum(parameter.numel() for parameter in small.parameters())


def build(models: Any, name: str) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = getattr(models, name)(weights=None, **MORE.get(name, {}))
    return net


@pytest.mark.parametrize("name", QUICK)
def test_a_cut_model_equals_the_zeroed_model(models: Any, name: str) -> None:
    check(build(models, name), QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_many_more_cut_models_equal_their_zeroed_models(models: Any, name: str) -> None:
    check(build(models, name), SLOW[name])
