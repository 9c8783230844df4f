"""The in-memory index of unsettled writes: ordered on demand, multi-version while views need it.

A look-up is one dict access. Order is built only when a scan asks for it, from the keys added
since the last scan, so writes do not pay for it.

Invariants:
    1. An entry is replaced, never changed: a reader that holds one may go on reading it.
    2. A version of a key is kept while an open view may need it: the newest one at or below the
       view's sequence. Without views a key has one version.
    3. Keys are never removed from the table (a delete is an entry), so the table's insertion order
       tells which keys are new.
    4. ``bytes_used`` counts every write, overwrites too: it bounds both the memory and the log.
    5. Once frozen, a memtable is never written again.

Source: LevelDB's skip list was rejected: in Python every insert would pay microseconds for order
that point look-ups do not need. ``sortedcontainers`` keeps the order once there is one.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import islice
from operator import itemgetter
from typing import Any, Final, NamedTuple

from sortedcontainers import SortedList

from walkv.engine.merge import Chunk
from walkv.engine.ranges import NONE_GROWN, GrowingRanges

Entry = tuple[int, bytes | None, int, Any]
"""(sequence, value or None for a tombstone, expiry_ms or 0, the version before or None)."""

ENTRY_OVERHEAD_BYTES: Final = 256
"""Memory of an entry beyond its key and value: objects, tuple, dict slot (CPython, 64-bit)."""

_SEQUENCE: Final = itemgetter(0)
_EXPIRY: Final = itemgetter(2)

NO_VIEW: Final = -1
_CHUNK_ENTRIES: Final = 256
_FIRST_CHUNK_ENTRIES: Final = 16
"""A scan's chunks grow from here: many scans want a few entries only."""


class Memtable:
    """Unsettled writes. Writers hold the engine's commit lock; readers need no lock.

    Attributes:
        table: key to newest ``Entry``. The engine's hot path writes it directly.
        ranges: ranges deleted in the older sources.
        range_writes: (sequence, start, stop) of each range delete, in order.
        plain: no tombstone and nothing that expires was ever written.
        bytes_used: see invariant 4.
        newest_view: the highest sequence an open view reads at, or ``NO_VIEW``.
    """

    __slots__ = (
        "_order",
        "_order_lock",
        "bytes_used",
        "newest_view",
        "plain",
        "range_writes",
        "ranges",
        "table",
    )

    def __init__(self) -> None:
        self.table: dict[bytes, Entry] = {}
        self.ranges: GrowingRanges = NONE_GROWN
        self.range_writes: list[tuple[int, bytes, bytes | None]] = []
        self.plain = True
        self.bytes_used = 0
        self.newest_view = NO_VIEW
        self._order: Any = SortedList()
        self._order_lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.table)

    def kept_version(self, entry: Entry | None) -> Entry | None:
        """What must stay reachable behind the entry that replaces ``entry``."""
        if entry is None or self.newest_view == NO_VIEW:
            return None
        return entry if entry[0] <= self.newest_view else entry[3]

    def prepare(self, operations: list[Any], first_sequence: int) -> Prepared:
        """What a batch will change. Changes nothing, so that it may still be abandoned.

        Args:
            operations: subjects and items in turn, as in ``batch``.
        Cost: O(operations), and O(keys in range) for a range delete.
        """
        table = self.table
        changes: dict[bytes, Entry] = {}
        ranges = self.ranges
        range_writes: list[tuple[int, bytes, bytes | None]] = []
        sequence = first_sequence
        added_bytes = 0
        keep, plain = self.newest_view != NO_VIEW, self.plain
        for subject, item in zip(operations[::2], operations[1::2], strict=True):
            if type(subject) is bytes:
                older = None
                if keep:
                    earlier = changes.get(subject)
                    older = earlier[3] if earlier else self.kept_version(table.get(subject))
                if type(item) is list:
                    expiry_ms, value = item
                    changes[subject] = (sequence, value, expiry_ms, older)
                    plain = False
                else:
                    value = item
                    changes[subject] = (sequence, value, 0, older)
                added_bytes += len(subject) + ENTRY_OVERHEAD_BYTES
                if value is None:
                    plain = False
                else:
                    added_bytes += len(value)
            else:
                start, stop = subject
                for key in self._covered(changes, start, stop):
                    earlier = changes.get(key)
                    older = earlier[3] if earlier else self.kept_version(table.get(key))
                    changes[key] = (sequence, None, 0, older)
                    plain = False
                    added_bytes += len(key) + ENTRY_OVERHEAD_BYTES
                ranges = ranges.adding(start, stop)
                range_writes.append((sequence, start, stop))
                added_bytes += len(start) + len(stop or b"") + ENTRY_OVERHEAD_BYTES
            sequence += 1
        return Prepared(changes, ranges, range_writes, plain, self.bytes_used + added_bytes)

    def _covered(
        self, changes: dict[bytes, Entry], start: bytes, stop: bytes | None
    ) -> list[bytes]:
        covered = [key for key in changes if start <= key and (stop is None or key < stop)]
        cursor: bytes | None = None
        while keys := self._keys_after(cursor, start, stop):
            covered += keys
            cursor = keys[-1]
        return covered

    def get(self, key: bytes, sequence: int) -> Entry | None:
        """The newest version of a key at or below a sequence, tombstones included."""
        entry = self.table.get(key)
        while entry is not None and entry[0] > sequence:
            entry = entry[3]
        return entry

    def chunks(
        self, start: bytes, stop: bytes | None, *, sequence: int, reverse: bool = False
    ) -> Iterator[Chunk]:
        """Entries with ``start <= key < stop`` as of a sequence; items as in ``batch``.

        Stays right while the table is written: what is added meanwhile has a higher sequence.
        """
        table = self.table
        pages = self._key_pages_backward if reverse else self._key_pages_forward
        for keys in pages(start, stop):
            entries: list[Any] = [table[key] for key in keys]
            if max(map(_SEQUENCE, entries)) > sequence:
                entries = [self.get(key, sequence) for key in keys]
                keys = [key for key, entry in zip(keys, entries, strict=True) if entry]
                entries = [entry for entry in entries if entry]
            items = [entry[1] for entry in entries]
            plain = self.plain or (None not in items and not any(map(_EXPIRY, entries)))
            if not plain:
                items = [[entry[2], entry[1]] if entry[2] else entry[1] for entry in entries]
            if keys:
                yield Chunk(keys, items, plain)

    def changed_since(self, start: bytes, stop: bytes | None, sequence: int) -> bytes | None:
        """A key in the range that was written after a sequence, or None."""
        for written, range_start, range_stop in reversed(self.range_writes):
            if written <= sequence:
                break
            if (range_stop is None or start < range_stop) and (stop is None or range_start < stop):
                return max(start, range_start)
        table = self.table
        for keys in self._key_pages_forward(start, stop):
            for key in keys:
                if table[key][0] > sequence:
                    return key
        return None

    @property
    def unordered_count(self) -> int:
        """How many keys the next scan has to put in order first."""
        return len(self.table) - len(self._order)

    def _key_pages_forward(self, start: bytes, stop: bytes | None) -> Iterator[list[bytes]]:
        cursor: bytes | None = None
        count = _FIRST_CHUNK_ENTRIES
        while keys := self._keys_after(cursor, start, stop, count):
            yield keys
            cursor = keys[-1]
            count = min(4 * count, _CHUNK_ENTRIES)

    def _key_pages_backward(self, start: bytes, stop: bytes | None) -> Iterator[list[bytes]]:
        count = _FIRST_CHUNK_ENTRIES
        while True:
            with self._order_lock:
                self._complete_order()
                below = self._order.irange(start, stop, inclusive=(True, False), reverse=True)
                keys = list(islice(below, count))
            if not keys:
                return
            stop = keys[-1]
            count = min(4 * count, _CHUNK_ENTRIES)
            keys.reverse()
            yield keys

    def _keys_after(
        self, cursor: bytes | None, start: bytes, stop: bytes | None, count: int = _CHUNK_ENTRIES
    ) -> list[bytes]:
        with self._order_lock:
            self._complete_order()
            above = self._order.irange(
                start if cursor is None else cursor, stop, inclusive=(cursor is None, False)
            )
            return list(islice(above, count))

    def _complete_order(self) -> None:
        order, table = self._order, self.table
        while True:
            size = len(table)
            new = size - len(order)
            if not new:
                return
            try:
                keys = list(islice(reversed(table), new))
            except RuntimeError:
                continue
            # The newest keys are the new ones, unless a writer came in between: then look again.
            if len(table) == size:
                break
        try:
            if new * 8 > len(order):
                order.update(keys)
            else:
                for key in keys:
                    order.add(key)
        except BaseException:
            # Ctrl-C in the middle: nobody knows which keys are in. Begin again next time.
            self._order = SortedList()
            raise

    def sorted_chunks(self, pause: Callable[[], None]) -> Iterator[tuple[Chunk, list[int]]]:
        """All entries of a frozen memtable in order, as chunks and the sequences of their entries.

        Sorts in slices of about a thousand keys, calling ``pause`` between them: one sort of the
        whole table would hold the interpreter lock for tens of milliseconds. What is sorted are
        pairs of key and entry, since in a large table each look-up costs several cache misses.
        """
        table = self.table
        sample = sorted(list(table)[:: max(1, len(table) // 1024)])
        pivots = sample[:: 4 if len(table) > 4096 else 1]
        buckets: list[list[tuple[bytes, Entry]]] = [[] for _ in range(len(pivots) + 1)]
        left = iter(table.items())
        while some := list(islice(left, _CHUNK_ENTRIES)):
            for pair in some:
                buckets[bisect_right(pivots, pair[0])].append(pair)
            pause()
        buckets.reverse()
        while buckets:
            pairs = buckets.pop()
            pairs.sort()
            for index in range(0, len(pairs), _CHUNK_ENTRIES):
                part = pairs[index : index + _CHUNK_ENTRIES]
                keys, entries = [key for key, _ in part], [entry for _, entry in part]
                items: list[Any] = [entry[1] for entry in entries]
                plain = self.plain
                if not plain:
                    items = [[entry[2], entry[1]] if entry[2] else entry[1] for entry in entries]
                    plain = all(type(item) is bytes for item in items)
                yield Chunk(keys, items, plain), [entry[0] for entry in entries]
                pause()


class Prepared(NamedTuple):
    """What a batch does to a memtable: ``changes`` and ``range_writes`` are added to it, the rest
    replaces the attributes of the same names."""

    changes: dict[bytes, Entry]
    ranges: GrowingRanges
    range_writes: list[tuple[int, bytes, bytes | None]]
    plain: bool
    bytes_used: int

    def publish(self, memtable: Memtable) -> None:
        """Apply to a memtable that nobody else reads yet."""
        memtable.plain = self.plain
        memtable.table.update(self.changes)
        memtable.ranges = self.ranges
        memtable.range_writes += self.range_writes
        memtable.bytes_used = self.bytes_used
