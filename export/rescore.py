"""Runs an exported graph and prints its predictions: python -I rescore.py model.onnx data.npz

`data.npz` holds "inputs" (n, ...) as the model eats them and, if accuracy is wanted, "labels" (n,). One line of
JSON comes out: images, predictions, and correct (null without labels). It needs numpy and onnxruntime, no more.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime

BATCH = 256


def rescore(model: str, data: str) -> dict[str, Any]:
    """Top-1 predictions of `model` on the inputs in `data`, with onnxruntime's default options on the CPU."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with np.load(data) as arrays:
        inputs, labels = arrays["inputs"], arrays.get("labels")
    batches = (inputs[at : at + BATCH] for at in range(0, len(inputs), BATCH))
    predictions = np.concatenate([_classes(session.run(None, {name: batch})[0], len(batch)) for batch in batches])
    return {
        "images": len(inputs),
        "predictions": predictions.tolist(),
        "correct": None if labels is None else int((predictions == labels).sum()),
        "onnxruntime": onnxruntime.__version__,
    }


def _classes(outputs: Any, images: int) -> Any:
    """The top-1 class of each image; a single output column would make every class 0 and every comparison pass."""
    if outputs.ndim != 2 or len(outputs) != images or outputs.shape[1] < 2:
        raise SystemExit(f"{images} images gave outputs of shape {outputs.shape}, not (images, two classes or more)")
    return outputs.argmax(1)


if __name__ == "__main__":
    print(json.dumps(rescore(sys.argv[1], sys.argv[2])))
