"""Patterns and shapes that every kind of pattern is tested on, and scores to choose by."""

from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from paretune.recipe import LAYOUTS, Wanted

SHAPES = [(8, 16), (1, 1), (16, 3, 3, 3), (6, 1, 5, 5), (20, 18, 1, 3), (33, 10), (4, 6, 3)]
PE = [
    Wanted(kind="pe_block", sparsity=sparsity, block=block, layout=layout)
    for sparsity, block, layout in product((0.25, 0.5, 0.95), (1, 4, 16), LAYOUTS)
]
KINDS = [
    *(Wanted(kind=kind) for kind in ("1:2", "2:4", "3:4", "4:4", "1:1", "3:5", "1:16", "2:1000")),
    *(Wanted(kind="unstructured", sparsity=sparsity) for sparsity in (0.1, 0.5, 0.9999)),
    *PE,
]


def drawn(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Different positive scores."""
    return (np.random.default_rng(seed).permutation(prod(shape)) + 1.0).reshape(shape).astype(np.float32)


def of(sparsity: float) -> Wanted:
    """Unstructured zeros."""
    return Wanted(kind="unstructured", sparsity=sparsity)
