"""Which settings are measured in the time there is: all, then a coarser grid; the others lie on lines."""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.search.decisions import Decision
from paretune.search.grid import coarse_first, filled, wanted_pairs, wanted_spots


def decision(name, count, block="a"):
    settings = tuple(float(place) for place in range(count))
    return Decision(name=name, param=name, settings=settings, params=settings, block=block)


def network(*counts):
    return [decision(f"ratio/{place}", count) for place, count in enumerate(counts)]


sizes = st.lists(st.integers(2, 20), min_size=1, max_size=12)


@given(sizes, st.integers(1, 300))
def test_never_more_than_there_is_time_for_and_never_the_mildest_or_one_twice(counts, most):
    decisions = network(*counts)
    spots, note = wanted_spots(decisions, most)
    assert 1 <= len(spots) <= most
    assert len(set(spots)) == len(spots)
    assert all(0 < option < counts[which] for which, option in spots)
    assert (note == "") == (len(spots) == sum(counts) - len(counts))


@given(sizes, st.integers(1, 300))
def test_the_strongest_setting_is_the_last_to_be_left_out(counts, most):
    spots, _ = wanted_spots(network(*counts), most)
    for which in {which for which, _ in spots}:
        assert (which, counts[which] - 1) in spots
    if most >= len(counts):
        assert {which for which, _ in spots} == set(range(len(counts)))


@pytest.mark.parametrize(
    ("most", "options", "said"),
    [(8, [1, 2, 3, 4, 5, 6, 7, 8], ""), (7, [2, 4, 6, 8], "in 2"), (3, [4, 8], "in 4"), (1, [8], "in 8")],
)
def test_strides_double(most, options, said):
    spots, note = wanted_spots(network(9), most)
    assert [option for _, option in spots] == options
    assert said in note


def test_of_too_many_decisions_some_are_measured_all_over_the_network():
    spots, note = wanted_spots(network(*[5] * 10), 4)
    assert spots == [(0, 4), (3, 4), (6, 4), (9, 4)]
    assert note == "only the strongest setting of 4 of 10 decisions is measured"


@given(sizes, st.integers(1, 100))
def test_wherever_it_ends_decisions_are_known_as_finely_as_each_other(counts, most):
    """No second setting before every decision has its strongest; no finer grid anywhere before the coarser is whole."""
    decisions = network(*counts)
    spots, _ = wanted_spots(decisions, most)
    order = coarse_first(decisions, spots)
    assert sorted(order) == sorted(spots)
    firsts = [which for which, option in order if option == counts[which] - 1]
    assert [which for which, _ in order[: len(firsts)]] == firsts == sorted(firsts)


def test_the_order_of_one_decision_is_ever_finer():
    spots, _ = wanted_spots(network(9), 8)
    assert [option for _, option in coarse_first(network(9), spots)] == [8, 4, 2, 6, 1, 3, 5, 7]


def effects_of(decisions, known, base=(1.0, 0.1)):
    return {(effect.decision, effect.setting): effect for effect in filled(decisions, known, base)}


def test_what_was_measured_stays_and_what_was_not_lies_on_the_line():
    found = effects_of(network(5), {(0, 2): (2.0, 0.3), (0, 4): (6.0, 0.4)})
    rows = [found["ratio/0", float(option)] for option in range(5)]
    assert [row.loss for row in rows] == pytest.approx([1.0, 1.5, 2.0, 4.0, 6.0])
    assert [row.error for row in rows] == pytest.approx([0.1, 0.2, 0.3, 0.35, 0.4])
    assert [row.measured for row in rows] == [True, False, True, False, True]


def test_a_decision_nobody_looked_at_is_like_the_median_of_its_kind():
    decisions = [*network(2, 2, 2, 3), decision("weight_bits/0", 2)]
    losses = {0: 2.0, 1: 4.0, 2: 9.0, 4: 100.0}
    found = effects_of(decisions, {(which, 1): (loss, 0.5) for which, loss in losses.items()})
    strongest = found["ratio/3", 2.0]
    assert strongest.loss == median([2.0, 4.0, 9.0])
    assert not strongest.measured
    assert found["ratio/3", 1.0].loss == (1.0 + 4.0) / 2


def test_a_kind_nobody_looked_at_is_like_the_median_of_all():
    decisions = [*network(2, 2), decision("weight_bits/0", 2)]
    found = effects_of(decisions, {(0, 1): (2.0, 0.5), (1, 1): (4.0, 0.5)})
    assert found["weight_bits/0", 1.0].loss == 3.0


@given(sizes, st.integers(1, 60))
def test_there_is_an_effect_of_every_setting_in_order(counts, most):
    decisions = network(*counts)
    spots, _ = wanted_spots(decisions, most)
    rows = list(filled(decisions, {spot: (float(spot[1]), 0.0) for spot in spots}, (0.0, 0.0)))
    assert [(row.decision, row.setting) for row in rows] == [(d.name, s) for d in decisions for s in d.settings]


def test_pairs_stay_within_blocks():
    decisions = [decision(name, 5, block) for name, block in zip("abcd", "1221", strict=True)]
    assert wanted_pairs(decisions, 10) == ([((0, 2), (3, 2)), ((1, 2), (2, 2))], "")


@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_too_many_pairs_are_thinned_and_said(most):
    decisions = [decision(str(place), 4) for place in range(4)]
    pairs, note = wanted_pairs(decisions, most)
    assert len(pairs) == most == len(set(pairs))
    assert note == f"{most} of 6 pairs of decisions are measured"
