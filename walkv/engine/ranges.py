"""Deleted key ranges: an immutable, sorted set of half-open intervals of keys.

A delete of a range is kept as its two ends, not as a tombstone per key, so that deleting a million
entries costs one small frame and no memory.

Invariants:
    1. Intervals are sorted, not empty, and neither overlap nor touch.
    2. A set belongs to one memtable or snapshot and hides entries of *older* ones only; within its
       own, later and earlier entries have already been told apart when the delete was applied.
    3. Sets are never changed: readers keep the one they hold.

Source: RocksDB's ``DeleteRange``. Its fragmented range tombstones with sequences were rejected:
invariant 2 makes sequences here unnecessary.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import itemgetter
from typing import Final


class RangeSet:
    """Sorted, disjoint intervals ``start <= key < stop``; a stop of None has no end."""

    __slots__ = ("starts", "stops")

    def __init__(
        self, starts: tuple[bytes, ...] = (), stops: tuple[bytes | None, ...] = ()
    ) -> None:
        self.starts = starts
        self.stops = stops

    def __bool__(self) -> bool:
        return bool(self.starts)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[tuple[bytes, bytes | None]]:
        return zip(self.starts, self.stops, strict=True)

    def covers(self, key: bytes) -> bool:
        """Whether a key is in one of the intervals. Cost: O(log n)."""
        index = bisect_right(self.starts, key) - 1
        if index < 0:
            return False
        stop = self.stops[index]
        return stop is None or key < stop

    def encloses(self, first: bytes, last: bytes) -> bool:
        """Whether one interval holds all keys between ``first`` and ``last``, both included."""
        index = bisect_right(self.starts, first) - 1
        if index < 0:
            return False
        stop = self.stops[index]
        return stop is None or last < stop

    def touches(self, first: bytes, last: bytes) -> bool:
        """Whether any interval holds a key between ``first`` and ``last``, both included."""
        index = bisect_right(self.starts, last) - 1
        if index < 0:
            return False
        stop = self.stops[index]
        return stop is None or first < stop

    def adding(self, start: bytes, stop: bytes | None) -> RangeSet:
        """This set and one interval more. Cost: O(n) to copy."""
        starts, stops = self.starts, self.stops
        low = bisect_left(starts, start)
        if low > 0:
            before = stops[low - 1]
            if before is None or start <= before:
                low -= 1
                start = starts[low]
                stop = _later(stop, before)
        high = low
        while high < len(starts) and (stop is None or starts[high] <= stop):
            stop = _later(stop, stops[high])
            high += 1
        return RangeSet((*starts[:low], start, *starts[high:]), (*stops[:low], stop, *stops[high:]))

    def clipped(self, start: bytes, stop: bytes | None) -> RangeSet:
        """The intervals that reach into ``start <= key < stop``. Cost: O(log n) and those."""
        starts, stops = self.starts, self.stops
        if not starts:
            return self
        low = max(bisect_right(starts, start) - 1, 0)
        high = len(starts) if stop is None else bisect_left(starts, stop)
        return RangeSet(starts[low:high], stops[low:high])

    def union(self, other: RangeSet) -> RangeSet:
        """All intervals of both. Cost: O(n + m), in one sweep."""
        if not other or not self:
            return self or other
        starts: list[bytes] = []
        stops: list[bytes | None] = []
        for start, stop in heapq.merge(self, other, key=_START):
            last = stops[-1] if stops else b""
            if starts and (last is None or start <= last):
                stops[-1] = _later(last, stop)
            else:
                starts.append(start)
                stops.append(stop)
        return RangeSet(tuple(starts), tuple(stops))


class GrowingRanges:
    """A set of ranges that is added to again and again: a large old part and a small new one.

    Never changed, as a ``RangeSet``; adding copies the small part only, most of the time.
    """

    __slots__ = ("_large", "_small")

    def __init__(self, large: RangeSet, small: RangeSet) -> None:
        self._large = large
        self._small = small

    def __bool__(self) -> bool:
        return bool(self._small or self._large)

    def covers(self, key: bytes) -> bool:
        """Whether a key is in one of the intervals. Cost: O(log n)."""
        return self._small.covers(key) or self._large.covers(key)

    def adding(self, start: bytes, stop: bytes | None) -> GrowingRanges:
        """This set and one interval more. Cost: O(sqrt(n)), on average."""
        small = self._small.adding(start, stop)
        if len(small) ** 2 <= len(self._large) + _SMALL_RANGES:
            return GrowingRanges(self._large, small)
        return GrowingRanges(self._large.union(small), NO_RANGES)

    def flat(self, start: bytes = b"", stop: bytes | None = None) -> RangeSet:
        """The intervals that reach into ``start <= key < stop``, as one set."""
        if self is NONE_GROWN:
            return NO_RANGES
        return self._large.clipped(start, stop).union(self._small.clipped(start, stop))


def _later(one: bytes | None, other: bytes | None) -> bytes | None:
    if one is None or other is None:
        return None
    return max(one, other)


NO_RANGES: Final = RangeSet()
NONE_GROWN: Final = GrowingRanges(NO_RANGES, NO_RANGES)
_START: Final = itemgetter(0)
_SMALL_RANGES: Final = 4096


def prefix_stop(prefix: bytes) -> bytes | None:
    """The first key after all keys with a prefix, or None where there is none (b"", b"\\xff")."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes((stripped[-1] + 1,))
