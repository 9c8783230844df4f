"""Files of ``SQLiteSession`` of the OpenAI Agents SDK.

    agent_sessions   (session_id, created_at, updated_at)           sessions
    agent_messages   (id, session_id, message_data, created_at)     messages

    sessions    user_id is empty, as the SDK knows no users; status "active"
    messages    seq: the place of the row in its session, from 1 on; message_id: the row's id;
                content: the item, whole, as ``get_items`` gives it; role: the item's, or "tool" for
                what a tool has given, else "assistant"

Read from the code of openai-agents 0.24. The tables may have other names. What the advanced session
keeps beside them, its branches and usage, has no place here and is not moved.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from walkv.errors import ImportSourceError
from walkv.ops.moving.items import Item, Problems
from walkv.ops.moving.sources.base import declared, empty, record
from walkv.ops.moving.sources.sqlite import count, moment, parsed, quoted, tables, text

_MESSAGES: Final = {"id", "session_id", "message_data", "created_at"}
_SESSIONS: Final = {"session_id", "created_at", "updated_at"}


def find(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """The pairs of tables that the SDK has made: of sessions, and of messages."""
    there = tables(connection)
    found = []
    for name, names in there.items():
        if names >= _MESSAGES:
            referred = connection.execute(f"PRAGMA foreign_key_list({quoted(name)})").fetchall()
            found += [(row[2], name) for row in referred if there.get(row[2], set()) >= _SESSIONS]
    return found


class OpenAIAgents:
    """The sessions and messages of a file."""

    kind = "openai-agents"
    raw = False
    masked: Final[dict[str, tuple[str, ...]]] = {}

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.path = path
        self._connection = connection
        found = find(connection)
        if not found:
            there = ", ".join(sorted(tables(connection))) or "none"
            raise ImportSourceError(
                f"there are no tables of an SQLiteSession in it; its tables: {there}", path=path
            )
        if len(found) > 1:
            pairs = ", ".join(f"{sessions} and {messages}" for sessions, messages in found)
            raise ImportSourceError(f"there are several stores in it: {pairs}", path=path)
        ((self._sessions, self._messages),) = found
        self.namespaces = declared("sessions", "messages")
        self.item_count = count(connection, self._sessions, self._messages)
        if not self.item_count:
            raise empty(path, "no session, no message")

    def check(self) -> None:
        """SQLite has no checksums; what is wrong with a page is told where it is read."""

    def items(self, problems: Problems) -> Iterator[Item]:
        """Sessions, then their messages in order."""
        query = f"SELECT session_id, created_at, updated_at FROM {quoted(self._sessions)}"
        for row in self._connection.execute(f"{query} ORDER BY session_id"):
            try:
                yield _session(*row)
            except ValueError as error:
                problems.append(f"session {row[0]!r}: {error}")
        query = f"SELECT id, session_id, message_data, created_at FROM {quoted(self._messages)}"
        session_id, seq = None, 0
        for row in self._connection.execute(f"{query} ORDER BY session_id, id"):
            seq = seq + 1 if row[1] == session_id else 1
            session_id = row[1]
            try:
                yield _message(seq, *row)
            except ValueError as error:
                problems.append(f"message {row[0]!r} of session {session_id!r}: {error}")


def _session(session_id: Any, created_at: Any, updated_at: Any) -> Item:
    return record(
        "sessions",
        session_id=text(session_id),
        user_id="",
        status="active",
        created_at=moment(created_at),
        updated_at=moment(updated_at),
        ended_at=None,
        metadata={"source": OpenAIAgents.kind},
        request_count=0,
        error_count=0,
        total_processing_time_seconds=0.0,
    )


def _message(seq: int, number: Any, session_id: Any, data: Any, created_at: Any) -> Item:
    item = parsed(data)
    return record(
        "messages",
        session_id=text(session_id),
        seq=seq,
        message_id=str(number),
        role=_role(item),
        content=item,
        metadata={},
        created_at=moment(created_at),
    )._replace(size_bytes=len(data))


def _role(item: Any) -> str:
    if type(item) is not dict:
        raise ValueError("an item of a conversation is a JSON object, and this is none")
    role, kind = item.get("role"), item.get("type")
    if isinstance(role, str) and role:
        return role
    return "tool" if isinstance(kind, str) and kind.endswith("_output") else "assistant"
