"""Records of namespaces that an application has declared, read without its classes.

The registry of the store says which fields a record has, which is all that is needed to show it.
Migrations are the application's, so a record is shown as it was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from walkv import CodecError, Store
from walkv.namespaces import codec
from walkv.namespaces.registry import Entry
from walkv.namespaces.schema import MASK


def records_prefix(name: str) -> bytes:
    """What the keys of all records of a namespace begin with; see ``walkv.namespaces.table``."""
    return b"\0%b\0r" % name.encode()


def records(store: Store, name: str, entry: Entry, secrets: bool) -> Iterator[dict[str, Any]]:
    """All records, in the order of their keys.

    Raises:
        CodecError: one cannot be read.
    """
    for key, value in store.scan(records_prefix(name)):
        row = codec.decode(value)
        try:
            number = row[0]
            # A record that expires has the time between layout and values; see ``schema``.
            number, found = (number, row[1:]) if number >= 0 else (-1 - number, row[2:])
            record = dict(zip(entry.layouts[number].names, found, strict=True))
        except (TypeError, IndexError, ValueError) as error:
            raise CodecError(f"{name}: the record under {key!r} cannot be read") from error
        if not secrets:
            for field in entry.secrets:
                if record.get(field):
                    record[field] = MASK
        yield record


def names(entry: Entry) -> list[str]:
    """The fields of all layouts: those of the key, then those of the newest layout, then others."""
    layouts = reversed(entry.layouts)
    return list(dict.fromkeys((*entry.key, *(name for each in layouts for name in each.names))))
