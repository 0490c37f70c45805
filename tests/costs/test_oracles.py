"""Costs against figures from outside, each with its source. Networks are shapes alone, so nothing is computed."""

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from paretune.compress.layers import survey
from paretune.costs.counts import bops, effective_bops, effective_macs, macs, nonzeros, weight_bits
from paretune.inventory import Inventory
from paretune.plan import DENSE, LayerPlan, Pattern, Plan
from paretune.profile import Profile, Row, profile
from paretune.tasks.bare import Bare, make_bare


@cache
def bare(name: str, model: str) -> Bare:
    made = make_bare({"name": name, "model": model}, device="meta")
    assert made is not None
    return made


@cache
def counted(name: str, model: str) -> Inventory:
    return survey(bare(name, model).model, bare(name, model).example)


def in_bits(inventory: Inventory, bits: int, *, entry: int | None = None, left: tuple[int, ...] = ()) -> Profile:
    """Every layer at `bits`/`bits`; the first reads `entry` bits; `left` weights of each are not zero."""
    layers = []
    for index, layer in enumerate(inventory.weighted):
        reads = entry if entry and not index else bits
        mask = Pattern(kind="unstructured", nonzeros=left[index], index_bytes=0, stored="") if left else None
        layers.append(LayerPlan(layer=layer.name, weight_bits=bits, activation_bits=reads, pattern=mask))
    return profile(inventory, Plan(layers=tuple(layers)))


def held(rows: Profile) -> int:
    """Weights of convolutions without their biases, and linear layers with them."""
    return sum(row.weights + (row.channels if row.kind == "linear" else 0) for row in rows)


def worked(rows: Profile) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.kind in ("conv", "linear"))


# HAWQ's model zoo, column BOPS(G): https://github.com/Zhen-Dong/HAWQ/blob/main/model_zoo.md. Left out: W4A4, where it
# does not say which layers stay at 8/8 (stem and classifier there make 34.7 and 67.5 of its 34 and 67), and ResNet-101,
# whose 7780 and 8018 are 0.4 % above what its convolutions and linear layer make.
@pytest.mark.parametrize(("bits", "gbops"), [(32, 1858), (8, 116)])
def test_the_bit_operations_of_hawqs_resnet18(bits: int, gbops: int) -> None:
    assert round(bops(in_bits(counted("torchvision", "resnet18"), bits)) / 1e9) == gbops


@pytest.mark.parametrize(("bits", "first", "later"), [(32, 3951, 4187), (8, 247, 262)])
def test_hawqs_resnet50_is_the_first_version(bits: int, first: int, later: int) -> None:
    """HAWQ says 3951 and 247. Its baseline, PyTorchCV's "resnet50", halves the resolution in the first 1×1 convolution
    of a stage, as He et al. 2016 did; torchvision's does in the 3×3 one, which is more work.
    """
    made = make_bare({"name": "torchvision", "model": "resnet50"}, device="meta")
    assert made is not None
    assert round(bops(in_bits(survey(made.model, made.example), bits)) / 1e9) == later
    for block in made.model.modules():
        if hasattr(block, "conv3"):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    assert round(bops(in_bits(survey(made.model, made.example), bits)) / 1e9) == first


@pytest.mark.parametrize("model", ["resnet18", "resnet34", "resnet50", "mobilenet_v2", "vgg16_bn"])
def test_macs_are_half_the_flops_of_pytorchs_own_counter(model: str) -> None:
    net = bare("torchvision", model)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        net.model(net.example)
    assert 2 * macs(profile(counted("torchvision", model), DENSE)) == flops.get_total_flops()


# Worked out from the papers' layer tables, apart from this code: convolutions without biases or batch norms, linear
# layers with their biases. He et al. 2016 (https://arxiv.org/abs/1512.03385) state 0.27, 0.46, 0.85 and 1.7 M for the
# first four.
PAPERS = {
    ("cifar", "resnet20"): ("0.268 M", "40.6 M"), ("cifar", "resnet32"): ("0.462 M", "68.9 M"),
    ("cifar", "resnet56"): ("0.849 M", "125.5 M"), ("cifar", "resnet110"): ("1.720 M", "252.9 M"),
    ("cifar", "vgg16_bn"): ("14.72 M", "313.2 M"), ("cifar", "vgg19_bn"): ("20.02 M", "398.1 M"),
    ("cifar", "vgg7"): ("12.97 M", "615.9 M"),
    ("torchvision", "resnet18"): ("11.68 M", "1.814 G"), ("torchvision", "resnet34"): ("21.78 M", "3.664 G"),
    ("torchvision", "resnet50"): ("25.50 M", "4.089 G"),  # 4.089 G is also in the README of EagleEye
}  # fmt: skip


def like(number: int, text: str) -> str:
    """`number` with the unit and the decimals of `text`."""
    digits, unit = text.split()
    return f"{number / {'M': 1e6, 'G': 1e9}[unit]:.{len(digits.partition('.')[2])}f} {unit}"


@pytest.mark.parametrize(("name", "model"), PAPERS)
def test_the_networks_of_the_papers_have_the_papers_sizes(name: str, model: str) -> None:
    rows = profile(counted(name, model), DENSE)
    weights, work = PAPERS[name, model]
    assert (like(held(rows), weights), like(macs(rows), work)) == (weights, work)


def test_resnet50_with_the_stem_of_cifar100() -> None:
    """23.65 M parameters and 1.298 G MACs: a 3×3 stem without stride or pooling, 100 classes, 32×32 pixels."""
    made = make_bare({"name": "torchvision", "model": "resnet50", "arguments": {"num_classes": 100}}, device="meta")
    assert made is not None
    made.model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False, device="meta")
    made.model.maxpool = nn.Identity()
    rows = profile(survey(made.model, torch.empty(1, 3, 32, 32, device="meta")), DENSE)
    assert (like(held(rows), "23.65 M"), like(macs(rows), "1.298 G")) == ("23.65 M", "1.298 G")


def perceptron(*widths: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs, bias=False) for inputs, outputs in pairwise(widths)]


def tfc() -> Inventory:
    """FINN-TFC: 28×28 pixels, three hidden layers of 64, ten classes."""
    return survey(nn.Sequential(*perceptron(784, 64, 64, 64, 10)), torch.empty(1, 784, device="meta"))


def cnv() -> Inventory:
    """FINN-CNV: three pairs of unpadded 3×3 convolutions, pooling after the first two, three linear layers."""
    conv = partial(nn.Conv2d, kernel_size=3, bias=False)
    first, second = [conv(3, 64), conv(64, 64), nn.MaxPool2d(2)], [conv(64, 128), conv(128, 128), nn.MaxPool2d(2)]
    last = [conv(128, 256), conv(256, 256), nn.Flatten()]
    net = nn.Sequential(*first, *second, *last, *perceptron(256, 512, 512, 10))
    return survey(net, torch.empty(1, 3, 32, 32, device="meta"))


def vgg10() -> Inventory:
    """RadioML's VGG10: 1024 complex samples, seven padded convolutions of 64 kernels of 3, each pooled, 24 classes."""
    layers: list[nn.Module] = []
    for inputs in (2, *6 * (64,)):
        layers += [nn.Conv1d(inputs, 64, 3, padding=1, bias=False), nn.MaxPool1d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), *perceptron(512, 128, 128, 24))
    return survey(net, torch.empty(1, 2, 1024, device="meta"))


# https://github.com/fastmachinelearning/qonnx/blob/main/tests/analysis/test_inference_cost.py, "expected_dense":
# bits, bits of the input, MACs, BOPs (its sum over MACs of each pair of types), weight bits, outputs of 32 bits.
QONNX: dict[Callable[[], Inventory], tuple[int, int, int, int, int, int]] = {
    tfc: (2, 2, 59_008, 236_032, 118_016, 202),
    cnv: (2, 8, 59_461_376, 256_507_904, 3_085_696, 142_602),
    vgg10: (8, 8, 12_864_512, 823_328_768, 1_272_832, 130_328),
}


@pytest.mark.parametrize("net", QONNX)
def test_the_dense_costs_of_qonnx(net: Callable[[], Inventory]) -> None:
    bits, entry, wanted_macs, wanted_bops, wanted_bits, outputs = QONNX[net]
    with torch.device("meta"):
        rows = in_bits(net(), bits, entry=entry)
    assert (macs(rows), bops(rows), weight_bits(rows)) == (wanted_macs, wanted_bops, wanted_bits)
    assert sum(row.outputs for row in worked(rows)) == outputs


def test_the_first_layer_of_cnv() -> None:
    """QONNX lists the MACs of 8-bit pixels by themselves: 1,555,200 of them."""
    with torch.device("meta"):
        rows = in_bits(cnv(), 2, entry=8)
    assert sum(row.macs for row in rows if row.activation_bits == 8) == 1_555_200
    assert sum(row.macs for row in rows if row.activation_bits == 2) == 57_906_176


# "expected_sparse" of the same file: non-zero weights, MACs and BOPs that are left. QONNX does not say how many
# non-zeros each layer has: these are ours and add up to its totals. Only the first of CNV follows from them (1,345,500
# MACs of 8-bit pixels at 900 positions: 1,495).
SPARSE: dict[Callable[[], Inventory], tuple[tuple[int, ...], int, int, int]] = {
    tfc: ((19_000, 1_550, 1_550, 255), 22_355, 22_355, 89_420),
    cnv: (
        (1_495, 22_892, 45_785, 91_570, 146_514, 358_000, 80_000, 158_700, 3_077),
        908_033, 36_961_271, 163_991_084,
    ),
    vgg10: ((374, *5 * (12_066,), 11_530, 64_300, 16_070, 3_013), 155_617, 12_620_311, 807_699_904),
}  # fmt: skip


@pytest.mark.parametrize("net", SPARSE)
def test_the_sparse_costs_of_qonnx(net: Callable[[], Inventory]) -> None:
    left, total, wanted_macs, wanted_bops = SPARSE[net]
    bits, entry, *_ = QONNX[net]
    with torch.device("meta"):
        rows = in_bits(net(), bits, entry=entry, left=left)
    assert (nonzeros(rows), effective_macs(rows), effective_bops(rows)) == (total, wanted_macs, wanted_bops)
