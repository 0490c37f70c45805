"""Frozen dataclasses to plain JSON and back: what travels between stages can be stored and replayed."""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def to_plain(record: Any) -> Any:
    """`record` as dicts, lists and scalars, ready for `json.dumps`."""
    if dataclasses.is_dataclass(record):
        return {f.name: to_plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_plain(value) for key, value in record.items()}
    if isinstance(record, (tuple, list)):
        return [to_plain(value) for value in record]
    return record


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def from_plain(kind: type[T], plain: Any) -> T:
    """The inverse of `to_plain`: rebuilds a dataclass of type `kind`, its tuples and nested records."""
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: from_plain(hints[name], value) for name, value in plain.items()})
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        inner = args[:1] * len(plain) if args[-1] is Ellipsis else args
        return tuple(map(from_plain, inner, plain))  # type: ignore[return-value]
    if origin is dict:
        return {key: from_plain(args[1], value) for key, value in plain.items()}  # type: ignore[return-value]
    if origin in (types.UnionType, typing.Union):
        options = [option for option in args if option is not type(None)]
        simple = plain is None or len(options) > 1
        return typing.cast(T, plain if simple else from_plain(options[0], plain))
    return typing.cast(T, plain)


def digest(record: Any) -> str:
    """Sixteen hex digits that two records share only if their contents are equal."""
    text = json.dumps(to_plain(record), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
