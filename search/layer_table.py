"""The rows of the layer table of `paretune inspect`: every cell decided, nothing drawn."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from paretune.costs.counts import row_bops, row_bytes
from paretune.frozen import HEADER_BYTES
from paretune.report.text import human, scaled
from paretune.search.inspect import Inspection, Line

BAR = 5  # characters of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉█"
NAMES = 40  # characters that a column of names needs at most; what is longer goes on in the next line
GAP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column: its `cell` for a layer; a column of numbers keeps to the right, one that `folds` may go on below."""

    title: str
    cell: Callable[[Line], str]
    number: bool = True
    folds: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """What stands where. The last row is the total, the one before it whatever has no MACs; `dropped` are the titles
    of the columns that there was no room for.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    dropped: tuple[str, ...]


GO_FIRST = ("output", "groups", "weight", "util.", "share of MACs", "params", "passes", "PE×SIMD")


def layer_cells(found: Inspection, width: int) -> Cells:
    """A row per convolution, linear layer and product of activations, one for the rest, and one for all together.

    Rows add up to the totals. If there is no room for the names of groups, they are told by their numbers, from 1 in
    the inventory's order; then columns are left out, in the order of `GO_FIRST`, until `width` characters are enough.
    """
    cells = _cells(found, lambda group: group)
    if _width(cells, range(len(cells.columns))) > width:
        number = {group.name: f"#{place}" for place, group in enumerate(found.inventory.groups, 1)}
        cells = _cells(found, number.__getitem__)
    stay = list(range(len(cells.columns)))
    for title in GO_FIRST:
        if _width(cells, stay) > width:
            stay = [place for place in stay if cells.columns[place].title != title]
    return Cells(
        columns=tuple(cells.columns[place] for place in stay),
        rows=tuple(tuple(row[place] for place in stay) for row in cells.rows),
        dropped=tuple(column.title for place, column in enumerate(cells.columns) if place not in stay),
    )


def _cells(found: Inspection, called: Callable[[str], str]) -> Cells:
    """The table with all its columns; `called` says what stands for a group."""
    lines = [line for line in found.lines if line.row.kind not in ("norm", "other")]
    columns = _columns(found, lines, called)
    rest = [line for line in found.lines if line.row.kind in ("norm", "other")]
    ends = (_sums("all else, header", rest, found), _sums("total", found.lines, found))
    rows = [tuple(column.cell(line) for column in columns) for line in lines]
    rows += [tuple(end.get(column.title, "") for column in columns) for end in ends]
    return Cells(columns=tuple(columns), rows=tuple(rows), dropped=())


def _columns(found: Inspection, lines: Sequence[Line], called: Callable[[str], str]) -> list[Column]:
    masks = [Column(title="mask", cell=_mask, number=False)] if any(line.row.pattern for line in lines) else []
    own = found.hardware.target_cycles is not None and found.hardware.engine == "finn"
    fold = Column(title="PE×SIMD", cell=lambda line: f"{line.folding.pe}×{line.folding.simd}" if line.folding else "")
    passes = Column(title="passes", cell=lambda line: scaled(line.paid.work.passes))
    unit = found.hardware.energy.unit
    most = max((line.share for line in lines), default=0.0)
    return [
        Column(title="layer", cell=lambda line: line.row.name, number=False, folds=True),
        Column(title="weight", cell=_shape, number=False),
        Column(title="output", cell=lambda line: "×".join(map(str, line.shape)), number=False),
        Column(title="params", cell=lambda line: scaled(line.row.params)),
        Column(title="MACs", cell=lambda line: scaled(line.row.macs)),
        Column(title="bits w/a", cell=lambda line: f"{line.row.weight_bits}/{line.row.activation_bits}"),
        *masks,
        Column(title="bytes", cell=lambda line: human(row_bytes(line.row), "bytes")),
        Column(title="BOPs", cell=lambda line: scaled(row_bops(line.row))),
        Column(title="energy", cell=lambda line: human(line.paid.energy_pj, unit)),
        Column(title="cycles", cell=lambda line: scaled(line.paid.work.cycles)),
        fold if own else passes,
        Column(title="util.", cell=lambda line: f"{line.paid.work.utilisation:.0%}"),
        Column(title="share of MACs", cell=lambda line: _share(line.share, most), number=False),
        Column(title="groups", cell=lambda line: _groups(line, called), number=False, folds=True),
    ]


def _sums(name: str, lines: Sequence[Line], found: Inspection) -> dict[str, str]:
    """The cells of several layers together; the file's header is among the bytes."""
    whole = len(lines) == len(found.lines)
    macs = sum(line.row.macs for line in lines)
    cells = {
        "layer": name,
        "params": scaled(sum(line.row.params for line in lines)),
        "bytes": human(HEADER_BYTES + sum(row_bytes(line.row) for line in lines), "bytes"),
        "energy": human(sum(line.paid.energy_pj for line in lines), found.hardware.energy.unit),
    }
    if not whole:
        return cells
    bops = sum(row_bops(line.row) for line in lines)
    totals = {"MACs": scaled(macs), "BOPs": scaled(bops), "cycles": scaled(found.totals["cycles"])}
    return cells | totals | {"util.": f"{found.utilisation:.0%}"}


def _shape(line: Line) -> str:
    """The weight's shape; of a product how many there are of which matrices."""
    row = line.row
    if row.kind != "product":
        return "×".join(map(str, row.weight_shape))
    return f"{row.groups}·({row.positions}×{row.inner}·{row.inner}×{row.filters})"


def _mask(line: Line) -> str:
    row = line.row
    return f"{row.pattern} {row.kept / row.weights:.0%}" if row.pattern else ""


def _share(share: float, most: float) -> str:
    """A bar, as long as it gets for the largest share, and the share itself."""
    eighths = round(8 * BAR * share / most) if most else 0
    bar = "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
    return f"{bar:<{BAR}} {share:>6.1%}"


def _groups(line: Line, called: Callable[[str], str]) -> str:
    """The groups that cut its inputs, and those that cut its outputs; – where none does."""
    sides = ([called(group) for group, axis in line.groups if axis == side] for side in ("in", "out"))
    return " → ".join(", ".join(names) or "–" for names in sides) if line.groups else "–"


def _width(cells: Cells, stay: Iterable[int]) -> int:
    """Characters that these columns need."""
    wide = {place: max(len(column.title), *(len(row[place]) for row in cells.rows))
            for place, column in enumerate(cells.columns)}  # fmt: skip
    return sum((min(wide[place], NAMES) if cells.columns[place].folds else wide[place]) + GAP for place in stay) - GAP
