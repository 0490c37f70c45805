"""Codes times scales are the weights, whatever a code means."""

import numpy as np
import pytest

from paretune.frozen import FrozenLayer, activation_floats, stored_levels, top_code


def test_the_codes_of_b_bits_are_symmetric_around_zero() -> None:
    """One bit has a sign and no number; with more, one of the 2^b patterns is left over."""
    assert [top_code(bits) for bits in range(1, 9)] == [1, *(2 ** (bits - 1) - 1 for bits in range(2, 9))]


def test_weights_are_codes_times_the_scale_of_their_output_channel() -> None:
    codes = np.array([[[[1, -7]], [[0, 3]]], [[[7, 2]], [[-1, 0]]]], dtype=np.int8)  # (2, 2, 1, 2)
    layer = FrozenLayer(codes=codes, scales=np.array([0.5, 2.0], dtype=np.float32), bias=None, weight_bits=4)
    expected = [[[[0.5, -3.5]], [[0.0, 1.5]]], [[[14.0, 4.0]], [[-2.0, 0.0]]]]
    assert layer.weight().tolist() == expected
    assert layer.weight().dtype == np.float32
    assert np.array_equal(layer.values(), codes)


def test_float_weights_are_themselves() -> None:
    weight = np.array([[0.1, -0.2]], dtype=np.float32)
    layer = FrozenLayer(codes=weight, scales=np.empty(0, dtype=np.float32), bias=None)
    assert np.array_equal(layer.weight(), weight)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_uniform_code_is_its_own_value(bits: int) -> None:
    codes = np.arange(-top_code(bits), top_code(bits) + 1).astype(np.int8)[None]
    layer = FrozenLayer(codes=codes, scales=np.array([3], np.float32), bias=None, weight_bits=bits)
    assert layer.weight().tolist() == [[3.0 * code for code in range(-top_code(bits), top_code(bits) + 1)]]


def test_a_power_of_two_counts_down_from_the_scale() -> None:
    """3 bits, top code 3: sign × 2^(|code| - 3), and code 0 is zero."""
    codes = np.array([[-3, -2, -1, 0, 1, 2, 3], [0, 0, 0, 0, 0, 0, -2]], np.int8)
    scales = np.array([1, 0.75], np.float32)
    layer = FrozenLayer(codes=codes, scales=scales, bias=None, weight_bits=3, grid="power_of_two")
    assert layer.values().tolist() == [[-1, -0.5, -0.25, 0, 0.25, 0.5, 1], [0, 0, 0, 0, 0, 0, -0.5]]
    assert layer.weight().tolist() == [[-1, -0.5, -0.25, 0, 0.25, 0.5, 1], [0, 0, 0, 0, 0, 0, -0.375]]
    assert layer.weight().dtype == np.float32


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_power_of_two_is_exact(bits: int) -> None:
    top = top_code(bits)
    codes = np.arange(-top, top + 1).astype(np.int8)[None]
    layer = FrozenLayer(codes=codes, scales=np.ones(1, np.float32), bias=None, weight_bits=bits, grid="power_of_two")
    expected = [
        0.0 if code == 0 else (1 if code > 0 else -1) * 2.0 ** (abs(code) - top) for code in range(-top, top + 1)
    ]
    assert layer.values().tolist() == [expected]


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_code_of_a_codebook_is_a_place_among_its_levels_and_zero(bits: int) -> None:
    top = top_code(bits)
    levels = np.sort(np.random.default_rng(0).normal(size=2 * top)).astype(np.float32)
    codes = np.random.default_rng(1).integers(-top, top + 1, (3, 40)).astype(np.int8)
    scales = np.array([1, 2, 0.5], np.float32)
    layer = FrozenLayer(codes=codes, scales=scales, bias=None, weight_bits=bits, grid="codebook", levels=levels)
    meaning = (
        {0: np.float32(0)} | {-top + i: levels[i] for i in range(top)} | {1 + i: levels[top + i] for i in range(top)}
    )
    expected = np.array([[meaning[int(code)] for code in row] for row in codes])
    assert np.array_equal(layer.values(), expected)
    assert np.array_equal(layer.weight(), expected * scales[:, None])
    assert layer.weight().dtype == np.float32


def test_a_codebook_stores_every_level_but_its_zero() -> None:
    assert [stored_levels("codebook", bits) for bits in (1, 2, 3, 4, 8, 32)] == [2, 2, 6, 14, 254, 0]
    assert not any(stored_levels(name, 4) for name in ("lsq", "inq", "power_of_two", "ternary"))


def test_an_activation_stores_its_step_and_djpqs_its_exponent_too() -> None:
    assert [activation_floats("lsq", bits) for bits in (1, 8, 32)] == [1, 1, 0]
    assert [activation_floats("djpq", bits) for bits in (1, 8, 32)] == [2, 2, 0]
