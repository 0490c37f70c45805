"""Control trials: the dense model and the uniform settings that a search has to beat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paretune.plan import FLOAT
from paretune.recipe import Recipe
from paretune.spaces.leaf import Scalar
from paretune.spaces.space import Space, Wish

WISHES = (
    Wish(ratio=0.0, weight_bits=8, activation_bits=8),
    Wish(ratio=0.0, weight_bits=4, activation_bits=4),
    Wish(ratio=0.3, weight_bits=8, activation_bits=8),
    Wish(ratio=0.5, weight_bits=8, activation_bits=8),
    Wish(ratio=0.5, weight_bits=4, activation_bits=4),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """A trial that is not searched for; `params` is None for the dense model, which lies in no space."""

    label: str
    params: Mapping[str, Scalar] | None


@dataclass(frozen=True)
class Given:
    """A chooser that answers from a table of parameters."""

    params: Mapping[str, Scalar]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The given number."""
        return float(self.params[name])

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The given whole number."""
        return int(self.params[name])

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """The given option."""
        return str(self.params[name])


def controls_of(space: Space) -> tuple[Control, ...]:
    """The controls in order of trial number: dense, then the points of the space nearest to uniform settings.

    They get the same recovery as every other trial. Wishes that meet in the same point count once, and the
    label says what the point really is, so a space without 8 bits has no control called 8-bit.
    """
    found = {label(space.ask(Given(near))): near for near in map(space.near, WISHES)}
    uniform = (Control(label=text, params=params) for text, params in found.items())
    return (Control(label="dense", params=None), *uniform)


def label(recipe: Recipe) -> str:
    """A uniform recipe in words, such as "uniform w4 a8 ratio 0.3", by the settings most layers have."""
    words = [f"uniform {_bits('w', recipe.weight_bits)} {_bits('a', recipe.activation_bits)}"]
    ratio = _common(recipe.ratios)
    return " ".join([*words, f"ratio {ratio:g}"] if ratio else words)


def _bits(letter: str, by_layer: Mapping[str, int]) -> str:
    bits = int(_common(by_layer))
    return "float" if bits == FLOAT else f"{letter}{bits}"


def _common(by_name: Mapping[str, float]) -> float:
    values = list(by_name.values())
    return max(sorted(set(values)), key=values.count) if values else 0.0
