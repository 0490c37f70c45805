"""What one forward runs and keeps in memory, and how that follows the channels."""

import random
from dataclasses import replace
from functools import cache

import pytest
import torch
from compress_nets import NETS, build, conv
from hand_made import units
from torch import Tensor, nn
from torch.nn import functional as F
from watched_nets import Lambda, dims, sizes

from paretune.compress import layers
from paretune.compress.cut import cut
from paretune.compress.following import _kept, followed
from paretune.compress.groups import discover
from paretune.compress.layers import survey, watch
from paretune.compress.lifetimes import figures
from paretune.compress.trace import Tracer
from paretune.inventory import Group, Inventory, Member
from paretune.plan import DENSE, GroupPlan, LayerPlan, Plan
from paretune.profile import Row, profile

FIELDS = (
    "name", "kind", "weight_shape", "channels", "macs", "params", "weights", "groups", "positions", "inner", "inputs",
    "outputs", "alive_bytes",
)  # fmt: skip


@cache
def known(name: str) -> Inventory:
    return discover(*build(name))


# --- a cut model is what the arithmetic says -------------------------------------------------------------------------


def plan(inventory: Inventory, seed: int) -> Plan:
    """Random kept units and random activation bits."""
    chance = random.Random(seed)
    return Plan(
        groups=tuple(
            GroupPlan(
                group=group.name,
                kept=tuple(sorted(chance.sample(range(group.channels), chance.randint(1, group.channels)))),
            )
            for group in inventory.groups
        ),
        layers=tuple(LayerPlan(layer=x.name, activation_bits=chance.choice((3, 8, 32))) for x in inventory.weighted),
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_the_profile_of_a_plan_is_that_of_the_cut_model(name: str, seed: int) -> None:
    (net, example), inventory = build(name), known(name)
    asked = plan(inventory, seed)
    small = discover(cut(net, inventory, asked.kept), example)
    told, seen = profile(inventory, asked), profile(small, replace(asked, groups=()))
    assert inventory.unsure == small.unsure == ()
    assert [facts(row) for row in told] == [facts(row) for row in seen]


def facts(row: Row) -> dict[str, object]:
    return {field: getattr(row, field) for field in FIELDS}


@pytest.mark.parametrize("name", NETS)
def test_ordinary_networks_are_never_measured_group_by_group(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = []
    real = layers._traced
    monkeypatch.setattr(layers, "_traced", lambda *given: forwards.append(given) or real(*given))
    assert discover(*build(name)).buffers
    assert len(forwards) == 3, "the model itself and two cuts"


# --- memory ----------------------------------------------------------------------------------------------------------


def alive(inventory: Inventory, **bits: int) -> dict[str, int]:
    asked = Plan(layers=tuple(LayerPlan(layer=name, activation_bits=width) for name, width in bits.items()))
    return {row.name: row.alive_bytes for row in profile(inventory, asked)}


def line(act: nn.Module) -> nn.Module:
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), act, nn.Conv2d(4, 2, 3, padding=1))
    return nn.Sequential(*layers).eval()


BATCH, IMAGE = torch.randn(1, 5, 8), torch.randn(1, 3, 8, 8)
IN, MIDDLE, OUT = 3 * 64, 4 * 64, 2 * 64


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_chain_keeps_what_one_layer_reads_and_writes(inplace: bool, device: str) -> None:
    found = survey(line(nn.ReLU(inplace=inplace)).to(device), IMAGE.to(device))
    # norm and relu write over what they read; the network's output is float
    assert [(b.numbers.dense, b.born, b.dies) for b in found.buffers] == [(IN, 0, 1), (MIDDLE, 1, 4), (OUT, 4, 4)]
    assert [buffer.readers for buffer in found.buffers] == [("0",), ("3",), ()]
    assert found.steps == ("0", "0", "1", "1", "3")
    assert found.operations == (("relu", 1),), "the norm folds"
    assert found.layer["0"].norm == "1"
    # what runs in a norm that folds counts for the layer it folds into
    assert alive(found) == {"0": 4 * (IN + MIDDLE), "1": 0, "3": 4 * (MIDDLE + OUT)}
    assert alive(found, **{"0": 8, "3": 8}) == {"0": IN + MIDDLE, "1": 0, "3": MIDDLE + 4 * OUT}
    few = MIDDLE * 3 // 8
    assert alive(found, **{"0": 8, "3": 3}) == {"0": IN + few, "1": 0, "3": few + 4 * OUT}


def test_meta_tensors_tell_the_same_as_real_ones() -> None:
    for name in NETS:
        net, example = build(name)
        assert survey(net, example) == survey(net.to("meta"), example.to("meta")), name


def test_folding_seen_in_a_trace_is_folding_seen_in_the_graph() -> None:
    for name in NETS:
        assert [x.norm for x in survey(*build(name)).layers] == [x.norm for x in known(name).layers], name


def test_a_shortcut_stays_alive_until_it_is_added() -> None:
    net = Lambda(
        lambda s, x: s.c((y := s.a(x)) + s.b(y)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1), c=nn.Conv2d(4, 2, 1)
    )
    found = survey(net.eval(), IMAGE)
    # a writes at step 1, b at 2, the sum of step 3 lies over what a wrote, c writes at 4
    assert [(b.born, b.dies) for b in found.buffers] == [(0, 1), (1, 4), (2, 3), (4, 4)]
    assert alive(found, a=8, b=8, c=8) == {"a": IN + MIDDLE, "b": 2 * MIDDLE, "c": MIDDLE + 4 * OUT}
    assert [buffer.readers for buffer in found.buffers] == [("a",), ("b", "c"), ("c",), ()]
    # b reads in 8 bits what the sum is then written over, c the sum in 4
    assert alive(found, a=8, b=8, c=4) == {"a": IN + MIDDLE, "b": MIDDLE + MIDDLE // 2, "c": MIDDLE + 4 * OUT}
    assert dict(found.operations) == {"add": 1}


def test_a_layer_called_twice_reads_and_writes_twice() -> None:
    net = Lambda(lambda s, x: s.a(x) + s.a(F.max_pool2d(x, 2)).sum(), a=nn.Conv2d(3, 4, 1)).eval()
    found = survey(net, IMAGE)
    (row,) = (row for row in profile(found, DENSE) if row.name == "a")
    assert (found.layer["a"].reads, row.positions) == (64 + 16, 64 + 16)
    assert (row.inputs, row.outputs) == (3 * 80, 4 * 80)


def test_a_row_knows_in_how_many_bits_its_readers_take_what_it_writes() -> None:
    found = survey(line(nn.ReLU()), IMAGE)
    bits = tuple(LayerPlan(layer=name, activation_bits=wide) for name, wide in (("0", 8), ("3", 4)))
    assert {row.name: row.output_bits for row in profile(found, Plan(layers=bits))} == {"0": 4, "1": 0, "3": 32}


def test_a_concatenation_copies_what_it_joins() -> None:
    net = Lambda(
        lambda s, x: s.c(torch.cat([s.a(x), s.b(x)], 1)),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(3, 2, 1),
        c=nn.Conv2d(6, 2, 1),
    )
    found = survey(net.eval(), IMAGE)
    both = MIDDLE + OUT
    assert alive(found, a=8, b=8, c=8) == {"a": IN + MIDDLE, "b": 2 * both, "c": both + 4 * OUT}
    assert [buffer.readers for buffer in found.buffers] == [("a", "b"), ("c",), ("c",), ("c",), ()]


def test_a_result_that_is_read_later_is_not_written_over() -> None:
    net = Lambda(lambda s, x: (y := s.a(x)).relu() + y.sigmoid(), a=nn.Conv2d(3, 4, 1)).eval()
    assert [(b.born, b.dies) for b in survey(net, IMAGE).buffers] == [(0, 1), (1, 4), (2, 4)]


def test_views_take_no_memory_and_unused_results_none() -> None:
    net = Lambda(lambda s, x: s.a(F.max_pool2d(x, 2).flatten(1).view(1, 48)), a=nn.Linear(48, 5)).eval()
    found = survey(net, IMAGE)
    assert [buffer.numbers.dense for buffer in found.buffers] == [192, 48, 5], "the pool's indices are not read"
    assert dict(found.operations) == {"max_pool2d": 1}


def test_what_is_made_of_parameters_is_no_activation() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        table = s.e(torch.arange(5)) * 2  # type: ignore[operator]
        room = x.new_zeros(1, 5, 8)
        room[:, :3] = x[:, :3]
        return room + table

    found = survey(Lambda(forward, e=nn.Embedding(5, 8)).eval(), BATCH)
    assert [(b.numbers.dense, b.born, b.dies) for b in found.buffers] == []
    assert dict(found.operations) == {"add": 1, "copy": 1}
    watched = watch(Lambda(forward, e=nn.Embedding(5, 8)).eval(), BATCH)
    assert watched.trace is not None
    assert watched.trace.sizes == (40, 40, 40), "the input, the room that takes it, and the sum"


def test_only_products_and_the_output_read_floats() -> None:
    layers = {"a": nn.Linear(8, 4), "b": nn.Linear(8, 4), "c": nn.Linear(5, 3)}
    found = survey(Lambda(lambda s, x: s.c(s.a(x) @ s.b(x).mT), **layers).eval(), BATCH)
    assert [buffer.readers for buffer in found.buffers] == [("a", "b"), (), (), ("c",), ()]
    assert found.entries == {"a", "b"}
    assert [item.name for item in found.order] == ["a", "b", ":matmul", "c"]


def test_an_output_that_other_layers_read_stays_to_the_end_in_float() -> None:
    net = Lambda(lambda s, x: [y := s.a(x), s.c(s.b(y))], a=nn.Linear(8, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 2))
    found = survey(net.eval(), BATCH)
    assert [(b.born, b.dies, b.readers) for b in found.buffers] == [
        (0, 1, ("a",)), (1, 3, ()), (2, 3, ("c",)), (3, 3, ()),
    ]  # fmt: skip


# --- what does not follow, and what fails ----------------------------------------------------------------------------


def test_a_product_over_channels_is_measured_and_follows() -> None:
    def gram(s: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(s.a(x)).flatten(2)  # type: ignore[operator]
        return s.b((y.mT @ y).flatten(1))  # type: ignore[operator,no-any-return]

    net = Lambda(gram, a=nn.Conv2d(3, 6, 1), b=nn.Linear(16, 3)).eval()
    example, member = torch.randn(1, 3, 2, 2), Member(layer="a", axis="out", units=units(6))
    bare, trace = survey(net, example), watch(net, example).trace
    group = Group(name="a", channels=6, members=(member,))
    found = layers.observed(net, example, replace(bare, groups=(group,)), trace)
    assert dims(found.products[0]) == (1, 4, 6, 4)
    assert [size.per_unit for size in sizes(found.products[0])] == [(), (), (("a", 1),), ()]
    assert [buffer.numbers.per_unit for buffer in found.buffers] == [(), (("a", 4),), (), ()]
    assert found.unsure == ()


def test_a_size_that_does_not_follow_the_channels_is_named_and_stays() -> None:
    def padded(s: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(s.a(x)).mean((2, 3))  # type: ignore[operator]
        wide = F.pad(y, (0, y.shape[1] ** 2))
        return s.b(wide[:, : y.shape[1]])  # type: ignore[operator,no-any-return]

    inventory = discover(Lambda(padded, a=nn.Conv2d(3, 6, 1), b=nn.Linear(6, 3)).eval(), IMAGE)
    assert [group.name for group in inventory.groups] == ["a"]
    assert inventory.unsure == ("constant_pad_nd after 'a': the numbers it writes, told as in the dense model",)
    wide = next(buffer for buffer in inventory.buffers if buffer.numbers.dense == 6 + 36)
    assert wide.numbers.per_unit == ()


def test_units_that_take_unequal_numbers_of_channels_do_not_follow() -> None:
    net, example = build("flat")
    inventory, watched = known("flat"), watch(net, example)
    first = inventory.groups[0]
    odd = tuple(
        replace(m, units=(m.units[0] + m.units[1], *m.units[2:])) if m.axis == "out" or m.layer == "3" else m
        for m in first.members
    )
    uneven = replace(inventory, groups=(replace(first, channels=4, members=odd),))
    assert watched.trace is not None
    found = followed(net, example, uneven, watched.trace, layers._traced)
    assert figures(uneven, watched.trace)[1] == 5 * 16
    assert 1 in found.wrong
    assert found.shares[1] == {}


def test_a_cut_model_that_runs_something_else_is_not_guessed_at() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x)  # type: ignore[operator]
        y = y.relu() if y.shape[1] == 6 else y.relu() * 1.0
        return s.b(y.mean((2, 3)))  # type: ignore[operator,no-any-return]

    found = discover(Lambda(forward, a=nn.Conv2d(3, 6, 1), b=nn.Linear(6, 3)).eval(), IMAGE)
    assert [group.name for group in found.groups] == ["a"]
    assert len(found.unsure) == len(found.buffers)
    assert all(buffer.numbers.per_unit == () for buffer in found.buffers)


def test_when_time_is_up_sizes_are_told_as_in_the_dense_model() -> None:
    net, example = build("chain")
    found, watched = known("chain"), watch(net, example)
    late = layers.observed(net, example, found, watched.trace, deadline=0.0)
    assert (late.groups, late.steps) == (found.groups, found.steps)
    assert [buffer.numbers.dense for buffer in late.buffers] == [buffer.numbers.dense for buffer in found.buffers]
    assert all(buffer.numbers.per_unit == () for buffer in late.buffers)
    assert len(late.unsure) == len(late.buffers)


@pytest.mark.parametrize(("channels", "least"), [(2, 1), (3, 2), (6, 2)])
def test_a_trial_cut_keeps_two_units_of_three_or_more(channels: int, least: int) -> None:
    group = replace(known("chain").groups[0], channels=channels)
    chance = random.Random(1)
    kept = [_kept(replace(known("chain"), groups=(group,)), chance)[group.name] for _ in range(40)]
    assert {len(units) for units in kept} == set(range(least, channels))


def test_a_watch_that_fails_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("lost\nmore")

    net, example = build("chain")
    whole = discover(net, example)
    monkeypatch.setattr(Tracer, "_note", broken)
    found = discover(net, example)
    assert found.unsure == (layers.UNFOLLOWED,)
    emptied = replace(whole, steps=(), buffers=(), operations=(), first=(), unsure=found.unsure)
    assert found == emptied
    monkeypatch.undo()
    monkeypatch.setattr(layers, "counted", broken)
    assert discover(net, example).unsure == (f"{found.unsure[0]} (lost)",)


def test_a_model_that_cannot_be_watched_runs_unwatched() -> None:
    def shy(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x)  # type: ignore[operator]
        assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
        return y  # type: ignore[no-any-return]

    found = survey(Lambda(shy, a=nn.Conv2d(3, 6, 1)).eval(), IMAGE)
    assert (found.layer["a"].positions, found.steps, len(found.unsure)) == (64, (), 1)


def test_a_module_that_fails_inside_is_left_behind() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no")

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        try:
            return s.bad(x)  # type: ignore[operator,no-any-return]
        except ValueError:
            return x @ x.mT

    assert [product.name for product in survey(Lambda(forward, bad=Broken()).eval(), BATCH).products] == [":matmul"]


def test_a_survey_looks_for_no_groups_and_leaves_the_model_alone() -> None:
    net = nn.Sequential(conv(3, 4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)).train()
    found = survey(net, IMAGE)
    assert found.whole == {"0.0": "channel groups were not looked for", "2": "channel groups were not looked for"}
    assert (found.groups, found.input_shape) == ((), (3, 8, 8))
    assert all(
        module.training and not module._forward_hooks and not module._forward_pre_hooks for module in net.modules()
    )
