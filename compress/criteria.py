"""How much a channel matters: one score per unit of every group, computed once per study.

A higher score means "keep". Every criterion scores a group's units from the layers that produce them;
coupled layers are reduced by the mean (for `l2` of the squares, before the root).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.errors import ParetuneError, pick
from paretune.inventory import Group, Inventory, Member

Scores = Mapping[str, Mapping[str, NDArray[np.float64]]]  # criterion -> group -> (units,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense:
    """What a criterion may look at: the dense model, and the loss gradient of its parameters by name.

    `gradients` is the mean over the calibration batches, each parameter's own shape. `seed` is for the random control.
    """

    modules: Mapping[str, nn.Module]
    kinds: Mapping[str, str]
    gradients: Mapping[str, Tensor]
    seed: int


Criterion = Callable[[Dense, Group], NDArray[np.float64]]


def l1(dense: Dense, group: Group) -> NDArray[np.float64]:
    """Sum of absolute weights of each filter (Li et al. 2017, https://arxiv.org/abs/1608.08710)."""
    return _over_weights(dense, group, lambda weight, _: weight.abs())


def l2(dense: Dense, group: Group) -> NDArray[np.float64]:
    """Euclidean norm of each filter."""
    return np.sqrt(_over_weights(dense, group, lambda weight, _: weight.square()))


def taylor(dense: Dense, group: Group) -> NDArray[np.float64]:
    """First-order change of the loss, Σ (gradient × weight)² over each filter.

    Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, https://arxiv.org/abs/1906.10771.
    """
    return _over_weights(dense, group, lambda weight, gradient: (weight * gradient).square())


def bn_scale(dense: Dense, group: Group) -> NDArray[np.float64]:
    """Absolute batch-norm scale (Liu et al. 2017, Network Slimming, https://arxiv.org/abs/1708.06519).

    A group without a batch norm that has a scale is scored by `l2`: scores are only compared inside a group.
    """
    norms = [m for m in group.producers if dense.kinds[m.layer] == "norm" and dense.modules[m.layer].weight is not None]
    if not norms:
        return l2(dense, group)
    return _mean([_per_unit(_weight(dense, norm).abs(), norm) for norm in norms])


def random(dense: Dense, group: Group) -> NDArray[np.float64]:
    """Uniform noise, fixed by the study's seed and the group's name: the control every criterion must beat."""
    generator = np.random.default_rng([dense.seed, *group.name.encode()])
    return generator.random(group.channels)


CRITERIA: Mapping[str, Criterion] = {"l1": l1, "l2": l2, "bn_scale": bn_scale, "taylor": taylor, "random": random}


def score_groups(
    model: nn.Module,
    inventory: Inventory,
    names: Sequence[str],
    batches: Sequence[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    seed: int,
) -> Scores:
    """Scores of every group by every criterion in `names`; the model's weights and mode are left as they were.

    Raises:
        UnknownName: a criterion that is not in the table.
        ParetuneError: a score that is not a finite number.
    """
    chosen = {name: pick(CRITERIA, name, "criterion") for name in names}
    gradients = _gradients(model, batches, loss) if "taylor" in chosen else {}
    kinds = {layer.name: layer.kind for layer in inventory.layers}
    dense = Dense(modules=dict(model.named_modules()), kinds=kinds, gradients=gradients, seed=seed)
    scores = {name: {g.name: criterion(dense, g) for g in inventory.groups} for name, criterion in chosen.items()}
    for name, by_group in scores.items():
        for group, values in by_group.items():
            if not np.isfinite(values).all():
                raise ParetuneError(f"criterion '{name}' is not finite on group '{group}'; check the model's weights")
    return scores


def _gradients(
    model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], loss: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    # Views, so that a frozen model has gradients too and nothing in it is changed.
    views = {n: p.detach().requires_grad_() for n, p in model.named_parameters() if p.is_floating_point()}
    total = [torch.zeros_like(view) for view in views.values()]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for inputs, targets in batches:
        outputs = torch.func.functional_call(model, views, (inputs,))
        found = torch.autograd.grad(loss(outputs, targets), list(views.values()), allow_unused=True)
        total = [a if b is None else a + b / len(batches) for a, b in zip(total, found, strict=True)]
    for module, training in modes.items():
        module.training = training
    return dict(zip(views, total, strict=True))


def _weight(dense: Dense, member: Member) -> Tensor:
    weight = dense.modules[member.layer].weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _over_weights(dense: Dense, group: Group, rate: Callable[[Tensor, Tensor], Tensor]) -> NDArray[np.float64]:
    found = []
    for member in group.producers:
        if dense.kinds[member.layer] != "norm":
            weight = _weight(dense, member)
            gradient = dense.gradients.get(f"{member.layer}.weight", torch.zeros(()))
            found.append(_per_unit(rate(weight, gradient).flatten(1).sum(dim=1), member))
    return _mean(found)


def _per_unit(by_channel: Tensor, member: Member) -> NDArray[np.float64]:
    values = by_channel.double().cpu().numpy()
    return np.array([values[list(unit)].sum() for unit in member.units])


def _mean(members: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean(members, axis=0)
    return mean
