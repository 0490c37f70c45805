"""No silent gap: every multiply-add of torchvision's classification and segmentation networks is in a row, and what
carries none is listed. Checked against PyTorch's own counter and against what torchvision publishes with its weights.
"""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paretune.compress.layers import survey
from paretune.costs.counts import macs, params
from paretune.plan import DENSE
from paretune.profile import profile
from paretune.tasks.bare import Bare, make_bare
from paretune.tasks.torchvision_models import torchvision_models, torchvision_names

# Plain and depthwise convolutions, parallel branches, attention as a module and by hand, shuffled channels, two heads.
QUICK = ["resnet18", "googlenet", "vit_b_32", "swin_t", "shufflenet_v2_x0_5"]
QUICK += ["lraspp_mobilenet_v3_large"]
WORK = {
    "convolution",
    "conv_transpose",
    "linear",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "matmul",
    "scaled_dot_product_attention",
}


def made(name: str) -> Bare:
    """With the auxiliary head that the published segmentation networks have; it runs at inference too."""
    # lraspp has none, and says so to everyone who asks
    more: dict[str, Any] = {"aux_loss": True} if name.startswith(("fcn", "deeplab")) else {}
    found = make_bare({"name": "torchvision", "model": name, "arguments": more}, device="meta")
    assert found is not None
    return found


def counted(bare: Bare) -> int:
    """Multiply-adds by PyTorch's counter, attention taken apart into the products that it knows."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
            bare.model(bare.example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(flops.get_total_flops()) // 2


def gaps(name: str) -> list[str]:
    """What is wrong with the rows of one network."""
    bare = made(name)
    inventory = survey(bare.model, bare.example)
    rows, ran = profile(inventory, DENSE), dict(inventory.operations)
    published = torchvision_models().get_model_weights(name).DEFAULT.meta
    right = {
        f"{macs(rows)} MACs, PyTorch counts {counted(bare)}": macs(rows) == counted(bare),
        # What torchvision calls GFLOPs are multiply-adds, to three decimals.
        f"{macs(rows)} MACs, torchvision says {published['_ops']} G": abs(macs(rows) / 1e9 - published["_ops"])
        < 5.1e-4,
        f"{params(rows)} parameters, torchvision says {published['num_params']}": params(rows)
        == published["num_params"],
        f"unsure: {inventory.unsure}": not inventory.unsure,
        "nothing is listed": bool(ran),
        f"listed as if they carried no MACs: {sorted(ran)}": not WORK & set(ran),
    }
    return [f"{name}: {told}" for told, holds in right.items() if not holds]


@pytest.mark.parametrize("name", QUICK)
def test_every_multiply_add_is_in_a_row(name: str) -> None:
    assert gaps(name) == []


@pytest.mark.slow
def test_every_multiply_add_of_every_network_is_in_a_row() -> None:
    names = torchvision_names()
    assert len(names) >= 80
    assert [gap for name in names for gap in gaps(name)] == []


def test_what_carries_no_multiply_adds_is_listed() -> None:
    """ResNet-18, He et al. 2016, table 1: a residual add and two activations per block. All its 20 norms fold."""
    bare = made("resnet18")
    ran = dict(survey(bare.model, bare.example).operations)
    assert (ran["add"], ran["relu"], ran["max_pool2d"], ran.get("batch_norm", 0)) == (8, 17, 1, 0)
    bare = made("densenet121")
    # 121 norms; the stem's and the second of each of 58 layers follow a convolution that nothing else reads
    assert dict(survey(bare.model, bare.example).operations)["batch_norm"] == 121 - 1 - 58


def test_the_attention_of_a_vision_transformer_is_counted() -> None:
    """ViT-B/32 at 224²: 12 blocks, 12 heads of 64, 7 × 7 patches and the class token, each met by each twice."""
    bare = made("vit_b_32")
    products = [row for row in profile(survey(bare.model, bare.example), DENSE) if row.kind == "product"]
    tokens = 7 * 7 + 1
    attention = [row for row in products if row.groups == 12]
    assert len(attention) == 2 * 12
    assert sum(row.macs for row in attention) == 12 * 2 * 12 * tokens * tokens * 64


def test_attention_in_fused_form_is_counted() -> None:
    """On the CPU PyTorch runs an encoder layer's attention as one operation, and the layer itself too if it is let.

    With t tokens, width d and a hidden width of h: four projections of d², two products of t² d, two layers of d h.
    """
    t, d, h = 10, 32, 48
    layer = torch.nn.TransformerEncoderLayer(d, nhead=4, dim_feedforward=h, batch_first=True).eval()
    inventory = survey(layer, torch.randn(1, t, d))
    assert not {"softmax", "bmm"} & set(dict(inventory.operations)), "this PyTorch does not fuse it: the test is empty"
    assert macs(profile(inventory, DENSE)) == t * 4 * d * d + 2 * t * t * d + t * 2 * d * h
