"""The same work on `sqlite3`, as a careful program does it: WAL, one statement or transaction a
call, an index for every look-up, JSON columns."""

import json
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Any

SYNCHRONOUS = {"durable": "FULL", "process": "NORMAL"}

_SCHEMA = """
CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, status TEXT NOT NULL, metadata TEXT,
    created_at REAL, updated_at REAL, ended_at REAL, request_count INTEGER, error_count INTEGER,
    total_processing_time REAL
) WITHOUT ROWID;
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_status ON sessions (status);
CREATE INDEX sessions_updated ON sessions (updated_at);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL, message_id TEXT NOT NULL,
    role TEXT, content TEXT, metadata TEXT, created_at REAL
);
CREATE INDEX messages_session ON messages (session_id, id);
CREATE INDEX messages_message ON messages (message_id);
CREATE TABLE checkpoints (
    id INTEGER PRIMARY KEY AUTOINCREMENT, thread_id TEXT NOT NULL, checkpoint_id TEXT NOT NULL,
    parent_id TEXT, data TEXT, metadata TEXT, created_at REAL
);
CREATE UNIQUE INDEX checkpoints_id ON checkpoints (thread_id, checkpoint_id);
CREATE INDEX checkpoints_thread ON checkpoints (thread_id, id);
CREATE TABLE executions (
    execution_id TEXT PRIMARY KEY, workflow_id TEXT, task_id TEXT, role TEXT, tool_name TEXT,
    action_type TEXT, input_data TEXT, output_data TEXT, status TEXT, started_at REAL,
    completed_at REAL, execution_time REAL, error_message TEXT, metadata TEXT
);
CREATE INDEX executions_workflow ON executions (workflow_id, started_at);
CREATE INDEX executions_role ON executions (role, status, started_at);
CREATE INDEX executions_tool ON executions (tool_name, started_at);
CREATE INDEX executions_task ON executions (task_id, started_at);
CREATE INDEX executions_started ON executions (started_at);
"""

_APPEND = (
    "INSERT INTO messages (session_id, message_id, role, content, metadata, created_at) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_EXECUTION = f"INSERT INTO executions VALUES ({', '.join('?' * 14)})"


class SqliteSide:
    """A database; `guarantee` is what every commit survives."""

    def __init__(self, directory: Path, guarantee: str) -> None:
        self.path = directory / "agent.db"
        self.guarantee = guarantee
        self.connection = self._connect()
        self.connection.executescript(_SCHEMA)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=60)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={SYNCHRONOUS[self.guarantee]}")
        return connection

    def worker(self) -> "SqliteSide":
        """The same database, for another thread: a connection of its own."""
        made = object.__new__(SqliteSide)
        made.path, made.guarantee = self.path, self.guarantee
        made.connection = made._connect()
        return made

    def leave(self) -> None:
        """A worker is done."""
        self.connection.close()

    def _message(self, session_id: str, message: dict[str, Any]) -> tuple[Any, ...]:
        metadata = json.dumps(message["metadata"])
        content = message["content"]
        return session_id, uuid.uuid4().hex, message["role"], content, metadata, time.time()

    def fill_messages(self, session_id: str, messages: list[dict[str, Any]]) -> None:
        """Many messages of one session, as bulk."""
        self.connection.execute("BEGIN")
        self.connection.executemany(_APPEND, [self._message(session_id, m) for m in messages])
        self.connection.execute("COMMIT")

    def append(self, session_id: str, message: dict[str, Any]) -> None:
        """One message, one commit."""
        self.connection.execute(_APPEND, self._message(session_id, message))

    def last(self, session_id: str, limit: int) -> int:
        """The newest messages as dicts, oldest first; returns how many there were."""
        rows = self.connection.execute(
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
        self.connection.execute(
            "INSERT INTO sessions VALUES (?, 'ada', 'active', ?, ?, ?, NULL, 0, 0, 0.0)",
            (session_id, json.dumps({"plan": "pro"}), now, now),
        )

    def update_session(self, session_id: str) -> None:
        """Count a request and its time, in one commit, and give the session back."""
        row = self.connection.execute(
            "UPDATE sessions SET request_count = request_count + 1, "
            "total_processing_time = total_processing_time + ?, updated_at = ? "
            "WHERE session_id = ? RETURNING *",
            (0.25, time.time(), session_id),
        ).fetchone()
        assert json.loads(row[3])

    def put_checkpoint(self, thread_id: str, checkpoint_id: str, state: Any) -> None:
        """A state, in one commit."""
        self.connection.execute(
            "INSERT OR REPLACE INTO checkpoints "
            "(thread_id, checkpoint_id, data, metadata, created_at) VALUES (?, ?, ?, ?, ?)",
            (thread_id, checkpoint_id, json.dumps(state), '{"source": "loop"}', time.time()),
        )

    def checkpoint(self, thread_id: str, checkpoint_id: str | None) -> Any:
        """A state, the latest without an id."""
        if checkpoint_id is None:
            found = self.connection.execute(
                "SELECT data, metadata FROM checkpoints WHERE thread_id = ? "
                "ORDER BY id DESC LIMIT 1",
                (thread_id,),
            )
        else:
            found = self.connection.execute(
                "SELECT data, metadata FROM checkpoints WHERE thread_id = ? AND checkpoint_id = ?",
                (thread_id, checkpoint_id),
            )
        data, metadata = found.fetchone()
        json.loads(metadata)
        return json.loads(data)

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
        self.connection.execute("BEGIN")
        self.connection.executemany(_EXECUTION, [self._execution(e) for e in executions])
        self.connection.execute("COMMIT")

    def log_execution(self, execution: dict[str, Any]) -> None:
        """One execution, one commit."""
        self.connection.execute(_EXECUTION, self._execution(execution))

    def list_executions(self, role: str, status: str, limit: int) -> int:
        """The newest of a role and status as dicts; returns how many there were."""
        cursor = self.connection.execute(
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

    def close(self) -> None:
        """Close the database; the log is moved into it."""
        self.connection.close()
