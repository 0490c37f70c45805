"""Spaces whose quantizers make no sense: unknown names, bits that a quantizer does not have, settings nobody reads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from paretune.compress.quantizers import ACTIVATIONS, WEIGHTS, ActivationMethod, WeightMethod, check_bits
from paretune.costs.storage import CHEAPEST, ENCODINGS, misfit
from paretune.errors import ParetuneError, pick
from paretune.plan import FLOAT
from paretune.profile import Row
from paretune.recipe import TERNARY, Quantizing
from paretune.spaces.leaf import Choice, Fixed, Leaf, Range, Scalar
from paretune.spaces.question import Question
from paretune.spaces.sections import SECTIONS
from paretune.spaces.space import Space

Table = Mapping[str, WeightMethod | ActivationMethod]
TABLES: Mapping[str, Table] = {"weights": WEIGHTS, "activations": ACTIVATIONS}


# What a key of the section that says who rounds is for, where no layer asks for it.
UNASKED: Mapping[str, str] = {
    "weights": "every layer's weights are float or ternary, or have a quantizer of their own",
    "activations": "every layer's activations are float, or have a quantizer of their own",
    "ternary": "no layer has the weight_bits ternary",
    "project": "no layer has bits that are not a power of two already",
}


def check_quantizers(space: Space) -> None:
    """Nothing, if every layer's quantizers have all the bits it may get, and every setting is read by one of them.

    Raises:
        ParetuneError: says which layer, and what would work.
    """
    reads: set[str] = set()
    free = "djpq" in space.options("joint/method")
    ternary = tuple(map(str, space.options("quantize/ternary")))
    for one in _rounding(space):
        reads |= _check_layer(one, ternary) | _asked(one)
    _check_read(space, reads)
    _check_joint(space, free)
    _check_encodings(space, free)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rounding:
    """What may round the weights or activations (`of`) of one layer, and to how many bits; `own`: it says so itself."""

    layer: str
    of: str
    names: tuple[str, ...]
    widths: tuple[float, ...]
    own: bool

    @property
    def whole(self) -> set[float]:
        """The bits that a quantizer of `names` may get."""
        return {*self.widths} - {FLOAT, TERNARY}


def _rounding(space: Space) -> Iterator[_Rounding]:
    for of, questions, bits in (
        ("weights", space.weight_quantizers, space.weight_bits),
        ("activations", space.activation_quantizers, space.activation_bits),
    ):
        own, shared = _by_target(questions), space.options(f"quantize/{of}")
        for layer, widths in _by_target(bits).items():
            yield _Rounding(
                layer=layer, of=of, names=tuple(map(str, own.get(layer, shared))), widths=tuple(map(float, widths)),
                own=layer in own,
            )  # fmt: skip


def _check_layer(one: _Rounding, ternary: tuple[str, ...]) -> set[str]:
    """The settings that the layer's quantizers read."""
    reads, table = set[str](), TABLES[one.of]
    for name in (*one.names, *ternary):
        pick(table if name in one.names else WEIGHTS, name, f"quantizer of {one.of}")
    pairs = [(name, int(bits)) for bits in one.widths if bits in one.whole for name in one.names]
    pairs += [(name, 2) for name in (ternary if TERNARY in one.widths else ())]
    for name, bits in pairs:
        method = table[name]
        try:
            check_bits(name, bits, method, one.of)
        except ParetuneError as error:
            raise ParetuneError(f"space.layers: '{one.layer}': {error}") from error
        reads |= set(method.reads)
    return reads


def _asked(one: _Rounding) -> set[str]:
    """The keys that say who rounds this, and how."""
    return {
        *([one.of] if one.whole and not one.own else []),
        *(["ternary"] if TERNARY in one.widths else []),
        *(["project"] if one.whole - {1, 2, 4, 8} else []),
    }


def _check_read(space: Space, reads: set[str]) -> None:
    for key, entry in SECTIONS["quantize"].items():
        if key not in reads and space.options(f"quantize/{key}") != (entry.default,):
            if key not in Quantizing.__dataclass_fields__:
                raise ParetuneError(f"space.quantize.{key} is set, but {UNASKED[key]}")
            readers = [name for table in TABLES.values() for name, row in table.items() if key in row.reads]
            raise ParetuneError(f"space.quantize.{key} is read by {', '.join(readers)} only, which no layer uses")


def _check_joint(space: Space, free: bool) -> None:
    """A joint training finds channels and bits of its own, so nobody else may."""
    if not free:
        for key, entry in SECTIONS["joint"].items():
            if space.options(f"joint/{key}") != (entry.default,):
                raise ParetuneError(f"space.joint.{key} is read by a joint training only; add space.joint.method: djpq")
        return
    if not any("djpq" in one.names and one.whole for one in _rounding(space)):
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


def _check_encodings(space: Space, free: bool) -> None:
    """An encoding that fits none of its layer's bits and patterns could only fail."""
    widths = _by_target(space.weight_bits)
    for layer, encodings in _by_target(space.encodings).items():
        bits = {2 if width == TERNARY else int(width) for width in widths[layer]}
        bits |= {2} if free and bits != {FLOAT} else set()  # that a joint training may find
        rows = [_row(layer, one, kind) for one in bits for kind in ("", *space.kinds.get(layer, ()))]
        fitting = [name for name, formula in ENCODINGS.items() if any(map(formula.fits, rows))]
        for name in map(str, encodings):
            pick({CHEAPEST: None, **dict.fromkeys(ENCODINGS)}, name, f"encoding (of layer '{layer}')")
            if name not in (CHEAPEST, *fitting):
                raise ParetuneError(f"space.layers: {misfit(layer, name, fitting)}")


def _row(layer: str, bits: int, kind: str) -> Row:
    """As much of a profile's row as says which encodings fit."""
    return Row(
        name=layer, kind="", weight_shape=(), channels=0, macs=0, params=0, weights=0, weight_bits=bits,
        activation_bits=FLOAT, scales=0, floats=0, nonzeros=0, pattern=kind,
    )  # fmt: skip


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
