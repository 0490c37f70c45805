"""The decisions of a space whose effect can be measured one at a time: shares removed and bits, mildest first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paretune.plan import FLOAT
from paretune.samplers.layout import block_of
from paretune.spaces.leaf import Choice, Fixed, Range, Scalar
from paretune.spaces.question import Question
from paretune.spaces.space import Space, Wish

GRID = 9  # settings of a range that has no steps
MOST = 33  # settings of one that has; every further one would be priced thousands of times
MILDEST = Wish(ratio=0.0, weight_bits=FLOAT, activation_bits=FLOAT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A question and its settings in the order of rising compression; `params[i]` is the parameter that asks for
    `settings[i]`, all under the same name.
    """

    name: str
    param: str
    settings: tuple[float, ...]
    params: tuple[Scalar, ...]
    block: str


def decisions_of(space: Space) -> tuple[Decision, ...]:
    """Every open decision on how much is removed or in how many bits something is stored, in the space's order."""
    shared = [question for question in space.shared if question.name in _read(space)]
    removing = [*space.ratios, *space.sparsities, *(q for q in shared if q.name == "rate/ratio")]
    keeping = [*space.weight_bits, *space.activation_bits, *(q for q in shared if q.name == "rate/target/share")]
    open_ones = [(q, False) for q in removing] + [(q, True) for q in keeping]
    return tuple(_decision(q, falling=falling) for q, falling in open_ones if not isinstance(q.leaf, Fixed))


def mildest(space: Space, decisions: Sequence[Decision]) -> dict[str, Scalar]:
    """The parameters of the point that compresses least; all that is no decision is at its default."""
    return {**space.near(MILDEST), **{decision.param: decision.params[0] for decision in decisions}}


def point_at(base: Mapping[str, Scalar], decisions: Sequence[Decision], options: Sequence[int]) -> dict[str, Scalar]:
    """The parameters of `base` with option `options[i]` of every decision."""
    chosen = {one.param: one.params[at] for one, at in zip(decisions, options, strict=True)}
    return {**base, **chosen}


def _read(space: Space) -> set[str]:
    """The shares that a rule of the space reads."""
    reads = {"uniform": "rate/ratio", "global": "rate/ratio", "target": "rate/target/share"}
    return {reads[rule] for rule in space.rules if rule in reads}


def _decision(question: Question, *, falling: bool) -> Decision:
    leaf, targets = question.leaf, question.targets
    if isinstance(leaf, Choice):
        pairs: list[tuple[float, Scalar]] = [(float(option), place) for place, option in enumerate(leaf.options)]
        pairs.sort(key=lambda pair: pair[0], reverse=falling)
        param = f"{question.name}@index"
    else:
        assert isinstance(leaf, Range)
        pairs = [(float(value), value) for value in _grid(leaf)]
        pairs = pairs[::-1] if falling else pairs
        param = question.name
    return Decision(
        name=question.name, param=param, settings=tuple(setting for setting, _ in pairs),
        params=tuple(value for _, value in pairs), block=block_of(targets[0]) if targets else question.name,
    )  # fmt: skip


def _grid(leaf: Range) -> list[float]:
    """The values on the leaf's own grid, `MOST` of them evenly spread if there are more; or `GRID` without one."""
    low, high = leaf.ends()
    if leaf.step is None and not leaf.whole:
        span = float(high) - float(low)
        return [float(low) + span * place / (GRID - 1) for place in range(GRID)]
    step = leaf.step or 1
    count = round((float(high) - float(low)) / step) + 1
    places = range(count) if count <= MOST else [round(at * (count - 1) / (MOST - 1)) for at in range(MOST)]
    return [leaf.nearest(float(low) + step * place) for place in places]
