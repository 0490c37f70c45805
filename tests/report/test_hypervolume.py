import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from report_fakes import fake_findings

from paretune.pareto import hypervolume
from paretune.report.hypervolume import covered_by, hypervolumes


def with_points(points):
    """A study whose trials have these objective values, and a reference of 2 everywhere."""
    findings = fake_findings(3, 20)
    pattern = replace(findings.trials[10], status="done", feasible=True, same_as=None, kind="search")
    names = tuple(objective.name for objective in findings.objectives)[: points.shape[1]]
    trials = tuple(
        replace(pattern, number=number, values=dict(zip(names, map(float, row), strict=True)))
        for number, row in enumerate(points)
    )
    return replace(
        findings, objectives=findings.objectives[: len(names)], trials=trials, reference=dict.fromkeys(names, 2.0)
    )


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("digits", [1, 6])  # one digit makes ties
def test_every_prefix_equals_the_hypervolume_computed_anew(objectives, digits):
    points = np.round(np.random.default_rng(digits).uniform(0, 2.2, (60, objectives)), digits)
    curve = hypervolumes(with_points(points))
    anew = [hypervolume(points[: n + 1], np.full(objectives, 2.0)) / 2**objectives for n in range(len(points))]
    assert curve == pytest.approx(anew, abs=1e-12)


def test_one_point_covers_its_box():
    assert hypervolumes(with_points(np.array([[1.0, 0.5, 1.5]]))) == pytest.approx([0.5 * 0.75 * 0.25])


def test_only_finished_feasible_trials_count():
    findings = with_points(np.array([[1.0, 1.0], [0.5, 0.5], [0.1, 0.1]]))
    first, second, third = findings.trials
    trials = (first, replace(second, feasible=False), replace(third, status="failed"))
    findings = replace(findings, trials=trials)
    assert hypervolumes(findings) == pytest.approx([0.25] * 3)
    assert covered_by(findings, trials[1:]) == 0.0


def test_the_curve_never_falls_and_ends_where_all_trials_do():
    findings = fake_findings()
    curve = hypervolumes(findings)
    assert all(before <= after for before, after in pairwise(curve))
    assert curve[-1] == pytest.approx(covered_by(findings, findings.trials))


def test_a_thousand_trials_that_are_all_on_the_front_take_less_than_a_second():
    sphere = np.abs(np.random.default_rng(0).normal(size=(1000, 3)))
    findings = with_points(2 - 2 * sphere / np.linalg.norm(sphere, axis=1, keepdims=True))
    assert len(findings.front) == 1000  # also computes the cached front
    start = time.process_time()
    hypervolumes(findings)
    assert time.process_time() - start < 1.0
