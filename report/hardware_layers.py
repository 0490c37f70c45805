"""Decides what the chart of one point next to the dense network shows, layer by layer on a piece of hardware."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paretune.costs.bill import work_of
from paretune.costs.hardware import Hardware
from paretune.profile import Profile, Row

NEAR = 1.5  # a buffer that is more than this times the largest bar would squeeze the bars
LONGEST = 32  # characters of a name beside the axis


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer that multiplies, each number as (dense, compressed).

    `inner` are the weights of one channel, `alive` the most bytes of activations in memory while the layer, and what
    follows it up to the next one, runs. `step` is True if less is laid along the array, and yet in as many passes.
    """

    name: str
    channels: tuple[int, int]
    inner: tuple[int, int]
    cycles: tuple[int, int]
    passes: tuple[int, int]
    utilisation: tuple[float, float]
    alive: tuple[int, int]
    step: bool


@dataclass(frozen=True, kw_only=True)
class LayersInfo:
    """One point next to the dense network, layer by layer in order of execution.

    `watched` is False if nothing is known of activations. `buffer` is the hardware's in bytes; `fits_scale` says
    whether its line can be drawn beside the bars. With `own_engines` every layer has one that is folded to a target.
    """

    title: str
    names: str
    rows: tuple[LayerRow, ...]
    watched: bool
    buffer: int
    fits_scale: bool
    own_engines: bool


def layers_info(
    dense: Profile, found: Profile, hardware: Hardware, *, title: str, names: str, watched: bool
) -> LayersInfo:
    """The rows that multiply, of two profiles of one network."""
    alive = _alive(dense), _alive(found)
    rows = tuple(
        _layer(before, after, (alive[0][before.name], alive[1][before.name]), hardware)
        for before, after in zip(dense, found, strict=True)
        if before.macs
    )
    most = max((max(row.alive) for row in rows), default=0)
    return LayersInfo(
        title=title, names=names, rows=rows, watched=watched, buffer=hardware.buffer_bytes,
        fits_scale=hardware.buffer_bytes <= NEAR * most, own_engines=hardware.target_cycles is not None,
    )  # fmt: skip


def step_text(row: LayerRow) -> str:
    """What a layer lost without saving a pass: "conv1 (17 of 32 channels, 2 passes)"."""
    fewer = row.channels[1] < row.channels[0]
    (was, left), what = (row.channels, "channels") if fewer else (row.inner, "weights per channel")
    return f"{row.name} ({left:,} of {was:,} {what}, {passes(row.passes[1])})"


def passes(number: int) -> str:
    """ "1 pass", "2 passes" """
    return f"{number:,} pass{'' if number == 1 else 'es'}"


def thinned(names: Sequence[str], every: int) -> list[tuple[str, str]]:
    """Every so many-th name, and what stands for it beside the axis: of a long one its end."""
    return [(name, name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}") for name in names[::every]]


def _alive(rows: Profile) -> Mapping[str, int]:
    """Peaks by layer that multiplies; what others hold belongs to the one before them."""
    found: dict[str, int] = {}
    at = next((row.name for row in rows if row.dense_macs), "")
    for row in rows:
        at = row.name if row.dense_macs else at
        found[at] = max(found.get(at, 0), row.alive_bytes)
    return found


def _layer(before: Row, after: Row, alive: tuple[int, int], hardware: Hardware) -> LayerRow:
    dense, now = work_of(before, hardware), work_of(after, hardware)
    smaller = any(new < old for new, old in zip(_laid(after, hardware), _laid(before, hardware), strict=True))
    return LayerRow(
        name=before.name, channels=(before.channels, after.channels), inner=(before.inner, after.inner),
        cycles=(dense.cycles, now.cycles), passes=(dense.passes, now.passes),
        utilisation=(dense.utilisation, now.utilisation), alive=alive,
        # an engine of its own shrinks with its layer: passes up to the target cost nothing there
        step=smaller and now.passes >= dense.passes and hardware.target_cycles is None,
    )  # fmt: skip


def _laid(row: Row, hardware: Hardware) -> tuple[int, ...]:
    """What of a layer's size is laid along the array or engine and so counts in whole steps, not one by one."""
    if hardware.engine == "systolic" and hardware.dataflow != "weight":
        return (row.channels,) if hardware.dataflow == "output" else (row.inner,)
    return (row.channels, row.inner)
