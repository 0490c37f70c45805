"""Draws the tables of how the points worth naming are stored."""

from paretune.findings import Findings
from paretune.plan import FLOAT
from paretune.report.markup import Cell, details, paragraph, section, table, words
from paretune.report.stored import StoredInfo, StoredRow, stored_infos

SHORT = 12  # layers; longer tables are folded
CODED = ("huffman", "entropy")  # told by arithmetic; see `paretune.costs.storage.stored_bytes`

HEADER = (
    words("layer"), Cell(text="weights"), Cell(text="bits"), words("quantizer"), Cell(text="activation bits"),
    words("quantizer"), words("stored as"), Cell(text="bytes"), Cell(text="bits per weight"),
)  # fmt: skip


def stored(findings: Findings) -> str:
    """A table per point worth naming; nothing if none of them quantizes or masks a layer."""
    infos = stored_infos(findings)
    if not infos:
        return ""
    note = (
        "Where every byte of the packed file goes. Bits per weight count all that a layer's weight takes, the "
        "positions of zeros and the tables of codes too, over the weights that are left once channels are cut."
    )
    tables = [
        details(f"How trial {info.number} is stored: {info.names}", stored_table(info), shown=len(info.rows) <= SHORT)
        for info in infos
    ]
    return section("How the points are stored", paragraph(note, "quiet"), *tables)


def stored_table(info: StoredInfo) -> str:
    """One row per layer, then what is not weights, and the total."""
    rest = [("scales", info.scales), ("biases and other floats", info.floats), ("header", info.header)]
    rows = [*map(_row, info.rows), *([words(name, span=7), Cell(text=f"{size:,}"), words("")] for name, size in rest)]
    return table(HEADER, [*rows, _total(info)]) + _caveats(info)


def _row(row: StoredRow) -> list[Cell]:
    return [
        words(row.layer), Cell(text=f"{row.weights:,}"), _bits(row.weight_bits), words(row.quantizer or "–"),
        _bits(row.activation_bits), words(row.activation_quantizer or "–"),
        Cell(text=row.encoding, aside=row.pattern, number=False), Cell(text=f"{row.size:,}"),
        Cell(text=f"{row.bits_per_weight:.2f}"),
    ]  # fmt: skip


def _total(info: StoredInfo) -> list[Cell]:
    share = f"{8 * info.total / info.weights:.2f}"
    return [words("total"), Cell(text=f"{info.weights:,}"), words("", span=5), Cell(text=f"{info.total:,}"),
            Cell(text=share)]  # fmt: skip


def _bits(bits: int) -> Cell:
    return Cell(text="float" if bits == FLOAT else str(bits))


def _caveats(info: StoredInfo) -> str:
    """What keeps the table from being exact, if anything does."""
    parts = []
    if any(row.encoding in CODED for row in info.rows):
        parts.append("Huffman and entropy coded layers: within 16 bytes and 1 % of what the file takes.")
    if not info.known:
        parts.append(
            "The study did not note the numbers that training left: these bytes are the most that its plan allows."
        )
    if info.recorded not in (None, info.total):
        parts.append(f"The study recorded {info.recorded:,} bytes for it, as they were counted when it ran.")
    return paragraph(" ".join(parts), "quiet") if parts else ""
