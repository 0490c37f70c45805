"""The matrix products of a forward, against PyTorch's own counter."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from compress_nets import NETS, build
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from watched_nets import Lambda, dims

from paretune.compress.groups import discover
from paretune.compress.layers import survey
from paretune.inventory import Inventory
from paretune.plan import DENSE
from paretune.profile import profile


@cache
def known(name: str) -> Inventory:
    return discover(*build(name))


def macs(inventory: Inventory) -> int:
    return sum(row.macs for row in profile(inventory, DENSE))


def counter(net: nn.Module, example: Tensor) -> float:
    """Half of what PyTorch's own counter says; it counts a multiply and an add."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), FlopCounterMode(display=False) as count:
        net(example)
    torch.backends.mha.set_fastpath_enabled(fast)
    return count.get_total_flops() / 2


BATCH = torch.randn(1, 5, 8)
PICTURE = torch.randn(1, 4, 6, 6)
COUNTED: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "attention": (lambda: Lambda(lambda s, x: s.a(x, x, x)[0], a=nn.MultiheadAttention(8, 2, batch_first=True)), BATCH),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.Conv2d(6, 2, 3)), PICTURE),
    "normed": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3, groups=2)), PICTURE),
    "volume": (lambda: Lambda(lambda s, x: s.c(x[None]), c=nn.Conv3d(1, 3, 2)), PICTURE),
    "einsum": (lambda: Lambda(lambda _, x: torch.einsum("bij,bkj->bik", x, x)), BATCH),
    "matmul": (lambda: Lambda(lambda _, x: x @ x.mT @ x), PICTURE),
    "gru": (lambda: Lambda(lambda s, x: s.g(x)[0], g=nn.GRU(8, 6, batch_first=True)), BATCH),
    "shared": (lambda: Lambda(lambda s, x: F.linear(F.relu(s.a(x)), s.a.weight.T), a=nn.Linear(8, 3)), BATCH),
    "weights": (lambda: Lambda(lambda s, x: x @ (s.a.weight @ s.a.weight.T), a=nn.Linear(8, 8)), BATCH),
    "inference": (lambda: Lambda(torch.inference_mode()(lambda s, x: s.a(x) @ x.mT), a=nn.Linear(8, 8)), BATCH),
    "constant": (lambda: Lambda(lambda s, x: x + s.a(torch.ones(5, 8, device=x.device)), a=nn.Linear(8, 8)), BATCH),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("case", COUNTED)
def test_macs_are_half_of_what_pytorch_counts(case: str, device: str) -> None:
    make, example = COUNTED[case]
    net = make().eval().to(device)
    assert macs(survey(net, example.to(device))) == counter(net, example.to(device)) > 0


@pytest.mark.parametrize("name", NETS)
def test_macs_of_cnns_are_half_of_what_pytorch_counts(name: str) -> None:
    assert macs(known(name)) == counter(*build(name))


# (count, rows, inner, columns) with 5 tokens, width 8, 2 heads of 4, feed-forward 16; linear layers are not among them
ENCODER = {
    "self_attn:in_proj": (1, 5, 8, 24),
    "self_attn:scores": (2, 5, 4, 5),
    "self_attn:values": (2, 5, 5, 4),
    "self_attn.out_proj:linear": (1, 5, 8, 8),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_encoder_layer_has_the_four_products_of_its_attention_fused_or_not(device: str) -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().to(device)
    found = survey(net, BATCH.to(device))
    assert {product.name: dims(product) for product in found.products} == ENCODER
    feed = 2 * 5 * 8 * 16
    assert macs(found) == 5 * 8 * 24 + 2 * (2 * 5 * 5 * 4) + 5 * 8 * 8 + feed
    # the fused attention of the CPU is unknown to PyTorch's counter
    assert counter(net, BATCH.to(device)) == macs(found) - (2 * (2 * 5 * 5 * 4) if device == "cpu" else 0)
    assert list(dict.fromkeys(found.steps))[:4] == list(ENCODER)
    assert dict(found.operations)["layer_norm"] == 2


def test_products_stand_where_they_run() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    names = [item.name for item in survey(nn.TransformerEncoder(layer, 2).eval(), BATCH).order]
    runs = [
        f"{where}{name}" for where in ("layers.0.", "layers.1.") for name in (*ENCODER, "norm1", "linear1", "linear2")
    ]
    assert [name for name in names if name in runs] == runs


def test_the_fast_path_is_switched_back_on() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    assert torch.backends.mha.get_fastpath_enabled()
    assert survey(net, BATCH).products
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(Exception, match="the model's forward fails"):
        survey(net, torch.randn(1, 5, 7))
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_lstm_on_the_cpu_is_one_operation_with_two_products() -> None:
    net = Lambda(lambda s, x: s.g(x)[0], g=nn.LSTM(8, 6, batch_first=True)).eval()
    # four gates of 6: the 5 inputs at once, the state one step after another
    assert [dims(product) for product in survey(net, BATCH).products] == [(1, 5, 8, 24), (5, 1, 6, 24)]
    assert macs(survey(net, BATCH)) == counter(net.to("meta"), BATCH.to("meta"))


# the others take the first axis for something else than samples
@pytest.mark.parametrize("case", ["attention", "transposed", "normed", "einsum", "matmul", "gru", "shared", "weights"])
def test_everything_is_counted_per_sample(case: str) -> None:
    make, example = COUNTED[case]
    net = make().eval()
    one, two = survey(net, example), survey(net, example.repeat(2, *[1] * (example.dim() - 1)))
    assert {product.name: dims(product) for product in one.products} == {p.name: dims(p) for p in two.products}
    assert (one.buffers[0], one.buffers[-1].numbers) == (two.buffers[0], two.buffers[-1].numbers)
    if case not in ("attention", "gru"):  # with one sample a transposed view needs no copy there
        assert profile(one, DENSE) == profile(two, DENSE)


def test_a_product_that_nobody_can_take_apart_is_named() -> None:
    found = survey(Lambda(lambda s, x: s.b(x, x), b=nn.Bilinear(8, 8, 3)).eval(), BATCH)
    assert dict(found.operations)["trilinear"] == 1
    assert found.unsure == ("b:trilinear, its MACs",)
