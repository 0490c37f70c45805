"""Widths by bisection: every group in turn is made as narrow as a tolerated loss allows."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

Counts = Mapping[str, int]
Judge = Callable[[Counts], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bisection:
    """What a search over widths ended with.

    `before` and `after` are the errors of the dense and of the found widths, `evaluations` counts the calls of the
    judge and `passes` the rounds over all groups, a last one without a move included.
    """

    counts: dict[str, int]
    passes: int
    evaluations: int
    before: float
    after: float


def bisect_widths(
    allowed: Mapping[str, Sequence[int]], judge: Judge, *, tolerance: float, step: float, passes: int
) -> Bisection:
    """Widths whose error, by `judge`, is at most `passes` × `tolerance` above the dense model's.

    `allowed` lists the widths of every group, ascending; the last one is the dense width and groups are visited in this
    order. A pass measures the error it starts from and may exceed it by `tolerance`, which its groups share: each is
    judged with the groups before it already narrowed, so what those use up is gone for the rest. In a pass a group
    moves to the narrowest width that is tolerated, found by bisection as if the error only rose while it shrinks (every
    width that is returned was judged, whether it does or not). It loses at most the share `step` of its width,
    rounded down, but may always try the next allowed width. The search ends with a pass that moves no group.

    Xie et al. 2021, Pruning with Compensation, https://arxiv.org/abs/2108.13728, searches widths by bisection
    with a step constraint. How tolerance and step act is our reading.
    """
    errors: dict[tuple[int, ...], float] = {}
    judge = once(judge, errors)
    widths = {group: counts[-1] for group, counts in allowed.items()}
    before, done, moved = judge(widths), 0, True
    while moved and done < passes:
        narrower = one_pass(widths, allowed, judge, judge(widths) + tolerance, step)
        widths, moved, done = narrower, narrower != widths, done + 1
    return Bisection(counts=widths, passes=done, evaluations=len(errors), before=before, after=judge(widths))


def one_pass(
    widths: Counts, allowed: Mapping[str, Sequence[int]], judge: Judge, limit: float, step: float
) -> dict[str, int]:
    """The widths after every group had its turn, with an error of at most `limit`, which `widths` keep themselves."""
    now = dict(widths)

    def tolerated(group: str, width: int) -> bool:
        return judge({**now, group: width}) <= limit

    for group, counts in allowed.items():
        now[group] = narrowest(in_reach(counts, now[group], step), partial(tolerated, group))
    return now


def in_reach(allowed: Sequence[int], width: int, step: float) -> Sequence[int]:
    """The allowed widths, ascending to `width`, that one pass may move a group to."""
    floor = ceil(round(width * (1 - step), 9))  # free of binary noise: 10 × (1 − 0.7) is 3, not 3.0000000000000004
    now = allowed.index(width)
    least = min(bisect_left(allowed, floor), now - 1)  # a narrow group would else be stuck for good
    return allowed[max(0, least) : now + 1]


def narrowest(widths: Sequence[int], tolerated: Callable[[int], bool]) -> int:
    """The first of the ascending `widths` that is tolerated; the last one is known to be, and is not asked about.

    Asks at most ⌈log2(number of widths)⌉ times.
    """
    return widths[bisect_left(range(len(widths) - 1), True, key=lambda index: tolerated(widths[index]))]


def once(judge: Judge, errors: dict[tuple[int, ...], float]) -> Judge:
    """`judge`, called once for equal widths; `errors` fills with its answers."""

    def remembered(counts: Counts) -> float:
        key = tuple(counts.values())
        if key not in errors:
            errors[key] = judge(counts)
        return errors[key]

    return remembered
