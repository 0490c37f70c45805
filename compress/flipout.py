"""FlipOut: weights whose sign keeps changing while the network trains are the ones to go.

Apostol, Stol & Forré 2020, FlipOut, https://arxiv.org/abs/2009.02594. The paper trains from scratch, for hundreds of
epochs with a step-wise learning rate; our short runs and their warm-up and cosine are ours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.compress.masks import attach, mask_module, raw_weight
from paretune.compress.recover import Seeds, Teacher, Tick, Watcher, finetune, no_tick
from paretune.errors import ImpossiblePlan, pick
from paretune.recipe import Pruning, Recovery, Wanted
from paretune.tasks.task import Loss

Score = Callable[[Tensor, Tensor, float], Tensor]  # (weight, flips, power) -> how much a weight is worth keeping

RANKINGS: dict[str, Score] = {
    "flips": lambda weight, flips, power: weight.abs() ** power / (flips + 1),
    "magnitude": lambda weight, flips, power: weight.abs(),
}
RATE = 0.5  # the share of what is left that one prune removes, if the number of prunes is not given


@dataclass(frozen=True, kw_only=True, slots=True)
class Prunes:
    """How a target is reached: `count` prunes, one every `every` epochs; each removes `rate` of what is left."""

    count: int
    rate: float
    every: int


def solve(sparsity: float, epochs: int, *, rounds: int = 0, rate: float = RATE) -> Prunes:
    """The prunes that end at `sparsity`, never after the last of `epochs`: 1 - (1 - rate)^count is the sparsity.

    `rounds` is the number of prunes. With 0 there are as many as it takes at `rate` each, rounded up, and the rate is
    then lowered to end at the target.

    Raises:
        ImpossiblePlan: too few epochs, or a sparsity outside [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise ImpossiblePlan(f"flipout needs a sparsity in [0, 1), got {sparsity:g}")
    if sparsity == 0:
        return Prunes(count=0, rate=0.0, every=max(1, epochs))
    # A target such as 0.75 is two halvings, and not three because of the last digit of a logarithm.
    count = rounds or math.ceil(math.log(1 - sparsity) / math.log(1 - rate) - 1e-9)
    if epochs - 1 < count:
        raise ImpossiblePlan(
            f"flipout prunes {count} times to reach sparsity {sparsity:g}, and never after the last epoch, so it needs "
            f"at least {count + 1} epochs; got {epochs}"
        )
    return Prunes(count=count, rate=1 - (1 - sparsity) ** (1 / count), every=(epochs - 1) // count)


def target(sizes: dict[str, int], wanted: dict[str, Wanted], minimum: int) -> int:
    """How many weights stay in all: Σ size × (1 - sparsity), halves up, but at least `minimum` per layer."""
    whole = sum(size * (1 - wanted[name].sparsity) for name, size in sizes.items())
    return max(math.floor(round(whole, 6) + 0.5), sum(min(minimum, size) for size in sizes.values()))


class FlipOut(Watcher):
    """Counts sign changes, shakes gradients and prunes, while `finetune` trains.

    It masks the layers in `wanted`, first with nothing masked, and prunes those that ask for some sparsity. Weights are
    ranked over all of them together, by |w|^power / (flips + 1), or by |w| if `by` is "magnitude"; ties go to the
    earlier weight. Flips count from the start of training; sign(0) is 0, so arriving at zero counts as one, and so does
    leaving it. To the gradient of every parameter it adds noise × norm / √n × ε with standard normal ε.
    At least `minimum` weights of each layer stay, the best ranked ones.
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: dict[str, Wanted],
        *,
        epochs: int,
        rounds: int = 0,
        noise: float = 1.0,
        power: float = 2.0,
        minimum: int = 1,
        by: str = "flips",
        seed: int = 0,
    ) -> None:
        """`epochs` and `rounds` are as in `solve`; `seed` draws the noise.

        Raises:
            ImpossiblePlan: as in `solve`, or zeros in a pattern.
            UnknownName: `by` is no ranking.
        """
        self.score, self.noise, self.power, self.minimum = (
            pick(RANKINGS, by, "ranking of flipout"),
            noise,
            power,
            minimum,
        )
        for name, asked in wanted.items():
            if asked.kind not in ("unstructured", "channel"):
                raise ImpossiblePlan(f"flipout finds unstructured zeros, layer '{name}' asks for '{asked.kind}'")
        layers = {name: model.get_submodule(name) for name, asked in wanted.items() if asked.kind == "unstructured"}
        attach(model, {name: np.ones(tuple(raw_weight(layer).shape), bool) for name, layer in layers.items()})
        self.kept = {name: found.mask for name, layer in layers.items() if (found := mask_module(layer))}
        self.weights = {name: raw_weight(layer) for name, layer in layers.items() if wanted[name].sparsity > 0}
        self.flips = {name: torch.zeros_like(weight, dtype=torch.int32) for name, weight in self.weights.items()}
        self.signs: dict[str, Tensor] = {}
        sizes = {name: weight.numel() for name, weight in self.weights.items()}
        self.size, self.target = sum(sizes.values()), target(sizes, wanted, minimum)
        self.prunes = solve(1 - self.target / self.size if self.size else 0.0, epochs, rounds=rounds)
        self.done = 0
        device = next((parameter.device for parameter in model.parameters()), None)
        self.generator = torch.Generator(device or "cpu").manual_seed(seed)

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """The mask of each layer as it is now, True where a weight stays."""
        return {name: mask.bool().cpu().numpy() for name, mask in self.kept.items()}

    @torch.no_grad()
    def on_gradients(self, model: nn.Module) -> None:
        """Mask and shake the gradients, and remember the signs of the weights."""
        self._mask_gradients()
        for parameter in model.parameters() if self.noise else ():
            if (grad := parameter.grad) is not None:
                drawn = torch.randn(grad.shape, generator=self.generator, device=grad.device, dtype=grad.dtype)
                grad.add_(drawn * (self.noise * grad.norm() / grad.numel() ** 0.5))
        self._mask_gradients()
        self.signs = {name: weight.sign() for name, weight in self.weights.items()}

    @torch.no_grad()
    def on_step(self, model: nn.Module) -> None:
        """Mask the weights, which momentum may have moved, and count the flips."""
        for name, weight in self.weights.items():
            weight.mul_(self.kept[name])
            self.flips[name] += weight.sign() != self.signs[name]

    @torch.no_grad()
    def on_epoch(self, epoch: int) -> None:
        """Prune if it is time."""
        if self.done < self.prunes.count and (epoch + 1) % self.prunes.every == 0:
            self.done += 1
            self._prune(self._goal())

    def _mask_gradients(self) -> None:
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self.kept[name])

    def _goal(self) -> int:
        """How many weights stay after this prune: the same share of them leaves in each, and the last one is exact."""
        if self.done == self.prunes.count:
            return self.target
        left: float = (self.target / self.size) ** (self.done / self.prunes.count)
        return math.floor(self.size * left + 0.5)

    def _prune(self, goal: int) -> None:
        scores = torch.cat([self._scores(name) for name in self.weights])
        stay = torch.zeros_like(scores, dtype=torch.bool)
        stay[scores.argsort(descending=True, stable=True)[:goal]] = True
        parts = torch.split(stay, [weight.numel() for weight in self.weights.values()])
        for (name, weight), part in zip(self.weights.items(), parts, strict=True):
            self.kept[name].copy_(part.view_as(weight))
            weight.mul_(self.kept[name])
            self.flips[name] *= self.kept[name].bool()

    def _scores(self, name: str) -> Tensor:
        """A layer's scores (n,): -inf where it is pruned already, inf for the few that have to stay."""
        scores = self.score(self.weights[name].double(), self.flips[name], self.power).flatten()
        scores[~self.kept[name].flatten().bool()] = -math.inf
        scores[scores.argsort(descending=True, stable=True)[: self.minimum]] = math.inf
        return scores


def flipout(
    model: nn.Module,
    pruning: Pruning,
    *,
    loss: Loss,
    teacher: Teacher,
    seeds: Seeds,
    seed: int,
    tick: Tick = no_tick,
    by: str = "flips",
) -> dict[str, NDArray[np.bool_]]:
    """The masks FlipOut finds while it trains `model` for `pruning.epochs`; the model keeps them on, in training mode.

    `pruning.rounds` is the number of prunes; 0 takes as many as there are halvings of what is left. `by` "magnitude" is
    its rival at equal budget: as many weights at the same epochs, without noise and by |w|. `seed` draws the noise.

    Raises:
        ImpossiblePlan: too few epochs for that many prunes, zeros in a pattern, or a loss that is not finite.
    """
    watcher = FlipOut(
        model,
        pruning.wanted,
        epochs=pruning.epochs,
        rounds=pruning.rounds,
        noise=pruning.noise if by == "flips" else 0.0,
        power=pruning.power,
        minimum=pruning.minimum,
        by=by,
        seed=seed,
    )
    recovery = Recovery(epochs=pruning.epochs, lr=pruning.lr)
    finetune(model, recovery, loss=loss, teacher=teacher, seeds=seeds, tick=tick, watcher=watcher)
    return watcher.masks()
