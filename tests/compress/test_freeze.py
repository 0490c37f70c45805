"""Freezing loses nothing: folded batch norms, codes and steps give the model back."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from compress_nets import build
from export_nets import Compressed, compressed, images, mixed, settle
from masked_nets import WANTED, masked, of_kind, random_mask, train
from torch import Tensor, nn

from paretune.compress.cut import cut
from paretune.compress.freeze import ActivationRounding, freeze, thaw
from paretune.compress.groups import discover
from paretune.compress.masks import attach, masked_layers
from paretune.compress.patterns import mask_of, pattern_of
from paretune.compress.quantize import calibrate, quantize, tell_quantizers, weight_codes
from paretune.compress.quantizers import ACTIVATIONS, WEIGHTS
from paretune.errors import ParetuneError
from paretune.frozen import FrozenLayer, activation_floats, stored_levels, top_code
from paretune.inventory import Inventory
from paretune.plan import DENSE, Codes, LayerPlan, Plan


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


def zeros_of(layer: FrozenLayer) -> np.ndarray:
    assert layer.pattern is not None
    return ~mask_of(layer.pattern, layer.codes.shape)


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


WEIGHT_CASES = [(name, bits) for name, row in WEIGHTS.items() for bits in range(row.least, row.most + 1)]
ACTIVATION_CASES = [
    (name, bits) for name, row in ACTIVATIONS.items() for bits in (1, 2, 5, 8) if row.least <= bits <= row.most
]
each_weight = pytest.mark.parametrize(("name", "bits"), WEIGHT_CASES)


@cache
def folding() -> tuple[nn.Module, Inventory]:
    """A convolution and a linear layer, each before a norm with negative gammas and a zero one."""
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 24, 3, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    dense = settle(nn.Sequential(*body, nn.Linear(96, 8), nn.BatchNorm1d(8)))
    return dense, discover(dense, images(2))


def with_quantizers(
    weights: tuple[str, int], activations: tuple[str, int] = ("lsq", 32), *, holes: bool = False
) -> Compressed:
    """The net `folding` with these quantizers and bits.

    The activation quantizer belongs to what the linear layer reads, which is never negative; with `holes` half of the
    linear layer's weights are masked.
    """
    (dense, inventory), batch = folding(), images(64)
    mask = random_mask(WANTED["half"], (8, 96))
    conv = LayerPlan(layer="0", weight_bits=weights[1], weight_quantizer=weights[0])
    linear = replace(
        conv, layer="5", activation_bits=activations[1], activation_quantizer=activations[0], encoding="dense",
        pattern=pattern_of(WANTED["half"], mask) if holes else None,
    )  # fmt: skip
    plan, model = Plan(layers=(conv, linear)), cut(dense, inventory, {})
    if holes:
        attach(model, {"5": mask})
    calibrate(quantize(model, plan), batch)
    tell_quantizers(model, 1.0)
    return Compressed(dense=dense, model=model.eval(), inventory=inventory, plan=plan, images=batch)


def assert_alike(made: Compressed, thawed: nn.Module) -> None:
    """Before and after the place where activations are rounded, from equal inputs: a half may be rounded either way."""
    want = made.images
    for part in (slice(0, 5), slice(5, None)):
        x = want
        with torch.no_grad():
            want, got = made.model[part](x), thawed[part](x)  # type: ignore[index]
        assert want.isfinite().all()
        assert (got - want).abs().max() <= 1e-4 * want.abs().max()


@each_weight
def test_every_weight_quantizer_thaws_to_what_it_was(name: str, bits: int) -> None:
    made = with_quantizers((name, bits))
    frozen = freeze(made.model, made.inventory, made.plan)
    thawed = thaw(made.dense, made.inventory, made.plan, frozen)
    assert_alike(made, thawed)
    for key, norm in (("0", "1"), ("5", "6")):
        layer, module, after = frozen.layers[key], made.model.get_submodule(key), made.model.get_submodule(norm)
        assert layer.codes.dtype == np.int8
        assert np.abs(layer.codes).max() <= top_code(bits)
        assert layer.scales.shape == (len(layer.codes),)
        assert layer.levels.size == stored_levels(name, bits)
        assert layer.scales.all()
        factor = after.weight / (after.running_var + after.eps).sqrt()  # type: ignore[operator, union-attr]
        weight = module.weight * factor.view(-1, *[1] * (layer.codes.ndim - 1))  # type: ignore[operator]
        np.testing.assert_allclose(layer.weight(), weight.detach().numpy(), rtol=1e-6, atol=1e-37)
        thawed_weight = thawed.get_submodule(key).weight.numpy()  # type: ignore[operator, union-attr]
        np.testing.assert_array_equal(thawed_weight, layer.weight())


@each_weight
def test_masked_weights_have_code_zero_under_every_quantizer(name: str, bits: int) -> None:
    made = with_quantizers((name, bits), holes=True)
    layer = freeze(made.model, made.inventory, made.plan).layers["5"]
    zeros = zeros_of(layer)
    assert not layer.codes[zeros].any()
    assert not layer.weight()[zeros].any()
    assert layer.codes[~zeros].any()
    assert_alike(made, thaw(made.dense, made.inventory, made.plan, freeze(made.model, made.inventory, made.plan)))


def test_the_sign_of_a_norm_moves_into_symmetric_codes_and_into_the_scale_of_a_codebook() -> None:
    for name, bits in WEIGHT_CASES:
        made = with_quantizers((name, bits))
        found, layer = weight_codes(made.model[0]), freeze(made.model, made.inventory, made.plan).layers["0"]  # type: ignore[index]
        negative = made.model[1].weight.detach().numpy() < 0  # type: ignore[index]
        alive = made.model[1].weight.detach().numpy() != 0  # type: ignore[index]
        assert negative.any()
        turned = negative if layer.grid != "codebook" else np.zeros_like(negative)
        assert np.array_equal(layer.codes[turned], -found.codes[turned])
        assert np.array_equal(layer.codes[alive & ~turned], found.codes[alive & ~turned])
        assert np.array_equal(layer.scales < 0, negative & (layer.grid == "codebook"))
        assert np.array_equal(layer.levels, found.levels)
        assert layer.grid == found.grid


@each_weight
def test_a_dead_channel_has_no_codes_or_at_one_bit_the_smallest_scale(name: str, bits: int) -> None:
    made = with_quantizers((name, bits))
    layer = freeze(made.model, made.inventory, made.plan).layers["0"]
    assert made.model[1].weight[1] == 0  # type: ignore[index]
    if bits > 1:
        assert not layer.codes[1].any()
        assert not layer.weight()[1].any()
        assert layer.scales[1] == weight_codes(made.model[0]).scales[1]  # type: ignore[index]
    else:
        assert np.array_equal(layer.codes[1], weight_codes(made.model[0]).codes[1])  # type: ignore[index]
        assert layer.scales[1] == np.finfo(np.float32).tiny == np.float32(2.0**-126)


@pytest.mark.parametrize(("name", "bits"), ACTIVATION_CASES)
def test_every_activation_quantizer_thaws_to_what_it_was(name: str, bits: int) -> None:
    made = with_quantizers(("lsq", 8), (name, bits))
    frozen = freeze(made.model, made.inventory, made.plan)
    assert_alike(made, thaw(made.dense, made.inventory, made.plan, frozen))
    layer, quantizer = frozen.layers["5"], made.model[5].activation_quantizer  # type: ignore[index]
    assert (layer.low, layer.high) == (quantizer.low, quantizer.high)
    assert layer.power == quantizer.power()
    assert layer.exponent == (name == "djpq")
    assert (layer.step != 0) + layer.exponent == activation_floats(name, layer.activation_bits)
    assert (frozen.layers["0"].step, frozen.layers["0"].exponent) == (0.0, False)


def test_the_rounding_with_a_power_is_the_formula() -> None:
    x = torch.tensor([-4.0, -0.25, 0.0, 0.09, 1.0, 2.25, 100.0])
    rounding = ActivationRounding(0.5, -3, 4, 0.5)
    want = [-1.5, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]  # |x|^½: 2, 0.5, 0, 0.3, 1, 1.5, 10
    assert rounding(x).tolist() == want
    assert torch.equal(ActivationRounding(0.5, -3, 4)(x), ActivationRounding(0.5, -3, 4, 1.0)(x))
    assert ActivationRounding(0.5, -3, 4)(x).tolist() == [-1.5, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0]


def test_the_power_of_an_activation_survives() -> None:
    made = with_quantizers(("lsq", 8), ("lsq", 8))
    made.model[5].activation_quantizer.power = lambda: 0.5  # type: ignore[index]
    frozen = freeze(made.model, made.inventory, made.plan)
    assert frozen.layers["5"].power == 0.5
    assert thaw(made.dense, made.inventory, made.plan, frozen)[5].activation_rounding.power == 0.5  # type: ignore[index]


def test_the_encoding_and_the_codes_of_a_plan_are_no_matter_of_the_models() -> None:
    made = with_quantizers(("lsq", 4))
    codes = Codes(nonzeros=1, distinct=1, entropy_bits=1, huffman_bits=1, gap_bits=1, entries=1)
    plan = replace(made.plan, layers=tuple(replace(row, codes=codes) for row in made.plan.layers))
    layers = freeze(made.model, made.inventory, plan).layers
    assert (layers["0"].encoding, layers["5"].encoding) == ("cheapest", "dense")


def test_a_quantizer_that_is_not_the_plans_is_refused() -> None:
    made = with_quantizers(("lsq", 4), ("lsq", 4))
    for field, other in (("weight_quantizer", "min_max"), ("activation_quantizer", "pact")):
        rows = tuple(replace(row, **{field: other}) if row.layer == "5" else row for row in made.plan.layers)  # type: ignore[arg-type]
        with pytest.raises(
            ParetuneError, match=rf"plan asks for .*{field}='{other}'.*the model carries .*{field}='lsq'"
        ):
            freeze(made.model, made.inventory, replace(made.plan, layers=rows))


def test_who_would_quantize_a_float_layer_is_no_matter() -> None:
    torch.manual_seed(0)
    net = settle(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    made = compressed(net, {}, groups=False)
    plan = Plan(layers=(LayerPlan(layer="0", weight_quantizer="min_max", activation_quantizer="pact"),))
    assert freeze(made.model, made.inventory, plan).layers["0"].weight_bits == 32
