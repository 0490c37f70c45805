"""The check that a group may really be cut: what is left must compute what the zeroed model computes."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from paretune.compress.cut import Kept, cut, zero
from paretune.compress.layers import tensors
from paretune.inventory import Group, Inventory

Groups = tuple[Group, ...]

SAME = 1e-6  # relative, in float64, whose noise is near 1e-14: a small branch beside a large one counts, too
ROUGHLY = 1e-4  # in float32, for models that run in nothing else or would not fit twice as large
PLAINLY = 1e-3  # in float32, where it is only to be seen what fails plainly
LARGE = 100_000_000  # parameters of those
# What shapes raise that no longer fit together.
UNFIT = (RuntimeError, IndexError, ValueError, AssertionError, TypeError, ZeroDivisionError)
UNPROVEN = "a cut and a zeroed copy disagree, so the channels mix in a way the tracer does not see"


def proven(
    model: nn.Module, example: Tensor, inventory: Inventory, *, known: Groups = (), deadline: float = math.inf
) -> Inventory:
    """`inventory` with only those groups whose cut model equals the zeroed model on `example` (N, ...).

    An operation may depend on the number of channels in a way that nobody saw, such as a constant in a module. One
    rough cut sorts out what plainly fails: if all groups together do, halves are tried, then their halves. What is left
    has to pass the whole proof (see `holds`), all together or again by halves. Weights and running statistics are
    replaced by random ones (own seed), so that no special value hides a mistake. `known` are groups of `inventory` that
    passed together before.

    Raises:
        TimeoutError: the monotonic clock is past `deadline`.
    """
    if not inventory.groups:
        return inventory
    proof = _Proof(model, example, inventory)
    tried = tuple(group for group in inventory.groups if group not in known)
    good = _good(proof.roughly, known, tried, deadline)
    good = _good(proof.wholly, known, tuple(group for group in good if group not in known), deadline)
    if len(good) == len(inventory.groups):
        return inventory
    whole = dict(inventory.whole)
    for group in inventory.groups:
        for member in group.producers if group not in good else ():
            if inventory.layer[member.layer].kind != "norm":
                whole[member.layer] = UNPROVEN
    return replace(inventory, groups=tuple(group for group in inventory.groups if group in good), whole=whole)


def holds(model: nn.Module, example: Tensor, inventory: Inventory) -> bool:
    """Whether all groups of `inventory` pass together: three cuts equal their zeroed copies in float64, also inside
    the network, and one of them runs in training mode."""
    proof = _Proof(model, example, inventory)
    return proof.roughly(inventory.groups) and proof.wholly(inventory.groups)


class _Proof:
    """Tries groups on scrambled copies of the model, which are made once."""

    def __init__(self, model: nn.Module, example: Tensor, inventory: Inventory) -> None:
        self.model, self.example, self.inventory = _scrambled(model, example), example, inventory

    @cached_property
    def exact(self) -> tuple[nn.Module, Tensor]:
        """Model and example in float64, if that runs."""
        return _precise(self.model, self.example)

    @cached_property
    def trains(self) -> bool:
        """Whether the model runs in training mode before anything is cut."""
        model, example = self.exact
        return _runs(lambda: copy.deepcopy(model).train(), example, (Exception,))  # the user's may raise anything

    @torch.no_grad()
    def roughly(self, groups: Groups) -> bool:
        """One cut, as the model is: quick, and enough to find most of what fails."""
        part = replace(self.inventory, groups=groups)
        return _same(self.model, self.example, part, _keeps(groups)[0], limit=PLAINLY)

    @torch.no_grad()
    def wholly(self, groups: Groups) -> bool:
        """Three cuts in float64 and, where the whole model does, a run in training mode: it may call more layers."""
        model, example = self.exact
        if not _agrees(model, example, self.inventory, groups):
            return False
        part, kept = replace(self.inventory, groups=groups), _keeps(groups)[0]
        return not self.trains or _runs(lambda: cut(model, part, kept).train(), example, UNFIT)


def _good(
    passes: Callable[[Groups], bool], known: Groups, tried: Groups, deadline: float, fails: bool = False
) -> Groups:
    """`known` and those of `tried` that pass with them; `fails` if not all of them do, as was seen before."""
    if not tried:
        return known
    if time.monotonic() > deadline:
        raise TimeoutError
    if not fails and passes((*known, *tried)):
        return (*known, *tried)
    if len(tried) == 1:
        return known
    half = len(tried) // 2
    first = _good(passes, known, tried[:half], deadline)
    passed = len(first) == len(known) + half  # then the second half is what fails
    return _good(passes, first, tried[half:], deadline, passed)


def _agrees(model: nn.Module, example: Tensor, inventory: Inventory, groups: Groups) -> bool:
    """Whether all `groups` can be cut together: without their first units, without their last ones, and down to one."""
    part = replace(inventory, groups=groups)
    return all(_same(model, example, part, kept) for kept in _keeps(groups))


def _keeps(groups: Groups) -> tuple[Kept, ...]:
    ends = {group.name: group.channels - 1 for group in groups}
    return (
        {name: tuple(u for u in range(end + 1) if u % 3 != 0) for name, end in ends.items()},
        {name: tuple(u for u in range(end + 1) if u % 3 != end % 3) for name, end in ends.items()},
        {name: (end // 2,) for name, end in ends.items()},
    )


def _same(model: nn.Module, example: Tensor, inventory: Inventory, kept: Kept, limit: float | None = None) -> bool:
    try:
        small, inside = _made(cut(model, inventory, kept), example, inventory)
    except UNFIT:
        return False
    large, other = _made(zero(model, inventory, kept), example, inventory)
    # Inside, the channels that leave may be another axis of what a layer makes.
    if not small or len(inside) != len(other):
        return False
    kin = [(one, two) for one, two in zip(inside, other, strict=True) if one.shape == two.shape]
    return all(_close(one, two, limit) for one, two in [*zip(small, large, strict=True), *kin])


def _made(model: nn.Module, example: Tensor, inventory: Inventory) -> tuple[list[Tensor], list[Tensor]]:
    """What leaves the model, and what leaves those of its layers that keep their rows: an output may hide a
    difference, because it saturates or is a choice.
    """
    seen: list[Tensor] = []
    cut_rows = {member.layer for group in inventory.groups for member in group.producers}
    whole = [layer.name for layer in inventory.weighted if layer.name not in cut_rows]
    handles = [
        model.get_submodule(name).register_forward_hook(lambda module, given, made: seen.extend(tensors(made)))
        for name in whole
    ]
    try:
        made = list(tensors(model(example)))
    finally:
        for handle in handles:
            handle.remove()
    return made, seen


@torch.no_grad()
def _runs(make: Callable[[], nn.Module], example: Tensor, failing: tuple[type[Exception], ...]) -> bool:
    """Whether the model that `make` gives takes two samples without one of the `failing` errors; draws no numbers."""
    with torch.random.fork_rng(devices=[example.device] if example.is_cuda else []):
        try:
            make()(torch.cat([example, example]))  # a batch norm needs two
        except failing:
            return False
    return True


def _close(one: Tensor, two: Tensor, limit: float | None) -> bool:
    limit = limit or (SAME if one.dtype == torch.float64 else ROUGHLY)
    return one.shape == two.shape and bool((one - two).double().norm() <= limit * two.double().norm())


@torch.no_grad()
def _precise(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """Both in float64, so that rounding hides nothing; as they are where that does not run or fit."""
    if not example.is_floating_point() or sum(parameter.numel() for parameter in model.parameters()) > LARGE:
        return model, example
    precise, exactly = copy.deepcopy(model).double(), example.double()
    try:
        made = list(tensors(precise(exactly)))
    except Exception:  # such as a forward that makes float32 tensors of its own
        return model, example
    return (precise, exactly) if made else (model, example)


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
