"""Records of namespaces that an application has declared, read without its classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from walkv import Store
from walkv.namespaces.registry import Entry
from walkv.ops.naming import record_of, record_prefix


def records(store: Store, name: str, entry: Entry, secrets: bool) -> Iterator[dict[str, Any]]:
    """All records, in the order of their keys.

    Raises:
        CodecError: one cannot be read.
    """
    for _, value in store.scan(record_prefix(name)):
        yield record_of(value, name, entry, secrets=secrets)


def names(entry: Entry) -> list[str]:
    """The fields of all layouts: those of the key, then those of the newest layout, then others."""
    layouts = reversed(entry.layouts)
    return list(dict.fromkeys((*entry.key, *(name for each in layouts for name in each.names))))
