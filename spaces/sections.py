"""The settings that a whole model shares, section by section: every key with its default and what it may be."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from paretune.errors import ParetuneError, near_miss
from paretune.recipe import (
    BIT_SETS,
    CLIPS,
    COMPENSATE,
    DISTILL,
    GRADIENTS,
    LAYOUTS,
    MODES,
    NORMALISE,
    REDUCE,
    SCHEDULES,
    SCOPES,
    STARTS,
)
from paretune.spaces.leaf import Check, parse_leaf
from paretune.spaces.question import Question


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What a key is if nobody says otherwise, and what is wrong with a value ("" if nothing)."""

    default: Any
    check: Check


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _within(low: float, high: float, words: str) -> Check:
    return lambda value: "" if _number(value) and low <= value <= high else words


def _above(low: float, words: str) -> Check:
    return lambda value: "" if _number(value) and low < value < inf else words


def _whole(low: int, words: str) -> Check:
    def check(value: Any) -> str:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= low
        return "" if good else words

    return check


def _between(low: int, high: int, words: str) -> Check:
    least = _whole(low, words)
    return lambda value: least(value) or ("" if value <= high else words)


def _on_off(what: str) -> Check:
    return lambda value: "" if value in (0, 1) and not isinstance(value, bool) else f"{what} is 1 (yes) or 0 (no)"


def _one_of(names: Sequence[str], what: str) -> Check:
    return lambda value: "" if value in names else f"{what} is one of {', '.join(names)}"


def a_name(what: str) -> Check:
    """A check for names whose table lies elsewhere."""
    return lambda value: "" if isinstance(value, str) else f"{what} is a name"


def ratio(value: Any) -> str:
    """What is wrong with a share removed."""
    return "" if _number(value) and 0 <= value < 1 else "a ratio is the share removed, in [0, 1)"


_RATE = _above(0, "a learning rate is a finite number above 0")
_EPOCHS = _whole(0, "epochs are whole numbers, 0 or more")
_SHARE = "a share in (0, 1]"

SECTIONS: Mapping[str, Mapping[str, Key]] = {
    "recover": {
        "epochs": Key(default=3, check=_EPOCHS),
        "lr": Key(default=0.01, check=_RATE),
        "distill": Key(default="none", check=_one_of(DISTILL, "distill")),
        "temperature": Key(default=4.0, check=_above(0, "a temperature is a finite number above 0")),
        "alpha": Key(default=0.7, check=_within(0, 1, "alpha is the teacher's share of the loss, in [0, 1]")),
        "hint": Key(default=0.1, check=_above(0, "the weight of hints is a finite number above 0")),
        "mode": Key(default="frozen_mask", check=_one_of(MODES, "mode")),
        "compensate": Key(default="none", check=_one_of(COMPENSATE, "compensate")),
        "ridge": Key(default=1e-4, check=_above(0, "a ridge is a finite number above 0")),
        "images": Key(default=1024, check=_whole(1, "images are whole numbers, 1 or more")),
        "start": Key(default="trained", check=_one_of(STARTS, "start")),
    },
    "rate": {
        "rule": Key(default="per_layer", check=a_name("a rule")),
        "ratio": Key(default=0.5, check=ratio),
        "cost_power": Key(default=0.0, check=_within(0, 2, "the power of the cost is a number from 0 to 2")),
        "knee/sensitivity": Key(default=1.0, check=_above(0, "Kneedle's sensitivity is a finite number above 0")),
        "knee/scale": Key(default=1.0, check=_within(0, 2, "the scale of a knee is a number from 0 to 2")),
        "knee/drop": Key(default=0.1, check=_above(0, "the drop a group may cost is a number above 0")),
        "knee/by": Key(default="same", check=a_name("a criterion, or same,")),
        "binary/tolerance": Key(default=0.005, check=_within(0, 1, "a tolerance is quality per pass, in [0, 1]")),
        "binary/step": Key(default=0.2, check=_within(1e-9, 1, f"a step is {_SHARE}")),
        "binary/passes": Key(default=3, check=_whole(1, "passes are whole numbers, 1 or more")),
        "target/cost": Key(default="macs", check=a_name("a cost")),
        "target/share": Key(default=0.5, check=_within(1e-9, 1, f"a target is {_SHARE} of the dense cost")),
        "target/of": Key(default="uniform", check=a_name("a rule")),
    },
    "mask": {
        "scope": Key(default="layer", check=_one_of(SCOPES, "scope")),
        "schedule": Key(default="one_shot", check=_one_of(SCHEDULES, "schedule")),
        "rounds": Key(default=5, check=_whole(0, "rounds are whole numbers, 0 (as many as halving takes) or more")),
        "epochs": Key(default=5, check=_EPOCHS),
        "lr": Key(default=0.02, check=_RATE),
        "noise": Key(default=1.0, check=_within(0, 100, "noise is a number from 0 to 100")),
        "power": Key(default=2.0, check=_above(0, "the power of weights is a finite number above 0")),
        "block": Key(default=16, check=_whole(1, "a block is a whole number, 1 or more")),
        "layout": Key(default="channel_group", check=_one_of(LAYOUTS, "layout")),
        "parts": Key(default=4, check=_whole(2, "parts are whole numbers, 2 or more")),
        "restarts": Key(default=5, check=_whole(1, "restarts are whole numbers, 1 or more")),
        "penalty/strength": Key(
            default=1e-3, check=_within(0, 10, "the strength of a penalty is a number from 0 to 10")
        ),
        "penalty/ratio": Key(default=0.5, check=_within(0, 1, "the ratio of a clip is a share in [0, 1]")),
        "penalty/clip": Key(default="mean", check=_one_of(CLIPS, "clip")),
        "penalty/detached": Key(default=1, check=_on_off("detached")),
    },
    "quantize": {
        "weights": Key(default="lsq", check=a_name("a quantizer")),
        "activations": Key(default="lsq", check=a_name("a quantizer")),
        "ternary": Key(default="ternary", check=a_name("a quantizer")),
        "project": Key(default="free", check=_one_of(BIT_SETS, "project")),
        "threshold": Key(default=0.05, check=_within(0, 2, "the threshold of ternary weights is a number from 0 to 2")),
        "of": Key(default="max", check=_one_of(("max", "mean"), "of")),
        "steps": Key(default=4, check=_whole(1, "steps are whole numbers, 1 or more")),
        "pull": Key(default=1e-4, check=_within(0, 1, "a pull is a number from 0 to 1")),
        "gradient": Key(default="tangent", check=_one_of(GRADIENTS, "gradient")),
        "freeze": Key(default=0.1, check=_within(0, 1, "freeze is a share of the training, in [0, 1]")),
        "decay": Key(default=1e-4, check=_within(0, 1, "a decay is a number from 0 to 1")),
    },
    "joint": {
        "method": Key(default="none", check=_one_of(("none", "djpq"), "method")),
        "epochs": Key(default=20, check=_whole(1, "epochs of a joint training are whole numbers, 1 or more")),
        "lr": Key(default=0.01, check=_RATE),
        "rate": Key(default=0.02, check=_RATE),
        "gamma": Key(default=3e-4, check=_within(0, 10, "gamma is a number from 0 to 10")),
        "beta": Key(default=1.0, check=_within(0, 1000, "beta is a number from 0 to 1000")),
        "threshold": Key(default=1.0, check=_above(0, "the threshold of a gate is a finite number above 0")),
        "softness": Key(default=1.0, check=_above(0, "the softness of a threshold is a finite number above 0")),
        "least": Key(default=2, check=_between(2, 8, "the least bits are a whole number from 2 to 8")),
        "bits": Key(default="free", check=_one_of(BIT_SETS, "bits")),
        "exponent": Key(default=1, check=_on_off("exponent")),
    },
    "keep": {
        "minimum": Key(default=1, check=_whole(1, "the minimum is a whole number, 1 or more")),
        "multiple": Key(default=1, check=_whole(1, "the multiple is a whole number, 1 or more")),
    },
    "blend": {"normalise": Key(default="rank", check=_one_of(NORMALISE, "normalise"))},
    "": {"reduce": Key(default="mean", check=_one_of(REDUCE, "reduce"))},
}


def section(name: str, given: Any) -> tuple[Question, ...]:
    """The questions of a section, in the order of its table; `given` is what YAML says, nested or not.

    Raises:
        ParetuneError: an unknown key, or a value that its check refuses.
    """
    keys = SECTIONS[name]
    where = f"space.{name}".rstrip(".")
    flat = dict(_flat(where, "", given, keys))
    return tuple(
        Question(
            name=f"{name}/{key}".lstrip("/"),
            leaf=parse_leaf(f"{where}.{key.replace('/', '.')}", flat.get(key, entry.default), entry.check),
        )
        for key, entry in keys.items()
    )


def _flat(where: str, prefix: str, given: Any, keys: Mapping[str, Key]) -> Iterator[tuple[str, Any]]:
    """(key, value) pairs, with the keys of nested tables joined by "/"."""
    known = list(dict.fromkeys(key.removeprefix(prefix).split("/")[0] for key in keys if key.startswith(prefix)))
    if not isinstance(given, Mapping):
        raise ParetuneError(f"{where}: expected keys {', '.join(known)}, got {given!r}")
    for key, value in given.items():
        if key not in known:
            raise ParetuneError(f"{where} has no key '{key}'.{near_miss(str(key), known)}")
        path = f"{prefix}{key}"
        if path in keys:
            yield path, value
        else:
            yield from _flat(f"{where}.{key}", f"{path}/", value, keys)


Build = Callable[..., Any]


def gathered(build: Build, prefix: str, answers: Mapping[str, Any]) -> Any:
    """A record of the kind `build` from the answers under `prefix`: the last part of a name is the field, and the
    field's default says what kind of number it is.
    """
    found = {}
    keys = SECTIONS[prefix.split("/", maxsplit=1)[0]]
    for name, value in answers.items():
        key = name.removeprefix(prefix.split("/", maxsplit=1)[0] + "/")
        if name.startswith(prefix):
            found[name.rsplit("/", 1)[-1]] = type(keys[key].default)(value)
    return build(**found)
