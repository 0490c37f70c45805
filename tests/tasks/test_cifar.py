"""The networks of the CIFAR papers: names that checkpoints need, shapes, and what the residual add adds."""

import pytest
import torch
from torch import nn

from paretune.tasks.bare import BARE
from paretune.tasks.cifar import NETWORKS, VGG16, BasicBlock, from_cifar


@pytest.mark.parametrize("name", NETWORKS)
def test_a_logit_for_every_class(name: str) -> None:
    with torch.device("meta"):
        _, net, shape = from_cifar(model=name, classes=100)
        assert net.eval()(torch.empty(2, *shape)).shape == (2, 100)


@pytest.mark.parametrize(
    ("name", "depth"), [("resnet20", 20), ("resnet44", 44), ("resnet110", 110), ("vgg7", 8), ("tinyvgg16", 13)]
)
def test_the_depth_is_in_the_name(name: str, depth: int) -> None:
    """Convolutions and linear layers; VGG7 counts its 1024 neurons and not the classifier, TinyVGG16 lacks a stage."""
    with torch.device("meta"):
        _, net, _ = from_cifar(model=name)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in net.modules()) == depth


def test_a_residual_network_has_the_names_that_its_checkpoints_have() -> None:
    """Those of https://github.com/akamaster/pytorch_resnet_cifar10, resnet20."""
    wanted = {"linear.weight", "linear.bias"}
    blocks = [f"layer{stage}.{block}." for stage in (1, 2, 3) for block in (0, 1, 2)]
    held = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for prefix, numbers in [("", "1"), *((block, "12") for block in blocks)]:
        for number in numbers:
            wanted |= {f"{prefix}conv{number}.weight", *(f"{prefix}bn{number}.{key}" for key in held)}
    with torch.device("meta"):
        assert set(from_cifar(model="resnet20")[1].state_dict()) == wanted


def test_a_vgg_has_the_names_and_the_size_that_its_checkpoints_have() -> None:
    """Those of https://github.com/kuangliu/pytorch-cifar: three modules per convolution, one per pooling."""
    with torch.device("meta"):
        _, net, _ = from_cifar(model="vgg16_bn")
    convolutions = [int(name.split(".")[1]) for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    assert convolutions == [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    assert {"classifier.weight", "classifier.bias", "features.0.bias", "features.1.running_var"} <= set(
        net.state_dict()
    )
    # 14,710,464 weights of convolutions, a bias and two norm parameters for each of 4,224 channels, 512 × 10 + 10
    assert sum(parameter.numel() for parameter in net.parameters()) == 14_710_464 + 3 * 4_224 + 5_130


def test_tinyvgg16_has_a_quarter_of_the_widths_of_vgg16_without_its_last_stage() -> None:
    with torch.device("meta"):
        _, net, _ = from_cifar(model="tinyvgg16")
    widths = [module.out_channels for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert [4 * width for width in widths] == [width for width in VGG16[:13] if width]
    linear = [(module.in_features, module.out_features) for module in net.modules() if isinstance(module, nn.Linear)]
    assert linear == [(128 * 4 * 4, 4096 // 4), (4096 // 4, 2048 // 4), (2048 // 4, 10)]


def test_a_padded_shortcut_brings_every_second_pixel_to_the_middle_channels() -> None:
    block = BasicBlock(4, 8, 2).eval()
    nn.init.zeros_(block.bn2.weight)  # what is left is the shortcut
    x = torch.rand(1, 4, 6, 6)
    y = block(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert y[:, :2].abs().sum() + y[:, 6:].abs().sum() == 0


def test_it_is_listed_as_a_bare_model() -> None:
    assert BARE["cifar"] is from_cifar
