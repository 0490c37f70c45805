"""Codes times scales are the weights."""

import numpy as np

from paretune.frozen import FrozenLayer


def test_weights_are_codes_times_the_scale_of_their_output_channel() -> None:
    codes = np.array([[[[1, -7]], [[0, 3]]], [[[7, 2]], [[-1, 0]]]], dtype=np.int8)  # (2, 2, 1, 2)
    layer = FrozenLayer(codes=codes, scales=np.array([0.5, 2.0], dtype=np.float32), bias=None, weight_bits=4)
    expected = [[[[0.5, -3.5]], [[0.0, 1.5]]], [[[14.0, 4.0]], [[-2.0, 0.0]]]]
    assert layer.weight().tolist() == expected
    assert layer.weight().dtype == np.float32


def test_float_weights_are_themselves() -> None:
    weight = np.array([[0.1, -0.2]], dtype=np.float32)
    layer = FrozenLayer(codes=weight, scales=np.empty(0, dtype=np.float32), bias=None)
    assert np.array_equal(layer.weight(), weight)
