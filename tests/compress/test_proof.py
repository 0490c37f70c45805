"""Groups that look right at a first glance and are not: the proof leaves them whole."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.compress.groups import discover


class Net(nn.Module):
    """Layers and numbers by name, and a function of them."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: nn.Module | int) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


@dataclass
class Answer:
    """What some models return instead of a tensor."""

    logits: Tensor


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def gate_first(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.b(h * torch.sigmoid(h[:, :1]))


def gate_last(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.b(h * torch.sigmoid(h[:, -1:]))


def slice_first(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.f(h) + s.g(h[:, :2])


def auxiliary(s: Any, x: Tensor) -> Tensor:
    h = F.relu(s.a(x))
    out = s.b(h)
    return out + 0.3 * s.aux(h.mean(0, keepdim=True).expand(len(x), 12)) if s.training else out


def noise(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.b(h + torch.rand(len(x), s.ch) if s.training else h)


def branching(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.b(h.tanh() if h.shape[1] > 6 else h)


def saturated(s: Any, x: Tensor) -> Tensor:
    h = x.view(len(x), 2, 6)
    return (50 * s.b(F.scaled_dot_product_attention(s.q(h), s.k(h), s.v(h)).flatten(1))).softmax(-1)


def small_branch(s: Any, x: Tensor) -> Tensor:
    h = x.view(len(x), 2, 6)
    made = F.scaled_dot_product_attention(s.q(h), s.k(h), s.v(h))
    return s.b(h.flatten(1)) + 1e-2 * s.c(made.flatten(1))


WRONG: dict[str, tuple[Net, set[str]]] = {
    "gate by the first channel": (Net(gate_first, a=linear(12, 13), b=linear(13, 3)), {"a"}),
    "gate by the last channel": (Net(gate_last, a=linear(12, 12), b=linear(12, 3)), {"a"}),
    "the first two channels are read apart": (Net(slice_first, a=linear(12, 6), f=linear(6, 3), g=linear(2, 3)), {"a"}),
    "a head that runs in training only": (Net(auxiliary, a=linear(12, 12), b=linear(12, 3), aux=linear(12, 3)), {"a"}),
    "noise of a fixed width in training only": (Net(noise, a=linear(12, 12), b=linear(12, 3), ch=12), {"a"}),
    "another function below a width": (Net(branching, a=linear(12, 12), b=linear(12, 3)), {"a"}),
    "a scale by the width, behind a softmax": (
        Net(saturated, q=linear(6, 4), k=linear(6, 4), v=linear(6, 4), b=linear(8, 3)), {"q", "k"},
    ),
    "a scale by the width, in a small branch": (
        Net(small_branch, q=linear(6, 4), k=linear(6, 4), v=linear(6, 4), b=linear(12, 3), c=linear(8, 3)), {"q", "k"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_a_cut_would_change_stays_whole(name: str) -> None:
    net, whole = WRONG[name]
    torch.manual_seed(0)
    inventory = discover(net.eval(), torch.randn(1, 12))
    assert whole <= set(inventory.whole)
    assert not whole & {member.layer for group in inventory.groups for member in group.producers}


def test_an_output_that_holds_no_tensor_in_sight_proves_nothing() -> None:
    net = Net(lambda s, x: Answer(s.fc(F.relu(s.a(x)))), a=linear(12, 8), fc=linear(8, 3))
    assert discover(net.eval(), torch.randn(1, 12)).groups == ()


def test_numbers_that_only_happen_to_count_as_many_stay_as_they_are() -> None:
    def heads(s: Any, x: Tensor) -> Tensor:
        h = x.view(len(x), 2, 6)
        q, k, v = (part(h).view(len(x), 2, s.num_heads, 3).transpose(1, 2) for part in (s.q, s.k, s.v))
        made = (q @ k.transpose(-2, -1) / 3).softmax(-1) @ v
        return s.b(made.transpose(1, 2).reshape(len(x), 2, -1)).flatten(1)

    net = Net(heads, q=linear(6, 12), k=linear(6, 12), v=linear(6, 12), b=linear(12, 3), num_heads=4, classes=4)
    (group,) = discover(net.eval(), torch.randn(1, 12)).groups
    assert group.channels == 4
    assert [(setting.name, setting.per_unit) for setting in group.settings] == [("num_heads", 1)]


def test_a_model_that_runs_in_float32_only_is_proven_all_the_same() -> None:
    net = Net(lambda s, x: s.b(F.relu(s.a(x) + torch.ones(1, dtype=torch.float32))), a=linear(12, 8), b=linear(8, 3))
    strict = Net(lambda s, x: s.b(F.relu(s.a(x.float()))), a=linear(12, 8), b=linear(8, 3))
    for one in (net, strict):
        assert [group.name for group in discover(one.eval(), torch.randn(1, 12)).groups] == ["a"]
