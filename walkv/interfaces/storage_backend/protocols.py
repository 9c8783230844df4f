"""The interfaces of agent storage, one for each kind of record, and those that combine them.

An application depends on these, not on a backend. A class may inherit them, and then has to
implement every method, or just have the methods: ``isinstance`` looks at names only.

Invariants:
    1. ``None``, ``False`` and ``[]`` mean "there is no such thing", never "it did not work": what
       does not work raises.
    2. Times in records are ISO 8601 texts in UTC, with the offset.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class ISessionStorage(Protocol):
    """Sessions, their life and their counters."""

    @abstractmethod
    async def create_session(
        self, session_id: str, user_id: str, metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Begin a session, and return it."""

    @abstractmethod
    async def get_session(self, session_id: str) -> dict[str, Any] | None:
        """A session, or None."""

    @abstractmethod
    async def update_session(
        self,
        session_id: str,
        updates: dict[str, Any] | None = None,
        increment_requests: bool = False,
        add_processing_time: float = 0.0,
        mark_error: bool = False,
    ) -> bool:
        """Change a session and count; False if there is no such session."""

    @abstractmethod
    async def end_session(self, session_id: str, status: str = "completed") -> bool:
        """End a session; False if there is no such session."""


@runtime_checkable
class IConversationStorage(Protocol):
    """The messages of sessions."""

    @abstractmethod
    async def add_conversation_message(
        self, session_id: str, role: str, content: str, metadata: dict[str, Any] | None = None
    ) -> bool:
        """Add a message at the end of a session."""

    @abstractmethod
    async def get_conversation_history(
        self, session_id: str, limit: int = 50
    ) -> list[dict[str, Any]]:
        """The newest ``limit`` messages of a session, oldest first."""


@runtime_checkable
class ICheckpointStorage(Protocol):
    """The checkpoints of threads of work."""

    @abstractmethod
    async def store_checkpoint(
        self,
        thread_id: str,
        checkpoint_id: str,
        checkpoint_data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Keep a state; one with the same id is replaced."""

    @abstractmethod
    async def get_checkpoint(
        self, thread_id: str, checkpoint_id: str | None = None
    ) -> dict[str, Any] | None:
        """A checkpoint, the latest if no id is given; None if there is none."""

    @abstractmethod
    async def list_checkpoints(self, thread_id: str, limit: int = 10) -> list[dict[str, Any]]:
        """The newest ``limit`` checkpoints of a thread, newest first."""


@runtime_checkable
class ITaskContextStorage(Protocol):
    """What the tasks of sessions work with."""

    @abstractmethod
    async def get_task_context(self, session_id: str) -> Any | None:
        """The context of a session, or None."""

    @abstractmethod
    async def store_task_context(self, session_id: str, context: Any) -> bool:
        """Replace the context of a session."""


@runtime_checkable
class IStorageBackend(
    ISessionStorage, IConversationStorage, ICheckpointStorage, ITaskContextStorage, Protocol
):
    """All kinds of records, and what a storage needs besides."""

    @abstractmethod
    async def initialize(self) -> bool:
        """Make ready for use; True once it is."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything."""

    @abstractmethod
    async def health_check(self) -> dict[str, Any]:
        """Try whether the storage works, and say how it is."""

    @abstractmethod
    async def get_metrics(self) -> dict[str, Any]:
        """The storage in numbers."""

    @abstractmethod
    async def cleanup_expired_sessions(self, max_idle_hours: int = 24) -> int:
        """Delete sessions in which nothing has happened for so long; returns how many."""


@runtime_checkable
class ICheckpointerBackend(Protocol):
    """What a LangGraph checkpointer needs."""

    @abstractmethod
    async def put_checkpoint(
        self,
        thread_id: str,
        checkpoint_id: str,
        checkpoint_data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Keep a state of a graph; one with the same id is replaced."""

    @abstractmethod
    async def get_checkpoint(
        self, thread_id: str, checkpoint_id: str | None = None
    ) -> dict[str, Any] | None:
        """A checkpoint, the latest if no id is given; None if there is none."""

    @abstractmethod
    async def list_checkpoints(self, thread_id: str, limit: int = 10) -> list[dict[str, Any]]:
        """The newest ``limit`` checkpoints of a thread, newest first."""

    @abstractmethod
    async def put_writes(
        self,
        thread_id: str,
        checkpoint_id: str,
        task_id: str,
        writes_data: list[tuple[Any, ...]],
    ) -> bool:
        """Keep what a task has written on top of a checkpoint: pairs of channel and value."""

    @abstractmethod
    async def get_writes(self, thread_id: str, checkpoint_id: str) -> list[tuple[Any, ...]]:
        """What tasks have written on top of a checkpoint: (task_id, channel, value)."""


@runtime_checkable
class IBatchSessionStorage(Protocol):
    """Many sessions at once."""

    @abstractmethod
    async def batch_create_sessions(self, sessions: list[dict[str, Any]]) -> list[bool]:
        """Begin sessions, each a mapping of what ``create_session`` takes."""

    @abstractmethod
    async def batch_get_sessions(self, session_ids: list[str]) -> list[dict[str, Any] | None]:
        """Sessions in the order of the ids, None where there is none."""


@runtime_checkable
class IListableStorage(Protocol):
    """What a ``StorageMigrator`` needs of a storage to find everything in it.

    Each method gives up to ``limit`` ids in ascending order, those behind ``after``.
    """

    @abstractmethod
    async def list_session_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        """Ids of sessions."""

    @abstractmethod
    async def list_conversation_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        """Ids of sessions that have messages."""

    @abstractmethod
    async def list_thread_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        """Ids of threads that have checkpoints."""

    @abstractmethod
    async def list_task_context_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        """Ids of sessions that have a task context."""
