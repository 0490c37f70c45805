"""The one rule of the space language: a scalar is fixed, a list is a choice, {low, high} is a range."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import isfinite
from typing import Any, Protocol

from paretune.errors import ParetuneError, near_miss

Scalar = str | int | float
Check = Callable[[Any], str]  # what is wrong with a value, or ""
RANGE_KEYS = ("low", "high", "step", "log")


class Chooser(Protocol):
    """The questions a space may ask. Optuna's Trial and FixedTrial both answer them."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A float in [low, high], on a grid of `step` or on a log scale."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """One of `choices`, which have no order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """A value nobody is asked about."""

    value: Scalar

    def ask(self, name: str, chooser: Chooser) -> Scalar:
        """The value itself."""
        return self.value

    def near(self, name: str, wish: float | None) -> dict[str, Scalar]:
        """No parameter is needed."""
        return {}

    def ends(self) -> tuple[Scalar, Scalar]:
        """The smallest and largest value."""
        return self.value, self.value

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of a few options. Numbers keep their order: the sampler sees the index, as `name@index`."""

    options: tuple[Scalar, ...]

    @property
    def ordered(self) -> bool:
        """True if every option is a number."""
        return not any(isinstance(option, str) for option in self.options)

    def ask(self, name: str, chooser: Chooser) -> Scalar:
        """The chosen option."""
        if self.ordered:
            return self.options[chooser.suggest_int(f"{name}@index", 0, len(self.options) - 1)]
        return chooser.suggest_categorical(name, [str(option) for option in self.options])

    def near(self, name: str, wish: float | None) -> dict[str, Scalar]:
        """The parameter that gives the option nearest to `wish`; without a wish the last number or first name."""
        if not self.ordered:
            return {name: self.options[0]}
        last = len(self.options) - 1
        if wish is None:
            return {f"{name}@index": last}
        target = wish
        return {f"{name}@index": min(range(last + 1), key=lambda i: (abs(float(self.options[i]) - target), i))}

    def ends(self) -> tuple[Scalar, Scalar]:
        """The smallest and largest option."""
        return min(self.options, key=_sortable), max(self.options, key=_sortable)

    def __str__(self) -> str:
        return " or ".join(map(str, self.options))


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Numbers from `low` to `high`: whole ones if both ends and the step are, on a grid, or on a log scale."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """True if only whole numbers are asked for."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    def ask(self, name: str, chooser: Chooser) -> Scalar:
        """The chosen number, free of the rounding noise of a grid."""
        if self.whole:
            return chooser.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        value = chooser.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return self.nearest(value) if self.step else value

    def near(self, name: str, wish: float | None) -> dict[str, Scalar]:
        """The parameter nearest to `wish`; without one the middle, geometric on a log scale."""
        middle = (self.low * self.high) ** 0.5 if self.log else (self.low + self.high) / 2
        value = min(max(middle if wish is None else wish, self.low), self.high)
        return {name: self.nearest(value) if self.step or self.whole else value}

    def ends(self) -> tuple[Scalar, Scalar]:
        """The smallest and largest number that can be reached."""
        if self.step is None:
            return self.low, self.high
        return self.low, self.nearest(self.high)

    def nearest(self, value: float) -> float:
        """The nearest grid number; counted in decimals, as Optuna does, because binary sums leave the range."""
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step or 1))
        steps = min(round((Decimal(str(value)) - low) / step), int((high - low) // step))
        return int(low + steps * step) if self.whole else float(low + steps * step)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" + (f" by {self.step}" if self.step else "") + (" log" if self.log else "")


Leaf = Fixed | Choice | Range


def _sortable(option: Scalar) -> tuple[bool, Scalar]:
    return isinstance(option, str), option


def parse_leaf(key: str, value: Any, check: Check) -> Leaf:
    """The leaf that `value` (from YAML) describes; `key` names it in messages, `check` judges single values.

    Raises:
        ParetuneError: not a scalar, list or range, an empty or doubled choice, ends in the wrong order, or a value
            that `check` refuses.
    """
    if isinstance(value, Mapping):
        leaf: Leaf = _range(key, value)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if not value or any(option in value[:place] for place, option in enumerate(value)):
            raise ParetuneError(f"{key}: a choice needs one or more different options, got {list(value)}")
        leaf = Choice(options=tuple(value)) if len(value) > 1 else Fixed(value=value[0])
    else:
        leaf = Fixed(value=value)
    for candidate in _tried(leaf):
        if problem := check(candidate):
            raise ParetuneError(f"{key}: {problem}, got {candidate!r}")
    return leaf


def _tried(leaf: Leaf) -> Iterable[Scalar]:
    """All values of a leaf, or the ends if there are too many."""
    if isinstance(leaf, Choice):
        return leaf.options
    if isinstance(leaf, Range) and leaf.whole and leaf.high - leaf.low <= 1000:
        return range(int(leaf.low), int(leaf.high) + 1, int(leaf.step or 1))
    return leaf.ends()


def _range(key: str, value: Mapping[str, Any]) -> Leaf:
    for name in value:
        if name not in RANGE_KEYS:
            raise ParetuneError(f"{key}: a range has no '{name}'.{near_miss(str(name), RANGE_KEYS)}")
    if "low" not in value or "high" not in value:
        raise ParetuneError(f"{key}: a range needs low and high, got {dict(value)}")
    leaf = Range(**value)
    numbers = (leaf.low, leaf.high, 1 if leaf.step is None else leaf.step)
    if not all(map(_number, numbers)):
        raise ParetuneError(f"{key}: low, high and step must be numbers, got {dict(value)}")
    if not isinstance(leaf.log, bool):
        raise ParetuneError(f"{key}: log is true or false, got {leaf.log!r}")
    if leaf.high < leaf.low or (leaf.step is not None and leaf.step <= 0) or (leaf.log and leaf.low <= 0):
        raise ParetuneError(f"{key}: a range needs low <= high, step > 0, and low > 0 with log, got {dict(value)}")
    if leaf.log and leaf.step is not None:
        raise ParetuneError(f"{key}: a range has either step or log, not both")
    if leaf.step is not None:
        leaf = replace(leaf, high=leaf.nearest(leaf.high))  # Optuna warns about an end that is not on the grid
    return Fixed(value=leaf.low) if leaf.low == leaf.high else leaf


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
