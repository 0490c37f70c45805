"""Freezing loses nothing: folded batch norms, codes and steps give the model back."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from compress_nets import build
from export_nets import Compressed, compressed, images, mixed, settle
from masked_nets import WANTED, masked, of_kind, random_mask, train, zeros_of
from torch import Tensor, nn

from paretune.compress.cut import cut
from paretune.compress.freeze import freeze, thaw
from paretune.compress.masks import attach, masked_layers
from paretune.compress.patterns import pattern_of
from paretune.errors import ParetuneError
from paretune.plan import DENSE, LayerPlan, Plan


@pytest.fixture(scope="module")
def made() -> Compressed:
    return mixed()


def chain(*layers: nn.Module) -> Compressed:
    """A few layers, 4-bit weights and 8-bit activations, none of them cut."""
    torch.manual_seed(0)
    net = settle(nn.Sequential(*layers))
    names = [name for name, layer in net.named_children() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    return compressed(net, dict.fromkeys(names, (4, 8)), groups=False)


NETS: dict[str, Callable[[], Compressed]] = {
    "mixed": mixed,
    "conv bias and norm": lambda: chain(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(216, 4)),
    "no norm, no bias": lambda: chain(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)),
    "norms without weight": lambda: chain(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(216, 4),
        nn.BatchNorm1d(4, affine=False),
    ),
    "layers called by keyword": lambda: compressed(build("named")[0], {"one": (4, 8), "two": (3, 4), "head": (4, 8)}),
    "norm first": lambda: chain(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(216, 4)),
    "norm last": lambda: chain(nn.Flatten(), nn.Linear(192, 8, bias=False), nn.BatchNorm1d(8)),
}


class Alias(nn.Module):
    """Keeps its layers under two names each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6))
        self.stem, self.norm, _, self.last = self.body
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.last(self.norm(self.body[0](x)).relu()).mean((2, 3)))
        return logits


def alias() -> Compressed:
    torch.manual_seed(3)
    return compressed(settle(Alias()), {"body.0": (4, 8), "head": (4, 8)})


NETS["layers of two names"] = alias


@pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())
def test_a_thawed_model_computes_what_was_frozen(net: Callable[[], Compressed]) -> None:
    made = net()
    frozen = freeze(made.model, made.inventory, made.plan)
    thawed = thaw(made.dense, made.inventory, made.plan, frozen)
    with torch.no_grad():
        want, got = made.model(made.images), thawed(made.images)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert (got.argmax(1) == want.argmax(1)).all()
    assert len(want.argmax(1).unique()) > 1


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 32])
def test_every_bit_width_survives(bits: int) -> None:
    torch.manual_seed(0)
    net = settle(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)))
    made = compressed(net, {"0": (bits, bits), "4": (bits, bits)})
    frozen = freeze(made.model, made.inventory, made.plan)
    with torch.no_grad():
        got = thaw(made.dense, made.inventory, made.plan, frozen)(made.images)
        torch.testing.assert_close(got, made.model(made.images), atol=1e-4, rtol=1e-4)
    if bits < 32:
        assert np.abs(frozen.layers["0"].codes).max() <= 2 ** (bits - 1) - 1


def test_folding_is_the_formula() -> None:
    torch.manual_seed(0)
    net = settle(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    made = compressed(net, {})
    layer = freeze(made.model, made.inventory, made.plan).layers["0"]
    conv, norm = net[0], net[1]
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(torch.from_numpy(layer.codes), conv.weight.detach() * factor.view(-1, 1, 1, 1))
    torch.testing.assert_close(
        torch.from_numpy(layer.bias), (norm.bias + (conv.bias - norm.running_mean) * factor).detach()
    )


def test_a_negative_gamma_turns_the_codes_and_a_zero_one_clears_them() -> None:
    torch.manual_seed(0)
    net = settle(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)))
    made = compressed(net, {"0": (4, 32)}, groups=False)
    flipped = made.model
    before = freeze(flipped, made.inventory, made.plan).layers["0"]
    flipped[1].weight.data.neg_()
    after = freeze(flipped, made.inventory, made.plan).layers["0"]
    assert np.array_equal(before.codes, -after.codes)
    assert np.array_equal(before.scales, after.scales)
    assert not before.codes[1].any()
    assert (before.scales > 0).all()


def test_the_rest_holds_every_other_float_and_no_counter(made: Compressed) -> None:
    rest = freeze(made.model, made.inventory, made.plan).rest
    parts = ("weight", "bias", "running_mean", "running_var")
    assert set(rest) == {"scale", *(f"join_norm.{part}" for part in parts)}


def test_the_dense_and_the_compressed_model_stay_as_they_are(made: Compressed) -> None:
    before = {key: value.clone() for key, value in made.dense.state_dict().items()}
    frozen = freeze(made.model, made.inventory, made.plan)
    thawed = thaw(made.dense, made.inventory, made.plan, frozen)
    for parameter in thawed.parameters():
        parameter.fill_(7.0)
    for key, value in made.dense.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    again = freeze(made.model, made.inventory, made.plan)
    assert np.array_equal(again.layers["stem"].codes, frozen.layers["stem"].codes)


def test_a_plan_that_is_not_the_models_is_refused(made: Compressed) -> None:
    other = replace(made.plan, layers=(LayerPlan(layer="stem", weight_bits=4),))
    with pytest.raises(ParetuneError, match="layer='stem', weight_bits=4"):
        freeze(made.model, made.inventory, other)


def test_a_frozen_model_of_another_plan_is_refused(made: Compressed) -> None:
    frozen = freeze(made.model, made.inventory, made.plan)
    with pytest.raises(ParetuneError, match="'stem' is \\(6, 3, 3, 3\\) in the frozen model"):
        thaw(made.dense, made.inventory, DENSE, frozen)
    with pytest.raises(ParetuneError, match=r"do not share: scale"):
        thaw(
            made.dense,
            made.inventory,
            made.plan,
            replace(frozen, rest={k: v for k, v in frozen.rest.items() if k != "scale"}),
        )
    with pytest.raises(ParetuneError, match="has no layer 'head'"):
        thaw(
            made.dense,
            made.inventory,
            made.plan,
            replace(frozen, layers={k: v for k, v in frozen.layers.items() if k != "head"}),
        )


def test_a_norm_without_statistics_cannot_be_folded() -> None:
    torch.manual_seed(0)
    net = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    made = compressed(net, {}, groups=False)
    made.model[1].running_mean = None
    with pytest.raises(ParetuneError, match="'1' keeps no running statistics"):
        freeze(made.model, made.inventory, made.plan)


def test_the_dense_model_freezes_to_itself(made: Compressed) -> None:
    frozen = freeze(made.dense, made.inventory, Plan())
    with torch.no_grad():
        got, want = (
            thaw(made.dense, made.inventory, Plan(), frozen)(images(8)),
            cut(made.dense, made.inventory, {})(images(8)),
        )
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bits", [2, 4, 8, 32])
@pytest.mark.parametrize("kind", WANTED)
def test_masked_weights_are_plain_zeros_all_the_way(kind: str, bits: int) -> None:
    """The norm behind `conv` has negative and zero gammas; a float -0.0 would not survive the packed file."""
    made = of_kind(kind, bits)
    frozen = freeze(made.model, made.inventory, made.plan)
    thawed = thaw(made.dense, made.inventory, made.plan, frozen)
    for row in made.plan.layers:
        layer, weight = frozen.layers[row.layer], thawed.get_submodule(row.layer).weight.numpy()  # type: ignore[operator, union-attr]
        assert layer.pattern == row.pattern
        if row.pattern is None:
            continue
        zeros = zeros_of(layer)
        assert layer.codes.dtype == (np.float32 if bits == 32 else np.int8)
        assert not layer.codes[zeros].any()
        assert not np.signbit(layer.codes[zeros]).any()
        assert not weight[zeros].any()
        assert weight[~zeros].any()
    with torch.no_grad():
        torch.testing.assert_close(thawed(made.images), made.model(made.images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bits", [3, 32])
@pytest.mark.parametrize("straight", [False, True], ids=["frozen", "ste"])
def test_training_does_not_fill_what_is_frozen(straight: bool, bits: int) -> None:
    made = of_kind("half", bits)
    before = freeze(made.model, made.inventory, made.plan).layers["one"].weight()
    for _, _, mask in masked_layers(made.model):
        mask.straight = straight
    train(made.model)
    layer = freeze(made.model, made.inventory, made.plan).layers["one"]
    assert not layer.codes[zeros_of(layer)].any()
    assert not np.array_equal(layer.weight(), before)


def test_zeros_that_are_not_the_plans_are_refused() -> None:
    made = masked({"one": WANTED["half"]}, 4)
    others = {"another": random_mask(WANTED["half"], (24, 16), seed=1), "none": np.ones((24, 16), np.bool_)}
    for mask in others.values():
        attach(made.model, {"one": mask})
        with pytest.raises(ParetuneError, match="'one': the plan has pattern 'unstructured', which leaves 192 of 384"):
            freeze(made.model, made.inventory, made.plan)
    attach(made.model, {"one": random_mask(WANTED["half"], (24, 16))})
    freeze(made.model, made.inventory, made.plan)
    bare = replace(made.plan, layers=tuple(replace(row, pattern=None) for row in made.plan.layers))
    with pytest.raises(ParetuneError, match=r"'one': the plan has no pattern, so it leaves all .* mask leaves 192"):
        freeze(made.model, made.inventory, bare)


def test_a_model_without_the_plans_mask_is_refused() -> None:
    made = masked({}, 4)
    mask = random_mask(WANTED["half"], (24, 16))
    rows = tuple(
        replace(row, pattern=pattern_of(WANTED["half"], mask)) if row.layer == "one" else row
        for row in made.plan.layers
    )
    with pytest.raises(ParetuneError, match="mask leaves 384 and is another at 192 of them"):
        freeze(made.model, made.inventory, replace(made.plan, layers=rows))


def test_bits_are_compared_without_the_pattern_in_the_message() -> None:
    made = masked({"one": WANTED["half"]}, 4)
    rows = tuple(replace(row, weight_bits=5) if row.layer == "one" else row for row in made.plan.layers)
    with pytest.raises(ParetuneError, match=r"layer='one', weight_bits=5.*pattern=None.*weight_bits=4"):
        freeze(made.model, made.inventory, replace(made.plan, layers=rows))


def test_a_pattern_of_another_shape_is_refused() -> None:
    made = masked({"one": WANTED["half"]}, 4)
    pattern = pattern_of(WANTED["half"], random_mask(WANTED["half"], (8, 24)))
    rows = tuple(replace(row, pattern=pattern) if row.layer == "one" else row for row in made.plan.layers)
    with pytest.raises(ParetuneError, match=r"\(24, 16\)"):
        freeze(made.model, made.inventory, replace(made.plan, layers=rows))


def test_a_mask_that_leaves_everything_needs_no_pattern() -> None:
    made, plain = masked({}, 4), masked({}, 4)
    attach(made.model, {"one": np.ones((24, 16), np.bool_)})
    found, want = (freeze(net.model, net.inventory, net.plan).layers["one"] for net in (made, plain))
    assert found.pattern is None
    assert np.array_equal(found.codes, want.codes)
    assert np.array_equal(found.scales, want.scales)
