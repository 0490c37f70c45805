"""The report: one HTML file that needs no network."""

from html import escape
from pathlib import Path

from plotly.offline import get_plotlyjs

from paretune.files import write_text
from paretune.findings import Findings
from paretune.report import origin, rules, sections, verdict
from paretune.report.draw_effects import effects
from paretune.report.draw_hardware import hardware
from paretune.report.draw_stored import stored
from paretune.report.markup import paragraph
from paretune.report.rival import beside
from paretune.report.style import CSS
from paretune.report.text import counted

SECTIONS = (
    sections.summary, sections.fronts, sections.beside, sections.progress, rules.rungs, effects, rules.curves,
    rules.alike, sections.layers, stored, hardware, rules.decided, sections.choices, sections.failed, sections.time,
    origin.commands, origin.provenance,
)  # fmt: skip


# On a touch screen a finger on a chart scrolls the page instead of zooming the chart.
TOUCH = """
if (matchMedia("(pointer: coarse)").matches)
  document.querySelectorAll(".plotly-graph-div").forEach(chart => Plotly.relayout(chart, {dragmode: false}));
"""


def write_page(findings: Findings, folder: Path) -> Path:
    """`report.html` in `folder`: about 5 MB, nearly all of it plotly.js, so that it opens anywhere."""
    return write_text(folder / "report.html", page(findings))


def page(findings: Findings) -> str:
    """The report as HTML; equal findings give equal text."""
    body = "".join(one(findings) for one in SECTIONS)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(findings.name)} – paretune</title>
<style>{CSS}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<main>
{_header(findings)}{body}</main>
<script>{TOUCH}</script>
</body>
</html>
"""


def _header(findings: Findings) -> str:
    return (
        f"<header>\n<h1>{escape(findings.name)}</h1>\n"
        + paragraph(verdict.found(findings), "verdict")
        + paragraph(verdict.added(findings))
        + (paragraph(beside(findings)) if findings.rival else "")
        + paragraph(counted(findings), "quiet")
        + "</header>\n"
    )
