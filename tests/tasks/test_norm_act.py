"""A batch norm with an activation inside is the same network as a batch norm and an activation."""

import copy

import torch
from torch import Tensor, nn

from paretune.compress.groups import discover
from paretune.tasks.norm_act import NormAct
from paretune.tasks.opened import in_parts, opened


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.act(self.drop(super().forward(x)))
        return made


class Wider(BatchNormAct2d):
    """A subclass may compute anything."""


def net(norm: type[BatchNormAct2d] = BatchNormAct2d) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.Conv2d(8, 4, 3), norm(4), nn.Flatten(), nn.Linear(64, 2))
    made(torch.randn(16, 3, 8, 8))  # statistics that are not those of a new norm
    return made


def test_the_same_is_computed_and_learned_in_both_modes() -> None:
    for training in (True, False):
        old, x = net().train(training), torch.randn(4, 3, 8, 8)
        new = opened(copy.deepcopy(old))
        assert isinstance(new[1], NormAct)
        assert new[1].training is training
        assert torch.equal(new(x), old(x))
        assert torch.equal(new[1].bn.running_mean, old[1].running_mean)
        old(x).sum().backward()
        new(x).sum().backward()
        assert torch.equal(new[0].weight.grad, old[0].weight.grad)


def test_state_dicts_of_both_layouts_load() -> None:
    old = net()
    for state in (old.state_dict(), opened(copy.deepcopy(old)).state_dict()):
        new = opened(net())
        new[0].weight.data.zero_()
        new.load_state_dict(in_parts(new, state))
        assert torch.equal(new.eval()(torch.ones(1, 3, 8, 8)), old.eval()(torch.ones(1, 3, 8, 8)))


def test_its_channels_can_leave_and_it_folds() -> None:
    inventory = discover(opened(net().eval()), torch.randn(1, 3, 8, 8))
    assert [group.name for group in inventory.groups] == ["0", "2"]
    assert inventory.layer["0"].norm == "1.bn"
    assert inventory.layer["1.bn"].kind == "norm"


def test_a_subclass_stays_as_it_is() -> None:
    assert type(opened(net(Wider))[1]) is Wider
