"""The sections of the page that show what was found, each from findings to HTML."""

from paretune.findings import Findings, Objective, Trial
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
from paretune.report.stages import measured_seconds, stages_info
from paretune.report.text import change, count, duration, finished, human, label, spread

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
    note += _undrawn(findings)
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
    seeds = any(trial.kind == "seed" for side in (found.this, found.rival) for trial in side.findings.trials)
    note = "Seeds count as searched: they are how a search begins. " if seeds else ""
    note += "Searched trials alone, without controls and finishes; both under the same objectives and reference"
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
    """Hypervolume over trials and over time."""
    if not findings.candidates:
        return ""
    info = progress_info(findings)
    note = (
        "The share that the front covers of the box between a perfect model (no error, no cost) and the reference "
        "(worst quality, the dense model's costs)."
    )
    if "stopped" in info.marks:
        note += " A red tick is a trial that was stopped early."
    if any(trial.kind == "repeat" for trial in findings.trials):
        note += " Re-evaluations add no points, so the curve is flat where they ran."
    charts = [
        heading(title) + chart(draw.progress_figure(info, over_time=over_time), name)
        for title, name, over_time in (
            ("Over trials", "hypervolume", False), ("Over time", "hypervolume-time", True),
        )
    ]  # fmt: skip
    clock = "The seconds of every stage of every trial, added up one after the other; not the clock on the wall."
    if info.measured > 0:
        clock += f" Measuring what the study needed first took {duration(info.measured)} and counts"
        clock += " before the first seed." if "seed" in info.marks else " from the start."
    return section("Hypervolume", paragraph(note, "quiet"), *charts, paragraph(clock, "quiet"))


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
        over = ", and none was over the budget" if findings.budget else ""
        return section(title, paragraph(f"None: no trial failed{over}."))
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
    before = measured_seconds(findings)
    total += f" What was measured for them took another {duration(before)}." if before > 0 else ""
    if not info.stages:
        return section("Where the time went", paragraph(total))
    note = f"{total} The bar is the median of {count(info.trials, 'finished trial')}, stage by stage"
    note += f"; the other that of {count(info.stopped, 'stopped trial')}." if info.stopped else "."
    apart = {"finish": "Finishes, which train longer,", "repeat": "Re-evaluations"}
    kinds = {trial.kind for trial in findings.trials}
    note += "".join(f" {who} are not in it." for kind, who in apart.items() if kind in kinds)
    return section("Where the time went", paragraph(note), chart(draw.stages_figure(info), "stages"))


def _summary_row(findings: Findings, pick: Pick) -> list[Cell]:
    trial = pick.trial
    if trial is None:
        return [words(pick.name), words(pick.note, long=True, span=len(findings.objectives) + 1)]
    cells = [_value_cell(findings, trial, objective) for objective in findings.objectives]
    further = trial.label if trial.kind == "finish" else ""
    return [words(pick.name), *cells, Cell(text=str(trial.number), aside=further)]


def _value_cell(findings: Findings, trial: Trial, objective: Objective) -> Cell:
    """A value, the mean over seeds where there are several; under it what became of the dense model's."""
    dense, asides = dense_pick(findings).trial, []
    if dense not in (None, trial):
        before, after = (findings.settled(one).values[objective.name] for one in (dense, trial))
        asides.append(change(before, after, objective.unit))
    scores = findings.scores(trial) if objective is findings.objectives[0] else (trial.values[objective.name],)
    asides += [f"mean ± standard deviation of {len(scores)} random seeds"] if len(scores) > 1 else []
    text = spread(scores, objective.unit) if len(scores) > 1 else human(scores[0], objective.unit)
    return Cell(text=text, aside=", ".join(asides))


def _undrawn(findings: Findings) -> str:
    """What the charts leave out or show beside the points; "" in a study without seeds, rungs and re-evaluations."""
    said = ["Controls are the dense network and uniform settings."]
    if any(trial.kind == "seed" for trial in findings.trials):
        said.append("Seeds are the plans that single effects (see Sensitivities) promise to lie along the front.")
    if any(trial.kind == "seed" for trial in findings.front):
        said.append("A square with a dark edge is a seed on the front.")
    if any(trial.status == "stopped" for trial in findings.trials):
        said.append("Trials stopped early have no last score and are not drawn.")
    if any(len(findings.scores(trial)) > 1 for trial in findings.front):
        said.append(
            "Points lie at their first score, a dash at the mean over several random seeds; knee and other picks go by "
            "the mean."
        )
    return "".join(f" {one}" for one in said)


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
