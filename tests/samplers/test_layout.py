"""Places and parameters are two names of one thing, and blocks and kinds are those of the network."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from paretune.samplers.layout import Axis, Layout, block_of, distributions, layout_of
from paretune.spaces.leaf import Choice, Fixed, Range
from paretune.spaces.mixing import Mixing
from paretune.spaces.question import Question
from paretune.spaces.sections import section
from paretune.spaces.space import Space

DISTRIBUTIONS = {
    "names": CategoricalDistribution(["l1", "taylor", "bn"]),
    "one name": CategoricalDistribution(["l1"]),
    "whole": IntDistribution(-3, 4),
    "whole in steps": IntDistribution(2, 16, step=7),
    "whole, log": IntDistribution(1, 1000, log=True),
    "one number": IntDistribution(5, 5),
    "one number, log": FloatDistribution(0.1, 0.1, log=True),
    "grid": FloatDistribution(0.0, 0.8, step=0.05),
    "line": FloatDistribution(-1.0, 3.0),
    "one point": FloatDistribution(1.5, 1.5),
    "log": FloatDistribution(1e-4, 0.1, log=True),
}


def axis(distribution, name="x", block="b", kind="k"):
    return Axis(name=name, distribution=distribution, block=block, kind=kind)


@pytest.mark.parametrize("dist", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
@given(share=st.floats(-0.2, 1.2))
def test_every_place_is_a_parameter_and_back(dist, share):
    one = axis(dist)
    at = one.snapped(share * one.top)
    value = one.value(share * one.top)
    assert 0 <= at <= one.top
    assert dist._contains(dist.to_internal_repr(value))
    assert value == one.value(at)
    if one.levels is None:
        again = one.value(one.place(value))
        assert again == pytest.approx(value, rel=1e-12, abs=1e-12)
    else:
        assert one.place(value) == at == round(at)


def test_places_by_hand():
    assert [axis(DISTRIBUTIONS["whole in steps"]).value(at) for at in (0, 1, 2)] == [2, 9, 16]
    assert [axis(DISTRIBUTIONS["names"]).value(at) for at in (0, 1.2, 9)] == ["l1", "taylor", "bn"]
    assert axis(DISTRIBUTIONS["log"]).value(1 / 3) == pytest.approx(1e-3)
    assert axis(DISTRIBUTIONS["whole, log"]).value(0.5) == 32  # √1000
    assert axis(DISTRIBUTIONS["line"]).place(0.0) == 0.25


@pytest.mark.parametrize(
    ("name", "levels"),
    {"names": 3, "one name": 1, "whole": 8, "whole in steps": 3, "whole, log": None, "grid": 17, "log": None}.items(),
)
def test_how_many_values_there_are(name, levels):
    assert axis(DISTRIBUTIONS[name]).levels == levels


def test_the_values_of_a_grid_are_the_numbers_one_writes():
    """0.05 × 3 is 0.15000000000000002 in binary: a plan asked for by hand would count as another one."""
    one = axis(DISTRIBUTIONS["grid"])
    assert [one.value(place) for place in range(17)] == [round(0.05 * place, 2) for place in range(17)]
    layout = Layout(axes=(one,))
    assert layout.on_grid({"x": 0.15000000000000002}) == {"x": 0.15}
    two = Layout(axes=(one, axis(DISTRIBUTIONS["log"], "lr")))
    assert list(two.on_grid({"y": 1, "lr": 0.001, "x": 0.1}).items()) == [("x", 0.1), ("lr", 0.001), ("y", 1)]
    assert two.on_grid({"lr": 0.001}) == {"lr": 0.001}


def test_only_names_have_no_order():
    assert {name for name, dist in DISTRIBUTIONS.items() if not axis(dist).ordered} == {"names", "one name"}


@pytest.mark.parametrize(
    ("name", "block"),
    {
        "layer1.0.conv1": "layer1.0",
        "layer1.0": "layer1.0",
        "blocks.1.shortcut.0": "blocks.1",
        "stem": "stem",
        "stem.conv": "stem",
        "features.3": "features.3",
        "encoder.layer_0.mlp": "encoder.layer_0",
        "encoder.layer_11.mlp.fc1": "encoder.layer_11",
        "features.denseblock1.denselayer2.conv1": "features.denseblock1.denselayer2",
        "0": "0",
        "0.conv": "0",
        "conv_1": "conv_1",
        "net.conv_1": "net.conv_1",
    }.items(),
)
def test_the_block_of_a_layer(name, block):
    assert block_of(name) == block


def test_a_layout_has_the_open_questions_of_a_space_by_block_and_kind():
    names = ("a.0.x", "a.0.y", "a.1.x")
    space = Space(
        ratios=tuple(
            Question(name=f"ratio/{name}", leaf=Range(low=0.0, high=0.8, step=0.05), targets=(name,)) for name in names
        ),
        weight_bits=(
            *(Question(name=f"weight_bits/{name}", leaf=Choice(options=(2, 4)), targets=(name,)) for name in names[:2]),
            Question(name="weight_bits/rest", leaf=Fixed(value=8), targets=names[2:]),
        ),
        activation_bits=(Question(name="activation_bits", leaf=Choice(options=(4, 8)), targets=names),),
        mixing=Mixing(criteria=("l1",), names=names, plain=Question(name="criterion", leaf=Fixed(value="l1"))),
        shared=tuple(
            question
            for name, given in {
                "recover": {"lr": {"low": 0.001, "high": 0.1, "log": True}},
                **{key: {} for key in ("rate", "mask", "quantize", "joint", "keep", "blend", "")},
            }.items()
            for question in section(name, given)
        ),
    )
    layout = layout_of(space)
    assert list(distributions(space)) == [
        "ratio/a.0.x", "ratio/a.0.y", "ratio/a.1.x", "weight_bits/a.0.x@index", "weight_bits/a.0.y@index",
        "activation_bits@index", "recover/lr",
    ]  # fmt: skip
    assert layout.blocks == ((0, 1, 3, 4, 5), (2,), (6,))
    assert layout.kinds == ((0, 1, 2), (3, 4), (5,), (6,))
    assert layout.size == np.inf


def test_the_size_of_a_space_is_the_product_of_its_axes():
    axes = tuple(axis(dist, name) for name, dist in DISTRIBUTIONS.items() if axis(dist).levels)
    assert Layout(axes=axes).size == 3 * 1 * 8 * 3 * 1 * 17
    assert Layout(axes=()).size == 1


def test_a_row_is_a_point_and_back():
    layout = Layout(axes=tuple(axis(dist, name) for name, dist in DISTRIBUTIONS.items()))
    rng = np.random.default_rng(0)
    params = layout.params([one.top * rng.random() for one in layout.axes])
    assert layout.params(layout.row(params)) == pytest.approx(params)
    assert layout.on_grid(params) == params
