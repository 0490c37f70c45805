"""How long exported graphs take in onnxruntime on this machine: measured, never modelled."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.compress.freeze import freeze, thaw
from paretune.errors import ParetuneError
from paretune.export.fresh import fresh_process
from paretune.export.graph import to_onnx
from paretune.inventory import Inventory
from paretune.machine import processor, system
from paretune.plan import DENSE
from paretune.records import to_plain

LEAST = {"threads": 1, "warmup": 0, "repeats": 3}
LOW, HIGH = 10, 90  # percentiles
WHAT = (
    "Milliseconds of one onnxruntime run with one sample, called from Python on the CPU: `model.onnx` and the "
    "uncompressed float32 model (batch norms folded in both), in turn in one fresh process after the warm-up rounds. "
    f"low_ms and high_ms are the {LOW}th and {HIGH}th percentile of the repeats, ratio is the median of compressed / "
    "dense over the rounds. Of this machine only; no modelled cost enters."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How to time: `threads` per operator, `warmup` rounds that are thrown away, `repeats` that count.

    Raises:
        ParetuneError: a number too small.
    """

    threads: int = 1
    warmup: int = 10
    repeats: int = 50

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            number = getattr(self, name)
            if not isinstance(number, int) or number < least:
                raise ParetuneError(f"latency: {name} is a whole number of at least {least}, got {number!r}")


USUAL = Timing()


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """How long one run takes, in milliseconds: the median of the repeats, and their 10th and 90th percentile.

    `batch` is the number of samples per run, `machine` the system and processor it was measured on, `onnxruntime` the
    version.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    threads: int
    warmup: int
    repeats: int
    batch: int
    machine: str
    onnxruntime: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two graphs timed in turn in one process. `ratio` is the median of compressed / dense over the rounds.

    Above 1 the compressed graph takes longer.
    """

    compressed: Latency
    dense: Latency
    ratio: float


def measure(graphs: Sequence[Path | bytes], inputs: NDArray[np.float32], timing: Timing = USUAL) -> tuple[Latency, ...]:
    """The latency of every graph, a file or its bytes, in onnxruntime's CPU provider with a batch of one.

    All are timed in one fresh process, run by run in turn, so that noise hits them alike. They therefore find caches as
    the others left them, and their threads asleep. Runs take the samples of `inputs` (n, ...) in turn, normalised as
    the model eats them; graph optimisation is the default, operators run one after the other.

    Raises:
        ParetuneError: there is no input, or a graph cannot be loaded or run.
    """
    return _latencies(*_timed(graphs, inputs, timing), timing)


def compare(
    compressed: Path | bytes, dense: Path | bytes, inputs: NDArray[np.float32], timing: Timing = USUAL
) -> Comparison:
    """Two graphs that take the same `inputs`, as `measure` times them.

    Raises:
        ParetuneError: there is no input, or a graph cannot be loaded or run.
    """
    seconds, version = _timed((compressed, dense), inputs, timing)
    one, other = _latencies(seconds, version, timing)
    return Comparison(compressed=one, dense=other, ratio=ratio(seconds))


def ratio(seconds: NDArray[np.float64]) -> float:
    """The median over rounds of first / second graph, from seconds (rounds, 2)."""
    return float(np.median(seconds[:, 0] / seconds[:, 1]))


def dense_graph(model: nn.Module, inventory: Inventory, example: Tensor) -> bytes:
    """The uncompressed `model` as an ONNX file in float32, by the same way as an artifact's graph.

    Raises:
        ParetuneError: it cannot be exported.
    """
    frozen = freeze(model, inventory, DENSE)
    graph: bytes = to_onnx(thaw(model, inventory, DENSE, frozen), frozen, example).SerializeToString()
    return graph


def facts_of(found: Comparison) -> dict[str, Any]:
    """`found` as an artifact's `scores.json` keeps it, with a sentence on what was measured."""
    return {"measured": True, **to_plain(found), "what": WHAT}


def said(facts: Mapping[str, Any]) -> str:
    """What an artifact says of its latency, in one line."""
    if not facts["measured"]:
        return f"latency not measured: {facts['reason']}"
    one, other = facts["compressed"], facts["dense"]
    threads = f"{one['threads']} thread{'' if one['threads'] == 1 else 's'}"
    spread = f"{_number(one['median_ms'])} ms ({_number(one['low_ms'])} to {_number(one['high_ms'])})"
    against = f"dense fp32 {_number(other['median_ms'])} ms: {facts['ratio']:.2f} × as long"
    return f"latency in onnxruntime, {threads}, batch {one['batch']}: {spread} against {against}"


def _timed(
    graphs: Sequence[Path | bytes], inputs: NDArray[np.float32], timing: Timing
) -> tuple[NDArray[np.float64], str]:
    """Seconds (rounds, graphs) and onnxruntime's version."""
    if not len(graphs) or not len(inputs):
        raise ParetuneError(f"latency needs a graph and an input, got {len(graphs)} graphs and {len(inputs)} inputs")
    script = Path(__file__).resolve().with_name("stopwatch.py")
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data.npz"
        np.savez(data, inputs=inputs)
        files = [_file(graph, Path(scratch) / f"{number}.onnx") for number, graph in enumerate(graphs)]
        counts = map(str, (timing.threads, timing.warmup, timing.repeats))
        found = fresh_process(script, data, *counts, *files, failed="timing in onnxruntime failed")
    return np.array(found["seconds"], dtype=np.float64), found["onnxruntime"]


def _file(graph: Path | bytes, spare: Path) -> Path:
    if isinstance(graph, Path):
        return graph.resolve()
    spare.write_bytes(graph)
    return spare


def _latencies(seconds: NDArray[np.float64], version: str, timing: Timing) -> tuple[Latency, ...]:
    """One record per column of `seconds` (rounds, graphs)."""
    machine = f"{system()}, {processor()}, {os.cpu_count()} logical cores"
    return tuple(
        Latency(
            median_ms=median, low_ms=low, high_ms=high, threads=timing.threads, warmup=timing.warmup,
            repeats=timing.repeats, batch=1, machine=machine, onnxruntime=version,
        )
        for low, median, high in (1000 * np.percentile(seconds, (LOW, 50, HIGH), axis=0)).T.tolist()
    )  # fmt: skip


def _number(milliseconds: float) -> str:
    return f"{milliseconds:.3f}" if milliseconds < 10 else f"{milliseconds:.1f}"
