"""Spaces whose quantizers make no sense: unknown names, bits that a quantizer does not have, settings nobody reads."""

from collections.abc import Iterator, Mapping

from paretune.compress.quantizers import ACTIVATIONS, WEIGHTS, ActivationMethod, WeightMethod, check_bits
from paretune.costs.storage import ENCODINGS
from paretune.errors import ParetuneError, pick
from paretune.plan import FLOAT
from paretune.recipe import TERNARY, Quantizing
from paretune.spaces.leaf import Choice, Fixed, Leaf, Range, Scalar
from paretune.spaces.question import Question
from paretune.spaces.sections import SECTIONS
from paretune.spaces.space import Space

Table = Mapping[str, WeightMethod | ActivationMethod]
TABLES: Mapping[str, Table] = {"weights": WEIGHTS, "activations": ACTIVATIONS}


def check_quantizers(space: Space) -> None:
    """Nothing, if every layer's quantizers have all the bits it may get, and every setting is read by one of them.

    Raises:
        ParetuneError: says which layer, and what would work.
    """
    reads: set[str] = set()
    free = "djpq" in space.options("joint/method")
    ternary = tuple(map(str, space.options("quantize/ternary")))
    for of, questions, bits in (
        ("weights", space.weight_quantizers, space.weight_bits),
        ("activations", space.activation_quantizers, space.activation_bits),
    ):
        own, shared = _by_target(questions), space.options(f"quantize/{of}")
        for layer, widths in _by_target(bits).items():
            names = tuple(map(str, own.get(layer, shared)))
            reads |= _check_layer(layer, of, names, ternary, tuple(map(float, widths)))
    _check_read(space, reads)
    _check_joint(space, free)
    for layer, encodings in _by_target(space.encodings).items():
        for name in map(str, encodings):
            if name != "cheapest":
                pick({"cheapest": None, **dict.fromkeys(ENCODINGS)}, name, f"encoding (of layer '{layer}')")


def _check_layer(
    layer: str, of: str, names: tuple[str, ...], ternary: tuple[str, ...], widths: tuple[float, ...]
) -> set[str]:
    """The settings that the layer's quantizers read."""
    reads, table = set[str](), TABLES[of]
    pairs = [(name, int(bits)) for bits in widths if bits not in (FLOAT, TERNARY) for name in names]
    pairs += [(name, 2) for name in (ternary if TERNARY in widths else ())]
    for name, bits in pairs:
        method = pick(table, name, f"quantizer of {of}")
        try:
            check_bits(name, bits, method, of)
        except ParetuneError as error:
            raise ParetuneError(f"space.layers: '{layer}': {error}") from error
        reads |= set(method.reads)
    return reads


def _check_read(space: Space, reads: set[str]) -> None:
    for key, entry in SECTIONS["quantize"].items():
        if key not in Quantizing.__dataclass_fields__ or key in reads:
            continue
        if _leaf(space, f"quantize/{key}") != Fixed(value=entry.default):
            readers = [name for table in TABLES.values() for name, row in table.items() if key in row.reads]
            raise ParetuneError(f"space.quantize.{key} is read by {', '.join(readers)} only, which no layer uses")


def _check_joint(space: Space, free: bool) -> None:
    """A joint training finds channels and bits of its own, so nobody else may."""
    if not free:
        for key, entry in SECTIONS["joint"].items():
            if _leaf(space, f"joint/{key}") != Fixed(value=entry.default):
                raise ParetuneError(f"space.joint.{key} is read by a joint training only; add space.joint.method: djpq")
        return
    if not any("djpq" in names for names in _names(space)):
        raise ParetuneError(
            "space.joint.method: djpq learns the bits of layers whose quantizer is djpq; set space.quantize.weights "
            "and space.quantize.activations, or the rows' weight_quantizer, to djpq, with bits below 32"
        )
    if space.kinds:
        raise ParetuneError("space.joint.method: djpq finds channels, not masks; give layers pattern: channel")
    if any(question.leaf != Fixed(value=0.0) for question in space.ratios) or space.rules != ("per_layer",):
        raise ParetuneError(
            "space.joint.method: djpq decides which channels stay; leave rate and the groups' ratios out"
        )


def _names(space: Space) -> Iterator[tuple[str, ...]]:
    for key, questions in (("weights", space.weight_quantizers), ("activations", space.activation_quantizers)):
        yield tuple(map(str, space.options(f"quantize/{key}")))
        for names in _by_target(questions).values():
            yield tuple(map(str, names))


def _leaf(space: Space, name: str) -> Leaf:
    return next(question.leaf for question in space.shared if question.name == name)


def _by_target(questions: tuple[Question, ...]) -> dict[str, tuple[Scalar, ...]]:
    """What every layer may be answered with."""
    return {target: _options(question.leaf) for question in questions for target in question.targets}


def _options(leaf: Leaf) -> tuple[Scalar, ...]:
    if isinstance(leaf, Choice):
        return leaf.options
    return (
        tuple(range(int(leaf.low), int(leaf.high) + 1, int(leaf.step or 1)))
        if isinstance(leaf, Range)
        else (leaf.value,)
    )
