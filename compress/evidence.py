"""What criteria look at: weights, and gradients, second derivatives and activations over the calibration batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from paretune.compress.layers import tensors
from paretune.compress.masks import raw_weight
from paretune.errors import ParetuneError, first_line
from paretune.inventory import Group, Inventory, Member
from paretune.tasks.task import Loss

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True, eq=False)
class Gradients:
    """Means over the calibration batches, g being the loss gradient of one batch.

    `mean`, `squared` and `absolute` are those of g, g² and |g|, by layer, in the weight's shape. `signed` is the mean
    of (Σ g × value)², where the sum runs over one unit's weights (for a batch norm its scales and shifts), (units,), by
    group and layer.
    """

    mean: Mapping[str, Tensor]
    squared: Mapping[str, Tensor]
    absolute: Mapping[str, Tensor]
    signed: Mapping[tuple[str, str], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Activity:
    """What one layer reads, by index along the "in" axis of its weight: mean absolute value, and share of exact zeros.

    Means over images and places, and over the conv groups of a grouped convolution.
    """

    size: Tensor
    zeros: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """A dense model and its calibration batches; what is measured on them is measured once, on first use, in eval mode.

    The model's weights, mode and requires_grad are left as they were: gradients are taken on views, so a frozen model
    has them too. A weight that carries a mask is looked at before the mask; the model runs with it. `seed` fixes the
    random control and the `probes` per batch of the second derivatives.
    """

    model: nn.Module
    inventory: Inventory
    batches: Sequence[tuple[Tensor, Tensor]]
    loss: Loss
    seed: int
    probes: int = 4

    def weight(self, layer: str) -> Tensor:
        """The weight of a convolution or linear layer, detached."""
        return raw_weight(self.model.get_submodule(layer)).detach()

    def weighted(self, group: Group) -> tuple[Member, ...]:
        """The convolutions and linear layers that produce the group's channels."""
        return tuple(m for m in group.producers if self.inventory.layer[m.layer].kind != "norm")

    def norms(self, group: Group) -> tuple[Member, ...]:
        """The batch norms with a learned scale that carry the group's channels."""
        norms = (m for m in group.producers if self.inventory.layer[m.layer].kind == "norm")
        return tuple(m for m in norms if self.model.get_submodule(m.layer).weight is not None)

    def readers(self, group: Group) -> tuple[Member, ...]:
        """The layers that read the group's channels."""
        return tuple(member for member in group.members if member.axis == "in")

    @cached_property
    def gradients(self) -> Gradients:
        """First derivatives of the loss: one pass over the batches for every criterion that asks."""
        return _gradients(self)

    @cached_property
    def curvature(self) -> Mapping[str, Tensor]:
        """An estimate of the Hessian's diagonal, mean over the batches, by layer, in the weight's shape.

        Hutchinson's: the mean of v × (H v) over vectors v of random signs (Bekas et al. 2007,
        https://doi.org/10.1016/j.apnum.2007.01.003). Takes about 2 + 4 × `probes` forwards a batch.

        Raises:
            ParetuneError: the model cannot be differentiated twice.
        """
        try:
            return _curvature(self)
        except RuntimeError as error:
            raise ParetuneError(f"the Hessian's diagonal needs second derivatives: {first_line(error)}") from error

    @cached_property
    def activity(self) -> Mapping[str, Activity]:
        """What the readers of all groups read, by layer: one pass over the batches."""
        return _activity(self)

    @cached_property
    def _kept(self) -> dict[str, Any]:
        return {}

    def once(self, key: str, make: Callable[[], V]) -> V:
        """`make()`, called the first time only: for a criterion that finds the scores of all groups together."""
        if key not in self._kept:
            self._kept[key] = make()
        found: V = self._kept[key]
        return found


def per_unit(values: Tensor, member: Member) -> Tensor:
    """Sums of `values` (one per index along the member's axis) over the indices of each unit, (units,)."""
    indices = torch.tensor([index for unit in member.units for index in unit], device=values.device)
    sizes = torch.tensor([len(unit) for unit in member.units], device=values.device)
    owners = torch.arange(len(sizes), device=values.device).repeat_interleave(sizes)
    return values.new_zeros(len(sizes)).index_add_(0, owners, values[indices])


def _gradients(evidence: Evidence) -> Gradients:
    weights, norms = _weight_names(evidence), _norm_names(evidence)
    views = _views(evidence.model, chain(weights.values(), *norms.values()))
    mean, squared, absolute, signed = _Mean[str](), _Mean[str](), _Mean[str](), _Mean[tuple[str, str]]()
    with _resting(evidence.model), torch.enable_grad():
        for batch in evidence.batches:
            loss = _loss(evidence, views, batch)
            found = torch.autograd.grad(loss, list(views.values()), materialize_grads=True)
            slopes = dict(zip(views, found, strict=True))
            for layer, name in weights.items():
                mean.add(layer, slopes[name])
                squared.add(layer, slopes[name].square())
                absolute.add(layer, slopes[name].abs())
            for group, member in _carriers(evidence):
                names = norms.get(member.layer) or (weights[member.layer],)
                channels = sum(_by_channel(slopes[name] * views[name].detach()) for name in names)
                assert isinstance(channels, Tensor)
                signed.add((group.name, member.layer), per_unit(channels, member).square())
    return Gradients(mean=mean.over(), squared=squared.over(), absolute=absolute.over(), signed=signed.over())


def _carriers(evidence: Evidence) -> Iterator[tuple[Group, Member]]:
    for group in evidence.inventory.groups:
        for member in (*evidence.weighted(group), *evidence.norms(group)):
            yield group, member


def _by_channel(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).sum(dim=1)


def _curvature(evidence: Evidence) -> dict[str, Tensor]:
    names = _weight_names(evidence)
    views = _views(evidence.model, names.values())
    chance = torch.Generator().manual_seed(evidence.seed)
    total = _Mean[str]()
    with _resting(evidence.model), torch.enable_grad():
        for batch in evidence.batches:
            given, loss = list(views.values()), _loss(evidence, views, batch)
            slopes = torch.autograd.grad(loss, given, create_graph=True, materialize_grads=True)
            for _ in range(evidence.probes):
                signs = [(2 * torch.randint(0, 2, view.shape, generator=chance) - 1).to(view) for view in given]
                for name, value in zip(views, _turned(slopes, signs, given), strict=True):
                    total.add(name, value)
    diagonal = total.over()
    return {layer: diagonal[name] for layer, name in names.items()}


def _turned(slopes: Sequence[Tensor], signs: Sequence[Tensor], views: Sequence[Tensor]) -> list[Tensor]:
    """v × (H v), per view."""
    along = torch.stack([(slope * sign).sum() for slope, sign in zip(slopes, signs, strict=True)]).sum()
    if not along.requires_grad:  # a loss that is linear in every weight
        return [torch.zeros_like(view) for view in views]
    found = torch.autograd.grad(along, views, retain_graph=True, materialize_grads=True)
    return [value.detach() * sign for value, sign in zip(found, signs, strict=True)]


def _activity(evidence: Evidence) -> dict[str, Activity]:
    sizes, zeros = _Mean[str](), _Mean[str]()

    def watch(layer: str) -> Any:
        axis = 1 - evidence.weight(layer).dim()  # of the channels, with or without a batch axis
        conv_groups = evidence.inventory.layer[layer].groups

        def look(_: nn.Module, given: Any, named: Any) -> None:
            read = next(tensors((given, named))).detach().movedim(axis, 0)
            places = read.reshape(conv_groups, len(read) // conv_groups, -1).transpose(0, 1).flatten(1)
            sizes.add(layer, places.abs().double().sum(dim=1), places.shape[1])
            none = (places == 0).double() + 0 * places  # what is not finite stays so
            zeros.add(layer, none.sum(dim=1), places.shape[1])

        return evidence.model.get_submodule(layer).register_forward_pre_hook(look, with_kwargs=True)

    handles = [watch(layer) for layer in dict.fromkeys(_readers(evidence))]
    try:
        with _resting(evidence.model), torch.no_grad():
            for inputs, _ in evidence.batches:
                evidence.model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    size, zero = sizes.over(), zeros.over()
    return {layer: Activity(size=size[layer], zeros=zero[layer]) for layer in size}


def _readers(evidence: Evidence) -> Iterator[str]:
    for group in evidence.inventory.groups:
        yield from (member.layer for member in evidence.readers(group))


def _loss(evidence: Evidence, views: Mapping[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, targets = batch
    outputs = torch.func.functional_call(evidence.model, dict(views), (inputs,))
    return evidence.loss(outputs, targets)


def _names(model: nn.Module) -> dict[int, str]:
    """How a state calls its tensors, by identity: one name for weights that layers share."""
    return {id(tensor): name for name, tensor in chain(model.named_parameters(), model.named_buffers())}


def _weight_names(evidence: Evidence) -> dict[str, str]:
    names, model = _names(evidence.model), evidence.model
    return {y.name: names[id(raw_weight(model.get_submodule(y.name)))] for y in evidence.inventory.weighted}


def _norm_names(evidence: Evidence) -> dict[str, tuple[str, ...]]:
    names, found = _names(evidence.model), {}
    for layer in evidence.inventory.layers:
        if layer.kind == "norm":
            norm = evidence.model.get_submodule(layer.name)
            learned = (norm._parameters.get("weight"), norm._parameters.get("bias"))
            found[layer.name] = tuple(names[id(tensor)] for tensor in learned if tensor is not None)
    return found


def _views(model: nn.Module, wanted: Iterable[str]) -> dict[str, Tensor]:
    found = dict(chain(model.named_parameters(), model.named_buffers()))
    return {name: found[name].detach().requires_grad_() for name in dict.fromkeys(wanted)}


class _Mean(dict[K, tuple[Tensor, float]]):
    """Running means by name: nothing but the totals is kept."""

    def add(self, key: K, value: Tensor, count: float = 1) -> None:
        total, before = self.get(key, (0, 0))
        self[key] = (total + value, before + count)

    def over(self) -> dict[K, Tensor]:
        return {key: total / count for key, (total, count) in self.items()}


@contextmanager
def _resting(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
