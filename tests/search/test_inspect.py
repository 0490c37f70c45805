"""What `paretune inspect` says: closed forms on a model written by hand, sums, and everything that is promised."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hand_made import small_inventory
from partition_nets import tower

from paretune.compress.patterns import mask_for, stand_in
from paretune.costs.hardware import Energy, Hardware
from paretune.costs.table import costs_for, static_costs
from paretune.errors import ImpossiblePlan, ParetuneError
from paretune.frozen import HEADER_BYTES
from paretune.inventory import Buffer, Inventory, Product, Size
from paretune.plan import DENSE, Codes, GroupPlan, LayerPlan, Pattern, Plan
from paretune.profile import profile
from paretune.recipe import Blend, Joint, Pruning, Wanted
from paretune.records import to_plain
from paretune.search.asked import asked_plan
from paretune.search.inspect import as_plain, inspect
from paretune.search.layer_table import GO_FIRST, layer_cells
from paretune.search.show import show

TABLE = Energy(
    name="hand", unit="pJ", source="made up", multiply=(0.0, 0.01), add=0.001, float_multiply=4.0, float_add=1.0,
    register=0.01, buffer=((64, 0.1), (1024, 0.2)), dram=20.0,
)  # fmt: skip
ARRAY = Hardware(
    name="array", engine="systolic", energy=TABLE, relative_energy=replace(TABLE, unit="MACs"), rows=4, columns=4,
    buffer_bytes=64, note="made up",
)  # fmt: skip
SHARED = replace(ARRAY, name="shared", engine="finn", pe=2, simd=2)
PIPELINE = replace(SHARED, name="pipeline", target_cycles=100)
EIGHT = {"weight_bits": 8, "activation_bits": 8}
HALF = {**EIGHT, "ratio": 0.5}


STEPS = ("stem", "stem", "stem.bn", "body.a", "body.bn", "scale", "attend", "head")


def watched() -> Inventory:
    """The small model as if somebody had watched its forward, with a product of activations before the head."""
    sizes = [Size(dense=number) for number in (2, 3, 4, 5)]
    product = Product(name="attend", count=sizes[0], rows=sizes[1], inner=sizes[2], columns=sizes[3])
    buffers = (
        Buffer(numbers=Size(dense=48), born=0, dies=1, readers=("stem",)),
        Buffer(numbers=Size(dense=64), born=1, dies=2, readers=("body.a",)),
    )
    return replace(
        small_inventory(), products=(product,), steps=STEPS, buffers=buffers,
        operations=(("add", 8),), unsure=("attend",),
    )  # fmt: skip


def plain(asked: dict[str, Any], hardware: Hardware = ARRAY, inventory: Inventory | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(as_plain(inspect("hand", inventory or watched(), asked, hardware))))
    return found


def test_a_cut_and_quantized_model_by_hand() -> None:
    """Half of the channels: stem (2, 3, 3, 3) at 16 pixels, body.a (3, 2, 1, 1) at 16, head (10, 12)."""
    found = plain(HALF, inventory=small_inventory())
    rows = {row["name"]: row for row in found["layers"]}
    macs = {"stem": 2 * 27 * 16, "body.a": 3 * 2 * 16, "head": 10 * 12}
    # (2R + C + T - 2) ⌈positions / R⌉ ⌈filters / C⌉, what is summed over stays in place
    cycles = {"stem": (10 + 27) * 4 * 1, "body.a": (10 + 2) * 4 * 1, "head": (10 + 12) * 1 * 3}
    # one byte per weight; a float32 scale and shift per output and one activation step
    size = {"stem": 54 + 4 * (2 + 2 + 1), "body.a": 6 + 4 * (3 + 3 + 1), "head": 120 + 4 * (10 + 10 + 1)}
    for name, row in ((name, rows[name]) for name in macs):
        assert row["macs"] == row["effective_macs"] == macs[name]
        assert row["bops"] == macs[name] * 64
        assert row["cycles"] == cycles[name]
        assert row["bytes"] == size[name]
        assert row["utilisation"] == pytest.approx(macs[name] / (16 * cycles[name]))
        assert row["share_of_macs"] == pytest.approx(macs[name] / 1080)
    assert rows["stem"]["weight_shape"] == [2, 3, 3, 3]
    assert rows["body.a"]["groups"] == [{"group": "stem", "axis": "in"}, {"group": "body.a", "axis": "out"}]
    norm = 4 * (3 + 3 + 6)  # body.bn is not folded: scale, shift and two statistics for each of 3 channels
    assert found["totals"]["size_bytes"] == HEADER_BYTES + sum(size.values()) + norm + 4 * 5
    assert found["totals"]["bops"] == 1080 * 64
    assert found["utilisation"] == pytest.approx(1080 / (16 * sum(cycles.values())))
    assert found["dense"]["bops"] == (4 * 27 * 16 + 6 * 4 * 16 + 10 * 24) * 32 * 32
    assert found["input_bits"] == {"stem": 8}
    assert plain({})["input_bits"] == {"stem": 32}


def test_one_channel_too_many_costs_a_second_pass() -> None:
    """Three columns for the stem's four channels; without the fourth one fold is enough."""
    narrow = replace(ARRAY, columns=3)
    four, three = (plain(asked, narrow)["layers"][0] for asked in ({}, {"ratio": 0.25}))
    assert (four["passes"], three["passes"]) == (8, 4)
    assert four["utilisation"] < three["utilisation"]


@pytest.mark.parametrize("hardware", [ARRAY, SHARED, PIPELINE], ids=lambda hardware: hardware.name)
@pytest.mark.parametrize("asked", [{}, HALF, {**EIGHT, "sparsity": 0.5}], ids=["dense", "half", "sparse"])
def test_layers_add_up_to_totals_as_the_definitions_say(asked: dict[str, Any], hardware: Hardware) -> None:
    found, told = plain(asked, hardware), 0
    for cost, definition in found["definitions"].items():
        key, _, how = definition["layers"].partition(": ")
        if not how:
            assert key == "not told by layer"
            continue
        each = [row[key] for row in found["layers"]]
        want = max(each) if how == "largest" else sum(each) + (HEADER_BYTES if "header" in how else 0)
        assert found["totals"][cost] == pytest.approx(want, rel=1e-12), cost
        told += 1
    assert told >= 10
    assert sum(row["share_of_macs"] for row in found["layers"]) == pytest.approx(1)


def test_json_says_all_that_the_table_of_costs_knows() -> None:
    found = plain(EIGHT)
    names = set(costs_for(ARRAY))
    assert names == set(found["totals"]) == set(found["dense"]) == set(found["uncounted"]) == set(found["definitions"])
    assert found["totals"] == static_costs(profile(watched(), asked_plan(EIGHT, watched())), ARRAY)
    assert {"unit", "definition", "source"} <= set(found["definitions"]["macs"])
    assert "add ×8" in found["uncounted"]["macs"]
    assert found["plan"] == EIGHT
    assert found["hardware"]["name"] == "array"
    assert found["inventory"] == json.loads(json.dumps(to_plain(watched())))
    assert [row["name"] for row in found["layers"]] == [item.name for item in watched().order]


def test_engines_of_their_own_wait_for_the_slowest() -> None:
    found = inspect("hand", watched(), EIGHT, PIPELINE)
    lines = [line for line in found.lines if line.folding]
    lanes = sum(line.folding.pe * line.folding.simd for line in lines if line.folding)
    done = sum(line.row.macs for line in lines)
    assert found.utilisation == pytest.approx(done / (lanes * found.totals["cycles"]))
    slow = plain({}, replace(PIPELINE, target_cycles=15))  # 16 positions take 16 cycles at least
    assert slow["misses_target_cycles"] == ["stem", "body.a"]
    assert slow["float_on_integers"] == ["stem", "body.a", "attend", "head"]


def test_a_partition_is_told_next_to_one_accelerator() -> None:
    (split,) = plain({"pattern": "partition", "parts": 2}, inventory=tower(4, 8))["partitions"]
    assert (split["name"], split["parts"], split["accelerators"]) == ("fc1", 2, 2)
    # (out 8, in 4) on a 4 × 4 array: T = 4 and two folds; a block is (4, 2): T = 2 and one fold
    assert (split["dense_cycles"], split["serial_cycles"], split["parallel_cycles"]) == (14 * 2, 12 * 2, 12)
    assert split["speedup"] == pytest.approx(28 / 12)


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(kind="unstructured", sparsity=0.7), Wanted(kind="2:4"),
        Wanted(kind="pe_block", sparsity=0.5, block=4), Wanted(kind="pe_block", sparsity=0.5, block=2, layout="filter"),
    ],
    ids=lambda wanted: f"{wanted.kind} {wanted.layout}",
)  # fmt: skip
def test_a_stand_in_keeps_as_many_weights_as_the_mask_would(wanted: Wanted) -> None:
    shape = (8, 12, 3, 3)
    found = stand_in(wanted, shape)
    assert found.nonzeros == mask_for(wanted, np.random.default_rng(0).random(shape)).sum()
    assert (found.kind, found.block) == (wanted.kind, wanted.block if wanted.kind == "pe_block" else 0)


def test_a_stand_in_for_a_partition_has_its_parts() -> None:
    split = stand_in(Wanted(kind="partition", parts=2), (4, 6))
    assert (split.nonzeros, split.parts, split.block) == (12, 2, 0)


def test_a_mask_that_leaves_everything_is_none() -> None:
    plan = asked_plan({"sparsity": 0.0, "pattern": "unstructured"}, small_inventory())
    assert [row.pattern for row in plan.layers] == [None] * len(plan.layers)


EXPORTED = Plan(
    groups=(GroupPlan(group="stem", kept=(1, 3)),),
    layers=(
        LayerPlan(layer="stem", weight_bits=4, activation_bits=8),
        LayerPlan(layer="head", pattern=Pattern(kind="2:4", nonzeros=120, index_bytes=60, stored="")),
    ),
)


@pytest.mark.parametrize("name", ["plan.yaml", "mine.json"])
def test_a_plan_of_a_file_costs_what_it_costs(tmp_path: Path, name: str) -> None:
    text = yaml.safe_dump(to_plain(EXPORTED)) if name == "plan.yaml" else json.dumps(to_plain(EXPORTED))
    (tmp_path / name).write_text(text)
    asked = {"file": str(tmp_path if name == "plan.yaml" else tmp_path / name)}
    assert asked_plan(asked, watched()) == EXPORTED
    assert plain(asked)["totals"] == static_costs(profile(watched(), EXPORTED), ARRAY)


def test_masks_that_training_has_to_find_are_foreseen(tmp_path: Path) -> None:
    wanted = {"head": Wanted(kind="unstructured", sparsity=0.75)}
    pruning = Pruning(
        schedule="cubic", rounds=1, epochs=1, lr=0.1, wanted=wanted, blends={"head": Blend(criteria=("l2",))}
    )
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump(to_plain(replace(EXPORTED, layers=(LayerPlan(layer="head"),), pruning=pruning)))
    )
    found = plain({"file": str(tmp_path)})
    assert found["totals"]["nonzeros"] == found["totals"]["params"] - 240 * 3 // 4


TOO_MANY = Pattern(kind="2:4", nonzeros=241, index_bytes=9, stored="")
BROKEN = {
    "another's layer": (replace(EXPORTED, layers=(LayerPlan(layer="hed"),)), "no layer is called 'hed'. Did you mean"),
    "another's group": (replace(EXPORTED, groups=(GroupPlan(group="g", kept=(0,)),)), "no group is called 'g'"),
    "another's unit": (replace(EXPORTED, groups=(GroupPlan(group="stem", kept=(4,)),)), "has no unit 4"),
    "too many weights": (
        replace(EXPORTED, layers=(LayerPlan(layer="head", pattern=TOO_MANY),)),
        "it keeps 241 weights of 'head', which has 240",
    ),
    "not found yet": (
        replace(EXPORTED, joint=Joint(epochs=1, lr=0.1, weight_bits={}, activation_bits={})),
        "still to be found in training",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_plan_of_another_network_is_refused(tmp_path: Path, name: str) -> None:
    found, message = BROKEN[name]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(to_plain(found)))
    with pytest.raises(ImpossiblePlan, match=message):
        inspect("hand", watched(), {"file": str(tmp_path)}, ARRAY)


@pytest.mark.parametrize("text", ["[1, 2]", "colour: red", "just words", "{a: [", "groups: 3", ""])
def test_a_file_without_a_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ParetuneError, match=r"plan\.file: .*plan\.yaml holds no plan"):
        asked_plan({"file": str(tmp_path)}, watched())


@pytest.mark.parametrize(
    "row", [{"weight_bits": "x"}, {"codes": dict.fromkeys(Codes._fields, 1)}], ids=["bits", "codes"]
)
def test_a_plan_of_another_version_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"layers": [{"layer": "head", **row}]}))
    with pytest.raises(ParetuneError, match=r"plan\.file: .*plan\.yaml holds no plan of this version"):
        asked_plan({"file": str(tmp_path)}, watched())


def test_a_file_goes_alone_and_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ParetuneError, match=r"plan\.file says everything; leave plan\.ratio out"):
        asked_plan({"file": "model", "ratio": 0.5}, watched())
    with pytest.raises(ParetuneError, match=r"plan\.file: no file at .*plan\.yaml; it is an exported folder"):
        asked_plan({"file": str(tmp_path)}, watched())
    assert asked_plan({}, watched()) == DENSE


def test_the_page_holds_every_column_and_every_total(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show("hand", watched(), {**HALF, "sparsity": 0.5}, ARRAY, as_json=False)
    out = capsys.readouterr().out
    assert max(len(line) for line in out.partition("Channel groups")[0].splitlines() if "  " in line) <= 220
    title = next(line for line in out.splitlines() if line.startswith("layer "))
    columns = ("weight", "output", "params", "MACs", "bits w/a", "mask", "bytes", "BOPs", "energy", "cycles", "passes",
               "util.", "share of MACs", "groups")  # fmt: skip
    assert [name for name in columns if name not in title] == []
    for name, cost in costs_for(ARRAY).items():
        assert any(line.startswith(f"{name} ") and cost.objective.unit in line for line in out.splitlines()), name
    (bops,) = (line for line in out.splitlines() if line.startswith("bops "))
    assert "× smaller" in bops
    for text in (
        "hand; input 3×4×4; hardware array (made up); plan weight_bits=8", "network input: 8 bits, read by stem",
        "2·(3×4·4×5)", "unstructured 50%", "stem → body.a", "all else, header", "of multiplier-cycles do a MAC",
        "energy goes to: operations",
        "peak of activations: 112 B at stem; the buffer holds 64 B: stem with more go to DRAM",
        "largest share of: MACs", "sizes are upper bounds", "not counted in macs, effective_macs", "add ×8",
        "left whole: head (its channels are the model's output)", "unsure: attend",
        "Channel groups", "2 of 4",
    ):  # fmt: skip
        assert text in out, text


def test_the_dense_page_compares_with_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show("hand", replace(small_inventory(), groups=()), {}, ARRAY, as_json=False)
    out = capsys.readouterr().out
    assert "plan none: the dense network" in out
    assert "smaller" not in out.replace("upper bounds", "")
    assert "Channel groups" not in out
    assert "Partitioned layers" not in out


def test_hardware_says_what_it_misses(capsys: pytest.CaptureFixture[str]) -> None:
    show("hand", watched(), {}, replace(PIPELINE, target_cycles=15), as_json=False)
    out = capsys.readouterr().out
    assert "PE×SIMD" in out
    assert "misses target_cycles=15 however it is folded: stem, body.a" in out
    assert "float on an engine for integers, counted as 32-bit integers: 4 layers (stem, body.a, attend, …)" in out


def test_many_layers_left_whole_are_told_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    whole = {f"block{i}": "the tracer lost it" for i in range(20)} | {"head": "output"}
    show("hand", replace(small_inventory(), whole=whole), {}, ARRAY, as_json=False)
    out = capsys.readouterr().out
    assert "left whole: 20 layers (block0, block1, block2, …) (the tracer lost it)" in out
    assert "left whole: head (output)" in out


def test_partitioned_layers_get_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    show("hand", tower(4, 8), {"pattern": "partition", "parts": 2}, ARRAY, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    at = next(place for place, line in enumerate(lines) if "Partitioned layers" in line)
    assert {"fc1", "28", "24", "12", "2.33×"} <= {*" ".join(lines[at : at + 5]).split()}


def human_bytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"B": 1, "kB": 1000}[unit]


def test_rows_add_up_to_the_last_one() -> None:
    found = inspect("hand", watched(), {}, ARRAY)
    cells = layer_cells(found, 200)
    place = [column.title for column in cells.columns].index("bytes")
    sizes = [human_bytes(row[place]) for row in cells.rows]
    assert sum(sizes[:-1]) == pytest.approx(sizes[-1], rel=0.05)  # each is rounded to a tenth of its prefix
    assert sizes[-1] == pytest.approx(found.totals["size_bytes"], rel=0.05)
    assert [row[0] for row in cells.rows] == ["stem", "body.a", "attend", "head", "all else, header", "total"]


def test_a_narrow_table_leaves_columns_out_in_order_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inspect("hand", watched(), EIGHT, ARRAY)
    assert layer_cells(found, 160).dropped == ()
    gone = list(dict.fromkeys(name for width in range(160, 1, -1) for name in layer_cells(found, width).dropped))
    assert gone[0] == "output"  # it is in no promise
    assert set(gone) == set(GO_FIRST) - {"PE×SIMD"}
    wide = layer_cells(found, 160).rows[1][-1]
    fits = next(cells for width in range(160, 1, -1) if (cells := layer_cells(found, width)).rows[1][-1] != wide)
    assert (wide, fits.rows[1][-1], fits.dropped) == ("stem → body.a", "#1 → #2", ())
    monkeypatch.setenv("COLUMNS", "80")
    show("hand", watched(), EIGHT, ARRAY, as_json=False)
    out = capsys.readouterr().out
    assert "no room for:" in out
    assert "…" not in out
    assert "macs: multiply-adds of one sample" in out


def test_json_is_one_object_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    show("hand", watched(), HALF, ARRAY, as_json=True)
    assert json.loads(capsys.readouterr().out) == plain(HALF)
