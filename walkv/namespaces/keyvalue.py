"""What namespaces need of an engine: a handful of methods, so that another can take its place.

Invariants:
    1. Nothing above this module knows ``Store``: it reads through a ``Reader`` and writes through
       ``KeyValue.transact`` or a ``Transaction``.
    2. A function given to ``transact`` touches the store through its argument only, is short, and
       may be called more than once: an engine may hold a lock around it, or run it again after a
       conflict.
    3. A commit is visible when ``transact`` returns, and acknowledged once its ticket was waited
       for. So one implementation serves threads, which wait, and tasks, which await.

Source: the narrow waist of the design; a class to inherit from was rejected, because a protocol
asks nothing of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from walkv.engine.policies import SyncPolicy

T = TypeVar("T")


class Reader(Protocol):
    """Reads; keys and values are bytes, ranges are half open, as in ``walkv.Store``."""

    def get(self, key: bytes) -> bytes | None: ...

    def get_versioned(self, key: bytes) -> tuple[bytes, int] | tuple[None, None]: ...

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]: ...

    def scan(
        self,
        prefix: bytes | None = None,
        *,
        start: bytes | None = None,
        stop: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
    ) -> Iterator[Any]: ...


class Writer(Reader, Protocol):
    """Reads, and writes that commit together. Reads see the writes."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def put_until(self, key: bytes, value: bytes, expiry_ms: int) -> None:
        """Set a key that is absent from a moment on, in milliseconds since 1970."""

    def delete(self, key: bytes) -> None: ...

    def delete_range(
        self,
        prefix: bytes | None = None,
        *,
        start: bytes | None = None,
        stop: bytes | None = None,
    ) -> None: ...


class Ticket(Protocol):
    """A commit that is visible and may not be acknowledged yet.

    Attributes:
        position: its end in the log.
        policy: its sync policy; None for the store's.
    """

    position: int
    policy: SyncPolicy | None

    def wait(self) -> None:
        """Block until the commit is acknowledged under its sync policy."""


class OpenTransaction(Writer, Protocol):
    """An optimistic transaction that may stay open while other things happen."""

    def commit_ticket(self, sync: SyncPolicy | None) -> Ticket | None:
        """Commit; None if there was nothing to write. Raises ``ConflictError``."""

    def discard(self) -> None: ...

    def __len__(self) -> int:
        """Writes so far."""


class KeyValue(Reader, Protocol):
    """An ordered map with atomic, serializable commits."""

    @property
    def path(self) -> str: ...

    @property
    def writable(self) -> bool: ...

    @property
    def may_wait(self) -> bool:
        """Whether calls wait where they have to; if not, ``WouldBlockError`` is raised there."""

    @property
    def opening(self) -> str:
        """Differs with every opening by a writer."""

    @property
    def policy(self) -> SyncPolicy:
        """Of commits for which none is given. Writers have one."""

    @property
    def shared(self) -> dict[str, Any]:
        """For what all users of this opening have to agree on."""

    def wall_time_ns(self) -> int: ...

    def view(self) -> AbstractContextManager[Reader]: ...

    def transact(
        self, function: Callable[[Writer], T], sync: SyncPolicy | None
    ) -> tuple[T, Ticket | None]:
        """Commit what ``function`` writes, as if in one instant; see invariant 2."""

    def transaction(self) -> OpenTransaction: ...

    def barrier(self) -> Ticket | None:
        """A ticket for all commits so far, whatever their policies; None if they are durable."""
