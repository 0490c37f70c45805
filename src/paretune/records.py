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


def to_plain(record: Any) -> Any:
    """`record` as dicts, lists and scalars, ready for `json.dumps`."""
    if dataclasses.is_dataclass(record):
        return {f.name: to_plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_plain(value) for key, value in record.items()}
    if isinstance(record, (tuple, list)):
        return [to_plain(value) for value in record]
    return record


Reader = Callable[[Any], Any]


def from_plain(kind: type[T], plain: Any) -> T:
    """The inverse of `to_plain`: rebuilds a dataclass of type `kind`, its tuples and nested records."""
    return typing.cast(T, _reader(typing.cast(Any, kind))(plain))


@cache
def _reader(kind: Any) -> Reader:
    """How to read a `kind`, worked out once: a long study reads a hundred thousand records."""
    if dataclasses.is_dataclass(kind):
        return _record_reader(kind)
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
    @cache
    def nested() -> dict[str, Reader]:
        """Worked out on the first use, because a record may hold its own kind."""
        readers = {name: _reader(hint) for name, hint in typing.get_type_hints(kind).items()}
        return {name: read for name, read in readers.items() if read is not _as_it_is}

    return lambda plain: kind(**plain | {name: read(plain[name]) for name, read in nested().items() if name in plain})


def _as_it_is(plain: Any) -> Any:
    return plain


def digest(record: Any) -> str:
    """Sixteen hex digits that two records share only if their contents are equal."""
    text = json.dumps(to_plain(record), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
