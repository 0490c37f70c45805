"""A study in a few sentences, and in the few lines a terminal gets."""

from paretune.findings import Findings, Trial
from paretune.report.hypervolume import covered_by
from paretune.report.picks import Pick, ask, dense_pick, limit_text
from paretune.report.rival import beside
from paretune.report.text import change, count, counted, finished, label, measured, scored

NOTHING = 1e-9  # a hypervolume that rose by less did not rise


def found(findings: Findings) -> str:
    """What the knee point gained over the dense model."""
    knee, dense = ask(findings, "knee", "knee").trial, dense_pick(findings).trial
    if knee is None:
        return f"No trial has {finished(findings)} yet: there is nothing to choose from."
    if dense is None:
        return f"The knee point (trial {knee.number}) has {measured(findings, knee)} on val."
    if knee is dense:
        return "Nothing found so far is a better trade-off than the dense model."
    quality, *costs = findings.objectives
    gains = [
        change(dense.values[cost.name], knee.values[cost.name], cost.unit)
        + ("" if cost.unit in ("bytes", "share") else f" {label(cost.name)}")  # "smaller" needs no noun, "fewer" does
        for cost in costs
    ]
    before, after = (scored(findings, trial) for trial in (dense, knee))
    return f"{' and '.join(gains)}, {label(quality.name)} {before} → {after} on val (knee point, trial {knee.number})."


def added(findings: Findings) -> str:
    """What the search added to controls and seeds, also if that is nothing; which controls only the budget excludes."""
    return f"{_raised(findings)}{_trained_further(findings)}{_excluded(findings)}"


def _raised(findings: Findings) -> str:
    """The hypervolume of controls, with the seeds and with the search, and how many trials stand on each side."""
    groups = {kind: [t for t in findings.candidates if t.kind == kind] for kind in ("control", "seed", "search")}
    controls, seeds, searched = groups["control"], groups["seed"], groups["search"]
    heights = [covered_by(findings, some) for some in (controls, [*controls, *seeds], [*controls, *seeds, *searched])]
    if not seeds:
        none = any(trial.kind == "seed" for trial in findings.trials)
        lead = f"No seed has {finished(findings)}. " if none else ""
        return lead + _search_raised(findings, heights[1:], searched, start=_start(findings, controls, heights[0]))
    count_seeds = count(len(seeds), "seed")
    if heights[1] - heights[0] <= NOTHING:
        sides = f"{count(len(controls), 'control')}, {count_seeds}"
        lead = f"Seeds added nothing to the controls: hypervolume stays at {heights[0]:.4f} ({sides})."
        return f"{lead} {_search_raised(findings, heights[1:], searched)}"
    lead = f"Seeds raised hypervolume from {_start(findings, controls, heights[0])} to {heights[1]:.4f} ({count_seeds})"
    text = _search_raised(findings, heights[1:], searched)
    both = bool(searched) and heights[2] - heights[1] > NOTHING
    return f"{lead}; t{text[1:]}" if both else f"{lead}. {text}"


def _start(findings: Findings, controls: list[Trial], height: float) -> str:
    """What the controls reach, or why that is nothing."""
    if controls:
        left = any(trial.kind == "control" and not trial.feasible for trial in findings.trials)
        within = " within the budget" if left else ""
        return f"{height:.4f} ({count(len(controls), 'control')}{within})"
    every = any(trial.kind == "control" for trial in findings.trials)
    return f"0 ({f'no control {finished(findings)}' if every else 'there were no controls to compare with'})"


def _search_raised(findings: Findings, heights: list[float], searched: list[Trial], start: str = "") -> str:
    """What the search did to the hypervolume before it; `start` says that one where no seeds were there to say it."""
    stopped = sum(t.kind == "search" and t.status == "stopped" and t.same_as is None for t in findings.trials)
    if not searched:
        early = f" ({stopped} stopped early)" if stopped else ""
        return f"No searched trial has {finished(findings)}{early}."
    before, after = heights
    sides = count(len(searched), "searched trial") + (f", {stopped} more stopped early" if stopped else "")
    if after - before <= NOTHING:
        controls = count(sum(trial.kind == "control" for trial in findings.candidates), "control")
        what, who = ("the controls", f"{controls}, {sides}") if start else ("controls and seeds", sides)
        return f"The search added nothing to {what}: hypervolume stays at {before:.4f} ({who})."
    share = f"{sum(trial.kind == 'search' for trial in findings.front)} of the {len(findings.front)}"
    raised, comma = (f"hypervolume from {start}", ",") if start else ("it", "")
    much = f"to {after:.4f}" if f"{after:.4f}" != f"{before:.4f}" else "by less than 0.0001"
    return f"The search raised {raised} {much} (with {sides}){comma} and found {share} points on the front."


def _trained_further(findings: Findings) -> str:
    """What the finishes added to controls and search; "" if there is none."""
    finishes = [trial for trial in findings.candidates if trial.kind == "finish"]
    if not finishes:
        return ""
    rest = [trial for trial in findings.candidates if trial.kind != "finish"]
    before, after = covered_by(findings, rest), covered_by(findings, findings.trials)
    who = f" Further training ({count(len(finishes), 'finish')})"
    if after - before <= NOTHING:
        return f"{who} did not raise it."
    share = f"{sum(trial.kind == 'finish' for trial in findings.front)} of the {len(findings.front)}"
    return f"{who} raised it to {after:.4f} and holds {share} points on the front."


def _excluded(findings: Findings) -> str:
    """The compressed controls that beat the whole front in quality but not the budget; "" if there is none."""
    if not findings.front:
        return ""
    quality = findings.names[0]
    best = findings.front[0].values[quality]
    better = [
        trial.label for trial in findings.trials
        if trial.kind == "control" and trial is not findings.dense and not trial.feasible
        and trial.values.get(quality, best) < best
    ]  # fmt: skip
    if not better:
        return ""
    names, verbs = (f"control {better[0]}", ("has", "is"))
    if better[1:]:
        names, verbs = f"controls {', '.join(better[:-1])} and {better[-1]}", ("have", "are")
    return (
        f" The {names} {verbs[0]} a lower {label(quality)} than every point on the front, "
        f"but {verbs[1]} over the budget."
    )


def summary_lines(findings: Findings) -> list[str]:
    """What the command line prints after a study: dense model, best under each budget, knee, where the report is."""
    rows = [dense_pick(findings)]
    for name, limit in findings.budget.items():
        rows.append(ask(findings, f"best under {limit_text(findings, name, limit)}", "budget", under={name: limit}))
    rows.append(ask(findings, "knee", "knee"))
    width = max(len(row.name) for row in rows)
    lines = [f"{row.name:<{width}}  {_line(findings, row)}" for row in rows]
    head = [f"{findings.name}: {counted(findings)}", *lines, added(findings)]
    head += [beside(findings)] if findings.rival else []
    return [*head, f"{'report':<{width}}  {findings.folder}/report.html"]


def _line(findings: Findings, pick: Pick) -> str:
    if pick.trial is None:
        return f"none: {pick.note}"
    return f"{measured(findings, pick.trial)}  (trial {pick.trial.number})"
