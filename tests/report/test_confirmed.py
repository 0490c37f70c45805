"""The table of confirmed points: what was measured of their latency, and where."""

from dataclasses import replace

from report_fakes import confirmed, fake_findings

from paretune.findings import MeasuredLatency
from paretune.report.confirmed import confirmations

LATENCY = MeasuredLatency(
    median_ms=0.1234, low_ms=0.12, high_ms=12.34, dense_ms=0.101, ratio=1.2199, threads=2,
    machine="Linux x86_64, some processor", onnxruntime="1.2.3",
)  # fmt: skip
FINDINGS = confirmed(fake_findings(), fake_findings().front[0])


def test_a_measured_latency_has_its_own_column_and_says_where_it_holds() -> None:
    kept, full = FINDINGS.confirmations
    text = confirmations(replace(FINDINGS, confirmations=(replace(kept, latency=LATENCY), full)))
    head, first, second = (row for row in text.split("<tr>") if "</tr>" in row)
    assert "latency here, measured</th></tr>" in head
    assert "0.123 ms (0.120 to 12.3)<small>1.22× as long as the dense float32 model&#x27;s 0.101 ms</small>" in first
    assert "<td>–</td></tr>" in second
    assert text.count("onnxruntime 1.2.3, 2 threads, on Linux x86_64, some processor") == 1


def test_one_place_is_said_once_and_two_are_both_said() -> None:
    kept, full = (replace(row, latency=LATENCY) for row in FINDINGS.confirmations)
    assert confirmations(replace(FINDINGS, confirmations=(kept, full))).count("some processor") == 1
    other = replace(full, latency=replace(LATENCY, machine="a board", threads=1))
    text = confirmations(replace(FINDINGS, confirmations=(kept, other)))
    assert "2 threads, on Linux x86_64, some processor; onnxruntime 1.2.3, 1 thread, on a board." in text


def test_without_a_measured_latency_there_is_no_column() -> None:
    text = confirmations(FINDINGS)
    assert "confirmed (test)" in text
    assert "atency" not in text
