"""The store as asyncio tasks see it.

One engine serves both faces. A small commit is appended inline (microseconds); what may wait (a
sync, a rotation, a cold read, a large value) happens in another thread, so the event loop never
blocks on the disk. One sync wakes all tasks whose commits it covers.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Final, Literal, TypeVar, overload

from walkv import limits
from walkv.engine import wal
from walkv.engine.changes import POLL_SECONDS, Change, Feed
from walkv.engine.core import Engine
from walkv.engine.follower import Follower
from walkv.engine.inspect import Progress, VerifyReport
from walkv.engine.keyring import Key
from walkv.engine.policies import WriteBack, check_policy
from walkv.engine.reads import NEEDS_READ
from walkv.engine.recovery import RecoveryReport
from walkv.engine.store.async_parts import AsyncBatch, AsyncTransaction, AsyncView
from walkv.engine.store.common import (
    ANY,
    AsyncClosing,
    Buffer,
    Expected,
    SyncChoice,
    as_key,
    as_value,
    check_limit,
    item_for,
    key_range,
)
from walkv.engine.store.sync import Store, backoff_seconds, version_check
from walkv.engine.watch import Health, Stats
from walkv.engine.writes import Check
from walkv.errors import ClosedError, ConflictError, StoreFailedError

T = TypeVar("T")

_INLINE_BYTES: Final = 64 * limits.KIB
"""Larger commits are written by another thread: copying them would hold up the loop."""

_INLINE_OPERATIONS: Final = 512
_PAGE_ENTRIES: Final = 512
_THREADS: Final = 4


class AsyncStore(AsyncClosing):
    """The coroutines of one engine, for one event loop. Made by ``await walkv.aopen(...)``.

    An async context manager that closes on leaving. ``AsyncStore.of(store)`` gives this face to a
    store that threads use as well; ``as_sync()`` the other way round.
    """

    def __init__(self, engine: Engine | Follower) -> None:
        self._engine = engine
        self._sync_face = Store(engine)
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="walkv-async")
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._asked = False
        self._closed = False
        self._closing: asyncio.Future[None] | None = None
        self._close_told = False
        if isinstance(engine, Engine):
            engine.syncer.listen(self._on_sync)

    @classmethod
    def of(cls, store: Store) -> AsyncStore:
        """The async face of an open store, for the running loop."""
        return cls(store.engine)

    def as_sync(self) -> Store:
        """The face for threads."""
        return self._sync_face

    @property
    def path(self) -> str:
        """The store's directory, absolute."""
        return self._engine.path

    @property
    def recovery_report(self) -> RecoveryReport:
        """What opening found and did."""
        return self._engine.report

    @property
    def closed(self) -> bool:
        """Whether the store was closed, or this face let go."""
        return self._closed or self._engine.closed

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<walkv.AsyncStore {self.path!r} {state}>"

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call something that may block, in another thread."""
        self._check_open()
        return await self._loop.run_in_executor(self._pool, function, *arguments)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.path}: this store was closed; open it again to use it")

    def _writer(self) -> Engine:
        self._check_open()
        return self._committing()

    def _committing(self) -> Engine:
        """The writer, for what was written already: this face may be closed by now."""
        engine = self._engine
        if isinstance(engine, Follower):
            engine.check()
            raise engine.refuse_write()
        return engine

    # -- reads -----------------------------------------------------------------------------------

    async def get(self, key: Buffer, default: Any = None) -> Any:
        """The value of a key, or ``default``; see ``Store.get``."""
        key = as_key(key)
        self._check_open()
        value = self._engine.get_cached(key)
        if value is NEEDS_READ:
            value = await self._in_thread(self._engine.get, key)
        return default if value is None else value

    async def get_versioned(self, key: Buffer) -> tuple[bytes, int] | tuple[None, None]:
        """Value and version of a key, or ``(None, None)``."""
        return await self._in_thread(self._sync_face.get_versioned, key)

    async def get_many(self, keys: Iterable[Buffer]) -> list[bytes | None]:
        """Values in the order of the keys, None where absent; all of one moment."""
        return await self._in_thread(self._sync_face.get_many, list(keys))

    async def contains(self, key: Buffer) -> bool:
        """Whether a key is there (``in`` cannot be awaited)."""
        return await self.get(key) is not None

    @overload
    def scan(
        self,
        prefix: Buffer | None = ...,
        *,
        start: Buffer | None = ...,
        stop: Buffer | None = ...,
        reverse: bool = ...,
        limit: int | None = ...,
        keys_only: Literal[False] = ...,
    ) -> AsyncIterator[tuple[bytes, bytes]]: ...

    @overload
    def scan(
        self,
        prefix: Buffer | None = ...,
        *,
        start: Buffer | None = ...,
        stop: Buffer | None = ...,
        reverse: bool = ...,
        limit: int | None = ...,
        keys_only: Literal[True],
    ) -> AsyncIterator[bytes]: ...

    def scan(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
    ) -> AsyncIterator[Any]:
        """``async for`` over entries in key order, as of the first step; see ``Store.scan``."""
        key_range(prefix, start, stop)
        check_limit(limit)
        self._engine.check()

        def begin() -> Iterator[Any]:
            return self._sync_face.scan(  # type: ignore[call-overload, misc, no-any-return]
                prefix, start=start, stop=stop, reverse=reverse, limit=limit, keys_only=keys_only
            )

        return self._stream(begin)

    async def _stream(self, begin: Callable[[], Iterator[Any]]) -> AsyncIterator[Any]:
        entries = await self._in_thread(begin)
        while page := await self._in_thread(lambda: list(islice(entries, _PAGE_ENTRIES))):
            for entry in page:
                yield entry

    async def count(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
    ) -> int:
        """How many keys there are in a range."""
        return await self._in_thread(lambda: self._sync_face.count(prefix, start=start, stop=stop))

    async def view(self) -> AsyncView:
        """Point-in-time reads; an async context manager."""
        return AsyncView(self, await self._in_thread(self._sync_face.view))

    # -- writes ----------------------------------------------------------------------------------

    # Hot.
    async def put(
        self,
        key: Buffer,
        value: Buffer,
        *,
        sync: SyncChoice = None,
        ttl_seconds: float | None = None,
        expected: Expected = ANY,
    ) -> int:
        """Set a key; see ``Store.put``. Returns the key's new version.

        Durability: as the sync policy says, once awaited. A task cancelled while it waits leaves
        its commit visible, and durable with the next sync.
        """
        key, value = as_key(key), as_value(value)
        if sync is not None:
            check_policy(sync)
        if ttl_seconds is not None or expected is not ANY:
            engine = self._writer()
            item = item_for(value, ttl_seconds, engine.now_ms)
            return await self._commit([key, item], sync, version_check(engine, key, expected))
        return await self._commit_one(key, value, sync)

    # Hot.
    async def _commit_one(self, key: bytes, value: bytes | None, sync: SyncChoice) -> int:
        engine = self._writer()
        if value is None or len(value) <= _INLINE_BYTES:
            done = engine.without_waiting(engine.append_one, key, value)
            if done is not None:
                await self._acknowledge(done[0], sync)
                return done[1]
        return await self._in_thread(engine.commit, [key, value], sync)

    async def delete(
        self, key: Buffer, *, sync: SyncChoice = None, expected: Expected = ANY
    ) -> int:
        """Remove a key; see ``Store.delete``."""
        key = as_key(key)
        check_policy(sync)
        if expected is ANY:
            return await self._commit_one(key, None, sync)
        check = version_check(self._writer(), key, expected)
        return await self._commit([key, None], sync, check)

    async def delete_range(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        sync: SyncChoice = None,
    ) -> None:
        """Remove a range of keys in one commit; see ``Store.delete_range``."""
        await self._in_thread(
            lambda: self._sync_face.delete_range(prefix, start=start, stop=stop, sync=sync)
        )

    async def _commit(
        self, operations: list[Any], sync: SyncChoice, check: Check | None = None
    ) -> int:
        engine = self._writer()
        # A check may read files and a large batch takes its time: not in the loop's thread.
        # A range may cover many keys of the memtable.
        small = check is None and len(operations) <= 2 * _INLINE_OPERATIONS
        small = small and all(type(subject) is bytes for subject in operations[::2])
        if small and sum(map(_size, operations)) <= _INLINE_BYTES:
            done = engine.without_waiting(engine.append, operations)
            if done is not None:
                await self._acknowledge(done[0], sync)
                return done[1]
        return await self._in_thread(engine.commit, operations, sync, check)

    async def _acknowledge(self, position: int, policy: SyncChoice) -> None:
        engine = self._committing()
        if policy is None:
            policy = engine.policy
        if type(policy) is WriteBack:
            if position - engine.write_log.durable > policy.max_unsynced_bytes:
                await self._durable(position - policy.max_unsynced_bytes)
            engine.acknowledge_back(position, policy)
        else:
            await self._durable(position)
            engine.arm_mark()

    async def _durable(self, position: int) -> None:
        """Wait for a sync that covers a position."""
        engine = self._committing()
        if engine.write_log.durable >= position:
            return
        if self._closed:
            # Written while this face was let go: it hears of no sync any more, and has no threads.
            if engine.failure is not None:
                raise wal.failed(engine.failure) from engine.failure
            await self._loop.run_in_executor(None, engine.write_log.wait, position)
            return
        waiter = self._loop.create_future()
        self._waiters.append((position, waiter))
        if not self._asked:
            self._asked = engine.syncer.request()
            if not self._asked:
                # No thread to be had: then here, as a store without asyncio would.
                with suppress(StoreFailedError):
                    engine.write_log.wait(position)
                self._wake()  # with the same error, if it failed
        await waiter

    def _on_sync(self) -> None:
        # In the syncer's thread.
        if self._waiters:
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:
                self._waiters.clear()  # the loop was closed, and its tasks with it

    def _wake(self) -> None:
        engine = self._committing()
        durable = engine.write_log.durable
        failure = engine.failure
        waiting = []
        for position, waiter in self._waiters:
            if waiter.done():
                continue
            if position <= durable:
                waiter.set_result(None)
            elif failure is not None:
                error = wal.failed(failure)
                error.__cause__ = failure
                waiter.set_exception(error)
            else:
                waiting.append((position, waiter))
        self._waiters = waiting
        self._asked = bool(waiting)
        if waiting:
            engine.syncer.request()

    def batch(self, sync: SyncChoice = None) -> AsyncBatch:
        """An atomic batch, committed on leaving its ``async with`` block."""
        check_policy(sync)
        engine = self._writer()
        return AsyncBatch(engine.now_ms, lambda operations: self._commit(operations, sync))

    async def transaction(self, sync: SyncChoice = None) -> AsyncTransaction:
        """An optimistic, serializable transaction; an async context manager."""
        return AsyncTransaction(self, await self._in_thread(self._sync_face.transaction, sync))

    async def transact(
        self,
        function: Callable[[AsyncTransaction], Any],
        *,
        retries: int = 20,
        sync: SyncChoice = None,
    ) -> Any:
        """Call or await ``function(transaction)`` and commit, again if there was a conflict."""
        for attempt in range(retries + 1):
            try:
                async with await self.transaction(sync) as transaction:
                    result = function(transaction)
                    return await result if inspect.isawaitable(result) else result
            except ConflictError:
                if attempt == retries:
                    raise
                await asyncio.sleep(backoff_seconds(attempt))
        raise ValueError(f"retries must be 0 or more, not {retries}")

    # -- the store itself ------------------------------------------------------------------------

    async def sync(self) -> None:
        """Make every commit so far durable; see ``Store.sync``."""
        engine = self._writer()
        engine.check()
        await self._durable(engine.write_log.position)

    async def refresh(self) -> bool:
        """Read-only stores: take in what the writer has committed since."""
        return await self._in_thread(self._sync_face.refresh)

    async def compact(self) -> None:
        """Rewrite everything into one snapshot; see ``Store.compact``."""
        await self._in_thread(self._sync_face.compact)

    async def rekey(self, new_key: Key, *, rotate: bool = True) -> None:
        """Change the key of an encrypted store; see ``Store.rekey``."""
        await self._in_thread(lambda: self._sync_face.rekey(new_key, rotate=rotate))

    async def verify(
        self, progress: Progress | None = None, *, max_bytes_per_second: float | None = None
    ) -> VerifyReport:
        """Check every byte; ``progress`` is called in another thread. See ``Store.verify``."""
        check = partial(self._sync_face.verify, max_bytes_per_second=max_bytes_per_second)
        return await self._in_thread(check, progress)

    @property
    def last_sequence(self) -> int:
        """The sequence of the last operation committed; see ``Store.last_sequence``."""
        return self._engine.sequence

    async def changes(
        self, since: int | None = None, *, follow: bool = False, durable: bool = True
    ) -> AsyncIterator[Change]:
        """The batches that were committed, in order, from the log; see ``Store.changes``."""
        feed = await self._in_thread(Feed, self._engine, since, durable)
        try:
            while not self.closed:
                found = await self._in_thread(feed.take)
                for change in found:
                    yield change
                if not found:
                    if not follow:
                        return
                    await asyncio.sleep(POLL_SECONDS)
        finally:
            feed.close()

    async def stats(self) -> Stats:
        """The store in numbers."""
        return await self._in_thread(self._sync_face.stats)

    def health(self) -> Health:
        """Whether the store works; see ``Store.health``."""
        return self._sync_face.health()

    async def close(self) -> None:
        """Sync, settle and close; see ``Store.close``."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        # Whoever gives up waiting here does not stop it half way.
        await asyncio.wait([self._closing])
        if not self._close_told:
            self._close_told = True
            self._closing.result()

    async def _close(self) -> None:
        try:
            await self._in_thread(self._engine.close)
        finally:
            self.detach()

    def detach(self) -> None:
        """Let go of the store without closing it: for a face made by ``of``. Nothing waits here.

        Calls that still wait for a sync get a ``ClosedError`` unless it covers them already: their
        commits are visible, and durable with the next sync. Later calls write nothing.
        """
        if self._closed:
            return
        self._closed = True
        engine = self._engine
        if self._loop.is_closed():
            self._waiters = []  # the tasks have gone with it
        if isinstance(engine, Engine):
            self._wake()
            engine.syncer.unlisten(self._on_sync)
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(
                    ClosedError(
                        f"{self.path}: this face of the store was let go while it waited; the "
                        "commit is visible, and durable with the next sync"
                    )
                )
        self._waiters = []
        self._pool.shutdown(wait=False)


def _size(part: Any) -> int:
    if type(part) is bytes:
        return len(part)
    return 0 if part is None else sum(len(p) for p in part if type(p) is bytes)
