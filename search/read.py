"""A study's folder as plain rows, and the tables, picture and page drawn from them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from paretune.alike import Alike
from paretune.conf.settings import RungSettings
from paretune.costs.table import costs_of
from paretune.curve import Curve, Knee
from paretune.effects import Effects
from paretune.findings import Confirmation, Findings, Objective, RungState, Trial
from paretune.inventory import Inventory
from paretune.plan import DENSE
from paretune.records import from_plain
from paretune.report.page import write_page
from paretune.report.picture import front_svg
from paretune.report.tables import write_tables
from paretune.search.devices import hardware_told
from paretune.search.folder import EFFECTS, read_json
from paretune.search.rungs import Rungs
from paretune.search.seeding import stored
from paretune.search.store import WORST_QUALITY, identity_in, load_study, rows_of


def read_findings(folder: Path, study: optuna.Study | None = None) -> Findings:
    """A study's folder as plain rows; needs neither the model nor its data. An open `study` is not read again.

    Raises:
        ParetuneError: the folder is not a study's, or is damaged.
    """
    folder = folder.resolve().relative_to(Path.cwd()) if folder.resolve().is_relative_to(Path.cwd()) else folder
    facts = read_json(folder / "provenance.json")
    inventory = from_plain(Inventory, read_json(folder / "inventory.json"))
    study = study or load_study(folder)
    objectives = tuple(from_plain(Objective, plain) for plain in facts.pop("objective_units"))
    seeds = stored(study)
    facts |= {"seeds_note": seeds.note} if seeds and seeds.note else {}
    identity = identity_in(study, folder)
    budget = identity["budget"]
    dense = costs_of(inventory, DENSE, hardware_told(facts))
    confirmed = folder / "confirmations.json"
    drawn = read_json(folder / "curves.json") if (folder / "curves.json").exists() else {}
    trials = tuple(rows_of(study, budget))
    measured = next((trial.values for trial in trials if trial.label == "dense"), {})  # what no profile tells: latency
    return Findings(
        name=folder.resolve().name, folder=str(folder), objectives=objectives, budget=budget,
        reference={**measured, objectives[0].name: WORST_QUALITY, **dense},
        trials=trials,
        inventory=inventory, provenance=facts,
        confirmations=tuple(from_plain(Confirmation, p) for p in read_json(confirmed)) if confirmed.exists() else (),
        curves=tuple(from_plain(Curve, plain) for plain in drawn.get("curves", ())),
        knees=tuple(from_plain(Knee, plain) for plain in drawn.get("knees", ())),
        effects=from_plain(Effects, read_json(folder / EFFECTS)) if (folder / EFFECTS).exists() else None,
        rungs=_rungs(identity["rungs"], trials, objectives[0].name) if "rungs" in identity else (),
        alike=from_plain(Alike, read_json(folder / "alike.json")) if (folder / "alike.json").exists() else None,
        rival=_rival(folder, facts.get("rival")),
    )  # fmt: skip


def _rungs(known: Mapping[str, Any], trials: Sequence[Trial], quality: str) -> tuple[RungState, ...]:
    """What the rungs have come to."""
    settings = from_plain(RungSettings, known)
    return Rungs(settings=settings, rows=trials, quality=quality, costs=lambda row: ()).states()


def _rival(folder: Path, name: str | None) -> Findings | None:
    """The search beside this one, if it has begun."""
    if name is None or not (folder / "rival" / "provenance.json").exists():
        return None
    return replace(read_findings(folder / "rival"), name=name)


def write_report(folder: Path, study: optuna.Study | None = None) -> Path:
    """Write the tables, the picture and the page of a study; returns the page's path."""
    findings = read_findings(folder, study)
    write_tables(findings, folder)
    front_svg(findings, folder / "front.svg")
    return write_page(findings, folder)
