"""Records as the dictionaries of these interfaces, and back.

    session      session_id, user_id, created_at, updated_at, status, metadata, request_count,
                 total_processing_time (seconds), error_count
    message      role, content, timestamp, metadata
    checkpoint   thread_id, checkpoint_id, checkpoint_data, data (the same), metadata, created_at

Times are ISO 8601 texts in UTC with the offset, to the microsecond. From other backends all that
their rows may hold is understood: times without an offset (they are UTC), ``datetime`` objects,
metadata as JSON text, counters as text or below ``metrics``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from walkv.errors import CodecError
from walkv.namespaces.checkpoints import Checkpoint
from walkv.namespaces.messages import Message
from walkv.namespaces.sessions import Session

_TIMES: Final = ("created_at", "updated_at", "ended_at")


def session_dict(session: Session) -> dict[str, Any]:
    """A session as these interfaces show it."""
    return {
        "session_id": session.session_id,
        "user_id": session.user_id,
        "created_at": session.created_at.isoformat(),
        "updated_at": session.updated_at.isoformat(),
        "status": session.status,
        "metadata": session.metadata,
        "request_count": session.request_count,
        "total_processing_time": session.total_processing_time_seconds,
        "error_count": session.error_count,
    }


def message_dict(message: Message) -> dict[str, Any]:
    """A message as these interfaces show it."""
    return {
        "role": message.role,
        "content": message.content,
        "timestamp": message.created_at.isoformat(),
        "metadata": message.metadata,
    }


def checkpoint_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint as these interfaces show it."""
    return {
        "thread_id": checkpoint.thread_id,
        "checkpoint_id": checkpoint.checkpoint_id,
        "checkpoint_data": checkpoint.data,
        "data": checkpoint.data,
        "metadata": checkpoint.metadata,
        "created_at": checkpoint.created_at.isoformat(),
    }


def session_changes(updates: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of a session by the names of these interfaces, as changes of its record."""
    changes = dict(updates)
    if "total_processing_time" in changes:
        changes["total_processing_time_seconds"] = changes.pop("total_processing_time")
    for name in _TIMES:
        if isinstance(changes.get(name), str):
            changes[name] = moment(changes[name], f"sessions.{name}")
    return changes


def moment(value: Any, what: str) -> datetime:
    """A time as a backend may hold it, in UTC.

    Raises:
        CodecError: it is none.
    """
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
        aware = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, AttributeError, TypeError):
        raise CodecError(f"{what}: this is no time: {value!r}") from None
    return aware


def session_from(data: Mapping[str, Any]) -> Session:
    """The record of a session from another backend.

    Raises:
        CodecError: something is missing, or is not what it should be.
    """
    counters = {**data, **(data.get("metrics") or {})}
    created_at = moment(_of(data, "created_at", "sessions"), "sessions.created_at")
    ended_at = data.get("ended_at")
    return Session(
        _of(data, "session_id", "sessions"),
        _of(data, "user_id", "sessions"),
        data.get("status") or "active",
        created_at,
        moment(data.get("updated_at") or created_at, "sessions.updated_at"),
        None if ended_at is None else moment(ended_at, "sessions.ended_at"),
        _metadata(data),
        int(counters.get("request_count") or 0),
        int(counters.get("error_count") or 0),
        float(counters.get("total_processing_time") or 0.0),
    )


def message_from(session_id: str, seq: int, message_id: str, data: Mapping[str, Any]) -> Message:
    """The record of a message from another backend."""
    return Message(
        session_id,
        seq,
        message_id,
        _of(data, "role", "messages"),
        _of(data, "content", "messages"),
        _metadata(data),
        moment(_of(data, "timestamp", "messages"), "messages.timestamp"),
    )


def checkpoint_from(thread_id: str, data: Mapping[str, Any]) -> Checkpoint:
    """The record of a checkpoint from another backend."""
    state = "checkpoint_data" if "checkpoint_data" in data else "data"
    return Checkpoint(
        thread_id,
        "",
        _of(data, "checkpoint_id", "checkpoints"),
        None,
        _of(data, state, "checkpoints"),
        _metadata(data),
        moment(_of(data, "created_at", "checkpoints"), "checkpoints.created_at"),
    )


def _of(data: Mapping[str, Any], name: str, namespace: str) -> Any:
    try:
        return data[name]
    except (KeyError, TypeError):
        message = f"{namespace}.{name}: it is missing among {', '.join(map(str, data))}"
        raise CodecError(message, namespace=namespace, field=name) from None


def _metadata(data: Mapping[str, Any]) -> dict[str, Any]:
    found = data.get("metadata") or {}
    return json.loads(found) if isinstance(found, str) else dict(found)
