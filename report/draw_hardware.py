"""Draws what the hardware pays: costs point by point, one point layer by layer, partitions, and what is left out."""

from collections.abc import Sequence
from math import ceil

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from paretune.costs.partition import Split
from paretune.costs.table import COSTS
from paretune.findings import Findings
from paretune.report.canvas import layout
from paretune.report.hardware import SHOWN, HardwareInfo, Point, hardware_info, machine
from paretune.report.hardware_layers import LayerRow, LayersInfo, passes, step_text, thinned
from paretune.report.hover import markup
from paretune.report.markup import Cell, chart, details, heading, paragraph, section, table, words
from paretune.report.style import BLUE, LINES, ORANGE, RED
from paretune.report.text import human, times

LIGHT = "#cfd8e3"  # the dense network, behind the bars that count
PITCH, LETTER, TALLEST = 24, 13, 1200  # pixels: from bar to bar, per label at least, of all bars before they shrink
SHORT, NAMED = 12, 4  # partitioned layers before their table is folded; layers that a sentence names
LISTED = 16  # what one cost leaves out, before it is only counted

MODELLED = (
    "Modelled, not measured: parameters, bytes and operations are counted in the plans, everything else follows from a "
    "model of the hardware by arithmetic, and nothing was run on such a device."
)

SHARED = (
    "A layer is laid along the array in whole passes: its cycles fall only where passes do, or where each gets shorter."
)
OWN = (
    "Every layer has an engine folded to the target, so one that shrinks takes less of the FPGA rather than less time."
)

Pair = tuple[float, float]


def hardware(findings: Findings) -> str:
    """The section; nothing for a study that does not say what it was counted for."""
    info = hardware_info(findings)
    if info is None:
        return ""
    parts = [paragraph(machine(info.hardware)), paragraph(f"{MODELLED} {info.hardware.note}".strip(), "quiet")]
    parts += [costs_table(info), *(paragraph(text, "quiet") for text in info.caveats), _definitions(info)]
    if info.layers:
        parts.append(_layers(info.layers))
    if info.splits:
        parts += [heading("Several accelerators next to one"), paragraph(SPLIT_NOTE, "quiet")]
    parts += [_partition(point, splits) for point, splits in info.splits]
    return section("What the hardware pays", *parts, _left_out(info))


def costs_table(info: HardwareInfo) -> str:
    """Costs down, points across."""
    header = [words("for one sample"), *(words(point.title) for point in info.points)]
    rows = [[words("picked as"), *(words(point.names) for point in info.points)]] if info.points[1:] else []
    for cost in info.costs:
        told = [Cell(text=text.replace(" ", "\xa0"), aside=aside, number=False)  # value and prefix stay together
                for text, aside in zip(cost.values, cost.beside, strict=True)]  # fmt: skip
        rows.append([Cell(text=SHOWN[cost.name], aside=cost.note, number=False), *told])
    return table(header, rows)


def layers_figure(info: LayersInfo) -> go.Figure:
    """Panels over the same layers: cycles, utilisation, activations in memory; dense behind, compressed before."""
    panels = 3 if info.watched else 2
    figure = make_subplots(cols=panels, shared_yaxes=True, horizontal_spacing=0.045,
                           column_widths=[0.42, 0.22, 0.36][:panels])  # fmt: skip
    for column, one in enumerate(_panels(info)[:panels], 1):
        figure.add_traces(one, rows=1, cols=column)
    pitch = max(7.0, min(PITCH, TALLEST / max(1, len(info.rows))))
    figure.update_layout(layout(height=round(130 + pitch * len(info.rows))), barmode="overlay", bargap=0.15,
                         hovermode="y unified", margin={"l": 40, "r": 20, "t": 104, "b": 16},
                         legend_yref="container", legend_y=0.995, legend_yanchor="top")  # fmt: skip
    _scales(figure, info, panels, every=ceil(LETTER / pitch))
    return figure


def _panels(info: LayersInfo) -> list[list[go.Bar]]:
    smooth = [row for row in info.rows if not row.step]
    steps = [row for row in info.rows if row.step]
    cycles = [_bars(info.rows, "dense", 0, "cycles", legend=True)]
    cycles.append(_bars(smooth, info.title, 1, "cycles", legend=True))
    if steps:
        cycles.append(_bars(steps, "smaller, yet as many passes", 1, "cycles", legend=True, colour=ORANGE))
    used = [_bars(info.rows, name, side, "utilisation") for side, name in enumerate(("dense", info.title))]
    alive = [_bars(info.rows, name, side, "alive") for side, name in enumerate(("dense", info.title))]
    return [cycles, used, alive]


# What the mouse tells of a bar, by the field that it shows.
TOLD = {
    "cycles": "%{x:,} cycles: %{customdata}<extra></extra>",
    "utilisation": "%{x:.1%} of the array at work<extra></extra>",
    "alive": "%{x:,} bytes<extra></extra>",
}


def _bars(
    rows: Sequence[LayerRow], name: str, side: int, field: str, *, legend: bool = False, colour: str = ""
) -> go.Bar:
    """The bars of the dense network (`side` 0), or narrower ones of the point before them."""
    pairs: list[Pair] = [getattr(row, field) for row in rows]
    about = [
        f"{row.channels[side]:,} channels, {passes(row.passes[side])}, {row.utilisation[side]:.1%} of the array at work"
        for row in rows
    ]
    return go.Bar(
        x=[pair[side] for pair in pairs], y=[markup([row.name]) for row in rows], orientation="h", name=name,
        width=0.42 if side else 0.84, marker={"color": (colour or BLUE) if side else LIGHT, "line": {"width": 0}},
        legendgroup="point" if side else "dense", showlegend=legend,
        customdata=about if field == "cycles" else None, hovertemplate=f"{name}: {TOLD[field]}",
    )  # fmt: skip


def _scales(figure: go.Figure, info: LayersInfo, panels: int, every: int) -> None:
    names = [row.name for row in info.rows]
    labels = thinned(names, every)
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=[markup([name]) for name in names], autorange="reversed",
        tickvals=[markup([name]) for name, _ in labels], ticktext=[markup([text]) for _, text in labels],
        tickfont={"size": 11}, automargin=True,
    )  # fmt: skip
    buffer = f"buffer {human(info.buffer, 'bytes')}"
    beyond = "" if info.fits_scale else f"<br>({buffer}: beyond this scale)"
    for column, title in enumerate(["cycles", "utilisation", f"activations in memory, bytes{beyond}"][:panels], 1):
        figure.update_xaxes(title={"text": title, "standoff": 6}, side="top", rangemode="tozero", nticks=5, col=column,
                            **LINES)  # fmt: skip
    figure.update_xaxes(range=[0, 1], tickformat=".0%", col=2)
    if info.watched and info.fits_scale:
        figure.add_vline(info.buffer, col=3, line={"color": RED, "width": 1.3, "dash": "dash"}, annotation_text=buffer,
                         annotation_position="bottom right", annotation_font={"size": 11, "color": "#555"})  # fmt: skip


def _layers(info: LayersInfo) -> str:
    note = f"Bars behind are the dense network. {OWN if info.own_engines else SHARED}"
    stuck = [row for row in info.rows if row.step]
    if stuck:
        more = f" and {len(stuck) - NAMED} more" if len(stuck) > NAMED else ""
        note += f" Smaller, and yet as many passes as before: {', '.join(map(step_text, stuck[:NAMED]))}{more}."
    figure = chart(layers_figure(info), "hardware", min_width=720)
    return heading(f"Layer by layer: {info.title}, {info.names}") + paragraph(note, "quiet") + figure


def _definitions(info: HardwareInfo) -> str:
    lines = []
    for cost in info.costs:
        known = COSTS[cost.name]
        lines.append(paragraph(f"{SHOWN[cost.name]}: {known.objective.definition}. Source: {known.source}.", "quiet"))
    tables = (info.hardware.energy, info.hardware.relative_energy)
    lines += [paragraph(f"table {one.name}, in {one.unit}: {one.source}.", "quiet") for one in tables]
    return details("How each is counted, and after whom", *lines, shown=False)


SPLIT_HEADER = (
    words("layer"), Cell(text="parts"), Cell(text="accelerators"), Cell(text="dense"), Cell(text="blocks"),
    Cell(text="side by side"), Cell(text="pruning"), Cell(text="parallelism"), Cell(text="together"),
    Cell(text="energy"),
)  # fmt: skip
SPLIT_NOTE = (
    "Cycles of the partitioned layers: dense on one accelerator, their blocks one after the other on one, and side by "
    "side on several. Pruning is how many times faster the second is than the first, parallelism the third than the "
    "second, energy how many times less the blocks take, on one as on several. Sending inputs round and fetching "
    "outputs is left out."
)


def _partition(point: Point, splits: Sequence[Split]) -> str:
    """What pruning gives and what parallelism gives, apart; the last line is of all partitioned layers."""
    rows = [[words(one.name), Cell(text=str(one.parts)), Cell(text=str(one.accelerators)), *_gains([one])]
            for one in splits]  # fmt: skip
    total = [words("all of them", span=3), *_gains(splits)]
    title = f"{point.title}: {point.names}"
    return details(title, table(SPLIT_HEADER, [*rows, total]), shown=len(splits) <= SHORT)


def _gains(splits: Sequence[Split]) -> list[Cell]:
    """Cycles three ways and the factors between them, of these layers one after the other."""
    dense, serial = sum(one.dense_cycles for one in splits), sum(one.serial_cycles for one in splits)
    parallel = sum(one.parallel_cycles for one in splits)
    energy = sum(one.dense_energy for one in splits) / sum(one.blocks_energy for one in splits)
    cycles = [Cell(text=f"{number:,}") for number in (dense, serial, parallel)]
    gains = [Cell(text=times(ratio)) for ratio in (dense / serial, serial / parallel, dense / parallel)]
    return [*cycles, *gains, Cell(text=times(energy))]


def _left_out(info: HardwareInfo) -> str:
    """What is not counted; a list that begins as another one does not repeat it."""
    lines = []
    for at, (names, missing) in enumerate(info.uncounted):
        begun = [other for other in info.uncounted[:at] if missing[: len(other[1])] == other[1]]
        costs, known = max(begun, key=lambda other: len(other[1]), default=((), ()))
        texts = [f"as for {SHOWN[name]}" for name in costs[:1]] + list(missing[len(known) :])
        more = len(texts) - LISTED
        texts = [*texts[:LISTED], f"and {more} more"] if more > 0 else texts
        lines.append(paragraph(f"{', '.join(SHOWN[name] for name in names)}: {'; '.join(texts)}.", "quiet"))
    return heading("Not counted") + "".join(lines) if lines else ""
