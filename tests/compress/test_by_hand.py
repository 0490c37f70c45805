"""Channel groups that the user writes down: the same as the tracer finds, more than it finds, and what is refused."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from compress_nets import Pooled, Shuffled, build, conv, randomise
from torch import Tensor, nn
from torch.nn import functional as F

from paretune.compress.by_hand import UNNAMED, by_hand
from paretune.compress.cut import cut, zero
from paretune.compress.groups import discover
from paretune.compress.narrow import narrow
from paretune.errors import ParetuneError
from paretune.inventory import Group, Inventory
from paretune.records import from_plain, to_plain

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

# What the tracer finds in the small nets, written as rows.
ROWS: dict[str, list[dict[str, Any]]] = {
    "chain": [{"out": "0.*", "in": "2.0"}, {"out": "2.*", "in": ["4"]}, {"out": ["4"], "in": ["6.fc"]}],
    "residual": [
        {"out": ["stem.*", "two.*"], "in": ["one.0", "three.0", "skip.0"]},
        {"out": ["one.*"], "in": ["two.0"]},
        {"out": ["three.*"], "in": ["four.0"]},
        {"out": ["four.*", "skip.*"], "in": ["head.fc"]},
    ],
    "dense": [
        {
            "out": ["stem", "norms.0", {"layer": "norms.[12]", "from": 0}, {"layer": "last", "from": 0}],
            "in": ["convs.0", {"layer": "convs.[12]", "from": 0}, {"layer": "head.fc", "from": 0}],
        },
        {
            "out": ["convs.0", {"layer": "norms.[12]", "from": 6}, {"layer": "last", "from": 6}],
            "in": [{"layer": "convs.[12]", "from": 6}, {"layer": "head.fc", "from": 6}],
        },
        {
            "out": ["convs.1", {"layer": "norms.2", "from": 10}, {"layer": "last", "from": 10}],
            "in": [{"layer": "convs.2", "from": 10}, {"layer": "head.fc", "from": 10}],
        },
        {"out": ["convs.2", {"layer": "last", "from": 14}], "in": {"layer": "head.fc", "from": 14}},
    ],
    "twice": [
        {"out": ["one.*"], "in": [{"layer": "three", "from": 0}, {"layer": "three", "from": 10}]},
        {"out": ["two.*"], "in": [{"layer": "three", "from": 6}]},
        {"out": ["three"], "in": ["head.fc"]},
    ],
    "flat": [{"out": ["0.*"], "in": ["3"]}, {"out": ["3"], "in": ["5"]}],
    "grouped": [{"out": ["0.*"], "in": ["2.0"]}, {"out": ["2.*"], "in": ["4.0"]}, {"out": ["4.*"], "in": ["5.fc"]}],
    "depthwise": [{"out": ["0.*", "2.*"], "in": ["4.0"]}, {"out": ["4.*"], "in": ["6.fc"]}],
    "bare": [{"out": ["0", "1", "3", "4"], "in": ["6"]}, {"out": ["6"], "in": ["7.fc"]}],
    "excited": [{"out": ["one.*", "up"], "in": ["down", "head.fc"]}, {"out": ["down"], "in": ["up"]}],
    "sound": [{"out": ["0", "1"], "in": ["3"]}, {"out": ["3"], "in": ["6"]}],
    "mlp": [{"out": ["0", "1"], "in": ["3"]}, {"out": ["3", "4"], "in": ["6"]}],
}


class Attending(nn.Module):
    """Self-attention of four heads of two channels; how many heads there are is read off the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.proj, self.head = nn.Linear(3, 6), nn.Linear(6, 24), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, 2)).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.head(self.proj(mixed.transpose(1, 2).flatten(2)).mean(1))  # type: ignore[no-any-return]


class Upscaled(nn.Module):
    """A pixel shuffle: four rows of the first layer make one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.read, self.head = nn.Conv2d(3, 20, 1), nn.Conv2d(5, 4, 1), Pooled(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(F.pixel_shuffle(self.up(x), 2)))  # type: ignore[no-any-return]


class Blind(nn.Module):
    """Leaves PyTorch on the way, so that nobody can follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = conv(3, 8), conv(8, 6), Pooled(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        x = F.relu(self.two(torch.from_numpy(x.numpy().copy())))
        return self.head(torch.from_numpy(x.numpy().copy()))  # type: ignore[no-any-return]


class Counted(nn.Module):
    """Splits its channels by a number that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.read, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), Pooled(4)
        self.heads = 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x).unflatten(1, (self.heads, 2))
        return self.head(self.read(F.relu(x * x.mean(2, keepdim=True)).flatten(1, 2)))  # type: ignore[no-any-return]


HEADS = {
    "name": "heads", "out": [{"layer": "qkv", "from": start} for start in (0, 8, 16)], "in": ["proj"],
    "channels": 8, "units": 4,
}  # fmt: skip


def thinned(group: Group) -> tuple[int, ...]:
    return tuple(range(0, group.channels, 2))


def assert_a_cut_computes_what_zeros_compute(net: nn.Module, inventory: Inventory, batch: Tensor) -> None:
    assert inventory.groups
    for groups in [*((group,) for group in inventory.groups), inventory.groups]:
        kept = {group.name: thinned(group) for group in groups}
        with torch.no_grad():
            torch.testing.assert_close(
                cut(net, inventory, kept)(batch), zero(net, inventory, kept)(batch), atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("name", ROWS)
def test_rows_say_what_the_tracer_finds(name: str) -> None:
    net, example = build(name)
    found, mine = discover(net, example), by_hand(net, example, ROWS[name])
    assert mine.groups == found.groups
    assert set(mine.whole) == set(found.whole)
    assert replace(mine, whole={}) == replace(found, whole={})


def test_heads_leave_whole_with_their_queries_keys_and_values() -> None:
    torch.manual_seed(0)
    net = Attending().eval()
    inventory = by_hand(net, IMAGE, [HEADS])
    (group,) = inventory.groups
    assert group.channels == 4
    assert [(m.layer, m.axis) for m in group.members] == [("qkv", "out"), ("proj", "in")]
    assert group.members[0].units[1] == (2, 3, 10, 11, 18, 19)
    assert group.members[1].units[1] == (2, 3)
    assert_a_cut_computes_what_zeros_compute(net, inventory, torch.randn(2, 3, 8, 8))


def test_channels_of_every_head_leave_alike() -> None:
    """With the same entry once per head, channel i of each leaves; here the heads have to stay two wide."""
    net = Attending().eval()
    row = {"out": [{"layer": "qkv", "from": start} for start in range(0, 24, 2)], "in": ["proj"], "channels": 2}
    with pytest.raises(ParetuneError, match=r"^group 'qkv' cannot be cut: "):
        by_hand(net, IMAGE, [row])


def test_four_rows_make_one_channel_of_a_pixel_shuffle() -> None:
    net = Upscaled().eval()
    row = {"name": "up", "out": [{"layer": "up", "each": 4}], "in": ["read"], "channels": 5}
    inventory = by_hand(net, IMAGE, [row])
    assert inventory.group["up"].members[0].units[1] == (4, 5, 6, 7)
    assert_a_cut_computes_what_zeros_compute(net, inventory, torch.randn(2, 3, 8, 8))


def test_a_net_that_cannot_be_followed_gets_its_groups() -> None:
    torch.manual_seed(0)
    net = randomise(Blind()).eval()
    with torch.no_grad():
        assert discover(net, IMAGE).groups == ()
        rows = [{"name": "a", "out": ["one.*"], "in": ["two.0"]}, {"name": "b", "out": ["two.*"], "in": ["head.fc"]}]
        inventory = by_hand(net, IMAGE, rows)
        assert [group.name for group in inventory.groups] == ["a", "b"]
        assert_a_cut_computes_what_zeros_compute(net, inventory, torch.randn(2, 3, 8, 8))
        kept = {group.name: thinned(group) for group in inventory.groups}
        seen = by_hand(cut(net, inventory, kept), IMAGE, rows)
    assert narrow(inventory, kept).layers == seen.layers


def test_a_number_in_a_module_follows_the_units() -> None:
    net = Counted().eval()
    row = {"name": "a", "out": ["one"], "in": ["read"], "units": 4}
    with pytest.raises(ParetuneError, match=r"^group 'a' cannot be cut: the forward then fails at or after 'one': "):
        by_hand(net, IMAGE, [row])
    inventory = by_hand(net, IMAGE, [{**row, "settings": {"heads": 1}}])
    assert cut(net, inventory, {"a": (0, 3)}).heads == 2
    assert_a_cut_computes_what_zeros_compute(net, inventory, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["heads"], "settings is a table such as {attn.num_heads: 1}, got ['heads']"),
        ({"heads": 0}, "heads is a whole number from 1 on, got 0"),
        ({"heeds": 1}, "settings: the model has no whole number 'heeds'"),
        ({"none.heads": 1}, "settings: the model has no whole number 'none.heads'"),
        ({"training": 1}, "settings: the model has no whole number 'training'"),
        ({"heads": 2}, "settings: 'heads' is 4; less 2 for each of 3 units nothing is left"),
    ],
)
def test_settings_that_cannot_follow_are_refused(settings: Any, message: str) -> None:
    row = {"name": "a", "out": ["one"], "in": ["read"], "units": 4, "settings": settings}
    with pytest.raises(ParetuneError, match="^" + re.escape(f"group 'a': {message}")):
        by_hand(Counted().eval(), IMAGE, [row])


def test_no_rows_are_no_groups_and_the_rest_stays_whole() -> None:
    net, example = build("chain")
    none, one = by_hand(net, example, []), by_hand(net, example, ROWS["chain"][:1])
    assert none.groups == ()
    assert none.whole == dict.fromkeys(["0.0", "2.0", "4", "6.fc"], UNNAMED)
    assert set(one.whole) == {"2.0", "4", "6.fc"}


def test_groups_come_in_order_of_execution_and_survive_json() -> None:
    net, example = build("residual")
    forward, backward = (by_hand(net, example, rows) for rows in (ROWS["residual"], ROWS["residual"][::-1]))
    assert forward == backward
    assert from_plain(Inventory, json.loads(json.dumps(to_plain(forward)))) == forward


def test_the_model_is_left_alone() -> None:
    net, example = build("residual")
    before = {name: tensor.clone() for name, tensor in net.train().state_dict().items()}
    by_hand(net, example, ROWS["residual"])
    assert net.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(module._forward_pre_hooks for module in net.modules())


GOOD = {"name": "a", "out": ["one.*"], "in": ["two.0"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["one.0"], "inventory.groups: row 1: expected keys name, out, in, channels, units, settings, got 'one.0'"),
        ([GOOD, {"uot": []}], "inventory.groups: row 2 has no key 'uot'. Did you mean 'out'?"),
        ([{**GOOD, "name": 3}], "inventory.groups: row 1: name is a word, got 3"),
        ([{**GOOD, "out": 3}], "group 'a': out is a list of layers, got 3"),
        ([{**GOOD, "out": [3]}], "group 'a', out: expected keys layer, from, each, got 3"),
        ([{**GOOD, "in": [{"layer": "two.0", "form": 3}]}], "group 'a', in has no key 'form'. Did you mean 'from'?"),
        ([{**GOOD, "in": [{"layer": "two.0", "from": -1}]}], "group 'a': from is a whole number from 0 on, got -1"),
        ([{**GOOD, "in": [{"from": 1}]}], "group 'a': no layer is called 'None'"),
        ([{"name": "a", "in": ["two.0"]}], "group 'a': out needs the layers that make its channels, got none"),
        ([{"out": ["on.0"]}], "inventory.groups: row 1: no layer is called 'on.0'. Did you mean 'one.0'?"),
        ([{**GOOD, "in": ["one.1"]}], "group 'a': 'one.1' has a row and no column for each channel: list it under out"),
        ([{**GOOD, "out": ["one.0", "stem.1"]}], "group 'a': 'one.0' has 6 output channels and 'stem.1' 8"),
        ([{**GOOD, "in": ["four.0"]}], "group 'a': 'one.0' has 6 output channels and 'four.0' 10 input channels; an "),
        ([{**GOOD, "channels": 5}], "group 'a': it has 5 channels and 'one.0' 6"),
        ([{**GOOD, "channels": True}], "group 'a': channels is a whole number from 2 on, got True"),
        ([{**GOOD, "units": 4}], "group 'a': 6 channels do not make 4 equal units"),
        ([{**GOOD, "out": [{"layer": "one.*", "from": 0}]}], "group 'a': no entry of out shows how many channels"),
        (
            [{**GOOD, "in": [{"layer": "two.0", "from": 3}]}],
            "group 'a': 6 channels from 3 on, 1 each, end at 9, and 'two.0' has 6 input channels",
        ),
        ([{**GOOD, "name": "two.0"}], "group 'two.0': a layer that it does not make is called so; give the group"),
        ([GOOD, GOOD], "inventory.groups: two groups are called 'a'"),
        ([GOOD, {**GOOD, "name": "b"}], "group 'b': output channel 0 of 'one.0' is listed in group 'a' already"),
        (
            [{**GOOD, "channels": 3, "out": [{"layer": "one.*", "from": n} for n in (0, 1)]}],
            "group 'a': output channel 1 of 'one.0' is listed twice",
        ),
    ],
)  # fmt: skip
def test_bad_rows_are_one_line(rows: list[Any], message: str) -> None:
    net, example = build("residual")
    with pytest.raises(ParetuneError, match="^" + re.escape(message)) as caught:
        by_hand(net, example, rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "a", "out": ["one.0"], "in": ["two.0"]}, "the forward then fails at or after 'one.1': "),
        ({"name": "a", "out": ["one.*"]}, "the forward then fails at or after 'two.0': "),
        ({"name": "a", "out": ["stem.*"], "in": ["one.0"]}, "the forward then fails at or after 'two.1': "),
        (
            {"name": "a", "out": ["head.fc"]},
            "its channels are the model's output, whose shape (1, 3) became (1, 2)",
        ),
    ],
    ids=["no norm", "no reader", "half a residual", "output"],
)
def test_a_group_that_leaves_something_out_is_named_with_what_fails(row: dict[str, Any], message: str) -> None:
    net, example = build("residual")
    with pytest.raises(ParetuneError, match=r"^group 'a' cannot be cut: ") as caught:
        by_hand(net, example, [ROWS["residual"][2], row])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_channels_that_mix_on_the_way_are_told_from_shapes_that_do_not_fit() -> None:
    net = Shuffled().eval()
    with pytest.raises(ParetuneError, match=r"^group 'one.0' cannot be cut: what is left computes something else"):
        by_hand(net, IMAGE, [{"out": ["one.*"], "in": ["two.0"], "units": 2}])


def test_a_forward_that_checks_its_shapes_is_still_one_line() -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.head = conv(3, 6), Pooled(6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            assert x.shape[1] == 6, "six channels, please"
            return self.head(x)  # type: ignore[no-any-return]

    with pytest.raises(ParetuneError, match=r"^group 'one.0' cannot be cut: .* after 'one.1': six channels, please"):
        by_hand(Strict().eval(), IMAGE, [{"out": ["one.*"], "in": ["head.fc"]}])


def test_a_layer_that_is_used_twice_is_refused() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), Pooled(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.two(self.two(self.one(x))))  # type: ignore[no-any-return]

    with pytest.raises(ParetuneError, match=r"^group 'a': 'two' is used more than once, so its channels cannot"):
        by_hand(Again().eval(), IMAGE, [{"name": "a", "out": ["one", "two"], "in": ["two", "head.fc"]}])


def test_a_part_of_a_grouped_convolution_and_one_unit_are_refused() -> None:
    net, example = build("grouped")
    part = {"name": "a", "out": ["0.*"], "in": [{"layer": "2.0", "from": 0}], "channels": 8}
    assert by_hand(net, example, [part]).groups[0].channels == 4
    with pytest.raises(ParetuneError, match=r"^group 'a': it is only part of the input channels of the grouped conv"):
        by_hand(net, example, [{**part, "out": [{"layer": "0.*", "from": 0}], "channels": 4}])
    with pytest.raises(ParetuneError, match=r"^group 'a': its channels can only leave all at once"):
        by_hand(net, example, [{"name": "a", "out": ["0.*"], "in": ["2.0"], "units": 2}])


def test_a_forward_that_fails_is_one_line() -> None:
    with pytest.raises(ParetuneError, match=r"^the model's forward fails on an example of shape \(1, 1, 8, 8\): "):
        by_hand(build("chain")[0], torch.randn(1, 1, 8, 8), [])
