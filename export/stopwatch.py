"""Times graphs in turn: python -I stopwatch.py data.npz threads warmup repeats one.onnx other.onnx ...

`data.npz` holds "inputs" (n, ...) as the models eat them; every run takes one of them, a batch of one. One line of
JSON comes out: onnxruntime's version and the seconds of every round, one number per graph. It needs numpy and
onnxruntime, no more.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime

Run = Callable[[Any], Any]


def stopwatch(data: str, threads: int, warmup: int, repeats: int, graphs: Sequence[str]) -> dict[str, Any]:
    """Seconds per round and graph of `graphs`, run in turn on the CPU with default graph optimisation."""
    with np.load(data) as arrays:
        inputs = arrays["inputs"]
    runs = [_run(graph, threads, f"graph {number} of {len(graphs)}") for number, graph in enumerate(graphs, start=1)]
    return {"onnxruntime": onnxruntime.__version__, "seconds": rounds(runs, inputs, warmup, repeats)}


def rounds(
    runs: Sequence[Run], inputs: Any, warmup: int, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Seconds of `repeats` rounds, one number per run, after `warmup` rounds that are not kept.

    In a round everything runs once, in the given order, on the same sample (1, ...): whatever slows this machine down
    for a while slows all of them down. Rounds take the samples of `inputs` (n, ...) in turn.
    """
    found = []
    for number in range(warmup + repeats):
        at = number % len(inputs)
        found.append([_seconds(run, inputs[at : at + 1], clock) for run in runs])
    return found[warmup:]


def _seconds(run: Run, sample: Any, clock: Callable[[], float]) -> float:
    start = clock()
    run(sample)
    return clock() - start


def options_for(threads: int) -> Any:
    """How sessions are set up: `threads` per operator, operators one after the other, nobody waiting in a busy loop."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Idle threads of one session would else wait on the cores that the next one is timed on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _run(graph: str, threads: int, called: str) -> Run:
    """One call of the graph in `graph`; where it cannot be loaded or run, the process ends and says which it was."""
    options = options_for(threads)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SystemExit(_reason(called, error)) from None
    name = session.get_inputs()[0].name

    def run(sample: Any) -> None:
        try:
            session.run(None, {name: sample})
        except Exception as error:
            raise SystemExit(_reason(called, error)) from None

    return run


def _reason(called: str, error: Exception) -> str:
    return f"{called}: {' '.join(str(error).split())}"


if __name__ == "__main__":
    gc.disable()
    threads, warmup, repeats = map(int, sys.argv[2:5])
    print(json.dumps(stopwatch(sys.argv[1], threads, warmup, repeats, sys.argv[5:])))
