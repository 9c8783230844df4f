"""Namespaces that an application has declared, written to without its classes.

The registry says which fields a record has, how it is laid out and what is indexed; that is all it
takes to write it as the class would. Migrations are the application's, so a record is written as
it was read, in the layout that it had.

Invariants:
    1. An index is registered here only if every record that comes has its fields; else the
       application builds it when it declares the namespace, as it does with any new index.
    2. Layouts are only added.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import make_dataclass
from typing import Any, cast

from walkv.errors import FormatError
from walkv.namespaces import registry
from walkv.namespaces.keyvalue import KeyValue, Writer
from walkv.namespaces.registry import Entry
from walkv.namespaces.schema import RESERVED, Layout, Schema
from walkv.namespaces.table import Table
from walkv.ops.moving.items import Item

_MOST_VERSIONS = 10_000


def check_names(namespace: str, names: tuple[str, ...], path: str = "") -> None:
    """See whether names can be those of the fields of a record.

    Raises:
        FormatError: one cannot.
    """
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name) or name in RESERVED:
            raise FormatError(
                f"{namespace}: a field of a record cannot be called {name!r}", path=path
            )


def _same_version(layouts: list[Layout]) -> bool:
    return len({layout.version for layout in layouts}) == 1


def _joined(name: str, ours: Entry | None, theirs: Entry, kv: KeyValue) -> Entry:
    """What is registered once the records of a source may come."""
    for layout in theirs.layouts:
        check_names(name, layout.names, kv.path)
        if not 1 <= layout.version <= _MOST_VERSIONS:
            raise FormatError(f"{name}: a schema version of {layout.version}", path=kv.path)
    # Without the fields that are masked two layouts may have become one.
    theirs = theirs._replace(layouts=list(dict.fromkeys(theirs.layouts)))
    if ours is None:
        whole = {
            index: number
            for index, number in theirs.indexes.items()
            if _same_version(theirs.layouts)
            and all(set(index.split(",")) <= set(layout.names) for layout in theirs.layouts)
        }
        return theirs._replace(indexes=whole)
    if ours.key != theirs.key:
        raise FormatError(
            f"namespace {name}: its records are stored by ({', '.join(ours.key)}), and those that "
            f"are to come by ({', '.join(theirs.key)})",
            path=kv.path,
        )
    new = [layout for layout in theirs.layouts if layout not in ours.layouts]
    for layout in new:
        missing = {f for index in ours.indexes for f in index.split(",")} - set(layout.names)
        if missing or (ours.indexes and layout.version != ours.newest_version):
            raise FormatError(
                f"namespace {name}: the records that are to come are laid out otherwise, and "
                "only its class can tell how they are indexed; import into a store without it, "
                "and let the application open that",
                path=kv.path,
            )
        if name in kv.shared:
            raise FormatError(
                f"namespace {name}: the records that are to come are laid out otherwise than "
                "those of the class that this open store is used with; close it first",
                path=kv.path,
            )
    secrets = sorted({*ours.secrets, *theirs.secrets})
    # With fewer old versions declared, the class deletes what is too many when it is used again.
    history = max(ours.history, theirs.history)
    return ours._replace(layouts=[*ours.layouts, *new], secrets=secrets, history=history)


def register(kv: KeyValue, namespaces: Mapping[str, Entry]) -> None:
    """Make a store know namespaces.

    Raises:
        FormatError: one of them does not fit with what is there.
    """
    known = registry.read(kv)
    joined = {name: _joined(name, known.get(name), entry, kv) for name, entry in namespaces.items()}
    if any(known.get(name) != entry for name, entry in joined.items()):
        kv.transact(lambda tx: registry.write(tx, {**registry.read(tx), **joined}), None)


class DeclaredTable:
    """The records of an application's namespace.

    Args:
        entry: what the store has registered.
        source: what the source says of it.
    """

    def __init__(self, name: str, entry: Entry, source: Entry) -> None:
        self._layouts = source.layouts
        self._tables = {layout: _table(name, entry, layout) for layout in set(source.layouts)}

    def encoded(self, item: Item) -> bytes:
        """A record as it is stored."""
        table = self._tables[self._layouts[item.layout]]
        return table.schema.encode(list(item.fields.values()), item.expiry_ms)

    def put(self, tx: Writer, key: bytes, item: Item, old: bytes | None) -> None:
        """Write a record and its index entries."""
        table = self._tables[self._layouts[item.layout]]
        values = list(item.fields.values())
        # In seconds since 1970, as the exact time counts.
        expiry_seconds = item.expiry_ms / 1000 if item.expiry_ms else None
        table.write(tx, key[len(table.records) :], values, old, 0, expiry_seconds)


def _table(name: str, entry: Entry, layout: Layout) -> Table[Any]:
    fields = [(field, Any, None) for field in layout.names]
    record = make_dataclass("Record", cast(Any, fields), frozen=True, slots=True)
    # Nobody migrates here: a record of another version is not read, but refused.
    migrations = dict.fromkeys(range(2, layout.version + 1), dict)
    schema: Schema[Any] = Schema(name, record, layout.version, cast(Any, migrations))
    schema.use_layouts(entry.layouts)
    table = Table(name, schema, entry.key, entry.history)
    table.use_indexes(entry.indexes)
    return table
