"""The page of `search_quality.py`: what its log holds, as tables with 95 % confidence intervals, and what follows."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from digits_plans import TABLE
from quality_problems import NOISE, PROBLEMS, SEEDS, UNTRAINED, WOBBLE, Problem
from quality_rungs import ORDERS, TRIALS, Replay, replays
from scipy.stats import t as student

from paretune.conf.settings import RungSettings
from paretune.pareto import Array
from paretune.samplers.table import SAMPLERS
from paretune.search.provenance import provenance

BUDGETS = (25, 50, 100, 200, 400)
ENOUGH = 0.95
OURS = ("layerwise", "surrogate")
TITLES = {"layered": "30 layers, made up, front known exactly", "digits": "Digits, a table of really evaluated plans"}
BOXES = {
    "whole": "Box of the product: error up to 1, costs up to the least compressed plan's",
    "useful": "Error up to 10 points above the least, same costs: the plans that anybody would take",
}
ABOUT = f"""\
Hypervolume of what was evaluated, as a share of the exact front's, after so many trials; mean ± 95 % confidence
interval (Student's t) over runs that differ by their seed. Values are the true ones, without the noise that trials are
told. All samplers run inside the product's `Reproducible`, population 16; every run starts with the product's uniform
controls, which count as trials (dense does not, it lies in no space). "Seeds" are the product's: up to {SEEDS} plans
that the separable Lagrangian makes from sensitivities; they count as trials, measuring the sensitivities does not. All
budgets are read off one run.
Costs are shares of the least compressed plan's of the space, not of the float model's, in whose corner all plans lie.

The made-up network (`layered_problem.py`): 30 layers, six ratios and five bit-widths each, interactions inside 15
blocks, costs that are products inside a block; a trial is told the error with Gaussian noise of {100 * NOISE:g} points.
Sensitivities there are invented too: {UNTRAINED:g} times the damage of the decision alone times a log-normal factor
(σ {WOBBLE:g}) per setting, with noise as large. The digits table (`digits_plans.py`): all 2,304 plans of a space of
seven decisions, each pruned, quantized, trained for three epochs and scored on val, one seed; its front is that of the
scores as they came out, luck included. Its sensitivities are its own errors before training, where the product takes
losses.

`gp` is there with three runs of 100 trials on digits only: its asks take seconds. Further than this the numbers do not
go: one made-up network and one small real one."""


class Run(Protocol):
    """What a log holds, as in `search_quality`."""

    @property
    def problem(self) -> str: ...
    @property
    def sampler(self) -> str: ...
    @property
    def seeded(self) -> bool: ...
    @property
    def seed(self) -> int: ...
    @property
    def places(self) -> tuple[str, ...]: ...
    @property
    def seconds(self) -> float: ...


Variant = tuple[str, bool]  # a sampler, with seeds or without


@dataclass(frozen=True, eq=False)
class Judged:
    """The runs of one problem, measured."""

    problem: Problem
    runs: Sequence[Run]

    @cached_property
    def variants(self) -> list[Variant]:
        """Samplers with and without seeds, in the table's order, as far as there are runs."""
        have = {(run.sampler, run.seeded) for run in self.runs}
        return [(name, seeded) for seeded in (True, False) for name in SAMPLERS if (name, seeded) in have]

    @cached_property
    def curves(self) -> dict[Variant, dict[int, Mapping[str, Array]]]:
        """By variant and seed: the share at each budget (NaN beyond the run), and where `ENOUGH` is reached, by box."""
        found: dict[Variant, dict[int, Mapping[str, Array]]] = {}
        for run in self.runs:
            found.setdefault((run.sampler, run.seeded), {})[run.seed] = self._measured(run)
        return found

    def _measured(self, run: Run) -> Mapping[str, Array]:
        places = np.array([list(map(int, row)) for row in run.places])
        at = {n: self.problem.shares(places[:n]) for n in BUDGETS if n <= len(places)}
        found = {}
        for box in BOXES:
            low, high = 0, len(places) + 1  # the share never falls with more trials
            while high - low > 1:
                middle = (low + high) // 2
                enough = self.problem.shares(places[:middle])[box] >= ENOUGH
                low, high = (low, middle) if enough else (middle, high)
            first = float(high) if high <= len(places) else np.nan
            found[box] = np.array([*(at[n][box] if n in at else np.nan for n in BUDGETS), first])
        return found

    def column(self, variant: Variant, box: str, place: int) -> dict[int, float]:
        """By seed: the share at budget `place`."""
        return {seed: float(found[box][place]) for seed, found in self.curves.get(variant, {}).items()}

    def line(self, variant: Variant, box: str) -> list[str]:
        """A row of the table."""
        cells = [list(self.column(variant, box, place).values()) for place in range(len(BUDGETS))]
        first = np.array(list(self.column(variant, box, len(BUDGETS)).values()))
        reached = first[~np.isnan(first)]
        count = f"{np.median(reached):.0f} ({len(reached)} of {len(first)})" if len(reached) else "never"
        mine = [run for run in self.runs if (run.sampler, run.seeded) == variant]
        ask = 1000 * sum(run.seconds for run in mine) / sum(len(run.places) for run in mine)
        name, seeded = variant
        return [name, "yes" if seeded else "no", str(len(mine)), *map(interval, cells), count, f"{ask:.0f}"]

    def difference(self, first: Variant, second: Variant, box: str, place: int) -> tuple[float, float]:
        """Mean and half the 95 % interval of first minus second over the seeds that both have, or NaN."""
        a, b = self.column(first, box, place), self.column(second, box, place)
        return mean_and_half([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half the width of its 95 % confidence interval by Student's t."""
    if len(values) < 2 or np.isnan(values).any():
        return float("nan"), float("nan")
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def interval(values: Sequence[float]) -> str:
    """Mean and half a 95 % interval, in percent; "–" where a run is shorter."""
    mean, half = mean_and_half(values)
    return "–" if np.isnan(mean) else f"{100 * mean:.2f} ± {100 * half:.2f}"


def verdicts(judged: Judged) -> Iterator[str]:
    """What was expected, comparison by comparison, and where it is not so."""
    optuna = [name for name, seeded in judged.variants if not seeded and name not in OURS]
    for ours in OURS:
        pairs = [((ours, True), (name, False)) for name in optuna] + [((ours, False), ("nsga2", False))]
        for first, second in pairs:
            for box in BOXES:
                found = [(n, *judged.difference(first, second, box, at)) for at, n in enumerate(BUDGETS)]
                known = [(n, mean, half) for n, mean, half in found if not np.isnan(mean)]
                if known:
                    yield f"- {_named(first)} against {_named(second)}, {box} box: {_said(known)}"


def _named(variant: Variant) -> str:
    return f"{variant[0]} {'with seeds' if variant[1] else 'from scratch'}"


def _said(found: Sequence[tuple[int, float, float]]) -> str:
    ahead = [n for n, mean, half in found if mean - half > 0]
    behind = [f"{n} ({100 * mean:+.2f} ± {100 * half:.2f})" for n, mean, half in found if mean + half < 0]
    open_ = [f"{n} ({100 * mean:+.2f} ± {100 * half:.2f})" for n, mean, half in found if abs(mean) <= half]
    if len(ahead) == len(found):
        return f"ahead at every budget, by {100 * min(mean for _, mean, _ in found):.2f} points or more."
    parts = [f"ahead at {', '.join(map(str, ahead))}"] if ahead else []
    parts += [f"NOT told apart at {', '.join(open_)}"] if open_ else []
    parts += [f"BEHIND at {', '.join(behind)}"] if behind else []
    return "; ".join(parts) + "."


def rungs(problem: Problem) -> Iterator[str]:
    """The table of replays with rungs."""
    rows = []
    ways = (("random", False), ("random", True), ("nsga2", False), ("layerwise", False), ("layerwise", True))
    for sampler, seeded in ways:
        found = list(replays(problem, sampler, seeded=seeded, settings=RungSettings()))
        rows.append([sampler, "yes" if seeded else "no", *_rung_cells(found)])
    settings = RungSettings()
    yield "## Rungs on the digits table"
    yield (
        f"{ORDERS} studies of {TRIALS} trials, each beside the one that the same seed makes without rungs, by the "
        f"product's own rule (`search/rungs.py`: epochs {list(settings.epochs)} of 3, η {settings.eta:g}, at least "
        f"{settings.minimum} trials, rank correlation of {settings.correlation:g} or more; controls and seeds never "
        "stop). Costs of stopped trials are those of the finished plan, which a study only guesses before the "
        "training. Epochs and seconds are shares of training every trial to its end; a study's sensitivities are not "
        "in them."
    )
    columns = (
        "sampler", "seeds", "trials stopped", "epochs, %", "seconds, %", "hypervolume kept, %, whole box", "useful box",
        "rank correlation at 0 epochs", "at 1",
    )  # fmt: skip
    yield table(columns, rows)


def _rung_cells(found: Sequence[Replay]) -> list[str]:
    correlations = [[one.correlations.get(epochs) for one in found] for epochs in (0, 1)]
    seen = [[value for value in column if value is not None] for column in correlations]
    return [
        f"{np.mean([one.stopped for one in found]):.0f}", interval([one.epochs for one in found]),
        interval([one.seconds for one in found]), *(interval([one.shares[box] for one in found]) for box in BOXES),
        *(f"{np.mean(column):.2f}" if column else "–" for column in seen),
    ]  # fmt: skip


def page(runs: Iterable[Run]) -> str:
    """Everything, in Markdown; rungs as soon as there is a table of digits plans."""
    facts, runs = provenance({}, ""), list(runs)
    packages = facts["packages"]
    parts = [
        "# How near samplers come to a known front",
        f"Written by `python benchmarks/search_quality.py --write`: {facts['date']}, commit {facts['commit']}, "
        f"{facts['machine']['processor']}, 1 thread, load {os.getloadavg()[0]:.1f} at the end, Python "
        f"{facts['python']}, optuna {packages['optuna']}, numpy {packages['numpy']}.",
        ABOUT,
    ]
    columns = ("sampler", "seeds", "runs", *map(str, BUDGETS), f"trials to {ENOUGH:.0%}", "CPU ms an ask")
    for name, make in PROBLEMS.items():
        mine = [run for run in runs if run.problem == name]
        if not mine:
            continue
        judged = Judged(problem=make(), runs=mine)
        parts.append(f"## {TITLES[name]}")
        parts.append(about(judged.problem))
        for box, words in BOXES.items():
            parts += [f"{words}.", table(columns, (judged.line(variant, box) for variant in judged.variants))]
        parts += ["What was expected, over equal seeds:", "\n".join(verdicts(judged))]
    if TABLE.exists():
        parts += rungs(PROBLEMS["digits"]())
    return "\n\n".join(parts) + "\n"


def about(problem: Problem) -> str:
    """What a problem's space and its sensitivities come to."""
    words = (
        f"The space has {problem.layout.size:.2g} points. Sensitivities take {problem.looks} looks at val, untrained"
    )
    if problem.look is None:
        return f"{words}; what a look costs beside a trial is left open here."
    return f"{words}, which took as long as {problem.looks * problem.look:.1f} trials."


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    columns = list(columns)
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows))
