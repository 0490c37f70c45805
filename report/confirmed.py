"""What was found on val beside what was confirmed on test, as HTML."""

from collections.abc import Sequence

from paretune.findings import Confirmation, Findings, MeasuredLatency
from paretune.report.markup import Cell, heading, paragraph, table, words
from paretune.report.text import human, label, scored, spread


def confirmations(findings: Findings) -> str:
    """One row per exported point, or the word that there is none."""
    if not findings.confirmations:
        return paragraph("Not confirmed on the test split yet; every quality above was seen by the search.", "quiet")
    header = [words("picked as"), Cell(text="trial"), words("weights"), Cell(text="size"), Cell(text="found (val)"),
              Cell(text="replayed (val)"), Cell(text="confirmed (test)"), words("random seeds")]  # fmt: skip
    rows = [_confirmation(findings, row) for row in findings.confirmations]
    timed = [row.latency for row in findings.confirmations if row.latency]
    if timed:
        header.append(words("latency here, measured"))
        rows = [[*cells, _latency(row.latency)] for cells, row in zip(rows, findings.confirmations, strict=True)]
    note = "The test split was touched only here, after the choice. Mean ± standard deviation where there are seeds."
    title = f"Found and confirmed: {label(findings.objectives[0].name)}"
    return heading(title) + table(header, rows) + paragraph(note, "quiet") + _measured(timed)


def found_text(findings: Findings, row: Confirmation) -> str:
    """What the search saw of the point under all its random seeds ("9.10 ± 0.30 % (mean of 3 random seeds)"), "" where
    that is one.
    """
    trial = next((one for one in findings.trials if one.number == row.trial and one.status == "done"), None)
    return scored(findings, trial) if trial and len(findings.scores(trial)) > 1 else ""


def _confirmation(findings: Findings, row: Confirmation) -> list[Cell]:
    unit = findings.objectives[0].unit
    how = "as kept" if row.recover == "kept" else "fully recovered"
    return [
        words(row.picked_by), Cell(text=str(row.trial)), words(how), Cell(text=human(row.size_bytes, "bytes")),
        Cell(text=spread((row.found,), unit), aside=found_text(findings, row)), Cell(text=spread(row.validated, unit)),
        Cell(text=spread(row.confirmed, unit)), words(", ".join(map(str, row.seeds))),
    ]  # fmt: skip


def _latency(row: MeasuredLatency | None) -> Cell:
    if row is None:
        return words("–")
    text = f"{_ms(row.median_ms)} ms ({_ms(row.low_ms)} to {_ms(row.high_ms)})"
    return Cell(text=text, aside=f"{row.ratio:.2f}× as long as the dense float32 model's {_ms(row.dense_ms)} ms",
                number=False)  # fmt: skip


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.{3 if milliseconds < 10 else 1}f}"


def _measured(timed: Sequence[MeasuredLatency]) -> str:
    """What "here" means; nothing without a measured latency."""
    if not timed:
        return ""
    where = {
        f"onnxruntime {row.onnxruntime}, {row.threads} thread{'' if row.threads == 1 else 's'}, on {row.machine}": None
        for row in timed
    }
    return paragraph(
        "Latency is the median of one sample at a time (10th to 90th percentile), the shipped graph and the dense one "
        f"run in turn: {'; '.join(where)}. No modelled cost of this page enters it.",
        "quiet",
    )
