"""Channels are followed through whatever a forward does with them, or stay whole and say why."""

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compress_nets import Pooled, Shuffled, conv, randomise
from torch import Tensor, nn
from torch.nn import functional as F

from paretune.compress.cut import cut, zero
from paretune.compress.groups import discover
from paretune.errors import ParetuneError
from paretune.inventory import Inventory, Setting

IMAGE, WORDS = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 6)


class Lambda(nn.Module):
    """Layers by name and a function of them."""

    def __init__(self, run: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Attention(nn.Module):
    """Self-attention over tokens with 4 heads of 3 channels; `how` says which operations it is written in."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.heads, self.width = how, 4, 3
        self.q, self.k, self.v, self.out = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 6)
        self.norm = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        shape = (len(x), -1, self.heads, 3) if self.how == "counted" else (len(x), x.shape[1], -1, self.width)
        q, k, v = (layer(x).view(shape) for layer in (self.q, self.k, self.v))
        if self.how == "einsum":
            weights = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
            return self.out(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))  # type: ignore[no-any-return]
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if self.how == "normed":
            q, k = self.norm(q), self.norm(k)
        if self.how == "matmul":
            made = ((q * 3**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            made = F.scaled_dot_product_attention(q, k, v)
        return self.out(made.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Fused(nn.Module):
    """Queries, keys and values of one layer, with a number of heads that must follow."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 3
        self.qkv, self.proj = nn.Linear(6, 36), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, count, self.num_heads * self.head_dim))  # type: ignore[no-any-return]


class Counted(nn.Module):
    """A split whose width is a number in the module."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.wide = 2, 5
        self.one, self.two = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.one(x), self.wide, 1)
        return self.two(torch.cat([a.relu(), b], 1)).mean((2, 3))  # type: ignore[no-any-return]


def _halves(s: Any, x: Tensor) -> Tensor:
    a, b = s.one(x).chunk(2, 1)
    return s.fc(torch.cat([a, s.two(b)], 1))  # type: ignore[no-any-return]


def _slices(s: Any, x: Tensor) -> Tensor:
    y = s.one(x)
    half = y.shape[1] // 2
    return s.fc(torch.cat([y[:, half:], y[:, :half].relu()], 1))  # type: ignore[no-any-return]


def _every_second(s: Any, x: Tensor) -> Tensor:
    y = s.one(x)
    return s.fc(y[:, ::2] * y[:, 1::2])  # type: ignore[no-any-return]


def _gate(s: Any, x: Tensor) -> Tensor:
    a, b = s.one(x).chunk(2, 1)
    return s.fc(a * torch.sigmoid(b))  # type: ignore[no-any-return]


def _stream(s: Any, x: Tensor) -> Tensor:
    x = s.stem(x)
    x = x + s.down(F.gelu(s.up(s.norm(x))))
    return s.head(s.norm(x).mean(1))  # type: ignore[no-any-return]


def _non_local(s: Any, x: Tensor) -> Tensor:
    x = s.stem(x)
    q, k, v = (layer(x).flatten(2) for layer in (s.q, s.k, s.v))
    weights = (q.transpose(1, 2) @ k).softmax(-1)
    return s.fc(x + s.back((v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])))  # type: ignore[no-any-return]


def _radix(s: Any, x: Tensor) -> Tensor:
    y = s.one(x)
    y = y.view(len(y), 2, y.shape[1] // 2, *y.shape[2:])
    return s.fc((y * y.mean((3, 4), keepdim=True).softmax(1)).sum(1))  # type: ignore[no-any-return]


def _mixer(s: Any, x: Tensor) -> Tensor:
    x = s.stem(x)
    x = x + s.back(F.gelu(s.mix(x.transpose(1, 2)))).transpose(1, 2)
    return s.head(x.mean(1))  # type: ignore[no-any-return]


def _pixels(s: Any, x: Tensor) -> Tensor:
    return s.fc(s.two(F.pixel_shuffle(s.one(x), 2)))  # type: ignore[no-any-return]


def _unfolded(s: Any, x: Tensor) -> Tensor:
    return s.fc(F.unfold(s.one(x), 3, padding=1).mean(2))  # type: ignore[no-any-return]


def _padded(s: Any, x: Tensor) -> Tensor:
    y = s.one(x)
    return s.fc(F.pad(y, (1, 1)) + F.pad(y, (0, 2)))  # type: ignore[no-any-return]


# name: (model, example, units of each group)
ZOO: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, int]]] = {
    "shuffle": (Shuffled, IMAGE, {"one.0": 4, "two.0": 6}),
    "native shuffle": (lambda: nn.Sequential(conv(3, 8), nn.ChannelShuffle(2), Pooled(8)), IMAGE, {"0.0": 4}),
    "chunk": (lambda: Lambda(_halves, one=nn.Conv2d(3, 8, 1), two=nn.Conv2d(4, 4, 1), fc=Pooled(8)), IMAGE,
              {"one": 4, "two": 4}),
    "slices": (lambda: Lambda(_slices, one=nn.Conv2d(3, 8, 1), fc=Pooled(8)), IMAGE, {"one": 4}),
    "every second": (lambda: Lambda(_every_second, one=nn.Conv2d(3, 8, 1), fc=Pooled(4)), IMAGE, {"one": 4}),
    "gate": (lambda: Lambda(_gate, one=nn.Conv2d(3, 8, 1), fc=Pooled(4)), IMAGE, {"one": 4}),
    "counted split": (Counted, IMAGE, {"one": 5}),
    "layer norm": (lambda: Lambda(_stream, stem=nn.Linear(6, 6), norm=nn.LayerNorm(6), up=nn.Linear(6, 9),
                                  down=nn.Linear(9, 6), head=nn.Linear(6, 3)), WORDS, {"up": 9}),
    "non-local": (lambda: Lambda(_non_local, stem=nn.Conv2d(3, 6, 1), q=nn.Conv2d(6, 4, 1), k=nn.Conv2d(6, 4, 1),
                                 v=nn.Conv2d(6, 5, 1), back=nn.Conv2d(5, 6, 1), fc=Pooled(6)), IMAGE,
                  {"stem": 6, "q": 4, "v": 5}),
    "radix": (lambda: Lambda(_radix, one=nn.Conv2d(3, 10, 1), fc=Pooled(5)), IMAGE, {"one": 5}),
    "mixer": (lambda: Lambda(_mixer, stem=nn.Linear(6, 8), mix=nn.Linear(5, 7), back=nn.Linear(7, 5),
                             head=nn.Linear(8, 3)), WORDS, {"stem": 8, "mix": 7}),
    "pixel shuffle": (lambda: Lambda(_pixels, one=nn.Conv2d(3, 12, 1), two=nn.Conv2d(3, 4, 1), fc=Pooled(4)), IMAGE,
                      {"one": 3, "two": 4}),
    "unfold": (lambda: Lambda(_unfolded, one=nn.Conv2d(3, 4, 1), fc=nn.Linear(36, 3)), IMAGE, {"one": 4}),
    "spatial padding": (lambda: Lambda(_padded, one=nn.Conv2d(3, 4, 1), fc=Pooled(4)), IMAGE, {"one": 4}),
    **{how: (lambda how=how: Attention(how), WORDS, {"q": 4})  # type: ignore[misc]
       for how in ("plain", "matmul", "einsum", "normed", "counted")},
    "fused": (Fused, WORDS, {"qkv": 4}),
}  # fmt: skip


def some(inventory: Inventory, seed: int) -> dict[str, tuple[int, ...]]:
    chance = random.Random(seed)
    return {
        group.name: tuple(sorted(chance.sample(range(group.channels), chance.randint(1, group.channels - 1))))
        for group in inventory.groups
    }


@pytest.mark.parametrize("name", ZOO)
def test_channels_are_followed_and_a_cut_model_equals_the_zeroed_model(name: str) -> None:
    make, batch, units = ZOO[name]
    torch.manual_seed(0)
    net = randomise(make()).eval()
    inventory = discover(net, batch[:1])
    assert {group.name: group.channels for group in inventory.groups} == units
    for seed in range(2):
        kept = some(inventory, seed)
        with torch.no_grad():
            small, large = cut(net, inventory, kept)(batch), zero(net, inventory, kept)(batch)
            torch.testing.assert_close(small, large, atol=1e-4, rtol=1e-4)
            assert not torch.allclose(large, net(batch), atol=1e-4)


def test_a_head_takes_its_queries_keys_values_and_the_columns_that_read_it() -> None:
    group = discover(Attention("plain").eval(), WORDS[:1]).group["q"]
    assert {(member.layer, member.axis, member.units[1]) for member in group.members} == {
        ("q", "out", (3, 4, 5)), ("k", "out", (3, 4, 5)), ("v", "out", (3, 4, 5)), ("out", "in", (3, 4, 5)),
    }  # fmt: skip


def test_a_number_of_heads_follows() -> None:
    net = Fused().eval()
    inventory = discover(net, WORDS[:1])
    assert inventory.group["qkv"].settings == (Setting(module="", name="num_heads", per_unit=1),)
    small = cut(net, inventory, {"qkv": (0, 2)})
    assert (small.num_heads, small.head_dim, net.num_heads) == (2, 3, 4)
    assert zero(net, inventory, {"qkv": (0, 2)}).num_heads == 4


def _gram(s: Any, x: Tensor) -> Tensor:
    y = s.one(x).flatten(2)
    return s.fc((y @ y.transpose(1, 2)).softmax(-1).flatten(1))  # type: ignore[no-any-return]


def _scaled(s: Any, x: Tensor) -> Tensor:
    return s.fc(s.one(x) * s.scale)  # type: ignore[no-any-return]


def _part(s: Any, x: Tensor) -> Tensor:
    made = x.new_zeros(len(x), 8, 8, 8)
    made[:, 2:6] = s.one(x)
    return s.fc(made)  # type: ignore[no-any-return]


WHOLE: dict[str, tuple[Callable[..., Tensor], dict[str, nn.Module], str]] = {
    "unknown": (lambda s, x: s.fc(torch.fft.fft(s.one(x), dim=1).abs()), {"fc": Pooled(4)},
                r"pass aten\._fft_r2c in '' \(Lambda\), which cannot be followed"),
    "softmax": (lambda s, x: s.fc(s.one(x).softmax(1)), {"fc": Pooled(4)}, r"pass aten\._softmax in '' \(Lambda\)"),
    "gram": (_gram, {"fc": nn.Linear(16, 3)}, r"pass aten\._softmax in ''"),
    "first ones": (lambda s, x: s.fc(s.one(x)[:, :3]), {"fc": Pooled(3)}, r"pass aten\.slice in ''"),
    "one of them": (lambda s, x: s.fc(s.one(x)[:, 1].flatten(1)), {"fc": nn.Linear(64, 3)}, r"pass aten\.select in ''"),
    "uneven": (lambda s, x: s.fc(torch.cat(s.one(x).split([1, 3], 1)[::-1], 1)), {"fc": Pooled(4)},
               r"pass aten\.split_with_sizes in ''"),
    "looked up": (lambda s, x: s.fc(s.one(x)[:, [1, 0, 3, 2]]), {"fc": Pooled(4)}, r"pass aten\.index in ''"),
    "padded": (lambda s, x: s.fc((y := s.one(x)).repeat(1, 2, 1, 1) + F.pad(y, (0, 0, 0, 0, 2, 2))), {"fc": Pooled(8)},
               "padded with constants"),
    "written": (_part, {"fc": Pooled(8)}, "written into a part of another tensor"),
    "convolved": (lambda s, x: s.fc(F.conv2d(s.one(x), torch.ones(2, 4, 1, 1))), {"fc": Pooled(2)},
                  r"pass aten\.convolution in ''"),
    "multiplied": (lambda s, x: s.fc(s.one(x).mean((2, 3)) @ torch.ones(4, 2)), {"fc": nn.Linear(2, 3)},
                   r"pass aten\.mm in ''"),
    "normed": (lambda s, x: s.fc(s.ln(s.one(x).mean((2, 3)))), {"fc": nn.Linear(4, 3), "ln": nn.LayerNorm(4)},
               r"pass 'ln' \(LayerNorm\), which cannot be sliced"),
    "parameter": (_scaled, {"fc": Pooled(4)}, "meet a parameter that belongs to no layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_channels_that_cannot_be_followed_stay_and_say_why(name: str) -> None:
    run, layers, reason = WHOLE[name]
    net = Lambda(run, one=nn.Conv2d(3, 4, 1), **layers)
    net.scale = nn.Parameter(torch.ones(4, 1, 1))
    inventory = discover(net.eval(), IMAGE[:1])
    assert "one" not in inventory.group
    assert re.search(reason, inventory.whole["one"]), inventory.whole["one"]


def test_excluded_layers_stay_whole_and_so_does_what_they_read() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 4, 1), Pooled(4)).eval()
    inventory = discover(net, IMAGE[:1], exclude=["1"])
    assert [group.name for group in inventory.groups] == ["2"]
    assert (inventory.whole["0"], inventory.whole["1"]) == ("excluded by name", "excluded by name")


def test_an_exclusion_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ParetuneError, match=r"inventory.exclude: no layer matches 'heat\*'.*Known: 0, 1.fc"):
        discover(nn.Sequential(nn.Conv2d(3, 6, 1), Pooled(6)), IMAGE[:1], exclude=["heat*"])
