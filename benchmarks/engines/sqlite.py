"""SQLite through the standard library's sqlite3."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from benchmarks.dataset import Item
from benchmarks.engines.base import (
    CACHE_BYTES,
    WAL_AUTOCHECKPOINT_PAGES,
    Feature,
    Get,
    Guarantee,
    SerializedWriter,
    Writer,
)

MOST_CLUSTERED_BYTES = 200
"""Values up to this are kept in the tree of the keys: SQLite advises WITHOUT ROWID for rows smaller
than a twentieth of a page, which has 4,096 bytes. Larger ones are faster beside an index."""
PUT = "INSERT OR REPLACE INTO kv VALUES (?, ?)"
READ_FROM = "SELECT k, v FROM kv WHERE k >= ? ORDER BY k LIMIT ?"


class Sqlite:
    """One table of two columns.

    *Source*: SQLite's "Write-Ahead Logging", "PRAGMA Statements" and "Clustered Indexes and the
    WITHOUT ROWID Optimization". ``locking_mode=EXCLUSIVE`` is left out, as it would shut out
    readers of other processes, whom walkv and LMDB admit.
    """

    configuration: ClassVar[str] = (
        "WAL; durable: synchronous=FULL; process: synchronous=NORMAL; cache_size and mmap_size "
        "64 MiB each; wal_autocheckpoint: durable: 1000 pages, the default; process: 64 MiB; table "
        f"WITHOUT ROWID for values up to {MOST_CLUSTERED_BYTES} B, an ordinary one with its key in "
        "an index for larger ones; autocommit for single puts, executemany in one transaction for "
        "batches; sqlite3's own cache of prepared statements; threads share one connection "
        "behind a lock; compact is VACUUM"
    )
    group_commits: ClassVar[bool] = False
    unsupported: ClassVar[Mapping[Feature, str]] = {}

    def __init__(self, path: Path, guarantee: Guarantee, *, value_bytes: int) -> None:
        import sqlite3

        path.mkdir(parents=True, exist_ok=True)
        # The threads that share the connection take turns, by the lock of `SerializedWriter`.
        self._connection = sqlite3.connect(
            path / "kv.sqlite3", isolation_level=None, check_same_thread=False
        )
        execute = self._execute = self._connection.execute
        execute("PRAGMA journal_mode=WAL")
        execute(f"PRAGMA synchronous={'FULL' if guarantee == 'durable' else 'NORMAL'}")
        execute(f"PRAGMA cache_size={-(CACHE_BYTES // 1024)}")
        execute(f"PRAGMA mmap_size={CACHE_BYTES}")
        execute(f"PRAGMA wal_autocheckpoint={WAL_AUTOCHECKPOINT_PAGES[guarantee]}")
        clustered = "WITHOUT ROWID" if value_bytes <= MOST_CLUSTERED_BYTES else ""
        execute(f"CREATE TABLE IF NOT EXISTS kv(k BLOB PRIMARY KEY, v BLOB) {clustered}")
        self._shared = SerializedWriter(self.put)

    @staticmethod
    def version() -> str:
        import sqlite3

        return sqlite3.sqlite_version

    def put(self, key: bytes, value: bytes, /) -> None:
        self._execute(PUT, (key, value))

    def get(self, key: bytes, /) -> bytes | None:
        row = self._execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
        return row[0] if row else None

    def delete(self, key: bytes, /) -> None:
        self._execute("DELETE FROM kv WHERE k = ?", (key,))

    @contextmanager
    def reading(self) -> Iterator[Get]:
        self._execute("BEGIN")
        try:
            yield self.get
        finally:
            self._execute("COMMIT")

    def write_batch(self, items: Sequence[Item]) -> None:
        self._execute("BEGIN")
        self._connection.executemany(PUT, items)
        self._execute("COMMIT")

    def scan(self, *, reverse: bool = False) -> Iterator[Item]:
        return self._execute(f"SELECT k, v FROM kv ORDER BY k {'DESC' if reverse else 'ASC'}")

    def read_from(self, start: bytes, count: int, /) -> list[Item]:
        return self._execute(READ_FROM, (start, count)).fetchall()

    def compact(self) -> None:
        self._execute("VACUUM")
        self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def for_thread(self) -> Writer:
        return self._shared

    def close(self) -> None:
        self._connection.close()
