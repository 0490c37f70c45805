"""Cutting with compensation: what reads a removed channel takes over its linear part from the channels that stay.

Xie et al. 2021, Pruning with Compensation, https://arxiv.org/abs/2108.13728. The abstract names the parts (a linear
repair, channels chosen by what is lost after it); the formulas are our reading.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.compress.cut import Kept, cut
from paretune.compress.layers import tensors
from paretune.compress.narrow import narrow
from paretune.compress.recover import Tick, no_tick
from paretune.errors import ImpossiblePlan, ParetuneError
from paretune.inventory import Inventory, Layer, Member

Array = NDArray[np.float64]
Batches = Iterable[tuple[Tensor, Tensor]]
FEATURES = 8192  # of one layer's input: their covariance takes half a gigabyte
LEAST_RIDGE = 1e-9  # below it two equal channels make the inverse noise


def compensated_cut(
    model: nn.Module, inventory: Inventory, kept: Kept, batches: Batches, ridge: float, tick: Tick = no_tick
) -> nn.Module:
    """A smaller copy like `cut`'s, in which every layer that read a removed channel is repaired in closed form.

    The removed inputs R of a layer are regressed on those that stay, K, over all pixels of the images in `batches`
    (inputs, targets): A = S_RK (S_KK + ridge × mean variance × I)⁻¹, c = μ_R − A μ_K. A goes into the weights of
    K, tap by tap, c into the bias or else the folded norm's running mean; a layer with neither is regressed without a
    constant. Groups go one by one in order of execution, each measured on the model repaired so far. A layer reads all
    its inputs jointly, other groups' too; per conv group in a grouped convolution; depthwise ones cannot be repaired.

    Exact for what A and c explain, but for c at zero-padded borders. Takes a forward pass per group, with the model in
    eval mode, and calls `tick` before every batch. `model` is left as it is.

    Raises:
        ImpossiblePlan: as in `cut`; what the layers read or the repaired weights are not finite; a layer reads more
            than `FEATURES` features.
        ParetuneError: no batch, or a ridge that is negative or not finite.
    """
    narrow(inventory, kept)  # refuses what cannot be cut before anything is measured
    seen = _checked(batches, ridge)
    small, left = copy.deepcopy(model).eval(), inventory
    for group in inventory.groups:
        units = kept.get(group.name, range(group.channels))
        if len(units) == group.channels:
            continue
        readers = _readers(left, [group.name])
        moments = _measure(small, list(readers), seen, tick)
        removed = sorted(set(range(group.channels)) - set(units))
        for layer, members in readers.items():
            indices = sorted(index for unit in removed for index in members[group.name].units[unit])
            _repair(small, layer, indices, moments[layer.name], ridge)
        small, left = cut(small, left, {group.name: tuple(units)}), narrow(left, {group.name: tuple(units)})
    for name, module in model.named_modules():
        small.get_submodule(name).training = module.training
    return small


def reconstruction(
    model: nn.Module, inventory: Inventory, batches: Batches, ridge: float, tick: Tick = no_tick
) -> dict[str, Array]:
    """When each unit of every group goes, (units,): 0 for the first, units − 1 for the one that stays to the end.

    Greedy: the unit goes whose removal loses least after the repair of `compensated_cut` (`losses`, summed over the
    layers that read it), given what is already gone. So keeping the k highest is the greedy choice for every k. One
    forward pass over `batches`; then O(units × inputs²) for every reader. `model` is left as it is.

    Raises:
        ImpossiblePlan: what the layers read is not finite, or more than `FEATURES` features.
        ParetuneError: no batch, or a ridge that is negative or not finite.
    """
    seen, names = _checked(batches, ridge), [group.name for group in inventory.groups]
    readers = _readers(inventory, names)
    twin = copy.deepcopy(model).eval()
    moments = _measure(twin, list(readers), seen, tick)
    found: dict[str, list[Reader]] = {name: [] for name in names}
    for layer, members in readers.items():
        precision = _inverse(_covariance(layer, moments.pop(layer.name))[1], max(ridge, LEAST_RIDGE))
        weight = _float64(twin.get_parameter(f"{layer.name}.weight")).reshape(*_by_group(layer), -1)
        rows = weight.swapaxes(2, 3).reshape(layer.groups, -1, layer.weight_shape[1])
        for name, member in members.items():
            found[name].append(reader(precision, rows, member.units))
    return {name: _order(found[name], inventory.group[name].channels) for name in names}


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """One layer that reads a group: `precision` (conv groups, features, features) is its inputs' inverse covariance.

    `blocks` holds, for units with equally many (b) indices: the units (n,), their indices (n, b), and the products of
    the weights that read them (conv groups, n, b, b), summed over outputs and taps.
    """

    precision: Array
    blocks: tuple[tuple[NDArray[np.intp], NDArray[np.intp], Array], ...]


def reader(precision: Array, rows: Array, units: Sequence[tuple[int, ...]]) -> Reader:
    """A `Reader` with its own copy of `precision`; `rows` (conv groups, outputs × taps, features) are the weights."""
    blocks = []
    for size in sorted({len(unit) for unit in units}):
        chosen = np.array([number for number, unit in enumerate(units) if len(unit) == size], np.intp)
        indices = np.array([units[number] for number in chosen], np.intp)
        part = rows[:, :, indices].transpose(0, 2, 3, 1)
        blocks.append((chosen, indices, part @ part.swapaxes(2, 3)))
    return Reader(precision=precision.copy(), blocks=tuple(blocks))


def losses(one: Reader, units: int) -> Array:
    """The squared error per position that each unit's removal alone leaves in the outputs after repair, (units,).

    tr(W_R ([S⁻¹]_RR)⁻¹ W_Rᵀ), which is ‖W_r‖² / [S⁻¹]_rr for a single index: what the weights make of the variance
    that the other inputs cannot explain.
    """
    lost = np.zeros(units)
    for chosen, indices, products in one.blocks:
        blocks = one.precision[:, indices[:, :, None], indices[:, None, :]]
        lost[chosen] = (np.linalg.inv(blocks) * products).sum(axis=(0, 2, 3))
    return lost


def drop(one: Reader, unit: int) -> None:
    """Takes a unit's inputs out of the reader's inverse covariance, in place: the rest's is exact, theirs is 1."""
    for chosen, indices, _ in one.blocks:
        for gone in indices[chosen == unit]:
            if len(gone):
                columns, part = one.precision[:, :, gone], one.precision[:, gone[:, None], gone]
                one.precision[...] -= columns @ np.linalg.solve(part, columns.swapaxes(1, 2))
                one.precision[:, gone, :] = 0
                one.precision[:, :, gone] = 0
                one.precision[:, gone, gone] = 1


def _order(readers: Sequence[Reader], units: int) -> Array:
    position, here = np.zeros(units), np.ones(units, bool)
    for step in range(units):
        lost = sum((losses(one, units) for one in readers), np.zeros(units))
        unit = int(np.argmin(np.where(here, lost, np.inf)))
        position[unit], here[unit] = step, False
        for one in readers:
            drop(one, unit)
    return position


def _checked(batches: Batches, ridge: float) -> list[tuple[Tensor, Tensor]]:
    seen = list(batches)
    if not seen:
        raise ParetuneError("compensation measures what the layers read, but got no images; give it at least one batch")
    if not 0 <= ridge < math.inf:
        raise ParetuneError(f"the ridge of the compensation must be a number of at least 0, got {ridge}")
    return seen


def _readers(inventory: Inventory, groups: Sequence[str]) -> dict[Layer, dict[str, Member]]:
    """Layers in order of execution -> group -> where its channels sit in the layer's input."""
    found: dict[Layer, dict[str, Member]] = {}
    for layer in inventory.layers:
        for group, member in inventory.cuts[layer.name]:
            if member.axis == "in" and group in groups:
                found.setdefault(layer, {})[group] = member
    for layer in found:
        if layer.weight_shape[1] > FEATURES:
            size = f"'{layer.name}' reads {layer.weight_shape[1]} features"
            raise ImpossiblePlan(
                f"{size}; compensation can solve for {FEATURES} at most, so turn it off for this model"
            )
    return found


@dataclass(eq=False)
class _Moments:
    """Sums over `count` positions of a layer's inputs, (conv groups, features), and of their products."""

    count: int
    sums: Tensor
    products: Tensor


class _Enough(BaseException):
    """Every wanted layer has been reached: the rest of the forward pass is of no use. Not an error."""


@torch.no_grad()
def _measure(
    model: nn.Module, layers: Sequence[Layer], batches: Sequence[tuple[Tensor, Tensor]], tick: Tick
) -> dict[str, _Moments]:
    found: dict[str, _Moments] = {}
    waiting: set[str] = set()

    def recorder(layer: Layer) -> Any:
        def record(_: nn.Module, given: Any, named: Any) -> None:
            _add(found, layer, next(tensors((given, named))))
            waiting.discard(layer.name)
            if not waiting:
                raise _Enough

        return record

    handles = [
        model.get_submodule(layer.name).register_forward_pre_hook(recorder(layer), with_kwargs=True) for layer in layers
    ]
    try:
        for inputs, _ in batches if layers else ():
            tick()
            waiting.update(layer.name for layer in layers)
            try:
                model(inputs)
            except _Enough:
                continue
    finally:
        for handle in handles:
            handle.remove()
    return found


def _add(found: dict[str, _Moments], layer: Layer, entering: Tensor) -> None:
    by_channel = entering.flatten(0, -2).T if layer.kind == "linear" else entering.transpose(0, 1).flatten(1)
    features = by_channel.double().reshape(layer.groups, -1, by_channel.shape[1])
    count, sums, products = features.shape[2], features.sum(dim=2), features @ features.mT
    if layer.name in found:
        known = found[layer.name]
        known.count, known.sums, known.products = known.count + count, known.sums + sums, known.products + products
    else:
        found[layer.name] = _Moments(count=count, sums=sums, products=products)


def _covariance(layer: Layer, moments: _Moments) -> tuple[Array, Array]:
    """Mean and covariance of the inputs; around 0 if the layer has no place for a constant."""
    mean, second = (_float64(total) / moments.count for total in (moments.sums, moments.products))
    if not (np.isfinite(mean).all() and np.isfinite(second).all()):
        raise ImpossiblePlan(f"what '{layer.name}' reads is not finite, so its compensation cannot be solved")
    if not layer.bias and layer.norm is None:
        mean = np.zeros_like(mean)
    return mean, second - mean[:, :, None] * mean[:, None, :]


def _repair(model: nn.Module, layer: Layer, removed: list[int], moments: _Moments, ridge: float) -> None:
    module: Any = model.get_submodule(layer.name)
    mean, covariance = _covariance(layer, moments)
    stay = [index for index in range(layer.weight_shape[1]) if index not in set(removed)]
    weight = _float64(module.weight).reshape(*_by_group(layer), -1)
    constant = np.zeros(weight.shape[:2])
    for group, part in enumerate(weight):
        known, wanted = covariance[group][np.ix_(stay, stay)], covariance[group][np.ix_(stay, removed)]
        mix = _solve(known, wanted, ridge).T
        offset = mean[group, removed] - mix @ mean[group, stay]
        lost = part[:, removed]
        constant[group] = lost.sum(axis=2) @ offset
        part[:, stay] += np.einsum("ort,rk->okt", lost, mix)
    _put(module.weight, weight.reshape(layer.weight_shape), layer.name)
    if layer.bias:
        _put(module.bias, _float64(module.bias) + constant.ravel(), layer.name)
    elif layer.norm is not None:
        held: Any = model.get_submodule(layer.norm)
        _put(held.running_mean, _float64(held.running_mean) - constant.ravel(), layer.norm)


def _solve(known: Array, wanted: Array, ridge: float) -> Array:
    level = ridge * np.trace(known) / len(known)
    if ridge < LEAST_RIDGE or level == 0:
        least: Array = np.linalg.pinv(known + level * np.eye(len(known)), rcond=1e-12, hermitian=True) @ wanted
        return least
    solved: Array = np.linalg.solve(known + level * np.eye(len(known)), wanted)
    return solved


def _inverse(covariance: Array, ridge: float) -> Array:
    size = covariance.shape[-1]
    level = ridge * np.trace(covariance, axis1=1, axis2=2) / size
    level[level == 0] = ridge  # a conv group that reads nothing but constants
    inverse: Array = np.linalg.inv(covariance + level[:, None, None] * np.eye(size))
    return inverse


def _by_group(layer: Layer) -> tuple[int, int, int]:
    return layer.groups, layer.weight_shape[0] // layer.groups, layer.weight_shape[1]


def _float64(tensor: Tensor) -> Array:
    array: Array = tensor.detach().double().cpu().numpy()
    return array.copy()


@torch.no_grad()
def _put(tensor: Tensor, values: Array, name: str) -> None:
    rounded = torch.from_numpy(values).to(tensor)
    if not rounded.isfinite().all():
        raise ImpossiblePlan(f"the compensation of '{name}' is not finite; a larger ridge may help")
    tensor.copy_(rounded)
