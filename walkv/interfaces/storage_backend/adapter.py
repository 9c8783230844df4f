"""Two storages that act as one: reads fall back, writes go to both, and what differs is told.

Invariants:
    1. A write of a record is sent to both sides, in one order on both: two writes of one session or
       thread never overtake each other.
    2. A write that one side took and the other refused, or that both answered differently, is a
       ``Divergence``: counted, listed and logged. It is not repaired: only the application knows
       which side is right.
    3. A caller that is cancelled does not stop a write half way between the sides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from walkv.interfaces.storage_backend.protocols import (
    IBatchSessionStorage,
    ICheckpointerBackend,
    IStorageBackend,
)

log = logging.getLogger("walkv")

Side = Literal["primary", "fallback"]
SIDES: Final[tuple[Side, Side]] = ("primary", "fallback")

_LOCKS: Final = 64
_SHOWN: Final = 1000
"""Most characters of a divergence that are kept."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """A write after which the two sides are not alike.

    Attributes:
        operation: the method.
        subject: the session or thread; empty for what concerns them all.
        refused_by: the side that did not take it.
        reason: what that side said.
        at: when, in UTC.
    """

    operation: str
    subject: str
    refused_by: Side
    reason: str
    at: datetime


class StorageAdapter(IStorageBackend, ICheckpointerBackend, IBatchSessionStorage):
    """Two storages that act as one; see the module.

    A read asks the primary, and the fallback if the primary raises. "There is no such thing" is an
    answer, not a failure. A write goes to both at the same time; the caller gets what the primary
    returned, or the fallback if the primary raised, and the error of the primary if both did.

    Args:
        primary_storage: the one that is asked first.
        fallback_storage: the other one; without it the adapter only passes calls on.
        max_divergences: how many are kept; older ones go, and are still counted.

    Attributes:
        primary, fallback: the two sides.
        divergence_count: writes that one side did not take, ever.
        failover_count: reads that went to the fallback.
    """

    def __init__(
        self,
        primary_storage: Any,
        fallback_storage: Any = None,
        *,
        max_divergences: int = 1000,
    ) -> None:
        self.primary = primary_storage
        self.fallback = fallback_storage
        self.divergence_count = 0
        self.failover_count = 0
        self._divergences: deque[Divergence] = deque(maxlen=max_divergences)
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]
        self._writing: set[asyncio.Task[Any]] = set()

    @property
    def divergences(self) -> list[Divergence]:
        """The last divergences, oldest first."""
        return list(self._divergences)

    def clear_divergences(self) -> None:
        """Forget them, when both sides have been made alike; the count begins again."""
        self._divergences.clear()
        self.divergence_count = 0

    # -- how it is done --------------------------------------------------------------------------

    async def _read(self, operation: str, *arguments: Any) -> Any:
        try:
            return await _call(self.primary, operation, arguments)
        except Exception as error:
            if self.fallback is None:
                raise
            self.failover_count += 1
            log.warning("walkv: %s is read from the fallback: %r", operation, error)
            try:
                return await _call(self.fallback, operation, arguments)
            except Exception as second:  # it is told with the first one
                raise _with_note(error, second) from second

    async def _write(self, operation: str, subjects: Sequence[str], *arguments: Any) -> Any:
        """Do it on both sides; no subjects stand for all."""
        if self.fallback is None:
            return await _call(self.primary, operation, arguments)
        numbers = sorted({hash(each) % _LOCKS for each in subjects}) or range(_LOCKS)
        subject = ", ".join(subjects)[:_SHOWN]
        task = asyncio.create_task(self._in_order(operation, subject, numbers, arguments))
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio need not complain if the caller was cancelled meanwhile

    async def _in_order(
        self, operation: str, subject: str, numbers: Iterable[int], arguments: Sequence[Any]
    ) -> Any:
        async with AsyncExitStack() as held:
            for number in numbers:
                await held.enter_async_context(self._locks[number])
            first, second = await self._both(operation, arguments)
        if isinstance(first, BaseException):
            if isinstance(second, BaseException):
                raise _with_note(first, second) from second
            self._diverged(operation, subject, "primary", repr(first))
            return second
        if isinstance(second, BaseException):
            self._diverged(operation, subject, "fallback", repr(second))
        elif isinstance(first, int | list) and first != second:
            reason = f"it answered {second!r}, and the primary {first!r}"
            self._diverged(operation, subject, "fallback", reason)
        return first

    async def _both(self, operation: str, arguments: Sequence[Any] = ()) -> list[Any]:
        """What each side returned or raised."""
        sides = [self.primary] if self.fallback is None else [self.primary, self.fallback]
        calls = [_call(side, operation, arguments) for side in sides]
        return await asyncio.gather(*calls, return_exceptions=True)

    def _diverged(self, operation: str, subject: str, side: Side, reason: str) -> None:
        self.divergence_count += 1
        reason = reason[:_SHOWN]
        self._divergences.append(Divergence(operation, subject, side, reason, datetime.now(UTC)))
        log.error(
            "walkv: the storages differ now: the %s did not take %s(%s): %s",
            side,
            operation,
            subject,
            reason,
        )

    # -- life ------------------------------------------------------------------------------------

    async def initialize(self) -> bool:
        """Make both sides ready; True if one of them is. That the other is not is a divergence."""
        answers = await self._both("initialize")
        if all(isinstance(answer, BaseException) for answer in answers):
            raise answers[0]
        for side, answer in zip(SIDES, answers, strict=False):
            if answer is not True:
                self._diverged("initialize", "", side, repr(answer))
        return True in answers

    async def close(self) -> None:
        """Close both sides, when the writes that are under way have ended."""
        while self._writing:
            await asyncio.wait(self._writing)
        for answer in await self._both("close"):
            if isinstance(answer, BaseException):
                raise answer

    async def health_check(self) -> dict[str, Any]:
        """How both sides are.

        Returns:
            ``status``: "healthy", or "degraded" if one side does not work or the sides differ;
            ``timestamp``, ``primary`` and ``fallback`` (what each side says), ``divergence_count``,
            ``failover_count``.
        Raises:
            Exception: what the primary raises, if no side works.
        """
        answers = await self._both("health_check")
        if all(isinstance(answer, BaseException) for answer in answers):
            raise answers[0]
        said: dict[str, Any] = {
            side: {"status": "unhealthy", "error": repr(answer)}
            if isinstance(answer, BaseException)
            else answer
            for side, answer in zip(SIDES, answers, strict=False)
        }
        healthy = all(is_healthy(answer) for answer in said.values()) and not self.divergence_count
        return {
            "status": "healthy" if healthy else "degraded",
            "timestamp": datetime.now(UTC).isoformat(),
            **said,
            "divergence_count": self.divergence_count,
            "failover_count": self.failover_count,
        }

    async def get_metrics(self) -> dict[str, Any]:
        """The metrics of the side that answers, and ``adapter``: what this adapter has counted."""
        metrics: dict[str, Any] = await self._read("get_metrics")
        counted = {
            "divergence_count": self.divergence_count,
            "failover_count": self.failover_count,
        }
        return {**metrics, "adapter": counted}

    # -- sessions --------------------------------------------------------------------------------

    async def create_session(
        self, session_id: str, user_id: str, metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """On both sides; each notes its own time."""
        made: dict[str, Any] = await self._write(
            "create_session", [session_id], session_id, user_id, metadata
        )
        return made

    async def get_session(self, session_id: str) -> dict[str, Any] | None:
        """From the primary, else the fallback."""
        found: dict[str, Any] | None = await self._read("get_session", session_id)
        return found

    async def update_session(
        self,
        session_id: str,
        updates: dict[str, Any] | None = None,
        increment_requests: bool = False,
        add_processing_time: float = 0.0,
        mark_error: bool = False,
    ) -> bool:
        """On both sides; a session that only one of them has is a divergence."""
        arguments = (session_id, updates, increment_requests, add_processing_time, mark_error)
        return bool(await self._write("update_session", [session_id], *arguments))

    async def end_session(self, session_id: str, status: str = "completed") -> bool:
        """On both sides."""
        return bool(await self._write("end_session", [session_id], session_id, status))

    async def cleanup_expired_sessions(self, max_idle_hours: int = 24) -> int:
        """On both sides, while no other write is under way."""
        return int(await self._write("cleanup_expired_sessions", [], max_idle_hours))

    async def batch_create_sessions(self, sessions: list[dict[str, Any]]) -> list[bool]:
        """On both sides."""
        subjects = [str(each.get("session_id")) for each in sessions]
        return list(await self._write("batch_create_sessions", subjects, sessions))

    async def batch_get_sessions(self, session_ids: list[str]) -> list[dict[str, Any] | None]:
        """From the primary, else the fallback."""
        return list(await self._read("batch_get_sessions", session_ids))

    # -- messages, contexts ----------------------------------------------------------------------

    async def add_conversation_message(
        self, session_id: str, role: str, content: str, metadata: dict[str, Any] | None = None
    ) -> bool:
        """On both sides, in one order."""
        arguments = (session_id, role, content, metadata)
        return bool(await self._write("add_conversation_message", [session_id], *arguments))

    async def get_conversation_history(
        self, session_id: str, limit: int = 50
    ) -> list[dict[str, Any]]:
        """From the primary, else the fallback."""
        return list(await self._read("get_conversation_history", session_id, limit))

    async def store_task_context(self, session_id: str, context: Any) -> bool:
        """On both sides."""
        return bool(await self._write("store_task_context", [session_id], session_id, context))

    async def get_task_context(self, session_id: str) -> Any | None:
        """From the primary, else the fallback."""
        return await self._read("get_task_context", session_id)

    # -- checkpoints -----------------------------------------------------------------------------

    async def store_checkpoint(
        self,
        thread_id: str,
        checkpoint_id: str,
        checkpoint_data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """On both sides."""
        arguments = (thread_id, checkpoint_id, checkpoint_data, metadata)
        return bool(await self._write("store_checkpoint", [thread_id], *arguments))

    async def put_checkpoint(
        self,
        thread_id: str,
        checkpoint_id: str,
        checkpoint_data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """On both sides."""
        arguments = (thread_id, checkpoint_id, checkpoint_data, metadata)
        return bool(await self._write("put_checkpoint", [thread_id], *arguments))

    async def get_checkpoint(
        self, thread_id: str, checkpoint_id: str | None = None
    ) -> dict[str, Any] | None:
        """From the primary, else the fallback."""
        found: dict[str, Any] | None = await self._read("get_checkpoint", thread_id, checkpoint_id)
        return found

    async def list_checkpoints(self, thread_id: str, limit: int = 10) -> list[dict[str, Any]]:
        """From the primary, else the fallback."""
        return list(await self._read("list_checkpoints", thread_id, limit))

    async def put_writes(
        self,
        thread_id: str,
        checkpoint_id: str,
        task_id: str,
        writes_data: list[tuple[Any, ...]],
    ) -> bool:
        """On both sides."""
        arguments = (thread_id, checkpoint_id, task_id, writes_data)
        return bool(await self._write("put_writes", [thread_id], *arguments))

    async def get_writes(self, thread_id: str, checkpoint_id: str) -> list[tuple[Any, ...]]:
        """From the primary, else the fallback."""
        return list(await self._read("get_writes", thread_id, checkpoint_id))


async def _call(side: Any, operation: str, arguments: Sequence[Any]) -> Any:
    return await getattr(side, operation)(*arguments)


def _with_note(error: BaseException, second: BaseException) -> BaseException:
    error.add_note(f"the fallback failed as well: {second!r}")
    return error


def is_healthy(answer: Any) -> bool:
    """Whether what a ``health_check`` returned says so; no word about it says so, too."""
    return not isinstance(answer, dict) or answer.get("status", "healthy") == "healthy"
