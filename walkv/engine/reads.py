"""The read side of an engine: look-ups, scans and views over the catalog's sources.

Writers (``core``) and read-only followers (``follower``) share it.

Invariants:
    1. A read sees whole batches: it waits out the moment in which a batch of several operations
       becomes visible.
    2. A scan or view sees the store at the moment it was begun, whatever happens meanwhile.
    3. An entry is absent from the moment its expiry has passed, by the wall clock.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from walkv import limits
from walkv.engine.batch import Item
from walkv.engine.catalog import Catalog, Pin, ReadPoint
from walkv.engine.memtable import NO_VIEW, Entry, Memtable
from walkv.engine.ranges import NONE_GROWN
from walkv.engine.snapshot import UNREAD, BlockCache
from walkv.engine.vfs import FileSystem
from walkv.errors import ClosedError, StoreFailedError, WalkvError, WouldBlockError

QUICK_BYTES: Final = 64 * limits.KIB
"""So many bytes of values are read in no time."""

NEEDS_READ: Final = UNREAD
"""What ``get_cached`` returns where the answer is not in memory."""


class ReadSide:
    """Reads; see the module.

    Attributes:
        path: the store's directory, absolute.
    """

    _catalog: Catalog
    _cache: BlockCache
    _fs: FileSystem
    _stop: Callable[[], WalkvError] | None
    _sequence: int
    path: str

    def __init__(self) -> None:
        self.commit_lock = threading.Lock()
        self._stop = None
        self._applying = False
        self._released: deque[weakref.ref[Pin]] = deque()
        self._pinned: dict[weakref.ref[Pin], Memtable] = {}

    def check(self) -> None:
        """Raise if the store is closed, has failed, or belongs to another process."""
        if self._stop is not None:
            raise self._stop()

    def _refuse_closed(self) -> WalkvError:
        return ClosedError(f"{self.path}: this store was closed; open it again to use it")

    def _refuse_forked(self) -> WalkvError:
        return StoreFailedError(
            f"{self.path}: this store was opened before the process forked, and belongs to the "
            "parent; open stores in the child, after the fork, or use the 'spawn' start method"
        )

    @property
    def closed(self) -> bool:
        return self._stop == self._refuse_closed

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    @property
    def cache(self) -> BlockCache:
        return self._cache

    @property
    def fs(self) -> FileSystem:
        return self._fs

    @property
    def sequence(self) -> int:
        """The sequence of the last operation committed."""
        return self._sequence

    # Hot.
    def get(self, key: bytes) -> bytes | None:
        if self._stop is not None:
            raise self._stop()
        if self._applying:
            self._wait_for_batch()
        sources = self._catalog.sources
        memtable = sources.memtable
        # Ranges first: a batch that deletes a range and puts a key of it changes the table first.
        ranges = memtable.ranges
        entry = memtable.table.get(key)
        if entry is not None:
            if entry[2] and entry[2] <= self.now_ms():
                return None
            return entry[1]
        if ranges is not NONE_GROWN and ranges.covers(key):
            return None
        item = sources.next_hot.get(key)
        if type(item) is bytes:
            return item
        item = sources.older_item(key)
        if type(item) is list:
            return self._unexpired(item)
        return item  # type: ignore[no-any-return]  # an item that is no list is bytes or None

    def get_cached(self, key: bytes) -> Any:
        """As ``get``, but ``NEEDS_READ`` where the answer takes a read of a file."""
        if self._stop is not None:
            raise self._stop()
        if self._applying:
            return NEEDS_READ
        sources = self._catalog.sources
        memtable = sources.memtable
        ranges = memtable.ranges
        entry = memtable.table.get(key)
        if entry is not None:
            item: Item = [entry[2], entry[1]] if entry[2] else entry[1]
        elif ranges is not NONE_GROWN and ranges.covers(key):
            item = None
        else:
            item = sources.older_item(key, True)
        return self._unexpired(item) if type(item) is list else item

    def _wait_for_batch(self) -> None:
        with self.commit_lock:
            pass

    def _unexpired(self, item: list[Any]) -> bytes | None:
        expiry_ms, value = item
        return value if expiry_ms > self.now_ms() else None

    def now_ms(self) -> int:
        return self._fs.wall_time_ns() // 1_000_000

    def current_entry(self, key: bytes) -> Entry | None:
        """The live entry of a key, or None. Right also while the commit lock is held."""
        return self.live(self.newest_entry(key))

    def entry_in_memory(self, key: bytes) -> Entry | None:
        """As ``entry``, of a key that a memtable knows.

        Raises:
            WouldBlockError: none does, or a batch is just becoming visible.
        """
        self.check()
        sources = self._catalog.sources
        if self._applying:
            raise WouldBlockError
        for memtable in (sources.memtable, *(frozen.memtable for frozen in sources.frozen)):
            ranges = memtable.ranges
            entry = memtable.table.get(key)
            if entry is not None:
                return self.live(entry)
            if ranges is not NONE_GROWN and ranges.covers(key):
                return None
        raise WouldBlockError

    def newest_entry(self, key: bytes) -> Entry | None:
        """The newest entry of a key, tombstones and what has expired included."""
        sources = self._catalog.sources
        memtable = sources.memtable
        ranges = memtable.ranges
        entry = memtable.table.get(key)
        if entry is None:
            if ranges is not NONE_GROWN and ranges.covers(key):
                return None
            entry = sources.older_entry(key)
        return entry

    def live(self, entry: Entry | None) -> Entry | None:
        """The entry, unless it is a tombstone or has expired."""
        if entry is None or entry[1] is None:
            return None
        if entry[2] and entry[2] <= self.now_ms():
            return None
        return entry

    def entry(self, key: bytes) -> Entry | None:
        """The live entry of a key, or None."""
        self.check()
        if self._applying:
            self._wait_for_batch()
        return self.current_entry(key)

    def pin(self) -> ReadPoint:
        """The store as it is now, to be read in peace."""
        with self.commit_lock:
            self.check()
            return self._pin()

    def pin_at_once(self) -> ReadPoint:
        """As ``pin``; raises ``WouldBlockError`` if that had to wait."""
        with self.commit_lock_at_once():
            self.check()
            return self._pin()

    @contextmanager
    def commit_lock_at_once(self) -> Iterator[None]:
        """Hold the commit lock; raises ``WouldBlockError`` if that had to wait."""
        if not self.commit_lock.acquire(blocking=False):
            raise WouldBlockError
        try:
            yield
        finally:
            self.commit_lock.release()

    def _pin(self) -> ReadPoint:
        self._drain_released()
        sources = self._catalog.sources
        memtable = sources.memtable
        pin = Pin()
        # When the pin goes, its weak reference is appended: C code, which takes no lock and which
        # no signal handler interrupts. It runs wherever the last reference happens to be dropped.
        self._pinned[weakref.ref(pin, self._released.append)] = memtable
        memtable.newest_view = self._sequence
        return ReadPoint(sources, memtable.ranges, self._sequence, pin)

    def _drain_released(self) -> None:
        # The commit lock is held.
        while self._released:
            memtable = self._pinned.pop(self._released.popleft(), None)
            if memtable is not None and not any(memtable is m for m in self._pinned.values()):
                memtable.newest_view = NO_VIEW

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """Values of several keys, all of one moment."""
        point = self.pin()
        try:
            return self.get_at(point, keys)
        finally:
            point.release()

    # Hot.
    def get_at(self, point: ReadPoint, keys: Iterable[bytes]) -> list[bytes | None]:
        """Values of keys as of a read point."""
        found = []
        for key in keys:
            item = point.item(key)
            found.append(self._unexpired(item) if type(item) is list else item)
        return found

    def scan(
        self,
        point: ReadPoint,
        start: bytes,
        stop: bytes | None,
        *,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
        quick: bool = False,
    ) -> Iterator[Any]:
        """Pairs of key and value (or keys) in order.

        The scan holds the point's pin: it goes on unharmed when the point is released.

        Raises:
            WouldBlockError: ``quick``, and, while it is gone through: what comes next is not in
                memory, or it is much.
        """
        pages = self.pages(point, start, stop, reverse=reverse, quick=quick)
        return self._scan(pages, point.pin, limit, keys_only)

    def _scan(
        self,
        pages: Iterator[tuple[Sequence[bytes], Sequence[bytes]]],
        _pin: Pin | None,
        limit: int | None,
        keys_only: bool,
    ) -> Iterator[Any]:
        left = limit
        for keys, items in pages:
            if left is not None:
                if left < len(keys):
                    keys, items = keys[:left], items[:left]
                left -= len(keys)
            if keys_only:
                yield from keys
            else:
                yield from zip(keys, items, strict=True)
            if left is not None and left <= 0:
                return

    def pages(
        self,
        point: ReadPoint,
        start: bytes,
        stop: bytes | None,
        *,
        reverse: bool = False,
        quick: bool = False,
    ) -> Iterator[tuple[Sequence[bytes], Sequence[bytes]]]:
        """Live keys and values in order, some at a time."""
        if stop is not None and start >= stop:
            return
        left_bytes = QUICK_BYTES
        for keys, items, plain in point.chunks(start, stop, reverse=reverse, cached_only=quick):
            if self._stop is not None:
                raise self._stop()
            if not plain:
                keys, items = self._living(keys, items)
            if quick:
                left_bytes -= sum(map(len, items))
                if left_bytes < 0:
                    raise WouldBlockError
            if reverse:
                keys, items = keys[::-1], items[::-1]
            if keys:
                yield keys, items

    def _living(
        self, keys: Sequence[bytes], items: Sequence[Item]
    ) -> tuple[Sequence[bytes], Sequence[bytes]]:
        now_ms = self.now_ms()
        living, values = [], []
        for key, item in zip(keys, items, strict=True):
            if type(item) is list:
                if item[0] <= now_ms:
                    continue
                item = item[1]
            if item is not None:
                living.append(key)
                values.append(item)
        return living, values

    def count(self, point: ReadPoint, start: bytes, stop: bytes | None) -> int:
        return sum(len(keys) for keys, _ in self.pages(point, start, stop))
