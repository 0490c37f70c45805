"""The predictor learns what it can represent, chooses by real leave-one-out errors, and takes NaN for not measured."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from paretune.samplers.layout import Axis, Layout
from paretune.samplers.predictor import RIDGES, _leave_one_out, features, fit


def axis(name, distribution):
    return Axis(name=name, distribution=distribution, block=name, kind=name)


LAYOUT = Layout(
    axes=(
        axis("ratio", FloatDistribution(0.0, 0.8, step=0.1)),
        axis("bits", IntDistribution(0, 4)),
        axis("criterion", CategoricalDistribution(("l1", "l2", "taylor"))),
        axis("lr", FloatDistribution(0.001, 0.1, log=True)),
        axis("only", CategoricalDistribution(("one",))),
    )
)


def random_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    draw = [rng.random(count) if a.levels is None else rng.integers(a.levels, size=count) for a in LAYOUT.axes]
    return np.array(draw, dtype=float).T


def error_of(function, count=80):
    rows, fresh = random_rows(count), random_rows(200, seed=1)
    predictor = fit(features(LAYOUT, rows), function(rows)[:, None])
    found, wanted = predictor.predict(features(LAYOUT, fresh))[:, 0], function(fresh)
    return float(np.sqrt(((found - wanted) ** 2).mean()) / wanted.std()), predictor.columns[0]


def test_features_tell_every_pair_of_points_apart_and_ignore_axes_of_one_value():
    rows = np.unique(random_rows(300), axis=0)
    assert len(np.unique(features(LAYOUT, rows).round(12), axis=0)) == len(rows)
    assert features(LAYOUT, rows).shape[1] == 3 * 3 + 3


@pytest.mark.parametrize(
    ("function", "bound"),
    [
        (lambda rows: 3 * rows[:, 0] - rows[:, 1] + rows[:, 3], 1e-3),
        (lambda rows: rows[:, 0] ** 3 - 20 * (rows[:, 2] == 1), 1e-3),
        (lambda rows: (9 - rows[:, 0]) * (1 + rows[:, 1]), 1e-2),
    ],
    ids=["linear", "one axis at a time", "product"],
)
def test_what_a_kernel_holds_is_learned_nearly_exactly(function, bound):
    assert error_of(function)[0] < bound


def test_a_product_is_learned_in_pairs():
    assert error_of(lambda rows: (9 - rows[:, 0]) * (1 + rows[:, 1]))[1].kernel == "pairs"


def test_columns_over_orders_of_magnitude_are_learned_as_logarithms_and_stay_positive():
    error, column = error_of(lambda rows: 10.0 ** (rows[:, 0] - rows[:, 1]))
    assert column.logged
    assert error < 0.05
    assert (column.predict(features(LAYOUT, random_rows(50, seed=3))) > 0).all()


def test_the_closed_form_is_what_leaving_one_out_finds():
    rng = np.random.default_rng(0)
    points, values = rng.normal(size=(12, 3)), rng.normal(size=(12, 1))
    kernel = 1.0 + points @ points.T
    errors = []
    for ridge in RIDGES:
        added = ridge * np.linalg.eigvalsh(kernel).clip(0).mean()
        missed = []
        for out in range(12):
            kept = np.arange(12) != out
            weights = np.linalg.solve(kernel[np.ix_(kept, kept)] + added * np.eye(11), values[kept, 0])
            missed.append(values[out, 0] - kernel[out, kept] @ weights)
        errors.append(float(np.sqrt(np.mean(np.square(missed)))))
    assert _leave_one_out(kernel, values)[0][0] == pytest.approx(min(errors), rel=1e-6)


def test_what_was_not_measured_changes_nothing():
    rows = random_rows(40)
    values = np.stack([rows[:, 0] + rows[:, 1], rows[:, 0] * rows[:, 3]], axis=1)
    holes = values.copy()
    holes[30:, 0] = np.nan
    whole, part = fit(features(LAYOUT, rows), values), fit(features(LAYOUT, rows), holes)
    less = fit(features(LAYOUT, rows[:30]), values[:30, :1])
    fresh = features(LAYOUT, random_rows(20, seed=2))
    np.testing.assert_allclose(part.predict(fresh)[:, 1], whole.predict(fresh)[:, 1], rtol=1e-6)
    np.testing.assert_allclose(part.predict(fresh)[:, 0], less.predict(fresh)[:, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("column", "wanted"),
    [([0.3] * 5, 0.3), ([0.2, 0.4, np.nan, np.nan, np.nan], 0.3), ([np.nan] * 5, 1.0)],
    ids=["constant", "two measured", "none measured"],
)
def test_what_cannot_be_learned_is_constant(column, wanted):
    predictor = fit(features(LAYOUT, random_rows(5)), np.array(column)[:, None])
    assert predictor.predict(features(LAYOUT, random_rows(3, seed=1))).ravel() == pytest.approx([wanted] * 3)


def test_equal_points_with_unlike_values_are_averaged():
    rows = np.repeat(random_rows(4), 2, axis=0)
    values = np.tile([0.0, 1.0], 4)[:, None]
    assert np.abs(fit(features(LAYOUT, rows), values).predict(features(LAYOUT, rows)) - 0.5).max() < 0.05
