"""What may vary: a space asks a chooser and returns a recipe. Knows names only, no tensors and no sampler."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import log2

from paretune.plan import FLOAT
from paretune.recipe import TERNARY, Joint, Keep, Masking, Penalty, Quantizing, Rate, Recipe, Recovery, Wanted
from paretune.records import digest
from paretune.spaces.leaf import Choice, Chooser, Fixed, Scalar
from paretune.spaces.mixing import Mixing
from paretune.spaces.question import Question
from paretune.spaces.sections import gathered

WHO = ("weights", "activations", "ternary", "project")  # keys of the quantize section that say who rounds, not how
WANTED = ("block", "layout", "parts", "restarts")  # keys of the mask section that belong to a layer's pattern
MASKING = ("scope", "schedule", "rounds", "epochs", "lr", "noise", "power")  # and those that all layers share


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """A uniform setting to come near to: share removed, weight and activation bits."""

    ratio: float
    weight_bits: int
    activation_bits: int


@dataclass(frozen=True, kw_only=True)
class Space:
    """A search space expanded against the names of one model; `shared` holds for the whole of it."""

    ratios: tuple[Question, ...]
    weight_bits: tuple[Question, ...]
    activation_bits: tuple[Question, ...]
    mixing: Mixing
    shared: tuple[Question, ...]
    patterns: tuple[Question, ...] = ()
    sparsities: tuple[Question, ...] = ()
    weight_quantizers: tuple[Question, ...] = ()
    activation_quantizers: tuple[Question, ...] = ()
    encodings: tuple[Question, ...] = ()

    def ask(self, chooser: Chooser) -> Recipe:
        """Put every open question to `chooser`, always in the same order."""
        return self.answer(lambda question: question.leaf.ask(question.name, chooser))

    def answer(self, decide: Callable[[Question], Scalar]) -> Recipe:
        """The recipe of `decide`'s answers."""
        answers = {question.name: decide(question) for question in self.questions}

        def by_target(questions: tuple[Question, ...]) -> dict[str, Scalar]:
            return {target: answers[q.name] for q in questions for target in q.targets}

        sparsity, asked = by_target(self.sparsities), by_target(self.weight_bits)
        pattern: Wanted = gathered(Wanted, "mask/", _of(answers, "mask", WANTED))
        whole = {name: _whole(float(bits), str(answers["quantize/project"])) for name, bits in asked.items()}
        bits = {name: _whole(float(found), str(answers["quantize/project"]))
                for name, found in by_target(self.activation_bits).items()}  # fmt: skip
        weights = {name: str(answers["quantize/weights"]) for name in asked} | by_target(self.weight_quantizers)
        weights |= {name: answers["quantize/ternary"] for name, found in asked.items() if found == TERNARY}
        activations = dict.fromkeys(bits, answers["quantize/activations"]) | by_target(self.activation_quantizers)
        return Recipe(
            blends=self.mixing.blends(answers, str(answers["blend/normalise"])),
            ratios={name: float(value) for name, value in by_target(self.ratios).items()},
            weight_bits=whole,
            activation_bits=bits,
            recovery=gathered(Recovery, "recover/", answers),
            reduce=str(answers["reduce"]),
            rate=gathered(Rate, "rate/", answers),
            keep=gathered(Keep, "keep/", answers),
            wanted={
                name: replace(pattern, kind=str(kind), sparsity=float(sparsity[name]))
                for name, kind in by_target(self.patterns).items()
                if kind != "channel"
            },
            masking=replace(
                gathered(Masking, "mask/", _of(answers, "mask", MASKING)),
                penalty=gathered(Penalty, "mask/penalty/", answers),
            ),
            weight_quantizers={name: str(found) for name, found in weights.items()},
            activation_quantizers={name: str(found) for name, found in activations.items()},
            encodings={name: str(found) for name, found in by_target(self.encodings).items() if found != "cheapest"},
            quantizing=gathered(Quantizing, "quantize/", _but(answers, "quantize", WHO)),
            joint=_joint(answers, (weights, whole), (activations, bits)),
        )

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """All questions, the fixed ones included."""
        rounding = (*self.weight_quantizers, *self.activation_quantizers, *self.encodings)
        layers = (*self.weight_bits, *self.activation_bits, *rounding, *self.patterns, *self.sparsities)
        return (*self.ratios, *layers, *self.mixing.questions, *self.shared)

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits that change when the space does."""
        return digest(self)

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria a recipe may name."""
        return self.mixing.criteria

    def options(self, name: str) -> tuple[Scalar, ...]:
        """What the question called `name` may be answered with: all of a choice, the ends of a range."""
        leaf = next(question.leaf for question in self.shared if question.name == name)
        return leaf.options if isinstance(leaf, Choice) else tuple(dict.fromkeys(leaf.ends()))

    @cached_property
    def kinds(self) -> dict[str, tuple[str, ...]]:
        """The patterns that each layer may get, besides whole channels."""
        found: dict[str, tuple[str, ...]] = {}
        for question in self.patterns:
            leaf = question.leaf
            options = leaf.options if isinstance(leaf, Choice) else leaf.ends()
            kinds = tuple(str(kind) for kind in dict.fromkeys(options) if kind != "channel")
            found |= {target: kinds for target in question.targets if kinds}
        return found

    @property
    def rules(self) -> tuple[str, ...]:
        """The rate rules a recipe may name, those behind a target included."""
        rules = tuple(map(str, self.options("rate/rule")))
        return (*rules, *map(str, self.options("rate/target/of"))) if "target" in rules else rules

    @property
    def ranking(self) -> tuple[str, ...]:
        """The criteria whose sensitivity curves the rule `knee` may read."""
        by = dict.fromkeys(map(str, self.options("rate/knee/by")))
        same = self.criteria if self.mixing.plain is not None else ()
        return tuple(dict.fromkeys(name for one in by for name in (same if one == "same" else (one,))))

    def choices(self, chooser: Chooser) -> dict[str, Scalar]:
        """What `chooser` answers to every open question, by name and as the value that is meant, not its index."""
        return {q.name: q.leaf.ask(q.name, chooser) for q in self.questions if not isinstance(q.leaf, Fixed)}

    def near(self, wish: Wish) -> dict[str, Scalar]:
        """The parameters of the point nearest to a uniform setting; everything else at its default:
        the first name, the largest number of a list, the middle of a range.
        """
        wishes: Mapping[str, float] = {
            **dict.fromkeys((q.name for q in self._removing), wish.ratio),
            **dict.fromkeys((q.name for q in self.weight_bits), wish.weight_bits),
            **dict.fromkeys((q.name for q in self.activation_bits), wish.activation_bits),
        }
        params: dict[str, Scalar] = {}
        for question in self.questions:
            params |= question.leaf.near(question.name, wishes.get(question.name))
        return params

    def smallest(self) -> Recipe:
        """The recipe that removes most and stores fewest bits: no cost can go below its (but see the rate's rule)."""
        largest = {question.name for question in self._removing}
        return self.answer(lambda question: question.leaf.ends()[1 if question.name in largest else 0])

    @property
    def _removing(self) -> tuple[Question, ...]:
        uniform = tuple(question for question in self.shared if question.name == "rate/ratio")
        return (*self.ratios, *self.sparsities, *uniform)

    def describe(self) -> dict[str, str]:
        """Parameter name to what may be answered, in words: for the record and for telling two spaces apart."""
        return {question.name: str(question.leaf) for question in self.questions}


def _of(answers: Mapping[str, Scalar], section: str, keys: Collection[str]) -> dict[str, Scalar]:
    """The answers of a section that belong to `keys`."""
    return {f"{section}/{key}": answers[f"{section}/{key}"] for key in keys}


def _but(answers: Mapping[str, Scalar], section: str, keys: Collection[str]) -> dict[str, Scalar]:
    """The answers of a section that do not belong to `keys`."""
    own = [name for name in answers if name.startswith(f"{section}/")]
    return {name: answers[name] for name in own if name.removeprefix(f"{section}/") not in keys}


def _whole(bits: float, project: str) -> int:
    """Bits as a whole number, the nearest power of two if asked; ternary weights take two."""
    if bits == TERNARY:
        return 2
    return int(bits) if project == "free" or bits == FLOAT else 2 ** round(log2(bits))


Rounding = tuple[Mapping[str, Scalar], Mapping[str, int]]  # quantizers and bits by layer


def _joint(answers: Mapping[str, Scalar], weights: Rounding, activations: Rounding) -> Joint | None:
    """The joint training, if there is one: the bits of all layers that "djpq" rounds are free."""
    if answers["joint/method"] == "none":
        return None

    def free(rounding: Rounding) -> dict[str, int]:
        quantizers, bits = rounding
        return {name: bits[name] for name, who in quantizers.items() if who == "djpq" and bits[name] < FLOAT}

    build = partial(Joint, weight_bits=free(weights), activation_bits=free(activations))
    found: Joint = gathered(build, "joint/", _but(answers, "joint", ("method",)))
    return replace(found, minimum=int(answers["keep/minimum"]))
