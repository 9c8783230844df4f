"""What LangGraph's SQLite savers and stores have written, moved over: all of a file in one call.

Invariant: what is there already is left as it is, so an import that was stopped goes on.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, NamedTuple

from langgraph.checkpoint.serde.base import SerializerProtocol

from walkv.agent import AgentStore
from walkv.agent.namespaces import attach
from walkv.engine.policies import WriteBack
from walkv.engine.store import Store
from walkv.errors import CodecError, FormatError
from walkv.integrations.connection import Connection
from walkv.integrations.langgraph.items import Items, StoredItem
from walkv.integrations.langgraph.serde import strict_serializer
from walkv.integrations.langgraph.sqlite import (
    ImportedCheckpoints,
    Tell,
    columns_of,
    count_checkpoints,
    import_checkpoints,
    opened,
    telling,
)
from walkv.namespaces import codec
from walkv.namespaces.keyvalue import Writer


class Imported(NamedTuple):
    """What an import has done.

    Attributes:
        present_count: checkpoints and items that were there already.
        skipped_threads: threads that have gone on in the store, and were left alone.
        errors: what could not be moved, a line each; of a thread, nothing that came after it was.
    """

    thread_count: int
    checkpoint_count: int
    write_count: int
    item_count: int
    present_count: int
    skipped_threads: tuple[str, ...]
    errors: tuple[str, ...]


def import_sqlite(
    file: str | os.PathLike[str],
    store: str | os.PathLike[str] | Store | AgentStore,
    *,
    serde: SerializerProtocol | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Move over what is in a file of SqliteSaver, AsyncSqliteSaver, SqliteStore, AsyncSqliteStore.

    The file is read as of one moment, and not changed.

    Args:
        store: to move it to: a path, or an open store, ``saver.agent`` for one.
        serde: needed for checkpoints that were encrypted.
        progress: called with how many rows are done, and of how many.
    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is not a SQLite file, or there is nothing of LangGraph in it.
    Durability: all of it is durable on return.
    """
    with opened(file) as connection:
        total, done = count(connection), 0
        if not total:
            raise FormatError(f"{os.fspath(file)}: there is nothing of LangGraph in this file")

        def tell(more: int) -> None:
            nonlocal done
            done += more
            if progress is not None:
                progress(done, total)

        with closing(Connection(store)) as held:
            return run(connection, held.agent, tell, serde)


def count(connection: sqlite3.Connection) -> int:
    """How many checkpoints and items a file has."""
    found = count_checkpoints(connection)
    if columns_of(connection, "store"):
        found += connection.execute("SELECT count(*) FROM store").fetchone()[0]
    return found


def run(
    connection: sqlite3.Connection,
    agent: AgentStore,
    tell: Tell,
    serde: SerializerProtocol | None = None,
) -> Imported:
    """As ``import_sqlite``, of a file that is open.

    Args:
        tell: called with how many more rows are done.
    """
    done = ImportedCheckpoints()
    items = present = 0
    errors: tuple[str, ...] = ()
    if columns_of(connection, "checkpoints"):
        done = import_checkpoints(connection, agent, serde or strict_serializer(), tell)
    if columns_of(connection, "store"):
        items, present, errors = _import_items(connection, agent, tell)
        agent.sync()
    return Imported(
        done.thread_count,
        done.checkpoint_count,
        done.write_count,
        items,
        done.present_count + present,
        done.skipped_threads,
        done.errors + errors,
    )


class _Arriving(Items):
    """Items that have been elsewhere."""

    def restore(self, item: StoredItem, vectors: list[bytes], dims: int) -> bool:
        """Write an item as it was; False if there is one already."""
        key = self.item_key(self.labels_of(item.labels), item.key)

        def write(tx: Writer) -> bool:
            if tx.get(self.table.records + key) is not None:
                return False
            self.write_in(tx, key, self.table.schema.values(item), None, None)
            if vectors:
                self._put_vectors(tx, key, vectors, dims)
            return True

        return self._write(write, WriteBack())


def _import_items(
    connection: sqlite3.Connection, agent: AgentStore, tell: Tell
) -> tuple[int, int, tuple[str, ...]]:
    """How many items were moved, how many were there, and what could not be moved."""
    items = _Arriving(agent.sessions.access)
    attach(items.access.kv, [items])
    columns = columns_of(connection, "store")
    expiry = "ttl_minutes, expires_at" if "ttl_minutes" in columns else "NULL, NULL"
    rows = connection.execute(
        f"SELECT prefix, key, value, created_at, updated_at, {expiry} FROM store"
        " ORDER BY prefix, key"
    )
    moved = present = 0
    errors = []
    for row in rows:
        with telling(f"item {row[1]!r} in namespace {row[0]!r}") as failed:
            vectors, dims = _vectors(connection, row[0], row[1])
            if items.restore(_item(items, row, len(vectors)), vectors, dims):
                moved += 1
            else:
                present += 1
        errors += failed
        tell(1)
    return moved, present, tuple(errors)


def _item(items: Items, row: tuple[Any, ...], vector_count: int) -> StoredItem:
    prefix, key, value, created_at, updated_at, ttl_minutes, expires_at = row
    return StoredItem(
        items.packed_labels(tuple(prefix.split("."))),
        key,
        codec.encode(_value(value, prefix, key)),
        _time(created_at),
        _time(updated_at),
        ttl_minutes,
        None if expires_at is None else _time(expires_at),
        vector_count,
    )


def _value(text: str | bytes, prefix: str, key: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if type(value) is not dict:
        raise CodecError(
            f"the value of item {key!r} in namespace {prefix!r} is no JSON object",
            namespace="langgraph_items",
            field="value",
        )
    return value


def _time(text: str) -> datetime:
    """A timestamp of SQLite, which is in UTC if it does not say."""
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _vectors(connection: sqlite3.Connection, prefix: str, key: str) -> tuple[list[bytes], int]:
    """The vectors of an item, of the dimensions that the first one has."""
    if not columns_of(connection, "store_vectors"):
        return [], 0
    rows = connection.execute(
        "SELECT embedding FROM store_vectors WHERE prefix = ? AND key = ? ORDER BY field_name",
        (prefix, key),
    )
    found = [bytes(blob) for (blob,) in rows]
    size_bytes = len(found[0]) if found else 0
    return [each for each in found if len(each) == size_bytes], size_bytes // 4
