"""What a config names by import path, and whether its settings fit."""

import importlib
import inspect
from collections.abc import Callable, Mapping
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
