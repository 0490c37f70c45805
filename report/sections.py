"""The sections of the page that show what was found, each from findings to HTML."""

from paretune.findings import Findings
from paretune.report import draw
from paretune.report import rival as rivals
from paretune.report.beside import beside_info
from paretune.report.choices import choices_info
from paretune.report.confirmed import confirmations
from paretune.report.draw_beside import beside_figure
from paretune.report.failures import failures
from paretune.report.fronts import front_infos
from paretune.report.layers import HeatInfo, activations_info, bits_info, kept_info, stored_bits_info, weights_info
from paretune.report.markup import Cell, chart, heading, paragraph, section, table, words
from paretune.report.picks import Pick, dense_pick, limit_text, picks
from paretune.report.progress import progress_info
from paretune.report.stages import stages_info
from paretune.report.text import change, count, duration, finished, human, label

HEATS = (kept_info, bits_info, activations_info, weights_info, stored_bits_info)


def summary(findings: Findings) -> str:
    """The points worth naming, side by side."""
    names = [Cell(text=label(objective.name)) for objective in findings.objectives]
    header = [words("point"), *names, Cell(text="trial")]
    rows = [_summary_row(findings, pick) for pick in picks(findings)]
    return section("Points worth naming", table(header, rows), confirmations(findings))


def fronts(findings: Findings) -> str:
    """One Pareto chart per pair of objectives."""
    if not findings.candidates:
        return section("Pareto front", paragraph(f"No trial has {finished(findings)} yet."))
    note = (
        "Lower left is better. Hover over a point for its plan, drag to zoom in, double-click to zoom out, "
        "click on the legend to hide a kind of point."
    )
    charts = [
        heading(info.title) + chart(draw.front_figure(info), f"front-{number}", min_width=340)
        for number, info in enumerate(front_infos(findings))
    ]
    definitions = "; ".join(f"{label(o.name)}: {o.definition}" for o in findings.objectives if o.definition)
    return section("Pareto front", paragraph(note, "quiet"), *charts, paragraph(f"{definitions}.", "quiet"))


def beside(findings: Findings) -> str:
    """Both searches, if another one ran beside the study: verdict, fronts, numbers."""
    found = rivals.contest(findings)
    if found is None:
        return ""
    note = "Searched trials alone, without controls and finishes; both under the same objectives and reference"
    limits = " and ".join(limit_text(findings, name, limit) for name, limit in findings.budget.items())
    note += f", and both within {limits}." if limits else "."
    note += " In the chart a triangle is a finish, and faint points are dominated."
    parts = [paragraph(rivals.beside(findings)), paragraph(note, "quiet")]
    if found.this.searched or found.rival.searched:
        parts.append(chart(beside_figure(beside_info(findings, found)), "beside", min_width=340))
    quality = label(findings.names[0])
    header = [words("search"), Cell(text=f"best {quality}"), Cell(text="hypervolume"), Cell(text="trials"),
              Cell(text="of them evaluated"), Cell(text=f"{quality} after further training")]  # fmt: skip
    rows = [_side_row(findings, side) for side in (found.this, found.rival)]
    return section(f"Beside {found.rival.name}", *parts, table(header, rows))


def progress(findings: Findings) -> str:
    """Hypervolume over trials."""
    if not findings.candidates:
        return ""
    note = (
        "The share that the front covers of the box between a perfect model (no error, no cost) and the reference "
        "(worst quality, the dense model's costs)."
    )
    return section(
        "Hypervolume over trials",
        paragraph(note, "quiet"),
        chart(draw.progress_figure(progress_info(findings)), "hypervolume"),
    )


def layers(findings: Findings) -> str:
    """What the front members do to every group and layer."""
    if not any(trial.plan for trial in findings.front):
        return ""
    infos = [info for info in (decide(findings) for decide in HEATS) if info.rows]
    parts = [_heat(info, f"layers-{number}") for number, info in enumerate(infos)]
    return section("Layers of the front", paragraph("Darker keeps more.", "quiet"), *parts)


def choices(findings: Findings) -> str:
    """Parallel coordinates of what the sampler chose."""
    info = choices_info(findings)
    title = "Choices and quality"
    if not info.dimensions:
        return section(title, paragraph("No searched choice varied among the finished trials."))
    shown = len(info.dimensions) - 1
    note = f"Every line is a finished searched trial, coloured by {info.title}; drag along an axis to filter."
    if info.left_out:
        note += (
            f" {shown} of the {shown + info.left_out} choices that varied are shown: those whose rank goes with "
            f"{info.title} most closely."
        )
    figure = chart(draw.choices_figure(info), "choices", min_width=120 + 70 * shown)
    return section(title, paragraph(note, "quiet"), figure)


def failed(findings: Findings) -> str:
    """Trials that came to nothing, by reason."""
    rows = failures(findings)
    title = "Failed and over budget" if findings.budget else "Failed"
    if not rows:
        stopped = ", and none was stopped for its budget" if findings.budget else ""
        return section(title, paragraph(f"None: no trial failed{stopped}."))
    header = [words("status"), words("reason (of the first)"), Cell(text="trials"), Cell(text="first")]
    body = [
        [words(row.status), words(row.reason, long=True), Cell(text=str(row.count)),
         Cell(text=", ".join(map(str, row.first)) + (", …" if row.count > len(row.first) else ""))]
        for row in rows
    ]  # fmt: skip
    return section(title, table(header, body))


def time(findings: Findings) -> str:
    """Where the time went."""
    info = stages_info(findings)
    total = f"{duration(info.total_seconds)} in {count(len(findings.trials), 'trial')}, all stages added up."
    if not info.stages:
        return section("Where the time went", paragraph(total))
    note = f"{total} The bar is the median of {count(info.trials, 'finished trial')}, stage by stage."
    if any(trial.kind == "finish" for trial in findings.trials):
        note += " Finishes, which train longer, are not in it."
    return section("Where the time went", paragraph(note), chart(draw.stages_figure(info), "stages"))


def _summary_row(findings: Findings, pick: Pick) -> list[Cell]:
    trial, dense = pick.trial, dense_pick(findings).trial
    if trial is None:
        return [words(pick.name), words(pick.note, long=True, span=len(findings.objectives) + 1)]
    cells = []
    for objective in findings.objectives:
        value = trial.values[objective.name]
        apart = "" if dense in (None, trial) else change(dense.values[objective.name], value, objective.unit)
        cells.append(Cell(text=human(value, objective.unit), aside=apart))
    further = trial.label if trial.kind == "finish" else ""
    return [words(pick.name), *cells, Cell(text=str(trial.number), aside=further)]


def _side_row(findings: Findings, side: rivals.Side) -> list[Cell]:
    """The best trial and the finish are named under their quality."""
    best = Cell(text="–") if side.best is None else Cell(
        text=rivals.quality_text(findings, side.best), aside=f"trial {side.best.number}")  # fmt: skip
    finish = Cell(text="–") if side.finish is None else Cell(
        text=rivals.quality_text(findings, side.finish), aside=side.finish.label)  # fmt: skip
    counts = [Cell(text=str(number)) for number in (side.asked, side.evaluated)]
    return [words(side.name), best, Cell(text=f"{side.hypervolume:.4f}"), *counts, finish]


def _heat(info: HeatInfo, name: str) -> str:
    title = info.title
    if info.left_out:
        title += f" (every point cannot be shown: {info.left_out} of the front left out, evenly)"
    return heading(title) + chart(draw.heat_figure(info), name, min_width=140 + 34 * len(info.columns))
