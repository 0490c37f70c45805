"""What a config names by import path, and whether its settings fit."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paretune.errors import ParetuneError, near_miss


def imported(target: str, setting: str = "_target_") -> Callable[..., Any]:
    """The callable that `target` ("my_package.my_module.make") names.

    Raises:
        ParetuneError: it cannot be imported or is not callable; `setting` is the key that the message names.
    """
    module, _, name = target.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ParetuneError(f"task: {setting} '{target}' cannot be imported ({error})") from error
    if not callable(found):
        raise ParetuneError(f"task: {setting} '{target}' is not callable")
    return found


def whole(key: str, number: Any, least: int, most: int | None = None) -> None:
    """Nothing, if `number` is a whole one from `least` up to `most`; True and 2.0 are none.

    Raises:
        ParetuneError: it is not; `key` is what the message names.
    """
    if type(number) is not int or number < least or (most is not None and number > most):
        range_ = f"{least} or more" if most is None else f"{least} to {most}"
        raise ParetuneError(f"{key} must be a whole number, {range_}, got {number!r}")


def text(key: str, given: Any) -> None:
    """Nothing, if `given` is text or a path.

    Raises:
        ParetuneError: it is not; `key` is what the message names.
    """
    if not isinstance(given, str | Path):
        raise ParetuneError(f"{key} must be text, got {given!r}")


def check_known(make: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Nothing, if `make` takes every one of `arguments` by name.

    Raises:
        ParetuneError: names the first one that it does not take, and the near miss.
    """
    known = inspect.signature(make).parameters
    for key in arguments:
        if key not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise ParetuneError(f"task has no setting '{key}'.{near_miss(key, known)}")


def check_bound(make: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Nothing, if `make` can be called with `arguments`.

    Raises:
        ParetuneError: one is missing or too many.
    """
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        raise ParetuneError(f"task: {error}") from error
