"""A study from Python: run it, resume it, read its front, export a point."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import yaml

from paretune.compress.criteria import CRITERIA
from paretune.compress.rates import plan_of
from paretune.conf.settings import Settings, parse_settings
from paretune.costs.table import COSTS, static_costs
from paretune.errors import ParetuneError, near_miss, pick
from paretune.export.verify import Verdict
from paretune.files import write_text
from paretune.findings import Confirmation, Findings, Objective
from paretune.inventory import Inventory
from paretune.plan import DENSE
from paretune.profile import profile
from paretune.records import from_plain, to_plain
from paretune.report.hypervolume import hypervolumes
from paretune.report.page import write_page
from paretune.report.picture import front_svg
from paretune.report.tables import front_table, write_tables
from paretune.search.bench import Bench, lay_out, study_scores
from paretune.search.controls import controls_of
from paretune.search.driver import Driver
from paretune.search.folder import read_json, sole_writer, write_json
from paretune.search.progress import progress
from paretune.search.provenance import command_line, provenance
from paretune.search.samplers import SAMPLERS, Reproducible
from paretune.search.store import WORST_QUALITY, load_study, open_study, read_trial, told
from paretune.search.threads import threads_for
from paretune.spaces.language import parse_space
from paretune.spaces.space import Space
from paretune.tasks.task import Task

log = logging.getLogger("paretune")


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """The folder of a study and, if it is at hand, the task it compresses."""

    folder: Path
    task: Task | None = None

    def findings(self) -> Findings:
        """Everything the study knows by now, as plain rows."""
        return read_findings(self.folder)

    def front(self) -> pd.DataFrame:
        """The Pareto front, best quality first; the columns are those of front.csv."""
        return front_table(self.findings())

    def report(self) -> Path:
        """Write trials.csv, front.csv, front.svg and report.html anew; returns the page's path."""
        return write_report(self.folder)

    def export(
        self, rule: str, out: str | Path, *, recover: str = "kept",
        under: Mapping[str, float] | None = None, drop: float | None = None,
    ) -> Verdict:  # fmt: skip
        """Ship the trial that `rule` picks ("knee", "budget", "goal", "trial=17") to the folder `out`.

        Its weights are scored on the test split and the written files are checked in a fresh process.
        See `paretune.search.confirm.export`.
        """
        from paretune.search.confirm import export

        return export(self.folder, rule, Path(out), recover=recover, under=under, drop=drop, task=self.task)


def run_study(
    task: Task,
    *,
    space: str | Mapping[str, Any] = "layerwise",
    objectives: Sequence[str] = ("top1_error", "size_bytes", "bops"),
    budget: Mapping[str, float] | None = None,
    sampler: str = "nsga2",
    out: str | Path | None = None,
    **study: Any,
) -> Study:
    """Search how to compress `task`, or go on with the study in `out` (default results/<task name>).

    `space` names a packaged space ("layerwise", "uniform") or is one, as in conf/space/*.yaml. `study` takes the
    keys of the config's study section: trials, seed, minutes, trial_minutes, population, keep, full_epochs.

    Raises:
        ParetuneError: something in the settings cannot work; nothing has been written then.
    """
    folder = Path(out) if out is not None else Path("results") / task.name
    plain = {
        "task": dict(task.origin), "space": packaged_space(space) if isinstance(space, str) else dict(space),
        "objectives": list(objectives), "budget": dict(budget or {}), "sampler": sampler,
        "study": {"name": folder.name, **study}, "results_dir": str(folder.parent),
    }  # fmt: skip
    return carry_out(parse_settings(plain), task)


def packaged_space(name: str) -> dict[str, Any]:
    """A space that ships with the package, as plain dicts and lists."""
    files = {path.name.removesuffix(".yaml"): path for path in (resources.files("paretune.conf") / "space").iterdir()}
    return dict(yaml.safe_load(pick(files, name, "space").read_text()))


def carry_out(settings: Settings, task: Task) -> Study:
    """Run or resume the study that `settings` describes and write its report.

    An interrupt (Ctrl-C) still writes tables and report before it goes on.
    """
    objectives = check_names(settings, task)
    bench = lay_out(task)
    space = parse_space(settings.space, bench.inventory)
    check_reach(settings, space, bench)
    threads = threads_for(bench.inventory, settings.threads)
    with sole_writer(settings.folder), _log_file(settings.folder), threads:
        identity = identity_of(settings, task, space)
        study = open_study(settings.folder, settings.study.name, settings.objectives, identity)
        _write_facts(settings, bench.inventory, objectives, identity)
        controls = controls_of(space)
        study.sampler = Reproducible(
            settings.sampler, seed=settings.study.seed, population=settings.study.population, space=space,
            fixed={number: c.params for number, c in enumerate(controls) if c.params is not None},
        )  # fmt: skip
        scores = study_scores(bench, space.criteria, settings.study.seed, settings.folder / "scores.npz")
        driver = Driver(
            study=study, settings=settings, bench=bench, space=space, scores=scores, controls=controls,
            folder=settings.folder,
        )  # fmt: skip
        try:
            with progress(settings.study.trials) as watch:
                facts = read_findings(settings.folder, study)
                driver.watch = lambda rows: watch.show(rows, lambda: _volume(facts, rows))
                driver.run()
        finally:
            write_report(settings.folder, study)
    return Study(folder=settings.folder, task=task)


def check_names(settings: Settings, task: Task) -> tuple[Objective, ...]:
    """The objectives by name, quality first.

    Raises:
        ParetuneError: an unknown objective, cost or sampler, a quality objective that is not first, a budget that is
            not above 0.
    """
    known = {task.quality.name: task.quality} | {name: cost.objective for name, cost in COSTS.items()}
    objectives = tuple(pick(known, name, "objective") for name in settings.objectives)
    if settings.objectives[0] != task.quality.name:
        raise ParetuneError(f"objectives: the first must be the task's quality, '{task.quality.name}'")
    pick(SAMPLERS, settings.sampler, "sampler")
    for name, limit in settings.limits.items():
        if name not in COSTS:
            raise ParetuneError(f"budget: '{name}' is no cost that is known before training.{near_miss(name, COSTS)}")
        if limit <= 0:
            raise ParetuneError(f"budget.{name} must be above 0, got {limit:g}")
    return objectives


def check_reach(settings: Settings, space: Space, bench: Bench) -> None:
    """Refuse what no trial could do.

    Raises:
        ParetuneError: an unknown criterion, 1-bit layers, or a budget below the smallest reachable value.
    """
    for name in space.criteria:
        pick(CRITERIA, name, "criterion")
    smallest = space.smallest()
    if 1 in {*smallest.weight_bits.values(), *smallest.activation_bits.values()}:
        raise ParetuneError("space: the quantizer (LSQ) keeps zero a level and needs 2 bits or more, got 1")
    flat = {group.name: np.zeros(group.channels) for group in bench.inventory.groups}
    plan = plan_of(smallest, bench.inventory, {smallest.criterion: flat})
    reached = static_costs(profile(bench.inventory, plan))
    for name, limit in settings.limits.items():
        if reached[name] > limit:
            raise ParetuneError(f"budget.{name}={limit:g} cannot be met: the space reaches {reached[name]:g} at least")


def identity_of(settings: Settings, task: Task, space: Space) -> dict[str, Any]:
    """What must not change when a study is resumed."""
    return {
        "task": f"{task.name} {task.fingerprint}",
        "objectives": list(settings.objectives),
        "budget": settings.limits,
        "sampler": settings.sampler,
        "population": settings.study.population,
        "seed": settings.study.seed,
        "space_hash": space.key,
        "space": space.describe(),
    }


def read_findings(folder: Path, study: optuna.Study | None = None) -> Findings:
    """A study's folder as plain rows; needs neither the model nor its data. An open `study` is not read again.

    Raises:
        ParetuneError: the folder is not a study's, or is damaged.
    """
    facts = read_json(folder / "provenance.json")
    inventory = from_plain(Inventory, read_json(folder / "inventory.json"))
    study = study or load_study(folder)
    objectives = tuple(from_plain(Objective, plain) for plain in facts.pop("objective_units"))
    budget = study.user_attrs["identity"]["budget"]
    dense = static_costs(profile(inventory, DENSE))
    confirmed = folder / "confirmations.json"
    return Findings(
        name=folder.name, folder=str(folder), objectives=objectives, budget=budget,
        reference={objectives[0].name: WORST_QUALITY, **dense},
        trials=tuple(read_trial(trial, budget) for trial in told(study)),
        inventory=inventory, provenance=facts,
        confirmations=tuple(from_plain(Confirmation, p) for p in read_json(confirmed)) if confirmed.exists() else (),
    )  # fmt: skip


def write_report(folder: Path, study: optuna.Study | None = None) -> Path:
    """Write the tables, the picture and the page of a study; returns the page's path."""
    findings = read_findings(folder, study)
    write_tables(findings, folder)
    front_svg(findings, folder / "front.svg")
    return write_page(findings, folder)


def _write_facts(
    settings: Settings, inventory: Inventory, objectives: tuple[Objective, ...], identity: Mapping[str, Any]
) -> None:
    folder = settings.folder
    write_text(folder / "config.yaml", yaml.safe_dump(to_plain(settings), sort_keys=False))
    write_json(folder / "inventory.json", to_plain(inventory))
    facts = provenance(identity, command_line())
    write_json(folder / "provenance.json", {**facts, "objective_units": to_plain(objectives)})


def _volume(facts: Findings, rows: Sequence[Any]) -> float:
    volumes = hypervolumes(replace(facts, trials=tuple(rows)))
    return volumes[-1] if volumes else 0.0


@contextmanager
def _log_file(folder: Path) -> Iterator[None]:
    """Append this run's log lines to study.log."""
    handler = logging.FileHandler(folder / "study.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
