"""Noisy gates behind channels: how much information each lets through is learned, and what lets none through can leave.

Dai et al. 2018, Compressing Neural Networks using the Variational Information Bottleneck,
https://arxiv.org/abs/1802.10399, as in the code that belongs to it (https://github.com/zhuchen03/VIBNet).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from paretune.inventory import Group, Inventory, Member

FIRST_LOG_VARIANCE = -9.0
SPREAD = 0.01  # of the first means and log variances
FLOOR = 1e-8  # added to variances
LOW = 1e-12  # added to squared means under a logarithm


class Gate(nn.Module):
    """One factor z = μ + σε per unit of a group; ε is drawn per sample. `mean` and `log_variance` are (units,).

    `weight` is κ of the penalty.
    """

    def __init__(self, units: int, weight: float, generator: torch.Generator, device: torch.device) -> None:
        super().__init__()
        first = SPREAD * torch.randn(2, units, generator=generator)
        self.mean = nn.Parameter((1 + first[0]).to(device))
        self.log_variance = nn.Parameter((FIRST_LOG_VARIANCE + first[1]).to(device))
        self.weight = weight

    def drawn(self, samples: int, noisy: bool) -> Tensor:
        """Factors (samples, units), from the global generator; μ as (1, units) without noise."""
        if not noisy:
            return self.mean[None]
        noise = torch.randn(samples, len(self.mean), device=self.mean.device)
        return self.mean + noise * torch.exp(0.5 * self.log_variance)

    def log_alpha(self) -> Tensor:
        """ln(μ² / (σ² + 1e-8)) by unit: what a unit lets through."""
        return torch.log(self.mean**2 + LOW) - torch.log(torch.exp(self.log_variance) + FLOOR)

    def information(self) -> Tensor:
        """½ κ Σ ln(1 + μ² / (σ² + 1e-8)), a scalar."""
        ratio = self.mean**2 / (torch.exp(self.log_variance) + FLOOR)
        return 0.5 * self.weight * torch.log1p(ratio).sum()


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """A module whose output a gate scales.

    `units` (channels,) says which unit each channel belongs to; the number of units stands for none.
    """

    module: str
    gate: Gate
    units: Tensor

    def factors(self, drawn: Tensor) -> Tensor:
        """(samples, units) as (samples, channels); channels of no unit get 1."""
        return torch.cat([drawn, drawn.new_ones(len(drawn), 1)], dim=1)[:, self.units]


@dataclass(frozen=True, kw_only=True, eq=False)
class Gates:
    """The gates of a model by group, where they are and how to take them off."""

    by_group: Mapping[str, Gate]
    places: tuple[Place, ...]
    handles: tuple[RemovableHandle, ...]

    def parameters(self) -> list[nn.Parameter]:
        """Every gate's means and log variances."""
        return [parameter for gate in self.by_group.values() for parameter in gate.parameters()]

    def information(self, zero: Tensor) -> Tensor:
        """The penalty of all groups, a scalar; `zero` if there is none."""
        return sum((gate.information() for gate in self.by_group.values()), zero)

    def stay(self, threshold: float, softness: float) -> dict[str, Tensor]:
        """How much each unit stays, (units,) in [0, 1], with gradients: sigmoid((ln α - ln threshold) / softness).

        Ours: logarithms, since α starts near 8000, where a sigmoid of α itself has no slope.
        """
        line = math.log(threshold)
        return {name: torch.sigmoid((gate.log_alpha() - line) / softness) for name, gate in self.by_group.items()}

    @torch.no_grad()
    def kept(self, threshold: float, minimum: int) -> dict[str, tuple[int, ...]]:
        """The units with α ≥ `threshold`, ascending, or the `minimum` highest; of every group that loses some."""
        found = {}
        for name, gate in self.by_group.items():
            alpha = gate.log_alpha().exp()
            stay = max(int((alpha >= threshold).sum()), min(minimum, len(alpha)))
            if stay < len(alpha):
                best = torch.sort(alpha, descending=True, stable=True).indices[:stay]
                found[name] = tuple(sorted(best.tolist()))
        return found

    def take_off(self) -> None:
        """Remove the hooks; the model then computes what it did before."""
        for handle in self.handles:
            handle.remove()


def attach_gates(model: nn.Module, inventory: Inventory, seed: int) -> Gates:
    """Gates behind all producers of every group, in `model`, in place; noisy while a module is in training mode.

    A gate stands behind each batch norm that the group cuts, since one in front would be cancelled, and behind each
    layer that no norm follows alone. Means start near 1 and log variances near -9, drawn from `seed`. κ is the root of
    the positions of the group's first layer: VIBNet multiplies by the pixels of the map and divides by its width. A
    group with a norm that has no scale gets no gate and stays whole, for its means could not be folded (ours).
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    gates: dict[str, Gate] = {}
    places: list[Place] = []
    for group in inventory.groups:
        members = [member for member in group.producers if _gated(inventory, member)]
        if all(inventory.layer[member.layer].affine for member in members):
            gate = gates[group.name] = Gate(group.channels, _weight(inventory, group), generator, device)
            places += [_place(inventory, member, gate) for member in members]
    handles = tuple(model.get_submodule(place.module).register_forward_hook(_through(place)) for place in places)
    return Gates(by_group=gates, places=tuple(places), handles=handles)


@torch.no_grad()
def fold(model: nn.Module, gates: Gates) -> None:
    """Multiply the gates' means into the scale and shift, or weight rows and bias, in front of them; take them off.

    In place; no weight may carry a mask or quantizer. In eval mode the model then computes what it did with its gates.
    """
    for place in gates.places:
        module = model.get_submodule(place.module)
        factors = place.factors(place.gate.drawn(1, noisy=False))[0]
        for parameter in (module.get_parameter("weight"), module.bias):
            if isinstance(parameter, Tensor):
                parameter.mul_(factors.view(-1, *[1] * (parameter.ndim - 1)))
    gates.take_off()


def _gated(inventory: Inventory, member: Member) -> bool:
    layer = inventory.layer[member.layer]
    return layer.kind == "norm" or (layer.kind in ("conv", "linear") and layer.norm is None)


def _weight(inventory: Inventory, group: Group) -> float:
    layers = (inventory.layer[member.layer] for member in group.producers)
    positions = next((layer.positions for layer in layers if layer.kind in ("conv", "linear")), 1)
    return math.sqrt(positions)


def _place(inventory: Inventory, member: Member, gate: Gate) -> Place:
    units = torch.full((inventory.layer[member.layer].weight_shape[0],), len(member.units))
    for unit, indices in enumerate(member.units):
        units[list(indices)] = unit
    return Place(module=member.layer, gate=gate, units=units.to(gate.mean.device))


def _through(place: Place) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def scale(module: nn.Module, given: object, made: Tensor) -> Tensor:
        factors = place.factors(place.gate.drawn(len(made), module.training))
        last = isinstance(module, nn.Linear)
        between = [1] * (made.ndim - 2)
        return made * (factors.view(len(factors), *between, -1) if last else factors.view(len(factors), -1, *between))

    return scale
