"""Does an exported folder do elsewhere what the report says? Asked in a fresh process, image by image."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.errors import ParetuneError
from paretune.export.artifact import Artifact, read_artifact
from paretune.export.graph import input_grid, stored_floats, stored_weights
from paretune.plan import FLOAT

TOLERATED = 0.001  # share of images whose class may change: values on the edge of a rounding step do


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How an artifact did. `differing` of `images` got another top-1 class than from the fake-quantized model.

    `share` is differing / images. `top1_error` (share, measured on labels) and `expected_top1_error` (what
    `scores.json` says) are None where nothing is known. `message` is for people, one finding per line.
    """

    images: int
    differing: int
    share: float
    top1_error: float | None
    expected_top1_error: float | None
    ok: bool
    message: tuple[str, ...]


def verify(folder: Path, inputs: NDArray[np.float32] | None = None, labels: NDArray[Any] | None = None) -> Verdict:
    """Run `folder`'s ONNX graph in a fresh process and compare its classes with the stored ones.

    `inputs` is the whole test split (n, ...), in the order of the export and normalised as the model eats it, and
    `labels` (n,) its classes; without inputs only the stored samples are compared. The packed weights, biases and
    activation steps are decoded and compared with the graph's, bit by bit, and the file's size and, with labels, the
    top-1 error with what `scores.json` says.

    Raises:
        ParetuneError: a file is missing or changed, the graph does not run or does not give (n, classes), or `inputs`
            is not the test split.
    """
    artifact = read_artifact(folder)
    if inputs is None:
        inputs, expected, labels = artifact.inputs, _classes(artifact), None
    else:
        expected = artifact.predictions
    if len(inputs) != len(expected):
        raise ParetuneError(f"{folder} stores predictions for {len(expected)} test images, {len(inputs)} were given")
    found = _fresh_process(folder / "model.onnx", inputs, labels)
    differing = int((np.array(found["predictions"]) != expected).sum())
    share = differing / max(len(inputs), 1)
    error = None if labels is None else 1 - found["correct"] / len(inputs)
    faults = _unlike(artifact) + _wrong_size(artifact) + _wrong_error(artifact, error)
    return Verdict(
        images=len(inputs),
        differing=differing,
        share=share,
        top1_error=error,
        expected_top1_error=artifact.scores["scores"].get("top1_error"),
        ok=share <= TOLERATED and not faults,
        message=(_headline(len(inputs), differing, share, len(artifact.predictions)), *faults),
    )


def _headline(images: int, differing: int, share: float, whole: int) -> str:
    said = f"{differing} of {images} predictions differ ({share:.2%}, tolerated are {TOLERATED:.1%})"
    return said if images == whole else f"{said}; only stored samples were compared, not the {whole} test images"


def _classes(artifact: Artifact) -> NDArray[Any]:
    logits = artifact.logits
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ParetuneError(f"{artifact.folder} stores outputs of shape {logits.shape}, not (n, two classes or more)")
    classes: NDArray[Any] = logits.argmax(1)
    return classes


def _fresh_process(graph: Path, inputs: NDArray[np.float32], labels: NDArray[Any] | None) -> dict[str, Any]:
    script = Path(__file__).resolve().with_name("rescore.py")
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data.npz"
        arrays: dict[str, Any] = {"inputs": inputs} if labels is None else {"inputs": inputs, "labels": labels}
        np.savez(data, **arrays)
        command = [sys.executable, "-I", str(script), str(graph.resolve()), str(data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ParetuneError(f"{graph} does not run in a fresh process: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _unlike(artifact: Artifact) -> tuple[str, ...]:
    """One line per layer whose packed numbers are not the graph's."""
    stored, floats = stored_weights(artifact.graph), stored_floats(artifact.graph)
    faults = []
    for name, layer in artifact.frozen.layers.items():
        codes, scales = stored.get(name, (None, None))
        kind = "weights" if layer.weight_bits == FLOAT else "codes"
        if codes is None or scales is None:
            faults.append(f"layer '{name}' is in model.safetensors, but not in model.onnx")
        elif not np.array_equal(codes, layer.codes):
            faults.append(f"layer '{name}' has other {kind} in model.onnx than in model.safetensors")
        elif not np.array_equal(scales, layer.scales):
            faults.append(f"layer '{name}' has other scales in model.onnx than in model.safetensors")
        # A graph whose forward passes the bias by has none.
        elif layer.bias is not None and not np.array_equal(floats.get(f"{name}.bias", layer.bias), layer.bias):
            faults.append(f"layer '{name}' has another bias in model.onnx than in model.safetensors")
        elif any(not np.array_equal(floats.get(key, ()), value) for key, value in input_grid(name, layer).items()):
            faults.append(f"layer '{name}' has another activation step in model.onnx than in model.safetensors")
    return tuple(faults)


def _wrong_size(artifact: Artifact) -> tuple[str, ...]:
    """A line if the size that the search counted is not the file's, to the byte."""
    counted = artifact.scores["scores"].get("size_bytes")
    found = (artifact.folder / "model.safetensors").stat().st_size
    if counted is None or found == counted:
        return ()
    return (f"model.safetensors has {found} bytes, scores.json says {counted}",)


def _wrong_error(artifact: Artifact, measured: float | None) -> tuple[str, ...]:
    """A line if the measured top-1 error is not what `scores.json` says, as far as single images may change."""
    expected = artifact.scores["scores"].get("top1_error")
    # Turned round, because a comparison with nan is never true; the rest is for what floats make of 1 / n.
    if measured is None or expected is None or abs(measured - expected) <= TOLERATED + 1e-9:
        return ()
    return (f"top-1 error is {measured:.4f}, scores.json says {expected:.4f}",)
