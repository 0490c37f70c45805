"""Decides what the heat maps of layers against front members show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paretune.findings import Findings, Trial
from paretune.plan import FLOAT, LayerPlan
from paretune.report.masked import masked
from paretune.report.stored import bits_per_weight, compact, weight_rows
from paretune.report.text import human

COLUMNS = 40  # more front members than this are thinned out evenly
NUMBERS = 600  # cells; in a larger map the numbers would not be readable
LEAST = -2.0  # log2 of the stored bits that are drawn apart; a layer of zeros takes next to nothing


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
    """The weight bits of every layer. No rows if nothing on the front has quantized weights."""
    rows = _layer_plans(findings)
    bits = [[float(row.weight_bits) for row in layer] for layer in rows]
    return _bits(findings, "Weight bits", bits if _quantized(bits) else [], "{:.0f}")


def activations_info(findings: Findings) -> HeatInfo:
    """The bits of the activations that every layer reads.

    No rows unless they differ on the front: between the layers of a member, or between the members that quantize.
    """
    rows = _layer_plans(findings)
    bits = [[float(row.activation_bits) for row in layer] for layer in rows]
    mixed = any(len(set(member)) > 1 for member in zip(*bits, strict=True))
    widths = {value for layer in bits for value in layer if value < FLOAT}
    return _bits(findings, "Activation bits", bits if mixed or len(widths) > 1 else [], "{:.0f}")


def stored_bits_info(findings: Findings) -> HeatInfo:
    """The bits that every layer's weight takes in the packed file, over the weights that the cut leaves.

    Numbers, positions and tables all count. No rows if nothing on the front is quantized or masked.
    """
    members, _ = _members(findings)
    profiles = [weight_rows(findings.inventory, trial.plan) for trial in members if trial.plan]
    told = any(compact(row) for rows in profiles for row in rows)
    bits = [[bits_per_weight(row) for row in layer] for layer in zip(*profiles, strict=True)]
    return _bits(findings, "Stored bits per weight", bits if told else [], "{:.1f}")


def weights_info(findings: Findings) -> HeatInfo:
    """The share of weights that masks leave, in [0, 1], for every layer that a shown front member masks."""
    members, left_out = _members(findings)
    masks = [masked(findings.inventory, trial.plan) for trial in members]
    names = [layer.name for layer in findings.inventory.weighted if any(layer.name in mask for mask in masks)]
    cells = [[mask.get(name, ("", 1.0))[1] for mask in masks] for name in names]
    texts = [[f"{100 * cell:.{0 if cell >= 0.0995 else 1}f}" for cell in row] for row in cells]
    return _info(findings, members, title="Weights kept (%)", rows=names, cells=cells, texts=texts,
                 ends=(0.0, 1.0), left_out=left_out)  # fmt: skip


def _layer_plans(findings: Findings) -> list[list[LayerPlan]]:
    """The plan of every layer (rows) in every shown front member (columns)."""
    members, _ = _members(findings)
    plans = [trial.plan.bits for trial in members if trial.plan]
    names = [layer.name for layer in findings.inventory.weighted]
    return [[plan.get(name, LayerPlan(layer=name)) for plan in plans] for name in names]


def _quantized(bits: Sequence[Sequence[float]]) -> bool:
    return any(value < FLOAT for layer in bits for value in layer)


def _bits(findings: Findings, title: str, bits: Sequence[Sequence[float]], form: str) -> HeatInfo:
    """Bits by layer and member, coloured by their logarithm so that 2 and 4 differ as 8 and 16 do."""
    members, left_out = _members(findings)
    names = [layer.name for layer in findings.inventory.weighted] if bits else []
    cells = [[math.log2(value) for value in row] for row in bits]
    texts = [["float" if value == FLOAT else form.format(value) for value in row] for row in bits]
    used = [cell for row in cells for cell in row if cell < math.log2(FLOAT)] or [1.0]
    # Float layers share the last colour; otherwise 32 would squeeze 2 to 8 bits into one shade. The fewest bits are
    # not the first, which is white.
    ends = (max(LEAST, min(1.0, *used)) - 0.5, max(3.0, *used) + 0.5)
    return _info(findings, members, title=title, rows=names, cells=cells, texts=texts, ends=ends, left_out=left_out)


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
