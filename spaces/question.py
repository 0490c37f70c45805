"""One decision of a space."""

from dataclasses import dataclass

from paretune.spaces.leaf import Leaf


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A parameter name, what may be answered, and the groups or layers it decides for."""

    name: str
    leaf: Leaf
    targets: tuple[str, ...] = ()
