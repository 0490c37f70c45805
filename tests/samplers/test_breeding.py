"""Operators on rows of places: what a child may have, what it has from whom, how far it lies."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from paretune.samplers.breeding import ARMS, crossed, level, mate, shifted, stepped, tournament
from paretune.samplers.layout import Axis, Layout

LAYERS = 10


def layout_of_layers():
    """Per layer a ratio on a grid and bits, then one name and one number on a log scale for all."""
    layers = [
        axis
        for i in range(LAYERS)
        for axis in (
            Axis(
                name=f"ratio/{i}", distribution=FloatDistribution(0.0, 0.8, step=0.2), block=f"b{i // 2}", kind="ratio"
            ),
            Axis(name=f"bits/{i}", distribution=IntDistribution(0, 4), block=f"b{i // 2}", kind="bits"),
        )
    ]
    name = Axis(name="criterion", distribution=CategoricalDistribution(["l1", "l2", "taylor"]), block="c", kind="c")
    lr = Axis(name="lr", distribution=FloatDistribution(1e-3, 1e-1, log=True), block="lr", kind="lr")
    return Layout(axes=(*layers, name, lr))


LAYOUT = layout_of_layers()
MIDDLE = np.array([2.0] * 2 * LAYERS + [1.0, 0.5])
OPERATORS = {
    **ARMS,
    "level": lambda layout, row, rng: level(layout, rng),
    "crossed": lambda layout, row, rng: crossed(layout, row, MIDDLE, rng),
}


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_a_child_lies_on_the_grid_and_its_parent_stays(operator):
    rng = np.random.default_rng(0)
    row = np.array([axis.top for axis in LAYOUT.axes])
    for _ in range(200):
        before = row.copy()
        child = operator(LAYOUT, row, rng)
        assert (row == before).all()
        assert LAYOUT.row(LAYOUT.params(child)) == pytest.approx(child)
        row = child


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_the_generator_decides(operator):
    twice = [operator(LAYOUT, MIDDLE, np.random.default_rng(3)) for _ in range(2)]
    assert (twice[0] == twice[1]).all()


def test_a_block_is_inherited_whole():
    rng = np.random.default_rng(0)
    mother, father = np.zeros(len(LAYOUT.axes)), np.ones(len(LAYOUT.axes))
    children = [crossed(LAYOUT, mother, father, rng) for _ in range(300)]
    for child in children:
        assert all(len(set(child[list(block)])) == 1 for block in LAYOUT.blocks)
    assert any((child == mother).all() for child in children)
    assert any((child[:4] == 1).all() and (child[4:8] == 0).all() for child in children)


@pytest.mark.parametrize("expected", [1, 2, 4, 8])
def test_about_as_many_axes_move_as_expected_and_one_at_least(expected):
    rng = np.random.default_rng(0)
    moved = [(stepped(LAYOUT, MIDDLE, rng, expected) != MIDDLE).sum() for _ in range(600)]
    assert min(moved) >= 1
    none = (1 - expected / len(MIDDLE)) ** len(MIDDLE)  # these move one axis instead
    assert np.mean(moved) == pytest.approx(expected + none, rel=0.1)


def test_short_grids_move_to_a_neighbour_and_turn_back_at_their_ends():
    rng = np.random.default_rng(0)
    top = np.array([axis.top for axis in LAYOUT.axes])
    child = stepped(LAYOUT, top, rng, len(top))
    assert (child[: 2 * LAYERS] == 3).all()
    assert child[-2] != top[-2]
    assert child[-1] < 1


def test_long_grids_move_about_a_tenth():
    layout = Layout(axes=(Axis(name="x", distribution=IntDistribution(0, 1000), block="x", kind="x"),))
    rng = np.random.default_rng(0)
    steps = [stepped(layout, np.array([500.0]), rng, 1)[0] - 500 for _ in range(2000)]
    assert np.std(steps) == pytest.approx(100, rel=0.1)


def test_a_shift_moves_one_kind_in_one_direction():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        change = shifted(LAYOUT, MIDDLE, rng) - MIDDLE
        kinds = [kind for kind in LAYOUT.kinds if change[list(kind)].any()]
        assert len(kinds) <= 1
        for kind in kinds[:1]:
            if LAYOUT.axes[kind[0]].ordered:
                signs = set(np.sign(change[list(kind)])) - {0.0}
                assert len(signs) == 1
                seen.add((len(kind), signs.pop()))
    assert seen == {(LAYERS, 1.0), (LAYERS, -1.0), (1, 1.0), (1, -1.0)}


def test_levels_spread_over_the_whole_space_where_independent_draws_do_not():
    rng = np.random.default_rng(0)
    rows = np.array([level(LAYOUT, rng) for _ in range(400)])
    ratios = rows[:, :20:2]
    means = ratios.mean(axis=1) / 4
    assert means.std() == pytest.approx(1 / 12**0.5, rel=0.1)  # of one uniform draw; of ten means it is a third
    assert ratios.std(axis=1).mean() < 0.5  # within a plan, in places
    assert abs(np.corrcoef(means, rows[:, 1:20:2].mean(axis=1))[0, 1]) < 0.15  # kinds differ freely


def test_the_tournament_prefers_fronts_then_room():
    rng = np.random.default_rng(0)
    ranks, crowding = np.array([0, 0, 1, 2]), np.array([np.inf, 1.0, np.inf, np.inf])
    wins = np.bincount([tournament(ranks, crowding, rng) for _ in range(4000)], minlength=4) / 4000
    assert wins == pytest.approx(np.array([7, 5, 3, 1]) / 16, abs=0.03)


def test_the_father_is_near():
    rng = np.random.default_rng(0)
    values = np.array([[float(x), 100.0 * (9 - x)] for x in range(10)])
    away = [abs(mate(values, 0, rng) - 0) for _ in range(2000)]
    assert np.mean(away) < 3  # of a random one it is 5
    assert 0 not in away
    assert mate(values[:1], 0, rng) == 0
    assert mate(np.zeros((2, 2)), 0, rng) in (0, 1)
    assert mate(np.array([[0.0, 1.0], [np.inf, 0.0]]), 1, rng) in (0, 1)
