"""Several sorted runs -> one, by chunks.

A *run* is anything that gives its entries in key order as chunks: a memtable, a snapshot. Runs are
given newest first; where two hold a key, the newest wins.

Invariants:
    1. Keys in a chunk ascend, also when chunks come in descending order (``reverse``).
    2. Every key appears once in the output.
    3. A run's deleted ranges hide entries of the runs after it, never its own.

Source: a heap over single entries (LevelDB's merging iterator) was rejected: in Python it costs
about 1 us an entry, where updating a dict and sorting a chunk costs a fifth of that, and a stretch
that only one run has is passed through as it is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from walkv.engine.ranges import NO_RANGES, RangeSet


class Chunk(NamedTuple):
    """Neighbouring entries in key order.

    Attributes:
        keys: ascending.
        items: one an entry; ``batch.Item``, or whatever else the runs agree on.
        plain: every item is ``bytes``: no deletion, no expiry.
    """

    keys: Sequence[bytes]
    items: Sequence[Any]
    plain: bool


class Run(NamedTuple):
    """The chunks of one source, and the ranges it hides in older ones."""

    chunks: Iterator[Chunk]
    ranges: RangeSet


class _Cursor:
    """A run's current chunk, with what newer runs hide already taken out.

    What is left of it is ``keys[low:high]``.
    """

    __slots__ = ("_chunks", "_hidden", "high", "items", "keys", "low", "plain")

    def __init__(self, chunks: Iterator[Chunk], hidden: RangeSet) -> None:
        self._chunks = chunks
        self._hidden = hidden
        self.keys: Sequence[bytes] = ()
        self.items: Sequence[Any] = ()
        self.plain = True
        self.low = self.high = 0

    def advance(self) -> None:
        """Load the next chunk that has entries; nothing is left at the end."""
        for keys, items, plain in self._chunks:
            if self._hidden and keys and self._hidden.touches(keys[0], keys[-1]):
                covers = self._hidden.covers
                kept = [(k, i) for k, i in zip(keys, items, strict=True) if not covers(k)]
                keys, items = [k for k, _ in kept], [i for _, i in kept]
            if keys:
                self.keys, self.items, self.plain = keys, items, plain
                self.low, self.high = 0, len(keys)
                return
        self.low = self.high = 0

    def take(self, low: int, high: int) -> Chunk:
        return Chunk(self.keys[low:high], self.items[low:high], self.plain)


def merge(runs: list[Run], *, reverse: bool = False) -> Iterator[Chunk]:
    """The entries of all runs, newest first in ``runs``, as chunks in key order.

    Cost: O(n log chunk) for stretches that several runs share, O(chunks) for the rest. Memory: one
    chunk a run.
    """
    cursors: list[_Cursor] = []
    hidden = NO_RANGES
    for run in runs:
        cursor = _Cursor(run.chunks, hidden)
        cursor.advance()
        if cursor.high:
            cursors.append(cursor)
        if run.ranges:
            hidden = hidden.union(run.ranges)
    while len(cursors) > 1:
        yield _take_backward(cursors) if reverse else _take_forward(cursors)
        cursors = [cursor for cursor in cursors if cursor.high > cursor.low]
    for cursor in cursors:
        yield cursor.take(cursor.low, cursor.high)
        cursor.advance()
        while cursor.high:
            yield Chunk(cursor.keys, cursor.items, cursor.plain)
            cursor.advance()


def _take_forward(cursors: list[_Cursor]) -> Chunk:
    # Up to the smallest last key every run's entries are in memory.
    bound = min([cursor.keys[cursor.high - 1] for cursor in cursors])
    parts = []
    for cursor in cursors:
        low, high = cursor.low, cursor.high
        cut = bisect_right(cursor.keys, bound, low, high)
        if cut > low:
            parts.append(cursor.take(low, cut))
            cursor.low = cut
            if cut == high:
                cursor.advance()
    return _combine(parts)


def _take_backward(cursors: list[_Cursor]) -> Chunk:
    bound = max([cursor.keys[cursor.low] for cursor in cursors])
    parts = []
    for cursor in cursors:
        low, high = cursor.low, cursor.high
        cut = bisect_left(cursor.keys, bound, low, high)
        if cut < high:
            parts.append(cursor.take(cut, high))
            cursor.high = cut
            if cut == low:
                cursor.advance()
    return _combine(parts)


def _combine(parts: list[Chunk]) -> Chunk:
    if len(parts) == 1:
        return parts[0]
    merged: dict[bytes, Any] = {}
    for part in reversed(parts):
        merged.update(zip(part.keys, part.items, strict=True))
    keys = sorted(merged)
    return Chunk(keys, [merged[key] for key in keys], all(part.plain for part in parts))
