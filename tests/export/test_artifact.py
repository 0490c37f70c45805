"""An artifact is whole or absent, says when it was touched, and is verified in another process."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from export_nets import Compressed, compressed, images, mixed
from masked_nets import WANTED, masked
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from paretune.compress.freeze import freeze, thaw
from paretune.costs.table import size_bytes
from paretune.errors import ParetuneError
from paretune.export import rescore
from paretune.export.artifact import FILES, PARTITIONS, check_target, read_artifact, write_artifact
from paretune.export.verify import verify
from paretune.profile import profile

TEST = images(100).numpy()
LABELS = np.arange(100) % 5


class Made:
    """An artifact, and what it was made from."""

    def __init__(self, folder: Path, source: Compressed) -> None:
        self.source = source
        self.folder = folder
        self.frozen = freeze(self.source.model, self.source.inventory, self.source.plan)
        self.model = thaw(self.source.dense, self.source.inventory, self.source.plan, self.frozen)
        with torch.no_grad():
            self.predictions: NDArray[Any] = self.model(torch.from_numpy(TEST)).argmax(1).numpy()
        self.error = float((self.predictions != LABELS).mean())
        self.write(folder)

    def write(self, folder: Path, **scores: float) -> None:
        write_artifact(
            folder,
            model=self.model,
            frozen=self.frozen,
            inventory=self.source.inventory,
            plan=self.source.plan,
            example=torch.from_numpy(TEST[:1]),
            scores={"top1_error": self.error, **scores},
            check=(TEST[:8], self.predictions),
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("export") / "model", mixed())


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three masked layers, two of them partitioned, in 4 bits with 4-bit activations."""
    wanted = {"conv": WANTED["2:4"], "one": WANTED["partition"], "two": WANTED["partition"]}
    return Made(tmp_path_factory.mktemp("export") / "model", masked(wanted, 4))


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.folder, tmp_path / "copy"))


def seal(folder: Path) -> None:
    """Make the stored hashes fit again, as a careful forger would."""
    facts = json.loads((folder / "scores.json").read_text())
    for name in facts["files"]:
        blob = (folder / name).read_bytes()
        facts["files"][name] = {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    (folder / "scores.json").write_text(json.dumps(facts))


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
    code = (made.folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=made.folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip("[]\n").split() == [str(label) for label in made.predictions[:8]]


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
    made.write(copy, size_bytes=1.0)
    assert not (copy / "stray.txt").exists()
    verdict = verify(copy)
    assert not verdict.ok
    assert "scores.json says 1" in verdict.message[1]


def test_verify_agrees_on_every_test_image(made: Made) -> None:
    verdict = verify(made.folder, TEST, LABELS)
    assert verdict.ok
    assert (verdict.images, verdict.differing) == (100, 0)
    assert verdict.top1_error == pytest.approx(made.error)
    assert verdict.expected_top1_error == pytest.approx(made.error)
    assert verdict.message == ("0 of 100 predictions differ (0.00%, tolerated are 0.1%)",)


def test_verify_without_data_says_what_it_compared(made: Made) -> None:
    verdict = verify(made.folder)
    assert verdict.ok
    assert (verdict.images, verdict.top1_error) == (8, None)
    assert "only stored samples were compared, not the 100 test images" in verdict.message[0]


def test_other_test_data_is_refused_or_noticed(made: Made) -> None:
    with pytest.raises(ParetuneError, match="predictions for 100 test images, 99 were given"):
        verify(made.folder, TEST[1:])
    assert not verify(made.folder, np.ascontiguousarray(TEST[::-1])).ok


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_names_its_file(copy: Path, name: str) -> None:
    blob = bytearray((copy / name).read_bytes())
    blob[len(blob) // 2] ^= 1
    (copy / name).write_bytes(bytes(blob))
    with pytest.raises(ParetuneError, match=f"{name} was changed"):
        verify(copy)


def test_another_models_graph_is_noticed_even_with_fitting_hashes(copy: Path) -> None:
    graph = onnx.load(copy / "model.onnx")
    for tensor in graph.graph.initializer:
        if tensor.name == "hidden.weight_codes":
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(graph, copy / "model.onnx")
    seal(copy)
    verdict = verify(copy, TEST)
    assert not verdict.ok
    assert verdict.share > 0.001
    assert verdict.message[1] == "layer 'hidden' has other codes in model.onnx than in model.safetensors"


def test_a_damaged_layer_is_named_even_with_fitting_hashes(copy: Path) -> None:
    blob = bytearray((copy / "model.safetensors").read_bytes())
    blob[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(blob))
    seal(copy)
    with pytest.raises(ParetuneError, match="'hidden' is damaged"):
        verify(copy)


def test_a_graph_that_does_not_run_is_an_error(copy: Path) -> None:
    graph = onnx.load(copy / "model.onnx")
    del graph.graph.initializer[:]
    onnx.save(graph, copy / "model.onnx")
    seal(copy)
    with pytest.raises(ParetuneError, match="does not run in a fresh process"):
        verify(copy)


def test_an_edited_score_is_noticed(copy: Path, made: Made) -> None:
    facts = json.loads((copy / "scores.json").read_text())
    for claimed in (made.error - 0.02, float("nan")):
        facts["scores"]["top1_error"] = claimed
        (copy / "scores.json").write_text(json.dumps(facts))
        verdict = verify(copy, TEST, LABELS)
        assert not verdict.ok
        assert verdict.message[1] == f"top-1 error is {made.error:.4f}, scores.json says {claimed:.4f}"
    assert verify(copy, TEST).ok, "without labels nothing is known about the error"


@pytest.mark.parametrize(("name", "said"), [("hidden.bias", "bias"), ("join.input_high", "activation step")])
def test_other_floats_in_the_graph_are_noticed_even_with_fitting_hashes(copy: Path, name: str, said: str) -> None:
    graph = onnx.load(copy / "model.onnx")
    (tensor,) = (tensor for tensor in graph.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.0001), name))
    onnx.save(graph, copy / "model.onnx")
    seal(copy)
    layer = name.partition(".")[0]
    expected = f"layer '{layer}' has another {said} in model.onnx than in model.safetensors"
    assert verify(copy).message[1:] == (expected,)


def test_outputs_that_are_not_classes_are_an_error(copy: Path) -> None:
    graph = onnx.load(copy / "model.onnx")
    graph.graph.output[0].ClearField("type")
    last = next(node for node in graph.graph.node if "logits" in node.output)
    last.output[0] = "classes"
    graph.graph.node.append(
        onnx.helper.make_node("ReduceMax", ["classes"], ["logits"], keepdims=1, noop_with_empty_axes=0)
    )
    onnx.save(graph, copy / "model.onnx")
    seal(copy)
    with pytest.raises(ParetuneError, match=r"outputs of shape \(1, 1\), not \(images, two classes or more\)"):
        verify(copy, TEST)
    with np.load(copy / "check.npz") as arrays:
        flat = {**arrays, "logits": arrays["logits"][:, :1]}
    np.savez(copy / "check.npz", **flat)
    seal(copy)
    with pytest.raises(ParetuneError, match=r"stores outputs of shape \(8, 1\)"):
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
    (copy / "scores.json").write_text(json.dumps({**facts, "format": 3}))
    with pytest.raises(ParetuneError, match=r"format 3, this paretune reads up to 2"):
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


def test_an_artifact_of_the_first_format_is_still_read(copy: Path, made: Made) -> None:
    placed = json.loads((copy / "layout.json").read_text())
    for row in placed["layers"]:
        del row["pattern"]
    (copy / "layout.json").write_text(json.dumps(placed))
    plan = yaml.safe_load((copy / "plan.yaml").read_text())
    old = {"epochs": 0, "lr": 0.0, "distill": "none"}
    layers = [{key: row[key] for key in ("layer", "weight_bits", "activation_bits")} for row in plan["layers"]]
    (copy / "plan.yaml").write_text(yaml.safe_dump({"groups": plan["groups"], "layers": layers, "recovery": old}))
    seal(copy)
    facts = json.loads((copy / "scores.json").read_text())
    (copy / "scores.json").write_text(json.dumps({**facts, "format": 1}))
    artifact = read_artifact(copy)
    assert artifact.plan == made.source.plan
    assert np.array_equal(artifact.frozen.layers["stem"].codes, made.frozen.layers["stem"].codes)
    assert verify(copy, TEST).ok


def test_a_masked_net_is_exported_whole_and_verified(divided: Made) -> None:
    artifact = read_artifact(divided.folder)
    assert artifact.plan == divided.source.plan
    for name, layer in divided.frozen.layers.items():
        assert np.array_equal(artifact.frozen.layers[name].codes, layer.codes)
        assert artifact.frozen.layers[name].pattern == layer.pattern
    counted = size_bytes(profile(divided.source.inventory, artifact.plan))
    assert (divided.folder / "model.safetensors").stat().st_size == counted
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
    assert set(facts["files"]) == {*FILES, PARTITIONS}
    assert facts["files"][PARTITIONS]["bytes"] == (divided.folder / PARTITIONS).stat().st_size
    assert {path.name for path in divided.folder.iterdir()} == {*FILES, PARTITIONS, "scores.json", "README.md"}
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


def test_rescore_needs_nothing_of_this_package() -> None:
    imported = {line.split()[1].split(".")[0] for line in Path(rescore.__file__).read_text().splitlines()
                if line.startswith(("import ", "from "))}  # fmt: skip
    assert imported == {"json", "sys", "typing", "numpy", "onnxruntime"}
