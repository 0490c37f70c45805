"""Whatever in an artifact does not fit the rest of it is found, even with fitting hashes."""

import json
import shutil
from copy import deepcopy as copy_of
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from artifacts import LABELS, TEST, Made, seal
from onnx import numpy_helper

from paretune.errors import ParetuneError
from paretune.export import rescore
from paretune.export import verify as verifying
from paretune.export.artifact import PROGRAM, READER, read_artifact
from paretune.export.torch_program import save_program
from paretune.export.verify import tolerated, verify, verify_batches


@pytest.mark.parametrize(("off", "fine"), [(0, True), (256, True), (-256, True), (257, False), (-257, False)])
def test_the_predicted_size_must_be_near_the_files(copy: Path, off: int, fine: bool) -> None:
    size = (copy / "model.safetensors").stat().st_size
    assert size < 25600, "else 1 % were more than 256 bytes"
    rescored(copy, size_bytes=float(size + off))
    verdict = verify(copy)
    assert verdict.ok == fine
    assert fine or verdict.message[1] == f"model.safetensors has {size} bytes, scores.json says {float(size + off)}"


def rescored(folder: Path, **scores: float) -> None:
    """Other scores in `scores.json`."""
    facts = json.loads((folder / "scores.json").read_text())
    facts["scores"] |= scores
    (folder / "scores.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(("unsteady", "limit"), [(0.0, 0.001), (0.0003, 0.001), (0.002, 0.006), (0.5, 0.01)])
def test_what_pytorch_itself_changes_may_differ_three_times_over(copy: Path, unsteady: float, limit: float) -> None:
    rescored(copy, unsteady=unsteady)
    assert tolerated(read_artifact(copy)) == pytest.approx(limit)
    said = verify(copy).message[0]
    assert f"tolerated are {limit:.1%}" in said
    assert (f"PyTorch changes {unsteady:.2%}" in said) == (limit > 0.001)


def test_verify_agrees_on_every_test_image(made: Made) -> None:
    verdict = verify(made.folder, TEST, LABELS)
    assert verdict.ok
    assert (verdict.images, verdict.differing) == (100, 0)
    assert verdict.top1_error == pytest.approx(made.error)
    assert verdict.expected_top1_error == pytest.approx(made.error)
    assert verdict.message == ("0 of 100 predictions differ (0.00%, tolerated are 0.1%)",)


def test_a_large_test_split_is_verified_in_pieces(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    processes: list[int] = []
    whole, run = verify(made.folder, TEST, LABELS), verifying._rescored

    def counted(graph: Path, inputs: Any, labels: Any) -> dict[str, Any]:
        processes.append(len(inputs))
        return run(graph, inputs, labels)

    monkeypatch.setattr(verifying, "_rescored", counted)
    monkeypatch.setattr(verifying, "CHUNK_BYTES", 50 * TEST[:1].nbytes)
    parts = verify_batches(made.folder, ((TEST[at : at + 20], LABELS[at : at + 20]) for at in range(0, 100, 20)))
    assert processes == [40, 40, 20]
    assert parts == whole
    assert verify_batches(made.folder, [(TEST[:50], LABELS[:50]), (TEST[50:], None)]).top1_error is None


def test_verify_without_data_says_what_it_compared(made: Made) -> None:
    verdict = verify(made.folder)
    assert verdict.ok
    assert (verdict.images, verdict.top1_error) == (8, None)
    assert "only stored samples were compared, not the 100 test images" in verdict.message[0]


def test_other_test_data_is_refused_or_noticed(made: Made) -> None:
    with pytest.raises(ParetuneError, match="predictions for 100 test images, 99 were given"):
        verify(made.folder, TEST[1:])
    assert not verify(made.folder, np.ascontiguousarray(TEST[::-1])).ok


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


def test_a_reader_that_decodes_other_numbers_is_noticed(copy: Path) -> None:
    reader = (copy / READER).read_text()
    turned = "\nwell = load\ndef load(folder):\n found = well(folder)\n found['hidden.weight'] *= -1\n return found"
    ways = {
        turned: f"{READER} decodes 'hidden.weight' to other numbers than paretune",
        "\nload = lambda folder: {}": f"{READER} decodes 'stem.weight' to other numbers than paretune",
        "\nraise RuntimeError('out of order')": f"{READER} does not read the folder: RuntimeError: out of order",
    }
    for more, said in ways.items():
        (copy / READER).write_text(reader + more)
        seal(copy)
        assert verify(copy).message[1:] == (said,)


def test_another_models_program_is_noticed(divided: Made, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(divided.folder, tmp_path / "copy"))
    other = copy_of(divided.model)
    other.head.bias.data += 0.01  # type: ignore[operator, union-attr]
    save_program(other, torch.from_numpy(TEST[:1]), copy / PROGRAM)
    with pytest.raises(ParetuneError, match=r"model\.pt2 was changed after the export"):
        verify(copy)
    seal(copy)
    (fault,) = verify(copy).message[1:]
    assert fault == "model.pt2 gives 0 of 8 samples another class, logits are off by up to 0.01"


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


def test_rescore_needs_nothing_of_this_package() -> None:
    imported = {line.split()[1].split(".")[0] for line in Path(rescore.__file__).read_text().splitlines()
                if line.startswith(("import ", "from "))}  # fmt: skip
    assert imported == {"json", "sys", "typing", "numpy", "onnxruntime"}
