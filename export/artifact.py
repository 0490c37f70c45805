"""The exported folder: written whole or not at all, read back with every file checked."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.compress.partition import blocks
from paretune.errors import ParetuneError
from paretune.export.graph import to_onnx
from paretune.export.grids import held_as_float
from paretune.export.latency import said
from paretune.export.pack import packed_with_layout, storage_table, unpack
from paretune.export.torch_program import save_program
from paretune.files import write_text
from paretune.frozen import Frozen
from paretune.inventory import Inventory
from paretune.plan import Plan
from paretune.records import from_plain, to_plain

FORMAT = 3  # 1 knew no patterns, 2 no encodings: their readers would take coded bytes for plain ones
READER = "reader.py"  # since format 3
FILES = ("plan.yaml", "model.safetensors", "layout.json", "model.onnx", "check.npz", READER)
PARTITIONS = "partitions.npz"  # only if a layer is partitioned
PROGRAM = "model.pt2"  # only if it is asked for
SAMPLES = 32  # inputs that travel with the artifact
BLOCKWISE = """
`partitions.npz` splits each partitioned layer over K devices: with its `blocks`, `rows`, `columns`, device k computes
`y[:, rows[k]] = x[:, columns[k]] @ blocks[k].T` from the (rounded) input x; the layer's bias at `rows[k]` comes on top.
"""
IN_PYTORCH = """
`model.pt2` is the same network for PyTorch, its weights in float32 on their grid:

```python
import numpy as np, torch
x = torch.from_numpy(np.load("check.npz")["inputs"])
print(torch.export.load("model.pt2").module()(x).argmax(1))
```
"""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What an exported folder holds, but for `partitions.npz`: that is for the devices that run one block each.

    `inputs` (samples, ...) and their `logits` (samples, classes) come from the fake-quantized model,
    `predictions` (images,) are its top-1 classes on the whole test split.
    """

    folder: Path
    plan: Plan
    frozen: Frozen
    graph: onnx.ModelProto
    scores: dict[str, Any]
    inputs: NDArray[np.float32]
    logits: NDArray[np.float32]
    predictions: NDArray[Any]


def write_artifact(
    folder: Path,
    *,
    model: nn.Module,
    frozen: Frozen,
    inventory: Inventory,
    plan: Plan,
    example: Tensor,
    scores: dict[str, Any],
    check: tuple[NDArray[np.float32], NDArray[Any]],
    pt2: bool = False,
) -> None:
    """Write the artifact of `model` (thawed from `frozen`) into `folder`, an older artifact there is replaced whole.

    `check` is at most 32 test inputs, normalised as the model eats them, and the model's top-1 predictions for
    the whole test split. `scores.json` gets `scores` (numbers by name), every file's size and hash, how each layer is
    stored, why some of them are float in the graph, and how far onnxruntime is from PyTorch on these inputs.
    With `pt2` there is also a program of `torch.export`.

    Raises:
        ParetuneError: `folder` holds something that is not an artifact, more than 32 inputs, or no graph or program
            can be made.
    """
    check_target(folder)
    if len(check[0]) > SAMPLES:
        raise ParetuneError(f"{len(check[0])} sample inputs were given; an artifact carries at most {SAMPLES}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        _write_model(new, frozen, plan, to_onnx(model, frozen, example))
        if pt2:
            save_program(model, example, new / PROGRAM)
        parity = _write_check(new, model, example, check)
        facts = _facts(new, inventory, scores, parity, frozen)
        (new / "README.md").write_text(_readme(facts), encoding="utf-8")
        (new / "scores.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        _move(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def add_latency(folder: Path, latency: Mapping[str, Any]) -> None:
    """Put what was measured of the written artifact's latency into its `scores.json` and README.

    It is `paretune.export.latency.facts_of` a comparison, or why there is none: {"measured": False, "reason": ...}.
    """
    facts = {**_checked(folder), "latency": dict(latency)}
    write_text(folder / "README.md", _readme(facts))
    write_text(folder / "scores.json", json.dumps(facts, indent=2) + "\n")


def check_target(folder: Path) -> None:
    """Nothing, if `write_artifact` may write `folder`: it is absent, empty or an artifact.

    Raises:
        ParetuneError: it holds something else.
    """
    if folder.exists() and not (folder / "scores.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParetuneError(f"{folder} is not an artifact (it has no scores.json), so it is not overwritten")


def read_artifact(folder: Path) -> Artifact:
    """The pieces of an exported folder of this format or an older one, after comparing every file with its stored hash.

    Raises:
        ParetuneError: a file is missing or changed (of packed weights the first damaged tensor is named),
            `partitions.npz` does not hold the packed weights, or a newer version wrote the folder.
    """
    facts = _checked(folder)
    plan = from_plain(Plan, yaml.safe_load((folder / "plan.yaml").read_text(encoding="utf-8")))
    frozen = unpack((folder / "model.safetensors").read_bytes(), _layout(folder))
    _check_partitions(folder, facts, partitions(frozen, plan))
    with np.load(folder / "check.npz") as arrays:
        inputs, logits, predictions = arrays["inputs"], arrays["logits"], arrays["predictions"]
    return Artifact(
        folder=folder,
        plan=plan,
        frozen=frozen,
        graph=onnx.load(folder / "model.onnx"),
        scores=facts,
        inputs=inputs,
        logits=logits,
        predictions=predictions,
    )


def _write_model(folder: Path, frozen: Frozen, plan: Plan, graph: onnx.ModelProto) -> None:
    text = yaml.safe_dump(to_plain(plan), sort_keys=False, default_flow_style=None, width=120)
    (folder / "plan.yaml").write_text(text, encoding="utf-8")
    blob, placed = packed_with_layout(frozen)
    (folder / "model.safetensors").write_bytes(blob)
    (folder / "layout.json").write_text(json.dumps(placed, indent=1) + "\n", encoding="utf-8")
    onnx.save(graph, folder / "model.onnx")
    shutil.copyfile(Path(__file__).resolve().with_name(READER), folder / READER)
    arrays = partitions(frozen, plan)
    if arrays:
        np.savez(folder / PARTITIONS, **arrays)  # type: ignore[arg-type]


def _layout(folder: Path) -> dict[str, Any]:
    placed: dict[str, Any] = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
    return placed


def partitions(frozen: Frozen, plan: Plan) -> dict[str, NDArray[Any]]:
    """What K devices need to run one block each, by array; nothing if the plan partitions no layer.

    Per partitioned layer `<layer>.blocks` (K, out/K, in/K), float32, `<layer>.rows` (K, out/K) and `<layer>.columns`
    (K, in/K): block k reads the inputs `columns[k]` and gives the outputs `rows[k]`, both numbered as in the layer.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for row in plan.layers:
        # The plan's pattern, because a layer's own does not come back from an encoding that does not need it.
        if row.pattern is not None and row.pattern.kind == "partition":
            parts = zip(
                ("blocks", "rows", "columns"), blocks(frozen.layers[row.layer].weight(), row.pattern), strict=True
            )
            arrays |= {f"{row.layer}.{part}": array for part, array in parts}
    return arrays


def _check_partitions(folder: Path, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    if not arrays:
        return
    if PARTITIONS not in facts["files"]:
        raise ParetuneError(f"{folder / PARTITIONS} is missing, though a layer is partitioned")
    with np.load(folder / PARTITIONS) as stored:
        unlike = [key for key, array in arrays.items() if key not in stored or not np.array_equal(stored[key], array)]
    if unlike:
        raise ParetuneError(f"{folder / PARTITIONS} holds another '{unlike[0]}' than model.safetensors")


def _write_check(
    folder: Path, model: nn.Module, example: Tensor, check: tuple[NDArray[np.float32], NDArray[Any]]
) -> dict[str, Any]:
    """Writes `check.npz`; what comes back says how near onnxruntime is to PyTorch on its inputs."""
    inputs, predictions = check
    with torch.no_grad():
        logits = model(torch.from_numpy(inputs).to(example.device)).cpu().numpy()
    smallest = predictions.astype(np.min_scalar_type(int(predictions.max(initial=0))))
    np.savez(folder / "check.npz", inputs=inputs, logits=logits, predictions=smallest)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    run = session.run(None, {"input": inputs})[0]
    return {
        "onnxruntime": onnxruntime.__version__,
        "samples": len(inputs),
        "differing": int((run.argmax(1) != logits.argmax(1)).sum()),
        "max_logit_difference": float(np.abs(run - logits).max(initial=0)),
    }


def _facts(
    folder: Path, inventory: Inventory, scores: dict[str, Any], parity: dict[str, Any], frozen: Frozen
) -> dict[str, Any]:
    names = [*FILES, *(name for name in (PARTITIONS, PROGRAM) if (folder / name).is_file())]
    blobs = {name: (folder / name).read_bytes() for name in names}
    return {
        "format": FORMAT,
        "scores": to_plain(scores),
        "input": {"name": "input", "shape": ["n", *inventory.input_shape], "dtype": "float32"},
        "files": {name: {"bytes": len(blob), "sha256": _sha256(blob)} for name, blob in blobs.items()},
        "parity": parity,
        "float_in_onnx": held_as_float(frozen),
        "storage": to_plain(storage_table(frozen, _layout(folder))),
    }


def _move(new: Path, folder: Path) -> None:
    """Renames, so that whoever looks sees the old artifact, the new one, or for an instant none: never a mixture."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _checked(folder: Path) -> dict[str, Any]:
    if not (folder / "scores.json").is_file():
        raise ParetuneError(f"{folder} is not an artifact: it has no scores.json")
    try:
        facts: dict[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        version, files, _ = facts["format"], facts["files"], dict(facts["scores"])
    except (ValueError, KeyError, TypeError) as error:
        raise ParetuneError(f"{folder / 'scores.json'} is damaged: {error!r}") from error
    if version > FORMAT:
        raise ParetuneError(f"{folder} has format {version}, this paretune reads up to {FORMAT}; update paretune")
    for name in _wanted(version, files):
        if not (folder / name).is_file() or name not in files:
            where = "is missing" if name in files else "is not listed in scores.json"
            raise ParetuneError(f"{folder / name} {where}")
        blob = (folder / name).read_bytes()
        if _sha256(blob) != files[name]["sha256"]:
            was = files[name]["bytes"]
            lost = _damage(folder, blob) if name == "model.safetensors" else ""
            raise ParetuneError(f"{folder / name} was changed after the export: {len(blob)} bytes, was {was}{lost}")
    return facts


def _wanted(version: int, files: dict[str, Any]) -> list[str]:
    """The files that an artifact must have: those of its format, and of the optional ones those it lists."""
    always = [name for name in FILES if version > 2 or name != READER]
    return always + [name for name in (PARTITIONS, PROGRAM) if name in files]


def _damage(folder: Path, blob: bytes) -> str:
    """What the packed weights' own checksums say of `blob`."""
    try:
        unpack(blob, _layout(folder))
    except ParetuneError as error:
        return f"; {error}"
    except Exception:
        # The layout is damaged too: then there is no telling which tensor it was.
        return ""
    return ""


def _sha256(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def _readme(facts: dict[str, Any]) -> str:
    scores = "\n".join(f"| {name} | {value:g} |" for name, value in facts["scores"].items() if _is_number(value))
    files = "\n".join(f"| `{name}` | {row['bytes']:,} |" for name, row in facts["files"].items())
    shape = ", ".join(map(str, facts["input"]["shape"]))
    parity = facts["parity"]
    more = (BLOCKWISE if PARTITIONS in facts["files"] else "") + (IN_PYTORCH if PROGRAM in facts["files"] else "")
    floats = "\n".join(f"- {layer} ({reason})" for layer, reason in facts["float_in_onnx"].items())
    held = (
        f"\nBut for these layers, whose quantized weights `model.onnx` has to hold as float32:\n{floats}\n"
        if floats
        else ""
    )
    return f"""# A network compressed with paretune

`model.onnx` takes "input" ({shape}), float32, normalised as in training, and returns "logits".
Its quantized weights are stored as whole numbers; `model.safetensors` holds the same numbers encoded, `layout.json`
says what lies where in it, and `plan.yaml` says how the network was cut and quantized.
{held}
```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
print(session.run(None, {{"input": np.load("check.npz")["inputs"]}})[0].argmax(1))
```

`reader.py` decodes `model.safetensors` with NumPy alone:

```python
from reader import load
weights = load(".")  # float32 arrays by name
```
{more}
| score | value |
|---|---|
{scores}

| file | bytes |
|---|---|
{files}

onnxruntime {parity["onnxruntime"]} and PyTorch disagreed on {parity["differing"]} of {parity["samples"]} sample inputs;
their logits differed by at most {parity["max_logit_difference"]:.2g}.
{_latency(facts)}"""


def _latency(facts: dict[str, Any]) -> str:
    """A paragraph, empty for an artifact whose latency nobody asked for."""
    latency = facts.get("latency")
    if latency is None:
        return ""
    where = f" (measured on {latency['compressed']['machine']})" if latency["measured"] else ""
    return f"\n{said(latency)}{where}\n"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
