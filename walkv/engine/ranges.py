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

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
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

    def union(self, other: RangeSet) -> RangeSet:
        """All intervals of both."""
        small, large = sorted((self, other), key=len)
        for start, stop in small:
            large = large.adding(start, stop)
        return large


def _later(one: bytes | None, other: bytes | None) -> bytes | None:
    if one is None or other is None:
        return None
    return max(one, other)


NO_RANGES: Final = RangeSet()


def prefix_stop(prefix: bytes) -> bytes | None:
    """The first key after all keys with a prefix, or None where there is none (b"", b"\\xff")."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes((stripped[-1] + 1,))
