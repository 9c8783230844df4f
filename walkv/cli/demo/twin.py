"""The calls of the demo's agent once more, into SQLite, to compare sizes and times.

Each namespace is a table with its key as columns and the record as JSON text, and has the indexes
that it has in walkv. A call is a transaction, synced as in walkv: under ``synchronous=FULL``, or,
for what is written back, under ``NORMAL``, which in the journal mode WAL leaves the sync to later.

Source: what is most often written for agents on SQLite. States are kept whole, as they come.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from walkv import AgentStore
from walkv.cli.demo import telling
from walkv.cli.demo.audit import look_up
from walkv.cli.demo.trial import Call, Place
from walkv.namespaces import codec

if TYPE_CHECKING:
    import sqlite3

_REPORT_EVERY: Final = 200


class Twin(NamedTuple):
    """The same records in SQLite.

    Attributes:
        size_bytes: on disk, closed.
        elapsed_seconds: in making JSON and in transactions.
    """

    size_bytes: int
    elapsed_seconds: float


def write(
    path: str, agent: AgentStore, calls: list[Call], progress: Callable[[int], None]
) -> Twin | None:
    """Do the calls again, in their order; None if this Python has no SQLite.

    Args:
        path: of the database to be made.
        agent: where the states are.
        progress: told the number of calls that were done.
    Raises:
        OSError: SQLite could not do them.
    """
    try:
        import sqlite3
    except ImportError:
        return None
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            elapsed_ns = _repeat(database, agent, calls, progress)
    except sqlite3.Error as error:
        raise OSError(None, f"SQLite: {error}", path) from error
    size_bytes = sum(
        os.path.getsize(path + end) for end in ("", "-wal") if os.path.exists(path + end)
    )
    return Twin(size_bytes, elapsed_ns / 1e9)


def _repeat(
    database: sqlite3.Connection,
    agent: AgentStore,
    calls: list[Call],
    progress: Callable[[int], None],
) -> int:
    """Do the calls; returns the nanoseconds that they took."""
    elapsed_ns = 0
    database.execute("PRAGMA journal_mode=WAL")
    statements = _create(database, agent)
    synced: bool | None = None
    for number, call in enumerate(calls):
        records = [(place, _record(agent, place, content)) for place, content in call.records]
        sync = any(row != telling.TOOL_CALLS for (row, _), _ in records)
        began_ns = time.perf_counter_ns()
        if sync is not synced:
            database.execute(f"PRAGMA synchronous={'FULL' if sync else 'NORMAL'}")
            synced = sync
        database.execute("BEGIN IMMEDIATE")
        for (row, key), record in records:
            text = json.dumps(record, default=datetime.isoformat, separators=(",", ":"))
            database.execute(statements[row], (*key, text))
        database.execute("COMMIT")
        elapsed_ns += time.perf_counter_ns() - began_ns
        if number % _REPORT_EVERY == 0:
            progress(number)
    return elapsed_ns


def _create(database: sqlite3.Connection, agent: AgentStore) -> dict[str, str]:
    """Make the tables; returns the statements that write a record, by row."""
    statements = {}
    for row in telling.ROWS:
        namespace = "executions" if row in (telling.STEPS, telling.TOOL_CALLS) else row
        table = agent.by_name[namespace].table
        key, indexes = table.key_fields, table.indexes
        if row == telling.CHECKPOINTS:  # their one index is of runs, and there are none
            key, indexes = ("thread_id", "checkpoint_id"), ()
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {namespace} "
            f"({', '.join(f'{name} NOT NULL' for name in key)}, record TEXT NOT NULL, "
            f"PRIMARY KEY ({', '.join(key)}))"
        )
        for number, index in enumerate(indexes):
            fields = ", ".join(f"json_extract(record, '$.{name}')" for name in index.fields)
            name = f"{namespace}_{number}"
            database.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {namespace} ({fields})")
        marks = ", ".join("?" * (len(key) + 1))
        statements[row] = f"INSERT OR REPLACE INTO {namespace} VALUES ({marks})"
    return statements


def _record(agent: AgentStore, place: Place, content: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = codec.decode(content)
    if place[0] == telling.CHECKPOINTS:
        checkpoint = look_up(agent, place)
        fields["data"] = None if checkpoint is None else checkpoint.data
    return fields
