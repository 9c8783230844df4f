"""Keys and values of a store as its namespaces mean them, without their classes.

The registry of the store says which fields a record has, which is all that is needed to name it.
Migrations are the application's, so a record is shown as it was written.

Invariants:
    1. Every key has a name. What no namespace can read is a plain key.
    2. Of a secret field nothing is shown but a mask, unless it is asked for.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from walkv.errors import CodecError
from walkv.namespaces import codec, keys, registry
from walkv.namespaces.registry import Entry
from walkv.namespaces.schema import MASK
from walkv.namespaces.table import NAME

Kind = Literal["key", "registry", "record", "index", "version", "other"]

_KINDS: Final[dict[bytes, Kind]] = {
    b"r": "record",
    b"i": "index",
    b"h": "version",
    b"x": "other",
}
_COUNT_BYTES: Final = 8
"""Behind the key fields of an old version, after ``keys.END``."""


class Name(NamedTuple):
    """What a key stands for.

    Attributes:
        kind: a plain key of the application, or what it is to a namespace.
        namespace: empty for a plain key and the registry.
        fields: the key fields of the record that it is, or belongs to; of ``other``, and of a plain
            key, none.
        index_fields: the indexed fields of an index entry, joined by commas.
    """

    kind: Kind
    namespace: str = ""
    fields: tuple[Any, ...] = ()
    index_fields: str = ""


def group_of(key: bytes) -> bytes:
    """What keys of one kind in one namespace begin with; empty for plain keys."""
    if key[:1] != b"\0":
        return b""
    end = key.find(b"\0", 1)
    return key[: end + 2] if end > 0 else b""


def kind_of(group: bytes) -> tuple[Kind, str]:
    """Kind and namespace of the keys of a group."""
    if group == registry.KEY:
        return "registry", ""
    kind, namespace = _KINDS.get(group[-1:]), group[1:-2].decode("ascii", "replace")
    return (kind, namespace) if kind and NAME.fullmatch(namespace) else ("key", "")


def name_of(key: bytes, known: dict[str, Entry]) -> Name:
    """What a key stands for in a store with these namespaces."""
    group = group_of(key)
    kind, namespace = kind_of(group)
    rest = key[len(group) :]
    try:
        if kind == "record":
            return Name(kind, namespace, keys.unpack(rest))
        if kind == "version":
            return Name(kind, namespace, keys.unpack(rest[: -_COUNT_BYTES - 1]))
        if kind == "index":
            return _index_name(namespace, rest, known.get(namespace, registry.NOTHING))
    except (ValueError, IndexError):
        return Name("key")
    return Name(kind, namespace)


def _index_name(namespace: str, rest: bytes, entry: Entry) -> Name:
    names = {number: name for name, number in entry.indexes.items()}
    index = names.get(rest[0], "")
    indexed = len(index.split(",")) if index else 0
    return Name("index", namespace, keys.unpack(rest[1:])[indexed:], index)


def record_prefix(namespace: str) -> bytes:
    """What the keys of all records of a namespace begin with; see ``walkv.namespaces.table``."""
    return b"\0%b\0r" % namespace.encode()


def version_prefix(record_key: bytes) -> bytes:
    """What the keys of the old versions of a record begin with, the count behind it."""
    group = group_of(record_key)
    return group[:-1] + b"h" + record_key[len(group) :] + keys.END


def record_of(
    data: bytes, namespace: str, entry: Entry, *, secrets: bool = False
) -> dict[str, Any]:
    """The fields of a record or an old version, by name.

    Raises:
        CodecError: it cannot be read.
    """
    row = codec.decode(data)
    try:
        number = row[0]
        # A record that expires has the time between layout and values; see ``schema``.
        number, found = (number, row[1:]) if number >= 0 else (-1 - number, row[2:])
        record = dict(zip(entry.layouts[number].names, found, strict=True))
    except (TypeError, IndexError, ValueError) as error:
        raise CodecError(
            f"{namespace}: the bytes of a record cannot be read", namespace=namespace
        ) from error
    if not secrets:
        for field in entry.secrets:
            if record.get(field):
                record[field] = MASK
    return record
