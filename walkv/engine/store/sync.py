"""The store as threads see it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar, overload

from walkv import limits
from walkv.engine.changes import Change, changes
from walkv.engine.core import Engine
from walkv.engine.follower import Follower
from walkv.engine.inspect import Progress, VerifyReport, verify
from walkv.engine.keyring import Key, Secret
from walkv.engine.policies import check_policy
from walkv.engine.recovery import RecoveryReport
from walkv.engine.store.batch import Batch
from walkv.engine.store.common import (
    ANY,
    Buffer,
    Closing,
    Expected,
    SyncChoice,
    as_bytes,
    as_key,
    bad_key,
    bad_value,
    check_expected,
    check_limit,
    item_for,
    key_range,
)
from walkv.engine.store.transaction import Transaction
from walkv.engine.store.view import View
from walkv.engine.watch import Health, Stats, health, stats
from walkv.errors import ConflictError

T = TypeVar("T")

_FIRST_BACKOFF_SECONDS = 0.0005


class Store(Closing):
    """An ordered, crash-safe map from ``bytes`` to ``bytes``. Made by ``walkv.open``.

    Thread-safe. A context manager that closes on leaving.
    """

    def __init__(self, engine: Engine | Follower) -> None:
        self._engine = engine

    @property
    def engine(self) -> Engine | Follower:
        """What is behind this face; private to walkv."""
        return self._engine

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
        """Whether ``close`` was called."""
        return self._engine.closed

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<walkv.Store {self.path!r} {state}>"

    def _writer(self) -> Engine:
        engine = self._engine
        if isinstance(engine, Follower):
            engine.check()
            raise engine.refuse_write()
        return engine

    # -- reads -----------------------------------------------------------------------------------

    # Hot.
    def get(self, key: Buffer, default: Any = None) -> Any:
        """The value of a key, or ``default`` if it is absent.

        Cost: a dict look-up while the key is unsettled; then O(log n) and, where the block is not
        cached, one read per snapshot that may hold the key.
        """
        if type(key) is not bytes:
            key = as_bytes("key", key)
        value = self._engine.get(key)
        return default if value is None else value

    def get_versioned(self, key: Buffer) -> tuple[bytes, int] | tuple[None, None]:
        """Value and version of a key, or ``(None, None)``.

        The version is the sequence of the key's last write; give it to ``put(expected=...)``.
        """
        entry = self._engine.entry(as_key(key))
        return (None, None) if entry is None else (entry[1], entry[0])  # type: ignore[return-value]

    def get_many(self, keys: Iterable[Buffer]) -> list[bytes | None]:
        """Values in the order of the keys, None where absent; all of one moment."""
        return self._engine.get_many([as_key(key) for key in keys])

    def __getitem__(self, key: Buffer) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value  # type: ignore[no-any-return]  # bytes where it is not the default

    def __contains__(self, key: Buffer) -> bool:
        return self.get(key) is not None

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
    ) -> Iterator[tuple[bytes, bytes]]: ...

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
    ) -> Iterator[bytes]: ...

    def scan(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
    ) -> Iterator[Any]:
        """Entries in key order, as of the call: what is written meanwhile is not seen.

        Args:
            prefix: only keys that begin with it; not together with ``start`` or ``stop``.
            start: the first key, included.
            stop: the end, not included.
            reverse: from the last key to the first.
            limit: at most so many entries.
            keys_only: yield keys instead of ``(key, value)`` pairs.
        Cost: O(log n) to begin, then about one block read per 8 KiB of entries. Memory: a few
            blocks, whatever the size of the range.
        """
        low, high = key_range(prefix, start, stop)
        check_limit(limit)
        engine = self._engine
        return engine.scan(
            engine.pin(), low, high, reverse=reverse, limit=limit, keys_only=keys_only
        )

    def count(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
    ) -> int:
        """How many keys there are in a range, all by default. Cost: O(keys in the range)."""
        low, high = key_range(prefix, start, stop)
        point = self._engine.pin()
        try:
            return self._engine.count(point, low, high)
        finally:
            point.release()

    def view(self) -> View:
        """Point-in-time reads; close it when done."""
        return View(self._engine)

    # -- writes ----------------------------------------------------------------------------------

    # Hot.
    def put(
        self,
        key: Buffer,
        value: Buffer,
        *,
        sync: SyncChoice = None,
        ttl_seconds: float | None = None,
        expected: Expected = ANY,
    ) -> int:
        """Set a key.

        Args:
            key: 1 to 65,535 bytes.
            value: up to 1 GiB.
            sync: a sync policy for this commit; the store's by default.
            ttl_seconds: the entry is absent once so many seconds have passed.
            expected: compare-and-set: write only if this is the key's version now; ``None`` means
                that the key must be absent.
        Returns:
            The key's new version.
        Raises:
            ConflictError: the version is not the expected one; nothing was written.
            LimitError: key or value too large; nothing was written.
            OSError: the write failed (a full disk); nothing was written, the store goes on.
            StoreFailedError: the store has failed before, or a sync failed now; reopen it.
            ReadOnlyError, ClosedError: as they say.
        Durability: as the sync policy says; see ``docs/durability.md``.
        """
        if type(key) is not bytes:
            key = as_bytes("key", key)
        if type(value) is not bytes:
            value = as_bytes("value", value)
        if not 0 < len(key) <= limits.MAX_KEY_BYTES:
            raise bad_key(key)
        if len(value) > limits.MAX_VALUE_BYTES:
            raise bad_value(value)
        if sync is not None:
            check_policy(sync)
        engine = self._engine
        if ttl_seconds is None and expected is ANY and type(engine) is Engine:
            with engine.commit_lock:
                position, version = engine.append_one(key, value)
            if sync is not None or position > engine.syncer.quiet_position:
                engine.acknowledge(position, sync)
            return version
        return self._put_checked(key, value, sync, ttl_seconds, expected)

    def _put_checked(
        self,
        key: bytes,
        value: bytes,
        sync: SyncChoice,
        ttl_seconds: float | None,
        expected: Expected,
    ) -> int:
        engine = self._writer()
        item = item_for(value, ttl_seconds, engine.now_ms)
        return engine.commit([key, item], sync, version_check(engine, key, expected))

    def __setitem__(self, key: Buffer, value: Buffer) -> None:
        self.put(key, value)

    def delete(self, key: Buffer, *, sync: SyncChoice = None, expected: Expected = ANY) -> int:
        """Remove a key; no error if it is absent. Arguments, errors and durability as in ``put``.

        Returns:
            The sequence of the deletion.
        """
        key = as_key(key)
        check_policy(sync)
        engine = self._writer()
        if expected is not ANY:
            return engine.commit([key, None], sync, version_check(engine, key, expected))
        with engine.commit_lock:
            position, version = engine.append_one(key, None)
        if sync is not None or position > engine.syncer.quiet_position:
            engine.acknowledge(position, sync)
        return version

    def __delitem__(self, key: Buffer) -> None:
        key = as_key(key)
        engine = self._writer()

        def check() -> None:
            if engine.current_entry(key) is None:
                raise KeyError(key)

        engine.commit([key, None], None, check)

    def delete_range(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        sync: SyncChoice = None,
    ) -> None:
        """Remove all keys with a prefix, or with ``start <= key < stop``, in one commit.

        Cost: one small frame, however many keys there are. Their disk space comes back with
        compaction, in the background or by ``compact()``.
        Durability: as the sync policy says.
        """
        with self.batch(sync) as batch:
            batch.delete_range(prefix, start=start, stop=stop)

    def batch(self, sync: SyncChoice = None) -> Batch:
        """An atomic batch, committed on leaving its ``with`` block."""
        check_policy(sync)
        engine = self._writer()
        return Batch(engine.now_ms, lambda operations: engine.commit(operations, sync))

    def transaction(self, sync: SyncChoice = None) -> Transaction:
        """An optimistic, serializable transaction, committed on leaving its ``with`` block.

        Its commit raises ``ConflictError`` if something it read has changed; ``transact`` retries.
        """
        check_policy(sync)
        engine = self._writer()
        engine.check()
        return Transaction(engine, sync)

    def transact(
        self,
        function: Callable[[Transaction], T],
        *,
        retries: int = 20,
        sync: SyncChoice = None,
    ) -> T:
        """Call ``function(transaction)`` and commit, again if there was a conflict.

        Args:
            function: reads and writes through the transaction; may be called several times.
            retries: how often to begin again before giving up.
        Returns:
            What ``function`` returned in the run that was committed.
        Raises:
            ConflictError: every run met a conflict.
        """
        for attempt in range(retries + 1):
            try:
                with self.transaction(sync) as transaction:
                    return function(transaction)
            except ConflictError:
                if attempt == retries:
                    raise
                time.sleep(backoff_seconds(attempt))
        raise ValueError(f"retries must be 0 or more, not {retries}")

    # -- the store itself ------------------------------------------------------------------------

    def sync(self) -> None:
        """Make every commit so far durable, whatever its policy.

        Raises:
            StoreFailedError: the sync failed; reopen the store.
        Durability: everything committed before the call survives power loss on return.
        """
        self._writer().sync()

    def refresh(self) -> bool:
        """Read-only stores: take in what the writer has committed since the last refresh.

        Returns whether there was anything. On a writing store there never is.
        """
        engine = self._engine
        return engine.refresh() if isinstance(engine, Follower) else False

    def compact(self) -> None:
        """Rewrite everything into one snapshot; the space of what was deleted comes back.

        Waits for it; reads and writes go on meanwhile. Safe to interrupt.

        Cost: reads and writes the whole store.
        """
        self._writer().compact()

    def rekey(self, new_key: Key, *, rotate: bool = True) -> None:
        """Change the key of an encrypted store; reads and writes go on meanwhile.

        Args:
            new_key: as ``key`` of ``walkv.open``.
            rotate: also write everything anew under another data key, so that who had the old key,
                and kept what it opens, can read nothing that is written from now on.
        Raises:
            EncryptionError: the store is not encrypted, or ``new_key`` is no key.
            OSError: a write failed. It may be done again.
        Durability: from the first step on, which is atomic, only the new key opens the store. Who
            is interrupted, or killed, after that does it again.
        Cost: one manifest; with ``rotate`` as ``compact()``, of the whole store.
        """
        secret = new_key if isinstance(new_key, Secret) else Secret(new_key)
        self._writer().rekey(secret, rotate=rotate)

    def verify(
        self, progress: Progress | None = None, *, max_bytes_per_second: float | None = None
    ) -> VerifyReport:
        """Read every byte of the store again and hold it against its checksum; changes nothing.

        Args:
            progress: called with the bytes checked so far and the bytes in all.
            max_bytes_per_second: read no faster, for the sake of others.
        """
        return verify(self._engine, progress, max_bytes_per_second)

    @property
    def last_sequence(self) -> int:
        """The sequence of the last operation committed; of a read-only store, as of its refresh."""
        return self._engine.sequence

    def changes(
        self, since: int | None = None, *, follow: bool = False, durable: bool = True
    ) -> Iterator[Change]:
        """The batches that were committed, in order, from the log.

        Args:
            since: only batches with operations after this sequence: the ``last_sequence`` of the
                last one that was seen, or of the store; None for all that the log still has.
            follow: wait for more, until the store is closed.
            durable: leave out, for now, what a power failure could still take. A read-only store
                cannot know that, and gives what is there; there, a batch that the writer could not
                finish may be followed by another one with the same sequence.
        Raises:
            HistoryLostError: the log no longer reaches back so far (see ``keep_log``), or the
                store has not come so far. Also while it is read, if it goes too slowly.
            CorruptionError: the log is damaged.
        Cost: reads the segments from there on; batches that are skipped within the first one too.
        """
        return changes(self._engine, since, follow=follow, durable=durable)

    def stats(self) -> Stats:
        """The store in numbers. Cost: a ``stat`` per segment."""
        return stats(self._engine)

    def health(self) -> Health:
        """Whether the store works, for a service's health check. Never raises."""
        return health(self._engine)

    def close(self) -> None:
        """Sync, settle and close. Closing twice is allowed.

        Raises:
            StoreFailedError: the store had failed before, or a sync failed now. It is closed.
        Durability: everything committed survives power loss, if this does not raise.
        """
        self._engine.close()


def version_check(engine: Engine, key: bytes, expected: Expected) -> Callable[[], None] | None:
    """A check for ``Engine.commit`` that a key's version is the expected one."""
    if expected is ANY:
        return None
    if expected is not None and not isinstance(expected, int):
        raise TypeError(f"expected is a version (int) or None for absent, not {expected!r}")

    def check() -> None:
        entry = engine.current_entry(key)
        check_expected(key, expected, None if entry is None else entry[0])

    return check


def backoff_seconds(attempt: int) -> float:
    """How long to wait before run ``attempt + 1``: random, growing, so that rivals part ways."""
    return random.uniform(0, _FIRST_BACKOFF_SECONDS * 2 ** min(attempt, 6))
