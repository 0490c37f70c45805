"""Where the numbers come from and how to get them again, as HTML."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from paretune.findings import Findings
from paretune.report.markup import Cell, code, heading, paragraph, section, table, words
from paretune.report.text import label


def commands(findings: Findings) -> str:
    """What to type to get the same study, and to take a point along."""
    typed = str(findings.provenance.get("command", ""))
    again, ship = _python(findings.folder) if typed == "from Python" else _shell(typed, findings)
    return section(
        "Do it again, take it along",
        paragraph("The same study; run in the same folder it goes on where it stopped:"),
        again,
        paragraph("The knee point as a folder of packed weights, ONNX and plan, and its score in a fresh process:"),
        ship,
    )


def provenance(findings: Findings) -> str:
    """What is known about how the study was made, and a row for every run of its command."""
    # Runs have a table of their own, the hardware a section.
    rows = flat({name: value for name, value in findings.provenance.items() if name not in ("runs", "hardware")})
    if not rows:
        return section("Provenance", paragraph("None was recorded."))
    body = [[words(name), words(text, long=True)] for name, text in rows]
    return section("Provenance", table([words("what"), words("value")], body), _runs(findings))


def flat(record: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as rows: ("versions.torch", "2.13.0"). Lists of plain values stay on one row."""
    if isinstance(record, Mapping):
        return [row for key, value in record.items() for row in flat(value, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(record, (list, tuple)):
        if any(isinstance(item, (Mapping, list, tuple)) for item in record):
            return [row for index, item in enumerate(record) for row in flat(item, f"{prefix}.{index}")]
        return [(prefix, ", ".join(map(str, record)))]
    return [(prefix, str(record))]


def _shell(typed: str, findings: Findings) -> tuple[str, str]:
    """The command as it was typed, and the commands that export and check the knee point."""
    again = typed if typed.startswith("paretune ") else f"paretune study study.name={shlex.quote(findings.name)}"
    ship = f"paretune export {shlex.quote(findings.folder)} --pick knee --out model/\nparetune verify model/"
    return code(again), code(ship)


def _python(folder: str) -> tuple[str, str]:
    """The same for a study that no command can make, because its task lives in somebody's Python."""
    where = json.dumps(folder, ensure_ascii=False)  # a JSON string is a Python string too
    again = f"from paretune.search.study import run_study\n\nrun_study(task, ..., out={where})"
    ship = (
        "from pathlib import Path\n\nfrom paretune.search.study import Study\n\n"
        f'Study(folder=Path({where}), task=task).export("knee", "model/")'
    )
    note = paragraph("task and ... stand for the arguments it was started with.", "quiet")
    return code(again) + note, code(ship) + code("paretune verify model/")


def _runs(findings: Findings) -> str:
    """One row per run: a resumed study may have met several commits, versions and machines."""
    runs = findings.provenance.get("runs", ())
    if not runs:
        return ""
    names = list(dict.fromkeys(name for run in runs for name in run))
    body = [[_run_cell(name, run.get(name, "–")) for name in names] for run in runs]
    return heading("Runs") + table([_run_cell(name, label(name)) for name in names], body)


def _run_cell(name: str, value: object) -> Cell:
    text = str(value)
    return Cell(text=text) if name in ("from_trial", "threads") else words(text, long=name == "command")
