"""From YAML to a space: rows match layer and group names by shell wildcard, the first match wins."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import inf
from typing import Any

from paretune.errors import ParetuneError, near_miss
from paretune.inventory import Inventory
from paretune.plan import FLOAT
from paretune.recipe import DISTILL
from paretune.spaces.leaf import Check, Fixed, parse_leaf
from paretune.spaces.space import Question, Space

KEYS = ("groups", "layers", "activation_bits", "criterion", "recover")
GROUP_KEYS = ("match", "ratio", "tie")
LAYER_KEYS = ("match", "weight_bits", "activation_bits", "tie")
RECOVER_KEYS = ("epochs", "lr", "distill")
DEFAULTS: Mapping[str, Any] = {
    "groups": [{"match": "*", "ratio": 0.0}],
    "layers": [{"match": "*", "weight_bits": FLOAT}],
    "activation_bits": FLOAT,
    "criterion": "l2",
    "recover": {},
}
RECOVER_DEFAULTS: Mapping[str, Any] = {"epochs": 3, "lr": 0.01, "distill": "none"}


def parse_space(spec: Mapping[str, Any], inventory: Inventory) -> Space:
    """The space that `spec` (plain dicts and lists, from YAML) describes for this model.

    A row's `tie: true` makes one decision for everything the row matches; otherwise every match gets its
    own. "@first" and "@last" match the first and the last layer with weights.

    Raises:
        ParetuneError: an unknown key, a row that matches nothing, a name that no row matches, a value out of range.
    """
    _known("space", spec, KEYS)
    spec = {**DEFAULTS, **spec}
    _known("space.recover", spec["recover"], RECOVER_KEYS)
    recover = {**RECOVER_DEFAULTS, **spec["recover"]}
    layers = [layer.name for layer in inventory.weighted]
    aliases = {"@first": layers[0], "@last": layers[-1]} if layers else {}
    group_rows = _claim("groups", spec["groups"], GROUP_KEYS, [group.name for group in inventory.groups], {})
    layer_rows = _claim("layers", spec["layers"], LAYER_KEYS, layers, aliases)
    rest = [name for row, names in layer_rows for name in names if "activation_bits" not in row]
    shared = parse_leaf("space.activation_bits", spec["activation_bits"], _bits)
    own = [(row, names) for row, names in layer_rows if "activation_bits" in row]
    everyone = (Question(name="activation_bits", leaf=shared, targets=tuple(rest)),) if rest else ()
    return Space(
        ratios=_questions("ratio", group_rows, "space.groups", _ratio),
        weight_bits=_questions("weight_bits", layer_rows, "space.layers", _bits),
        activation_bits=_questions("activation_bits", own, "space.layers", _bits) + everyone,
        criterion=Question(name="criterion", leaf=parse_leaf("space.criterion", spec["criterion"], _name)),
        epochs=_recovery("epochs", recover, _epochs),
        lr=_recovery("lr", recover, _positive),
        distill=_recovery("distill", recover, _distill),
    )


Rows = Sequence[tuple[Mapping[str, Any], Sequence[str]]]


def _known(where: str, given: Any, keys: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise ParetuneError(f"{where}: expected keys {', '.join(keys)}, got {given!r}")
    for key in given:
        if key not in keys:
            raise ParetuneError(f"{where} has no key '{key}'.{near_miss(str(key), keys)}")


def _claim(where: str, rows: Any, keys: Sequence[str], names: Sequence[str], aliases: Mapping[str, str]) -> Rows:
    """Each row with the names it is the first to match."""
    if isinstance(rows, (str, Mapping)) or not isinstance(rows, Sequence):
        raise ParetuneError(f"space.{where}: expected a list of rows such as {{match: '*', {keys[1]}: ...}}")
    free, claimed = list(names), []
    for row in rows:
        _known(f"space.{where}", row, keys)
        if "match" not in row or keys[1] not in row:
            raise ParetuneError(f"space.{where}: a row needs match and {keys[1]}, got {dict(row)}")
        patterns = _patterns(where, row)
        for pattern in patterns:
            if pattern not in aliases and not any(fnmatchcase(name, pattern) for name in names) and names:
                raise ParetuneError(f"space.{where}: '{pattern}' matches nothing.{near_miss(pattern, names)}")
        hits = [n for n in free if any(n == aliases.get(p) or fnmatchcase(n, p) for p in patterns)]
        free = [name for name in free if name not in hits]
        claimed.append(({**row, "match": " ".join(patterns)}, hits))
    if free:
        raise ParetuneError(f"space.{where}: no row matches {', '.join(free)}; end with a row match: '*'")
    return claimed


def _patterns(where: str, row: Mapping[str, Any]) -> list[str]:
    match = [row["match"]] if isinstance(row["match"], str) else row["match"]
    if not isinstance(match, Sequence) or not match or not all(isinstance(pattern, str) for pattern in match):
        wanted = "match is a shell wildcard or a list of them (quote a bare number)"
        raise ParetuneError(f"space.{where}: {wanted}, got {row['match']!r}")
    if not isinstance(row.get("tie", False), bool):
        raise ParetuneError(f"space.{where}: tie is true or false, got {row['tie']!r}")
    return list(match)


def _questions(key: str, rows: Rows, where: str, check: Check) -> tuple[Question, ...]:
    found: list[Question] = []
    for row, names in rows:
        leaf = parse_leaf(f"{where}.{key}", row[key], check)
        if row.get("tie") or isinstance(leaf, Fixed):
            found += [Question(name=f"{key}/{row['match']}", leaf=leaf, targets=tuple(names))] if names else []
        else:
            found += [Question(name=f"{key}/{name}", leaf=leaf, targets=(name,)) for name in names]
    return tuple(found)


def _recovery(key: str, recover: Mapping[str, Any], check: Check) -> Question:
    return Question(name=f"recover/{key}", leaf=parse_leaf(f"space.recover.{key}", recover[key], check))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _ratio(value: Any) -> str:
    return "" if _number(value) and 0 <= value < 1 else "a ratio is the share removed, in [0, 1)"


def _bits(value: Any) -> str:
    good = isinstance(value, int) and not isinstance(value, bool) and (1 <= value <= 8 or value == FLOAT)
    return "" if good else f"bits are whole numbers from 1 to 8, or {FLOAT} for float"


def _epochs(value: Any) -> str:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return "" if good else "epochs are whole numbers, 0 or more"


def _positive(value: Any) -> str:
    return "" if _number(value) and 0 < value < inf else "a learning rate is a finite number above 0"


def _distill(value: Any) -> str:
    return "" if value in DISTILL else f"distill is one of {', '.join(DISTILL)}"


def _name(value: Any) -> str:
    return "" if isinstance(value, str) else "a criterion is a name"
