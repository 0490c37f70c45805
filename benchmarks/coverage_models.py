"""Which networks the coverage benchmark is over, and how each is made: random weights, the smallest input it takes."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from paretune.compress.layers import tensors
from paretune.tasks.timm_models import from_timm
from paretune.tasks.torchvision_models import from_torchvision, torchvision_models, torchvision_names

SIDES = (64, 96, 128, 160, 192, 224, 256)  # tried in this order, then the network's own
HARD = ("shufflenet_v2*", "raft_small", "swin_*", "swin_v2_*", "maxvit_t")
# Of these detection networks the part that reads the image; what follows works on boxes.
DETECTION = (
    "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2", "fcos_resnet50_fpn", "keypointrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)  # fmt: skip
FROZEN = "resnet50_fpn_frozen_norms"  # what all of them with a ResNet become once they are made with weights
# timm's model files, each with its smallest network by parameters (timm 1.0.31, its networks for tests left out).
TIMM: dict[str, str] = {
    "beit": "beit_base_patch16_224", "byoanet": "halonet_h1", "byobnet": "mobileone_s1", "cait": "cait_xxs24_224",
    "coat": "coat_tiny", "convit": "convit_tiny", "convmixer": "convmixer_768_32", "convnext": "convnext_zepto_rms",
    "cpubone": "cpubone_nano", "crossvit": "crossvit_tiny_240", "csatv2": "csatv2", "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny", "davit": "davit_tiny", "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224", "densenet": "densenet121", "dla": "dla46x_c", "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small", "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0", "efficientnet": "mobilenetv2_035",
    "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0", "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb", "fasternet": "fasternet_t0", "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf", "gcvit": "gcvit_xxtiny", "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050", "hardcorenas": "hardcorenas_b", "hgnet": "hgnetv2_b0", "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny", "hrnet": "hrnet_w18_small", "iformer": "iformer_t",
    "inception_next": "inception_next_atto", "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3", "inception_v4": "inception_v4", "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s", "lowformer": "lowformer_b0", "mambaout": "mambaout_femto", "maxxvit": "maxvit_pico_rw_256",
    "metaformer": "poolformerv2_s12", "mlp_mixer": "gmlp_ti16_224", "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base", "mobilevit": "mobilevit_xxs", "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap", "nasnet": "nasnetalarge", "nest": "nest_tiny",
    "nextvit": "nextvit_small", "nfnet": "nf_regnet_b0", "pit": "pit_ti_224", "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0", "qwen3_vit": "qwen3_vit_88m", "rdnet": "rdnet_tiny", "regnet": "regnetx_002",
    "repghost": "repghostnet_050", "repvit": "repvit_m1", "res2net": "res2next50", "resnest": "resnest14d",
    "resnet": "resnet10t", "resnetv2": "resnetv2_18", "rexnet": "rexnet_100", "selecsls": "selecsls42",
    "senet": "legacy_seresnet18", "sequencer": "sequencer2d_s", "shvit": "shvit_s1", "sknet": "skresnet18",
    "starnet": "starnet_s050", "swiftformer": "swiftformer_xs", "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256", "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224", "tnt": "tnt_s_legacy_patch16_224", "tresnet": "tresnet_m",
    "twins": "twins_svt_small", "vgg": "vgg11", "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224", "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_srelpos_small_patch16_224", "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224", "volo": "volo_d1_224", "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception", "xception_aligned": "xception41p", "xcit": "xcit_nano_12_p8_224",
}  # fmt: skip
# Kinds of network that share a file with a smaller one of another kind.
TIMM_TOO: dict[str, str] = {
    "beitv2_base_patch16_224": "beit", "botnet26t_256": "byoanet", "caformer_s18": "metaformer",
    "coatnet_nano_rw_224": "maxxvit", "convnextv2_atto": "convnext", "darknet53": "cspnet",
    "dm_nfnet_f0": "nfnet", "eca_nfnet_l0": "nfnet", "ecaresnet26t": "resnet", "efficientnet_b0": "efficientnet",
    "eva02_tiny_patch14_224": "eva", "gernet_s": "byobnet", "lambda_resnet26t": "byoanet", "mixer_s32_224": "mlp_mixer",
    "mixnet_s": "efficientnet", "mobilenetv4_conv_small": "mobilenetv3", "mobilenetv4_hybrid_medium": "mobilenetv3",
    "regnety_002": "regnet", "regnetz_005": "byobnet", "repvgg_a0": "byobnet", "resmlp_12_224": "mlp_mixer",
    "resnet50": "resnet", "resnetv2_50x1_bit": "resnetv2", "sehalonet33ts": "byoanet", "seresnext26d_32x4d": "resnet",
    "tf_efficientnetv2_b0": "efficientnet", "tinynet_e": "efficientnet",
}  # fmt: skip
Made = tuple[nn.Module, tuple[int, ...]]  # a network and the shape of its own input, without the batch axis


class Flow(nn.Module):
    """An optical flow network that reads its two images as six channels, and returns its last field."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pair: Tensor) -> Tensor:
        fields: list[Tensor] = self.net(pair[:, :3], pair[:, 3:])
        return fields[-1]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network of the table; `family` is torchvision's task or timm's model file."""

    kind: str
    name: str
    family: str

    def like(self, pattern: str) -> bool:
        """Whether a shell pattern names it, its family or its kind."""
        names = (self.name, self.family, self.kind, f"{self.kind}/{self.name}", f"{self.kind}/{self.family}")
        return any(fnmatch(name, pattern) for name in names)

    @property
    def hard(self) -> bool:
        """Whether it is one of those that channel tracers are known to fail on."""
        return self.kind == "torchvision" and any(fnmatch(self.name, pattern) for pattern in HARD)


def cases() -> Iterator[Case]:
    """All of them, torchvision's first. Those of timm stand there whether or not timm is installed."""
    segmentation = set(torchvision_models().list_models(module=torchvision_models().segmentation))
    for name in torchvision_names():
        yield Case(kind="torchvision", name=name, family="segmentation" if name in segmentation else "classification")
    for name in DETECTION:
        yield Case(kind="torchvision", name=name, family="detection")
    yield Case(kind="torchvision", name=FROZEN, family="detection")
    yield Case(kind="torchvision", name="raft_small", family="flow")
    for family, name in TIMM.items():
        yield Case(kind="timm", name=name, family=family)
    for name, family in TIMM_TOO.items():
        yield Case(kind="timm", name=name, family=family)


def made(case: Case) -> tuple[nn.Module, Tensor]:
    """The network in eval mode with scrambled weights, and the smallest example (1, ...) that it bears.

    Both a forward of the dense network and a step of training have to work on it.
    """
    first = _build(case, None)
    own = first[1]
    for side in [side for side in SIDES if side < own[-1]]:
        try:
            net, shape = _build(case, side) if _sized(case) else first
            example = torch.randn(1, shape[0], side, side)
            net = scrambled(net.eval())
            trained(net, example)
        except Exception:  # whatever it raises where an image is too small
            continue
        return net, example
    return scrambled(first[0].eval()), torch.randn(1, *own)


def trained(net: nn.Module, example: Tensor) -> tuple[int, int]:
    """How many parameters of `net` have a gradient after one step on a batch of two, and how many are not finite.

    The loss is the sum of all outputs. Mode and gradients are put back.
    """
    batch = torch.randn(2, *example.shape[1:], dtype=example.dtype)
    with torch.no_grad():
        list(tensors(net.eval()(batch)))
    try:
        out = [tensor for tensor in tensors(net.train()(batch)) if tensor.requires_grad]
        sum((tensor.float().sum() for tensor in out), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
        grads = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        return len(grads), sum(not bool(grad.isfinite().all()) for grad in grads)
    finally:
        net.eval().zero_grad(set_to_none=True)


@torch.no_grad()
def scrambled(net: nn.Module) -> nn.Module:
    """`net` with random norms, biases and scales, so that nothing hides: a new one's are zeros and ones.

    Weights that are no vector stay as they were drawn, unless they are constant.
    """
    chance = torch.Generator().manual_seed(0)
    for name, parameter in net.named_parameters():
        if not parameter.is_floating_point() or parameter.numel() == 0:
            continue
        if name.endswith("bias"):
            parameter.uniform_(-0.5, 0.5, generator=chance)
        elif parameter.squeeze().dim() < 2:
            parameter.uniform_(0.5, 1.5, generator=chance)
        elif bool((parameter == parameter.flatten()[0]).all()):
            parameter.normal_(0, 0.02, generator=chance)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.5, 0.5, generator=chance)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=chance)
    return net


def _sized(case: Case) -> bool:
    """Whether the size of the image is an argument of the builder."""
    return case.family == "classification" and case.name.startswith("vit_")


def _build(case: Case, side: int | None) -> Made:
    torch.manual_seed(0)
    if case.kind == "timm":
        _, net, shape = from_timm(model=case.name)
        return net, tuple(shape)
    models = torchvision_models()
    if case.name == FROZEN:
        return models.detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet50", weights=None), (
            3,
            320,
            320,
        )
    if case.family == "detection":
        net = models.get_model(case.name, weights=None, weights_backbone=None).backbone
        return net, (3, 320, 320)
    if case.family == "flow":
        return Flow(models.get_model(case.name, weights=None)), (6, 128, 128)
    sized: dict[str, Any] = {"arguments": {"image_size": side}, "input_shape": [3, side, side]} if side else {}
    _, net, shape = from_torchvision(model=case.name, **sized)
    return net, tuple(shape)
