"""One operation on tensors with channels in them, as the rules see it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from paretune.compress.labels import Atoms, Field, Labels, Split

Fields = tuple[Field, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation: its arguments by name, the tensors it made, and `reason`, why channels would not get past it."""

    book: Atoms
    given: Mapping[str, Any]
    made: tuple[Tensor, ...]
    of: Callable[[Tensor], Labels]
    reason: str
    module: str

    @property
    def source(self) -> Tensor:
        """The tensor that it mainly reads."""
        found = next(value for value in self.given.values() if isinstance(value, Tensor))
        return found

    @property
    def fields(self) -> Fields:
        """The channels in the tensor that it mainly reads."""
        return self.of(self.source).fields

    @property
    def rank(self) -> int:
        """How many axes that tensor has."""
        return self.source.dim()

    def axis(self, name: str = "dim", default: int = 0) -> int:
        """An axis argument, counted from the front."""
        return int(self.given.get(name, default)) % max(self.rank, 1)

    def axes(self, name: str = "dim") -> list[int]:
        """Axes to reduce, all if none are named."""
        asked = self.given.get(name)
        asked = [asked] if isinstance(asked, int) else list(asked or range(self.rank))
        return [axis % max(self.rank, 1) for axis in asked]

    def every(self, fields: Fields) -> list[Fields]:
        """The same channels in all tensors that it made."""
        return [fields] * len(self.made)

    def split(self, atoms: Any) -> None:
        """Notes an axis of channels that was taken apart, one axis per factor."""
        self.book.splits.append(Split(atoms=np.asarray(atoms)[..., None], module=self.module))


Rule = Callable[[Step], Sequence[Fields]]


def rules(rule: Rule, names: str) -> dict[str, Rule]:
    """The same rule for operations by name, separated by spaces."""
    return dict.fromkeys(names.split(), rule)


def mixed(step: Step, axes: Sequence[int]) -> Fields:
    """What is left when all positions along `axes` have been mixed."""
    kept = (step.book.without(item, axes, step.reason) for item in step.fields)
    return tuple(item for item in kept if item)
