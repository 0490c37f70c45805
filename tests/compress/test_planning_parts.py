"""Partitions in a plan: the accelerators of chained layers fit together, whatever was cut before."""

import numpy as np
import pytest
import torch
from torch import nn

from paretune.compress.criteria import Scores, score_model
from paretune.compress.groups import discover
from paretune.compress.narrow import narrow
from paretune.compress.partition import parts_of
from paretune.compress.patterns import mask_of
from paretune.compress.planning import plan_of
from paretune.errors import ImpossiblePlan
from paretune.inventory import Inventory
from paretune.plan import Plan
from paretune.recipe import Blend, Keep, Recipe, Recovery, Wanted


class Stack(nn.Module):
    """Four linear layers; a convolution and a flatten before them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.one, self.two, self.three, self.head = (
            nn.Linear(4 * 9, 12), nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 3),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu().flatten(1)
        return self.head(self.three(self.two(self.one(x).relu()).relu()).relu())


def stack() -> tuple[Scores, Inventory]:
    torch.manual_seed(0)
    model = Stack().eval()
    inventory = discover(model, torch.randn(1, 1, 3, 3))
    return score_model(model, inventory, ["l1"], [], nn.functional.cross_entropy, 0, per_weight=True), inventory


STACK_SCORES, STACK = stack()


def partitioned(*layers: str, parts: int = 4, ratio: float = 0.0, seed: int = 0) -> Plan:
    names = [layer.name for layer in STACK.weighted]
    asked = Recipe(
        blends=dict.fromkeys([*names, *STACK.group], Blend(criteria=("l1",))),
        ratios=dict.fromkeys(STACK.group, ratio),
        weight_bits=dict.fromkeys(names, 32), activation_bits=dict.fromkeys(names, 32),
        recovery=Recovery(epochs=0, lr=0.1),
        wanted={name: Wanted(kind="partition", parts=parts) for name in layers},
        keep=Keep(multiple=parts),
    )  # fmt: skip
    return plan_of(asked, STACK, STACK_SCORES, seed=seed).plan


@pytest.mark.parametrize(("parts", "ratio"), [(4, 0.0), (2, 0.0), (2, 0.5)])
def test_every_accelerator_reads_just_what_it_wrote(parts, ratio):
    plan = partitioned("one", "two", "three", parts=parts, ratio=ratio)
    left = narrow(STACK, plan.kept)
    assert (ratio > 0) == bool(plan.groups)
    rows, columns = {}, {}
    for name in ("one", "two", "three"):
        pattern = plan.bits[name].pattern
        rows[name], columns[name] = parts_of(pattern, left.layer[name].weight_shape)
        mask = mask_of(pattern, left.layer[name].weight_shape)
        np.testing.assert_array_equal(mask, rows[name][:, None] == columns[name][None, :])
        assert mask.sum() * parts == mask.size
    np.testing.assert_array_equal(rows["one"], columns["two"])
    np.testing.assert_array_equal(rows["two"], columns["three"])
    # Nine pixels of a channel stay together.
    assert all(len(set(block)) == 1 for block in columns["one"].reshape(-1, 9))


def test_layers_apart_are_partitioned_apart_and_by_seed():
    plan = partitioned("one", "three", parts=2)
    assert plan.bits["two"].pattern is None
    assert partitioned("one", "three", parts=2) == plan
    assert all(plan.bits[name].pattern.parts == 2 for name in ("one", "three"))


def test_a_layer_whose_width_does_not_divide_is_an_impossible_plan():
    with pytest.raises(ImpossiblePlan, match="layer 'two' cannot be cut into 3 parts"):
        partitioned("two", parts=3)
    with pytest.raises(ImpossiblePlan, match="layer 'head' cannot be partitioned: its outputs are in no channel group"):
        partitioned("head")
