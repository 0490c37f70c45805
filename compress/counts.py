"""How many weights of a pattern stay, counted exactly, and the best that many of them."""

from fractions import Fraction
from math import floor, prod

import numpy as np

from paretune.compress.bits import Mask, Scores, Shape
from paretune.errors import ImpossiblePlan, ParetuneError
from paretune.recipe import Wanted


def share_left(wanted: Wanted) -> Fraction:
    """What stays, as a decimal fraction: free of binary noise such as 1 - 0.9.

    Raises:
        ParetuneError: a sparsity outside [0, 1).
    """
    if not 0 <= wanted.sparsity < 1:
        raise ParetuneError(f"sparsity {wanted.sparsity} of a '{wanted.kind}' pattern is not within [0, 1)")
    return 1 - Fraction(str(round(float(wanted.sparsity), 12)))


def half_up(number: Fraction) -> int:
    """The nearest whole number; a half is rounded up."""
    return floor(number + Fraction(1, 2))


def at_least(kept: int, minimum: int, wanted: Wanted, shape: Shape) -> int:
    """`kept`, for patterns whose count is fixed.

    Raises:
        ImpossiblePlan: that is fewer than `minimum` weights, and the weight has more.
    """
    if kept < min(minimum, prod(shape)):
        left = f"pattern '{wanted.kind}' leaves {kept} weights of shape {tuple(shape)}, but {minimum} must stay"
        raise ImpossiblePlan(f"{left}; lower the minimum, or leave the layer out (pattern: channel)")
    return kept


def best(scores: Scores, count: int) -> Mask:
    """True at the `count` highest scores, in linear time; of equal ones the first."""
    flat = scores.ravel()
    if count == 0:
        return np.zeros(scores.shape, dtype=bool)
    threshold = np.partition(flat, flat.size - count)[flat.size - count]
    kept: Mask = flat > threshold
    kept[np.flatnonzero(flat == threshold)[: count - int(kept.sum())]] = True
    return kept.reshape(scores.shape)
