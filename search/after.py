"""What comes when the search is over: the best trial trained further, the front under further seeds."""

from collections.abc import Sequence

from paretune.findings import Trial
from paretune.search.fronts import front_of

AFTER = ("finish", "repeat")


def is_after(row: Trial) -> bool:
    """True for rows that are no trials of the search itself."""
    return row.kind in AFTER


def finish_of(rows: Sequence[Trial], objectives: Sequence[str]) -> Trial | None:
    """The seed or searched trial with the best quality, the smaller costs where two are equal; None if it has been
    finished already or there is none.
    """
    done = [row for row in rows if row.kind in ("seed", "search") and row.status == "done" and row.feasible]
    best = min(done, key=lambda row: (*(row.values[name] for name in objectives), row.number), default=None)
    known = best is not None and any(row.kind == "finish" and row.of == best.number for row in rows)
    return None if known else best


def repeat_of(rows: Sequence[Trial], objectives: Sequence[str], repeats: int) -> tuple[Trial, int] | None:
    """The next point of the front to evaluate again, and under which further seed (from 1): every point under the first
    before any under the second; None if all have had `repeats`.

    What is not trained is left out: no seed changes it.
    """
    front = front_of(rows, objectives)
    counts = {row.number: sum(other.kind == "repeat" and other.of == row.number for other in rows) for row in front}
    members = [row for row in front if _trained(row) and counts[row.number] < repeats]
    chosen = min(members, key=lambda row: (counts[row.number], row.number), default=None)
    return None if chosen is None else (chosen, counts[chosen.number] + 1)


def _trained(row: Trial) -> bool:
    """Whether a seed plays any part in what the trial found."""
    plan = row.plan
    if plan is None:
        return False
    return bool(plan.recovery.epochs or plan.recovery.start == "scratch" or plan.pruning or plan.joint)
