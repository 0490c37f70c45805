"""Latency is measured in turns and told as it is; nothing here asserts a speed."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from artifacts import TEST, Made
from onnx import helper

from paretune.errors import ParetuneError
from paretune.export import stopwatch
from paretune.export.artifact import add_latency, read_artifact
from paretune.export.fresh import fresh_process
from paretune.export.latency import (
    USUAL,
    Comparison,
    Latency,
    Timing,
    _latencies,
    compare,
    dense_graph,
    facts_of,
    measure,
    ratio,
    said,
)
from paretune.export.verify import verify
from paretune.findings import MeasuredLatency
from paretune.search import confirm

SHORT = Timing(warmup=1, repeats=3)


def latency(median: float, low: float, high: float, threads: int = 1) -> Latency:
    return Latency(
        median_ms=median, low_ms=low, high_ms=high, threads=threads, warmup=10, repeats=50, batch=1,
        machine="Linux x86_64, some processor", onnxruntime="1.2.3",
    )  # fmt: skip


FOUND = Comparison(compressed=latency(0.123, 0.12, 0.131), dense=latency(0.101, 0.1, 0.11), ratio=1.2199)


def test_runs_take_turns_on_the_same_sample_and_the_warmup_is_thrown_away() -> None:
    """With a clock that run a moves by 1 and run b by 10 times the number of its call."""
    now, calls = [0.0], []

    def run(name: str, slow: float):
        def once(sample):
            calls.append((name, sample.tolist()))
            now[0] += slow * sum(called == name for called, _ in calls)

        return once

    found = stopwatch.rounds([run("a", 1), run("b", 10)], np.array([[7], [8]]), 1, 3, lambda: now[0])
    assert calls == [(name, [[7 + round_ % 2]]) for round_ in range(4) for name in "ab"]
    assert found == [[2, 20], [3, 30], [4, 40]]


def test_a_latency_is_the_median_with_the_10th_and_90th_percentile_in_milliseconds() -> None:
    seconds = np.arange(11)[:, None] * [0.001, 0.002]
    np.random.default_rng(0).shuffle(seconds)
    one, other = _latencies(seconds, "1.2.3", USUAL)
    assert (one.low_ms, one.median_ms, one.high_ms) == pytest.approx((1, 5, 9))
    assert (other.low_ms, other.median_ms, other.high_ms) == pytest.approx((2, 10, 18))
    assert (one.threads, one.warmup, one.repeats, one.batch, one.onnxruntime) == (1, 10, 50, 1, "1.2.3")


def test_the_ratio_is_taken_round_by_round() -> None:
    """Noise that slows a round down as a whole leaves its ratio alone; the medians' ratio is another number."""
    seconds = np.array([[2, 1], [2, 1], [300, 100], [1, 2], [40, 10]], dtype=float)
    assert ratio(seconds) == 2
    assert np.median(seconds[:, 0]) / np.median(seconds[:, 1]) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": 0}, "threads is a whole number of at least 1, got 0"),
        ({"repeats": 2}, "repeats is a whole number of at least 3, got 2"),
        ({"warmup": -1}, "warmup is a whole number of at least 0, got -1"),
        ({"threads": 1.5}, "threads is a whole number of at least 1, got 1.5"),
    ],
)
def test_a_timing_that_measures_nothing_is_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ParetuneError, match=f"latency: {message}"):
        Timing(**wrong)


def test_what_is_said_is_the_same_whichever_is_faster() -> None:
    line = "latency in onnxruntime, 1 thread, batch 1: 0.123 ms (0.120 to 0.131) against dense fp32 0.101 ms: "
    assert said(facts_of(FOUND)) == line + "1.22 × as long"
    faster = Comparison(compressed=latency(12.34, 12, 13, 2), dense=latency(24.68, 24, 26, 2), ratio=0.5)
    line = "latency in onnxruntime, 2 threads, batch 1: 12.3 ms (12.0 to 13.0) against dense fp32 24.7 ms: "
    assert said(facts_of(faster)) == line + "0.50 × as long"
    assert said({"measured": False, "reason": "graph 2 of 2: no"}) == "latency not measured: graph 2 of 2: no"


def test_graphs_are_measured_in_a_fresh_process(made: Made) -> None:
    source = made.source
    dense = dense_graph(source.dense, source.inventory, source.images[:1])
    found = compare(made.folder / "model.onnx", dense, TEST[:2], SHORT)
    for one in (found.compressed, found.dense):
        assert 0 < one.low_ms <= one.median_ms <= one.high_ms
        assert (one.threads, one.warmup, one.repeats, one.batch) == (1, 1, 3, 1)
        assert one.machine
        assert one.onnxruntime == stopwatch.onnxruntime.__version__
    assert found.ratio > 0
    stored = {tensor.name: tensor for tensor in onnx.load_from_string(dense).graph.initializer}
    assert not [name for name in stored if name.endswith("_codes")]
    assert list(stored["stem.weight"].dims) == [8, 3, 3, 3], "the dense graph is not cut"


def test_an_artifact_keeps_its_latency_apart_from_its_scores(copy: Path) -> None:
    before = read_artifact(copy).scores
    assert "latency" not in before
    add_latency(copy, facts_of(FOUND))
    after = read_artifact(copy).scores
    assert after.pop("latency")["compressed"]["median_ms"] == 0.123
    assert after == before
    assert verify(copy).ok
    readme = (copy / "README.md").read_text()
    assert "0.120 to 0.131) against dense fp32 0.101 ms: 1.22 × as long (measured on Linux x86_64, some proc" in readme
    add_latency(copy, {"measured": False, "reason": "graph 2 of 2: no"})
    assert json.loads((copy / "scores.json").read_text())["latency"] == {
        "measured": False,
        "reason": "graph 2 of 2: no",
    }
    assert "\nlatency not measured: graph 2 of 2: no\n" in (copy / "README.md").read_text()


def test_a_study_remembers_the_median_its_spread_and_the_dense_one() -> None:
    assert confirm._in_short(FOUND) == MeasuredLatency(
        median_ms=0.123, low_ms=0.12, high_ms=0.131, dense_ms=0.101, ratio=1.2199, threads=1,
        machine="Linux x86_64, some processor", onnxruntime="1.2.3",
    )  # fmt: skip


def test_a_model_that_cannot_be_timed_is_shipped_and_says_why(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm, "dense_graph", lambda model, inventory, example: b"no graph")
    bench = SimpleNamespace(task=SimpleNamespace(model=None, example=lambda: None), inventory=None)
    assert confirm._timed(copy, bench, SHORT) is None
    latency = read_artifact(copy).scores["latency"]
    assert not latency["measured"]
    assert latency["reason"].startswith("timing in onnxruntime failed: graph 2 of 2: ")


def negated(columns: int) -> bytes:
    """A graph that takes inputs (n, columns)."""
    ends = [helper.make_tensor_value_info(name, 1, ["n", columns]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    ("other", "message"),
    [(b"no graph", "graph 2 of 2: .*Protobuf parsing failed"), (negated(3), "graph 2 of 2: .*invalid dimensions")],
    ids=("no graph", "another input"),
)
def test_a_graph_that_fails_is_named(other: bytes, message: str) -> None:
    with pytest.raises(ParetuneError, match=f"timing in onnxruntime failed: {message}"):
        measure([negated(2), other], np.zeros((1, 2), np.float32), SHORT)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ParetuneError, match="got 0 graphs and 1 inputs"):
        measure([], TEST[:1])
    with pytest.raises(ParetuneError, match="got 1 graphs and 0 inputs"):
        measure([b""], TEST[:0])


def test_a_fresh_process_says_its_last_line_or_its_exit_code() -> None:
    assert fresh_process("-c", "print('noise'); print('[1, 2]')", failed="it fails") == [1, 2]
    with pytest.raises(ParetuneError, match=r"^it fails: the reason$"):
        fresh_process("-c", "raise SystemExit('more\\nthe reason')", failed="it fails")
    with pytest.raises(ParetuneError, match=r"^it fails: exit code 3$"):
        fresh_process("-c", "raise SystemExit(3)", failed="it fails")


def test_the_stopwatch_needs_nothing_of_this_package() -> None:
    lines = Path(stopwatch.__file__).read_text().splitlines()
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported == {"gc", "json", "sys", "time", "collections", "typing", "numpy", "onnxruntime"}
