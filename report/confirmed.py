"""What was found on val beside what was confirmed on test, as HTML."""

from paretune.findings import Confirmation, Findings
from paretune.report.markup import Cell, heading, paragraph, table, words
from paretune.report.text import human, label, spread


def confirmations(findings: Findings) -> str:
    """One row per exported point, or the word that there is none."""
    if not findings.confirmations:
        return paragraph("Not confirmed on the test split yet; every quality above was seen by the search.", "quiet")
    unit = findings.objectives[0].unit
    header = [words("picked as"), Cell(text="trial"), words("weights"), Cell(text="size"), Cell(text="found (val)"),
              Cell(text="replayed (val)"), Cell(text="confirmed (test)"), words("seeds")]  # fmt: skip
    rows = [_confirmation(row, unit) for row in findings.confirmations]
    note = "The test split was touched only here, after the choice. Mean ± standard deviation where there are seeds."
    title = f"Found and confirmed: {label(findings.objectives[0].name)}"
    return heading(title) + table(header, rows) + paragraph(note, "quiet")


def _confirmation(row: Confirmation, unit: str) -> list[Cell]:
    how = "as kept" if row.recover == "kept" else "fully recovered"
    return [
        words(row.picked_by), Cell(text=str(row.trial)), words(how), Cell(text=human(row.size_bytes, "bytes")),
        Cell(text=spread((row.found,), unit)), Cell(text=spread(row.validated, unit)),
        Cell(text=spread(row.confirmed, unit)), words(", ".join(map(str, row.seeds))),
    ]  # fmt: skip
