"""A study from Python: run it, resume it, read its front, export a point."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml

from paretune.compress.knee import knee_of
from paretune.conf.settings import Settings, parse_settings
from paretune.curve import Knee
from paretune.errors import ImpossiblePlan
from paretune.export.verify import Verdict
from paretune.files import write_text
from paretune.findings import Findings, Objective, Trial
from paretune.inventory import Inventory
from paretune.records import to_plain
from paretune.report.hypervolume import hypervolumes
from paretune.report.tables import front_table
from paretune.samplers.reproducible import Reproducible
from paretune.search import seeding
from paretune.search.bench import Bench, lay_out
from paretune.search.check import check_names, check_reach, identity_of
from paretune.search.controls import WISHES, Control, Given, controls_of
from paretune.search.devices import hardware_in, packaged, timing_in
from paretune.search.driver import Driver
from paretune.search.folder import EFFECTS, read_json, sole_writer, write_json
from paretune.search.keeping import Keeping
from paretune.search.known import Known
from paretune.search.measured import Measured
from paretune.search.planner import Planner
from paretune.search.precision import Choice, choice_of, told_apart
from paretune.search.progress import measuring, progress
from paretune.search.provenance import command_line, one_run, provenance
from paretune.search.read import read_findings, write_report
from paretune.search.store import open_study, rows_of, told
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
        under: Mapping[str, float] | None = None, drop: float | None = None, pt2: bool = False,
        latency: bool | Mapping[str, int] = True,
    ) -> Verdict:  # fmt: skip
        """Ship the trial that `rule` picks ("knee", "budget", "goal", "trial=17") to the folder `out`.

        Its weights are scored on the test split, the written files are checked in a fresh process, and their latency is
        measured on this machine beside the dense model's (`latency=False`: not).
        See `paretune.search.confirm.export`.
        """
        from paretune.search.confirm import export

        return export(
            self.folder, rule, Path(out), recover=recover, under=under, drop=drop, task=self.task, pt2=pt2,
            latency=latency,
        )  # fmt: skip


def run_study(
    task: Task,
    *,
    space: str | Mapping[str, Any] = "layerwise",
    objectives: Sequence[str] = ("top1_error", "size_bytes", "bops"),
    budget: Mapping[str, float] | None = None,
    sampler: str = "layerwise",
    seeds: Mapping[str, Any] | None = None,
    rungs: Mapping[str, Any] | None = None,
    hardware: str | Path | Mapping[str, Any] = "edge_npu",
    latency: Mapping[str, Any] | None = None,
    inventory: Mapping[str, Any] | None = None,
    precision: str = "float32",
    out: str | Path | None = None,
    finish: Mapping[str, Any] | None = None,
    rival: Mapping[str, Any] | None = None,
    **study: Any,
) -> Study:
    """Search how to compress `task`, or go on with the study in `out` (default results/<task name>).

    `space` names a packaged space ("layerwise", "uniform") or is one, as in conf/space/*.yaml. `finish` is what the
    best seed or searched trial gets when the trials are used up: {"epochs": 10, "lr": 0.02, "distill": "logits"}.
    `rival` is a second search with as many trials besides controls, in `out`/rival and on the same page: {"name": its
    title, "space": what is different from `space`, table by table}. `hardware` is what cycles, energy and resources are
    told for: a packaged name ("edge_npu"), a YAML file or its contents; `latency` and `inventory` are the config's
    sections of these names, and so are `seeds` and `rungs` ({"count": 0} and {"epochs": []} for none). `precision` is
    that of the fine-tunes, or "auto". `study` takes the keys of the config's study section: trials, seed, minutes,
    trial_minutes, population, keep, full_epochs, plateau, repeats.

    Raises:
        ParetuneError: something in the settings cannot work; nothing has been written then.
    """
    folder = Path(out) if out is not None else Path("results") / task.name
    plain = {
        "task": dict(task.origin), "space": packaged("space", space) if isinstance(space, str) else dict(space),
        "objectives": list(objectives), "budget": dict(budget or {}), "sampler": sampler,
        "study": {"name": folder.name, **study}, "results_dir": str(folder.parent), "precision": precision,
        "hardware": packaged("hardware", str(hardware)) if isinstance(hardware, str | Path) else dict(hardware),
        "latency": dict(latency or {}), "inventory": dict(inventory or {}),
        "seeds": dict(seeds or {}), "rungs": dict(rungs or {}),
        "finish": dict(finish or {}), "rival": None if rival is None else dict(rival),
    }  # fmt: skip
    return carry_out(parse_settings(plain), task)


def carry_out(
    settings: Settings, task: Task, look: Callable[[Bench], None] = lambda bench: None,
    say: Callable[[str], None] = lambda text: None,
) -> Study:  # fmt: skip
    """Run or resume the study that `settings` describes, and its rival if it has one, and write the report.

    `look` sees the laid-out task once the settings are found possible, before anything is written; `say` is told what
    takes its time before the first trial.

    An interrupt (Ctrl-C) still writes tables and report before it goes on.
    """
    hardware = hardware_in(settings)
    check_names(settings, task, hardware)
    bench = lay_out(task, hardware, timing_in(settings) if settings.latency.study else None, settings.inventory)
    every = [settings] if settings.rival is None else [settings, fair(settings, rival_of(settings), bench.inventory)]
    for one in every:
        check_reach(one, parse_space(one.space, bench.inventory), bench)
    look(bench)
    choice = choice_of(settings, bench, say)
    bench = replace(bench, precision=choice.precision)
    with threads_for(bench.inventory, choice.threads):
        try:
            for one in every:
                if len(every) > 1:
                    say(f"searching {one.folder}")
                _search(one, bench, choice, say)
        finally:
            if settings.rival is not None and (settings.folder / "provenance.json").exists():
                write_report(settings.folder)
    return Study(folder=settings.folder, task=task)


def rival_of(settings: Settings) -> Settings:
    """The same study with the rival's space, in a folder inside the first one's."""
    assert settings.rival is not None
    space = merged(settings.space, settings.rival.space)
    name = f"{settings.study.name}/rival"
    return replace(settings, space=space, rival=None, study=replace(settings.study, name=name))


def fair(settings: Settings, rival: Settings, inventory: Inventory) -> Settings:
    """The rival with as many trials besides its controls, which may differ in number, as the study has."""
    controls = [len(controls_of(parse_space(one.space, inventory))) for one in (settings, rival)]
    trials = max(1, settings.study.trials - controls[0] + controls[1])
    return replace(rival, study=replace(rival.study, trials=trials))


def merged(plain: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`plain` with `changes`, table by table; what is no table in both is replaced whole."""
    both = {key for key in changes if isinstance(changes[key], Mapping) and isinstance(plain.get(key), Mapping)}
    return {**plain, **changes, **{key: merged(plain[key], changes[key]) for key in both}}


def _search(settings: Settings, bench: Bench, choice: Choice, say: Callable[[str], None]) -> None:
    """One search from its first or next trial to its report."""
    objectives = check_names(settings, bench.task, bench.hardware)
    space = parse_space(settings.space, bench.inventory)
    end = time.monotonic() + 60 * (settings.study.minutes or math.inf)
    with sole_writer(settings.folder), _log_file(settings.folder):
        identity = identity_of(settings, bench.task, space, bench.hardware) | told_apart(settings)
        study = open_study(settings.folder, settings.study.name, settings.objectives, identity)
        _write_facts(settings, bench, objectives, identity, choice, from_trial=len(told(study)))
        measured = Measured(bench=bench, seed=settings.study.seed, say=say)
        planner = Planner.ready(bench, space, measured)
        starts = _starts(study, settings, space, planner, say)
        _write_measured(settings.folder, planner, space)
        fixed: dict[int, Mapping[str, Any]] = {}
        known = Known(space=space, planner=planner).add_all(rows_of(study, settings.limits))
        study.sampler = Reproducible(
            settings.sampler, seed=settings.study.seed, population=settings.study.population, space=space,
            fixed=fixed, known=known.has,
        )  # fmt: skip
        facts = read_findings(settings.folder, study)
        driver = Driver(
            study=study, settings=settings, bench=bench, space=space, planner=planner, starts=starts, fixed=fixed,
            known=known, end=end, keeping=Keeping(settings=settings, folder=settings.folder), say=say,
            curve=lambda rows: _curve(facts, rows),
        )  # fmt: skip
        try:
            with progress(settings.study.trials) as watch:
                driver.watch = lambda rows: watch.show(rows, lambda: (driver.curve(rows) or (0.0,))[-1])
                driver.run()
        finally:
            write_report(settings.folder, study)


def _curve(facts: Findings, rows: Sequence[Trial]) -> tuple[float, ...]:
    """The hypervolume after every row. What is measured of the dense model, such as latency, its row tells."""
    dense = next((row.values for row in rows if row.label == "dense"), {})
    return hypervolumes(replace(facts, trials=tuple(rows), reference={**dense, **facts.reference}))


def _starts(
    study: optuna.Study, settings: Settings, space: Space, planner: Planner, say: Callable[[str], None]
) -> tuple[Control, ...]:
    """The controls and the seeds: those the study began with, or, once it gets that far, new ones."""
    controls = controls_of(space)
    found = seeding.stored(study)
    if found is None and settings.study.trials > len(controls):
        # Of a study with a time limit, measuring takes a quarter at most.
        minutes = min(settings.seeds.minutes, (settings.study.minutes or math.inf) / 4)
        asked = replace(settings, seeds=replace(settings.seeds, minutes=minutes))
        with measuring() as tell:
            found = seeding.make_seeds(asked, space, planner, controls, say=say, tell=tell)
        if found.note:
            say(found.note)
        if found.effects is not None:
            write_json(settings.folder / EFFECTS, to_plain(found.effects))
        seeding.keep(study, found)
    seeds = found.params if found else ()
    if len(seeds) and settings.study.trials <= len(controls) + len(seeds):
        say(
            f"{len(controls)} controls and {len(seeds)} seeds leave none of {settings.study.trials} trials for the "
            f"search: study.trials={2 * (len(controls) + len(seeds))} would, or a smaller seeds.count"
        )
    return (*controls, *(Control(label="", params=params, kind="seed") for params in seeds))


def _write_measured(folder: Path, planner: Planner, space: Space) -> None:
    """What was measured before the first trial: curves with their knees at the default settings, and the seconds."""
    facts = read_json(folder / "provenance.json")
    measured = {**planner.measured.facts, **facts.get("measured", {})}  # what the first run paid, whoever resumes
    write_json(folder / "provenance.json", {**facts, "measured": measured})
    if space.mixing.plain is None:
        write_json(folder / "alike.json", to_plain(planner.alike(space)))
    if not planner.known:
        return
    rate = space.ask(Given(space.near(WISHES[0]))).rate
    knees: list[Knee] = []
    curves = [curve for by_group in planner.known.values() for curve in by_group.values()]
    with suppress(ImpossiblePlan):  # a model that is no better than guessing has curves, but the trials have to say why
        knees = [knee_of(curve, rate.sensitivity, rate.scale, rate.drop) for curve in curves]
    write_json(folder / "curves.json", to_plain({"curves": curves, "knees": knees}))


def _write_facts(
    settings: Settings,
    bench: Bench,
    objectives: tuple[Objective, ...],
    identity: Mapping[str, Any],
    choice: Choice,
    *,
    from_trial: int,
) -> None:
    folder = settings.folder
    write_text(folder / "config.yaml", yaml.safe_dump(to_plain(settings), sort_keys=False))
    write_json(folder / "inventory.json", to_plain(bench.inventory))
    facts = provenance(identity, command_line()) | {"precision": choice.facts()}
    facts |= {"roles": dict(bench.task.roles)} if bench.task.roles else {}
    known = folder / "provenance.json"
    earlier = read_json(known) if from_trial and known.exists() else {}
    runs = [*earlier.get("runs", []), one_run(facts, from_trial)]
    facts |= {"measured": earlier["measured"]} if "measured" in earlier else {}
    rival = settings.rival.name if settings.rival else None
    write_json(known, {**facts, "runs": runs, "objective_units": to_plain(objectives), "rival": rival})


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
