"""Removing channels for real, by slicing, and the same removal at the old shapes, by zeros."""

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from paretune.errors import ImpossiblePlan, near_miss
from paretune.inventory import Axis, Group, Inventory

Kept = Mapping[str, tuple[int, ...]]
Gone = dict[tuple[str, Axis], set[int]]  # the indices that leave, by layer and weight axis


def cut(model: nn.Module, inventory: Inventory, kept: Kept) -> nn.Module:
    """A smaller copy of `model` in which every group in `kept` keeps only these units; other groups stay whole.

    Weights, biases and running statistics are sliced, and the modules' channel counts and settings follow. Mode,
    device, requires_grad and hooks are copied; `model` is left as it is.

    Raises:
        ImpossiblePlan: an unknown group, or units that are empty, not ascending or out of range.
    """
    gone = removed(inventory, kept)
    # deepcopy takes what it finds in the memo, so the tensors that shrink are never copied in full
    memo: dict[int, Any] = {}
    for name in _touched(inventory, gone):
        _slice(model.get_submodule(name), inventory, name, gone, memo)
    small = copy.deepcopy(model, memo)
    for name in _touched(inventory, gone):
        _resize(small.get_submodule(name), inventory.layer[name].depthwise)
    for name, units in kept.items():
        _set(small, inventory.group[name], len(units))
    return small


def _set(small: nn.Module, group: Group, kept: int) -> None:
    """Numbers in modules that follow the units, such as a number of heads."""
    for setting in group.settings:
        module = small.get_submodule(setting.module)
        before = getattr(module, setting.name)
        setattr(module, setting.name, before - setting.per_unit * (group.channels - kept))


def zero(model: nn.Module, inventory: Inventory, kept: Kept) -> nn.Module:
    """A copy of `model` with the old shapes that computes what `cut` computes, in eval mode.

    Zeros stand in the removed output channels (weight, bias, batch norm's weight and bias) and in whatever reads
    them, so it holds for non-linearities that do not map 0 to 0. `model` is left as it is.

    Raises:
        ImpossiblePlan: as in `cut`.
    """
    gone = removed(inventory, kept)
    quiet = copy.deepcopy(model)
    with torch.no_grad():
        for (name, axis), indices in gone.items():
            module, rows = quiet.get_submodule(name), sorted(indices)
            if axis == "in":
                module.get_parameter("weight")[:, rows] = 0
                continue
            for parameter in module._parameters.values():
                if parameter is not None:
                    parameter[rows] = 0
    return quiet


def removed(inventory: Inventory, kept: Kept) -> Gone:
    """The indices that leave every layer and axis.

    Raises:
        ImpossiblePlan: an unknown group, or units that are empty, not ascending or out of range.
    """
    gone: Gone = {}
    for name, units in kept.items():
        if name not in inventory.group:
            raise ImpossiblePlan(f"no group is called '{name}'.{near_miss(name, inventory.group)}")
        group = inventory.group[name]
        _check(group, units)
        leaving = sorted(set(range(group.channels)) - set(units))
        for member in group.members if leaving else ():
            indices = (index for unit in leaving for index in member.units[unit])
            gone.setdefault((member.layer, member.axis), set()).update(indices)
    return gone


def _check(group: Group, units: tuple[int, ...]) -> None:
    if not units:
        raise ImpossiblePlan(f"group '{group.name}' would lose all of its {group.channels} units; keep at least one")
    if units[0] < 0 or max(units) >= group.channels:
        wrong = next(unit for unit in units if not 0 <= unit < group.channels)
        raise ImpossiblePlan(f"group '{group.name}' has no unit {wrong}; its units are 0 to {group.channels - 1}")
    if any(right <= left for left, right in pairwise(units)):
        raise ImpossiblePlan(f"the kept units of group '{group.name}' must ascend, got {units}")


def _touched(inventory: Inventory, gone: Gone) -> list[str]:
    names = {name for name, _ in gone}
    return [layer.name for layer in inventory.layers if layer.name in names]


def _slice(module: nn.Module, inventory: Inventory, name: str, gone: Gone, memo: dict[int, Any]) -> None:
    """Puts the sliced tensors of one module into `memo`."""
    shape, rows, columns = inventory.layer[name].weight_shape, gone.get((name, "out")), gone.get((name, "in"))
    for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is None or tensor.dim() == 0:  # a batch norm counts its batches in a scalar
            continue
        part = tensor.detach()
        if rows:
            part = _without(part, 0, shape[0], rows)
        if columns and key == "weight":
            part = _without(part, 1, shape[1], columns)
        if part.shape != tensor.shape:
            trained = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(part, requires_grad=tensor.requires_grad) if trained else part


def _without(tensor: Tensor, axis: int, size: int, gone: set[int]) -> Tensor:
    stay = [index for index in range(size) if index not in gone]
    return tensor.index_select(axis, torch.tensor(stay, dtype=torch.long, device=tensor.device))


def _resize(module: nn.Module, depthwise: bool) -> None:
    """Makes the channel counts say what the tensors say."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        module.out_channels = module.weight.shape[0]
        module.groups = module.out_channels if depthwise else module.groups
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        # Without a weight there are running statistics: a norm that holds neither is no layer of the inventory.
        held = module.running_mean if module.weight is None else module.weight
        assert held is not None
        module.num_features = len(held)
