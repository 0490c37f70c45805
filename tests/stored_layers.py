"""Random frozen layers of every width, shape, density, grid and pattern: what the tests of storage share."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from masked_nets import WANTED, random_mask
from numpy.typing import NDArray

from paretune.compress.patterns import pattern_of
from paretune.frozen import GRIDS, FrozenLayer, stored_levels, top_code
from paretune.recipe import Wanted

KINDS = {**WANTED, "3:5": Wanted(kind="3:5"), "2:2": Wanted(kind="2:2"), "1:16": Wanted(kind="1:16")}
SHAPES = st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple)
MASKED = st.sampled_from([(8, 8), (8, 24), (16, 8, 3), (8, 20, 3, 3), (24, 16)])


def a_layer(
    shape: tuple[int, ...], bits: int, density: float, *, seed: int = 0, kind: str = "", grid: str = "uniform",
    distinct: int = 0, peaked: bool = False, biased: bool = True, activation_bits: int = 32, exponent: bool = False,
) -> FrozenLayer:  # fmt: skip
    """A layer with about `density` of its (kept) weights not zero, `distinct` different floats, or codes near zero."""
    random = np.random.default_rng(seed)
    codes = np.where(random.random(shape) < density, _numbers(random, shape, bits, distinct, peaked), 0)
    mask = random_mask(KINDS[kind], shape, seed) if kind else np.ones(shape, np.bool_)
    quantized, narrow = bits < 32, activation_bits < 32
    levels = stored_levels("codebook" if grid == "codebook" else "lsq", bits)
    return FrozenLayer(
        codes=np.where(mask, codes, 0).astype(np.int8 if quantized else np.float32),
        scales=random.random(shape[0] if quantized else 0, np.float32) + np.float32(0.1),
        bias=random.standard_normal(shape[0], np.float32) if biased else None,
        weight_bits=bits, activation_bits=activation_bits,
        step=float(random.random(dtype=np.float32)) if narrow else 0.0,
        low=-int(random.integers(0, 128)), high=int(random.integers(1, 256)),
        power=float(random.random(dtype=np.float32)) if exponent and narrow else 1.0,
        exponent=exponent and narrow, grid=grid if quantized else "uniform",
        levels=np.sort(random.standard_normal(levels).astype(np.float32)),
        pattern=pattern_of(KINDS[kind], mask) if kind else None,
    )  # fmt: skip


def _numbers(random: Any, shape: tuple[int, ...], bits: int, distinct: int, peaked: bool) -> NDArray[Any]:
    """Without zeros."""
    if bits == 32:
        floats = random.standard_normal(shape).astype(np.float32)
        return random.choice(floats.ravel()[:distinct], shape) if distinct else floats
    top = top_code(bits)
    whole = np.ceil(np.abs(random.standard_normal(shape)) * top / 4) if peaked else random.integers(1, top + 1, shape)
    signs: NDArray[Any] = np.minimum(whole, top) * random.choice([-1, 1], shape)
    return signs


@st.composite
def any_layer(draw: st.DrawFn) -> FrozenLayer:
    """Also one weight, one filter, all zeros; the shapes with a mask are those that every kind fits."""
    kind = draw(st.sampled_from(["", "", "", *KINDS]))
    shape = draw(st.sampled_from([(8, 8), (8, 24)]) if kind == "partition" else MASKED if kind else SHAPES)
    return a_layer(
        shape, draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 32])),
        draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.9, 1.0])), seed=draw(st.integers(0, 2**32)), kind=kind,
        grid=draw(st.sampled_from(GRIDS)), distinct=draw(st.sampled_from([0, 0, 1, 3])), peaked=draw(st.booleans()),
        biased=draw(st.booleans()), activation_bits=draw(st.sampled_from([4, 32])), exponent=draw(st.booleans()),
    )  # fmt: skip
