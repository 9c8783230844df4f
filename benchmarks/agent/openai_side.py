"""Conversations in the `SQLiteSession` of the OpenAI Agents SDK, as that package sets it up.

It turns the write-ahead log on and leaves ``synchronous`` to SQLite, whose default is FULL unless
it was built otherwise: a commit survives power loss. There is no option for less.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Self

from agents import SQLiteSession

from benchmarks.agent.sides import Guarantee, Record

_FULL = 2


class OpenaiSide:
    """A database file; a session object for each conversation, kept for the next call."""

    configuration: ClassVar[str] = (
        "SQLiteSession on one file, a session object for each conversation; its own defaults: "
        "journal_mode=WAL, synchronous=FULL"
    )

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sessions: dict[str, SQLiteSession] = {}

    @classmethod
    async def open(cls, directory: Path, guarantee: Guarantee) -> Self:
        side = cls(directory / "sessions.db")
        side._session("the first one makes the file")
        with closing(sqlite3.connect(side._path)) as connection:
            (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
            (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        found = "durable" if journal == "wal" and synchronous >= _FULL else "process"
        if found != guarantee:
            await side.close()
            raise RuntimeError(
                f"SQLiteSession commits with journal_mode={journal}, synchronous={synchronous} "
                f"here and does not give the guarantee {guarantee!r}"
            )
        return side

    @staticmethod
    def version() -> str:
        return f"{metadata.version('openai-agents')} (SQLite {sqlite3.sqlite_version})"

    def _session(self, session_id: str) -> SQLiteSession:
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = SQLiteSession(session_id, db_path=self._path)
        return session

    async def add(self, session_id: str, items: Sequence[Record]) -> None:
        await self._session(session_id).add_items(list(items))  # type: ignore[arg-type]

    async def last(self, session_id: str, limit: int) -> int:
        return len(await self._session(session_id).get_items(limit=limit))

    async def close(self) -> None:
        for session in self._sessions.values():
            session.close()
