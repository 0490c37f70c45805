"""Frozen dataclasses to plain JSON and back: what travels between stages can be stored and replayed."""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

_QUIET = {"quiet": True}
_WRITTEN = object()


def quiet(default: Any) -> Any:
    """A dataclass field that is not written when it has its default, which therefore must never change."""
    return dataclasses.field(default=default, metadata=_QUIET)


def to_plain(record: Any) -> Any:
    """`record` as dicts, lists and scalars, ready for `json.dumps`.

    A field that is None, or quiet, by default is left out if it has its default.
    """
    if dataclasses.is_dataclass(record):
        fields = ((name, getattr(record, name), unsaid) for name, unsaid in _fields(typing.cast(Any, type(record))))
        return {name: to_plain(value) for name, value, unsaid in fields if value != unsaid}
    if isinstance(record, Mapping):
        return {str(key): to_plain(value) for key, value in record.items()}
    if isinstance(record, (tuple, list)):
        return [to_plain(value) for value in record]
    return record


@cache
def _fields(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Every field with the value that is not written, or one that nothing equals."""
    return tuple(
        (field.name, field.default if field.default is None or "quiet" in field.metadata else _WRITTEN)
        for field in dataclasses.fields(kind)
    )


Reader = Callable[[Any], Any]


def from_plain(kind: type[T], plain: Any) -> T:
    """The inverse of `to_plain`: rebuilds a dataclass of type `kind`, its tuples and nested records."""
    return typing.cast(T, _reader(typing.cast(Any, kind))(plain))


@cache
def _reader(kind: Any) -> Reader:
    """How to read a `kind`, worked out once: a long study reads a hundred thousand records."""
    if dataclasses.is_dataclass(kind):
        return _record_reader(kind)
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return lambda plain: kind(*plain)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and args[-1] is Ellipsis:
        read = _reader(args[0])
        return tuple if read is _as_it_is else lambda plain: tuple(map(read, plain))
    if origin is tuple:
        reads = tuple(map(_reader, args))
        return lambda plain: tuple(read(value) for read, value in zip(reads, plain, strict=True))
    if origin is dict:
        read = _reader(args[1])
        return dict if read is _as_it_is else lambda plain: {key: read(value) for key, value in plain.items()}
    if origin in (types.UnionType, typing.Union):
        options = [option for option in args if option is not type(None)]
        read = _reader(options[0]) if len(options) == 1 else _as_it_is
        return lambda plain: None if plain is None else read(plain)
    return _as_it_is


def _record_reader(kind: Any) -> Reader:
    nested: list[tuple[str, Reader]] = []
    known = False

    def read(plain: Any) -> Any:
        nonlocal known
        if not known:  # not before the first use, because a record may hold its own kind
            readers = {name: _reader(hint) for name, hint in typing.get_type_hints(kind).items()}
            nested.extend((name, reader) for name, reader in readers.items() if reader is not _as_it_is)
            known = True
        found = {name: reader(plain[name]) for name, reader in nested if plain.get(name) is not None}
        return kind(**plain | found) if found else kind(**plain)

    return read


def _as_it_is(plain: Any) -> Any:
    return plain


def digest(record: Any) -> str:
    """Sixteen hex digits that two records share only if their contents are equal."""
    text = json.dumps(to_plain(record), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
