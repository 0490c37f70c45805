"""N:M patterns: of every M neighbouring inputs, N stay."""

import re
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.compress.bits import Counts, Mask, Scores, Shape, from_bits, other_pattern, to_bits
from paretune.compress.counts import at_least
from paretune.errors import ParetuneError
from paretune.recipe import Wanted


def nm_numbers(text: str) -> tuple[int, int] | None:
    """(N, M) of a kind written in numbers, such as "2:4"; None for any other kind.

    Raises:
        ParetuneError: an N that is not within 1 to M, or "n:m" without numbers.
    """
    if text == "n:m":
        raise ParetuneError("pattern 'n:m' is written in numbers, such as '2:4': 2 of 4 neighbours stay")
    numbers = re.fullmatch(r"([0-9]+):([0-9]+)", text)
    if numbers is None:
        return None
    n, m = int(numbers[1]), int(numbers[2])
    if not 1 <= n <= m:
        raise ParetuneError(f"pattern '{text}' keeps {n} of {m} neighbours; write N:M, N from 1 to M, such as '2:4'")
    return n, m


def nm_kept(wanted: Wanted, shape: Shape, minimum: int) -> int:
    """How many weights stay.

    Raises:
        ImpossiblePlan: fewer than `minimum`.
    """
    n, _, sizes = _form(wanted, shape)
    return at_least(int(np.minimum(n, sizes).sum()) * prod(shape) // shape[1], minimum, wanted, shape)


def nm_mask(wanted: Wanted, scores: Scores, minimum: int) -> Mask:
    """True at the N highest scores of every run of neighbours; of equal ones the first.

    Raises:
        ImpossiblePlan: fewer than `minimum` weights stay.
    """
    nm_kept(wanted, scores.shape, minimum)
    n, m, _ = _form(wanted, scores.shape)
    runs = _runs(scores.astype(np.result_type(scores, np.float32)), m, -np.inf)
    kept = np.zeros(runs.shape, dtype=bool)
    np.put_along_axis(kept, np.argsort(-runs, axis=-1, kind="stable")[..., :n], True, axis=-1)
    return _from_runs(kept, scores.shape)


def nm_bits(wanted: Wanted, shape: Shape) -> int:
    """Bits of the index: of the positions, or one per weight where that is shorter."""
    return min(_positions(wanted, shape), prod(shape))


def nm_encode(wanted: Wanted, mask: Mask) -> Mask:
    """The bits of a mask's index: N ascending positions for every run that loses a neighbour, or the mask.

    Rows come in the order (out, height, width), runs by input channel.

    Raises:
        ImpossiblePlan: a run that keeps another number of neighbours.
    """
    n, m, sizes = _form(wanted, mask.shape)
    runs = _runs(mask, m, False)
    if (runs.sum(axis=-1) != np.minimum(n, sizes)).any():
        raise other_pattern(wanted, mask)
    if _positions(wanted, mask.shape) > mask.size:
        return mask.ravel()
    return to_bits(np.nonzero(runs[:, sizes > n])[-1], m)


def nm_decode(wanted: Wanted, bits: Mask, shape: Shape) -> Mask:
    """The mask that `nm_encode` was given."""
    if _positions(wanted, shape) > prod(shape):
        return bits.reshape(shape)
    n, m, sizes = _form(wanted, shape)
    rows, losing = prod(shape) // shape[1], int((sizes > n).sum())
    kept = np.zeros((rows, losing, 1 << (m - 1).bit_length()), dtype=bool)
    np.put_along_axis(kept, from_bits(bits, m, rows * losing * n).reshape(rows, losing, n), True, axis=-1)
    runs = np.ones((rows, sizes.size, m), dtype=bool)
    runs[:, sizes > n] = kept[..., :m]
    return _from_runs(runs, shape)


def _form(wanted: Wanted, shape: Shape) -> tuple[int, int, Counts]:
    """N, M and how many neighbours every run of one row has: M, and what is left over in the last.

    Hardware pads a short run with zeros, so t < M neighbours keep min(N, t). M is at most the number of inputs.
    """
    n, m = (int(number) for number in wanted.kind.split(":"))
    m = min(m, shape[1])
    return min(n, m), m, np.minimum(m, shape[1] - np.arange(0, shape[1], m))


def _runs(array: NDArray[Any], m: int, fill: float) -> NDArray[Any]:
    """(rows, runs, M): rows are (out, height, width) in C order, neighbours input channels; `fill` pads the last."""
    rows = np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])
    padded = np.pad(rows, ((0, 0), (0, -array.shape[1] % m)), constant_values=fill)
    return padded.reshape(len(rows), -1, m)


def _from_runs(runs: Mask, shape: Shape) -> Mask:
    rows = runs.reshape(shape[0], *shape[2:], -1)[..., : shape[1]]
    return np.ascontiguousarray(np.moveaxis(rows, -1, 1))


def _positions(wanted: Wanted, shape: Shape) -> int:
    """Bits of all positions."""
    n, m, sizes = _form(wanted, shape)
    return prod(shape) // shape[1] * int((sizes > n).sum()) * n * (m - 1).bit_length()
