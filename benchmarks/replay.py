"""What rungs would have made of trials whose scores are known."""

from collections.abc import Iterable
from dataclasses import replace

from paretune.outcome import Rung
from paretune.search.gate import Gate


def through(rungs: Iterable[Rung], gate: Gate, length: int) -> tuple[tuple[Rung, ...], str]:
    """The rungs up to where `gate` stops a trial of `length` epochs, judged as it says, and why; "" if it goes on."""
    seen: list[Rung] = []
    for rung in rungs:
        answer = gate.judge(rung.epochs, rung.score) if gate.looks(rung.epochs, length) else None
        seen.append(replace(rung, judged=answer is not None))
        if answer:
            return tuple(seen), answer
    return tuple(seen), ""
