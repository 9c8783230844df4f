"""Files of ``SqliteSessionService`` and ``DatabaseSessionService`` of Google's ADK.

Three generations, told apart by their columns:

    sqlite    events (..., event_data), times are seconds since 1970
    database  events (..., event_data) and adk_internal_metadata, times are text in UTC
    pickled   events (..., actions, content, ...), a column a field; actions is a pickle

and where their tables go:

    sessions     sessions: session_id "app/user/id", where "%" and "/" of the parts are %25 and %2F;
                 user_id; metadata has the parts
                 task_contexts: context is the state of the session
    events       messages: seq is the place in the session, by time, from 1 on; message_id: the
                 event's; content: the event, whole; role: the one of its content, or "user" or
                 "model" by its author
    app_states   settings: key "adk/app/<app>", value is the state
    user_states  settings: key "adk/user/<app>/<user>"

Read from the code of google-adk 2.13. The pickle of an event's actions is kept as bytes, and never
decoded: that would run what is in it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from walkv.errors import ImportSourceError
from walkv.ops.moving.items import Item, Problems
from walkv.ops.moving.sources.base import declared, empty, record
from walkv.ops.moving.sources.sqlite import columns, count, moment, parsed, tables, text

_EVENT: Final = {"id", "app_name", "user_id", "session_id", "timestamp"}
_SESSION: Final = {"app_name", "user_id", "id", "state", "create_time", "update_time"}
_JSON: Final = frozenset(
    (
        "citation_metadata",
        "content",
        "custom_metadata",
        "grounding_metadata",
        "input_transcription",
        "long_running_tool_ids_json",
        "output_transcription",
        "usage_metadata",
    )
)
_FLAGS: Final = frozenset(("interrupted", "partial", "turn_complete"))


def find(connection: sqlite3.Connection) -> bool:
    """Whether ADK has made this file."""
    there = tables(connection)
    return there.get("events", set()) >= _EVENT and there.get("sessions", set()) >= _SESSION


def _part(name: Any) -> str:
    return text(name).replace("%", "%25").replace("/", "%2F")


def session_id_of(app_name: Any, user_id: Any, session_id: Any) -> str:
    """What a session is called here: all three parts tell it from others."""
    return "/".join((_part(app_name), _part(user_id), _part(session_id)))


class GoogleADK:
    """The sessions, events and states of a file."""

    kind = "google-adk"
    raw = False
    masked: Final[dict[str, tuple[str, ...]]] = {}

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.path = path
        self._connection = connection
        there = tables(connection)
        if not find(connection):
            names = ", ".join(sorted(there)) or "none"
            raise ImportSourceError(
                f"there are no sessions and events of ADK in it; its tables: {names}", path=path
            )
        self._columns = columns(connection, "events")
        self._states = [name for name in ("app_states", "user_states") if name in there]
        self.namespaces = declared("sessions", "task_contexts", "messages", "settings")
        # A session is two records: one of them is its state.
        sessions = count(connection, "sessions")
        self.item_count = 2 * sessions + count(connection, "events", *self._states)
        if not self.item_count:
            raise empty(path, "no session, no event, no state")

    def check(self) -> None:
        """SQLite has no checksums; what is wrong with a page is told where it is read."""

    def items(self, problems: Problems) -> Iterator[Item]:
        """Sessions and their states, events in order, then what apps and users share."""
        yield from self._sessions(problems)
        yield from self._events(problems)
        yield from self._shared(problems)

    def _sessions(self, problems: Problems) -> Iterator[Item]:
        rows = self._connection.execute(
            "SELECT app_name, user_id, id, create_time, update_time, state FROM sessions"
            " ORDER BY app_name, user_id, id"
        )
        for row in rows:
            try:
                yield from _session(*row)
            except ValueError as error:
                problems.append(f"session {row[:3]!r}: {error}")

    def _events(self, problems: Problems) -> Iterator[Item]:
        # Of events of one time the order is that in which they came.
        rows = self._connection.execute(
            "SELECT * FROM events ORDER BY app_name, user_id, session_id, timestamp, rowid"
        )
        session, seq = None, 0
        for values in rows:
            row = dict(zip(self._columns, values, strict=True))
            found = (row["app_name"], row["user_id"], row["session_id"])
            seq = seq + 1 if found == session else 1
            session = found
            try:
                yield _message(seq, found, row)
            except ValueError as error:
                problems.append(f"event {row['id']!r} of session {session!r}: {error}")

    def _shared(self, problems: Problems) -> Iterator[Item]:
        for table in self._states:
            user = ", user_id" if table == "user_states" else ""
            rows = self._connection.execute(
                f"SELECT update_time, state, app_name{user} FROM {table} ORDER BY app_name{user}"
            )
            for update_time, state, *names in rows:
                try:
                    yield _setting(table.removesuffix("_states"), names, state, update_time)
                except ValueError as error:
                    problems.append(f"state of {names!r}: {error}")


def _state(value: Any) -> dict[str, Any]:
    found = parsed(value)
    if type(found) is not dict:
        raise ValueError("a state is a JSON object, and this is none")
    return found


def _session(
    app_name: Any, user_id: Any, number: Any, create_time: Any, update_time: Any, state: Any
) -> list[Item]:
    session_id, updated_at = session_id_of(app_name, user_id, number), moment(update_time)
    session = record(
        "sessions",
        session_id=session_id,
        user_id=user_id,
        status="active",
        created_at=moment(create_time),
        updated_at=updated_at,
        ended_at=None,
        metadata={"source": GoogleADK.kind, "app_name": app_name, "session_id": number},
        request_count=0,
        error_count=0,
        total_processing_time_seconds=0.0,
    )
    context = record(
        "task_contexts",
        session_id=session_id,
        context=_state(state),
        version=1,
        updated_at=updated_at,
    )
    return [session, context._replace(size_bytes=len(state))]


def _message(seq: int, session: tuple[Any, Any, Any], row: dict[str, Any]) -> Item:
    event = _pickled_event(row) if "event_data" not in row else parsed(row["event_data"])
    if type(event) is not dict:
        raise ValueError("an event is a JSON object, and this is none")
    content, author = event.get("content"), event.get("author")
    role = content.get("role") if type(content) is dict else None
    if type(role) is not str or not role:
        role = "user" if author == "user" else "model"
    return record(
        "messages",
        session_id=session_id_of(*session),
        seq=seq,
        message_id=text(row["id"]),
        role=role,
        content=event,
        metadata={},
        created_at=moment(row["timestamp"]),
    )._replace(size_bytes=len(row.get("event_data") or row.get("content") or ""))


def _pickled_event(row: dict[str, Any]) -> dict[str, Any]:
    """An event whose fields are columns."""
    event = {}
    for name, value in row.items():
        if value is None or name in ("app_name", "user_id", "session_id"):
            continue
        if name in _JSON:
            event[name.removesuffix("_json")] = parsed(value)
        elif name in _FLAGS:
            event[name] = bool(value)
        else:
            event[name] = moment(value).timestamp() if name == "timestamp" else value
    return event


def _setting(kind: str, names: list[Any], state: Any, update_time: Any) -> Item:
    return record(
        "settings",
        key="/".join(("adk", kind, *map(_part, names))),
        value=_state(state),
        description=f"state of {' and '.join(names)}, from Google ADK",
        updated_at=moment(update_time),
    )._replace(size_bytes=len(state))
