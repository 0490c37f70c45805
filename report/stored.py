"""Decides what the tables of how a trial is stored show: where every byte of its packed file goes."""

from dataclasses import dataclass

from paretune.costs.storage import stored_as, stored_bytes
from paretune.findings import Findings, Trial
from paretune.frozen import HEADER_BYTES
from paretune.inventory import Inventory
from paretune.plan import FLOAT, LayerPlan, Plan
from paretune.profile import Profile, Row, profile
from paretune.report.picks import dense_pick, picks


@dataclass(frozen=True, kw_only=True)
class StoredRow:
    """One layer: `quantizer` is "" in float, `pattern` "" without a mask; `size` in bytes."""

    layer: str
    weights: int
    weight_bits: int
    quantizer: str
    activation_bits: int
    activation_quantizer: str
    encoding: str
    pattern: str
    size: int
    bits_per_weight: float


@dataclass(frozen=True, kw_only=True)
class StoredInfo:
    """Bytes of one trial's packed file: `rows`, `scales`, `floats` (biases and other numbers), `header` make `total`.

    `recorded` is the size that the study has for it, None if it has none. `known` is False if the size of a row is the
    most that its plan allows, because the study did not note what training left.
    """

    number: int
    names: str
    rows: tuple[StoredRow, ...]
    weights: int
    scales: int
    floats: int
    header: int
    total: int
    recorded: int | None
    known: bool


def stored_infos(findings: Findings) -> tuple[StoredInfo, ...]:
    """One per point worth naming, but for the dense model and what neither quantizes nor masks a layer."""
    found = [
        (pick.name, pick.trial) for pick in picks(findings) if pick.trial not in (None, dense_pick(findings).trial)
    ]
    return tuple(
        _info(findings.inventory, name, trial, trial.plan)
        for name, trial in found
        if trial and trial.plan and any(map(compact, weight_rows(findings.inventory, trial.plan)))
    )


def weight_rows(inventory: Inventory, plan: Plan) -> Profile:
    """The rows of the layers that can be quantized, in the order of `inventory.weighted`."""
    rows = {row.name: row for row in profile(inventory, plan)}
    return tuple(rows[layer.name] for layer in inventory.weighted)


def compact(row: Row) -> bool:
    """True for a layer that is quantized or masked."""
    return row.weight_bits < FLOAT or bool(row.pattern)


def bits_per_weight(row: Row) -> float:
    """Bits of the packed weight, over the weights that the cut leaves; without codes an upper bound."""
    return 8 * stored_bytes(row) / row.weights


def _info(inventory: Inventory, names: str, trial: Trial, plan: Plan) -> StoredInfo:
    rows = profile(inventory, plan)
    layers = weight_rows(inventory, plan)
    scales, floats = 4 * sum(row.scales for row in rows), 4 * sum(row.floats for row in rows)
    recorded = trial.values.get("size_bytes")
    return StoredInfo(
        number=trial.number, names=names,
        rows=tuple(_row(row, plan.bits.get(row.name, LayerPlan(layer=row.name))) for row in layers),
        weights=sum(row.weights for row in layers), scales=scales, floats=floats, header=HEADER_BYTES,
        total=sum(map(stored_bytes, rows)) + scales + floats + HEADER_BYTES,
        recorded=None if recorded is None else round(recorded),
        known=all(row.codes is not None for row in layers if compact(row)),
    )  # fmt: skip


def _row(row: Row, plan: LayerPlan) -> StoredRow:
    return StoredRow(
        layer=row.name, weights=row.weights, weight_bits=row.weight_bits,
        quantizer=row.quantizer if row.weight_bits < FLOAT else "", activation_bits=row.activation_bits,
        activation_quantizer=plan.activation_quantizer if row.activation_bits < FLOAT else "",
        encoding=stored_as(row), pattern=row.pattern, size=stored_bytes(row), bits_per_weight=bits_per_weight(row),
    )  # fmt: skip
