"""The optimizer of a fine-tune and its learning rates."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from paretune.compress.precision import PLAIN, Precision


class Descent:
    """SGD with momentum 0.9 over `total` steps; the learning rates warm up over a tenth of them, then a cosine."""

    def __init__(self, groups: list[dict[str, object]], lr: float, total: int, precision: Precision = PLAIN) -> None:
        """`groups` are the optimizer's, and may have an "lr" of their own."""
        self.optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.scaler = precision.scaler(parameters[0].device.type if parameters else "cpu")
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.total, self.done = max(1, total), 0

    @property
    def share(self) -> float:
        """How much of it is over, in [0, 1]."""
        return self.done / self.total

    def step(self, value: Tensor, look: Callable[[], None] = lambda: None) -> None:
        """One step down the loss `value`, a scalar; `look` is called when the gradients are there.

        Where a scaled gradient overflows, the optimizer leaves the step out.
        """
        # The middle of each step: at its start the first would have a learning rate of zero.
        factor = shape((self.done + 0.5) / self.total)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(value))
        self.scaler.unscale_(self.optimizer)
        look()
        if not self.scaler.is_enabled():
            self.optimizer.step()
        elif any(one.grad is not None for group in self.optimizer.param_groups for one in group["params"]):
            self.scaler.step(self.optimizer)  # it cannot do with no gradient at all
            self.scaler.update()
        self.done += 1


def shape(done: float) -> float:
    """The factor of the learning rate, in [0, 1], when the share `done` of all steps is over."""
    return done / 0.1 if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))
