"""The sections of the page that show what rules and joint training measured and decided, each from findings to HTML."""

from collections.abc import Sequence

from paretune.curve import Knee
from paretune.findings import Findings, Trial
from paretune.report.curves import CurvesInfo, curves_info
from paretune.report.draw_curves import curves_figure
from paretune.report.markup import Cell, chart, heading, paragraph, section, table, words
from paretune.report.rungs import rungs_info
from paretune.report.text import count, human, label, scored

ROWS = 6  # of small charts; more of them scroll in a box
NOTES = 8  # of one trial; the rest is in front.csv
TOLD = 12  # numbers of trials in a sentence
KNEES = 20  # rows of the table under the curves


def curves(findings: Findings) -> str:
    """The sensitivity curves with their knees; nothing if no rule measured any."""
    if not findings.curves:
        return ""
    info = curves_info(findings)
    tall = len(info.panels) > ROWS * info.columns
    figure = chart(curves_figure(info), "curves", min_width=100 + 190 * info.columns, tall=tall)
    parts = [paragraph(_measured(info), "quiet"), paragraph(_marks(info), "quiet") if findings.knees else "", figure]
    return section("Sensitivity curves", *parts, _noted([knee for knee in findings.knees if knee.note]))


def alike(findings: Findings) -> str:
    """How alike the criteria of a blend rank; nothing without a blend."""
    found = findings.alike
    if found is None:
        return ""
    header = [words("criterion"), *(Cell(text=name) for name in found.criteria)]
    rows = [
        [words(name), *(Cell(text=f"{value:.2f}") for value in row)]
        for name, row in zip(found.criteria, found.correlations, strict=True)
    ]
    note = (
        "Rank correlation between criteria, mean over all groups: near 1 they would remove the same channels, near 0 "
        "they have nothing to do with each other. Criteria that rank alike share a cluster; a blend takes one of each."
    )
    return section("How alike the criteria rank", paragraph(note, "quiet"), table(header, rows))


def decided(findings: Findings) -> str:
    """What rules and joint training decided on their own for the front members; nothing if they had no say."""
    told = [trial for trial in findings.front if trial.notes]
    parts = [_joint(findings), _told(findings, told) if told else ""]
    return section("What rules decided", *parts) if any(parts) else ""


def rungs(findings: Findings) -> str:
    """What each rung came to and what stopping saved; nothing without rungs."""
    info = rungs_info(findings)
    if not info.rows:
        return ""
    header = [words("after"), Cell(text="reached"), Cell(text="judged"), Cell(text="stopped"),
              Cell(text="rank correlation with the last score"), words("state")]  # fmt: skip
    rows = [
        [words(row.after), Cell(text=str(row.reached)), Cell(text=str(row.judged)), Cell(text=str(row.stopped)),
         Cell(text=row.correlation, aside=row.compared), words(row.state)]
        for row in info.rows
    ]  # fmt: skip
    note = (
        "At a rung a trial goes on if it is among the better ones that came so far, among them the seeds, which are "
        "hard to keep up with; controls, seeds and every eighth searched trial always do. A rung judges only while its "
        "scores put trials into about the same order as their last ones; that is seen in those that went on whatever "
        "it said."
    )
    said = [paragraph(text) for text in (info.saved, *info.off)]
    return section("Rungs", paragraph(note, "quiet"), table(header, rows), *said)


def _joint(findings: Findings) -> str:
    """That the plans of some front members came out of a training, not out of a choice."""
    found = [trial for trial in findings.front if trial.plan and trial.plan.joint]
    if not found:
        return ""
    return paragraph(
        f"In {_numbers(found)} one training found channels and bits together (DJPQ). The page shows what it found; "
        "only the settings of that training were chosen.",
        "quiet",
    )


def _numbers(trials: Sequence[Trial]) -> str:
    """ "trials 3, 17, 20", the first `TOLD` of them."""
    numbers = ", ".join(str(trial.number) for trial in trials[:TOLD])
    more = len(trials) - TOLD
    return f"{'trial' if len(trials) == 1 else 'trials'} {numbers}" + (f" and {more} more" if more > 0 else "")


def _told(findings: Findings, told: Sequence[Trial]) -> str:
    quality = findings.objectives[0]
    header = [Cell(text="trial"), Cell(text=label(quality.name)), words("decided")]
    rows = [
        [Cell(text=str(trial.number)), Cell(text=scored(findings, trial)),
         words(_notes(trial), long=True)]
        for trial in told
    ]  # fmt: skip
    share = f"{len(told)} of the {count(len(findings.front), 'point')} of the front"
    note = f"What the rules behind {share} decided where a choice could not be carried out as it was."
    return paragraph(note, "quiet") + table(header, rows)


def _measured(info: CurvesInfo) -> str:
    ranked = f", channels ranked by {info.criteria[0]}" if len(info.criteria) == 1 else ""
    text = (
        f"How each curve was measured: channels of one group at a time cut from the trained model{ranked}, batch norm "
        f"recalibrated, no training, {info.y.title} on val. Dotted: guessing."
    )
    if info.left_out:
        whole = info.left_out + len(info.panels)
        text += f" {count(info.left_out, 'curve')} of {whole}, the least sensitive, left out."
    return text


def _marks(info: CurvesInfo) -> str:
    text = "Filled: the rate the knee rule uses at its default sensitivity."
    if info.moved:
        moved = count(info.moved, "curve")
        text += f" Hollow: the knee as Kneedle found it, where that was not the rate to use ({moved})."
    return text


def _noted(knees: Sequence[Knee]) -> str:
    """The knees that were not simply taken, with the reason."""
    if not knees:
        return ""
    header = [words("group"), Cell(text="Kneedle's knee"), Cell(text="used"), words("why")]
    rows = [
        [words(knee.group), Cell(text="none" if knee.found is None else human(knee.found, "share")),
         Cell(text=human(knee.ratio, "share")), words(knee.note, long=True)]
        for knee in knees[:KNEES]
    ]  # fmt: skip
    rest = len(knees) - len(rows)
    more = paragraph(f"And {rest} more; hover over a filled mark for the reason.", "quiet") if rest else ""
    return heading("Knees that were not taken as found") + table(header, rows) + more


def _notes(trial: Trial) -> str:
    shown, rest = trial.notes[:NOTES], len(trial.notes) - NOTES
    return "; ".join(shown) + (f"; … {rest} more in front.csv" if rest > 0 else "")
