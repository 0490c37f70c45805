"""The rows of a plan, every number from a formula."""

from dataclasses import replace

import pytest
from hand_made import small_inventory, units

from paretune.inventory import Group, Inventory, Layer, Member
from paretune.plan import DENSE, Codes, GroupPlan, LayerPlan, Pattern, Plan
from paretune.profile import Row, cut_shape, profile

INVENTORY = small_inventory()


def rows(plan: Plan) -> dict[str, Row]:
    return {row.name: row for row in profile(INVENTORY, plan)}


def test_the_dense_profile() -> None:
    found = rows(DENSE)
    assert list(found) == [layer.name for layer in INVENTORY.layers]
    # (weights, macs, params, scales, floats): a convolution's weights are out × in × k², its MACs that × pixels
    assert numbers(found["stem"]) == (4 * 3 * 9, 4 * 3 * 9 * 16, 4 * 3 * 9, 0, 4)  # 4 folded shifts
    assert numbers(found["stem.bn"]) == (0, 0, 2 * 4, 0, 0)  # scale and shift learn, but live in the layer before
    assert numbers(found["body.a"]) == (6 * 4, 6 * 4 * 16, 6 * 4 + 6, 0, 6)
    assert numbers(found["body.bn"]) == (0, 0, 2 * 6, 0, 4 * 6)  # scale, shift, mean, variance
    assert numbers(found["scale"]) == (0, 0, 5, 0, 5)
    assert numbers(found["head"]) == (10 * 24, 10 * 24, 10 * 24 + 10, 0, 10)
    assert {(row.weight_bits, row.activation_bits) for row in found.values()} == {(32, 32)}


def numbers(row: Row) -> tuple[int, ...]:
    return row.weights, row.macs, row.params, row.scales, row.floats


def test_a_cut_and_quantized_profile() -> None:
    plan = Plan(
        groups=(GroupPlan(group="stem", kept=(0, 1, 3)), GroupPlan(group="body.a", kept=(2, 4))),
        layers=(
            LayerPlan(layer="stem", weight_bits=4, activation_bits=8),
            LayerPlan(layer="head", weight_bits=2),
            LayerPlan(layer="body.a", activation_bits=6),
        ),
    )
    found = rows(plan)
    assert numbers(found["stem"]) == (3 * 27, 3 * 27 * 16, 3 * 27, 3, 3 + 1)  # a scale per channel, an activation step
    assert numbers(found["stem.bn"]) == (0, 0, 2 * 3, 0, 0)
    assert numbers(found["body.a"]) == (2 * 3, 2 * 3 * 16, 2 * 3 + 2, 0, 2 + 1)
    assert numbers(found["body.bn"]) == (0, 0, 2 * 2, 0, 4 * 2)
    assert numbers(found["head"]) == (10 * 8, 10 * 8, 10 * 8 + 10, 10, 10)  # 2 units × 4 pixels
    assert found["head"].weight_shape == (10, 8)
    assert (found["stem"].weight_bits, found["stem"].activation_bits, found["stem"].channels) == (4, 8, 3)
    assert (found["body.a"].weight_bits, found["body.a"].activation_bits) == (32, 6)


def test_a_masked_profile() -> None:
    """A pattern changes what stays and what it takes to say where; everything else is the row without it."""
    loose = Pattern(kind="unstructured", nonzeros=11, index_bytes=7, stored="")
    parts = Pattern(kind="partition", nonzeros=60, index_bytes=3, stored="", parts=4)
    groups = (GroupPlan(group="stem", kept=(0, 1, 3)),)
    layers = (LayerPlan(layer="stem", weight_bits=4, pattern=loose), LayerPlan(layer="head", pattern=parts))
    found = rows(Plan(groups=groups, layers=layers))
    bare = rows(Plan(groups=groups, layers=tuple(replace(layer, pattern=None) for layer in layers)))
    assert zeros(found["stem"]) == ("unstructured", 11, 7, 1)
    assert zeros(found["head"]) == ("partition", 60, 3, 4)
    for name, row in found.items():
        assert replace(row, pattern="", nonzeros=row.weights, kept=row.weights, index_bytes=0, parts=1) == bare[name]
        if name not in ("stem", "head"):
            assert zeros(row) == ("", row.weights, 0, 1)


def zeros(row: Row) -> tuple[str, int, int, int]:
    return row.pattern, row.nonzeros, row.index_bytes, row.parts


def test_codes_say_how_many_of_the_kept_weights_are_zero_after_all() -> None:
    codes = Codes(nonzeros=9, distinct=3, entropy_bits=20, huffman_bits=22, gap_bits=2, entries=12)
    loose = Pattern(kind="unstructured", nonzeros=11, index_bytes=7, stored="")
    stem = LayerPlan(layer="stem", weight_bits=2, pattern=loose, weight_quantizer="ternary", encoding="entropy")
    asked, trained = (rows(Plan(layers=(replace(stem, codes=one),)))["stem"] for one in (None, codes))
    assert (asked.kept, asked.nonzeros, asked.codes) == (11, 11, None)
    assert (trained.kept, trained.nonzeros, trained.codes) == (11, 9, codes)
    assert (trained.quantizer, trained.encoding) == ("ternary", "entropy")


def test_a_codebook_stores_its_levels_and_an_exponent_is_a_number_of_its_own() -> None:
    stem = LayerPlan(layer="stem", weight_bits=3, activation_bits=4)
    plain = rows(Plan(layers=(stem,)))["stem"].floats
    assert rows(Plan(layers=(replace(stem, weight_quantizer="codebook"),)))["stem"].floats == plain + 2 * 3  # ±(2² - 1)
    assert rows(Plan(layers=(replace(stem, activation_quantizer="djpq"),)))["stem"].floats == plain + 1


def test_keeping_everything_is_the_dense_profile() -> None:
    every = tuple(GroupPlan(group=group.name, kept=tuple(range(group.channels))) for group in INVENTORY.groups)
    assert profile(INVENTORY, Plan(groups=every)) == profile(INVENTORY, DENSE)


GROUPED = Layer(name="g", kind="conv", weight_shape=(12, 4, 3, 3), bias=False, groups=2)
DEPTHWISE = Layer(name="g", kind="conv", weight_shape=(6, 1, 3, 3), bias=False, groups=6)


@pytest.mark.parametrize(
    ("layer", "axis", "members", "kept", "shape"),
    [
        # Two conv groups of 4 in and 6 out: a unit is one input per conv group, counted inside it.
        (GROUPED, "in", units(4), (0, 3), (12, 2)),
        # Its outputs leave one per conv group.
        (GROUPED, "out", tuple((u, u + 6) for u in range(6)), (1,), (2, 4)),
        (DEPTHWISE, "out", units(6), (0, 5), (2, 1)),
    ],
)
def test_grouped_and_depthwise_shapes(
    layer: Layer, axis: str, members: tuple[tuple[int, ...], ...], kept: tuple[int, ...], shape: tuple[int, int]
) -> None:
    member = Member(layer="g", axis=axis, units=members)  # type: ignore[arg-type]
    group = Group(name="in", channels=len(members), members=(member,))
    inventory = Inventory(layers=(layer,), groups=(group,), input_shape=(8, 4, 4), whole={})
    assert cut_shape(inventory, layer, {"in": kept}) == (*shape, 3, 3)
    assert cut_shape(inventory, layer, {}) == layer.weight_shape
    assert layer.depthwise == (layer.weight_shape[1] == 1)


def test_an_inventory_knows_who_carries_weights_and_what_folds() -> None:
    assert [layer.name for layer in INVENTORY.weighted] == ["stem", "body.a", "head"]
    assert INVENTORY.folded == {"stem.bn"}
    assert [group for group, _ in INVENTORY.cuts["body.a"]] == ["stem", "body.a"]
    assert INVENTORY.cuts["scale"] == ()
    assert [member.layer for member in INVENTORY.group["stem"].producers] == ["stem", "stem.bn"]
