"""What the place of Clip costs in onnxruntime (decision 5): python benchmarks/onnx_order.py [--write], a minute.

"last" is the exported graph; in "first" each Clip stands before its QuantizeLinear. Differing: from PyTorch, in top-1.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from timeit import timeit

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from torch import nn

from paretune.export.graph import to_onnx
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Recovery
from paretune.search.bench import Bench, lay_out
from paretune.search.evaluate import evaluate
from paretune.search.provenance import provenance
from paretune.tasks.digits import digits
from paretune.tasks.memory import InMemory
from paretune.tasks.task import Task

SEED, IMAGES, BATCH, REPEATS = 0, 2000, 256, 7
BITS = ((8, 8), (4, 8), (4, 4), (2, 8))  # weights, activations
ROUNDS_BIASES = "WeightBiasQuantization"  # onnxruntime's name for its optimisation
COLUMNS = (
    "net", "bits w/a", "Clip", "loads: default / no optimisation", "biases rounded / integer kernels", "differing of N",
    f"the same without {ROUNDS_BIASES}", "max logit difference", "ms per 1,000 images", "ratio to last",
)  # fmt: skip
Floats = NDArray[np.float32]
Run = Callable[[list[Floats]], Floats]  # batches of images to all logits (n, classes)


def chain() -> Task:
    """Three convolutions with norms and a linear layer, untrained: seeded noise as weights, images and classes."""
    torch.manual_seed(SEED)
    body: list[nn.Module] = []
    for inner, outer, stride in ((3, 16, 1), (16, 32, 2), (32, 64, 2)):
        body += [nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
    split = InMemory(inputs=torch.randn(IMAGES, 3, 16, 16), targets=torch.arange(IMAGES) % 10)
    return Task(name="chain", model=model, train=split, val=split, test=split, fingerprint="", origin={})


def clip_first(exported: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which x → QuantizeLinear → DequantizeLinear → Clip is x → Clip → QuantizeLinear → DequantizeLinear.

    A Clip to the full range of the codes (8 bits, unsigned) is moved like any other; onnxruntime then drops it, so
    leaving it out gives the same numbers. A Clip without bounds, on a transposed weight, stays: it rounds nothing.
    """
    proto: onnx.ModelProto = onnx.ModelProto.FromString(exported.SerializeToString())
    nodes = list(proto.graph.node)
    for at in [at for at, node in enumerate(nodes) if node.op_type == "Clip" and len(node.input) == 3]:
        rounding, unround, clip, reader = nodes[at - 2 : at + 2]  # to_onnx writes them one after the other
        clip.input[0], rounding.input[0], reader.input[0] = rounding.input[0], clip.output[0], unround.output[0]
        nodes[at - 2 : at + 1] = clip, rounding, unround
    proto.graph.ClearField("node")
    proto.graph.node.extend(nodes)
    return proto


def load(graph: onnx.ModelProto, *, level: str = "ORT_ENABLE_ALL", without: str = "") -> tuple[Run, str] | None:
    """`graph` on one thread, and how many biases onnxruntime rounded / integer kernels it took; None if it fails."""
    options, cpu = SessionOptions(), ["CPUExecutionProvider"]
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = getattr(GraphOptimizationLevel, level)
    with TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        try:
            session = InferenceSession(graph.SerializeToString(), options, cpu, disabled_optimizers=[without])
        except Exception:  # onnxruntime has a class per error code and none above them
            return None
        made = onnx.load(options.optimized_model_filepath).graph
    # Only biases become 32-bit vectors: shapes have 64 bits, zero points are scalars.
    biases = sum(tensor.data_type == onnx.TensorProto.INT32 and len(tensor.dims) == 1 for tensor in made.initializer)
    names = ("QLinear", "QGemm", "Integer", "NBits")
    integer = sum(any(name in node.op_type for name in names) for node in made.node)
    return lambda parts: np.concatenate([session.run(None, {"input": x})[0] for x in parts]), f"{biases} / {integer}"


def rows(bench: Bench, images: torch.Tensor, plan: Plan) -> Iterator[list[str]]:
    """Both orders of one plan, compared with PyTorch; timed in turns, so that other work hits them alike."""
    done = evaluate(plan, bench, seed=SEED)
    if done.model is None or done.frozen is None:
        raise RuntimeError(done.outcome.reason)
    last = to_onnx(done.model, done.frozen, images[:1])
    parts = [part.numpy() for part in torch.split(images, BATCH)]
    wanted = done.model(images).numpy()
    graphs = {"last": last, "first": clip_first(last)}
    loaded = {order: found for order, graph in graphs.items() if (found := load(graph))}
    times: dict[str, list[float]] = {order: [] for order in loaded}
    for order, (run, _) in [*loaded.items()] * (1 + REPEATS):  # the first is for warming up
        times[order].append(timeit("run(parts)", globals={"run": run, "parts": parts}, number=1) * 1e6 / len(images))
    cost = {order: np.median(each[1:]) for order, each in times.items()}
    for order, graph in graphs.items():
        loads = f"{'yes' if order in loaded else 'NO'} / {'yes' if load(graph, level='ORT_DISABLE_ALL') else 'NO'}"
        exact = load(graph, without=ROUNDS_BIASES)
        cells = ["–", "–", differing(exact[0](parts), wanted) if exact else "–", "–", "–", "–"]
        if order in loaded:
            got, ratio = loaded[order][0](parts), cost[order] / cost["last"]
            cells[:2] = loaded[order][1], differing(got, wanted)
            cells[3:] = f"{np.abs(got - wanted).max():.2g}", f"{cost[order]:.1f}", f"{ratio:.2f}"
        yield [bench.task.name, f"{plan.layers[0].weight_bits}/{plan.layers[0].activation_bits}", order, loads, *cells]


def differing(got: Floats, wanted: Floats) -> str:
    """How many images get another class."""
    count = int((got.argmax(1) != wanted.argmax(1)).sum())
    return f"{count} of {len(wanted)} ({count / len(wanted):.2%})"


def measure() -> Iterator[list[str]]:
    """All rows. The digits network is fine-tuned for an epoch and read on val and test, the chain only calibrated."""
    for task, epochs in ((digits(seed=SEED), 1), (chain(), 0)):
        bench, recovery = lay_out(task), Recovery(epochs=epochs, lr=0.01)
        roles = dict.fromkeys((task.val, task.test))  # the chain has one split in both
        images = torch.cat([inputs for role in roles for inputs, _ in role.batches(None)])
        for w, a in BITS:
            layers = tuple(LayerPlan(layer=x.name, weight_bits=w, activation_bits=a) for x in bench.inventory.weighted)
            yield from rows(bench, images, Plan(layers=layers, recovery=recovery))


def main() -> None:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true", help="also write benchmarks/onnx_order.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    facts = provenance({}, "")
    versions = ", ".join(f"{name} {facts['packages'][name]}" for name in ("torch", "onnx", "onnxruntime"))
    title = f"""Written by `python benchmarks/onnx_order.py --write`: {facts["date"]}, commit {facts["commit"]},
{facts["machine"]["processor"]}, 1 thread, load {os.getloadavg()[0]:.1f} before the start, Python {facts["python"]},
{versions}, all seeds {SEED}; times are medians of {REPEATS} runs in batches of {BATCH}."""
    lines = ["| " + " | ".join(row) + " |" for row in (COLUMNS, ["---"] * len(COLUMNS), *measure())]
    page = "\n".join(["# Where Clip stands", "", title, "", *lines, ""])
    print(page)
    if chosen.write:
        Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
