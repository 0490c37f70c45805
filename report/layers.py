"""Decides what the heat maps of layers against front members show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paretune.findings import Findings, Trial
from paretune.plan import FLOAT
from paretune.report.masked import masked
from paretune.report.text import human

COLUMNS = 40  # more front members than this are thinned out evenly
NUMBERS = 600  # cells; in a larger map the numbers would not be readable


@dataclass(frozen=True, kw_only=True)
class HeatInfo:
    """A matrix to colour: `cells[row][column]` from `low` to `high`, and its numbers if they fit.

    `columns` are trial numbers, best quality first; `under` says each one's quality. `left_out` counts
    the front members that were thinned out.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    under: tuple[str, ...]
    cells: tuple[tuple[float, ...], ...]
    texts: tuple[tuple[str, ...], ...]
    low: float
    high: float
    numbers: bool
    left_out: int


def kept_info(findings: Findings) -> HeatInfo:
    """The share of channels kept, group by group, in [0, 1]. No rows if nothing on the front has lost a channel."""
    members, left_out = _members(findings)
    inventory = findings.inventory
    cells = [[trial.plan.kept_share(inventory, g.name) for trial in members if trial.plan] for g in inventory.groups]
    texts = [[f"{100 * cell:.0f}" for cell in row] for row in cells]
    names = [group.name for group in inventory.groups]
    if all(cell == 1 for row in cells for cell in row):
        names, cells, texts = [], [], []
    return _info(findings, members, title="Channels kept (%)", rows=names, cells=cells, texts=texts,
                 ends=(0.0, 1.0), left_out=left_out)  # fmt: skip


def bits_info(findings: Findings) -> HeatInfo:
    """The weight bits of every layer, coloured by their logarithm so that 2 and 4 differ as 8 and 16 do.

    No rows if nothing on the front is quantized.
    """
    members, left_out = _members(findings)
    names = [layer.name for layer in findings.inventory.weighted]
    if all(_weight_bits(trial, name) == FLOAT for trial in members for name in names):
        names = []
    bits = [[_weight_bits(trial, name) for trial in members] for name in names]
    cells = [[math.log2(value) for value in row] for row in bits]
    texts = [["float" if value == FLOAT else str(value) for value in row] for row in bits]
    used = [cell for row in cells for cell in row if cell < math.log2(FLOAT)] or [1.0]
    # Float layers share the last colour; otherwise 32 would squeeze 2 to 8 bits into one shade.
    ends = (min(1.0, *used, 1.0), max(3.0, *used) + 0.5)
    return _info(findings, members, title="Weight bits", rows=names, cells=cells, texts=texts,
                 ends=ends, left_out=left_out)  # fmt: skip


def weights_info(findings: Findings) -> HeatInfo:
    """The share of weights that masks leave, in [0, 1], for every layer that a shown front member masks."""
    members, left_out = _members(findings)
    masks = [masked(findings.inventory, trial.plan) for trial in members]
    names = [layer.name for layer in findings.inventory.weighted if any(layer.name in mask for mask in masks)]
    cells = [[mask.get(name, ("", 1.0))[1] for mask in masks] for name in names]
    texts = [[f"{100 * cell:.{0 if cell >= 0.0995 else 1}f}" for cell in row] for row in cells]
    return _info(findings, members, title="Weights kept (%)", rows=names, cells=cells, texts=texts,
                 ends=(0.0, 1.0), left_out=left_out)  # fmt: skip


def _weight_bits(trial: Trial, layer: str) -> int:
    row = trial.plan.bits.get(layer) if trial.plan else None
    return row.weight_bits if row else FLOAT


def _members(findings: Findings) -> tuple[list[Trial], int]:
    """The front members to show, best quality first, first and last always among them."""
    front = [trial for trial in findings.front if trial.plan is not None]
    if len(front) <= COLUMNS:
        return front, 0
    kept = [front[round(i * (len(front) - 1) / (COLUMNS - 1))] for i in range(COLUMNS)]
    return kept, len(front) - COLUMNS


def _info(
    findings: Findings,
    members: Sequence[Trial],
    *,
    title: str,
    rows: Sequence[str],
    cells: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    ends: tuple[float, float],
    left_out: int,
) -> HeatInfo:
    quality = findings.objectives[0]
    return HeatInfo(
        title=title, rows=tuple(rows), columns=tuple(f"#{trial.number}" for trial in members),
        under=tuple(human(trial.values[quality.name], quality.unit) for trial in members),
        cells=tuple(map(tuple, cells)), texts=tuple(map(tuple, texts)), low=ends[0], high=ends[1],
        numbers=0 < len(rows) * len(members) <= NUMBERS and len(members) <= 24, left_out=left_out,
    )  # fmt: skip
