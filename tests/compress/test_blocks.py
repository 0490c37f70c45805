"""The blocks of a partition multiply like its mask, and the stored form gives the mask back."""

from math import ceil

import numpy as np
import pytest
from numpy.typing import NDArray

from paretune.compress.partition import blocks, parts_of, pattern_of_parts
from paretune.compress.patterns import index_bytes_of, index_of, kept_weights, mask_of, pattern_of
from paretune.errors import ImpossiblePlan, ParetuneError
from paretune.recipe import Wanted


def partitioned(out: int, inputs: int, parts: int, seed: int = 0) -> NDArray[np.bool_]:
    generator = np.random.default_rng(seed)
    rows, columns = (generator.permutation(np.arange(width) % parts) for width in (out, inputs))
    mask: NDArray[np.bool_] = rows[:, None] == columns
    return mask


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 6])
def test_a_partition_is_stored_as_the_part_of_every_row_and_column(parts: int) -> None:
    wanted, mask = Wanted(kind="partition", parts=parts), partitioned(12, 24, parts)
    pattern = pattern_of(wanted, mask)
    np.testing.assert_array_equal(mask_of(pattern, (12, 24)), mask)
    assert pattern.parts == parts
    assert pattern.nonzeros == mask.sum() == kept_weights(wanted, (12, 24)) == 12 * 24 // parts
    bits = {1: 0, 2: 1, 3: 2, 4: 2, 6: 3}[parts]
    assert len(index_of(pattern)) == index_bytes_of(wanted, (12, 24)) == ceil(36 * bits / 8)


@pytest.mark.parametrize(("out", "into", "parts"), [(8, 12, 4), (6, 6, 3), (4, 10, 2), (5, 5, 5), (3, 4, 1)])
def test_the_blocks_multiply_like_the_masked_layer(out: int, into: int, parts: int) -> None:
    generator = np.random.default_rng(out)
    labels = [generator.permutation(np.arange(width) % parts) for width in (out, into)]
    pattern = pattern_of_parts(labels[0], labels[1], parts)
    weight, x = generator.normal(size=(out, into)), generator.normal(size=into)
    made, rows, columns = blocks(weight, pattern)
    assert made.shape == (parts, out // parts, into // parts)
    assert sorted(rows.ravel()) == list(range(out))
    assert sorted(columns.ravel()) == list(range(into))
    y = np.full(out, np.nan)
    for k in range(parts):
        y[rows[k]] = made[k] @ x[columns[k]]
    np.testing.assert_allclose(y, (weight * mask_of(pattern, weight.shape)) @ x)


def test_labels_are_kept_and_give_the_mask_that_a_mask_gives() -> None:
    rows, columns = np.array([2, 0, 1, 1, 2, 0]), np.array([1, 2, 0])
    pattern = pattern_of_parts(rows, columns, 3)
    for found, given_labels in zip(parts_of(pattern, (6, 3)), (rows, columns), strict=True):
        np.testing.assert_array_equal(found, given_labels)
    mask = mask_of(pattern, (6, 3))
    np.testing.assert_array_equal(mask, rows[:, None] == columns)
    again = pattern_of(Wanted(kind="partition", parts=3), mask)
    np.testing.assert_array_equal(mask_of(again, (6, 3)), mask)
    assert parts_of(again, (6, 3))[0].tolist() == [0, 1, 2, 2, 0, 1]


def test_unequal_parts_are_refused() -> None:
    with pytest.raises(ImpossiblePlan, match=r"equally large parts, not \[3, 1\]"):
        pattern_of_parts(np.array([0, 0, 0, 1]), np.array([0, 1]), 2)
    with pytest.raises(ImpossiblePlan, match=r"equally large parts, not \[1, 1, 1\]"):
        pattern_of_parts(np.array([0, 1]), np.array([0, 1, 2]), 2)


@pytest.mark.parametrize("parts", [3, 5])
def test_parts_that_do_not_divide_the_shape_are_refused(parts: int) -> None:
    with pytest.raises(ImpossiblePlan, match=rf"\(8, 12\) cannot be cut into {parts} parts; what works: 2, 4"):
        kept_weights(Wanted(kind="partition", parts=parts), (8, 12))
    with pytest.raises(ImpossiblePlan, match="only a linear layer"):
        index_bytes_of(Wanted(kind="partition", parts=2), (8, 8, 3, 3))
    with pytest.raises(ParetuneError, match="a partition into 0 parts is asked for"):
        kept_weights(Wanted(kind="partition", parts=0), (8, 8))
