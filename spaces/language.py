"""From YAML to a space: rows match layer and group names by shell wildcard, the first match wins."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from paretune.errors import ParetuneError, near_miss
from paretune.inventory import Inventory
from paretune.plan import FLOAT
from paretune.recipe import TERNARY
from paretune.spaces.leaf import Check, Fixed, parse_leaf
from paretune.spaces.mixing import parse_mixing
from paretune.spaces.question import Question
from paretune.spaces.sections import a_name, ratio, section
from paretune.spaces.space import Space

KEYS = (
    "groups", "layers", "activation_bits", "quantize", "criterion", "reduce", "rate", "mask", "joint", "keep",
    "recover",
)  # fmt: skip
GROUP_KEYS = ("match", "ratio", "tie")
# Of a layer; without them it takes what all share.
OWN_KEYS = ("activation_bits", "weight_quantizer", "activation_quantizer")
LAYER_KEYS = ("match", "weight_bits", *OWN_KEYS, "encoding", "pattern", "sparsity", "tie")
DEFAULTS: Mapping[str, Any] = {
    "groups": [{"match": "*", "ratio": 0.0}],
    "layers": [{"match": "*", "weight_bits": FLOAT}],
    "activation_bits": FLOAT,
    "criterion": "l2",
    "rate": {},
    "mask": {},
    "quantize": {},
    "joint": {},
    "keep": {},
    "recover": {},
}
LAYER_DEFAULTS: Mapping[str, Any] = {
    "weight_bits": FLOAT, "pattern": "channel", "sparsity": 0.0, "encoding": "cheapest",
}  # fmt: skip


def parse_space(spec: Mapping[str, Any], inventory: Inventory) -> Space:
    """The space that `spec` (plain dicts and lists, from YAML) describes for this model.

    A row's `tie: true` makes one decision for everything the row matches; otherwise every match gets its
    own. "@first" and "@last" match the first and the last layer with weights, "@conv" and "@linear" all of a kind.
    Ratios of groups are read by the rate rule `per_layer` only, and not asked for without it.

    Raises:
        ParetuneError: an unknown key, a row that matches nothing, a name that no row matches, a value out of range.
    """
    known("space", spec, KEYS)
    spec = {**DEFAULTS, **spec}
    layers = [layer.name for layer in inventory.weighted]
    group_rows = claim("space.groups", spec["groups"], GROUP_KEYS, [group.name for group in inventory.groups], {})
    layer_rows = claim("space.layers", spec["layers"], LAYER_KEYS, layers, names_behind(inventory))
    rest = [name for row, names in layer_rows for name in names if "activation_bits" not in row]
    shared = parse_leaf("space.activation_bits", spec["activation_bits"], whole_bits)
    own = {key: [(row, names) for row, names in layer_rows if key in row] for key in OWN_KEYS}
    everyone = (Question(name="activation_bits", leaf=shared, targets=tuple(rest)),) if rest else ()
    whole = [({**LAYER_DEFAULTS, **row}, names) for row, names in layer_rows]
    mixing, normalise = parse_mixing(spec["criterion"], inventory)
    rate = spec["rate"] if isinstance(spec["rate"], Mapping) else {"rule": spec["rate"]}
    space = Space(
        ratios=_questions("ratio", group_rows, "space.groups", ratio),
        weight_bits=_questions("weight_bits", whole, "space.layers", bits),
        activation_bits=_questions("activation_bits", own["activation_bits"], "space.layers", whole_bits) + everyone,
        weight_quantizers=_questions(
            "weight_quantizer", own["weight_quantizer"], "space.layers", a_name("a quantizer")
        ),
        activation_quantizers=_questions(
            "activation_quantizer", own["activation_quantizer"], "space.layers", a_name("a quantizer")
        ),
        encodings=_questions("encoding", whole, "space.layers", a_name("an encoding")),
        patterns=_questions("pattern", whole, "space.layers", pattern_name),
        sparsities=_questions("sparsity", whole, "space.layers", sparsity),
        mixing=mixing,
        shared=(
            *section("recover", spec["recover"]),
            *section("rate", rate),
            *section("mask", spec["mask"]),
            *section("quantize", spec["quantize"]),
            *section("joint", spec["joint"]),
            *section("keep", spec["keep"]),
            *section("blend", normalise),
            *section("", {"reduce": spec["reduce"]} if "reduce" in spec else {}),
        ),
    )
    if "per_layer" in space.rules:
        return space
    # No other rule reads the groups' ratios: searching them would be a dimension without effect.
    return replace(space, ratios=tuple(replace(question, leaf=Fixed(value=0.0)) for question in space.ratios))


Aliases = Mapping[str, Sequence[str]]
Rows = Sequence[tuple[Mapping[str, Any], Sequence[str]]]


def names_behind(inventory: Inventory) -> Aliases:
    """Layer names behind "@first" and "@last" (of those with weights), "@conv" and "@linear"."""
    layers = [layer.name for layer in inventory.weighted]
    return {
        "@first": layers[:1], "@last": layers[-1:],
        "@conv": [layer.name for layer in inventory.weighted if layer.kind == "conv"],
        "@linear": [layer.name for layer in inventory.weighted if layer.kind == "linear"],
    }  # fmt: skip


def known(where: str, given: Any, keys: Sequence[str]) -> None:
    """Raises a `ParetuneError` unless `given` is a table with no other keys than these."""
    if not isinstance(given, Mapping):
        raise ParetuneError(f"{where}: expected keys {', '.join(keys)}, got {given!r}")
    for key in given:
        if key not in keys:
            raise ParetuneError(f"{where} has no key '{key}'.{near_miss(str(key), keys)}")


def claim(where: str, rows: Any, keys: Sequence[str], names: Sequence[str], aliases: Aliases) -> Rows:
    """Each row with the names it is the first to match; every one of `names` is matched by a row.

    `where` ("space.layers") names the rows in messages. Aliases, such as "@first", stand for several names.

    Raises:
        ParetuneError: an unknown key, a row that says nothing or matches nothing, a name that no row matches.
    """
    if isinstance(rows, (str, Mapping)) or not isinstance(rows, Sequence):
        raise ParetuneError(f"{where}: expected a list of rows such as {{match: '*', {keys[1]}: ...}}")
    free, claimed, says = list(names), [], [key for key in keys if key not in ("match", "tie")]
    for row in rows:
        known(where, row, keys)
        if "match" not in row or not set(row) & set(says):
            raise ParetuneError(f"{where}: a row needs match and {' or '.join(says)}, got {dict(row)}")
        patterns = _patterns(where, row)
        for pattern in patterns:
            if pattern not in aliases and not any(fnmatchcase(name, pattern) for name in names) and names:
                raise ParetuneError(f"{where}: '{pattern}' matches nothing.{near_miss(pattern, names)}")
        hits = [n for n in free if any(n in aliases.get(p, ()) or fnmatchcase(n, p) for p in patterns)]
        free = [name for name in free if name not in hits]
        claimed.append(({**row, "match": " ".join(patterns)}, hits))
    if free:
        raise ParetuneError(f"{where}: no row matches {', '.join(free)}; end with a row match: '*'")
    return claimed


def _patterns(where: str, row: Mapping[str, Any]) -> list[str]:
    match = [row["match"]] if isinstance(row["match"], str) else row["match"]
    if not isinstance(match, Sequence) or not match or not all(isinstance(pattern, str) for pattern in match):
        wanted = "match is a shell wildcard or a list of them (quote a bare number)"
        raise ParetuneError(f"{where}: {wanted}, got {row['match']!r}")
    if not isinstance(row.get("tie", False), bool):
        raise ParetuneError(f"{where}: tie is true or false, got {row['tie']!r}")
    return list(match)


def _questions(key: str, rows: Rows, where: str, check: Check) -> tuple[Question, ...]:
    found: list[Question] = []
    for row, names in rows:
        leaf = parse_leaf(f"{where}.{key}", _numbered(row[key]) if key == "weight_bits" else row[key], check)
        if row.get("tie") or isinstance(leaf, Fixed):
            found += [Question(name=f"{key}/{row['match']}", leaf=leaf, targets=tuple(names))] if names else []
        else:
            found += [Question(name=f"{key}/{name}", leaf=leaf, targets=(name,)) for name in names]
    return tuple(found)


def _numbered(value: Any) -> Any:
    """Bits with "ternary" as the number it stands for, so that a list of them keeps its order."""
    if isinstance(value, str):
        return TERNARY if value == "ternary" else value
    if isinstance(value, Sequence):
        return [_numbered(one) for one in value]
    return value


def bits(value: Any) -> str:
    """What is wrong with the bits of weights; "ternary" is the number `TERNARY` by now."""
    if value == TERNARY or not whole_bits(value):
        return ""
    return f"bits are whole numbers from 1 to 8, ternary, or {FLOAT} for float"


def whole_bits(value: Any) -> str:
    """What is wrong with the bits of activations."""
    good = isinstance(value, int) and not isinstance(value, bool) and (1 <= value <= 8 or value == FLOAT)
    return "" if good else f"bits are whole numbers from 1 to 8, or {FLOAT} for float"


def pattern_name(value: Any) -> str:
    """What is wrong with the name of a pattern."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "a pattern is a name; quote N:M ('2:4'), or YAML reads a number"
    return "" if isinstance(value, str) else "a pattern is a name"


def sparsity(value: Any) -> str:
    """What is wrong with a share of weights removed."""
    return "" if not ratio(value) else "a sparsity is the share of weights removed, in [0, 1)"
