"""``WalkvStorageBackend``: the interfaces of agent storage, over the namespaces of an agent.

Invariants:
    1. A method is one commit, whole or not at all, and any number of tasks may call it: counters
       are exact, messages keep the order in which they were added.
    2. What the backend did not open, it does not close.

Source: the Redis and PostgreSQL backends of the design. Their 24 hours of life for every record
were rejected: what is stored stays until ``cleanup_expired_sessions``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

from walkv.agent import AgentStore, AsyncAgentStore
from walkv.engine.policies import SyncPolicy
from walkv.errors import CodecError, ReadOnlyError, RecordExistsError, RecordNotFoundError
from walkv.interfaces.storage_backend import records
from walkv.interfaces.storage_backend.connection import Connection
from walkv.interfaces.storage_backend.errors import SessionNotFoundError
from walkv.interfaces.storage_backend.protocols import (
    IBatchSessionStorage,
    ICheckpointerBackend,
    IListableStorage,
    IStorageBackend,
)
from walkv.namespaces.base import Namespace
from walkv.namespaces.sessions import SessionStatus

_SESSION_FIELDS: Final = ("session_id", "user_id", "metadata")


class WalkvStorageBackend(
    Connection, IStorageBackend, ICheckpointerBackend, IBatchSessionStorage, IListableStorage
):
    """The records of an agent behind these interfaces, for the tasks of one event loop.

    It opens at ``initialize()`` or at its first use, and is an async context manager.

    Args:
        source: a path, or a ``Store``, ``AsyncStore``, ``AgentStore`` or ``AsyncAgentStore``. What
            is open already stays open after ``close()``.
        require_session: a message needs its session, as with a foreign key; False to take messages
            without one, which no clean-up will find.
        max_messages: how many messages a session keeps; older ones go as new ones come.
        policies: sync policies by namespace, as for ``AgentStore``; not for an agent.
        options: as for ``walkv.open``, for a path only.
    Raises:
        TypeError: an option that is not known, or not for such a source.
    Durability: as the sync policy of the namespace says, once awaited: ``Wal()`` by default.
    """

    def __init__(
        self,
        source: Any,
        *,
        require_session: bool = True,
        max_messages: int | None = None,
        policies: Mapping[str, SyncPolicy] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(source, policies=policies, **options)
        self._require_session = require_session
        self._max_messages = max_messages

    # -- sessions --------------------------------------------------------------------------------

    async def create_session(
        self, session_id: str, user_id: str, metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Begin a session, and return it.

        One that is there gets this user and metadata, and keeps its status, its counters and the
        time it was created.

        Raises:
            CodecError, LimitError: something cannot be stored; nothing was written.
        """
        async with self._agent() as agent:
            while True:
                try:
                    made = await agent.sessions.create(session_id, user_id, metadata)
                except RecordExistsError:
                    try:
                        made = await agent.sessions.update(
                            session_id, user_id=user_id, metadata=metadata or {}
                        )
                    except RecordNotFoundError:
                        continue  # deleted in between
                return records.session_dict(made)

    async def get_session(self, session_id: str) -> dict[str, Any] | None:
        """A session; None if there is none."""
        async with self._agent() as agent:
            found = await agent.sessions.get(session_id)
        return None if found is None else records.session_dict(found)

    async def update_session(
        self,
        session_id: str,
        updates: dict[str, Any] | None = None,
        increment_requests: bool = False,
        add_processing_time: float = 0.0,
        mark_error: bool = False,
    ) -> bool:
        """Change a session and count; exact, however many tasks do so at the same time.

        Args:
            updates: new values of what ``get_session`` shows. ``metadata`` is replaced as a whole.
            add_processing_time: seconds.
        Returns:
            False if there is no such session.
        Raises:
            CodecError, LimitError: there is no such field, or it cannot hold that; nothing was
                written.
        """
        async with self._agent() as agent:
            try:
                await agent.sessions.update(
                    session_id,
                    records.session_changes(updates or {}),
                    increment_requests=increment_requests,
                    add_processing_time=add_processing_time,
                    mark_error=mark_error,
                )
            except RecordNotFoundError:
                return False
        return True

    async def end_session(self, session_id: str, status: str = "completed") -> bool:
        """End a session; it keeps its messages.

        Returns:
            False if there is no such session.
        Raises:
            CodecError: there is no such status; see ``walkv.namespaces.sessions``.
        """
        async with self._agent() as agent:
            try:
                await agent.sessions.end(session_id, cast(SessionStatus, status))
            except RecordNotFoundError:
                return False
        return True

    async def cleanup_expired_sessions(self, max_idle_hours: int = 24) -> int:
        """Delete sessions in which nothing has happened for so long, with messages and contexts.

        A message counts as something that happens. Returns how many sessions were deleted.
        """
        async with self._agent() as agent:
            return await agent.sessions.cleanup_expired(max_idle_hours)

    async def batch_create_sessions(self, sessions: list[dict[str, Any]]) -> list[bool]:
        """Begin sessions, or change those that are there as ``create_session`` does, in one commit.

        Args:
            sessions: each with ``session_id``, ``user_id`` and, if wanted, ``metadata``. Of two
                with the same id the later one counts.
        Returns:
            True for each: what cannot be stored raises, and then nothing was written.
        """
        given = [_session_arguments(each) for each in sessions]

        def create_all(agent: AgentStore) -> None:
            for session_id, user_id, metadata in given:
                try:
                    agent.sessions.create(session_id, user_id, metadata)
                except RecordExistsError:
                    agent.sessions.update(session_id, user_id=user_id, metadata=metadata or {})

        await self.in_thread(lambda agent: agent.transact(lambda: create_all(agent)))
        return [True] * len(given)

    async def batch_get_sessions(self, session_ids: list[str]) -> list[dict[str, Any] | None]:
        """Sessions in the order of the ids, None where there is none; all of one moment."""
        async with self._agent() as agent:
            found = await agent.sessions.get_many(session_ids)
        return [None if each is None else records.session_dict(each) for each in found]

    # -- messages --------------------------------------------------------------------------------

    async def add_conversation_message(
        self, session_id: str, role: str, content: str, metadata: dict[str, Any] | None = None
    ) -> bool:
        """Add a message at the end of a session; True.

        Args:
            content: text; structured parts are kept as well.
        Raises:
            SessionNotFoundError: there is no such session, see ``require_session``.
            CodecError, LimitError: something cannot be stored; nothing was written.
        """
        async with self._agent() as agent:
            await self._check_session(agent, session_id)
            message = await agent.messages.append(
                session_id,
                role=role,
                content=content,
                metadata=metadata,
                max_messages=self._max_messages,
            )
            try:
                await self._check_session(agent, session_id)
            except SessionNotFoundError:
                # A clean-up came between: no message stays behind without its session.
                await agent.messages.delete((session_id, message.seq))
                raise
        return True

    async def _check_session(self, agent: AsyncAgentStore, session_id: str) -> None:
        if self._require_session and not await agent.sessions.exists(session_id):
            raise SessionNotFoundError(
                f"there is no session {session_id!r} to add a message to: create_session() first, "
                "or open the backend with require_session=False",
                session_id=session_id,
            )

    async def get_conversation_history(
        self, session_id: str, limit: int = 50
    ) -> list[dict[str, Any]]:
        """The newest ``limit`` messages of a session, oldest first, as a model reads them.

        Cost: proportional to the messages returned, at any length of the conversation.
        """
        async with self._agent() as agent:
            found = await agent.messages.history(session_id, limit)
        return [records.message_dict(each) for each in found]

    # -- checkpoints -----------------------------------------------------------------------------

    async def put_checkpoint(
        self,
        thread_id: str,
        checkpoint_id: str,
        checkpoint_data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Keep a state; True. One that is there with this id is replaced, in its place.

        Raises:
            CodecError, LimitError: something cannot be stored; nothing was written.
        Cost: encodes the state, and writes what differs from the one before.
        """
        async with self._agent() as agent:
            await agent.checkpoints.put(
                thread_id, checkpoint_id, checkpoint_data, metadata=metadata
            )
        return True

    async def store_checkpoint(
        self,
        thread_id: str,
        checkpoint_id: str,
        checkpoint_data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """The same as ``put_checkpoint``: both interfaces see the same checkpoints."""
        return await self.put_checkpoint(thread_id, checkpoint_id, checkpoint_data, metadata)

    async def get_checkpoint(
        self, thread_id: str, checkpoint_id: str | None = None
    ) -> dict[str, Any] | None:
        """A checkpoint with its state, the latest if no id is given; None if there is none."""
        async with self._agent() as agent:
            found = await agent.checkpoints.get(thread_id, checkpoint_id)
        return None if found is None else records.checkpoint_dict(found)

    async def list_checkpoints(self, thread_id: str, limit: int = 10) -> list[dict[str, Any]]:
        """The newest ``limit`` checkpoints of a thread with their states, newest first."""
        async with self._agent() as agent:
            found = await agent.checkpoints.list(thread_id, limit)
        return [records.checkpoint_dict(each) for each in found]

    async def put_writes(
        self,
        thread_id: str,
        checkpoint_id: str,
        task_id: str,
        writes_data: list[tuple[Any, ...]],
    ) -> bool:
        """Keep what a task has written on top of a checkpoint, in one commit; True.

        Args:
            writes_data: pairs (channel, value), in order. What the task has written before stays,
                and only what is new is added; see ``Checkpoints.put_writes``.
        Raises:
            CodecError: these are no pairs, or a value cannot be stored; nothing was written.
        """
        pairs = [_channel_and_value(each) for each in writes_data]
        async with self._agent() as agent:
            await agent.checkpoints.put_writes(thread_id, checkpoint_id, task_id, pairs)
        return True

    async def get_writes(self, thread_id: str, checkpoint_id: str) -> list[tuple[Any, ...]]:
        """What tasks have written on top of a checkpoint: (task_id, channel, value).

        By task, and for each task in the order in which it was written.
        """
        async with self._agent() as agent:
            found = await agent.checkpoints.get_writes(thread_id, checkpoint_id)
        return [(each.task_id, each.channel, each.value) for each in found]

    # -- task contexts ---------------------------------------------------------------------------

    async def store_task_context(self, session_id: str, context: Any) -> bool:
        """Replace the context of a session; True. Old versions are kept, see ``TaskContexts``.

        Args:
            context: whatever ``walkv.namespaces.codec`` knows, at any depth.
        Raises:
            CodecError: it holds something else, like an object of the application.
        """
        async with self._agent() as agent:
            await agent.task_contexts.store(session_id, context)
        return True

    async def get_task_context(self, session_id: str) -> Any | None:
        """The context of a session as it was stored; None if there is none."""
        async with self._agent() as agent:
            found = await agent.task_contexts.get(session_id)
        return None if found is None else found.context

    # -- the storage as a whole ------------------------------------------------------------------

    async def health_check(self) -> dict[str, Any]:
        """Try it: read, and make everything so far durable.

        Returns:
            ``status`` ("healthy"), ``timestamp``, ``backend``, ``path``, ``read_only``.
        Raises:
            StorageConnectionError: it does not work.
        Cost: one sync of the log, if there is anything to sync.
        """
        async with self._agent() as agent:
            try:
                await agent.sync()
                read_only = False
            except ReadOnlyError:
                await agent.store.refresh()
                read_only = True
            await agent.sessions.query().limit(1).all()
        return {
            "status": "healthy",
            "timestamp": datetime.now(UTC).isoformat(),
            "backend": "walkv",
            "path": agent.path,
            "read_only": read_only,
        }

    async def get_metrics(self) -> dict[str, Any]:
        """The storage in numbers: sessions and their counters, other records, bytes.

        Cost: reads all sessions, and the keys of the other records.
        """
        async with self._agent() as agent:
            sessions = await agent.sessions.metrics()
            stats = await agent.store.stats()
            counts = [
                await namespace.count()
                for namespace in (agent.messages, agent.checkpoints, agent.task_contexts)
            ]
        return {
            "timestamp": datetime.now(UTC).isoformat(),
            "total_sessions": sessions["session_count"],
            "active_sessions": sessions["active_sessions"],
            "sessions_by_status": sessions["by_status"],
            "total_requests": sessions["request_count"],
            "total_errors": sessions["error_count"],
            "total_processing_time": sessions["total_processing_time_seconds"],
            "average_processing_time": sessions["mean_processing_time_seconds"],
            "total_messages": counts[0],
            "total_checkpoints": counts[1],
            "total_task_contexts": counts[2],
            "disk_bytes": stats.disk_bytes,
        }

    # -- lists of ids ----------------------------------------------------------------------------

    async def list_session_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        """Ids of sessions in ascending order, those behind ``after``."""
        return await self.in_thread(lambda agent: _ids(agent.sessions, after, limit))

    async def list_conversation_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        """Ids of sessions that have messages, in ascending order. Cost: a look-up for each."""
        return await self.in_thread(lambda agent: _conversation_ids(agent, after, limit))

    async def list_thread_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        """Ids of threads that have checkpoints, in ascending order."""
        return await self.in_thread(lambda agent: agent.checkpoints.threads(limit, after))

    async def list_task_context_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        """Ids of sessions that have a task context, in ascending order."""
        return await self.in_thread(lambda agent: _ids(agent.task_contexts, after, limit))


def _ids(namespace: Namespace[Any], after: str | None, limit: int) -> list[str]:
    query = namespace.query().order_by("session_id").limit(limit)
    found = query if after is None else query.where(session_id__gt=after)
    return [record.session_id for record in found.all()]


def _conversation_ids(agent: AgentStore, after: str | None, limit: int) -> list[str]:
    """Hops from one session's first message to that of the next."""
    found: list[str] = []
    while len(found) < limit and (first := _ids(agent.messages, after, 1)):
        found += first
        after = first[0]
    return found


def _session_arguments(session: Mapping[str, Any]) -> tuple[str, str, dict[str, Any] | None]:
    unknown = set(session) - set(_SESSION_FIELDS)
    missing = {"session_id", "user_id"} - set(session)
    if unknown or missing:
        name = min(unknown or missing)
        why = "it is missing" if missing else "a new session has session_id, user_id and metadata"
        raise CodecError(f"sessions.{name}: {why}", namespace="sessions", field=name)
    return session["session_id"], session["user_id"], session.get("metadata")


def _channel_and_value(write: Sequence[Any]) -> tuple[Any, Any]:
    if not isinstance(write, tuple | list) or len(write) != 2:
        raise CodecError(
            "checkpoints.writes_data: a write is a pair (channel, value)",
            namespace="checkpoints",
            field="writes_data",
        )
    return write[0], write[1]
