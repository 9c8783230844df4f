"""What the registry says of namespaces, put back as far as it can be told from their records.

The registry is one entry, and records say nothing of what their values are but a number that stands
for something in it. Who knows how the records were declared can see whether they fit: all of them,
value by value, with the key that they are stored under.

Invariant: a record whose layout is not known is never read as if it had another one. A number that
stands for an unknown layout is not given to a known one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from walkv.engine.store import Store
from walkv.errors import CodecError
from walkv.namespaces import codec, keys, registry
from walkv.namespaces.base import Declaration
from walkv.namespaces.faces import CLASSES
from walkv.namespaces.keyvalue import Reader
from walkv.namespaces.registry import Entry
from walkv.namespaces.schema import Layout, Schema
from walkv.namespaces.table import Table
from walkv.ops.indexes import run, tables

_UNKNOWN: Final = Layout(0, ())
"""Stands for a layout that is lost: no record has no fields, so none is read by it."""


def rebuild_registry(store: Store, declarations: Iterable[Declaration[Any]] = ()) -> list[str]:
    """Register namespaces that have entries and that the store does not know any more.

    Of those that walkv itself declares, and those of ``declarations``, each is registered as if
    this code had written its records, if every one of them fits: that is inferred, as nothing else
    is known. So a declaration has to be that of the code that has written them, and all of them:
    what was written under several layouts does not fit one. Of a namespace that the store knows
    from an older registry the same is done for one layout that came later, and what does not fit
    will never be read as something else.

    For a store that nobody else writes to meanwhile. May be interrupted, and done again.

    Returns:
        What was done, a line each. ``verify_indexes`` tells what could not be.
    Raises:
        CodecError, FormatError: the registry cannot be read, or is of a newer version.
    Cost: reads all records of the namespaces in question twice; otherwise a look at each record.
    """
    kv = run.key_value(store)
    declared = {cls.declaration.name: cls.declaration for cls in CLASSES.values()}
    declared |= {each.name: each for each in declarations}
    changed: dict[str, Entry] = {}
    lines = []
    with kv.view() as view:
        known = registry.read(view)
        for name in run.names(view):
            kind = _Kind(declared[name]) if name in declared else None
            if name in known:
                made = _extended(name, known[name], kind, view)
            else:
                made = None if kind is None else _inferred(kind, view)
            if made is None:
                continue
            changed[name], line = made
            lines.append(line)
            # An index is registered only once it is whole.
            run.end(kv, tables.Table(name, changed[name]).mends(view))
    if changed:
        _, ticket = kv.transact(lambda tx: registry.write(tx, registry.read(tx) | changed), None)
        if ticket is not None:
            ticket.wait()
    return lines


class _Kind:
    """A namespace as it is declared."""

    def __init__(self, declared: Declaration[Any]) -> None:
        self.schema = Schema(declared.name, declared.record, declared.version, declared.migrations)
        self.table = Table(declared.name, self.schema, _fields(declared.key), declared.history)
        self.indexes = [",".join(_fields(fields)) for fields in declared.indexes]

    def fits(self, values: list[Any], place: bytes) -> bool:
        """Whether a record with these values may have been written, in this place.

        Args:
            place: packed key, and of an old version what follows it.
        """
        if len(values) != len(self.schema.columns):
            return False
        try:
            for column, value in zip(self.schema.columns, values, strict=True):
                if type(column.check(value)) is not type(value):
                    return False
            key = self.table.key_of(values)
        except (TypeError, ValueError, OverflowError):  # errors of ``codec`` are of these
            return False
        return place == key or place.startswith(key + keys.END)


def _fields(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _inferred(kind: _Kind, reader: Reader) -> tuple[Entry, str] | None:
    """The entry of a namespace that the registry does not know."""
    table, count = kind.table, 0
    for number, values, place in _rows(table.name, reader):
        if number != 0 or not kind.fits(values, place):
            return None
        count += 1
    entry = Entry(
        table.key_fields,
        [kind.schema.layout],
        {name: number for number, name in enumerate(kind.indexes, 1)},
        len(kind.indexes) + 1,
        sorted(kind.schema.secrets),
        table.history,
    )
    return entry, (
        f"{table.name}: registered again, as the registry did not know it: inferred from its "
        f"declaration, which all {count:,} records fit"
    )


def _extended(
    name: str, entry: Entry, kind: _Kind | None, reader: Reader
) -> tuple[Entry, str] | None:
    """The entry of a namespace some of whose layouts the registry does not know."""
    following = len(entry.layouts)
    unknown = [row for row in _rows(name, reader) if row[0] >= following]
    if not unknown:
        return None
    highest = max(number for number, _, _ in unknown)
    new = kind is not None and kind.schema.layout not in entry.layouts and highest == following
    if kind and new and all(kind.fits(values, place) for _, values, place in unknown):
        line = f"{name}: its newest layout was registered again: inferred from its declaration"
        return entry._replace(layouts=[*entry.layouts, kind.schema.layout]), line
    gone = [_UNKNOWN] * (highest + 1 - following)
    line = (
        f"{name}: {len(gone)} of its layouts are lost; their numbers are taken, so that nothing "
        "reads their records as something else"
    )
    return entry._replace(layouts=[*entry.layouts, *gone]), line


def _rows(name: str, reader: Reader) -> Iterator[tuple[int, list[Any], bytes]]:
    """Layout number, values and place of each record and old version of a namespace.

    What is none of these has the number -1, which fits nothing and is not beyond any list.
    """
    base = b"\0" + name.encode() + b"\0"
    for kind in (b"r", b"h"):
        for full_key, data in reader.scan(base + kind):
            yield *_row(data), full_key[len(base) + 1 :]


def _row(data: bytes) -> tuple[int, list[Any]]:
    try:
        row = codec.decode(data)
    except CodecError:
        return -1, []
    if type(row) is not list or not row or type(row[0]) is not int:
        return -1, []
    return (row[0], row[1:]) if row[0] >= 0 else (-1 - row[0], row[2:])
