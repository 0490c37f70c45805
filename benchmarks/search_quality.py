"""How near samplers come to a known front: python benchmarks/search_quality.py [layered:nsga2 ...], hours.

A line per run goes to --log, and what is there is not run again; --write makes the page of all of it.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from quality_page import page
from quality_problems import PROBLEMS, Params, Problem

from paretune.samplers.reproducible import Reproducible

RUNS = 10
TRIALS = 400
POPULATION = 16
CHEAP_FIRST = ("random", "layerwise", "nsga2", "nsga3", "tpe", "surrogate", "gp")
# A Gaussian process takes seconds per ask at hundreds of trials, and more at 60 parameters.
FEW = {("digits", "gp"): (3, 100)}
LEFT_OUT = (("layered", "gp"),)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search: every trial's point by its places, a digit each, in the order of asking; seconds of CPU that
    all asks took.
    """

    problem: str
    sampler: str
    seeded: bool
    seed: int
    places: tuple[str, ...]
    seconds: float

    @property
    def key(self) -> tuple[str, str, bool, int]:
        """What run it is."""
        return self.problem, self.sampler, self.seeded, self.seed


def searched(problem: Problem, sampler: str, *, seeded: bool, seed: int, trials: int) -> Run:
    """One run as a study does it: controls, then seeds if `seeded`, then what the sampler proposes."""
    given = [*problem.controls(), *(problem.seeds(seed) if seeded else [])]
    fixed = dict(enumerate(_different(problem, given)))
    found: dict[str, None] = {}

    def text(params: Params) -> str:
        return "".join(map(str, problem.places(params)))

    study = optuna.create_study(
        directions=["minimize"] * 3,
        sampler=Reproducible(
            sampler, seed=seed, population=POPULATION, space=problem.space, fixed=fixed,
            known=lambda params: text(params) in found,
        ),
    )  # fmt: skip
    asking, order = 0.0, []
    for number in range(trials):
        start = time.process_time()
        trial = study.ask()
        problem.space.ask(trial)
        asking += time.process_time() - start
        places = problem.places(trial.params)
        found[text(trial.params)] = None
        order.append(text(trial.params))
        study.tell(trial, problem.told(places, seed, number))
    return Run(problem=problem.name, sampler=sampler, seeded=seeded, seed=seed, places=tuple(order), seconds=asking)


def _different(problem: Problem, points: Sequence[Params]) -> list[Params]:
    """The points without those that came before."""
    return list({problem.places(point): point for point in reversed(points)}.values())[::-1]


def wanted() -> Iterator[tuple[str, str, bool, int, int]]:
    """Every run there is to make: the cheap samplers first, all their runs before the next sampler."""
    for problem, sampler, seeded in itertools.product(PROBLEMS, CHEAP_FIRST, (False, True)):
        runs, trials = FEW.get((problem, sampler), (RUNS, TRIALS))
        if (problem, sampler) not in LEFT_OUT:
            yield from ((problem, sampler, seeded, seed, trials) for seed in range(runs))


def read(log: Path) -> list[Run]:
    """The runs of a log; of two of the same the later."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    plain: list[dict[str, Any]] = [json.loads(line) for line in lines]
    runs = [Run(**{**one, "places": tuple(one["places"])}) for one in plain]
    return list({run.key: run for run in runs}.values())


def grow(log: Path, only: Sequence[str], *, again: bool) -> None:
    """Make the runs of problem:sampler that `only` matches, but for those that `log` holds."""
    done = set() if again else {run.key for run in read(log)}
    ready: dict[str, Problem] = {}
    for name, sampler, seeded, seed, trials in wanted():
        asked = any(fnmatchcase(f"{name}:{sampler}", pattern) for pattern in only)
        if not asked or (name, sampler, seeded, seed) in done:
            continue
        ready[name] = ready.get(name) or PROBLEMS[name]()
        run = searched(ready[name], sampler, seeded=seeded, seed=seed, trials=trials)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(run)) + "\n")
        shares = ready[name].shares(np.array([list(map(int, row)) for row in run.places]))
        print(*run.key, f"{run.seconds:.1f} s", *(f"{box} {share:.4f}" for box, share in shares.items()), flush=True)


def main() -> None:
    """Run what is asked and not there yet, or make the page of what is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("only", nargs="*", default=["*"], help="shell patterns of problem:sampler; all by default")
    parser.add_argument("--log", type=Path, default=Path("search_quality.jsonl"), help="a line per run")
    parser.add_argument("--again", action="store_true", help="make the runs asked for anew: their sampler has changed")
    parser.add_argument("--page", action="store_true", help="run nothing, print the page of what the log holds")
    parser.add_argument("--write", action="store_true", help="run nothing, print that page and write it")
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not chosen.page and not chosen.write:
        grow(chosen.log, chosen.only, again=chosen.again)
        return
    text = page(read(chosen.log))
    print(text)
    if chosen.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
