"""One plan in a few words: every setting does what it says, and every mistake names its key."""

import subprocess
import sys
from math import prod
from typing import Any

import pytest
from hand_made import small_inventory
from hypothesis import given
from hypothesis import strategies as st
from partition_nets import tower

from paretune.errors import ImpossiblePlan, ParetuneError
from paretune.inventory import Group, Inventory, Member
from paretune.plan import DENSE, LayerPlan, Pattern, Plan
from paretune.recipe import Wanted
from paretune.spaces.fixed import fixed_plan


def half(wanted: Wanted, shape: tuple[int, ...]) -> Pattern | None:
    """A mask that leaves half of the weights, whatever is asked for."""
    if wanted.kind == "channel":
        return None
    if wanted.kind == "lost":
        raise ImpossiblePlan("no such pattern here")
    parts = wanted.parts if wanted.kind == "partition" else 0
    return Pattern(
        kind=wanted.kind, nonzeros=prod(shape) // 2, index_bytes=0, stored="", block=wanted.block, parts=parts
    )


def plan(inventory: Inventory | None = None, **asked: Any) -> Plan:
    return fixed_plan(asked, inventory or small_inventory(), half)


def bits(found: Plan) -> dict[str, tuple[int, int]]:
    return {row.layer: (row.weight_bits, row.activation_bits) for row in found.layers}


def test_it_needs_no_tensor() -> None:
    code = "import sys, paretune.spaces.fixed; print({'torch', 'optuna', 'hydra', 'omegaconf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_nothing_asked_for_is_the_dense_plan() -> None:
    assert plan() == plan(weight_bits=32, ratio=0.0, sparsity=0) == DENSE


def test_bits_go_to_every_layer_with_weights() -> None:
    assert bits(plan(weight_bits=4, activation_bits=8)) == dict.fromkeys(("stem", "body.a", "head"), (4, 8))
    assert bits(plan(weight_bits="ternary")) == dict.fromkeys(("stem", "body.a", "head"), (2, 32))


def test_input_bits_are_those_of_the_layers_that_read_the_input_whatever_a_row_says() -> None:
    found = plan(activation_bits=4, input_bits=8, layers=[{"match": "*", "activation_bits": 2}])
    assert bits(found) == {"stem": (32, 8), "body.a": (32, 2), "head": (32, 2)}
    assert bits(plan(activation_bits=4))["stem"] == (32, 4)


def test_the_first_row_that_matches_wins_and_the_rest_keeps_what_all_have() -> None:
    rows = [{"match": "@last", "weight_bits": 8}, {"match": ["head", "body*"], "activation_bits": 6}]
    found = bits(plan(weight_bits=4, activation_bits=4, layers=rows))
    assert found == {"stem": (4, 4), "body.a": (4, 6), "head": (8, 4)}


def test_the_first_units_stay_and_at_least_one_does() -> None:
    assert plan(ratio=0.5).kept == {"stem": (0, 1), "body.a": (0, 1, 2)}
    assert plan(ratio=0.99).kept == {"stem": (0,), "body.a": (0,)}
    # 6 × 0.25 = 1.5 and 4 × 0.125 = 0.5 are rounded up
    assert plan(ratio=0.25, groups=[{"match": "st*", "ratio": 0.125}]).kept == {
        "stem": (0, 1, 2),
        "body.a": (0, 1, 2, 3),
    }


@given(st.integers(1, 600), st.integers(0, 999))
def test_the_removed_count_is_the_nearest(channels: int, thousandths: int) -> None:
    member = Member(layer="stem", axis="out", units=tuple((unit,) for unit in range(channels)))
    group = Group(name="g", channels=channels, members=(member,))
    inventory = Inventory(layers=small_inventory().layers, groups=(group,), input_shape=(3, 4, 4), whole={})
    kept = plan(inventory, ratio=thousandths / 1000).kept.get("g", range(channels))
    gone = (2 * channels * thousandths + 1000) // 2000  # half up, in whole numbers
    assert tuple(kept) == tuple(range(max(1, channels - gone)))


def test_a_mask_is_asked_for_over_the_weight_that_the_cut_leaves() -> None:
    found = plan(ratio=0.5, pattern="pe_block", sparsity=0.5, block=8)
    assert {row.layer: row.pattern and row.pattern.nonzeros for row in found.layers} == {
        "stem": 2 * 3 * 9 // 2, "body.a": 3 * 2 // 2, "head": 10 * 3 * 4 // 2,
    }  # fmt: skip
    assert {row.pattern and row.pattern.block for row in found.layers} == {8}


def test_a_sparsity_alone_is_unstructured_and_rows_may_leave_a_layer_out() -> None:
    found = plan(sparsity=0.5, layers=[{"match": "@first", "pattern": "channel"}, {"match": "head", "pattern": "2:4"}])
    assert {row.layer: row.pattern and row.pattern.kind for row in found.layers} == {
        "body.a": "unstructured", "head": "2:4",
    }  # fmt: skip


def test_a_partition_goes_to_the_linear_layers_between_groups() -> None:
    found = plan(tower(4, 8, 8), pattern="partition", parts=2)
    assert {row.layer: row.pattern and row.pattern.parts for row in found.layers} == {"fc1": 2, "fc2": 2}
    rows = [{"match": "fc2", "pattern": "partition", "parts": 4}]
    assert [(row.layer, row.pattern and row.pattern.parts) for row in plan(tower(4, 8, 8), layers=rows).layers] == [
        ("fc2", 4)
    ]


def test_what_stays_as_it_is_is_not_named() -> None:
    found = plan(layers=[{"match": "head", "weight_bits": 8}])
    assert found == Plan(layers=(LayerPlan(layer="head", weight_bits=8),))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"weight_bit": 8}, r"plan has no key 'weight_bit'\. Did you mean 'weight_bits'\?"),
        ({"weight_bits": 9}, r"plan\.weight_bits: bits are whole numbers from 1 to 8, ternary, or 32 for float, got 9"),
        ({"weight_bits": 1.6}, r"plan\.weight_bits: bits are .* got 1\.6"),
        ({"weight_bits": [4, 8]}, r"plan\.weight_bits: bits are .* got \[4, 8\]"),
        ({"weight_bits": True}, r"plan\.weight_bits: bits are .* got True"),
        ({"activation_bits": 16}, r"plan\.activation_bits: bits are whole numbers from 1 to 8, or 32 .* got 16"),
        ({"activation_bits": "ternary"}, r"plan\.activation_bits: bits are .* got 'ternary'"),
        ({"input_bits": 0}, r"plan\.input_bits: bits are .* got 0"),
        ({"ratio": 1.0}, r"plan\.ratio: a ratio is the share removed, in \[0, 1\), got 1\.0"),
        ({"ratio": float("nan")}, r"plan\.ratio: a ratio is .* got nan"),
        ({"sparsity": -0.1}, r"plan\.sparsity: a sparsity is the share of weights removed, in \[0, 1\), got -0\.1"),
        ({"pattern": 124}, r"plan\.pattern: a pattern is a name; quote N:M"),
        ({"pattern": "unstructured"}, r"plan\.pattern: 'unstructured' needs plan\.sparsity"),
        ({"pattern": "2:4", "sparsity": 0.5}, r"plan\.sparsity: '2:4' does not read it; use unstructured or pe_block"),
        ({"pattern": "lost"}, r"plan\.pattern of layer 'stem': no such pattern here"),
        ({"pattern": "partition"}, r"plan\.pattern: no layer can be partitioned"),
        ({"block": 0}, r"plan\.block: a whole number, 1 or more, is needed, got 0"),
        ({"block": 8}, r"plan\.block is read by the pattern 'pe_block' only"),
        ({"parts": 4, "sparsity": 0.5}, r"plan\.parts is read by the pattern 'partition' only"),
        ({"layers": {"match": "*"}}, r"plan\.layers: expected a list of rows"),
        ({"layers": "head"}, r"plan\.layers: expected a list of rows"),
        (
            {"layers": [{"match": "hed", "weight_bits": 8}]},
            r"plan\.layers: 'hed' matches nothing\. Did you mean 'head'",
        ),
        ({"layers": [{"match": "head", "ratio": 0.5}]}, r"plan\.layers has no key 'ratio'"),
        ({"layers": [{"match": "head"}]}, r"plan\.layers: a row needs match and weight_bits or activation_bits or"),
        ({"layers": [{"match": "head", "weight_bits": 0}]}, r"plan\.layers\.weight_bits: bits are .* got 0"),
        ({"layers": [{"match": "head", "pattern": "partition"}]}, r"'head' cannot be partitioned; that takes a linear"),
        ({"groups": [{"match": "head", "ratio": 0.5}]}, r"plan\.groups: 'head' matches nothing"),
        ({"groups": [{"match": "stem", "ratio": 1}]}, r"plan\.groups\.ratio: a ratio is the share removed"),
        ({"groups": [{"match": "stem", "ratio": 0.5, "tie": True}]}, r"plan\.groups has no key 'tie'"),
    ],
)
def test_a_mistake_names_its_key_and_what_works(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ParetuneError, match=message):
        plan(**asked)


def test_a_ratio_without_groups_would_have_no_effect() -> None:
    bare = Inventory(layers=small_inventory().layers, groups=(), input_shape=(3, 4, 4), whole={})
    with pytest.raises(ParetuneError, match=r"plan\.ratio: the model has no channel groups"):
        plan(bare, ratio=0.5)
    assert plan(bare, weight_bits=8).kept == {}
