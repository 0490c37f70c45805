"""Decides what the page says of the hardware that a study names: costs point by point, and layer by layer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose

from paretune.costs.bill import splits_of
from paretune.costs.finn import floats
from paretune.costs.folding import too_slow
from paretune.costs.hardware import Hardware
from paretune.costs.partition import Split
from paretune.costs.table import COSTS, costs_for, static_costs
from paretune.findings import Findings, Trial
from paretune.plan import DENSE
from paretune.profile import Profile, profile
from paretune.records import from_plain
from paretune.report.hardware_layers import LayersInfo, layers_info
from paretune.report.picks import dense_pick, picks
from paretune.report.text import count, human, times

# Row by row, in the words of the page; a unit that a value does not carry itself stands here.
SHOWN: Mapping[str, str] = {
    "params": "parameters", "size_bytes": "weight file", "activation_bytes": "activations at their peak",
    "macs": "MACs", "bops": "bit-operations", "relative_bops": "bit-operations relative to 32×32",
    "energy_pj": "energy", "energy_relative": "energy in 16-bit MACs", "cycles": "cycles",
    "parallel_cycles": "cycles on several accelerators", "luts": "LUTs", "dsps": "DSP blocks",
    "brams": "block RAMs of 18 kbit",
}  # fmt: skip
SKIPPED = {"none": "no zero is skipped", "blocks": "masked blocks are skipped", "all": "masked weights are skipped"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """The dense network, or a point worth naming, as the rows of its profile; `title` is short, `names` say why."""

    title: str
    names: str
    trial: Trial | None
    rows: Profile


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One cost of every point, dense first: `values` as text with their prefix, `beside` how much smaller they got.

    `note` is what has to be said of it on this hardware.
    """

    name: str
    note: str
    values: tuple[str, ...]
    beside: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class HardwareInfo:
    """All of the section. `splits` are the partitioned layers by point, `uncounted` (costs, what they leave out)."""

    hardware: Hardware
    points: tuple[Point, ...]
    costs: tuple[CostRow, ...]
    layers: LayersInfo | None
    splits: tuple[tuple[Point, tuple[Split, ...]], ...]
    uncounted: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    caveats: tuple[str, ...]


def hardware_info(findings: Findings) -> HardwareInfo | None:
    """None for a study that does not say what it was counted for. Every number is computed from the stored plans."""
    known = findings.provenance.get("hardware")
    if not known:
        return None
    hardware = from_plain(Hardware, known)
    points = _points(findings)
    totals = [static_costs(point.rows, hardware) for point in points]
    splits = tuple((point, found) for point in points if (found := splits_of(point.rows, hardware)))
    shown = [name for name in SHOWN if name in costs_for(hardware) and (name != "parallel_cycles" or splits)]
    watched = bool(findings.inventory.steps)
    return HardwareInfo(
        hardware=hardware, points=points,
        costs=tuple(_cost_row(name, totals, hardware, known=watched or name != "activation_bytes") for name in shown),
        layers=_layers(points, hardware, watched), splits=splits,
        uncounted=_uncounted(findings, points[1 if points[1:] else 0].rows, shown),
        caveats=(*_misfits(points, hardware), *_moved(points, totals, shown)),
    )  # fmt: skip


def machine(hardware: Hardware) -> str:
    """What is modelled, in one line."""
    parts = [f"{hardware.name}: {_engine(hardware)}", f"a buffer of {human(hardware.buffer_bytes, 'bytes')}"]
    parts.append(SKIPPED[hardware.skips])
    if hardware.ternary_adds:
        parts.append("ternary weights take no multiplier")
    if hardware.accelerators:
        parts.append(f"partitioned layers share {count(hardware.accelerators, 'accelerator')}")
    tables = (hardware.energy, hardware.relative_energy)
    parts.append("energy by " + " and ".join(f"table {table.name} in {table.unit}" for table in tables))
    return "; ".join(parts) + "."


def versus(dense: float, value: float) -> str:
    """What became of `dense`: "12.3× smaller"; nothing to say if one of them is nothing."""
    if not (value > 0 and dense > 0):
        return "the same" if value == dense else ""
    ratio = dense / value
    if f"{max(ratio, 1 / ratio):.2f}" == "1.00":
        return "the same"
    return f"{times(ratio)} smaller" if ratio > 1 else f"{times(1 / ratio)} larger"


def _engine(hardware: Hardware) -> str:
    if hardware.engine != "finn":
        size = f"{hardware.rows} × {hardware.columns}"
        return f"a systolic array of {size} multipliers, {hardware.dataflow} stationary"
    if hardware.target_cycles is not None:
        return f"a FINN-style engine of its own for every layer, folded to {hardware.target_cycles:,} cycles"
    return f"one FINN-style engine of {hardware.pe} elements × {hardware.simd} lanes that all layers share"


def _points(findings: Findings) -> tuple[Point, ...]:
    """The dense network, whose costs need no trial, and the other points worth naming."""
    inventory, dense = findings.inventory, dense_pick(findings).trial or findings.dense
    chosen = picks(findings)
    names = next((pick.name for pick in chosen if dense and pick.trial is dense), "dense")
    found = [Point(title="dense", names=names, trial=dense, rows=profile(inventory, DENSE))]
    for pick in chosen:
        if pick.trial is not None and pick.trial.label != "dense" and pick.trial.plan is not None:
            rows = profile(inventory, pick.trial.plan)
            found.append(Point(title=f"trial {pick.trial.number}", names=pick.name, trial=pick.trial, rows=rows))
    return tuple(found)


def _cost_row(name: str, totals: Sequence[Mapping[str, float]], hardware: Hardware, *, known: bool) -> CostRow:
    unit, dense = COSTS[name].objective.unit, totals[0][name]
    says = known and unit != "share"
    return CostRow(
        name=name, note="of the slowest layer" if name == "cycles" and hardware.target_cycles is not None else "",
        values=tuple(human(total[name], unit) if known else "–" for total in totals),
        beside=("", *(versus(dense, total[name]) if says else "" for total in totals[1:])),
    )  # fmt: skip


def _layers(points: Sequence[Point], hardware: Hardware, watched: bool) -> LayersInfo | None:
    """The first point after the dense one: the knee, unless that is the dense network."""
    if len(points) < 2:
        return None
    dense, point = points[:2]
    return layers_info(dense.rows, point.rows, hardware, title=point.title, names=point.names, watched=watched)


def _uncounted(
    findings: Findings, rows: Profile, shown: Iterable[str]
) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """What costs leave out; those that leave out the same stand together."""
    merged: dict[tuple[str, ...], list[str]] = {}
    for name in shown:
        if missing := COSTS[name].uncounted(rows, findings.inventory):
            merged.setdefault(missing, []).append(name)
    return tuple((tuple(names), missing) for missing, names in merged.items())


def _misfits(points: Sequence[Point], hardware: Hardware) -> list[str]:
    """Where an engine for integers is asked for what it cannot do, by point."""
    if hardware.engine != "finn":
        return []

    def told(found: Callable[[Profile], Sequence[str]]) -> str:
        counted = [(point.title, len(found(point.rows))) for point in points]
        return ", ".join(f"{title} ({count(number, 'layer')})" for title, number in counted if number)

    slow, wide = told(lambda rows: too_slow(rows, hardware)), told(floats)
    texts = [f"In float, which such an engine cannot run, and counted as integers of 32 bits: {wide}."] if wide else []
    return [*texts, f"Slower than the target however they are folded: {slow}."] if slow else texts


def _moved(points: Sequence[Point], totals: Sequence[Mapping[str, float]], shown: Iterable[str]) -> list[str]:
    """Costs that the study recorded with other values, because they were counted differently then."""
    pairs = [(point.trial.values, total) for point, total in zip(points, totals, strict=True) if point.trial]
    moved = [
        SHOWN[name] for name in shown
        if any(name in old and not isclose(old[name], new[name], rel_tol=1e-9) for old, new in pairs)
    ]  # fmt: skip
    text = f"The study recorded other numbers when it ran, as they were counted then: {', '.join(moved)}."
    return [text] if moved else []
