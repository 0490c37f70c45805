"""Weight penalty clipping: value and pull of the penalty in closed form, which blocks go, what training makes of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pattern_cases import PE, SHAPES, drawn
from torch import Tensor, nn
from torch.nn.utils import parametrize
from training_nets import data, seeds

from paretune.compress import clipping
from paretune.compress.clipping import CLIPPED, SUMS, block_codes_changed, block_penalty, blocks_of, harvest
from paretune.compress.masks import attach, raw_weight
from paretune.compress.patterns import index_bytes_of, kept_weights, mask_of, pattern_of
from paretune.compress.pe_block import pe_bits, pe_decode
from paretune.compress.quantize import quantize, weight_codes
from paretune.compress.quantizer import Parts, WeightQuantizer
from paretune.compress.recover import Teacher
from paretune.errors import ImpossiblePlan, ParetuneError, UnknownName
from paretune.plan import LayerPlan, Plan
from paretune.recipe import CLIPS, LASSO, Penalty, Pruning, Quantizing, Wanted
from paretune.tasks.task import Loss

NORMS = (1.0, 2.0, 6.0, 7.0, 9.0)  # of the toy layer's blocks: mean 5
TOY = Wanted(kind="pe_block", block=2)
FOUR = Wanted(kind="pe_block", sparsity=0.0, block=4)
FILTERS = Wanted(kind="pe_block", block=2, layout="filter")


class Ternary(WeightQuantizer):
    """-1, 0 and 1 with everything below a share of the largest |w| at 0; it learns nothing."""

    def parts(self, weight: Tensor) -> Parts:
        threshold = 0.25 * weight.abs().max()
        codes = torch.where(weight.abs() > threshold, weight.sign(), torch.zeros_like(weight))
        return Parts(codes=codes, scale=weight.abs().mean().clamp_min(1e-6))


def ternary(layer: nn.Module) -> nn.Module:
    """The layer, its weight now behind a mask of ones and a quantizer."""
    weight = raw_weight(layer).detach()
    attach(nn.Sequential(layer), {"0": np.ones(tuple(weight.shape), dtype=bool)})
    parametrize.register_parametrization(layer, "weight", Ternary(weight, 2, Quantizing()))
    return layer


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def toy(norms: tuple[float, ...] = NORMS) -> nn.Sequential:
    """One layer with one input block of 2 in every filter, of these norms: (3, 4) scaled."""
    return nn.Sequential(linear(torch.tensor(norms)[:, None] * torch.tensor([[0.6, -0.8]])))


def asked(wanted: dict[str, Wanted] | None = None, schedule: str = "clipped_lasso", **penalty: Any) -> Pruning:
    return Pruning(
        schedule=schedule, rounds=1, epochs=4, lr=0.05, wanted=wanted or {"0": TOY}, blends={},
        penalty=Penalty(**{"strength": 1.0, **penalty}),
    )  # fmt: skip


def pulls(model: nn.Module, pruning: Pruning, layer: str = "0") -> tuple[float, list[float]]:
    """The penalty, and how hard it pulls each filter of a layer towards zero."""
    model.zero_grad()
    value = block_penalty(model, pruning)
    value.backward()  # type: ignore[no-untyped-call]
    weight = raw_weight(model.get_submodule(layer))
    assert weight.grad is not None
    towards = (weight.grad * weight).sum(dim=1) / weight.norm(dim=1).clamp_min(1e-12)
    torch.testing.assert_close(weight.grad, towards[:, None] * F.normalize(weight, dim=1))  # and nowhere else
    return value.item(), [round(pull, 5) for pull in towards.tolist()]


def test_the_tables_hold_the_names_that_a_recipe_can_say() -> None:
    assert set(CLIPPED) == set(CLIPS)
    assert set(SUMS) == set(LASSO)


@pytest.mark.parametrize(
    ("clip", "ratio", "value", "pulled"),
    [
        ("mean", 0.5, 1 + 2 + 3 * 2.5, [1, 1, 0, 0, 0]),  # δ = 0.5 × 5
        ("mean", 1.3, 1 + 2 + 6 + 2 * 6.5, [1, 1, 1, 0, 0]),
        ("rank", 0.5, 1 + 2 + 3 * 2, [1, 1, 0, 0, 0]),  # floor(0.5 × 2) × floor(5 / 2) = 2
        ("rank", 1.0, 1 + 2 + 6 + 2 * 7, [1, 1, 1, 1, 0]),  # 4
        ("mix", 0.5, 1 + 2 + 3 * 2, [1, 1, 0, 0, 0]),  # the smaller of 2 and 5
        ("mix", 1.0, 1 + 2 + 3 * 5, [1, 1, 0, 0, 0]),  # the smaller of 7 and 5
        ("global", 0.4, 1 + 2, [1, 1, 0, 0, 0]),  # 2 of 5; the others are left out
        ("global", 1.0, 25, [1, 1, 1, 1, 1]),
    ],
)
def test_a_detached_threshold_pulls_by_one_below_it_and_not_above(
    clip: str, ratio: float, value: float, pulled: list[float]
) -> None:
    assert pulls(toy(), asked(clip=clip, ratio=ratio)) == (pytest.approx(value), pulled)
    mix = asked(clip="mix", ratio=0.5)  # rank 4, and the mean is 5: not its share 2.5
    assert pulls(toy((1.0, 4.0, 6.0, 6.0, 8.0)), mix) == (pytest.approx(17), [1, 1, 0, 0, 0])
    control = asked(schedule="group_lasso", clip=clip, ratio=ratio)
    assert pulls(toy(), control) == (pytest.approx(25), [1, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("clip", "ratio", "pulled"),
    [
        ("mean", 0.5, [1.3, 1.3, 0.3, 0.3, 0.3]),  # 3 clipped blocks × 0.5 / 5 for everyone
        ("rank", 0.5, [1, 4, 0, 0, 0]),  # the block at the threshold is pulled for the three above it
        ("mix", 0.5, [1, 4, 0, 0, 0]),
        ("mix", 1.0, [1.6, 1.6, 0.6, 0.6, 0.6]),
        ("global", 0.4, [1, 1, 0, 0, 0]),
    ],
)
def test_a_threshold_with_a_gradient_pulls_large_blocks_too(clip: str, ratio: float, pulled: list[float]) -> None:
    value, found = pulls(toy(), asked(clip=clip, ratio=ratio, detached=0))
    assert found == pytest.approx(pulled)
    assert value == pytest.approx(pulls(toy(), asked(clip=clip, ratio=ratio))[0])


@pytest.mark.parametrize("clip", [*CLIPS, "none"])
@pytest.mark.parametrize("detached", [0, 1])
def test_the_penalty_scales_with_strength_and_with_the_weights(clip: str, detached: int) -> None:
    schedule = "group_lasso" if clip == "none" else "clipped_lasso"
    pruning = asked(schedule=schedule, clip=clip, detached=detached)
    value, pulled = pulls(toy(), pruning)
    assert pulls(toy(tuple(4 * norm for norm in NORMS)), pruning) == (pytest.approx(4 * value), pytest.approx(pulled))
    weak = asked(schedule=schedule, clip=clip, detached=detached, strength=0.125)
    assert pulls(toy(), weak) == (pytest.approx(value / 8), pytest.approx([pull / 8 for pull in pulled], abs=1e-5))


@pytest.mark.parametrize("clip", CLIPS)
def test_a_block_of_zeros_feels_nothing(clip: str) -> None:
    assert pulls(toy((0.0, 0.0, 6.0, 7.0)), asked(clip=clip, ratio=0.6))[1] == [0, 0, 0, 0]
    assert pulls(toy((0.0, 0.0)), asked(clip=clip))[1] == [0, 0]


def test_thresholds_go_by_layer_and_the_global_one_by_mean_size_over_all() -> None:
    """Two layers of blocks with 2 and 4 weights: |w| of 1, 2 and of 1.5, 3, so norms of √2, 2√2 and of 3, 6."""
    sizes = torch.tensor([[1.0], [2.0]])
    model = nn.Sequential(linear(sizes.repeat(1, 2)), linear(1.5 * sizes.repeat(1, 4)))
    wanted = {"0": TOY, "1": replace(TOY, block=4)}
    by_layer = asked(wanted, clip="mean", ratio=1.0)
    assert [pulls(model, by_layer, name)[1] for name in wanted] == [[1, 0], [1, 0]]
    root = 2**0.5
    assert block_penalty(model, by_layer).item() == pytest.approx(root + 1.5 * root + 3 + 4.5)
    half = asked(wanted, clip="global", ratio=0.5)
    assert [pulls(model, half, name)[1] for name in wanted] == [[1, 0], [1, 0]]
    assert block_penalty(model, half).item() == pytest.approx(root + 3)  # by norm it would be √2 and 2√2
    most = asked(wanted, clip="global", ratio=0.75)
    assert [pulls(model, most, name)[1] for name in wanted] == [[1, 1], [1, 0]]


def test_only_the_float_weights_behind_mask_and_quantizer_of_wanted_layers_are_pulled() -> None:
    model = nn.Sequential(*toy(), nn.ReLU(), linear(torch.ones(3, 5)))
    before = pulls(model, asked())
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == ["0.weight"]
    ternary(model[0])
    assert pulls(model, asked()) == before


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wanted", PE[-6:], ids=lambda w: f"{w.block}-{w.layout}")
def test_blocks_are_those_of_the_pattern(wanted: Wanted, shape: tuple[int, ...]) -> None:
    weight = drawn(shape) / 1000
    norms, means = [], []
    width = shape[1] if wanted.layout == "filter" else wanted.block
    for row in weight:
        for start in range(0, shape[1], width):  # the last one may be short
            norms.append(np.sqrt((row[start : start + width] ** 2).sum()))
            means.append(np.abs(row[start : start + width]).mean())
    found = blocks_of(torch.from_numpy(weight), wanted)
    np.testing.assert_allclose(found.norms.numpy(), norms, rtol=1e-5)
    np.testing.assert_allclose(found.means.numpy(), means, rtol=1e-5)


@pytest.mark.parametrize(
    ("ratio", "wide", "blocks", "count"),
    [
        (0.7, 16, 64, 11 * 4),
        (0.7, 16, 70, 11 * 4),  # floor(70 / 16) = 4
        (0.29, 100, 100, 29),  # 0.29 × 100 is a little less in binary
        (0.05, 16, 32, 2),  # at least one out of 16
        (0.5, 16, 6, 3),  # fewer than 16
        (3.0, 4, 8, 8),
    ],
)
def test_the_rank_is_a_multiple_of_what_fits_the_pes(ratio: float, wide: int, blocks: int, count: int) -> None:
    assert clipping.rank_of(ratio, wide, blocks) == count


def quantized(norms: NDArray[np.floating]) -> nn.Module:
    """A ternary layer with blocks of two equal weights and these norms (out, blocks of a filter)."""
    return ternary(linear(torch.from_numpy(np.repeat(-norms / 2**0.5, 2, axis=1)).float()))


def gone(mask: NDArray[np.bool_]) -> list[list[int]]:
    return (~mask[:, ::2]).astype(int).tolist()


# Two PE columns of 2 filters × 2 blocks. Below a quarter of 8, a block is all zeros.
SIZES = np.array([[8.0, 0.1], [5.0, 6.0], [7.0, 1.0], [3.0, 1.5]])


@pytest.mark.parametrize(
    ("sparsity", "sizes", "left"),
    [
        (0.0, SIZES, [[0, 1], [0, 0], [0, 1], [0, 0]]),  # 1 and 2 natural zeros: one of each column, the smallest
        (0.25, SIZES, [[0, 1], [0, 0], [0, 1], [0, 0]]),
        (0.5, SIZES, [[0, 1], [1, 0], [0, 1], [0, 1]]),  # one more is forced in the first column
        (0.75, SIZES, [[0, 1], [1, 1], [0, 1], [1, 1]]),
        # more natural zeros than asked for: all of them go
        (0.25, np.array([[8.0, 0.1], [0.2, 6.0], [1.0, 1.5], [7.0, 3.0]]), [[0, 1], [1, 0], [1, 1], [0, 0]]),
    ],
)
def test_zeros_go_and_then_the_least_blocks_of_every_column(
    sparsity: float, sizes: NDArray[np.floating], left: list[list[int]]
) -> None:
    assert gone(harvest(quantized(sizes), replace(TOY, sparsity=sparsity))) == left


def test_a_layer_in_float_loses_what_is_asked_for_and_no_more() -> None:
    layer = linear(torch.from_numpy(np.repeat(np.where(SIZES < 2, 0, SIZES), 2, axis=1)).float())
    assert harvest(layer, TOY).all()
    assert gone(harvest(layer, replace(TOY, sparsity=0.5))) == [[0, 1], [1, 0], [0, 1], [0, 1]]


def test_a_block_of_many_small_weights_goes_before_one_of_a_single_large_one() -> None:
    """Its norm is larger, but its codes are zeros: √8 × 0.9 against 2."""
    layer = linear(torch.tensor([[0.9] * 8 + [2.0] + [0.0] * 7, [4.0] * 16]))
    mask = harvest(ternary(layer), Wanted(kind="pe_block", sparsity=0.25, block=8))
    assert (~mask[:, ::8]).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(("minimum", "stay"), [(1, 2 * 2), (6, 4 * 2), (99, 16)])
def test_a_layer_of_natural_zeros_keeps_its_minimum(minimum: int, stay: int) -> None:
    layer = quantized(np.array([[8.0, 0.1], [0.2, 0.3], [0.4, 0.1], [0.1, 0.2]]))
    mask = harvest(layer, TOY, minimum)
    assert mask.sum() == stay  # as many in both columns
    assert mask[0, 0]
    assert harvest(quantized(np.zeros((4, 2))), TOY, minimum).sum() == stay


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wanted", PE, ids=lambda w: f"{w.sparsity}-{w.block}-{w.layout}")
@pytest.mark.parametrize("natural", [0.2, 0.8])
def test_every_harvest_is_a_pattern_and_never_takes_more_than_asked_from_what_is_in_use(
    wanted: Wanted, shape: tuple[int, ...], natural: float
) -> None:
    random = np.random.default_rng(len(shape))
    weight = torch.from_numpy(drawn(shape))
    zero = pe_decode(wanted, random.random(pe_bits(wanted, shape)) < natural, shape)
    weight[torch.from_numpy(zero)] = 0
    layer = nn.Module()
    layer.register_parameter("weight", nn.Parameter(weight))
    mask = harvest(ternary(layer), wanted)
    pattern = pattern_of(wanted, mask)
    assert np.array_equal(mask_of(pattern, shape), mask)
    assert pattern.index_bytes == index_bytes_of(wanted, shape)
    asked_for = kept_weights(wanted, shape)
    assert 1 <= mask.sum() <= asked_for
    if mask.sum() < asked_for:  # more went, all of it zeros
        assert not weight_codes(layer).codes[~mask].any()


def net(*, quantized: bool = True) -> nn.Sequential:
    """Sixteen filters over two input blocks of 4; ternary in the first layer, which alone is penalised."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].weight.mul_(torch.linspace(0.2, 1.8, 16)[:, None])
    if quantized:
        ternary(model[0])
    return model


def nothing(outputs: Tensor, targets: Tensor) -> Tensor:
    """A task that asks for nothing, so that only the penalty acts."""
    return 0 * outputs.sum()


def trained(model: nn.Module, pruning: Pruning, loss: Loss = F.cross_entropy) -> dict[str, NDArray[np.bool_]]:
    return clipping.lasso_masks(model, pruning, loss=loss, teacher=Teacher(model=model, split=data()), seeds=seeds)


def norms(model: nn.Module) -> NDArray[np.float32]:
    return blocks_of(raw_weight(model.get_submodule("0")).detach(), FOUR).norms.numpy().copy()


def test_clipping_leaves_large_blocks_and_the_control_shrinks_them() -> None:
    start = norms(net())
    ends = {}
    for schedule in LASSO:
        trained(model := net(), asked({"0": FOUR}, schedule, strength=0.02, ratio=0.5), nothing)
        ends[schedule] = norms(model)
    small, large = start < 0.3 * start.mean(), start > 0.6 * start.mean()
    assert small.sum() >= 2
    assert large.sum() >= 16
    np.testing.assert_allclose(ends["clipped_lasso"][large], start[large], rtol=1e-3)  # weight decay only
    shrunk = start[large] - ends["group_lasso"][large]
    assert shrunk.min() > 0.05
    np.testing.assert_allclose(shrunk, shrunk[0], rtol=0.02)  # all by the same length
    np.testing.assert_allclose(ends["clipped_lasso"][small], ends["group_lasso"][small], atol=1e-3)
    assert (ends["clipped_lasso"][small] < 0.3 * start[small]).all()


@pytest.mark.parametrize("schedule", LASSO)
def test_a_stronger_penalty_leaves_at_least_as_many_blocks_of_zeros(schedule: str) -> None:
    counts = []
    for strength in (0.0, 0.02, 0.2):
        trained(model := net(), asked({"0": FOUR}, schedule, strength=strength, ratio=0.8))
        codes = Ternary(raw_weight(model[0]), 2, Quantizing()).parts(raw_weight(model[0])).codes  # behind the mask
        counts.append(int((codes.view(16, 2, 4).abs().amax(2) == 0).sum()))
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


@pytest.mark.parametrize("schedule", LASSO)
def test_the_found_masks_are_on_the_model_and_the_task_is_learned(schedule: str) -> None:
    model = net()
    wanted = {"0": replace(FOUR, sparsity=0.5)}
    masks = trained(model, asked(wanted, schedule, strength=1e-3))
    assert list(masks) == ["0"]
    assert masks["0"].sum() == kept_weights(wanted["0"], (16, 8)) == 64
    assert [type(step).__name__ for step in model[0].parametrizations["weight"]] == ["Mask", "Ternary"]
    np.testing.assert_array_equal(dict(model.named_buffers())["0.parametrizations.weight.0.mask"] != 0, masks["0"])
    assert not weight_codes(model[0]).codes[~masks["0"]].any()
    model.eval()
    assert (model(data().inputs).argmax(1) == data().targets).float().mean() > 0.9  # a third by chance


@pytest.mark.parametrize(("name", "bits"), [("ternary", 2), ("lsq", 2), ("lsq", 4)])
def test_the_quantizers_of_a_plan_are_asked_for_their_codes(name: str, bits: int) -> None:
    model = net(quantized=False)
    attach(model, {"0": np.ones((16, 8), dtype=bool)})
    quantize(model, Plan(layers=(LayerPlan(layer="0", weight_bits=bits, weight_quantizer=name),)))
    with torch.no_grad():
        raw_weight(model[0])[::2, :4] = 1e-6  # half of the filters' first blocks
    masks = trained(model, replace(asked({"0": FOUR}), epochs=0))
    assert masks["0"].sum() == 128 - 8 * 4
    assert not masks["0"][::2, :4].any()
    assert trained(model, replace(asked(), wanted={})) == {}


def test_the_training_is_repeatable_and_ticks() -> None:
    ticks: list[int] = []
    one, again, other = net(), net(), net()
    pruning, teacher = asked({"0": FOUR}, strength=0.01), Teacher(model=one, split=data())
    first = trained(one, pruning)
    np.testing.assert_array_equal(trained(again, pruning)["0"], first["0"])
    assert torch.equal(raw_weight(again[0]), raw_weight(one[0]))
    more: dict[str, Any] = {"tick": lambda: ticks.append(1), "mode": "bn_frozen"}
    clipping.lasso_masks(other, pruning, loss=F.cross_entropy, teacher=teacher, seeds=seeds, **more)
    assert len(ticks) == 4 * data().steps()
    assert not torch.equal(raw_weight(other[0]), raw_weight(one[0]))


@pytest.mark.parametrize("kind", ["unstructured", "2:4", "partition", "channel"])
def test_other_patterns_are_refused(kind: str) -> None:
    text = f"'clipped_lasso' finds the zeros of 'pe_block', layer '0' asks for '{kind}'"
    with pytest.raises(ImpossiblePlan, match=text):
        trained(net(), asked({"0": Wanted(kind=kind)}))


def test_names_and_blocks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UnknownName, match=r"no clip of a penalty is called 'means'\. Did you mean 'mean'"):
        block_penalty(toy(), asked(clip="means"))
    with pytest.raises(UnknownName, match="no schedule with a penalty is called 'cubic'"):
        block_penalty(toy(), asked(schedule="cubic"))
    with pytest.raises(ParetuneError, match="a pe_block of 0 is asked for"):
        block_penalty(toy(), asked({"0": replace(TOY, block=0)}))
    with pytest.raises(ParetuneError, match="no layout of pe_block is called 'rows'"):
        block_penalty(toy(), asked({"0": replace(TOY, layout="rows")}))


def test_a_diverged_training_is_an_impossible_plan() -> None:
    with pytest.raises(ImpossiblePlan, match="the loss became"):
        trained(net(), replace(asked({"0": FOUR}, strength=float("inf")), lr=1.0))
    with pytest.raises(ImpossiblePlan, match="scores are not numbers; did training diverge"):
        harvest(linear(torch.full((2, 2), torch.nan)), TOY)


def test_changed_codes_are_counted_by_surviving_block() -> None:
    before = np.zeros((4, 5, 3, 3), dtype=np.int8)
    after, mask = before.copy(), np.ones(before.shape, dtype=bool)
    mask[3] = False
    after[0, 1, 2, 2], after[0, 0, 0, 0], after[1, 4, 0, 0], after[3] = 1, -1, -1, 1
    assert block_codes_changed(before, after, mask, TOY) == pytest.approx(2 / 9)  # the last block is short
    assert block_codes_changed(before, after, mask, FILTERS) == pytest.approx(2 / 3)
    assert block_codes_changed(before, before, mask, TOY) == 0
    assert block_codes_changed(before, after, np.zeros_like(mask), TOY) == 0
    with pytest.raises(ParetuneError, match=r"one shape, got \(4, 5, 3, 3\), \(2, 5, 3, 3\) and \(4, 5, 3, 3\)"):
        block_codes_changed(before, after[:2], mask, TOY)
