"""One error family. A message says what was asked, what was got, and what would work."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class ParetuneError(Exception):
    """Something the user can put right. The commands print it as one line and exit with code 2."""


class UnknownName(ParetuneError):
    """A name that is in no table; the message holds the near miss and the known names."""


class ImpossiblePlan(ParetuneError):
    """A plan that cannot be carried out: a recorded failed trial, never the end of a study."""


class OutOfTime(ImpossiblePlan):
    """A trial that outlasted its time limit and was stopped at a batch boundary."""


def near_miss(name: str, known: Iterable[str]) -> str:
    """A hint such as " Did you mean 'taylor'? Known: l1, taylor." for an unknown name."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{hint} Known: {', '.join(known) or 'none'}."


def pick(table: Mapping[str, T], name: str, kind: str) -> T:
    """The entry called `name`.

    Raises:
        UnknownName: says which names exist and which one is nearest.
    """
    if name in table:
        return table[name]
    raise UnknownName(f"no {kind} is called '{name}'.{near_miss(name, table)}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
