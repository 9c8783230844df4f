"""The same work on `sqlite3`, as a careful program does it: WAL, one statement or transaction a
call, an index for every look-up, JSON columns."""

import json
import sqlite3
import time
import uuid
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

from benchmarks.agent.sides import Append, Guarantee
from benchmarks.engines.base import CACHE_BYTES, WAL_AUTOCHECKPOINT_PAGES

SYNCHRONOUS = {"durable": "FULL", "process": "NORMAL"}

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    session_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, status TEXT NOT NULL, metadata TEXT,
    created_at REAL, updated_at REAL, ended_at REAL, request_count INTEGER, error_count INTEGER,
    total_processing_time REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_user ON sessions (user_id);
CREATE INDEX IF NOT EXISTS sessions_status ON sessions (status);
CREATE INDEX IF NOT EXISTS sessions_updated ON sessions (updated_at);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY, session_id TEXT NOT NULL, message_id TEXT NOT NULL,
    role TEXT, content TEXT, metadata TEXT, created_at REAL
);
CREATE INDEX IF NOT EXISTS messages_session ON messages (session_id, id);
CREATE INDEX IF NOT EXISTS messages_message ON messages (message_id);
CREATE TABLE IF NOT EXISTS checkpoints (
    id INTEGER PRIMARY KEY, thread_id TEXT NOT NULL, checkpoint_id TEXT NOT NULL,
    parent_id TEXT, data TEXT, metadata TEXT, created_at REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS checkpoints_id ON checkpoints (thread_id, checkpoint_id);
CREATE INDEX IF NOT EXISTS checkpoints_thread ON checkpoints (thread_id, id);
CREATE TABLE IF NOT EXISTS executions (
    execution_id TEXT PRIMARY KEY, workflow_id TEXT, task_id TEXT, role TEXT, tool_name TEXT,
    action_type TEXT, input_data TEXT, output_data TEXT, status TEXT, started_at REAL,
    completed_at REAL, execution_time REAL, error_message TEXT, metadata TEXT
);
CREATE INDEX IF NOT EXISTS executions_workflow ON executions (workflow_id, started_at);
CREATE INDEX IF NOT EXISTS executions_role ON executions (role, status, started_at);
CREATE INDEX IF NOT EXISTS executions_tool ON executions (tool_name, started_at);
CREATE INDEX IF NOT EXISTS executions_task ON executions (task_id, started_at);
CREATE INDEX IF NOT EXISTS executions_started ON executions (started_at);
"""

_APPEND = (
    "INSERT INTO messages (session_id, message_id, role, content, metadata, created_at) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_EXECUTION = f"INSERT INTO executions VALUES ({', '.join('?' * 14)})"


class SqliteSide:
    """A database; `guarantee` is what every commit survives."""

    configuration: ClassVar[str] = (
        "WAL; durable: synchronous=FULL; process: synchronous=NORMAL and wal_autocheckpoint at "
        "64 MiB; cache_size and mmap_size 64 MiB each; autocommit for single writes; an index for "
        "every look-up; JSON columns; threads share one connection behind a lock"
    )

    def __init__(self, directory: Path, guarantee: Guarantee) -> None:
        # The threads that share the connection take turns, by the lock of `appender`.
        self._connection = sqlite3.connect(
            directory / "agent.db", isolation_level=None, check_same_thread=False
        )
        self._lock = Lock()
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(f"PRAGMA synchronous={SYNCHRONOUS[guarantee]}")
        self._connection.execute(f"PRAGMA cache_size={-(CACHE_BYTES // 1024)}")
        self._connection.execute(f"PRAGMA mmap_size={CACHE_BYTES}")
        pages = WAL_AUTOCHECKPOINT_PAGES[guarantee]
        self._connection.execute(f"PRAGMA wal_autocheckpoint={pages}")
        self._connection.executescript(_SCHEMA)

    @staticmethod
    def version() -> str:
        return sqlite3.sqlite_version

    def appender(self) -> Append:
        """On the one connection, behind a lock.

        SQLite's own way to wait for the writer is to sleep and try again: with a connection each,
        32 threads wait longer than they write.
        """

        def append(session_id: str, message: dict[str, Any]) -> None:
            row = self._message(session_id, message)
            with self._lock:
                self._connection.execute(_APPEND, row)

        return append

    def _message(self, session_id: str, message: dict[str, Any]) -> tuple[Any, ...]:
        metadata = json.dumps(message["metadata"])
        content = message["content"]
        return session_id, uuid.uuid4().hex, message["role"], content, metadata, time.time()

    def fill_messages(self, session_id: str, messages: list[dict[str, Any]]) -> None:
        """Many messages of one session, as bulk."""
        self._connection.execute("BEGIN")
        self._connection.executemany(_APPEND, [self._message(session_id, m) for m in messages])
        self._connection.execute("COMMIT")

    def append(self, session_id: str, message: dict[str, Any]) -> None:
        """One message, one commit."""
        self._connection.execute(_APPEND, self._message(session_id, message))

    def last(self, session_id: str, limit: int) -> int:
        """The newest messages as dicts, oldest first; returns how many there were."""
        rows = self._connection.execute(
            "SELECT id, message_id, role, content, metadata, created_at FROM messages "
            "WHERE session_id = ? ORDER BY id DESC LIMIT ?",
            (session_id, limit),
        ).fetchall()
        made = [
            {
                "session_id": session_id,
                "seq": row[0],
                "message_id": row[1],
                "role": row[2],
                "content": row[3],
                "metadata": json.loads(row[4]),
                "created_at": row[5],
            }
            for row in reversed(rows)
        ]
        return len(made)

    def create_session(self, session_id: str) -> None:
        """A session."""
        now = time.time()
        self._connection.execute(
            "INSERT INTO sessions VALUES (?, 'ada', 'active', ?, ?, ?, NULL, 0, 0, 0.0)",
            (session_id, json.dumps({"plan": "pro"}), now, now),
        )

    def update_session(self, session_id: str) -> None:
        """Count a request and its time, in one commit, and give the session back."""
        row = self._connection.execute(
            "UPDATE sessions SET request_count = request_count + 1, "
            "total_processing_time = total_processing_time + ?, updated_at = ? "
            "WHERE session_id = ? RETURNING *",
            (0.25, time.time(), session_id),
        ).fetchone()
        assert json.loads(row[3])

    def put_checkpoint(self, thread_id: str, checkpoint_id: str, state: Any) -> None:
        """A state, in one commit."""
        self._connection.execute(
            "INSERT OR REPLACE INTO checkpoints "
            "(thread_id, checkpoint_id, data, metadata, created_at) VALUES (?, ?, ?, ?, ?)",
            (thread_id, checkpoint_id, json.dumps(state), '{"source": "loop"}', time.time()),
        )

    def checkpoint(self, thread_id: str, checkpoint_id: str | None) -> Any:
        """A state, the latest without an id."""
        if checkpoint_id is None:
            found = self._connection.execute(
                "SELECT data, metadata FROM checkpoints WHERE thread_id = ? "
                "ORDER BY id DESC LIMIT 1",
                (thread_id,),
            )
        else:
            found = self._connection.execute(
                "SELECT data, metadata FROM checkpoints WHERE thread_id = ? AND checkpoint_id = ?",
                (thread_id, checkpoint_id),
            )
        data, metadata = found.fetchone()
        json.loads(metadata)
        return json.loads(data)

    def checkpoints(self, thread_id: str, limit: int) -> int:
        """The newest states with their metadata; returns how many there were."""
        found = self._connection.execute(
            "SELECT checkpoint_id, data, metadata, created_at FROM checkpoints "
            "WHERE thread_id = ? ORDER BY id DESC LIMIT ?",
            (thread_id, limit),
        )
        names = ("checkpoint_id", "data", "metadata", "created_at")
        made = []
        for row in found.fetchall():
            record = dict(zip(names, row, strict=True))
            for name in ("data", "metadata"):
                record[name] = json.loads(record[name])
            made.append(record)
        return len(made)

    def _execution(self, execution: dict[str, Any]) -> tuple[Any, ...]:
        now = time.time()
        return (
            uuid.uuid4().hex,
            execution["workflow_id"],
            None,
            execution["role"],
            execution["tool_name"],
            "tool_call",
            json.dumps(execution["input_data"]),
            json.dumps(execution["output_data"]),
            execution["status"],
            now - execution["execution_time_seconds"],
            now,
            execution["execution_time_seconds"],
            None,
            json.dumps(execution["metadata"]),
        )

    def fill_executions(self, executions: list[dict[str, Any]]) -> None:
        """Many executions, as bulk."""
        self._connection.execute("BEGIN")
        self._connection.executemany(_EXECUTION, [self._execution(e) for e in executions])
        self._connection.execute("COMMIT")

    def log_execution(self, execution: dict[str, Any]) -> None:
        """One execution, one commit."""
        self._connection.execute(_EXECUTION, self._execution(execution))

    def list_executions(self, role: str, status: str, limit: int) -> int:
        """The newest of a role and status as dicts; returns how many there were."""
        cursor = self._connection.execute(
            "SELECT * FROM executions WHERE role = ? AND status = ? "
            "ORDER BY started_at DESC LIMIT ?",
            (role, status, limit),
        )
        names = [column[0] for column in cursor.description]
        made = []
        for row in cursor.fetchall():
            record = dict(zip(names, row, strict=True))
            for name in ("input_data", "output_data", "metadata"):
                record[name] = json.loads(record[name])
            made.append(record)
        return len(made)

    def compact(self) -> None:
        """Rewrite the database."""
        self._connection.execute("VACUUM")

    def close(self) -> None:
        """Close the database; the log is moved into it."""
        self._connection.close()
