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
from paretune.export.graph import stored_weights
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
    `labels` (n,) its classes; without inputs only the stored samples are compared. The packed weights are decoded
    and compared with the graph's, bit by bit.

    Raises:
        ParetuneError: a file is missing or changed, the graph does not run, or `inputs` is not the test split.
    """
    artifact = read_artifact(folder)
    if inputs is None:
        inputs, expected, labels = artifact.inputs, artifact.logits.argmax(1), None
    else:
        expected = artifact.predictions
    if len(inputs) != len(expected):
        raise ParetuneError(f"{folder} stores predictions for {len(expected)} test images, {len(inputs)} were given")
    found = _fresh_process(folder / "model.onnx", inputs, labels)
    differing = int((np.array(found["predictions"]) != expected).sum())
    share = differing / max(len(inputs), 1)
    faults = _unlike(artifact) + _wrong_size(artifact)
    return Verdict(
        images=len(inputs),
        differing=differing,
        share=share,
        top1_error=None if labels is None else 1 - found["correct"] / len(inputs),
        expected_top1_error=artifact.scores["scores"].get("top1_error"),
        ok=share <= TOLERATED and not faults,
        message=(_headline(len(inputs), differing, share, len(artifact.predictions)), *faults),
    )


def _headline(images: int, differing: int, share: float, whole: int) -> str:
    said = f"{differing} of {images} predictions differ ({share:.2%}, tolerated are {TOLERATED:.1%})"
    return said if images == whole else f"{said}; only stored samples were compared, not the {whole} test images"


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
    """One line per layer whose packed weights are not the graph's."""
    stored = stored_weights(artifact.graph)
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
    return tuple(faults)


def _wrong_size(artifact: Artifact) -> tuple[str, ...]:
    """A line if the size that the search counted is not the file's: float buffers may add 1 % or 256 bytes."""
    counted = artifact.scores["scores"].get("size_bytes")
    found = (artifact.folder / "model.safetensors").stat().st_size
    if counted is None or abs(found - counted) <= max(256, 0.01 * counted):
        return ()
    return (f"model.safetensors has {found} bytes, scores.json says {counted:g}",)
