"""The `criterion` of a space: a name, some names, or a blend whose weights are searched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Any

from paretune.errors import ParetuneError, near_miss
from paretune.inventory import Inventory
from paretune.recipe import Blend
from paretune.spaces.leaf import Choice, Fixed, Range, Scalar, parse_leaf
from paretune.spaces.question import Question
from paretune.spaces.sections import a_name

KEYS = ("blend", "weights", "normalise", "clusters", "share")
SHARES = ("net", "stage", "layer")
SMALLEST = 1e-4  # of the uniform numbers behind a simplex: a weight of up to -log of it before they are normalised


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """The names of groups and layers that have one blend in common, and the questions that decide it."""

    label: str
    names: tuple[str, ...]
    weights: tuple[Question, ...]
    picks: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixing:
    """How answers become blends. `plain` is the question for a single criterion; otherwise `shared` has the blends.

    `simplex` weights are -log of uniform numbers, normalised: a flat Dirichlet distribution over all mixtures.
    """

    criteria: tuple[str, ...]
    names: tuple[str, ...]
    plain: Question | None = None
    shared: tuple[Shared, ...] = ()
    simplex: bool = True
    clusters: int = 0

    @property
    def questions(self) -> tuple[Question, ...]:
        """Everything there is to decide, in a fixed order."""
        if self.plain is not None:
            return (self.plain,)
        return tuple(question for one in self.shared for question in (*one.picks, *one.weights))

    def blends(self, answers: Mapping[str, Scalar], normalise: str) -> dict[str, Blend]:
        """The blend of every group and layer."""
        if self.plain is not None:
            return dict.fromkeys(self.names, Blend(criteria=(str(answers[self.plain.name]),)))
        return {name: self._blend(one, answers, normalise) for one in self.shared for name in one.names}

    def _blend(self, one: Shared, answers: Mapping[str, Scalar], normalise: str) -> Blend:
        raw = [float(answers[question.name]) for question in one.weights]
        weights = [-log(value) for value in raw] if self.simplex else raw
        total = sum(weights)
        return Blend(
            criteria=self.criteria,
            weights=tuple(weight / total if total else 0.0 for weight in weights),
            clusters=self.clusters,
            picks=tuple(int(answers[question.name]) for question in one.picks),
            normalise=normalise,
        )


def parse_mixing(spec: Any, inventory: Inventory) -> tuple[Mixing, dict[str, Any]]:
    """What `space.criterion` describes, and what it says about normalisation (a section of its own).

    Raises:
        ParetuneError: an unknown key or share, weights that are all zero, more clusters than criteria.
    """
    names = (*(group.name for group in inventory.groups), *(layer.name for layer in inventory.weighted))
    names = tuple(dict.fromkeys(names))
    if not isinstance(spec, Mapping):
        plain = Question(name="criterion", leaf=parse_leaf("space.criterion", spec, a_name("a criterion")))
        return Mixing(criteria=_options(plain), names=names, plain=plain), {}
    for key in spec:
        if key not in KEYS:
            raise ParetuneError(f"space.criterion has no key '{key}'.{near_miss(str(key), KEYS)}")
    criteria = _bank(spec.get("blend"))
    share, clusters = spec.get("share", "net"), spec.get("clusters", 0)
    if share not in SHARES:
        raise ParetuneError(f"space.criterion.share is one of {', '.join(SHARES)}, got {share!r}")
    if isinstance(clusters, bool) or not isinstance(clusters, int) or not 0 <= clusters <= len(criteria):
        wanted = f"a whole number from 0 (none) to the {len(criteria)} criteria"
        raise ParetuneError(f"space.criterion.clusters is {wanted}, got {clusters!r}")
    weights = spec.get("weights", "simplex")
    targets = _targets(share, inventory, names)
    shared = tuple(_shared(label, group, criteria, weights, clusters) for label, group in targets.items())
    mixing = Mixing(criteria=criteria, names=names, shared=shared, simplex=weights == "simplex", clusters=clusters)
    return mixing, {"normalise": spec["normalise"]} if "normalise" in spec else {}


def _options(question: Question) -> tuple[str, ...]:
    leaf = question.leaf
    return tuple(map(str, leaf.options)) if isinstance(leaf, Choice) else (str(leaf.ends()[0]),)


def _bank(given: Any) -> tuple[str, ...]:
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    if not listed or len(set(given)) < max(2, len(given)) or not all(isinstance(name, str) for name in given):
        raise ParetuneError(f"space.criterion.blend needs two or more different criteria, got {given!r}")
    return tuple(given)


def _shared(label: str, names: Sequence[str], criteria: tuple[str, ...], weights: Any, clusters: int) -> Shared:
    slots = [f"cluster{number}" for number in range(clusters)] if clusters else list(criteria)
    picks = tuple(
        Question(name=f"blend/{label}/pick{number}", leaf=Range(low=0, high=len(criteria) - 1))
        for number in range(clusters)
    )
    return Shared(label=label, names=tuple(names), weights=_weights(label, slots, weights, clusters), picks=picks)


def _weights(label: str, slots: Sequence[str], weights: Any, clusters: int) -> tuple[Question, ...]:
    where = "space.criterion.weights"
    if weights == "simplex":
        return tuple(Question(name=f"blend/{label}/{slot}", leaf=Range(low=SMALLEST, high=1.0)) for slot in slots)
    if clusters or not isinstance(weights, Mapping) or set(weights) != set(slots):
        wanted = "simplex" if clusters else f"simplex or a table with {', '.join(slots)}"
        raise ParetuneError(f"{where} is {wanted}, got {weights!r}")
    questions = tuple(
        Question(
            name=f"blend/{label}/{slot}", leaf=parse_leaf(f"space.criterion.weights.{slot}", weights[slot], _weight)
        )
        for slot in slots
    )
    if all(isinstance(question.leaf, Fixed) and not question.leaf.value for question in questions):
        raise ParetuneError(f"{where} are all zero: a blend needs at least one weight above 0")
    return questions


def _weight(value: Any) -> str:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < inf
    return "" if good else "a weight is a finite number, 0 or more"


def _targets(share: str, inventory: Inventory, names: Sequence[str]) -> dict[str, list[str]]:
    """Which names decide together: all, those of one resolution, or a group with the layers that produce it.

    A layer that no group produces (the classifier) goes with the group before it.
    """
    if share == "net" or not inventory.groups:
        return {"net": list(names)}
    home = {member.layer: group.name for group in inventory.groups for member in group.producers}
    found: dict[str, list[str]] = {}
    last = inventory.groups[0].name
    for group in inventory.groups:
        found.setdefault(_label(share, inventory, group.name), []).append(group.name)
    for layer in inventory.weighted:
        last = home.get(layer.name, last)
        label = _label(share, inventory, last)
        if layer.name not in found[label]:
            found[label].append(layer.name)
    return found


def _label(share: str, inventory: Inventory, group: str) -> str:
    """A group's own name, or its resolution: "8x8", or "flat" for what is no map."""
    if share == "layer":
        return group
    size = inventory.layer[inventory.group[group].producers[0].layer].output_shape[1:]
    return "x".join(map(str, size)) or "flat"
