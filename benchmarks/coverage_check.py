"""What the coverage benchmark checks of one network: its groups, a cut, and what the cut network computes and costs."""

import random
import re
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import process_time
from typing import Any

import torch
from coverage_models import trained
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paretune.compress.cut import cut, zero
from paretune.compress.groups import discover
from paretune.compress.layers import tensors
from paretune.compress.rates import kept_count
from paretune.costs.counts import macs, params
from paretune.errors import first_line
from paretune.inventory import Inventory
from paretune.plan import DENSE, GroupPlan, Plan
from paretune.profile import profile
from paretune.tasks.opened import opened

RATIO = 0.3  # of every group leaves
SAME = 1e-4  # the largest difference that is taken for float noise, relative to the largest output
SECONDS = 60.0  # for finding the groups, of processor time: on one thread and a free machine that is the wall clock
HEAVY = 40_000_000  # parameters from which on float32 is used to save memory


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was seen of one network. `wrong` says by stage why it failed; stages after a failed "find" or "cut" are not
    tried. `off` is the largest |cut − zeroed| and `effect` the largest |zeroed − dense|, both relative to the largest
    |zeroed|; `macs_left` is a share. `whole` counts the reasons why layers stay whole.
    """

    input_shape: tuple[int, ...]
    parameters: int = 0
    layers: int = 0
    groups: int = 0
    shrink: float = 0.0
    macs_left: float = 1.0
    seconds: float = 0.0
    off: float | None = None
    effect: float | None = None
    whole: Mapping[str, int] = field(default_factory=dict)
    unsure: tuple[str, ...] = ()
    wrong: Mapping[str, str] = field(default_factory=dict)
    traces: Mapping[str, str] = field(default_factory=dict)


class Stages:
    """Runs one stage after the other and remembers what went wrong in which."""

    def __init__(self) -> None:
        self.wrong: dict[str, str] = {}
        self.traces: dict[str, str] = {}

    def run(self, stage: str, work: Callable[[], Any]) -> Any:
        """What `work` returns, or None if it raised."""
        try:
            return work()
        except Exception as error:
            self.wrong[stage] = f"{type(error).__name__}: {first_line(error)}"
            self.traces[stage] = traceback.format_exc()[-2500:]
            return None


def check(net: nn.Module, example: Tensor, patience: float = 1.0) -> Checked:
    """Finds the groups of `net`, cuts the share RATIO of every one, and compares with the zeroed network and a recount.

    Which units stay is drawn at random. `net` is in eval mode; `example` (1, ...) is one input of it. Finding the
    groups may take SECONDS of processor time, and `patience` times as much by the clock.
    """
    stages, shape = Stages(), tuple(example.shape[1:])
    net = stages.run("build", lambda: opened(net)) or net
    count = sum(parameter.numel() for parameter in net.parameters())
    start = process_time()
    inventory: Inventory | None = stages.run("find", lambda: discover(net, example, seconds=SECONDS * patience))
    seconds = process_time() - start
    if seconds > SECONDS:
        stages.wrong.setdefault("find", f"took {seconds:.0f} s")
    if inventory is None:
        return Checked(input_shape=shape, parameters=count, seconds=seconds, wrong=stages.wrong, traces=stages.traces)
    kept = drawn(inventory)
    plan = Plan(groups=tuple(GroupPlan(group=name, kept=units) for name, units in kept.items()))
    rows, dense = profile(inventory, plan), profile(inventory, DENSE)
    off, effect = _cut_and_compared(stages, net, example, inventory, plan)
    weighted = inventory.weighted
    return Checked(
        input_shape=shape,
        parameters=count,
        layers=len(weighted),
        groups=len(inventory.groups),
        shrink=sum(bool(inventory.shrinks[layer.name]) for layer in weighted) / max(1, len(weighted)),
        macs_left=macs(rows) / max(1, macs(dense)),
        seconds=seconds,
        off=off,
        effect=effect,
        whole=dict(Counter(re.sub(r"'[^']*'", "'…'", reason) for reason in inventory.whole.values())),
        unsure=inventory.unsure,
        wrong=stages.wrong,
        traces=stages.traces,
    )


def drawn(inventory: Inventory) -> dict[str, tuple[int, ...]]:
    """Random units of every group: what is left after the share RATIO has gone, at least one."""
    chance = random.Random(0)
    return {
        group.name: tuple(sorted(chance.sample(range(group.channels), kept_count(group.channels, RATIO))))
        for group in inventory.groups
    }


def _cut_and_compared(
    stages: Stages, net: nn.Module, example: Tensor, inventory: Inventory, plan: Plan
) -> tuple[float | None, float | None]:
    small: nn.Module | None = stages.run("cut", lambda: cut(net, inventory, plan.kept))
    if small is None:
        return None, None
    stages.run("forward", lambda: _forward(small, example))
    if "forward" in stages.wrong:
        return None, None
    stages.run("backward", lambda: _backward(small, example))
    stages.run("recount", lambda: _recount(small.requires_grad_(False), example, inventory, plan))
    return stages.run("equal", lambda: _equal(net, example, inventory, plan)) or (None, None)


@torch.no_grad()
def _forward(small: nn.Module, example: Tensor) -> None:
    assert all(bool(tensor.isfinite().all()) for tensor in tensors(small(example))), "outputs that are not finite"


def _backward(small: nn.Module, example: Tensor) -> None:
    count, wrong = trained(small, example)
    assert count, "no parameter has a gradient"
    assert not wrong, f"{wrong} of {count} gradients are not finite"


def _recount(small: nn.Module, example: Tensor, inventory: Inventory, plan: Plan) -> None:
    """The costs of the plan, against PyTorch's counter and a sum over the parameters of the model that was cut."""
    rows, really = profile(inventory, plan), sum(parameter.numel() for parameter in small.parameters())
    told = [f"{params(rows)} parameters are {really}"] if params(rows) != really else []
    ran = counted(small, example)
    told += [f"{macs(rows)} MACs are {ran}"] if macs(rows) != ran else []
    assert not told, "; ".join(told)


def counted(net: nn.Module, example: Tensor) -> int:
    """Multiply-adds by PyTorch's counter, attention and LSTMs taken apart into the products that it knows."""
    fast, fused = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
            net(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = fused
    return int(flops.get_total_flops()) // 2


@torch.no_grad()
def _equal(net: nn.Module, example: Tensor, inventory: Inventory, plan: Plan) -> tuple[float, float]:
    """The largest difference between cut and zeroed, and between zeroed and dense, in float64 if that works."""
    batch = torch.randn(2, *example.shape[1:])
    try:
        if sum(parameter.numel() for parameter in net.parameters()) > HEAVY:
            raise RuntimeError("too heavy")
        whole, given = net.double(), batch.double()
        dense = list(tensors(whole(given)))
    except RuntimeError:  # it makes float32 tensors of its own
        whole, given = net.float(), batch
        dense = list(tensors(whole(given)))
    quiet = list(tensors(zero(whole, inventory, plan.kept)(given)))
    small = list(tensors(cut(whole, inventory, plan.kept)(given)))
    assert all(bool(tensor.isfinite().all()) for tensor in quiet), "the zeroed network's outputs are not finite"
    off, effect = _apart(small, quiet), _apart(quiet, dense)
    assert off <= SAME, f"cut and zeroed differ by {off:.2g}"
    assert off < effect / 10 or not inventory.groups, f"removal changes only {effect:.2g}, so nothing was shown"
    return off, effect


def _apart(ones: list[Tensor], others: list[Tensor]) -> float:
    assert [one.shape for one in ones] == [other.shape for other in others], "outputs of another shape"
    pairs = [(one, other) for one, other in zip(ones, others, strict=True) if other.is_floating_point()]
    return max(float((one - other).abs().max() / other.abs().max().clamp_min(1e-30)) for one, other in pairs)
