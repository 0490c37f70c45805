"""Every quantizer, frozen and thawed, computes what it did while it trained."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from export_nets import Compressed, compressed, images, settle
from masked_nets import WANTED, random_mask, zeros_of
from torch import nn

from paretune.compress.cut import cut
from paretune.compress.freeze import ActivationRounding, freeze, thaw
from paretune.compress.groups import discover
from paretune.compress.masks import attach
from paretune.compress.patterns import pattern_of
from paretune.compress.quantize import calibrate, quantize, tell_quantizers, weight_codes
from paretune.compress.quantizers import ACTIVATIONS, WEIGHTS
from paretune.errors import ParetuneError
from paretune.frozen import activation_floats, stored_levels, top_code
from paretune.inventory import Inventory
from paretune.plan import Codes, LayerPlan, Plan

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
