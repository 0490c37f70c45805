"""Corners of a watched forward: memory that is not shared, norms that do not fold, modules that fail or hide."""

import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_task import TinyNet
from torch import Tensor, nn
from torch.nn import functional as F
from watched_nets import Lambda, dims

from paretune.compress import layers
from paretune.compress.groups import discover
from paretune.compress.layers import survey
from paretune.conf.settings import Settings, StudySettings
from paretune.costs.table import COSTS, costs_of
from paretune.errors import ParetuneError
from paretune.inventory import Inventory
from paretune.plan import DENSE
from paretune.profile import profile
from paretune.search.asked import asked_plan
from paretune.search.bench import lay_out
from paretune.search.check import check_reach
from paretune.search.study import run_study
from paretune.search.subject import look_at
from paretune.spaces.language import parse_space
from paretune.tasks.own import from_loaders

BATCH, IMAGE = torch.randn(1, 5, 8), torch.randn(1, 3, 8, 8)
IN, MIDDLE = 3 * 64, 4 * 64


def seen(example: Tensor, forward: Callable[..., Tensor], **inner: nn.Module) -> Inventory:
    return survey(Lambda(forward, **inner).eval(), example)


def times(found: Inventory) -> list[tuple[int, int, int]]:
    return [(buffer.numbers.dense, buffer.born, buffer.dies) for buffer in found.buffers]


# --- memory ----------------------------------------------------------------------------------------------------------


def test_an_output_is_not_written_over_by_the_last_operation() -> None:
    found = seen(IMAGE, lambda s, x: [y := s.a(x), y * 2], a=nn.Conv2d(3, 4, 1))
    assert times(found) == [(IN, 0, 1), (MIDDLE, 1, 2), (MIDDLE, 2, 2)]


# An elementwise operation on y (3, 8, 8), and the numbers in every buffer after y's.
UNEQUAL: dict[str, tuple[Callable[[Tensor], Tensor], list[int]]] = {
    "3 of 3 make 48": (lambda y: y.mean((2, 3), keepdim=True) * torch.ones(1, 1, 4, 4), [3, 3 * 16]),
    "96 of 192 make 96": (lambda y: y[:, :, :4] * 2, [IN // 2]),
    "64 of 192 make 192": (lambda y: y[:, :1] * torch.ones(1, 3, 1, 1), [IN]),
}


@pytest.mark.parametrize("case", UNEQUAL)
def test_only_a_result_of_the_same_size_takes_the_memory_of_what_it_reads(case: str) -> None:
    work, after = UNEQUAL[case]
    found = seen(IMAGE, lambda s, x: work(s.a(x)), a=nn.Conv2d(3, 3, 1))
    assert [buffer.numbers.dense for buffer in found.buffers] == [IN, IN, *after]


def test_memory_that_leaves_the_network_is_float_though_a_layer_read_it_before() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x)  # type: ignore[operator]
        s.b(y)  # type: ignore[operator]
        return y.relu_()  # type: ignore[no-any-return]

    found = seen(IMAGE, forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1))
    assert times(found) == [(IN, 0, 1), (MIDDLE, 1, 3), (2 * 64, 2, 2)]
    assert [buffer.readers for buffer in found.buffers] == [("a",), (), ()]


def test_a_view_made_in_place_is_no_operation() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.b(s.a(x).unsqueeze_(0).squeeze_(0).transpose_(1, 2))  # type: ignore[operator,no-any-return]

    found = seen(BATCH, forward, a=nn.Linear(8, 8), b=nn.Linear(5, 2))
    assert (found.operations, found.steps) == ((), ("a", "a", "b", "b"))  # b multiplies, then adds its bias
    flat = seen(BATCH[0], lambda s, x: s.a(x).t_().unsqueeze_(0).squeeze_(), a=nn.Linear(8, 3))
    assert (flat.operations, flat.steps, len(flat.buffers)) == ((), ("a", "a"), 2)


def test_layers_that_read_the_input_are_told_apart_from_those_that_read_what_lies_over_it() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = x + s.a(x).relu()  # type: ignore[operator]
        return x + s.b(x)  # type: ignore[operator,no-any-return]

    found = seen(BATCH, forward, a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    assert (found.first, found.entries) == (("a",), {"a"})
    plan = asked_plan({"weight_bits": 4, "activation_bits": 2, "input_bits": 8}, found)
    macs = 5 * 8 * 8
    assert costs_of(found, plan)["bops"] == macs * 4 * 8 + macs * 4 * 2


# --- norms and products ----------------------------------------------------------------------------------------------


def test_a_norm_does_not_fold_into_what_leaves_the_network_as_well() -> None:
    found = seen(IMAGE, lambda s, x: [y := s.a(x), s.n(y)], a=nn.Conv2d(3, 4, 1), n=nn.BatchNorm2d(4))
    assert found.layer["a"].norm is None
    assert dict(found.operations) == {"batch_norm": 1}


@pytest.mark.parametrize(("example", "folds"), [(torch.randn(1, 8), "n"), (BATCH, None)], ids=["vector", "tokens"])
def test_a_norm_folds_into_a_linear_layer_on_a_vector_only(example: Tensor, folds: str | None) -> None:
    """With five tokens a norm of five features takes the tokens for its channels."""
    found = seen(example, lambda s, x: s.n(s.a(x)), a=nn.Linear(8, 5), n=nn.BatchNorm1d(5))
    assert found.layer["a"].norm == folds


VALUES = 4  # the width of the values; queries and keys have 8


def fused(_: nn.Module, x: Tensor) -> Tensor:
    made: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(x, x, x[..., :VALUES], None, False)[0]
    return made


@pytest.mark.parametrize(("attend", "device"), [
    (lambda _, x: F.scaled_dot_product_attention(x, x, x[..., :VALUES]), "cpu"), (fused, "meta"),
], ids=["apart", "fused"])  # fmt: skip
def test_values_of_another_width_than_keys_count_with_their_own(attend: Callable[..., Tensor], device: str) -> None:
    heads, tokens, width = 2, 5, 8
    found = seen(torch.randn(1, heads, tokens, width, device=device), attend)
    assert {product.name: dims(product) for product in found.products} == {
        ":scores": (heads, tokens, width, tokens), ":values": (heads, tokens, tokens, VALUES),
    }  # fmt: skip


class Holding(nn.Module):
    """Owns numbers and runs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_layer_that_runs_nothing_stays_before_the_product_after_it() -> None:
    found = seen(BATCH, lambda s, x: s.b(s.p(x) @ x.mT), p=Holding(), b=nn.Linear(5, 2))
    assert found.steps[0] == ":matmul", "step 0 brings the input and belongs to what runs first"
    assert [item.name for item in found.order] == ["p", ":matmul", "b"]


class Pooling(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(super().forward(x), 2)


def test_a_convolution_that_pools_by_itself_has_the_macs_of_all_its_pixels() -> None:
    found = survey(nn.Sequential(Pooling(3, 4, 3, padding=1)).eval(), IMAGE)
    assert found.layer["0"].output_shape == (4, 4, 4)
    assert costs_of(found, DENSE)["macs"] == 8 * 8 * (3 * 9) * 4


# --- modules that fail or hide ---------------------------------------------------------------------------------------


class Stop(BaseException):
    """PyTorch calls no hooks of a module that this one leaves."""


class Stopping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise Stop


def test_a_module_that_was_left_without_a_word_is_not_charged_for_its_callers_successors() -> None:
    def catching(s: nn.Module, x: Tensor) -> Tensor:
        try:
            return s.bad(x)  # type: ignore[operator,no-any-return]
        except Stop:
            return x

    found = seen(BATCH, lambda s, x: (y := s.mid(x)) @ y.mT, mid=Lambda(catching, bad=Stopping()))
    assert [product.name for product in found.products] == [":matmul"]


@pytest.mark.parametrize("look", [survey, discover])
def test_a_scripted_module_inside_is_counted_without_hooks(look: Callable[..., Inventory]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated, and copying a scripted module warns
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
        found = look(nn.Sequential(nn.Conv2d(3, 3, 1), scripted, nn.Conv2d(4, 2, 1)).eval(), IMAGE)
    assert found.unsure == ()
    assert {row.name: row.macs for row in profile(found, DENSE) if row.macs} == {
        "0": 64 * 3 * 3, "1.0:conv": 36 * 27 * 4, "2": 36 * 4 * 2,
    }  # fmt: skip


def test_two_threads_leave_the_fast_path_on() -> None:
    inside, second, done = threading.Event(), threading.Event(), threading.Event()
    found: dict[str, Inventory] = {}

    def early(s: nn.Module, x: Tensor) -> Tensor:
        inside.set()
        second.wait(0.1)  # would come before the end of this forward, if nothing held it back
        return s.a(x)  # type: ignore[operator,no-any-return]

    def late(s: nn.Module, x: Tensor) -> Tensor:
        second.set()
        done.wait(5)
        return s.a(x)  # type: ignore[operator,no-any-return]

    def run(name: str, forward: Callable[..., Tensor]) -> None:
        found[name] = seen(BATCH, forward, a=nn.Linear(8, 3))

    threads = [threading.Thread(target=run, args=pair) for pair in (("early", early), ("late", late))]
    try:
        threads[0].start()
        assert inside.wait(5)
        threads[1].start()
        threads[0].join(5)
        done.set()
        threads[1].join(5)
        assert torch.backends.mha.get_fastpath_enabled()
        assert found["early"] == found["late"]
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


# --- a forward that nobody could watch -------------------------------------------------------------------------------


class Sparse(TinyNet):
    """Its input takes a detour that has no plain memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to_sparse().to_dense())


def unwatched(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    if isinstance(net, Sparse):
        return net
    monkeypatch.setattr(layers, "_traced", lambda model, example: [None, model(example)][0])
    return net


@pytest.mark.parametrize("make", [TinyNet, Sparse])
def test_memory_of_activations_is_no_cost_where_nobody_watched(
    make: type[TinyNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = survey(unwatched(make(), monkeypatch), torch.randn(1, 1, 6, 6))
    assert (found.steps, found.unsure) == ((), (layers.UNFOLLOWED,))
    told = costs_of(found, DENSE)
    assert set(told) == {name for name, cost in COSTS.items() if not cost.hardware} - {"activation_bytes"}
    assert told["macs"] == 36 * 9 * 8 + 36 * 72 * 8 + 8 * 3


@pytest.mark.parametrize("asked", [
    {"objectives": ("top1_error", "activation_bytes")},
    {"objectives": ("top1_error", "size_bytes"), "budget": {"activation_bytes": 1e9}},
], ids=["objective", "budget"])  # fmt: skip
def test_a_study_of_activation_bytes_is_refused_where_nobody_watched(
    asked: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(torch.randn(8, 1, 6, 6), torch.arange(8) % 3)]
    task = from_loaders(unwatched(TinyNet(), monkeypatch), rows, rows, rows)
    space = {"layers": [{"match": "*", "weight_bits": 8}]}
    bench = lay_out(task)
    settings = Settings(task={}, space=space, study=StudySettings(name="tiny"), **asked)  # type: ignore[arg-type]
    with pytest.raises(ParetuneError, match=r"activation_bytes is not known of this network: .*could not be followed"):
        check_reach(settings, parse_space(space, bench.inventory), bench)
    with pytest.raises(ParetuneError, match="activation_bytes is not known"):
        run_study(task, space=space, out=tmp_path / "tiny", **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "tiny").exists()


def test_a_network_that_reads_its_numbers_is_looked_at_with_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x).relu()  # type: ignore[operator]
        return s.b(y.mean((2, 3)) / (1 + abs(x.max().item())))  # type: ignore[operator,no-any-return]

    nets = ModuleType("nets_that_read")
    nets.make = lambda: Lambda(forward, a=nn.Conv2d(3, 4, 1), b=nn.Linear(4, 2))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nets_that_read", nets)
    name, found = look_at({"name": "module", "target": "nets_that_read.make", "input_shape": [3, 8, 8]})
    assert name == "nets_that_read.make"
    assert costs_of(found, DENSE)["macs"] == 64 * 3 * 4 + 4 * 2
    assert [group.name for group in found.groups] == ["a"]
    assert "looking for channel groups" in capsys.readouterr().err
