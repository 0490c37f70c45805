"""What may vary: a space asks a chooser and returns a recipe. Knows names only, no tensors and no sampler."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from paretune.recipe import Recipe, Recovery
from paretune.records import digest
from paretune.spaces.leaf import Choice, Chooser, Fixed, Leaf, Scalar


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One decision: a parameter name, what may be answered, and the groups or layers it decides for."""

    name: str
    leaf: Leaf
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """A uniform setting to come near to: share removed, weight and activation bits."""

    ratio: float
    weight_bits: int
    activation_bits: int


@dataclass(frozen=True, kw_only=True)
class Space:
    """A search space expanded against the names of one model."""

    ratios: tuple[Question, ...]
    weight_bits: tuple[Question, ...]
    activation_bits: tuple[Question, ...]
    criterion: Question
    epochs: Question
    lr: Question
    distill: Question

    def ask(self, chooser: Chooser) -> Recipe:
        """Put every open question to `chooser`, always in the same order."""
        return self.answer(lambda question: question.leaf.ask(question.name, chooser))

    def answer(self, decide: Callable[[Question], Scalar]) -> Recipe:
        """The recipe of `decide`'s answers."""
        ratios = {target: float(value) for q in self.ratios for value in [decide(q)] for target in q.targets}
        weight_bits = {target: int(value) for q in self.weight_bits for value in [decide(q)] for target in q.targets}
        activation_bits = {
            target: int(value) for q in self.activation_bits for value in [decide(q)] for target in q.targets
        }
        return Recipe(
            criterion=str(decide(self.criterion)),
            ratios=ratios,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            recovery=Recovery(
                epochs=int(decide(self.epochs)), lr=float(decide(self.lr)), distill=str(decide(self.distill))
            ),
        )

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """All questions, the fixed ones included."""
        shared = (self.criterion, self.epochs, self.lr, self.distill)
        return (*self.ratios, *self.weight_bits, *self.activation_bits, *shared)

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits that change when the space does."""
        return digest(self)

    @cached_property
    def criteria(self) -> tuple[str, ...]:
        """The criteria a recipe may name."""
        leaf = self.criterion.leaf
        return tuple(map(str, leaf.options)) if isinstance(leaf, Choice) else (str(leaf.ends()[0]),)

    def choices(self, chooser: Chooser) -> dict[str, Scalar]:
        """What `chooser` answers to every open question, by name and as the value that is meant, not its index."""
        return {q.name: q.leaf.ask(q.name, chooser) for q in self.questions if not isinstance(q.leaf, Fixed)}

    def near(self, wish: Wish) -> dict[str, Scalar]:
        """The parameters of the point nearest to a uniform setting; everything else at its default:
        the first name, the largest number of a list, the middle of a range.
        """
        wishes: Mapping[str, tuple[tuple[Question, ...], float]] = {
            "ratio": (self.ratios, wish.ratio),
            "weight_bits": (self.weight_bits, wish.weight_bits),
            "activation_bits": (self.activation_bits, wish.activation_bits),
        }
        params: dict[str, Scalar] = {}
        for questions, value in wishes.values():
            for question in questions:
                params |= question.leaf.near(question.name, value)
        for question in (self.criterion, self.epochs, self.lr, self.distill):
            params |= question.leaf.near(question.name, None)
        return params

    def smallest(self) -> Recipe:
        """The recipe that removes most and stores fewest bits: no cost can go below its."""
        largest = set(self.ratios)
        return self.answer(lambda question: question.leaf.ends()[1 if question in largest else 0])

    def describe(self) -> dict[str, str]:
        """Parameter name to what may be answered, in words: for the record and for telling two spaces apart."""
        return {question.name: str(question.leaf) for question in self.questions}
