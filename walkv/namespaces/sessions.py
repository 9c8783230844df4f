"""Sessions: who talks to the agent, since when, and how it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from walkv.engine.policies import SyncPolicy, Wal
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.common import UNSET, Unset
from walkv.namespaces.keyvalue import Reader, Writer

SessionStatus = Literal["active", "paused", "completed", "failed", "cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class Session:
    """One session.

    Attributes:
        updated_at: of the last change of this record.
        total_processing_time_seconds: what ``update(add_processing_time=...)`` added up to.
    """

    session_id: str
    user_id: str
    status: SessionStatus
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    request_count: int = 0
    error_count: int = 0
    total_processing_time_seconds: float = 0.0


class Dependent(Protocol):
    """A namespace whose records go when their session goes."""

    def forget_session(self, tx: Writer, session_id: str) -> None: ...

    def last_activity(self, reader: Reader, session_id: str) -> datetime | None: ...


class Sessions(Namespace[Session]):
    """The sessions of an agent. Default sync policy: ``Wal()``."""

    declaration = Declaration(
        "sessions",
        Session,
        key="session_id",
        indexes=["user_id", "status", "updated_at"],
        sync=Wal(),
    )
    dependents: tuple[Dependent, ...] = ()

    def create(
        self,
        session_id: str,
        user_id: str,
        metadata: dict[str, Any] | None = None,
        *,
        sync: SyncPolicy | None = None,
    ) -> Session:
        """Begin a session.

        Raises:
            RecordExistsError: there is one with this id.
        """
        now = self.now()
        session = Session(session_id, user_id, "active", now, now, None, metadata or {})
        self.add(session, sync=sync)
        return session

    def update(
        self,
        key: Any,
        updates: Mapping[str, Any] | None = None,
        /,
        *,
        increment_requests: bool = False,
        add_processing_time: float = 0.0,
        mark_error: bool = False,
        sync: SyncPolicy | None = None,
        expected_version: int | Unset | None = UNSET,
        **changes: Any,
    ) -> Session:
        """Change a session, and count; returns it as it is now. Exact under concurrency.

        Args:
            key: the session's id.
            updates, changes: new values of fields.
            increment_requests: one request more.
            add_processing_time: seconds to add.
            mark_error: one error more.
        Raises:
            RecordNotFoundError: there is no such session.
        """
        wanted = {**(updates or {}), **changes}
        now = self.now()

        def change(session: Session) -> dict[str, Any]:
            made: dict[str, Any] = {"updated_at": max(now, session.updated_at)}
            if increment_requests:
                made["request_count"] = session.request_count + 1
            if mark_error:
                made["error_count"] = session.error_count + 1
            if add_processing_time:
                total = session.total_processing_time_seconds + add_processing_time
                made["total_processing_time_seconds"] = total
            return {**made, **wanted}

        return self._modify(key, change, sync, expected_version)

    def end(
        self,
        session_id: str,
        status: SessionStatus = "completed",
        *,
        sync: SyncPolicy | None = None,
    ) -> Session:
        """End a session; it keeps its messages."""
        return self.update(session_id, status=status, ended_at=self.now(), sync=sync)

    def remove_in(self, tx: Writer, key: bytes, old: bytes) -> None:
        """Delete a session, and its messages and contexts with it."""
        super().remove_in(tx, key, old)
        session = self._record(old)
        for dependent in self.dependents:
            dependent.forget_session(tx, session.session_id)

    def cleanup_expired(self, max_idle_hours: float = 24, *, sync: SyncPolicy | None = None) -> int:
        """Delete sessions in which nothing has happened for so long, with all that is theirs.

        A message counts as something that happens. Returns how many were deleted. In commits as
        those of ``Query.delete``, each session whole.
        """
        limit = self.now() - timedelta(hours=max_idle_hours)

        def remove(tx: Writer, key: bytes) -> bool:
            old = tx.get(self.table.records + key)
            if old is None or self._last_activity(tx, self._record(old)) >= limit:
                return False
            self.remove_in(tx, key, old)
            return True

        return self._write_each(
            self.query().where(updated_at__lt=limit).packed_keys(), remove, sync
        )

    def _last_activity(self, reader: Reader, session: Session) -> datetime:
        moments = [each.last_activity(reader, session.session_id) for each in self.dependents]
        return max([session.updated_at, *(moment for moment in moments if moment is not None)])

    def metrics(self) -> dict[str, Any]:
        """Counts over all sessions. Cost: reads them all."""
        by_status: dict[str, int] = {}
        requests = errors = total = 0
        seconds = 0.0
        for session in self.query():
            total += 1
            by_status[session.status] = by_status.get(session.status, 0) + 1
            requests += session.request_count
            errors += session.error_count
            seconds += session.total_processing_time_seconds
        return {
            "session_count": total,
            "by_status": by_status,
            "active_sessions": by_status.get("active", 0),
            "request_count": requests,
            "error_count": errors,
            "total_processing_time_seconds": seconds,
            "mean_processing_time_seconds": seconds / requests if requests else 0.0,
        }
