"""The check that a group may really be cut: what is left must compute what the zeroed model computes."""

import copy
import math
import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from paretune.compress.cut import cut, zero
from paretune.compress.layers import tensors
from paretune.inventory import Group, Inventory

Groups = tuple[Group, ...]

SAME = 1e-3  # relative; float noise is near 1e-6, a wrong index near 1
UNPROVEN = "a cut and a zeroed copy disagree, so the channels mix in a way the tracer does not see"


def proven(
    model: nn.Module, example: Tensor, inventory: Inventory, *, known: Groups = (), deadline: float = math.inf
) -> Inventory:
    """`inventory` with only those groups whose cut model equals the zeroed model on `example` (N, ...).

    An operation may depend on the number of channels in a way that nobody saw, such as a constant in a module. Usually
    one forward pair proves all groups; if it fails, halves are tried, then their halves. Weights and running statistics
    are replaced by random ones (own seed), so that no special value hides a mistake. `known` are groups of `inventory`
    that passed together before.

    Raises:
        TimeoutError: the monotonic clock is past `deadline`.
    """
    if not inventory.groups:
        return inventory
    model = _scrambled(model, example)
    tried = tuple(group for group in inventory.groups if group not in known)
    good = _good(model, example, inventory, known, tried, deadline)
    if len(good) == len(inventory.groups):
        return inventory
    whole = dict(inventory.whole)
    for group in inventory.groups:
        for member in group.producers if group not in good else ():
            if inventory.layer[member.layer].kind != "norm":
                whole[member.layer] = UNPROVEN
    return replace(inventory, groups=tuple(group for group in inventory.groups if group in good), whole=whole)


def _good(
    model: nn.Module, example: Tensor, inventory: Inventory, known: Groups, tried: Groups, deadline: float,
    fails: bool = False,
) -> Groups:  # fmt: skip
    """`known` and those of `tried` that can be cut with them; `fails` if not all of them can, as was seen before."""
    if not tried:
        return known
    if time.monotonic() > deadline:
        raise TimeoutError
    if not fails and _agrees(model, example, inventory, (*known, *tried)):
        return (*known, *tried)
    if len(tried) == 1:
        return known
    half = len(tried) // 2
    first = _good(model, example, inventory, known, tried[:half], deadline)
    passed = len(first) == len(known) + half  # then the second half is what fails
    return _good(model, example, inventory, first, tried[half:], deadline, passed)


@torch.no_grad()
def _agrees(model: nn.Module, example: Tensor, inventory: Inventory, groups: tuple[Group, ...]) -> bool:
    part = replace(inventory, groups=groups)
    kept = {group.name: tuple(u for u in range(group.channels) if u % 3 != 1) for group in groups}
    try:
        small = list(tensors(cut(model, part, kept)(example)))
    except (
        RuntimeError,
        IndexError,
        ValueError,
        AssertionError,
        TypeError,
        ZeroDivisionError,
    ):  # shapes that no longer fit together
        return False
    large = list(tensors(zero(model, part, kept)(example)))
    return all(_close(one, two) for one, two in zip(small, large, strict=True))


def _close(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and bool((one - two).float().norm() <= SAME * two.float().norm())


@torch.no_grad()
def _scrambled(model: nn.Module, example: Tensor) -> nn.Module:
    model = copy.deepcopy(model)
    chance = torch.Generator(device=example.device).manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, math.sqrt(2 * len(parameter) / parameter.numel()), generator=chance)
        else:
            parameter.uniform_(0.5, 1.5, generator=chance)
    _statistics(model, example, chance)
    return model


def _statistics(model: nn.Module, example: Tensor, chance: torch.Generator) -> None:
    """Random ones near those of `example`: without them a deep network's activations grow until its gates amplify
    rounding errors."""

    def settle(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        mean, var = norm.running_mean, norm.running_var
        if not given or not isinstance(mean, Tensor) or not isinstance(var, Tensor):
            return
        wide = given[0].transpose(0, 1).flatten(1)
        var.uniform_(0.5, 1.5, generator=chance).mul_(wide.var(1, correction=0) + wide.mean(1) ** 2 / 10 + 1e-3)
        mean.uniform_(-0.5, 0.5, generator=chance).mul_(var.sqrt()).add_(wide.mean(1))

    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    handles = [norm.register_forward_pre_hook(settle) for norm in norms]
    if norms:
        model(example)
    for handle in handles:
        handle.remove()
