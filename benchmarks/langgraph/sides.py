"""The savers, each at the guarantee that is asked for, and what SQL does where one lacks a method.

Guarantees: `durable` survives a power failure once it is acknowledged, `process` the end of the
process only. Memory keeps neither, and is here as the ceiling.
"""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

import walkv
from walkv.engine.policies import SyncPolicy
from walkv.integrations.langgraph import WalkvSaver

Saver = BaseCheckpointSaver[Any]
GUARANTEES = ("durable", "process")


class WalkvSide:
    """`WalkvSaver`: threads and tasks share one."""

    policies: ClassVar[dict[str, SyncPolicy]] = {
        "durable": walkv.Wal(),
        "process": walkv.WriteBack(),
    }

    @contextmanager
    def saver(self, directory: Path, guarantee: str) -> Iterator[Saver]:
        """A saver over the store in a directory."""
        with WalkvSaver(directory / "agent.walkv", sync=self.policies[guarantee]) as saver:
            yield saver

    @asynccontextmanager
    async def asaver(self, directory: Path, guarantee: str) -> AsyncIterator[Saver]:
        """As `saver`, for tasks."""
        async with WalkvSaver(directory / "agent.walkv", sync=self.policies[guarantee]) as saver:
            yield saver

    def copy_thread(self, saver: Any, source: str, target: str) -> None:
        """All checkpoints of a thread, and what was written for them, under another id."""
        saver.copy_thread(source, target)

    def prune(self, saver: Any, threads: list[str]) -> None:
        """Keep the latest checkpoint of each thread."""
        saver.prune(threads, strategy="keep_latest")

    def reclaim(self, directory: Path) -> None:
        """Rewrite what is left, so that what was deleted takes no room."""
        with walkv.open(directory / "agent.walkv") as store:
            store.compact()


class SqliteSide:
    """`SqliteSaver`, and for tasks `AsyncSqliteSaver`: WAL, as both set it."""

    synchronous: ClassVar[dict[str, str]] = {"durable": "FULL", "process": "NORMAL"}

    @contextmanager
    def saver(self, directory: Path, guarantee: str) -> Iterator[Saver]:
        """A saver over the file in a directory."""
        with SqliteSaver.from_conn_string(str(directory / "agent.sqlite")) as saver:
            saver.setup()
            saver.conn.execute(f"PRAGMA synchronous={self.synchronous[guarantee]}")
            yield saver

    @asynccontextmanager
    async def asaver(self, directory: Path, guarantee: str) -> AsyncIterator[Saver]:
        """As `saver`, for tasks."""
        path = str(directory / "agent.sqlite")
        async with AsyncSqliteSaver.from_conn_string(path) as saver:
            await saver.setup()
            await saver.conn.execute(f"PRAGMA synchronous={self.synchronous[guarantee]}")
            yield saver

    def copy_thread(self, saver: Any, source: str, target: str) -> None:
        """The rows of a thread once more, in one transaction: the saver has no such method."""
        with saver.lock, saver.conn:
            for table in ("checkpoints", "writes"):
                rows = saver.conn.execute(f"PRAGMA table_info({table})")
                names = ", ".join(name for _, name, *_ in rows if name != "thread_id")
                saver.conn.execute(
                    f"INSERT INTO {table} (thread_id, {names}) "
                    f"SELECT ?, {names} FROM {table} WHERE thread_id = ?",
                    (target, source),
                )

    def prune(self, saver: Any, threads: list[str]) -> None:
        """As on the other side: the saver has no such method."""
        with saver.lock, saver.conn:
            for table in ("checkpoints", "writes"):
                saver.conn.executemany(
                    f"DELETE FROM {table} WHERE thread_id = ? AND checkpoint_id < "
                    "(SELECT max(checkpoint_id) FROM checkpoints AS newest WHERE "
                    f"newest.thread_id = {table}.thread_id AND "
                    f"newest.checkpoint_ns = {table}.checkpoint_ns)",
                    [(thread_id,) for thread_id in threads],
                )

    def reclaim(self, directory: Path) -> None:
        """Rewrite what is left, so that what was deleted takes no room."""
        with sqlite3.connect(directory / "agent.sqlite") as connection:
            connection.execute("VACUUM")
        connection.close()


class MemorySide:
    """`InMemorySaver`."""

    @contextmanager
    def saver(self, directory: Path, guarantee: str) -> Iterator[Saver]:
        """An empty saver."""
        yield InMemorySaver()

    @asynccontextmanager
    async def asaver(self, directory: Path, guarantee: str) -> AsyncIterator[Saver]:
        """An empty saver."""
        yield InMemorySaver()


Disk = WalkvSide | SqliteSide
ON_DISK: dict[str, Disk] = {"walkv": WalkvSide(), "sqlite": SqliteSide()}
SIDES: dict[str, Disk | MemorySide] = {**ON_DISK, "memory": MemorySide()}


def default_synchronous(directory: Path) -> str:
    """What `PRAGMA synchronous` is on a connection that `SqliteSaver` made, by name."""
    with SqliteSaver.from_conn_string(str(directory / "default.sqlite")) as saver:
        saver.setup()
        (number,) = saver.conn.execute("PRAGMA synchronous").fetchone()
    return ("OFF", "NORMAL", "FULL", "EXTRA")[number]
