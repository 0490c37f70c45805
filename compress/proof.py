"""The check that a group may really be cut: what is left must compute what the zeroed model computes."""

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from paretune.compress.cut import cut, zero
from paretune.compress.layers import tensors
from paretune.inventory import Group, Inventory

SAME = 1e-3  # relative; float noise is near 1e-6, a wrong index near 1
UNPROVEN = "a cut and a zeroed copy disagree, so the channels mix in a way the tracer does not see"


def proven(model: nn.Module, example: Tensor, inventory: Inventory) -> Inventory:
    """`inventory` with only those groups whose cut model equals the zeroed model on `example` (N, ...).

    The tracer takes every operation it does not know for a pointwise one, which a channel shuffle or a softmax over
    channels is not. Usually one forward pair proves all groups; only if it fails are they tried one after another.
    Weights and running statistics are replaced by random ones (own seed), so that no special value hides a mistake.
    """
    if not inventory.groups:
        return inventory
    model = _scrambled(model, example.device)
    if _agrees(model, example, inventory, inventory.groups):
        return inventory
    good: tuple[Group, ...] = ()
    whole = dict(inventory.whole)
    for group in inventory.groups:
        if _agrees(model, example, inventory, (*good, group)):
            good = (*good, group)
            continue
        for member in group.producers:
            if inventory.layer[member.layer].kind != "norm":
                whole[member.layer] = UNPROVEN
    return replace(inventory, groups=good, whole=whole)


@torch.no_grad()
def _agrees(model: nn.Module, example: Tensor, inventory: Inventory, groups: tuple[Group, ...]) -> bool:
    part = replace(inventory, groups=groups)
    kept = {group.name: tuple(u for u in range(group.channels) if u % 3 != 1) for group in groups}
    try:
        small = list(tensors(cut(model, part, kept)(example)))
    except (RuntimeError, IndexError, ValueError):  # shapes that no longer fit together
        return False
    large = list(tensors(zero(model, part, kept)(example)))
    return all(_close(one, two) for one, two in zip(small, large, strict=True))


def _close(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and bool((one - two).float().norm() <= SAME * two.float().norm())


@torch.no_grad()
def _scrambled(model: nn.Module, device: torch.device) -> nn.Module:
    model = copy.deepcopy(model)
    chance = torch.Generator(device=device).manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, math.sqrt(2 * len(parameter) / parameter.numel()), generator=chance)
        else:
            parameter.uniform_(0.5, 1.5, generator=chance)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5, generator=chance)
            module.running_var.uniform_(0.5, 1.5, generator=chance)
    return model
