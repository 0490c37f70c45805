"""Which plans a study has tried already, so that none is tried twice."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

from paretune.findings import Trial
from paretune.plan import Plan
from paretune.samplers.layout import layout_of
from paretune.search.after import is_after
from paretune.search.clock import Clock
from paretune.search.controls import Given
from paretune.search.evaluate import CANNOT
from paretune.search.planner import Planner
from paretune.spaces.space import Space

LUCK = ("OutOfTime", "MemoryError", "OutOfMemoryError", "RuntimeError")  # how the reasons of such failures begin
COUNTED = 2048  # points of a space whose plans are all made beforehand, to know when none is left


@dataclass(kw_only=True, eq=False)
class Known:
    """The trials by the plan they asked for. Different parameters may ask for one plan: what is told apart is plans."""

    space: Space
    planner: Planner
    first: dict[str, Trial] = field(default_factory=dict)
    choices: set[tuple[Any, ...]] = field(default_factory=set)

    def add_all(self, rows: Iterable[Trial]) -> "Known":
        """With these trials, too."""
        for row in rows:
            self.add(row)
        return self

    def add(self, row: Trial) -> None:
        """With this trial, too."""
        if is_after(row):
            return
        self.choices.add(_sorted(row.params))
        if row.plan is not None and self.twin(row.plan.asked) is None:
            self.first[row.plan.asked.key] = row

    def twin(self, plan: Plan) -> Trial | None:
        """The first trial that asked for this plan; None if it had no luck with time or memory, which may change."""
        found = self.first.get(plan.key)
        return None if found is not None and found.reason.startswith(LUCK) else found

    def has(self, params: Mapping[str, Any]) -> bool:
        """True if these parameters ask for a plan that was tried."""
        key = plan_key(self.planner, self.space, params) if self.quick else None
        return _sorted(self.space.choices(Given(params))) in self.choices if key is None else key in self.first

    def all_of(self) -> bool:
        """True if no plan of a small space is left to try; of a large one nobody counts them."""
        return bool(self._every) and self._every <= self.first.keys()

    @cached_property
    def quick(self) -> bool:
        """Whether a plan takes a millisecond: no masks to find, no cuts to try."""
        return not self.space.kinds and "binary" not in self.space.rules

    @cached_property
    def _every(self) -> frozenset[str]:
        """The keys of all plans of a small space that can be made; none of a large one."""
        layout = layout_of(self.space)
        if not self.quick or layout.size > COUNTED:
            return frozenset()
        rows = product(*(range(axis.levels or 0) for axis in layout.axes))
        keys = (plan_key(self.planner, self.space, layout.params(row)) for row in rows)
        return frozenset(key for key in keys if key is not None)


def plan_key(planner: Planner, space: Space, params: Mapping[str, Any]) -> str | None:
    """The key of the plan that the parameters ask for; None if it cannot be made."""
    try:
        return planner.plan(space.ask(Given(params)), Clock()).plan.key
    except CANNOT:
        return None


def _sorted(choices: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(choices.items()))
