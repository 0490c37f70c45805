"""Decides what the heat maps of single effects show: decisions down, settings across, one map per kind of decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from paretune.effects import Effect, Effects, Pair
from paretune.findings import Findings
from paretune.plan import FLOAT
from paretune.report.text import human, label

MOST = 60  # rows of one map; those beyond, the least sensitive, are left out
WIDEST = 16  # columns that leave room for numbers
DECADES = 3.0  # that the colours span at most
PAIRS = 10
TITLES = {
    "ratio": "Share removed", "weight_bits": "Weight bits", "activation_bits": "Activation bits",
    "sparsity": "Share of weights masked",
}  # fmt: skip
SHARES = ("ratio", "sparsity")


@dataclass(frozen=True, kw_only=True)
class EffectMap:
    """A matrix to colour: `rises[row][column]` is how much the loss rises over the base, None where nothing is known.

    Columns compress more from left to right. `filled` marks the cells between measured neighbours, `texts` hold the
    quality metric there and `hover` all of it in words. `left_out` counts the least sensitive rows, which are not here.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    rises: tuple[tuple[float | None, ...], ...]
    filled: tuple[tuple[bool, ...], ...]
    texts: tuple[tuple[str, ...], ...]
    hover: tuple[tuple[str, ...], ...]
    numbers: bool
    left_out: int


@dataclass(frozen=True, kw_only=True)
class EffectsInfo:
    """All maps with one logarithmic scale of colours from `low` to `high` (rise of the loss), beyond which they stay.

    `pairs` are the strongest (two decisions with their settings in words, loss beyond the sum) of `measured_pairs`.
    """

    maps: tuple[EffectMap, ...]
    low: float
    high: float
    pairs: tuple[tuple[str, str, float], ...]
    measured_pairs: int


def effects_info(findings: Findings) -> EffectsInfo | None:
    """The maps in order of first use, or None if nothing was measured."""
    found = findings.effects
    if found is None:
        return None
    low, high = scale([effect.loss - found.loss for effect in found.effects])
    kinds = dict.fromkeys(kind_of(effect.decision) for effect in found.effects)
    strongest = sorted(found.pairs, key=lambda pair: -abs(pair.loss))[:PAIRS]
    return EffectsInfo(
        maps=tuple(_map(findings, found, kind, high) for kind in kinds), low=low, high=high,
        pairs=tuple((*_sides(pair), pair.loss) for pair in strongest), measured_pairs=len(found.pairs),
    )  # fmt: skip


def scale(rises: Sequence[float]) -> tuple[float, float]:
    """Where the colours begin and end: the middle nine tenths of what rises at all, at most `DECADES` wide.

    Far beyond the loss of guessing a rise says no more than that the network is broken, so it must not set the scale.
    """
    known = [rise for rise in rises if np.isfinite(rise) and rise > 0]
    if not known:
        return 0.1, 1.0
    low, high = np.quantile(known, [0.05, 0.95]).tolist()
    low = max(low, high / 10**DECADES)
    return (low, high) if high > 1.01 * low else (low / 2, high * 2)


def kind_of(decision: str) -> str:
    """ "ratio" of "ratio/layer1.conv1"."""
    return decision.split("/", maxsplit=1)[0]


def setting_text(kind: str, setting: float) -> str:
    """A setting as it stands over a column: "30 %" of a share, "4" bits, "float"."""
    if kind in SHARES:
        return f"{100 * setting:.3g} %"
    return "float" if kind.endswith("_bits") and setting == FLOAT else f"{setting:g}"


def _map(findings: Findings, found: Effects, kind: str, high: float) -> EffectMap:
    effects = [effect for effect in found.effects if kind_of(effect.decision) == kind]
    settings = sorted({effect.setting for effect in effects}, reverse=kind.endswith("_bits"))
    cells = {(effect.decision, effect.setting): effect for effect in effects}
    decisions = _ordered(findings, kind, list(dict.fromkeys(effect.decision for effect in effects)))
    harm = {one: _harm([effect for effect in effects if effect.decision == one], found.loss, high) for one in decisions}
    kept = set(sorted(decisions, key=lambda one: -harm[one])[:MOST])
    rows = [[cells.get((one, setting)) for setting in settings] for one in decisions if one in kept]
    return EffectMap(
        title=TITLES.get(kind, label(kind)), rows=tuple(_name(one) for one in decisions if one in kept),
        columns=tuple(setting_text(kind, setting) for setting in settings),
        rises=tuple(tuple(cell.loss - found.loss if cell else None for cell in row) for row in rows),
        filled=tuple(tuple(cell is not None and not cell.measured for cell in row) for row in rows),
        texts=tuple(tuple(_text(findings, cell) for cell in row) for row in rows),
        hover=tuple(tuple(_hover(findings, found, cell) for cell in row) for row in rows),
        numbers=len(settings) <= WIDEST,
        left_out=len(decisions) - len(rows),
    )  # fmt: skip


def _ordered(findings: Findings, kind: str, decisions: list[str]) -> list[str]:
    """In the order of the model; a decision for several layers stands at the first of them, one for all comes first."""
    inventory = findings.inventory
    names = [one.name for one in (inventory.groups if kind == "ratio" else inventory.weighted)]
    places = {name: at for at, name in enumerate(names)}

    def place(decision: str) -> int:
        if "/" not in decision:
            return -1
        name = _name(decision)
        matched = (at for at, one in enumerate(names) if fnmatchcase(one, name))
        return places[name] if name in places else next(matched, len(names))

    return sorted(decisions, key=place)


def _harm(effects: Sequence[Effect], base: float, high: float) -> float:
    """The mean rise of the loss, each at most what the colours show."""
    rises = np.nan_to_num([effect.loss - base for effect in effects], nan=high, posinf=high)
    return float(np.clip(rises, 0.0, high).mean())


def _name(decision: str) -> str:
    return decision.split("/", maxsplit=1)[1] if "/" in decision else "all"


def _text(findings: Findings, cell: Effect | None) -> str:
    """The quality with few digits; a share without its sign, which the title says."""
    if cell is None:
        return ""
    unit = findings.objectives[0].unit
    said = f"{100 * cell.error:.1f}" if unit == "share" else human(cell.error, unit)
    return said if cell.measured else f"~{said}"


def _hover(findings: Findings, found: Effects, cell: Effect | None) -> str:
    if cell is None:
        return ""
    quality, kind = findings.objectives[0], kind_of(cell.decision)
    error = f"{label(quality.name)} {human(cell.error, quality.unit)}"
    where = f"{_name(cell.decision)}, {TITLES.get(kind, label(kind)).lower()} {setting_text(kind, cell.setting)}"
    between = "" if cell.measured else " (filled in between measured neighbours)"
    return f"{where}: loss {cell.loss - found.loss:+.3g}, {error}{between}"


def _sides(pair: Pair) -> tuple[str, str]:
    one, other = (
        f"{_name(decision)}, {TITLES.get(kind_of(decision), label(kind_of(decision))).lower()} "
        f"{setting_text(kind_of(decision), setting)}"
        for decision, setting in zip(pair.decisions, pair.settings, strict=True)
    )
    return one, other
