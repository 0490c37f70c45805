"""One training that finds which channels leave and how many bits each layer gets.

Wang, Lu, Blankevoort 2020, Differentiable Joint Pruning and Quantization, https://arxiv.org/abs/2007.10463. Ours: gates
stand before the activation function, where they fold into the norm; gates and quantizers learn by normalised gradients,
those of means, ranges and steps relative to their size, as Adam on their logarithms would; a mean that may jump over
zero meets the penalty's pole there and does not come to rest. Bits stay within bounds by moving the step back after
each update, so that no gradient is lost in a clamp. Restricted bits are rounded to powers of two after half of the
epochs, after three quarters and at the end: rounding after every epoch would put them back before they got anywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretune.compress.cut import cut
from paretune.compress.djpq import EXPONENTS, CurvedGrid
from paretune.compress.gates import Gates, attach_gates, fold
from paretune.compress.masks import masked_layers
from paretune.compress.quantize import calibrate, quantize, quantized_weight, weight_quantizer
from paretune.compress.recover import Seeds, Teacher, Tick, Watcher, finetune, parameter_groups, recalibrate
from paretune.errors import ImpossiblePlan
from paretune.inventory import Axis, Inventory, Layer
from paretune.plan import FLOAT, GroupPlan, LayerPlan, Plan
from paretune.recipe import Joint, Recovery
from paretune.tasks.task import Loss

MOST = 8  # bits: what the packed file holds
POWERS = (2, 4, 8)
MEMORY = 0.99  # of the mean squares that gradients are divided by
MOMENTUM = 0.9  # of the optimizer in `finetune`
GATES = 3.0  # times the rate: ln α has to fall by 9 until a channel leaves, ln d to rise by 3 for 8 bits to become 4

Batches = Sequence[tuple[Tensor, Tensor]]
Bits = Mapping[str, tuple[int | Tensor, int | Tensor]]  # weight and activation bits by layer
Stay = Mapping[str, Tensor]  # how much each unit of a group stays, in [0, 1]


def find_jointly(
    model: nn.Module,
    inventory: Inventory,
    plan: Plan,
    *,
    loss: Loss,
    teacher: Teacher,
    seeds: Seeds,
    seed: int,
    calibration: Batches,
    tick: Tick,
) -> tuple[nn.Module, Plan]:
    """A smaller model with its quantizers, and the plan that says what was found; `model` is used up.

    `model` is the dense one in float and `plan` asks: layers whose quantizer is "djpq" have free bits, those of `plan`
    to start with. Everything follows from `seed` (the gates' first values) and `seeds` (the epochs' order and noise).
    Learned ranges and exponents are carried over; other weight quantizers are fitted anew to the smaller model.

    Raises:
        ImpossiblePlan: the plan cuts or masks already, or the loss is not finite.
    """
    joint = _asked(model, plan)
    quantize(model, plan)
    recalibrate(model, _watched(calibration, tick))
    calibrate(model, calibration[0][0])
    recalibrate(model, _watched(calibration, tick))
    search = _Search(model, inventory, plan, joint, attach_gates(model, inventory, seed))
    recovery = Recovery(epochs=joint.epochs, lr=joint.lr)
    finetune(
        model, recovery, loss=loss, teacher=teacher, seeds=seeds, tick=tick, watcher=search,
        penalty=search.penalty, parameters=search.parameters,
    )  # fmt: skip
    return search.harvest()


def relative_bops(inventory: Inventory, bits: Bits, stay: Stay) -> Tensor:
    """Σ MACs × kept outputs × kept inputs × weight bits × activation bits over 32 × 32 bits and all MACs: a scalar.

    With whole units it is `paretune.costs.table.bops` of the plan over that of the dense model. Layers without `bits`
    are float. A layer reads the share of its inputs that their groups keep, also where several meet.
    """
    total, dense = torch.zeros(()), 0
    for layer in inventory.weighted:
        macs = prod(layer.weight_shape) * layer.positions
        weights, activations = bits.get(layer.name, (FLOAT, FLOAT))
        kept = _axis(inventory, layer, "out", stay) * _axis(inventory, layer, "in", stay)
        total, dense = total + macs * kept * weights * activations, dense + macs
    return total / (max(1, dense) * FLOAT**2)


def whole_bits(bits: float, least: int, restricted: bool) -> int:
    """The bit-width that `bits` is rounded to, from `least` to 8; if `restricted`, the power 2^round(log2 bits)."""
    if not restricted:
        return min(MOST, max(least, round(bits)))
    exponent = round(float(torch.log2(torch.tensor(max(bits, 1.0)))))
    return min((power for power in POWERS if power >= least), key=lambda power: abs(power - 2**exponent))


def _asked(model: nn.Module, plan: Plan) -> Joint:
    if plan.joint is None or plan.joint.done:
        raise ImpossiblePlan("a joint training needs a plan whose `joint` is not done")
    if plan.groups or any(row.pattern is not None for row in plan.layers) or any(masked_layers(model)):
        raise ImpossiblePlan(
            "a joint training finds its channels itself, but the plan cuts groups or masks layers; "
            "ask for ratio 0 and the pattern 'channel'"
        )
    return plan.joint


def _watched(batches: Batches, tick: Tick) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        tick()
        yield batch


def _axis(inventory: Inventory, layer: Layer, axis: Axis, stay: Stay) -> Tensor:
    """The share of the indices along an axis of the layer's weight that stays, a scalar."""
    size = layer.weight_shape[0 if axis == "out" else 1]
    gone = torch.zeros(())
    for group, member in inventory.cuts[layer.name]:
        if member.axis == axis and group in stay:
            counts = torch.tensor([len(indices) for indices in member.units], device=stay[group].device)
            gone = gone + ((1 - stay[group]) * counts).sum()
    return 1 - gone / size


class _Search(Watcher):
    """The gates and quantizers of one model while they are learned."""

    def __init__(self, model: nn.Module, inventory: Inventory, plan: Plan, joint: Joint, gates: Gates) -> None:
        self.model, self.inventory, self.plan, self.joint, self.gates = model, inventory, plan, joint, gates
        self.weights = {row.layer: grid for row in plan.layers if (grid := _grid(weight_quantizer(self._at(row))))}
        self.activations = {
            row.layer: grid
            for row in plan.layers
            if (grid := _grid(getattr(self._at(row), "activation_quantizer", None)))
        }
        self.grids = [*self.weights.values(), *self.activations.values()]
        for grid in self.grids:
            grid.free()
            grid.exponent.requires_grad_(bool(joint.exponent))
        self.squares: dict[nn.Parameter, Tensor] = {}
        self.steps = 0
        self.restrict = (
            {(joint.epochs + 1) // 2, (3 * joint.epochs + 3) // 4} if joint.bits == "power_of_two" else set()
        )
        self._bound()

    def _at(self, row: LayerPlan) -> nn.Module:
        return self.model.get_submodule(row.layer)

    def penalty(self, model: nn.Module) -> Tensor:
        """gamma × information + beta × relative bit operations."""
        joint = self.joint
        bops = relative_bops(self.inventory, self.bits(), self.gates.stay(joint.threshold, joint.softness))
        return joint.gamma * self.gates.information(torch.zeros_like(bops)) + joint.beta * bops

    def bits(self) -> Bits:
        """Bits by layer as they are now, with gradients where they are free."""
        return {
            row.layer: (
                self.weights[row.layer].bits_now() if row.layer in self.weights else row.weight_bits,
                self.activations[row.layer].bits_now() if row.layer in self.activations else row.activation_bits,
            )
            for row in self.plan.layers
        }

    def parameters(self, model: nn.Module) -> list[dict[str, object]]:
        """The optimizer's groups; gates and quantizers have their own learning rate and do not decay."""
        gates, grids = self.gates.parameters(), [parameter for grid in self.grids for parameter in grid.parameters()]
        chosen = {id(parameter) for parameter in grids}
        groups = parameter_groups(model)
        for group in groups:
            assert isinstance(group["params"], list)
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
        own = ((gates, GATES * self.joint.rate), (grids, self.joint.rate))
        return [*groups, *({"params": params, "lr": rate, "weight_decay": 0.0} for params, rate in own)]

    @torch.no_grad()
    def on_gradients(self, model: nn.Module) -> None:
        """Divide by the root of the mean squares."""
        self.steps += 1
        for gate in self.gates.by_group.values():
            self._normalise(gate.mean, gate.mean.abs())
            self._normalise(gate.log_variance, torch.ones_like(gate.log_variance))
        for grid in self.grids:
            assert grid.step is not None
            self._normalise(grid.exponent, torch.ones_like(grid.exponent))
            for parameter in (grid.edge, grid.step):
                self._normalise(parameter, parameter.abs())

    def _normalise(self, parameter: nn.Parameter, unit: Tensor) -> None:
        if parameter.grad is None:
            return
        slope = parameter.grad * unit
        mean = self.squares.get(parameter, torch.zeros_like(slope)) * MEMORY + (1 - MEMORY) * slope**2
        self.squares[parameter] = mean
        size = (mean / (1 - MEMORY**self.steps)).sqrt() + 1e-12
        # The optimizer's momentum adds up ten gradients.
        parameter.grad = (1 - MOMENTUM) * slope / size * unit

    def on_step(self, model: nn.Module) -> None:
        self._bound()

    def on_epoch(self, epoch: int) -> None:
        if epoch + 1 in self.restrict:
            for grid in self.grids:
                grid.aim(self._whole(grid))

    @torch.no_grad()
    def _bound(self) -> None:
        for grid in self.grids:
            grid.exponent.clamp_(*EXPONENTS)
            bits = float(grid.bits_now())
            if not self.joint.least <= bits <= MOST:
                grid.aim(min(MOST, max(self.joint.least, bits)))

    @torch.no_grad()
    def _whole(self, grid: CurvedGrid) -> int:
        return whole_bits(float(grid.bits_now()), self.joint.least, self.joint.bits == "power_of_two")

    def harvest(self) -> tuple[nn.Module, Plan]:
        """The smaller model and the found plan; takes gates and quantizers off the model that was trained."""
        kept = self.gates.kept(self.joint.threshold, self.joint.minimum)
        for grid in self.grids:
            grid.settle(self._whole(grid))
            grid.exponent.requires_grad_(bool(self.joint.exponent))
        for layer in self.inventory.weighted:
            module = self.model.get_submodule(layer.name)
            if quantized_weight(module):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        self._widen(kept)
        fold(self.model, self.gates)
        small, plan = cut(self.model, self.inventory, kept), self._found(kept)
        for name, grid in self.weights.items():
            parametrize.register_parametrization(small.get_submodule(name), "weight", grid)
        return quantize(small, plan), plan

    @torch.no_grad()
    def _widen(self, kept: Mapping[str, tuple[int, ...]]) -> None:
        """Where means go into weights, the largest scales the range, so that nothing is clipped that was not."""
        for group, gate in self.gates.by_group.items():
            stay = list(kept.get(group, range(len(gate.mean))))
            for place in self.gates.places:
                if place.gate is gate and place.module in self.weights:
                    most = gate.mean[stay].abs().max()
                    self.weights[place.module].edge.mul_(most)
                    self.weights[place.module].outer *= max(1.0, float(most))

    def _found(self, kept: Mapping[str, tuple[int, ...]]) -> Plan:
        rows = tuple(
            replace(
                row,
                weight_bits=self.weights[row.layer].bits if row.layer in self.weights else row.weight_bits,
                activation_bits=self.activations[row.layer].bits
                if row.layer in self.activations
                else row.activation_bits,
            )
            for row in self.plan.layers
        )
        groups = tuple(GroupPlan(group=name, kept=units) for name, units in kept.items())
        return replace(self.plan, groups=groups, layers=rows, joint=replace(self.joint, done=True))


def _grid(quantizer: object) -> CurvedGrid | None:
    return quantizer if isinstance(quantizer, CurvedGrid) else None
