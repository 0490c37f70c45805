"""The sections of the page, each from findings to HTML."""

import shlex
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from paretune.findings import Confirmation, Findings
from paretune.report import draw
from paretune.report.choices import choices_info
from paretune.report.failures import failures
from paretune.report.fronts import front_infos
from paretune.report.layers import HeatInfo, bits_info, kept_info
from paretune.report.markup import Cell, chart, code, heading, paragraph, section, table, words
from paretune.report.picks import Pick, dense_pick, picks
from paretune.report.progress import progress_info
from paretune.report.stages import stages_info
from paretune.report.text import change, count, duration, human, label


def summary(findings: Findings) -> str:
    """The points worth naming, side by side."""
    names = [Cell(text=label(objective.name)) for objective in findings.objectives]
    header = [words("point"), *names, Cell(text="trial")]
    rows = [_summary_row(findings, pick) for pick in picks(findings)]
    return section("Points worth naming", table(header, rows), _confirmations(findings))


def fronts(findings: Findings) -> str:
    """One Pareto chart per pair of objectives."""
    if not findings.candidates:
        return section("Pareto front", paragraph("No trial has finished within the budget yet."))
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
    infos = [info for info in (kept_info(findings), bits_info(findings)) if info.rows]
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
    title = "Failed and over budget"
    if not rows:
        return section(title, paragraph("None: no trial failed, and none was stopped for its budget."))
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
    return section("Where the time went", paragraph(note), chart(draw.stages_figure(info), "stages"))


def commands(findings: Findings) -> str:
    """What to type to get the same study, and to take a point along."""
    typed = str(findings.provenance.get("command", ""))
    # A study started from Python has no command to repeat, only its name.
    study = typed if typed.startswith("paretune ") else f"paretune study study.name={shlex.quote(findings.name)}"
    folder = shlex.quote(findings.folder)
    return section(
        "Do it again, take it along",
        paragraph("The same study; run in the same folder it goes on where it stopped:"),
        code(study),
        paragraph("The knee point as a folder of packed weights, ONNX and plan, and its score in a fresh process:"),
        code(f"paretune export {folder} --pick knee --out model/\nparetune verify model/"),
    )


def provenance(findings: Findings) -> str:
    """Where the numbers come from."""
    rows = flat(findings.provenance)
    if not rows:
        return section("Provenance", paragraph("None was recorded."))
    body = [[words(name), words(text, long=True)] for name, text in rows]
    return section("Provenance", table([words("what"), words("value")], body))


def flat(record: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as rows: ("versions.torch", "2.13.0"). Lists of plain values stay on one row."""
    if isinstance(record, Mapping):
        return [row for key, value in record.items() for row in flat(value, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(record, (list, tuple)):
        if any(isinstance(item, (Mapping, list, tuple)) for item in record):
            return [row for index, item in enumerate(record) for row in flat(item, f"{prefix}.{index}")]
        return [(prefix, ", ".join(map(str, record)))]
    return [(prefix, str(record))]


def _summary_row(findings: Findings, pick: Pick) -> list[Cell]:
    trial, dense = pick.trial, dense_pick(findings).trial
    if trial is None:
        return [words(pick.name), words(pick.note, long=True, span=len(findings.objectives) + 1)]
    cells = []
    for objective in findings.objectives:
        value = trial.values[objective.name]
        apart = "" if dense in (None, trial) else change(dense.values[objective.name], value, objective.unit)
        cells.append(Cell(text=human(value, objective.unit), aside=apart))
    return [words(pick.name), *cells, Cell(text=str(trial.number))]


def _confirmations(findings: Findings) -> str:
    if not findings.confirmations:
        return paragraph("Not confirmed on the test split yet; every quality above was seen by the search.", "quiet")
    unit = findings.objectives[0].unit
    header = [words("picked as"), Cell(text="trial"), words("weights"), Cell(text="size"), Cell(text="found (val)"),
              Cell(text="replayed (val)"), Cell(text="confirmed (test)"), words("seeds")]  # fmt: skip
    rows = [_confirmation(row, unit) for row in findings.confirmations]
    note = "The test split was touched only here, after the choice. Mean ± standard deviation where there are seeds."
    title = f"Found and confirmed: {label(findings.objectives[0].name)}"
    return heading(title) + table(header, rows) + paragraph(note, "quiet")


def _confirmation(row: Confirmation, unit: str) -> list[Cell]:
    how = "as kept" if row.recover == "kept" else "fully recovered"
    return [
        words(row.picked_by), Cell(text=str(row.trial)), words(how), Cell(text=human(row.size_bytes, "bytes")),
        Cell(text=spread((row.found,), unit)), Cell(text=spread(row.validated, unit)),
        Cell(text=spread(row.confirmed, unit)), words(", ".join(map(str, row.seeds))),
    ]  # fmt: skip


def spread(values: Sequence[float], unit: str) -> str:
    """The mean, and ± the sample standard deviation if there are several: "2.20 ± 0.10 %"."""
    if not values:
        return "–"
    middle, apart = mean(values), stdev(values) if len(values) > 1 else 0.0
    if unit != "share":
        return human(middle, unit) + (f" ± {human(apart, unit)}" if len(values) > 1 else "")
    return f"{100 * middle:.2f}" + (f" ± {100 * apart:.2f} %" if len(values) > 1 else " %")


def _heat(info: HeatInfo, name: str) -> str:
    title = info.title
    if info.left_out:
        title += f" (every point cannot be shown: {info.left_out} of the front left out, evenly)"
    return heading(title) + chart(draw.heat_figure(info), name, min_width=140 + 34 * len(info.columns))
