"""Does an exported folder do elsewhere what the report says? Asked in a fresh process, image by image."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.errors import ParetuneError
from paretune.export.artifact import PROGRAM, READER, Artifact, read_artifact
from paretune.export.fresh import fresh_process
from paretune.export.graph import stored_floats, stored_weights
from paretune.export.grids import input_grid, stored_numbers
from paretune.export.torch_program import run_program
from paretune.frozen import Frozen, FrozenLayer

TOLERATED = 0.001  # share of images whose class may change: values on the edge of a rounding step do
# Where PyTorch itself changes more classes between float32 and float64, as in deep networks of few bits: so many times
# that share, but never more than the second number.
UNSTEADY = (3, 0.01)
NEAR, MOST = 1e-4, 0.9  # what the share MOST of the stored logits of model.pt2 must keep to; elsewhere a few round over
# Arguments: the reader, the folder, where the arrays go; their names are printed.
READ = """
import json, numpy, runpy, sys
found = runpy.run_path(sys.argv[1])["load"](sys.argv[2])
numpy.savez(sys.argv[3], *found.values())
print(json.dumps(list(found)))
"""
CHUNK_BYTES = 2**30  # of inputs that lie in memory, and in a scratch file, at a time
SIZE = (0.01, 256)  # share and bytes, whichever is more, by which a predicted size may be off


Batch = tuple[NDArray[np.float32], NDArray[Any] | None]


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
    """`verify_batches` for a test split that lies in memory: `inputs` (n, ...) and, if known, its `labels` (n,)."""
    return verify_batches(folder, None if inputs is None else [(inputs, labels)])


def verify_batches(folder: Path, batches: Iterable[Batch] | None) -> Verdict:
    """Run `folder`'s ONNX graph in a fresh process and compare its classes with the stored ones.

    `batches` are pairs of inputs (n, ...) and labels (n,) or None: the whole test split, in the order of the export and
    normalised as the model eats it. They are read once, and `CHUNK_BYTES` of them at a time go to a process of their
    own. Without batches only the stored samples are compared. The packed weights, biases and
    the rounding of activations are decoded and compared with the graph's, bit by bit, and the weights with what the
    folder's own reader decodes. The predicted size and, with labels, the top-1 error are compared with what is found,
    a program for PyTorch with the stored logits. Reader and program are run: verify folders whose origin you trust.

    Raises:
        ParetuneError: a file is missing or changed, the graph does not run or does not give (n, classes), or `inputs`
            is not the test split.
    """
    artifact = read_artifact(folder)
    expected = _classes(artifact) if batches is None else artifact.predictions
    given = [(artifact.inputs, None)] if batches is None else batches
    found = [_rescored(folder / "model.onnx", *chunk) for chunk in _chunks(given)]
    predictions = [label for one in found for label in one["predictions"]]
    if len(predictions) != len(expected):
        raise ParetuneError(
            f"{folder} stores predictions for {len(expected)} test images, {len(predictions)} were given"
        )
    differing = int((np.array(predictions) != expected).sum())
    images = len(predictions)
    share = differing / max(images, 1)
    correct = [one["correct"] for one in found]
    error = None if not images or None in correct else 1 - sum(correct) / images
    faults = _unlike(artifact) + _wrong_size(artifact) + _wrong_error(artifact, error)
    faults += _wrong_reader(artifact) + _wrong_program(artifact)
    return Verdict(
        images=images,
        differing=differing,
        share=share,
        top1_error=error,
        expected_top1_error=artifact.scores["scores"].get("top1_error"),
        ok=share <= tolerated(artifact) and not faults,
        message=(_headline(images, differing, artifact), *faults),
    )


def _chunks(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same images in fewer and larger batches."""
    held: list[Batch] = []
    for batch in batches:
        if held and sum(inputs.nbytes for inputs, _ in (*held, batch)) > CHUNK_BYTES:
            yield _joined(held)
            held = []
        held.append(batch)
    if held:
        yield _joined(held)


def _joined(batches: list[Batch]) -> Batch:
    labels = [own for _, own in batches if own is not None]
    whole = np.concatenate(labels) if len(labels) == len(batches) else None
    return np.concatenate([inputs for inputs, _ in batches]), whole


def tolerated(artifact: Artifact) -> float:
    """The share of images whose class may differ from the stored one."""
    unsteady = float(artifact.scores["scores"].get("unsteady") or 0.0)
    times, most = UNSTEADY
    return max(TOLERATED, min(most, times * unsteady))


def _headline(images: int, differing: int, artifact: Artifact) -> str:
    limit, whole = tolerated(artifact), len(artifact.predictions)
    said = f"{differing} of {images} predictions differ ({differing / max(images, 1):.2%}, tolerated are {limit:.1%}"
    if limit > TOLERATED:
        said += f": from float32 to float64 PyTorch changes {artifact.scores['scores']['unsteady']:.2%}"
    said += ")"
    return said if images == whole else f"{said}; only stored samples were compared, not the {whole} test images"


def _classes(artifact: Artifact) -> NDArray[Any]:
    logits = artifact.logits
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ParetuneError(f"{artifact.folder} stores outputs of shape {logits.shape}, not (n, two classes or more)")
    classes: NDArray[Any] = logits.argmax(1)
    return classes


def _rescored(graph: Path, inputs: NDArray[np.float32], labels: NDArray[Any] | None) -> dict[str, Any]:
    script = Path(__file__).resolve().with_name("rescore.py")
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data.npz"
        arrays: dict[str, Any] = {"inputs": inputs} if labels is None else {"inputs": inputs, "labels": labels}
        np.savez(data, **arrays)
        failed = f"{graph} does not run in a fresh process"
        found: dict[str, Any] = fresh_process(script, graph.resolve(), data, failed=failed)
    return found


def _unlike(artifact: Artifact) -> tuple[str, ...]:
    """One line per layer whose packed numbers are not the graph's."""
    stored, floats = stored_weights(artifact.graph), stored_floats(artifact.graph)
    found = {name: _other(name, layer, stored.get(name), floats) for name, layer in artifact.frozen.layers.items()}
    missing = "layer '{}' is in model.safetensors, but not in model.onnx"
    unlike = "layer '{}' has {} in model.onnx than in model.safetensors"
    return tuple((unlike if what else missing).format(name, what) for name, what in found.items() if what is not None)


def _other(
    name: str,
    layer: FrozenLayer,
    stored: tuple[NDArray[Any], NDArray[np.float32]] | None,
    floats: dict[str, NDArray[Any]],
) -> str | None:
    """What the graph has another of: "other codes", ...; "" if it lacks the layer, None if all is equal."""
    if stored is None:
        return ""
    codes, scales = stored_numbers(layer)
    if not np.array_equal(stored[0], codes):
        return "other codes" if len(scales) else "other weights"
    if not np.array_equal(stored[1], scales):
        return "other scales"
    # A graph whose forward passes the bias by has none.
    if layer.bias is not None and not np.array_equal(floats.get(f"{name}.bias", layer.bias), layer.bias):
        return "another bias"
    grid = {key: value for key, value in floats.items() if key.startswith(f"{name}.input_")}
    return None if _equal(grid, input_grid(name, layer)) else "another activation step"


def _equal(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> bool:
    """True if the same arrays have the same names; a zero point of another type rounds to another range."""
    same = (value.dtype == other[key].dtype and np.array_equal(value, other[key]) for key, value in one.items())
    return one.keys() == other.keys() and all(same)


def _wrong_size(artifact: Artifact) -> tuple[str, ...]:
    """A line if the predicted size is not the file's, within 1 % or 256 bytes."""
    counted = artifact.scores["scores"].get("size_bytes")
    found = (artifact.folder / "model.safetensors").stat().st_size
    # Turned round, because a comparison with nan is never true.
    if counted is None or abs(found - counted) <= max(SIZE[0] * found, SIZE[1]):
        return ()
    return (f"model.safetensors has {found} bytes, scores.json says {counted}",)


def _wrong_reader(artifact: Artifact) -> tuple[str, ...]:
    """A line if the folder's own reader, where there is one, decodes other numbers; run in a fresh process."""
    if READER not in artifact.scores["files"]:
        return ()
    folder = artifact.folder.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "read.npz"
        try:
            names = fresh_process("-c", READ, folder / READER, folder, out, failed=f"{READER} does not read the folder")
        except ParetuneError as error:
            return (str(error),)
        with np.load(out) as arrays:
            found = dict(zip(names, arrays.values(), strict=True))
    wanted = _tensors(artifact.frozen)
    unlike = [key for key in wanted if key not in found or found[key].tobytes() != wanted[key].tobytes()]
    unlike += [key for key in found if key not in wanted]
    return (f"{READER} decodes '{unlike[0]}' to other numbers than paretune",) if unlike else ()


def _tensors(frozen: Frozen) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a frozen model by its state-dict key."""
    weights = {f"{name}.weight": layer.weight() for name, layer in frozen.layers.items()}
    biases = {f"{name}.bias": layer.bias for name, layer in frozen.layers.items() if layer.bias is not None}
    return {**weights, **biases, **frozen.rest}


def _wrong_program(artifact: Artifact) -> tuple[str, ...]:
    """A line if `model.pt2`, where there is one, gives other logits than the stored ones."""
    if PROGRAM not in artifact.scores["files"]:
        return ()
    found = run_program(artifact.folder / PROGRAM, artifact.inputs)
    if found.shape != artifact.logits.shape:
        return (f"{PROGRAM} gives outputs of shape {found.shape}, stored are {artifact.logits.shape}",)
    off = np.abs(found - artifact.logits).max(axis=1, initial=0)
    other = int((found.argmax(1) != artifact.logits.argmax(1)).sum())
    # Turned round, because a comparison with nan is never true.
    if not other and (~(off <= NEAR)).sum() <= (1 - MOST) * len(off):
        return ()
    worst = off.max(initial=0)
    return (f"{PROGRAM} gives {other} of {len(found)} samples another class, logits are off by up to {worst:.2g}",)


def _wrong_error(artifact: Artifact, measured: float | None) -> tuple[str, ...]:
    """A line if the measured top-1 error is not what `scores.json` says, as far as single images may change."""
    expected = artifact.scores["scores"].get("top1_error")
    # Turned round, because a comparison with nan is never true; the rest is for what floats make of 1 / n.
    if measured is None or expected is None or abs(measured - expected) <= tolerated(artifact) + 1e-9:
        return ()
    return (f"top-1 error is {measured:.4f}, scores.json says {expected:.4f}",)
