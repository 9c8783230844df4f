"""Any table of a SQLite file.

With a value column each row is an entry: key and value as bytes, see ``plain``. Without one each
row is a record with a field for each column: of a namespace of its own, which is registered with
the columns as fields and the key columns as key, so that it can be listed as it is, and declared by
an application with a class that has these fields.

Values are what SQLite has: int, float, str, bytes or None.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

from walkv.errors import CodecError, ImportSourceError
from walkv.namespaces import keys
from walkv.namespaces.faces import CLASSES
from walkv.namespaces.registry import NOTHING, Entry
from walkv.namespaces.schema import Layout
from walkv.namespaces.table import NAME
from walkv.ops.moving.declared import check_names
from walkv.ops.moving.items import RECORD, Item, Problems
from walkv.ops.moving.sources import plain
from walkv.ops.moving.sources.base import empty
from walkv.ops.moving.sources.sqlite import columns, count, quoted, tables


class SQLiteTable:
    """The rows of a table.

    Args:
        key: the columns that tell rows apart.
        value: the column whose values are the values of entries; None for records.
        prefix: put before the key of each entry.
        namespace: of the records; by default the table's name in lower case.
    """

    kind = "sqlite-table"
    raw = False
    masked: Final[dict[str, tuple[str, ...]]] = {}

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        *,
        table: str,
        key: Sequence[str],
        value: str | None = None,
        prefix: bytes = b"",
        namespace: str | None = None,
    ) -> None:
        self.path = path
        self._connection = connection
        self._table, self._key, self._value = table, tuple(key), value
        self._prefix = prefix
        there = tables(connection)
        if table not in there:
            names = ", ".join(sorted(there)) or "none"
            raise ImportSourceError(f"there is no table {table!r}; there are {names}", path=path)
        self._columns = tuple(columns(connection, table))
        for name in (*self._key, *(() if value is None else (value,))):
            if name not in self._columns:
                raise ImportSourceError(
                    f"table {table!r} has no column {name!r}; it has {', '.join(self._columns)}",
                    path=path,
                )
        if not self._key or (value is not None and len(self._key) > 1):
            raise ValueError("give the key column; several only for records, without a value")
        self.namespaces: dict[str, Entry] = {}
        if value is None:
            self._namespace = namespace or re.sub(r"[^a-z0-9_]", "_", table.lower())
            if not NAME.fullmatch(self._namespace) or self._namespace in CLASSES:
                raise ValueError(
                    f"a namespace of its own cannot be called {self._namespace!r}; give it "
                    "another name"
                )
            check_names(self._namespace, self._columns, path)
            layout = Layout(1, self._columns)
            self.namespaces[self._namespace] = NOTHING._replace(key=self._key, layouts=[layout])
        self.item_count = count(connection, table)
        if not self.item_count:
            raise empty(path, f"table {table!r} has no row")

    def check(self) -> None:
        """SQLite has no checksums; what is wrong with a page is told where it is read."""

    def items(self, problems: Problems) -> Iterator[Item]:
        """A row each."""
        wanted = self._columns if self._value is None else (*self._key, self._value)
        names = ", ".join(map(quoted, wanted))
        rows = self._connection.execute(f"SELECT {names} FROM {quoted(self._table)}")
        for number, row in enumerate(rows, 1):
            try:
                yield self._record(row) if self._value is None else self._entry(*row)
            except (ValueError, CodecError) as error:
                problems.append(f"row {number}: {error}")

    def _entry(self, key: Any, value: Any) -> Item:
        return plain.entry(self._prefix, key, plain.as_bytes(value))

    def _record(self, row: tuple[Any, ...]) -> Item:
        fields = dict(zip(self._columns, row, strict=True))
        for name in self._key:
            if fields[name] is None:
                raise ValueError(f"{name} is NULL, and is of the key")
            keys.pack_one(fields[name])  # NaN is no key
        size_bytes = sum(len(each) for each in row if isinstance(each, str | bytes))
        return Item(self._namespace, RECORD, fields, size_bytes=256 + size_bytes)
