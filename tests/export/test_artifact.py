"""An artifact is whole or absent, says when it was touched, and is verified in another process."""

import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from artifacts import LABELS, TEST, Made, seal
from export_nets import compressed
from safetensors.numpy import save
from torch import nn

from paretune.compress.freeze import freeze, thaw
from paretune.costs.counts import size_bytes
from paretune.errors import ParetuneError
from paretune.export.artifact import FILES, PARTITIONS, PROGRAM, READER, check_target, read_artifact, write_artifact
from paretune.export.verify import verify
from paretune.frozen import Frozen
from paretune.profile import profile


def test_reading_gives_back_what_was_written(made: Made) -> None:
    artifact = read_artifact(made.folder)
    assert artifact.plan == made.source.plan
    assert np.array_equal(artifact.inputs, TEST[:8])
    assert np.array_equal(artifact.predictions, made.predictions)
    assert artifact.predictions.dtype == np.uint8
    assert np.array_equal(artifact.frozen.layers["stem"].codes, made.frozen.layers["stem"].codes)
    again = thaw(made.source.dense, made.source.inventory, artifact.plan, artifact.frozen)
    with torch.no_grad():
        assert np.array_equal(again(torch.from_numpy(TEST[:8])).numpy(), artifact.logits)


def test_the_folder_holds_these_files_and_nothing_else_is_left(made: Made) -> None:
    assert {path.name for path in made.folder.iterdir()} == {*FILES, "scores.json", "README.md"}
    assert [path.name for path in made.folder.parent.iterdir()] == ["model"]
    facts = read_artifact(made.folder).scores
    assert facts["input"] == {"name": "input", "shape": ["n", 3, 8, 8], "dtype": "float32"}
    assert facts["files"]["model.safetensors"]["bytes"] == (made.folder / "model.safetensors").stat().st_size
    assert facts["parity"]["differing"] == 0


def test_the_readme_loads_and_runs_it(made: Made) -> None:
    assert run_readme(made, 0).strip("[]\n").split() == [str(label) for label in made.predictions[:8]]


def run_readme(made: Made, which: int, then: str = "") -> str:
    """What the README's piece of code prints, run in the folder with `then` behind it."""
    code = (made.folder / "README.md").read_text().split("```python\n")[which + 1].split("```")[0] + then
    alone = [sys.executable, "-B", "-c", code]  # -B, or importing the reader would leave a folder behind
    return subprocess.run(alone, cwd=made.folder, capture_output=True, text=True, check=True).stdout


def test_the_readme_decodes_the_weights_without_this_package(made: Made) -> None:
    then = "import sys\nprint(weights['stem.weight'].sum(), 'paretune' in sys.modules, 'torch' in sys.modules)"
    total = made.frozen.layers["stem"].weight().sum()
    assert run_readme(made, 1, then).split() == [str(total), "False", "False"]


def test_the_readme_runs_the_program_in_pytorch(divided: Made) -> None:
    assert run_readme(divided, 2).strip() == f"tensor({divided.predictions[:8].tolist()})"


def test_a_failed_write_leaves_the_old_artifact(made: Made, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    before = (copy / "scores.json").read_bytes()
    monkeypatch.setattr("paretune.export.artifact.onnx.save", full)
    with pytest.raises(OSError, match="no space left"):
        made.write(copy)
    assert (copy / "scores.json").read_bytes() == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_a_folder_of_something_else_is_not_overwritten(made: Made, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ParetuneError, match="not an artifact"):
        made.write(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_old_artifact_is_replaced_whole(made: Made, copy: Path) -> None:
    (copy / "stray.txt").write_text("from before")
    made.write(copy)
    assert not (copy / "stray.txt").exists()
    assert verify(copy).ok


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_names_its_file(copy: Path, name: str) -> None:
    blob = bytearray((copy / name).read_bytes())
    blob[len(blob) // 2] ^= 1
    (copy / name).write_bytes(bytes(blob))
    with pytest.raises(ParetuneError, match=f"{name} was changed"):
        verify(copy)


def test_a_damaged_layer_is_named_even_with_fitting_hashes(copy: Path) -> None:
    blob = bytearray((copy / "model.safetensors").read_bytes())
    blob[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(blob))
    seal(copy)
    with pytest.raises(ParetuneError, match="'head' is damaged"):
        verify(copy)


def test_a_flipped_byte_names_its_tensor(copy: Path) -> None:
    blob = bytearray((copy / "model.safetensors").read_bytes())
    blob[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(blob))
    with pytest.raises(ParetuneError, match=r"model\.safetensors was changed after .*; 'head' is damaged"):
        verify(copy)
    (copy / "layout.json").write_text("{")
    with pytest.raises(ParetuneError, match=r"model\.safetensors was changed after the export: \d+ bytes, was \d+$"):
        verify(copy)


def test_a_target_can_be_checked_before_any_work(made: Made, tmp_path: Path) -> None:
    for fine in (tmp_path, tmp_path / "new", made.folder):
        check_target(fine)
    (tmp_path / "thesis.txt").write_text("years of work")
    for taken in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ParetuneError, match="not an artifact"):
            check_target(taken)


def test_a_net_with_a_buffer_is_exported_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4))
    net.register_buffer("pos", torch.randn(1, 16, 6, 6))
    source = compressed(net.eval(), {"0": (2, 8), "3": (2, 8)})
    frozen = freeze(source.model, source.inventory, source.plan)
    model = thaw(source.dense, source.inventory, source.plan, frozen)
    with torch.no_grad():
        predictions = model(torch.from_numpy(TEST)).argmax(1).numpy()
    write_artifact(
        tmp_path / "model", model=model, frozen=frozen, inventory=source.inventory, plan=source.plan,
        example=source.images[:1], check=(TEST[:8], predictions),
        scores={"size_bytes": size_bytes(profile(source.inventory, source.plan))},
    )  # fmt: skip
    assert verify(tmp_path / "model", TEST).ok


def test_missing_files_and_newer_formats_are_named(copy: Path) -> None:
    facts = json.loads((copy / "scores.json").read_text())
    (copy / "scores.json").write_text(json.dumps({**facts, "format": 4}))
    with pytest.raises(ParetuneError, match=r"format 4, this paretune reads up to 3"):
        read_artifact(copy)
    (copy / "scores.json").write_text(json.dumps(facts))
    (copy / "layout.json").unlink()
    with pytest.raises(ParetuneError, match=r"layout\.json is missing"):
        read_artifact(copy)
    (copy / "scores.json").write_text("{")
    with pytest.raises(ParetuneError, match=r"scores\.json is damaged"):
        read_artifact(copy)
    (copy / "scores.json").unlink()
    with pytest.raises(ParetuneError, match=r"has no scores\.json"):
        read_artifact(copy)


def packed_as_before(frozen: Frozen) -> tuple[bytes, dict[str, Any]]:
    """The file and its layout as format 2 had them, of layers without a pattern; in format 1 rows had no "pattern"."""
    codes, floats, rows, rest = b"", np.empty(0, np.float32), [], []
    for name, layer in frozen.layers.items():
        bits, own = layer.weight_bits, b""
        if bits < 32:
            shifted = (layer.codes.reshape(-1, 1) + (2 ** (bits - 1) - 1)).astype(np.uint8)
            spread = np.unpackbits(shifted, axis=1, bitorder="little")[:, :bits]
            own = np.packbits(spread, bitorder="little").tobytes()
        told = [layer.step] if layer.activation_bits < 32 else []
        weights, bias = layer.codes.ravel() if bits == 32 else [], [] if layer.bias is None else layer.bias
        numbers = np.concatenate([weights, layer.scales, bias, told], dtype=np.float32, casting="unsafe")
        rows.append({
            "name": name, "shape": list(layer.codes.shape), "bias": layer.bias is not None, "weight_bits": bits,
            "activation_bits": layer.activation_bits, "low": layer.low, "high": layer.high, "pattern": None,
            "codes_at": len(codes), "codes_bytes": len(own), "floats_at": len(floats), "floats": len(numbers),
            "crc32": zlib.crc32(numbers.tobytes(), zlib.crc32(own)),
        })  # fmt: skip
        codes, floats = codes + own, np.concatenate([floats, numbers])
    for name, array in frozen.rest.items():
        rest.append({
            "name": name, "shape": list(array.shape), "codes_at": len(codes), "codes_bytes": 0,
            "floats_at": len(floats), "floats": array.size, "crc32": zlib.crc32(array.tobytes()),
        })  # fmt: skip
        floats = np.concatenate([floats, array.ravel()])
    blob = save({"codes": np.frombuffer(codes, np.uint8), "floats": floats})
    return blob, {"codes_bytes": len(codes), "floats": len(floats), "layers": rows, "rest": rest}


@pytest.mark.parametrize("version", [1, 2])
def test_an_artifact_of_an_older_format_is_still_read(copy: Path, made: Made, version: int) -> None:
    blob, placed = packed_as_before(made.frozen)
    (copy / "model.safetensors").write_bytes(blob)
    plan = yaml.safe_load((copy / "plan.yaml").read_text())
    if version == 1:
        for row in placed["layers"]:
            del row["pattern"]
        old = {"epochs": 0, "lr": 0.0, "distill": "none"}
        layers = [{key: row[key] for key in ("layer", "weight_bits", "activation_bits")} for row in plan["layers"]]
        plan = {"groups": plan["groups"], "layers": layers, "recovery": old}
    (copy / "layout.json").write_text(json.dumps(placed))
    (copy / "plan.yaml").write_text(yaml.safe_dump(plan))
    seal(copy)
    facts = json.loads((copy / "scores.json").read_text())
    del facts["files"][READER], facts["storage"], facts["float_in_onnx"]
    (copy / READER).unlink()
    (copy / "scores.json").write_text(json.dumps({**facts, "format": version}))
    artifact = read_artifact(copy)
    assert artifact.plan == made.source.plan
    assert np.array_equal(artifact.frozen.layers["stem"].codes, made.frozen.layers["stem"].codes)
    assert verify(copy, TEST).ok


def test_a_masked_net_is_exported_whole_and_verified(divided: Made) -> None:
    artifact = read_artifact(divided.folder)
    assert artifact.plan == divided.source.plan
    for name, layer in divided.frozen.layers.items():
        assert np.array_equal(artifact.frozen.layers[name].codes, layer.codes)
    assert {row["layer"] for row in artifact.scores["storage"]} == set(divided.frozen.layers)
    verdict = verify(divided.folder, TEST, LABELS)
    assert (verdict.ok, verdict.differing) == (True, 0)


def test_running_the_blocks_equals_the_masked_layer(divided: Made) -> None:
    with np.load(divided.folder / PARTITIONS) as arrays:
        assert set(arrays) == {f"{name}.{part}" for name in ("one", "two") for part in ("blocks", "rows", "columns")}
        for name, (outputs, inputs) in {"one": (24, 16), "two": (8, 24)}.items():
            blocks, rows, columns = (arrays[f"{name}.{part}"] for part in ("blocks", "rows", "columns"))
            assert (blocks.shape, blocks.dtype) == ((4, outputs // 4, inputs // 4), np.float32)
            assert (rows.shape, columns.shape) == ((4, outputs // 4), (4, inputs // 4))
            assert sorted(rows.ravel()) == list(range(outputs))
            assert sorted(columns.ravel()) == list(range(inputs))
            layer = divided.frozen.layers[name]
            x = np.random.default_rng(0).standard_normal((5, inputs), np.float32)
            y = np.zeros((5, outputs), np.float32)
            for k in range(4):
                y[:, rows[k]] = x[:, columns[k]] @ blocks[k].T
            np.testing.assert_allclose(y, x @ layer.weight().T, rtol=1e-5, atol=1e-5)
            # Devices need no more than the blocks: together they hold every weight that is not zero.
            assert np.count_nonzero(blocks) == np.count_nonzero(layer.codes) > 0


def test_the_devices_file_is_listed_explained_and_only_there_if_it_is_needed(made: Made, divided: Made) -> None:
    facts = read_artifact(divided.folder).scores
    assert set(facts["files"]) == {*FILES, PARTITIONS, PROGRAM}
    assert facts["files"][PARTITIONS]["bytes"] == (divided.folder / PARTITIONS).stat().st_size
    assert {path.name for path in divided.folder.iterdir()} == {*FILES, PARTITIONS, PROGRAM, "scores.json", "README.md"}
    explained = "y[:, rows[k]] = x[:, columns[k]] @ blocks[k].T"
    assert explained in (divided.folder / "README.md").read_text()
    assert explained not in (made.folder / "README.md").read_text()
    assert not (made.folder / PARTITIONS).exists()


def test_a_devices_file_that_is_changed_missing_or_of_another_model_is_named(divided: Made, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(divided.folder, tmp_path / "copy"))
    with np.load(copy / PARTITIONS) as stored:
        arrays = dict(stored)
    arrays["two.blocks"] = -arrays["two.blocks"]
    np.savez(copy / PARTITIONS, **arrays)
    with pytest.raises(ParetuneError, match=r"partitions\.npz was changed after the export"):
        read_artifact(copy)
    seal(copy)
    with pytest.raises(ParetuneError, match=r"partitions\.npz holds another 'two\.blocks' than model\.safetensors"):
        read_artifact(copy)
    (copy / PARTITIONS).unlink()
    with pytest.raises(ParetuneError, match=r"partitions\.npz is missing"):
        read_artifact(copy)
    facts = json.loads((copy / "scores.json").read_text())
    del facts["files"][PARTITIONS]
    (copy / "scores.json").write_text(json.dumps(facts))
    with pytest.raises(ParetuneError, match=r"partitions\.npz is missing, though a layer is partitioned"):
        read_artifact(copy)
