"""Seeds: closed forms of additive problems, limits, ends, bad input, and how much of a known front they reach."""

from itertools import product

import numpy as np
import pytest

from paretune.errors import ParetuneError
from paretune.pareto import hypervolume, nondominated
from paretune.samplers.lagrange import Decision, choices, mixtures, seeds, settled

RATIOS = np.array([0.0, 0.2, 0.35, 0.5, 0.65, 0.8])
BITS = np.array([8, 6, 4, 3, 2])


def additive(decisions, options, seed=0):
    """Random convex-ish harms and costs that add up: decisions, the costs function, harm and price tables."""
    draw = np.random.default_rng(seed)
    keep = np.linspace(1.0, 0.05, options)
    sizes, tastes = draw.lognormal(0, 1, decisions), draw.lognormal(0, 1, decisions) / 10
    harms = np.array([taste * (1 / keep - 1) ** draw.uniform(0.7, 2) for taste in tastes])
    prices = sizes[:, None] * keep
    return decided(harms), (lambda point: [prices[range(decisions), point].sum()]), harms, prices


def decided(harms):
    return [Decision(name=str(at), harm=tuple(row)) for at, row in enumerate(harms)]


def layered(layers, costs=2, seed=0):
    """A chain of layers with a ratio and bits each: costs are products of what neighbours keep and of bits. Gives the
    decisions, the costs function and a list that every call of it is added to.
    """
    draw = np.random.default_rng(seed)
    channels = np.repeat([16, 32, 64], -(-layers // 3))[:layers]
    pixels = np.repeat([1024, 256, 64], -(-layers // 3))[:layers]
    ratios = [draw.lognormal(-4, 1) * ((1 / (1 - RATIOS)) ** 2 - 1) for _ in range(layers)]
    bits = [draw.lognormal(-5, 1.2) * (4.0 ** (8 - BITS) - 1) / 50 for _ in range(layers)]
    weights, calls = channels * np.append(3, channels[:-1]) * 9, []

    def price(point):
        calls.append(point)
        keep, width = 1 - RATIOS[list(point[:layers])], BITS[list(point[layers:])]
        kept = weights * keep * np.append(1, keep[:-1])
        return [(kept * width).sum() / 8, (kept * pixels * width * 8).sum(), (channels * pixels * keep).sum()][:costs]

    return decided(ratios + bits), price, calls


def all_points(decisions):
    return list(product(*(range(len(one.harm)) for one in decisions)))


def harm_of(decisions, points, pairs=None):
    """The harm of every point: what its options add, and the pairs it holds."""
    harms = settled([one.harm for one in decisions])
    plain = harms[np.arange(len(decisions)), np.array(points)].sum(axis=1)
    for (a, one, b, other), extra in (pairs or {}).items():
        plain = plain + [extra * (point[a] == one and point[b] == other) for point in points]
    return plain


@pytest.mark.parametrize("rate", [1e-3, 0.03, 0.3, 1.0, 30.0])
def test_choices_are_the_argmin_over_all_points_where_costs_add_up(rate):
    _, _, harms, prices = additive(4, 6, seed=3)
    points = np.array(list(product(range(6), repeat=4)))
    scores = (harms[range(4), points] + rate * prices[range(4), points]).sum(axis=1)
    np.testing.assert_array_equal(choices(harms, prices, np.array([rate]))[0], points[np.argmin(scores)])


@pytest.mark.parametrize("seed", range(5))
def test_a_rising_rate_never_raises_the_cost_nor_lowers_the_harm(seed):
    _, _, harms, prices = additive(12, 6, seed)
    found = choices(harms, prices, np.geomspace(1e-4, 1e4, 300))
    assert (np.diff(prices[range(12), found].sum(axis=1)) <= 1e-9).all()
    assert (np.diff(harms[range(12), found].sum(axis=1)) >= -1e-9).all()
    np.testing.assert_array_equal(found[[0, -1]], [[0] * 12, [5] * 12])


def test_every_argmin_of_an_additive_problem_is_among_enough_seeds():
    decisions, costs, harms, prices = additive(4, 5, seed=1)
    found = seeds(decisions, costs, count=10_000, limits=[None])
    for rate in np.geomspace(0.01, 10, 60):
        best = tuple(choices(harms, prices, np.array([rate]))[0].tolist())
        assert best in found or best == (0, 0, 0, 0)


@pytest.mark.parametrize("costs", [1, 2, 3])
@pytest.mark.parametrize("share", [None, 0.3, 0.04])
def test_seeds_are_feasible_distinct_not_the_mildest_and_hold_the_ends(costs, share):
    decisions, price, _ = layered(8, costs)
    mildest, strongest = (0,) * 16, (5,) * 8 + (4,) * 8
    limits = [None if share is None else share * price(mildest)[0], *[None] * (costs - 1)]
    found = seeds(decisions, price, limits=limits, calls=2000)
    assert len(found) == 24 == len(set(found))
    assert mildest not in found
    assert strongest in found
    assert share is None or all(price(point)[0] <= limits[0] for point in found)
    harms = harm_of(decisions, found)
    assert harms[0] == harms.min()
    assert found == seeds(decisions, price, limits=limits, calls=2000)


def test_no_seed_dominates_another():
    decisions, price, _ = layered(8, 3)
    found = seeds(decisions, price, limits=[None] * 3, calls=2000)
    assert nondominated(np.column_stack([harm_of(decisions, found), [price(point) for point in found]])).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.7, 0.4, 0.15])
def test_the_first_seed_is_the_best_of_all_points_under_a_limit(seed, share):
    decisions, price, _ = layered(3, 2, seed)
    points = all_points(decisions)
    costs = np.array([price(point) for point in points])
    limits = [None, share * costs[0, 1]]
    within = costs[:, 1] <= limits[1]
    first = seeds(decisions, price, limits=limits, calls=2000)[:1]
    assert harm_of(decisions, first)[0] == pytest.approx(harm_of(decisions, points)[within].min())


def test_the_first_seed_avoids_a_pair_that_is_known_to_harm():
    decisions, costs, _, _ = additive(3, 6, seed=2)
    points = all_points(decisions)
    limit = 0.5 * costs((0, 0, 0))[0]
    plain = seeds(decisions, costs, limits=[limit])[0]
    a, b = np.flatnonzero(plain)[:2].tolist()
    pairs = {(a, plain[a], b, plain[b]): 100.0}
    found = seeds(decisions, costs, limits=[limit], pairs=pairs)[0]
    feasible = [point for point in points if costs(point)[0] <= limit]
    assert found != plain
    assert harm_of(decisions, [found], pairs)[0] == pytest.approx(harm_of(decisions, feasible, pairs).min())


def test_one_feasible_point_is_the_only_seed():
    decisions, price, _ = layered(8)
    strongest = (5,) * 8 + (4,) * 8
    assert seeds(decisions, price, limits=price(strongest)) == [strongest]


def test_no_feasible_point_no_seed():
    decisions, price, _ = layered(4)
    assert seeds(decisions, price, limits=[1.0, None]) == []
    assert seeds(decisions, price, limits=[None, None], count=0) == []


def test_where_nothing_harms_the_strongest_is_the_only_seed():
    decisions, price, _ = layered(6)
    free = [Decision(name=one.name, harm=(0.0,) * len(one.harm)) for one in decisions]
    assert seeds(free, price, limits=[None, None], calls=1000) == [(5,) * 6 + (4,) * 6]


def test_where_nothing_saves_the_mildest_is_all_there_is():
    decisions, _, _, _ = additive(3, 4)
    assert seeds(decisions, lambda point: [7.0, 1.0], limits=[None, None]) == [(0, 0, 0)]


def test_one_decision_gives_each_of_its_options_once():
    one = [Decision(name="bits", harm=(0.0, 0.1, 0.5, 0.4, 3.0))]  # option 3 harms no less than option 2: free
    found = seeds(one, lambda point: [8.0 - point[0]], limits=[None])
    assert sorted(found) == [(1,), (3,), (4,)]


def test_a_decision_with_one_option_is_left_alone():
    decisions = [Decision(name="a", harm=(0.0,)), Decision(name="b", harm=(0.0, 1.0))]
    assert seeds(decisions, lambda point: [3.0 - point[1]], limits=[None]) == [(0, 1)]


def test_a_worthless_option_makes_no_second_seed_of_the_same_harm_and_cost():
    decisions = [Decision(name="a", harm=(0.0, 0.0)), Decision(name="b", harm=(0.0, 1.0))]
    assert seeds(decisions, lambda point: [3.0 - point[1]], limits=[None]) == [(0, 1)]


def test_as_many_limits_as_costs_are_needed():
    decisions, price, _ = layered(4)
    with pytest.raises(ParetuneError, match="There are 2 costs but 1 limits"):
        seeds(decisions, price, limits=[None])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((0.0, 0.2, 0.1, 0.3), [0.0, 0.2, 0.2, 0.3]),  # less harm than before is noise
        ((0.0, -0.1, 0.4), [0.0, 0.0, 0.4]),
        ((0.5, 0.6, 0.9), [0.0, 0.1, 0.4]),  # beyond the mildest
        ((0.0, 0.3, float("nan")), [0.0, 0.3, 0.3]),
        ((0.0, float("inf"), 0.3), [0.0, 0.3, 0.3]),
        ((0.0, 0.0), [0.0, 0.0]),
        ((0.0, float("nan")), [0.0, 1.0]),
    ],
)
def test_settled_harms_rise_from_zero_and_are_finite(given, wanted):
    np.testing.assert_allclose(settled([given])[0], wanted)


def test_a_harm_beyond_all_others_together_grows_by_its_logarithm():
    found = settled([(0.0, 1.0), (0.0, 1.0), (0.0, 300.0)])
    np.testing.assert_allclose(found[:, 1], [1.0, 1.0, 3 * (1 + np.log(100))])


def test_options_that_a_decision_lacks_are_infinite():
    np.testing.assert_array_equal(settled([(0.0, 1.0, 2.0), (0.0, 1.0)])[1], [0.0, 1.0, np.inf])


@pytest.mark.parametrize(
    ("costs", "most", "rows"), [(1, 9, 1), (2, 9, 7), (2, 3, 3), (3, 3, 1), (3, 6, 4), (3, 30, 19)]
)
def test_mixtures_are_whole_groups_of_weights_that_add_up_to_one(costs, most, rows):
    found = mixtures(costs, most)
    assert len(found) == rows == len(np.unique(found, axis=0))
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    np.testing.assert_allclose(found.mean(axis=0), 1 / costs)  # no cost is preferred


@pytest.mark.parametrize(("layers", "share"), [(20, None), (20, 0.1), (50, 0.1)])
def test_calls_of_the_costs_stay_within_their_number_and_none_is_made_twice(layers, share):
    decisions, price, calls = layered(layers)
    limit = share and share * price((0,) * 2 * layers)[0]
    calls.clear()
    assert len(seeds(decisions, price, limits=[limit, None])) == 24
    assert len(calls) == len(set(calls)) <= 10_000


@pytest.mark.parametrize("seed", range(3))
def test_24_seeds_reach_what_any_24_points_of_the_exact_front_could(seed):
    decisions, costs, _, _ = additive(4, 10, seed)
    points = all_points(decisions)
    everything = np.column_stack([harm_of(decisions, points), [costs(point)[0] for point in points]])
    front = everything[nondominated(everything)]
    low, reference = front.min(axis=0), np.array([1.05, 1.05])
    scaled = (front - low) / np.ptp(front, axis=0)
    rows: list[int] = []
    for _ in range(24):  # greedy: at least 1 - 1/e of the best choice in theory, far more here
        rows.append(max(range(len(scaled)), key=lambda at: hypervolume(scaled[[*rows, at]], reference)))
    found = seeds(decisions, costs, limits=[None])
    mine = np.column_stack([harm_of(decisions, found), [costs(point)[0] for point in found]])
    reached = hypervolume((mine - low) / np.ptp(front, axis=0), reference)
    assert reached >= 0.97 * hypervolume(scaled[rows], reference)


def test_seeds_are_far_ahead_of_random_and_ahead_of_uniform_points():
    decisions, price, _ = layered(30)
    draw = np.random.default_rng(0)
    random = [tuple(draw.integers([6] * 30 + [5] * 30).tolist()) for _ in range(300)]
    uniform = [(ratio,) * 30 + (bits,) * 30 for ratio in range(6) for bits in range(5)]
    ends = np.log([price((5,) * 30 + (4,) * 30), price((0,) * 60)])

    def volume(points):
        harm = harm_of(decisions, points)
        costs = (np.log([price(point) for point in points]) - ends[0]) / (ends[1] - ends[0])
        return hypervolume(np.column_stack([harm / (harm + 0.5), costs]), np.ones(3))

    found = volume(seeds(decisions, price, limits=[None, None]))
    assert found > 1.2 * volume(uniform)
    assert found > 3 * volume(random)


@pytest.mark.parametrize("seed", range(3))
def test_enough_seeds_are_nearly_the_exact_front_of_a_small_problem(seed):
    decisions, costs, _, _ = additive(3, 4, seed)
    points = all_points(decisions)
    rows = np.column_stack([harm_of(decisions, points), [costs(point)[0] for point in points]])
    front = {point for point, kept in zip(points, nondominated(rows), strict=True) if kept} - {(0, 0, 0)}
    found = seeds(decisions, costs, count=100, limits=[None])
    assert len(front & set(found)) >= 0.9 * len(front)
