"""Values as JSON and back: whatever ``codec`` keeps comes back equal, to the type.

Layout: what JSON has is as it is: null, true, false, text, arrays, objects with text as keys,
finite numbers with a point or an exponent, and integers up to 2**53, which every reader of JSON
gets right. Everything else is an object with one member that names it:

    {"base64": text}                       bytes
    {"int": text}                          a larger integer, hexadecimal: "-0x1f..."
    {"float": text}                        a number that JSON has not: 16 hex digits, IEEE 754
    {"datetime": text}                     a time in UTC, ISO 8601
    {"date": text}, {"time": text}         ISO 8601
    {"timedelta": [days, seconds, us]}
    {"uuid": text}, {"decimal": text}
    {"tuple": [...]}, {"set": [...]}, {"frozenset": [...]}
    {"map": [[key, value], ...]}           a mapping with keys that are not all text, or one that
                                           would look like one of these
    {"ext": [code, base64 text]}           another extension type of msgpack

Invariant: ``from_json(to_json(value)) == value``, and no value but that one has this form.

Source: text for times and base64 for bytes without a name, as most tools write them, was rejected:
nobody can tell them from text that looks so.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgpack

from walkv.namespaces import codec

_MOST_INT: Final = 1 << 53


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _float(text: str) -> float:
    data = bytes.fromhex(text)
    if len(data) != 8:
        raise ValueError("a number of 8 bytes is wanted")
    (value,) = struct.unpack(">d", data)
    return value  # type: ignore[no-any-return]  # a float, by its format


def _datetime(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.utcoffset() is None:
        raise ValueError("a time without a time zone")
    return found.astimezone(UTC)


def _ordered(values: Iterable[Any]) -> list[Any]:
    return [to_json(each) for each in sorted(values, key=codec.encode)]


def to_json(value: Any) -> Any:
    """A value as ``json`` writes it.

    Raises:
        TypeError: it is of a type that ``codec`` does not give back.
        RecursionError: it is nested too deeply.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -_MOST_INT <= value <= _MOST_INT else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
    # Loops, as a comprehension is one more level of the interpreter's stack.
    if kind is list:
        items = []
        for each in value:
            items.append(to_json(each))
        return items
    if kind is dict:
        if all(type(key) is str for key in value) and not (len(value) == 1 and TAGS & value.keys()):
            members = {}
            for key, each in value.items():
                members[key] = to_json(each)
            return members
        pairs = []
        for key, each in value.items():
            pairs.append([to_json(key), to_json(each)])
        return {"map": pairs}
    if kind is tuple:
        return {"tuple": to_json(list(value))}
    return _special(value)


def _special(value: Any) -> Any:
    kind = type(value)
    if kind is bytes:
        return {"base64": _text(value)}
    if kind is msgpack.ExtType:
        return {"ext": [value.code, _text(value.data)]}
    if kind is datetime:
        return {"datetime": value.isoformat()}
    if kind in (date, time):
        return {kind.__name__: value.isoformat()}
    if kind in (set, frozenset):
        return {kind.__name__: _ordered(value)}
    if kind is timedelta:
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if kind in (UUID, Decimal):
        return {kind.__name__.lower(): str(value)}
    raise TypeError(f"{kind.__qualname__} has no form in JSON")


def from_json(value: Any) -> Any:
    """The value of what ``json`` has read.

    Raises:
        ValueError, TypeError, ArithmeticError, LookupError, AttributeError: it is nothing that
            ``to_json`` makes.
        RecursionError: it is nested too deeply.
    """
    kind = type(value)
    if kind is list:
        items = []
        for each in value:
            items.append(from_json(each))
        return items
    if kind is not dict:
        if kind is float and not math.isfinite(value):
            raise ValueError("a number that JSON has not")
        return value
    if len(value) == 1 and TAGS & value.keys():
        ((tag, inner),) = value.items()
        return _FROM[tag](inner)
    members = {}
    for key, each in value.items():
        members[key] = from_json(each)
    return members


def _map(pairs: Any) -> dict[Any, Any]:
    made = {}
    for key, each in pairs:
        made[from_json(key)] = from_json(each)
    if len(made) != len(pairs):
        raise ValueError("a mapping that has a key twice")
    return made


_FROM: Final[dict[str, Callable[[Any], Any]]] = {
    "base64": _bytes,
    "int": lambda text: int(text, 16),
    "float": _float,
    "datetime": _datetime,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda parts: timedelta(*parts),
    "uuid": UUID,
    "decimal": Decimal,
    "tuple": lambda items: tuple(from_json(items)),
    "set": lambda items: set(from_json(items)),
    "frozenset": lambda items: frozenset(from_json(items)),
    "map": _map,
    "ext": lambda parts: msgpack.ExtType(parts[0], _bytes(parts[1])),
}
TAGS: Final = frozenset(_FROM)
"""What the member of an object that stands for something else is called."""
