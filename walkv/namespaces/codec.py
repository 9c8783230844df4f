"""Values <-> bytes: msgpack, with extensions for what Python has and msgpack has not.

Layout: msgpack. Extension types, each with its payload:

    -1  datetime    msgpack's own timestamp, in UTC
    1   tuple       the elements, as a msgpack array
    2   int         beyond 64 bits: two's complement, big endian
    3   set         the elements, as a msgpack array, in the order of their bytes
    4   frozenset   as set
    5   date        ISO 8601 text
    6   UUID        16 bytes
    7   Decimal     its text
    8   timedelta   days, seconds, microseconds, as a msgpack array
    9   time        ISO 8601 text
    others          a ``msgpack.ExtType``, as it is

Invariants:
    1. What is decoded equals what was encoded, to the type. Exceptions: a time comes back in UTC, a
       ``bytearray`` or ``memoryview`` as ``bytes``, and a subclass of str, int, float, list, dict
       or tuple (an enumeration of text, a ``defaultdict``) as what it is a subclass of.
    2. Nothing is ever imported, called or unpickled because of what bytes say.
    3. Bytes that were not made here end in a value or in ``CodecError``, and nothing is allocated
       beyond a small multiple of their length.

Source: pickle was rejected (it runs what it reads), JSON too: no bytes, no times, no integers as
keys, a third of the speed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgpack
import xxhash

from walkv.errors import CodecError

_TUPLE: Final = 1
_INT: Final = 2
_SET: Final = 3
_FROZENSET: Final = 4
_DATE: Final = 5
_UUID: Final = 6
_DECIMAL: Final = 7
_TIMEDELTA: Final = 8
_TIME: Final = 9

_ERRORS: Final = (TypeError, ValueError, OverflowError, RecursionError, ArithmeticError)


class _Packer(threading.local):
    """A packer is kept, as making one costs more than packing, and is not to be shared."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Take another one: the one so far is, or may be, in the middle of something."""
        self.pack: Callable[[Any], bytes] = msgpack.Packer(
            datetime=True, strict_types=True, default=_to_extension, autoreset=True
        ).pack


def _pack(value: Any) -> bytes:
    # A packer of its own: the kept one is in the middle of something.
    return msgpack.packb(value, datetime=True, strict_types=True, default=_to_extension)  # type: ignore[no-any-return]


def _to_extension(value: Any) -> Any:
    kind = type(value)
    if kind is tuple:
        return msgpack.ExtType(_TUPLE, _pack(list(value)))
    if isinstance(value, int):
        if kind is int or value.bit_length() > 63:
            size = (value.bit_length() >> 3) + 1
            return msgpack.ExtType(_INT, int(value).to_bytes(size, "big", signed=True))
        return int(value)
    if kind is set or kind is frozenset:
        code = _SET if kind is set else _FROZENSET
        # Sorted, as the order of a set differs from process to process.
        head = msgpack.Packer().pack_array_header(len(value))
        return msgpack.ExtType(code, head + b"".join(sorted(map(_pack, value))))
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise TypeError("a time needs a time zone: use datetime.now(UTC)")
        return msgpack.Timestamp.from_datetime(value)
    if kind is date:
        return msgpack.ExtType(_DATE, value.isoformat().encode())
    if kind is time:
        if value.tzinfo is not None and value.utcoffset() is None:
            raise TypeError("a time of day cannot have a time zone whose offset depends on the day")
        return msgpack.ExtType(_TIME, value.isoformat().encode())
    if isinstance(value, UUID):
        return msgpack.ExtType(_UUID, value.bytes)
    if isinstance(value, Decimal):
        return msgpack.ExtType(_DECIMAL, str(value).encode())
    if isinstance(value, timedelta):
        parts = (value.days, value.seconds, value.microseconds)
        return msgpack.ExtType(_TIMEDELTA, _pack(list(parts)))
    if isinstance(value, str):
        return str.__str__(value)
    # What follows may run code of others, and that may encode something, too.
    _packer.renew()
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list):
        return list(value)
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, tuple):  # a named tuple, most likely
        return _to_extension(tuple(value))
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    raise TypeError(f"{module}{kind.__qualname__} cannot be stored")


def _unpack_nested(data: bytes) -> Any:
    # ``unpackb`` takes 40 KiB of the C stack: some 200 of them inside each other would crash the
    # process. An unpacker has them on the heap, and takes four times as long.
    size_bytes = len(data) or 1
    unpacker = msgpack.Unpacker(
        read_size=size_bytes,
        max_buffer_size=size_bytes,
        timestamp=3,
        strict_map_key=False,
        ext_hook=_from_extension,
    )
    unpacker.feed(data)
    value = unpacker.unpack()
    if unpacker.tell() != size_bytes:
        raise ValueError("more behind the value of an extension")
    return value


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, timestamp=3, strict_map_key=False, ext_hook=_from_extension)


def _from_outermost(code: int, data: bytes) -> Any:
    return _from_extension(code, data, _unpack)


def _from_extension(code: int, data: bytes, unpack: Callable[[bytes], Any] = _unpack_nested) -> Any:
    if code == _TUPLE:
        return tuple(unpack(data))
    if code == _INT:
        return int.from_bytes(data, "big", signed=True)
    if code == _SET:
        return set(unpack(data))
    if code == _FROZENSET:
        return frozenset(unpack(data))
    if code == _DATE:
        return date.fromisoformat(data.decode())
    if code == _TIME:
        return time.fromisoformat(data.decode())
    if code == _UUID:
        return UUID(bytes=data)
    if code == _DECIMAL:
        return Decimal(data.decode())
    if code == _TIMEDELTA:
        return timedelta(*unpack(data))
    raise ValueError(f"unknown extension type {code}")


def _as_it_is(code: int, data: bytes) -> Any:
    # A ``msgpack.ExtType`` of a caller's is packed by C code, unseen; it must come back, too.
    try:
        return _from_extension(code, data)
    except RecursionError:
        raise
    except (*_ERRORS, msgpack.UnpackException):
        return msgpack.ExtType(code, data)


_packer: Final = _Packer()

_FAR_TIME: Final = b"\xc7\x0c\xff"
"""How a timestamp of 96 bits begins."""


# Hot.
def encode(value: Any) -> bytes:
    """The bytes of a value.

    Raises:
        CodecError: it holds something that cannot be stored, or is nested too deeply.
    """
    try:
        data = _packer.pack(value)
    except _ERRORS as error:
        _packer.renew()
        raise CodecError(_reason(error)) from error
    if _FAR_TIME in data:
        # A time before 1970 or after 2514, and it may be none in UTC: datetime.max of a zone in
        # the west is in the year 10000 there.
        try:
            decode(data)
        except CodecError as error:
            raise CodecError("a time in it is out of the range of datetime in UTC") from error
    return data


# Hot.
def decode(data: bytes) -> Any:
    """The value of bytes.

    Raises:
        CodecError: they are not what ``encode`` makes.
    """
    try:
        return msgpack.unpackb(data, timestamp=3, strict_map_key=False, ext_hook=_from_outermost)
    except (*_ERRORS, msgpack.UnpackException) as error:
        try:
            return msgpack.unpackb(data, timestamp=3, strict_map_key=False, ext_hook=_as_it_is)
        except (*_ERRORS, msgpack.UnpackException):
            raise CodecError(f"these bytes cannot be decoded: {_reason(error)}") from error


def decode_many(values: list[bytes]) -> list[Any]:
    """As ``decode`` for each, in one call of C code."""
    try:
        return decode(b"\xdd" + len(values).to_bytes(4, "big") + b"".join(values))  # type: ignore[no-any-return]
    except CodecError:
        # Together they are deeper by a level, and what is wrong with one is wrong with all.
        return [decode(value) for value in values]


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, RecursionError) or "recursion limit" in text:
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):
        return "text in it is no text: it has lone surrogates, or bytes that are not UTF-8"
    return text if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {text}"


def digest(value: Any) -> str:
    """32 hexadecimal digits that stand for a value; equal values of like order have equal ones."""
    return xxhash.xxh3_128_hexdigest(encode(value))
