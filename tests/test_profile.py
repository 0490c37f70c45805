"""The rows of a plan, every number from a formula."""

from dataclasses import replace

import pytest
from hand_made import small_inventory, units

from paretune.inventory import Buffer, Group, Inventory, Layer, Member, Product, Size
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


def watched() -> Inventory:
    """The small inventory with an attention in front of the head: 4 × 4 pixels look at each other in 2 heads."""
    stem, body = Size(dense=4 * 16, per_unit=(("stem", 16),)), Size(dense=6 * 16, per_unit=(("body.a", 16),))
    pooled = Size(dense=6 * 4, per_unit=(("body.a", 4),))
    scores = Product(
        name="mix:scores", count=Size(dense=2), rows=Size(dense=16), columns=Size(dense=16),
        inner=Size(dense=3, per_unit=(("body.a", 1),)),
    )  # fmt: skip
    return replace(
        INVENTORY,
        products=(scores,),
        steps=("stem", "stem", "body.a", "body.bn", "mix:scores", "head"),
        buffers=(
            Buffer(numbers=Size(dense=3 * 16), born=0, dies=1, readers=("stem",)),
            Buffer(numbers=stem, born=1, dies=3, readers=("body.a", "head")),
            Buffer(numbers=body, born=2, dies=4, readers=("body.a",)),
            Buffer(numbers=pooled, born=4, dies=5, readers=("head",)),
            Buffer(numbers=Size(dense=10), born=5, dies=5, readers=()),
        ),
    )


def test_activations_are_counted_at_the_worst_step_in_the_bits_of_who_reads_them() -> None:
    alive = {row.name: row.alive_bytes for row in profile(watched(), DENSE)}
    assert alive == {
        "stem": 4 * (48 + 64), "stem.bn": 0, "body.a": 4 * (64 + 96), "body.bn": 4 * (64 + 96), "scale": 0,
        "mix:scores": 4 * (96 + 24), "head": 4 * (24 + 10),
    }  # fmt: skip
    bits = {"stem": 8, "body.a": 4, "head": 3}
    plan = Plan(
        groups=(GroupPlan(group="stem", kept=(0, 1, 3)), GroupPlan(group="body.a", kept=(2, 4))),
        layers=tuple(LayerPlan(layer=name, activation_bits=width) for name, width in bits.items()),
    )
    alive = {row.name: row.alive_bytes for row in profile(watched(), plan)}
    # 48 numbers of 8 bits; 3 × 16 of 4, the wider of two readers; 2 × 16 of 4; 2 × 4 of 3; the output is float
    assert (alive["stem"], alive["body.a"], alive["mix:scores"], alive["head"]) == (48 + 24, 24 + 16, 16 + 3, 3 + 40)


def test_a_product_has_a_row_without_weights_where_it_runs() -> None:
    rows = profile(watched(), Plan(groups=(GroupPlan(group="body.a", kept=(1, 2, 4, 5)),)))  # 2 of 6 gone
    assert [row.name for row in rows][-2:] == ["mix:scores", "head"]
    row = rows[-2]
    assert (row.kind, row.groups, row.positions, row.inner, row.filters) == ("product", 2, 16, 3 - 2, 16)
    assert (row.macs, row.dense_macs) == (2 * 16 * 1 * 16, 2 * 16 * 3 * 16)
    assert (row.inputs, row.outputs) == (2 * (16 * 1 + 1 * 16), 2 * 16 * 16)
    assert (row.params, row.weights, row.floats, row.weight_bits, row.activation_bits) == (0, 0, 0, 32, 32)


def test_rows_know_their_matrix_product_and_what_they_read_and_write() -> None:
    found = rows(Plan(groups=(GroupPlan(group="stem", kept=(0, 1, 3)),)))
    stem, body, head = found["stem"], found["body.a"], found["head"]
    assert (stem.groups, stem.positions, stem.inner, stem.filters, stem.outputs) == (1, 16, 27, 3, 3 * 16)
    assert (body.groups, body.positions, body.inner, body.filters, body.outputs) == (1, 16, 3, 6, 6 * 16)
    assert (head.groups, head.positions, head.inner, head.inputs, head.outputs) == (1, 1, 24, 24, 10)
    assert all(row.macs == row.groups * row.positions * row.inner * row.filters for row in (stem, body, head))
