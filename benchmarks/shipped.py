"""A shipped ResNet-20: bytes, predictions, time: python benchmarks/shipped.py model cifar10.npz resnet20.th [--write].

`model` is a folder that `paretune export` wrote for a study of ResNet-20 on CIFAR-10; the two files are those of the
study. A minute.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from paper import publish
from torch import nn

from paretune.compress.freeze import thaw
from paretune.export.artifact import read_artifact
from paretune.export.fresh import fresh_process
from paretune.export.latency import Timing, compare, dense_graph
from paretune.search.bench import Bench, lay_out
from paretune.tasks.classification import classification

RESCORE = Path(__file__).parents[1] / "export" / "rescore.py"
ABOUT = (
    "An exported folder beside the dense float32 network that it was made from. Predictions are compared on all 10,000 "
    "test images of CIFAR-10: those of the packed file, decoded into PyTorch, with those of model.onnx in onnxruntime, "
    "in a process of its own. Half of these images steered the search, so the accuracy on all of them is not a "
    "confirmation; that stands in the study. Times are of one image, one thread, both graphs in turn in one process."
)
COLUMNS = ("", "dense float32", "shipped")


def given() -> tuple[Path, str, str]:
    """The folder and the two files named on the command line."""
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    ends = [next((word for word in words if word.endswith(end)), "") for end in (".npz", ".th")]
    folders = [word for word in words if word not in ends]
    if len(folders) != 1 or not all(ends):
        sys.exit(__doc__)
    return Path(folders[0]), ends[0], ends[1]


def laid_out(data: str, weights: str) -> Bench:
    """The study's network; the images are read anew below."""
    return lay_out(classification(
        model={"source": "cifar", "model": "resnet20", "weights": weights, "trained_on": "train"},
        data={"source": "npz", "path": data, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    ))  # fmt: skip


def images(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """All test images as the network eats them, with their classes: those that steered and those that confirm."""
    pairs = [pair for split in (bench.task.val, bench.task.test) for pair in split.batches(None)]
    return np.concatenate([x.numpy() for x, _ in pairs]), np.concatenate([y.numpy() for _, y in pairs])


@torch.no_grad()
def classes(model: nn.Module, inputs: np.ndarray) -> np.ndarray:
    """Top-1 classes in PyTorch."""
    return np.concatenate([model(x).argmax(1).numpy() for x in torch.split(torch.from_numpy(inputs), 500)])


def rows() -> Iterator[Sequence[str]]:
    """A row per figure."""
    folder, data, weights = given()
    artifact, bench = read_artifact(folder), laid_out(data, weights)
    inputs, labels = images(bench)
    scratch = Path(weights).parent / "shipped.npz"
    np.savez(scratch, inputs=inputs, labels=labels)
    found = fresh_process(RESCORE, (folder / "model.onnx").resolve(), scratch.resolve(), failed="model.onnx")
    scratch.unlink()
    shipped = classes(thaw(bench.task.model, bench.inventory, artifact.plan, artifact.frozen), inputs)
    differing = int((np.array(found["predictions"]) != shipped).sum())
    dense = dense_graph(bench.task.model, bench.inventory, bench.task.example())
    time = compare(folder / "model.onnx", dense, inputs[:32], Timing(threads=1, warmup=10, repeats=200))
    scores, base = artifact.scores["scores"], bench.costs(type(artifact.plan)())
    told = json.dumps(sorted({row.weight_bits for row in artifact.plan.layers}))
    yield "weight bits of the layers", "32", told
    yield "MACs", f"{base['macs'] / 1e6:.2f} M", f"{scores['macs'] / 1e6:.2f} M"
    yield "parameters", f"{base['params'] / 1e3:.1f} k", f"{scores['params'] / 1e3:.1f} k"
    packed = (folder / "model.safetensors").stat().st_size
    yield "packed weights", f"{base['size_bytes'] / 1e3:.1f} kB", f"{packed / 1e3:.1f} kB"
    yield "model.onnx", f"{len(dense) / 1e3:.1f} kB", f"{(folder / 'model.onnx').stat().st_size / 1e3:.1f} kB"
    yield "predictions of model.onnx that differ from PyTorch's", "", f"{differing} of {len(inputs):,}"
    right = 100 * float((classes(bench.task.model, inputs) == labels).mean())
    yield "accuracy on all test images", f"{right:.2f} %", f"{100 * found['correct'] / len(inputs):.2f} %"
    yield "one image", f"{time.dense.median_ms:.3f} ms", f"{time.compressed.median_ms:.3f} ms ({time.ratio:.2f} times)"


if __name__ == "__main__":
    publish(__file__, "A shipped ResNet-20", ABOUT, COLUMNS, rows())
