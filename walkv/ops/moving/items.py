"""What moves between a store and a file: one kind of thing, whatever it comes from.

Invariants:
    1. Two items have equal digests if and only if they say the same: the same namespace, the same
       fields in the same order, values that are equal to the type.
    2. A tally does not depend on the order of what was added to it.

Source: a sum of digests instead of a running hash, since a store gives its records in the order of
their keys and a SQLite file in that of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import xxhash

from walkv.namespaces import codec, keys
from walkv.namespaces.registry import Entry

ENTRY: Final = "entry"
RECORD: Final = "record"
OLD: Final = "old"
HEAD: Final = "head"
CHECKPOINT: Final = "checkpoint"
WRITE: Final = "write"
KINDS: Final = frozenset((ENTRY, RECORD, OLD, HEAD, CHECKPOINT, WRITE))

CHECKPOINTS: Final = "checkpoints"
MESSAGES: Final = "messages"

_KEY_FIELDS: Final = {
    HEAD: ("session_id",),
    CHECKPOINT: ("thread_id", "namespace", "number"),
    WRITE: ("thread_id", "namespace", "checkpoint_id", "task_id", "idx"),
}
FIELDS: Final = {
    ENTRY: ("key", "value"),
    HEAD: ("session_id", "first", "next", "count"),
    CHECKPOINT: (
        "thread_id",
        "namespace",
        "number",
        "checkpoint_id",
        "parent_id",
        "run_id",
        "metadata",
        "created_at",
        "data",
    ),
    WRITE: (
        "thread_id",
        "namespace",
        "checkpoint_id",
        "task_id",
        "idx",
        "channel",
        "value",
        "task_path",
    ),
}
"""The fields of all that is no record; those of a record are in its layout."""


class Item(NamedTuple):
    """One thing that moves.

    Attributes:
        namespace: empty for an entry, which is a key and its value.
        what: ``entry``; ``record``; ``old``, a record as it was before; ``head``, of the messages
            of a session; ``checkpoint`` with its state; ``write``, a pending one.
        fields: names and values.
        layout: of a record, its place among the layouts of its namespace.
        version: of an old version, its number.
        expiry_ms: when it expires, in ms since 1970, or 0.
        size_bytes: about so many, for batches.
    """

    namespace: str
    what: str
    fields: dict[str, Any]
    layout: int = 0
    version: int = 0
    expiry_ms: int = 0
    size_bytes: int = 512


def base(name: str) -> bytes:
    """What all keys of a namespace begin with; see ``walkv.namespaces.table``."""
    return b"\0%b\0" % name.encode()


def place(item: Item, key: tuple[str, ...]) -> bytes:
    """The key of a store under which an item is.

    Args:
        key: the key fields of its namespace.
    Raises:
        ValueError, TypeError, KeyError: a field is none that can be in a key, or is missing.
    """
    fields = item.fields
    if item.what == ENTRY:
        return fields["key"]  # type: ignore[no-any-return]  # bytes, see FIELDS
    packed = keys.pack(*(fields[name] for name in _KEY_FIELDS.get(item.what, key)))
    start = base(item.namespace)
    if item.what == OLD:
        return start + b"h" + packed + keys.END + item.version.to_bytes(8, "big")
    if item.what == HEAD:
        return start + b"x" + packed
    if item.what == WRITE:
        return start + b"xw" + packed
    return start + b"r" + packed


def is_counted(item: Item) -> bool:
    """Whether an item is one of those that are counted: a head is not, as it counts itself."""
    return item.what != HEAD


def digest(item: Item) -> int:
    """128 bits that stand for what an item says.

    Of records that expire the moment is left out: it is kept, to the millisecond, but is not what
    the record says. Of an entry it is part.
    """
    names = list(item.fields)
    expiry_ms = item.expiry_ms if item.what == ENTRY else 0
    said = [item.namespace, item.what, item.version, expiry_ms, names, list(item.fields.values())]
    return xxhash.xxh3_128_intdigest(codec.encode(said))


_MOST_PROBLEMS: Final = 100


class Problems:
    """What could not be moved: how much, and the first lines of it."""

    def __init__(self) -> None:
        self.count = 0
        self.lines: list[str] = []

    def append(self, line: str) -> None:
        """One more."""
        self.count += 1
        if len(self.lines) < _MOST_PROBLEMS:
            self.lines.append(line)


@dataclass(slots=True)
class Tally:
    """How many items there are, and what they say, together.

    Attributes:
        checksum: the sum of their digests, modulo 2**128.
    """

    count: int = 0
    checksum: int = 0

    def add(self, item: Item) -> None:
        """Count one more."""
        self.count += 1
        self.checksum = (self.checksum + digest(item)) & ((1 << 128) - 1)

    def as_dict(self) -> dict[str, Any]:
        """As it is written to a file."""
        return {"count": self.count, "xxh3_128": f"{self.checksum:032x}"}


def known_fields(item: Item, namespaces: Mapping[str, Entry]) -> tuple[str, ...] | None:
    """The fields that an item has to have; None if there is no such thing."""
    if item.what in FIELDS:
        return FIELDS[item.what]
    entry = namespaces.get(item.namespace)
    if entry is None or not 0 <= item.layout < len(entry.layouts):
        return None
    return entry.layouts[item.layout].names
