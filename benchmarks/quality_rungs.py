"""What rungs save and what they lose, replayed on the table of digits plans: every score on the way is in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from digits_plans import EPOCHS, read, seconds_of
from quality_problems import Params, Problem
from replay import through

from paretune.conf.settings import RungSettings
from paretune.findings import Kind, Trial
from paretune.outcome import Rung
from paretune.plan import Plan
from paretune.recipe import Recovery
from paretune.samplers.reproducible import Reproducible
from paretune.search.rungs import Rungs

ORDERS = 10
TRIALS = 100
POPULATION = 16
COSTS = ("size_bytes", "bops")
PLAN = Plan(recovery=Recovery(epochs=EPOCHS, lr=0.02))
Row = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """One study with rungs beside the same without: hypervolume share of what the latter reached, by box; epochs and
    seconds of training and scoring as shares of training every trial to the end; trials stopped; the last rank
    correlation of every rung.
    """

    shares: Mapping[str, float]
    epochs: float
    seconds: float
    stopped: int
    correlations: Mapping[int, float | None]


def replays(problem: Problem, sampler: str, *, seeded: bool, settings: RungSettings) -> Iterator[Replay]:
    """`ORDERS` studies with rungs, each beside the one that the same seed makes without."""
    _, rows = read()
    names = [axis.name for axis in problem.layout.axes]
    table = {tuple(int(row[name]) for name in names): row for row in rows}
    for seed in range(ORDERS):
        free = _study(problem, table, sampler, seeded=seeded, seed=seed, settings=None)
        held = _study(problem, table, sampler, seeded=seeded, seed=seed, settings=settings)
        yield _compared(problem, table, free, held, settings)


def _study(
    problem: Problem, table: Mapping[tuple[int, ...], Row], sampler: str, *, seeded: bool, seed: int,
    settings: RungSettings | None,
) -> list[Trial]:  # fmt: skip
    """The trials of a study as its driver makes them; a stopped one is not told."""
    controls, seeds = problem.controls(), problem.seeds(seed) if seeded else []
    given = {problem.places(point): (kind, point) for kind, points in (("seed", seeds), ("control", controls))
             for point in points}  # fmt: skip
    given = dict(sorted(given.items(), key=lambda item: item[1][0] != "control"))
    fixed: dict[int, Params] = {number: point for number, (_, point) in enumerate(given.values())}
    kinds: list[Kind] = ["control" if kind == "control" else "seed" for kind, _ in given.values()]
    trials: list[Trial] = []
    known: set[tuple[int, ...]] = set()
    study = optuna.create_study(
        directions=["minimize"] * 3,
        sampler=Reproducible(
            sampler, seed=seed, population=POPULATION, space=problem.space, fixed=fixed,
            known=lambda params: problem.places(params) in known,
        ),
    )  # fmt: skip
    for number in range(TRIALS):
        asked = study.ask()
        problem.space.ask(asked)
        places = problem.places(asked.params)
        known.add(places)
        kind = kinds[number] if number < len(kinds) else "search"
        trial = _trial(table[places], number, kind, asked.params, trials, settings)
        trials.append(trial)
        if trial.status == "done":
            study.tell(asked, [trial.values["top1_error"], *(trial.values[name] for name in COSTS)])
        else:
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
    return trials


def _trial(
    row: Row, number: int, kind: Kind, params: Params, before: Sequence[Trial], settings: RungSettings | None
) -> Trial:
    """A plan's trial up to where a rung stops it."""
    costs = {name: row[name] for name in COSTS}
    rungs: tuple[Rung, ...] = ()
    reason = ""
    if settings is not None:
        judges = Rungs(
            settings=settings, rows=before, quality="top1_error", costs=lambda t: [t.values[name] for name in COSTS]
        )
        gate = judges.gate(kind, list(costs.values()), EPOCHS)
        scores = (Rung(epochs=at, score=row[f"error_{at}"]) for at in gate.epochs if at < EPOCHS)
        rungs, reason = through(scores, gate, EPOCHS)
    values = costs if reason else {**costs, "top1_error": row["top1_error"]}
    return Trial(
        number=number, kind=kind, label="", status="stopped" if reason else "done", reason=reason, same_as=None,
        feasible=True, values=values, rungs=rungs, seconds={}, params=dict(params), plan=PLAN,
    )  # fmt: skip


def _compared(
    problem: Problem, table: Mapping[tuple[int, ...], Row], free: Sequence[Trial], held: Sequence[Trial],
    settings: RungSettings,
) -> Replay:  # fmt: skip
    done = [[problem.places(trial.params) for trial in trials if trial.status == "done"] for trials in (free, held)]
    full, kept = (problem.shares(np.array(places)) for places in done)
    paid = [[_paid(table[problem.places(trial.params)], trial) for trial in trials] for trials in (free, held)]
    (all_epochs, all_seconds), (epochs, seconds) = (np.sum(one, axis=0) for one in paid)
    judges = Rungs(settings=settings, rows=held, quality="top1_error", costs=lambda t: ())
    return Replay(
        shares={name: kept[name] / full[name] for name in full}, epochs=epochs / all_epochs,
        seconds=seconds / all_seconds, stopped=sum(trial.status == "stopped" for trial in held),
        correlations={state.epochs: state.correlation for state in judges.states()},
    )  # fmt: skip


def _paid(row: Row, trial: Trial) -> tuple[float, float]:
    """Epochs trained and seconds spent on a trial."""
    epochs = EPOCHS if trial.status == "done" else trial.rungs[-1].epochs
    return epochs, seconds_of(row, epochs)
