"""Optimistic, serializable transactions.

A transaction reads from a view, remembers every key and range it read, and commits only if none of
them has changed since. Nothing is locked while it runs.

Invariants:
    1. What was read under the view is, at the commit, still what a read would give: same keys, same
       versions. So the transaction could have run in one instant, at its commit. The passing of an
       expiry does not count as a change.
    2. The check and the commit happen under one lock.

Source: backward validation (Kung and Robinson, 1981). Locks were rejected: a transaction may
span minutes of waiting for something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from types import TracebackType
from typing import Any, Literal, Self, overload

from walkv.engine.catalog import ReadPoint
from walkv.engine.core import Engine
from walkv.engine.memtable import Entry, Memtable
from walkv.engine.merge import Chunk, Run, merge
from walkv.engine.ranges import NO_RANGES
from walkv.engine.reads import ReadSide
from walkv.engine.store.batch import Operations
from walkv.engine.store.common import (
    Buffer,
    SyncChoice,
    as_key,
    check_expected,
    check_limit,
    key_range,
    shown,
)
from walkv.errors import ConflictError

_ALWAYS = (1 << 63) - 1


class Overlay(ReadPoint):
    """A read point with a transaction's own writes on top."""

    __slots__ = ("_base", "_own")

    def __init__(self, base: ReadPoint, own: Memtable) -> None:
        super().__init__(base.sources, base.ranges, base.sequence, base.pin)
        self._base = base
        self._own = own

    def chunks(
        self,
        start: bytes,
        stop: bytes | None,
        *,
        reverse: bool = False,
        cached_only: bool = False,
    ) -> Iterator[Chunk]:
        own = self._own.chunks(start, stop, sequence=_ALWAYS, reverse=reverse)
        base = self._base.chunks(start, stop, reverse=reverse, cached_only=cached_only)
        hidden = self._own.ranges.flat(start, stop)
        return merge([Run(own, hidden), Run(base, NO_RANGES)], reverse=reverse)


class _Walked:
    """How far a scan has come, at any moment: only what was looked at counts as read."""

    __slots__ = ("ended", "high", "last", "low", "reverse")

    def __init__(self, low: bytes, high: bytes | None, reverse: bool) -> None:
        self.low = low
        self.high = high
        self.reverse = reverse
        self.last: bytes | None = None
        self.ended = False

    def stretch(self) -> tuple[bytes, bytes | None]:
        """The keys walked over, as ``start <= key < stop``; empty if none."""
        if self.ended:
            return self.low, self.high
        if self.last is None:
            return self.low, self.low
        return (self.last, self.high) if self.reverse else (self.low, self.last + b"\0")


class Transaction(Operations):
    """Reads, and writes that commit only if what was read has not changed.

    Sees its own writes. As a context manager it commits on leaving, and writes nothing if the block
    raised. Not thread-safe.
    """

    def __init__(self, engine: Engine, sync: SyncChoice) -> None:
        super().__init__(engine.now_ms)
        self._engine = engine
        self._sync = sync
        self._point = engine.pin()
        self._own = Memtable()
        self._read_versions: dict[bytes, int | None] = {}
        self._walks: list[_Walked] = []

    # -- reads -----------------------------------------------------------------------------------

    def get(self, key: Buffer, default: Any = None) -> Any:
        """The value of a key, or ``default``; the key must not change before the commit."""
        value, _ = self._read(as_key(key))
        return default if value is None else value

    def get_versioned(self, key: Buffer) -> tuple[bytes, int] | tuple[None, None]:
        """Value and version of a key; a version of 0 means this transaction wrote it itself."""
        return self._read(as_key(key))  # type: ignore[return-value]  # both or neither are None

    def get_many(self, keys: Iterable[Buffer]) -> list[bytes | None]:
        """Values in the order of the keys, None for those that are absent."""
        return [self.get(key) for key in keys]

    def _read(self, key: bytes) -> tuple[bytes | None, int | None]:
        self._check(0)
        own = self._own.get(key, _ALWAYS)
        if own is not None:
            live = self._engine.live(own)
            return (None, None) if live is None else (live[1], 0)
        if self._own.ranges and self._own.ranges.covers(key):
            return None, None
        entry = self._point.entry(key)
        self._read_versions.setdefault(key, _version(entry))
        entry = self._engine.live(entry)
        return (None, None) if entry is None else (entry[1], entry[0])

    def __getitem__(self, key: Buffer) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value  # type: ignore[no-any-return]  # live values are bytes

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
        """Entries in key order, own writes included; see ``Store.scan``.

        The stretch of keys that was walked over must not change before the commit.
        """
        low, high = key_range(prefix, start, stop)
        check_limit(limit)
        self._check(0)
        overlay = Overlay(self._point, self._own)
        entries = self._engine.scan(overlay, low, high, reverse=reverse, limit=limit)
        walked = _Walked(low, high, reverse)
        self._walks.append(walked)
        return self._walk(entries, walked, limit, keys_only)

    def _walk(
        self, entries: Iterator[Any], walked: _Walked, limit: int | None, keys_only: bool
    ) -> Iterator[Any]:
        seen = 0
        for key, value in entries:
            seen += 1
            walked.last = key
            yield key if keys_only else (key, value)
        walked.ended = limit is None or seen < limit

    def count(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
    ) -> int:
        """How many keys there are in a range, own writes included."""
        return sum(1 for _ in self.scan(prefix, start=start, stop=stop, keys_only=True))

    # -- writes ----------------------------------------------------------------------------------

    def put(self, key: Buffer, value: Buffer, *, ttl_seconds: float | None = None) -> None:
        """Set a key when the transaction commits."""
        super().put(key, value, ttl_seconds=ttl_seconds)
        self._apply_own()

    def delete(self, key: Buffer) -> None:
        """Remove a key when the transaction commits."""
        super().delete(key)
        self._apply_own()

    def delete_range(
        self,
        prefix: Buffer | None = None,
        *,
        start: Buffer | None = None,
        stop: Buffer | None = None,
    ) -> None:
        """Remove a range of keys when the transaction commits."""
        before = len(self)
        super().delete_range(prefix, start=start, stop=stop)
        if len(self) > before:
            self._apply_own()

    def _apply_own(self) -> None:
        self._own.prepare(self._operations[-2:], len(self)).publish(self._own)

    # -- commit ----------------------------------------------------------------------------------

    def commit(self) -> int | None:
        """Check what was read, and commit.

        Returns:
            The sequence of the last operation; None if nothing was to be written.
        Raises:
            ConflictError: something that was read has changed; nothing was written. Begin again.
        Durability: as the transaction's sync policy, or the store's, says.
        """
        operations = self._take()
        try:
            if not operations:
                return None
            return self._engine.commit(operations, self._sync, self._validate)
        finally:
            self._point.release()

    def _validate(self) -> None:
        # The commit lock is held.
        engine, point = self._engine, self._point
        if engine.sequence == point.sequence:
            return
        for key, version in self._read_versions.items():
            check_expected(key, version, _version(engine.newest_entry(key)))
        for walked in self._walks:
            start, stop = walked.stretch()
            changed = self._changed_key(start, stop)
            if changed is not None:
                raise ConflictError(
                    f"the range from {shown(start)} that this transaction read has changed at "
                    f"{shown(changed)}; begin again",
                    key=changed,
                )

    def _changed_key(self, start: bytes, stop: bytes | None) -> bytes | None:
        engine, point = self._engine, self._point
        if stop is not None and start >= stop:
            return None
        memtable = engine.catalog.sources.memtable
        if memtable is point.sources.memtable:
            return memtable.changed_since(start, stop, point.sequence)
        # The memtable was frozen meanwhile: compare the range then and now.
        now = engine.point_in_commit()
        try:
            then = _versions(engine, point, start, stop)
            for before, after in zip_longest(then, _versions(engine, now, start, stop)):
                if before != after:
                    return (before or after)[0]
            return None
        finally:
            now.release()

    def discard(self) -> None:
        """Forget the transaction; nothing is written."""
        super().discard()
        self._point.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.discard()
        elif not self._done:
            self.commit()


def _version(entry: Entry | None) -> int | None:
    """What must not change: writes do, and the mere passing of an expiry does not."""
    return None if entry is None or entry[1] is None else entry[0]


def _versions(
    engine: ReadSide, point: ReadPoint, start: bytes, stop: bytes | None
) -> Iterator[tuple[bytes, int]]:
    for keys, _ in engine.pages(point, start, stop):
        for key in keys:
            entry = point.entry(key)
            yield key, entry[0] if entry else 0
