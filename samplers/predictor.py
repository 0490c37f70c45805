"""What a point would be told, learned from told points: a kernel ridge regression per column, chosen by leave-one-out.

Plain numpy: one eigendecomposition of a kernel gives the leave-one-out errors of every column at every regularisation
in closed form, which no estimator of scikit-learn does for kernels; and importing that would cost every start a second.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paretune.pareto import Array
from paretune.samplers.layout import Axis, Layout

RIDGES = tuple(10.0**power for power in range(-6, 2))  # in shares of the kernel's mean eigenvalue
WIDE = 100.0  # a positive column is learned as its logarithm if its largest value is this many times its smallest
FEWEST = 3  # measured values that a column is learned from; with fewer it is taken for constant
DIGITS = 9  # predictions are rounded to, in standard deviations: threads may add up in another order


def features(layout: Layout, rows: Array) -> Array:
    """The features of `rows` (n, axes) of places: (n, features), about 1 long. Ordered axes are polynomials of degree 3
    (Legendre, damped by degree), names are indicators.
    """
    rows = np.atleast_2d(np.asarray(rows, dtype=float))
    columns = [_columns(axis, rows[:, place]) for place, axis in enumerate(layout.axes) if axis.levels != 1]
    found: Array = np.hstack([np.zeros((len(rows), 0)), *columns]) / np.sqrt(max(1, len(columns)))
    return found


def _columns(axis: Axis, places: Array) -> Array:
    if not axis.ordered:
        return np.asarray(places[:, None] == np.arange(axis.levels or 1), dtype=float)
    at = 2.0 * places / axis.top - 1.0
    return np.stack([at, 0.5 * (3 * at**2 - 1) / 2, 0.25 * (5 * at**3 - 3 * at) / 2], axis=1)


def _gauss(one: Array, other: Array) -> Array:
    distance = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    found: Array = np.exp(-np.maximum(distance, 0.0) / 2)
    return found


def _sum(one: Array, other: Array) -> Array:
    found: Array = 1.0 + one @ other.T
    return found


Kernel = Callable[[Array, Array], Array]

KERNELS: Mapping[str, Kernel] = {
    "sum": _sum,  # every axis on its own
    "pairs": lambda one, other: _sum(one, other) ** 2,  # products of two axes: bits times what is left of a layer
    "smooth": lambda one, other: _sum(one, other) + 0.3 * _gauss(one, other),
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One learned column: `weights` of the points it was learned from; `error` is that of leaving one out, in standard
    deviations of the column (of its logarithm if `logged`).
    """

    kernel: str
    points: Array
    weights: Array
    mean: float
    scale: float
    logged: bool
    error: float

    def predict(self, points: Array) -> Array:
        """The column's values at the features `points` (m, features)."""
        if not len(self.weights):
            return np.full(len(points), self.mean)
        standard = np.round(KERNELS[self.kernel](points, self.points) @ self.weights, DIGITS)
        values: Array = self.mean + self.scale * standard
        return np.exp(values) if self.logged else values


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """All columns."""

    columns: tuple[Column, ...]

    def predict(self, points: Array) -> Array:
        """The values (m, columns) at the features `points` (m, features)."""
        found: Array = np.stack([column.predict(points) for column in self.columns], axis=1)
        return found


def fit(points: Array, values: Array) -> Predictor:
    """What is learned from features `points` (n, features) and what they were told, `values` (n, columns), where NaN is
    not measured. Columns measured at the same points share their work.

    Per column that kernel and ridge are kept whose leave-one-out error is the smallest (Rifkin and Lippert 2007, Notes
    on Regularized Least Squares, https://dspace.mit.edu/handle/1721.1/37318).
    """
    measured = np.isfinite(values)
    found: dict[int, Column] = {}
    for mask in np.unique(measured, axis=1).T:
        places = np.flatnonzero((measured == mask[:, None]).all(axis=0))
        for place, column in zip(places, _fit_together(points[mask], values[mask][:, places]), strict=True):
            found[int(place)] = column
    return Predictor(columns=tuple(found[place] for place in range(values.shape[1])))


def _fit_together(points: Array, values: Array) -> Sequence[Column]:
    """The columns of `values`, none of them NaN."""
    logged = _logged(values)
    shaped = np.where(logged, np.log(np.where(logged, values, 1.0)), values)
    mean = shaped.mean(axis=0) if len(shaped) else np.ones(values.shape[1])
    scale = shaped.std(axis=0) if len(shaped) else np.zeros(values.shape[1])
    learned = (scale > 1e-12 * np.abs(mean)) & (len(shaped) >= FEWEST)
    standard = (shaped - mean) / np.where(learned, scale, 1.0)
    tried = {name: _leave_one_out(kernel(points, points), standard) for name, kernel in KERNELS.items()}
    columns = []
    for place in range(values.shape[1]):
        name = min(tried, key=lambda name: tried[name][0][place])
        columns.append(
            Column(
                kernel=name, points=points, weights=tried[name][1][:, place] if learned[place] else np.zeros(0),
                mean=float(mean[place]) if learned[place] else _typical(values[:, place]), scale=float(scale[place]),
                logged=bool(logged[place]), error=float(tried[name][0][place]),
            )
        )  # fmt: skip
    return columns


def _typical(values: Array) -> float:
    """What a column that cannot be learned is taken for."""
    return float(values.mean()) if len(values) else 1.0


def _logged(values: Array) -> NDArray[np.bool_]:
    """Which columns are learned as logarithms."""
    if not len(values):
        return np.zeros(values.shape[1], dtype=np.bool_)
    smallest, largest = values.min(axis=0), values.max(axis=0)
    found: NDArray[np.bool_] = (smallest > 0) & (largest > WIDE * smallest)
    return found


def _leave_one_out(kernel: Array, values: Array) -> tuple[Array, Array]:
    """Per column of `values` (n, columns) the smallest leave-one-out error among `RIDGES` and the weights (n, columns)
    of that ridge.
    """
    best, weights = np.full(values.shape[1], np.inf), np.zeros_like(values)
    if not len(values):
        return best, weights
    eigen, vectors = np.linalg.eigh(kernel)
    eigen, turned, squares = np.maximum(eigen, 0.0), vectors.T @ values, vectors**2
    for ridge in RIDGES:
        inverse = 1.0 / (eigen + ridge * eigen.mean())
        found = vectors @ (inverse[:, None] * turned)
        error = np.sqrt(((found / (squares @ inverse)[:, None]) ** 2).mean(axis=0))
        better = error < best
        best[better], weights[:, better] = error[better], found[:, better]
    return best, weights
