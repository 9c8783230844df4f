"""Short transactions that hold the commit lock, and the face of an engine that is made of them.

``ExclusiveStore`` is what the record namespaces see of an engine. Its ``transact`` runs a function
under the commit lock: no other commit can come between what it reads and what it writes, so there
is nothing to validate and no conflict. Its commits give a ``CommitTicket`` instead of waiting.

Invariants:
    1. What the function reads is still so when its writes are appended: room in the memtable is
       made before the function runs, since waiting for room lets other commits in.
    2. If the function raises, nothing is written.
    3. Without blocking (``blocking=False``) nothing waits for a lock, a file or a flush, and no
       large value is read, which would then be decoded: ``WouldBlockError`` is raised before
       anything is written, and the caller does it again where it may wait.

Source: the optimistic ``Transaction`` was rejected for this: 32 threads that update one record
would run 32 times to commit once, and remembering what was read costs more than the lock is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from walkv.engine.catalog import ReadPoint
from walkv.engine.core import Engine
from walkv.engine.follower import Follower
from walkv.engine.memtable import Entry, Memtable
from walkv.engine.policies import SyncPolicy, Wal, check_policy
from walkv.engine.reads import NEEDS_READ, QUICK_BYTES
from walkv.engine.store.batch import Operations
from walkv.engine.store.common import Buffer, as_key, as_value, check_limit, key_range
from walkv.engine.store.transaction import Overlay, Transaction
from walkv.engine.store.view import View
from walkv.errors import WouldBlockError

T = TypeVar("T")

_MISSING: Final = object()
_KEY_BYTES: Final = 128
"""What a look-up is taken for beside its value: some 512 of them take too long."""


class CommitTicket:
    """A commit that is visible; see the module.

    Attributes:
        position: its end in the log.
        policy: its sync policy, or None for the store's.
    """

    __slots__ = ("_engine", "policy", "position")

    def __init__(self, engine: Engine, position: int, policy: SyncPolicy | None) -> None:
        self._engine = engine
        self.position = position
        self.policy = policy

    def wait(self) -> None:
        """Block until the commit is acknowledged.

        Raises:
            StoreFailedError: the sync failed; the commit may not be durable.
        """
        engine = self._engine
        if self.policy is not None or self.position > engine.syncer.quiet_position:
            engine.acknowledge(self.position, self.policy)


class Exclusive(Operations):
    """Reads and writes of one function, under the commit lock."""

    def __init__(self, engine: Engine, blocking: bool) -> None:
        super().__init__(engine.now_ms)
        self._engine = engine
        self._read: Callable[[bytes], Any] = engine.get if blocking else engine.get_cached
        self._blocking = blocking
        self._written: dict[Any, Any] = {}
        self._wrote_range = False
        self._ordered: Memtable | None = None
        self._ordered_count = 0

    # Hot.
    def get(self, key: bytes) -> bytes | None:
        """The value of a key, own writes included."""
        if self._written or self._wrote_range:
            value = self._own(key)
            if value is not _MISSING:
                return value  # type: ignore[no-any-return]  # bytes or None where it is there
        value = self._read(key)
        if not self._blocking and _takes_time(value):
            raise WouldBlockError
        return value  # type: ignore[no-any-return]  # bytes or None

    def _own(self, key: bytes) -> Any:
        if self._wrote_range:
            own = self._own_memtable()
            if own.ranges.covers(key) and key not in own.table:
                return None
            entry = own.table.get(key)
            return _MISSING if entry is None else entry[1]
        return self._written.get(key, _MISSING)

    def get_versioned(self, key: bytes) -> tuple[bytes, int] | tuple[None, None]:
        """Value and version of a key; the version of what was written here is 0."""
        value = self._own(key) if self._written or self._wrote_range else _MISSING
        if value is not _MISSING:
            return (None, None) if value is None else (value, 0)  # type: ignore[return-value]
        engine, quick = self._engine, not self._blocking
        entry = _small(engine.entry_in_memory(key)) if quick else engine.current_entry(key)
        return (None, None) if entry is None else (entry[1], entry[0])  # type: ignore[return-value]

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """Values in the order of the keys, None where absent."""
        return [self.get(key) for key in keys]

    def scan(
        self,
        prefix: bytes | None = None,
        *,
        start: bytes | None = None,
        stop: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
    ) -> Iterator[Any]:
        """Entries in key order, own writes so far included."""
        check_limit(limit)
        if not self._blocking:
            raise WouldBlockError
        low, high = key_range(prefix, start, stop)
        point: ReadPoint = self._engine.point_in_commit()
        if self._operations:
            point = Overlay(point, self._own_memtable())
        return self._engine.scan(
            point, low, high, reverse=reverse, limit=limit, keys_only=keys_only
        )

    def _own_memtable(self) -> Memtable:
        """The writes so far, in order. Cost: that of the writes since the last call."""
        if self._ordered is None:
            self._ordered = Memtable()
        new = self._operations[2 * self._ordered_count :]
        self._ordered.prepare(new, self._ordered_count + 1).publish(self._ordered)
        self._ordered_count = len(self)
        return self._ordered

    def put(self, key: Buffer, value: Buffer, *, ttl_seconds: float | None = None) -> None:
        """Set a key when the function has returned."""
        super().put(key, value, ttl_seconds=ttl_seconds)
        self._written[key] = value

    def put_until(self, key: Buffer, value: Buffer, expiry_ms: int) -> None:
        """Set a key that is absent from a moment on, when the function has returned."""
        _put_until(self, key, value, expiry_ms)
        self._written[key] = value

    def delete(self, key: Buffer) -> None:
        """Remove a key when the function has returned."""
        super().delete(key)
        self._written[key] = None

    def delete_range(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
    ) -> None:
        """Remove a range of keys when the function has returned."""
        super().delete_range(prefix, start=start, stop=stop)
        self._wrote_range = True

    def take(self) -> list[Any]:
        """The operations; nothing is read or written through this object afterwards."""
        return self._take()


def _small(entry: Entry | None) -> Entry | None:
    if entry is not None and entry[1] is not None and len(entry[1]) > QUICK_BYTES:
        raise WouldBlockError
    return entry


def _takes_time(value: Any) -> bool:
    return value is NEEDS_READ or (value is not None and len(value) > QUICK_BYTES)


def _put_until(operations: Operations, key: Buffer, value: Buffer, expiry_ms: int) -> None:
    key, value = as_key(key), as_value(value)
    operations._add(key, [expiry_ms, value], len(key) + len(value))


class TicketTransaction(Transaction):
    """An optimistic transaction whose commit gives a ticket."""

    def put_until(self, key: Buffer, value: Buffer, expiry_ms: int) -> None:
        """Set a key that is absent from a moment on, in milliseconds since 1970."""
        _put_until(self, key, value, expiry_ms)
        self._apply_own()

    def commit_ticket(self, sync: SyncPolicy | None) -> CommitTicket | None:
        """Check what was read, and commit under a policy; None if nothing was to be written.

        Raises:
            ConflictError: something that was read has changed; nothing was written.
        """
        engine = self._engine
        operations = self._take()
        try:
            if not operations:
                return None
            with engine.commit_lock:
                position, _ = engine.append(operations, self._validate)
            return CommitTicket(engine, position, sync)
        finally:
            self._point.release()


class ExclusiveStore:
    """An engine as the namespaces see it: reads, and commits that give tickets.

    Args:
        blocking: False to raise ``WouldBlockError`` wherever something would have to wait.
    """

    def __init__(self, engine: Engine | Follower, *, blocking: bool = True) -> None:
        self._engine = engine
        self._blocking = blocking

    @property
    def path(self) -> str:
        """The store's directory, absolute."""
        return self._engine.path

    @property
    def blocking(self) -> bool:
        """Whether it may wait."""
        return self._blocking

    @property
    def may_wait(self) -> bool:
        """Whether calls wait where they have to; if not, they are refused."""
        return self._blocking

    @property
    def writable(self) -> bool:
        """Whether this is the store's writer."""
        return isinstance(self._engine, Engine)

    @property
    def opening(self) -> str:
        """Differs with every opening for writing."""
        return self._writer().opening

    @property
    def policy(self) -> SyncPolicy:
        """The store's sync policy."""
        return self._writer().policy

    @property
    def shared(self) -> dict[str, Any]:
        """For what all users of this opening have to agree on."""
        return self._writer().shared

    def wall_time_ns(self) -> int:
        """The time by the engine's clock, in nanoseconds since 1970."""
        return self._engine.fs.wall_time_ns()

    def _writer(self) -> Engine:
        engine = self._engine
        if isinstance(engine, Follower):
            engine.check()
            raise engine.refuse_write()
        return engine

    # Hot.
    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        if self._blocking:
            return self._engine.get(key)
        value = self._engine.get_cached(key)
        if _takes_time(value):
            raise WouldBlockError
        return value  # type: ignore[no-any-return]  # bytes or None

    def get_versioned(self, key: bytes) -> tuple[bytes, int] | tuple[None, None]:
        """Value and version of a key, or ``(None, None)``."""
        engine, quick = self._engine, not self._blocking
        entry = _small(engine.entry_in_memory(key)) if quick else engine.entry(key)
        return (None, None) if entry is None else (entry[1], entry[0])  # type: ignore[return-value]

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """Values in the order of the keys, all of one moment."""
        if self._blocking:
            return self._engine.get_many(keys)
        values, left_bytes = [], QUICK_BYTES
        with self._engine.commit_lock_at_once():
            for key in keys:
                value = self.get(key)
                left_bytes -= _KEY_BYTES + len(value or b"")
                if left_bytes < 0:
                    raise WouldBlockError
                values.append(value)
        return values

    def scan(
        self,
        prefix: bytes | None = None,
        *,
        start: bytes | None = None,
        stop: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
    ) -> Iterator[Any]:
        """Entries in key order, as of the call."""
        check_limit(limit)
        low, high = key_range(prefix, start, stop)
        engine = self._engine
        return engine.scan(
            engine.pin() if self._blocking else engine.pin_at_once(),
            low,
            high,
            reverse=reverse,
            limit=limit,
            keys_only=keys_only,
            quick=not self._blocking,
        )

    def view(self) -> View:
        """Point-in-time reads; close it when done."""
        self._may_wait()
        return View(self._engine)

    def _may_wait(self) -> None:
        if not self._blocking:
            raise WouldBlockError

    # Hot.
    def transact(
        self, function: Callable[[Exclusive], T], sync: SyncPolicy | None
    ) -> tuple[T, CommitTicket | None]:
        """Commit what ``function`` writes; see the module.

        Returns:
            What the function returned, and the commit's ticket; None if it wrote nothing.
        """
        engine = self._writer()
        if sync is not None:
            check_policy(sync)
            if sync == engine.policy:
                sync = None  # its acknowledgement has a short cut

        def run() -> tuple[T, CommitTicket | None]:
            work = Exclusive(engine, self._blocking)
            result = function(work)
            operations = work.take()
            if not operations:
                return result, None
            position, _ = engine.append(operations)
            return result, CommitTicket(engine, position, sync)

        if self._blocking:
            with engine.commit_lock:
                engine.ensure_room()
                return run()
        done = engine.without_waiting(run)
        if done is None:
            raise WouldBlockError
        return done

    def barrier(self) -> CommitTicket | None:
        """A ticket for all commits so far under ``Wal()``; None if they are durable."""
        engine = self._writer()
        log = engine.write_log
        position = log.position
        return CommitTicket(engine, position, Wal()) if log.durable < position else None

    def transaction(self) -> TicketTransaction:
        """An optimistic transaction, which may stay open while others commit."""
        self._may_wait()
        engine = self._writer()
        engine.check()
        return TicketTransaction(engine, None)
