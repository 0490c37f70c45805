"""A masked weight is zero, exactly, whatever is done to what lies behind it."""

import copy

import numpy as np
import pytest
import torch
from masked_nets import Body, random_mask, train
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.compress.masks import Mask, attach, mask_module, masked_layers, raw_weight
from paretune.compress.quantize import quantize, weight_codes
from paretune.errors import ParetuneError
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Wanted

SPARSE = Wanted(kind="unstructured", sparsity=0.6)
MASK = np.array([[True, False, True], [False, False, True]])


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2))


def in_bits(bits: int, *names: str) -> Plan:
    return Plan(layers=tuple(LayerPlan(layer=name, weight_bits=bits) for name in names))


def mask_of_layer(layer: nn.Module) -> Mask:
    mask = mask_module(layer)
    assert mask is not None
    return mask


def test_the_weight_is_the_raw_one_times_the_mask() -> None:
    net = linear()
    before = net[0].weight.detach().clone()
    attach(net, {"0": MASK})
    assert torch.equal(net[0].weight, before * torch.from_numpy(MASK))
    assert torch.equal(raw_weight(net[0]), before)
    assert [(name, module) for name, module, _ in masked_layers(net)] == [("0", net[0])]
    assert torch.equal(mask_of_layer(net[0]).mask, torch.from_numpy(MASK).float())


def test_a_layer_without_a_mask_has_none() -> None:
    net = quantize(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), in_bits(4, "1"))
    assert [mask_module(layer) for layer in net] == [None, None]
    assert list(masked_layers(net)) == []
    assert raw_weight(net[0]) is net[0].weight


def test_a_second_mask_replaces_the_first_and_what_lay_behind_comes_back() -> None:
    net = linear()
    before = net[0].weight.detach().clone()
    attach(net, {"0": MASK})
    attach(net, {"0": ~MASK})
    assert torch.equal(net[0].weight, before * torch.from_numpy(~MASK))
    assert len(net[0].parametrizations.weight) == 1  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("shape", [(2, 1), (1, 3), (3,), (3, 2)])
def test_a_mask_of_another_shape_is_refused_even_if_it_would_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ParetuneError, match=r"the mask of layer '0' is \(.*its weight \(2, 3\)"):
        attach(linear(), {"0": np.ones(shape, np.bool_)})


def test_a_copy_has_a_mask_of_its_own() -> None:
    net = linear()
    attach(net, {"0": MASK})
    twin = copy.deepcopy(net)
    attach(twin, {"0": ~MASK})
    assert torch.equal(net[0].weight == 0, torch.from_numpy(~MASK))
    assert torch.equal(twin[0].weight == 0, torch.from_numpy(MASK))


@pytest.mark.parametrize("bits", [2, 4, 32])
@pytest.mark.parametrize("straight", [False, True], ids=["frozen", "ste"])
def test_the_gradient_reaches_masked_weights_in_ste_mode_only(straight: bool, bits: int) -> None:
    net, slope = linear(), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    net[0].weight.data.clamp_(-0.1, 0.1)  # so that 2 bits clip nothing
    attach(net, {"0": MASK})
    mask_of_layer(net[0]).straight = straight
    if bits < 32:
        quantize(net, in_bits(bits, "0"))
        net[0].parametrizations.weight[1].step.data.fill_(1.0)  # type: ignore[index, union-attr]
    (net[0].weight * slope).sum().backward()
    expected = slope if straight else slope * torch.from_numpy(MASK)
    assert torch.equal(raw_weight(net[0]).grad, expected)  # type: ignore[arg-type]


def behind(layer: nn.Module, zeros: NDArray[np.bool_]) -> Tensor:
    return raw_weight(layer).detach().clone()[torch.from_numpy(zeros)]


@pytest.mark.parametrize("late", [False, True], ids=["quantized, then trained", "trained, then quantized"])
@pytest.mark.parametrize("bits", [2, 4, 8, 32])
@pytest.mark.parametrize("straight", [False, True], ids=["frozen", "ste"])
def test_zeros_survive_momentum_decay_and_quantization(straight: bool, bits: int, late: bool) -> None:
    torch.manual_seed(0)
    net, names = Body(), ("conv", "one", "two")
    masks = {name: random_mask(SPARSE, tuple(net.get_submodule(name).weight.shape)) for name in names}  # type: ignore[arg-type, union-attr]
    attach(net, masks)
    for _, _, mask in masked_layers(net):
        mask.straight = straight
    # Momentum is no zero when the masks are changed, which is what would fill zeros set once.
    train(net)
    masks = {name: random_mask(SPARSE, mask.shape, seed=1) for name, mask in masks.items()}
    attach(net, masks)
    if late:
        train(net)
    if bits < 32:
        quantize(net, in_bits(bits, *names))
    before = {name: net.get_submodule(name).weight.detach().clone() for name in names}  # type: ignore[operator, union-attr]
    if not late:
        train(net)
    for name, mask in masks.items():
        layer = net.get_submodule(name)
        assert not layer.weight[torch.from_numpy(~mask)].any()  # type: ignore[index, union-attr]
        assert layer.weight[torch.from_numpy(mask)].any()  # type: ignore[index, union-attr]
        assert behind(layer, ~mask).any(), "the raw weights are kept, so that a mask may be lifted"
        assert late or not torch.equal(layer.weight, before[name])  # type: ignore[arg-type]
        if bits < 32:
            assert not weight_codes(layer).codes[~mask].any()


@pytest.mark.parametrize("straight", [False, True], ids=["frozen", "ste"])
def test_without_decay_training_moves_what_a_mask_hides_in_ste_mode_only(straight: bool) -> None:
    net = linear()
    attach(net, {"0": MASK})
    mask_of_layer(net[0]).straight = straight
    before, kept = behind(net[0], ~MASK), behind(net[0], MASK)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
    assert torch.equal(before, behind(net[0], ~MASK)) != straight
    assert not torch.equal(kept, behind(net[0], MASK))
    assert not net[0].weight[torch.from_numpy(~MASK)].any()
