"""How much a channel, or a single weight, matters: scores by name, computed once per study.

A higher score means "keep". A criterion gives one row of unit scores per member of a group: per layer that produces
its channels, or per batch norm, or per layer that reads them, whichever the criterion looks at. `reduced` makes one row
of them. A unit of several channels (a grouped convolution, a flatten) gets their sum, or their mean where activations
are scored. To add a criterion, write a function `(Evidence, Group) -> (members, units)` and a line in `CRITERIA`; if it
scores single weights, `(Evidence, layer name) -> (weight's shape)` will do, and `_summed` makes units of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.compress.compensate import reconstruction
from paretune.compress.evidence import Evidence, per_unit
from paretune.errors import ParetuneError, pick
from paretune.inventory import Group, Inventory, Member
from paretune.tasks.task import Loss

Array = NDArray[np.float64]
RIDGE = 1e-4  # of the covariances behind `reconstruction`
OfUnits = Callable[[Evidence, Group], Array]
OfWeights = Callable[[Evidence, str], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What the criteria say: `units` by criterion and group, (members, units); `weights` by criterion and layer, in the
    weight's shape. `known` is what others worked out from them, kept as long as they are."""

    units: Mapping[str, Mapping[str, Array]]
    weights: Mapping[str, Mapping[str, NDArray[np.float32]]] = field(default_factory=dict)
    known: dict[tuple[object, ...], Array] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """How units are scored, how single weights are (None: channels only), and what part of the evidence that takes."""

    units: OfUnits
    weights: OfWeights | None = None
    needs: Literal["weights", "gradients", "curvature", "activity", "batches"] = "weights"


def absolute(evidence: Evidence, layer: str) -> Tensor:
    """|w|, degree 1 in the weights; summed over a filter (Li et al. 2017, https://arxiv.org/abs/1608.08710)."""
    return evidence.weight(layer).abs()


def squared(evidence: Evidence, layer: str) -> Tensor:
    """w², which ranks weights as |w| does; degree 2."""
    return evidence.weight(layer).square()


def taylor(evidence: Evidence, layer: str) -> Tensor:
    """(g w)², mean over the batches: the squared first-order change of the loss if a weight goes; degree 2 in the loss.

    Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, https://arxiv.org/abs/1906.10771.
    """
    return evidence.gradients.squared[layer] * evidence.weight(layer).square()


def taylor_abs(evidence: Evidence, layer: str) -> Tensor:
    """|g w|, mean over the batches: the absolute reduction of first-order Taylor; degree 1 in the loss."""
    return evidence.gradients.absolute[layer] * evidence.weight(layer).abs()


def hessian(evidence: Evidence, layer: str) -> Tensor:
    """(−g w + ½ H w²)²: the squared second-order change of the loss, H being the Hessian's diagonal.

    g and H are means over the batches, so it is the expansion of the mean loss (our reading); H is an estimate with
    random signs. It ranks channels better than weights: on the digits task (14 batches, 4 probes each) the ranks of two
    seeds correlate by 0.6 to 0.9, single weights are mostly noise. Molchanov et al. 2019,
    https://arxiv.org/abs/1906.10771.
    """
    weight = evidence.weight(layer)
    change = evidence.curvature[layer] * weight.square() / 2 - evidence.gradients.mean[layer] * weight
    return change.square()


def lamp(evidence: Evidence, layer: str) -> Tensor:
    """w² over the sum of w² of all weights of the layer that are not smaller, in [0, 1]; degree 0 in the weights.

    Comparable between layers: the largest weight of each has 1. Equal weights have equal scores, where the paper breaks
    ties by place. Lee et al. 2021, Layer-adaptive Sparsity, https://arxiv.org/abs/2010.07611.
    """
    return _lamp(evidence.weight(layer).double().square())


def random_weights(evidence: Evidence, layer: str) -> Tensor:
    """Uniform noise in [0, 1), fixed by the study's seed and the layer's name."""
    generator = np.random.default_rng([evidence.seed, *f"{layer}.weight".encode()])
    return torch.from_numpy(generator.random(tuple(evidence.weight(layer).shape)))


def l2(evidence: Evidence, group: Group) -> Array:
    """Euclidean norm of each unit's weights; degree 1 in the weights."""
    return np.sqrt(_summed(squared)(evidence, group))


def geometric_median(evidence: Evidence, group: Group) -> Array:
    """Σⱼ ‖Fᵢ − Fⱼ‖ over all filters of the layer, on raw weights: low where others can stand in; degree 1 in them.

    He et al. 2019, Filter Pruning via Geometric Median, https://arxiv.org/abs/1811.00250.
    """

    def far(member: Member) -> Tensor:
        filters = evidence.weight(member.layer).double().flatten(1)
        return torch.cdist(filters, filters).fill_diagonal_(0).sum(dim=1)

    return _rows(evidence.weighted(group), far)


def bn_scale(evidence: Evidence, group: Group) -> Array:
    """Absolute batch-norm scale, one row per norm; degree 1 in the scale.

    A group without a norm that has a scale is scored by `l2`: a blend only compares scores inside a group.
    Liu et al. 2017, Network Slimming, https://arxiv.org/abs/1708.06519.
    """
    norms = evidence.norms(group)
    return _rows(norms, lambda norm: _scale(evidence.model, norm).abs()) if norms else l2(evidence, group)


def taylor_signed(evidence: Evidence, group: Group) -> Array:
    """(Σ g w)², summed over the unit before it is squared, mean over the batches; degree 2 in the loss.

    What the whole unit does to the loss, where `taylor` lets no two weights make up for each other.
    """
    signed = evidence.gradients.signed
    return _array([signed[group.name, member.layer] for member in evidence.weighted(group)])


def bn_taylor(evidence: Evidence, group: Group) -> Array:
    """(γ g_γ + β g_β)², mean over the batches, one row per norm: the Taylor criterion of a gate behind the norm.

    A unit of several channels has one gate. A group without a norm that has a scale is scored by `taylor_signed`.
    Molchanov et al. 2019, https://arxiv.org/abs/1906.10771.
    """
    signed, norms = evidence.gradients.signed, evidence.norms(group)
    rows = [signed[group.name, norm.layer] for norm in norms]
    return _array(rows) if norms else taylor_signed(evidence, group)


def activation(evidence: Evidence, group: Group) -> Array:
    """Mean |x| of the unit's channels where they are read, so behind the non-linearity; one row per reader.

    A group that no layer reads is scored by `l2`.
    """
    return _read(evidence, group, lambda layer: evidence.activity[layer].size)


def apoz(evidence: Evidence, group: Group) -> Array:
    """1 − the share of zeros among what is read of a unit, in [0, 1]; one row per reader. Constant without a ReLU.

    A group that no layer reads is scored by `l2`. Hu et al. 2016, Network Trimming, https://arxiv.org/abs/1607.03250.
    """
    return _read(evidence, group, lambda layer: 1 - evidence.activity[layer].zeros)


def lamp_units(evidence: Evidence, group: Group) -> Array:
    """`lamp` with units for weights: a unit's squared norm over the sum of those that are not smaller (our reading)."""
    rows = torch.from_numpy(_summed(squared)(evidence, group))
    return _array([_lamp(row) for row in rows])


def random_units(evidence: Evidence, group: Group) -> Array:
    """Uniform noise, fixed by the study's seed and the group's name: the control every criterion must beat.

    All rows are the same, so that every reduction leaves it uniform in its order.
    """
    generator = np.random.default_rng([evidence.seed, *group.name.encode()])
    return np.tile(generator.random(group.channels), (len(evidence.weighted(group)), 1))


def _summed(weights: OfWeights) -> OfUnits:
    """Scores of units from scores of weights: their sum over the unit."""

    def units(evidence: Evidence, group: Group) -> Array:
        members = evidence.weighted(group)
        return _rows(members, lambda member: weights(evidence, member.layer).double().flatten(1).sum(dim=1))

    return units


def in_order_of_repair(evidence: Evidence, group: Group) -> Array:
    """The place in the order in which channels leave if the one that compensation replaces best always goes first.

    Xie et al. 2021, Pruning with Compensation, https://arxiv.org/abs/2108.13728; see `compress.compensate`.
    """

    def orders() -> dict[str, Array]:
        return reconstruction(evidence.model, evidence.inventory, evidence.batches, RIDGE)

    return evidence.once("reconstruction", orders)[group.name][None]


CRITERIA: Mapping[str, Criterion] = {
    "l1": Criterion(units=_summed(absolute), weights=absolute),
    "l2": Criterion(units=l2, weights=squared),
    "geometric_median": Criterion(units=geometric_median),
    "bn_scale": Criterion(units=bn_scale),
    "taylor": Criterion(units=_summed(taylor), weights=taylor, needs="gradients"),
    "taylor_abs": Criterion(units=_summed(taylor_abs), weights=taylor_abs, needs="gradients"),
    "taylor_signed": Criterion(units=taylor_signed, needs="gradients"),
    "bn_taylor": Criterion(units=bn_taylor, needs="gradients"),
    "hessian": Criterion(units=_summed(hessian), weights=hessian, needs="curvature"),
    "activation": Criterion(units=activation, needs="activity"),
    "apoz": Criterion(units=apoz, needs="activity"),
    "lamp": Criterion(units=lamp_units, weights=lamp),
    "reconstruction": Criterion(units=in_order_of_repair, needs="batches"),
    "random": Criterion(units=random_units, weights=random_weights),
}


def score_model(
    model: nn.Module,
    inventory: Inventory,
    names: Sequence[str],
    batches: Sequence[tuple[Tensor, Tensor]],
    loss: Loss,
    seed: int,
    *,
    per_weight: bool | Sequence[str] = False,
) -> Scores:
    """Scores of every group by the criteria `names`, and of every weight by those in `per_weight` (True: by `names`).

    The model's weights, mode and requires_grad are left as they were. Each kind of evidence takes one pass over
    `batches`, however many criteria ask for it.

    Raises:
        UnknownName: a criterion that is not in the table.
        ParetuneError: a criterion that cannot score single weights or lacks batches; a score that is not finite.
    """
    single = names if per_weight is True else (per_weight or ())
    _check([*names, *single], single, batches)
    evidence = Evidence(model=model, inventory=inventory, batches=batches, loss=loss, seed=seed)
    scores = Scores(
        units={name: {g.name: CRITERIA[name].units(evidence, g) for g in inventory.groups} for name in names},
        weights={name: {y.name: _weights(evidence, name, y.name) for y in inventory.weighted} for name in single},
    )
    for kind, by_name in (("group", scores.units), ("layer", scores.weights)):
        for name, by_place in by_name.items():
            for place, values in by_place.items():
                if not np.isfinite(values).all():
                    raise ParetuneError(
                        f"criterion '{name}' is not finite on {kind} '{place}'; check the model's weights"
                    )
    return scores


def reduced(members: Array, how: str) -> Array:
    """One row of unit scores, (units,), from one per member, (members, units): their mean, sum or max.

    Raises:
        UnknownName: `how` is none of them.
    """
    reduction = pick({"mean": np.mean, "sum": np.sum, "max": np.max}, how, "reduction")
    row: Array = reduction(members, axis=0)  # type: ignore[operator]
    return row


def _check(names: Sequence[str], single: Sequence[str], batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    for name in names:
        if pick(CRITERIA, name, "criterion").needs != "weights" and not batches:
            raise ParetuneError(f"criterion '{name}' needs calibration batches and got none")
    able = [name for name, criterion in CRITERIA.items() if criterion.weights is not None]
    for name in single:
        if name not in able:
            raise ParetuneError(
                f"criterion '{name}' scores channels, not single weights; use one of: {', '.join(able)}"
            )


def _weights(evidence: Evidence, name: str, layer: str) -> NDArray[np.float32]:
    weights = CRITERIA[name].weights
    assert weights is not None
    scores: NDArray[np.float32] = weights(evidence, layer).float().cpu().numpy()
    return scores


def _rows(members: Sequence[Member], by_index: Callable[[Member], Tensor]) -> Array:
    return _array([per_unit(by_index(member).double(), member) for member in members])


def _array(rows: Sequence[Tensor]) -> Array:
    found: Array = torch.stack(list(rows)).double().cpu().numpy()
    return found


def _read(evidence: Evidence, group: Group, by_index: Callable[[str], Tensor]) -> Array:
    readers = evidence.readers(group)
    if not readers:
        return l2(evidence, group)
    sizes = np.array([[len(unit) for unit in member.units] for member in readers])
    mean: Array = _rows(readers, lambda member: by_index(member.layer)) / sizes
    return mean


def _scale(model: nn.Module, norm: Member) -> Tensor:
    return model.get_submodule(norm.layer).get_parameter("weight").detach()


def _lamp(squares: Tensor) -> Tensor:
    """Each value over the sum of those that are not smaller; 0 for zeros."""
    ascending, _ = squares.flatten().sort()
    above = ascending.flip(0).cumsum(0).flip(0)  # from the smallest on: the sum of itself and all that follow
    first = torch.searchsorted(ascending, squares.flatten()).clamp(max=len(above) - 1)  # of its equals; NaN has none
    return squares / above[first].clamp(min=torch.finfo(squares.dtype).tiny).reshape(squares.shape)
