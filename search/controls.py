"""Control trials: the dense model and the uniform settings that a search has to beat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from paretune.plan import FLOAT
from paretune.spaces.leaf import Fixed, Scalar
from paretune.spaces.question import Question
from paretune.spaces.space import Space, Wish

EVEN = ("per_layer", "uniform")  # rules under which a control treats all groups alike
WISHES = (
    Wish(ratio=0.0, weight_bits=8, activation_bits=8),
    Wish(ratio=0.0, weight_bits=4, activation_bits=4),
    Wish(ratio=0.3, weight_bits=8, activation_bits=8),
    Wish(ratio=0.5, weight_bits=8, activation_bits=8),
    Wish(ratio=0.5, weight_bits=4, activation_bits=4),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """A trial that is not searched for: a control, or a seed; `params` is None for the dense model, which lies in no
    space.
    """

    label: str
    params: Mapping[str, Scalar] | None
    kind: Literal["control", "seed"] = "control"


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

    They get as many epochs as every other trial, at the middle learning rate and the first criterion. Wishes that
    meet in the same point count once, and the label says what the point really is, so a space without 8 bits has
    no control called 8-bit.
    """
    points: dict[str, Mapping[str, Scalar]] = {}
    for near in map(space.near, WISHES):
        text = label(space, near)
        if near in points.values() or (text in points and not text.startswith("uniform")):
            continue  # under other rules two points of one name make the same plan
        points[text if text not in points else f"{text} ({len(points)})"] = near
    return (Control(label="dense", params=None), *(Control(label=text, params=p) for text, p in points.items()))


def label(space: Space, params: Mapping[str, Scalar]) -> str:
    """A point in words, such as "uniform w4 a8 ratio 0.3": what the space leaves open is set to that, by that rule."""
    recipe = space.ask(Given(params))
    rate = recipe.rate
    words = [
        "uniform" if rate.rule in EVEN else rate.rule,
        _bits("w", _text(space.weight_bits, recipe.weight_bits)),
        _bits("a", _text(space.activation_bits, recipe.activation_bits)),
    ]
    ratio = {"per_layer": _text(space.ratios, recipe.ratios), "uniform": f"{rate.ratio:g}", "global": f"{rate.ratio:g}",
             "target": f"{rate.share:g} of {rate.cost}"}.get(rate.rule, "")  # fmt: skip
    sparsity = {name: want.sparsity for name, want in recipe.wanted.items() if want.sparsity}
    words += [f"ratio {ratio}"] if ratio not in ("", "0") else []
    return " ".join(words + ([f"sparsity {_text((), sparsity)}"] if sparsity else []))


def _bits(letter: str, text: str) -> str:
    return f"{letter}-float" if text == str(FLOAT) else f"{letter}{text}"


def _text(questions: Sequence[Question], answers: Mapping[str, float]) -> str:
    """The value, or the range of values, of what is open; of everything if nothing is."""
    chosen = [q for q in questions if not isinstance(q.leaf, Fixed)] or questions
    values = {answers[target] for question in chosen for target in question.targets} if chosen else {*answers.values()}
    ends = sorted({min(values), max(values)}) if values else []
    return "–".join(f"{value:g}" for value in ends)
