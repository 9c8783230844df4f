"""What was saved from logs and snapshots -> one sorted run, older never winning over newer.

Invariants:
    1. Of a key the entry with the highest sequence wins; among snapshots that of the newest.
    2. A deleted range of the log hides what has a lower sequence than it, wherever that is. One of
       a snapshot hides entries of older snapshots, as it does in a store.
    3. Memory is bounded: what is saved from logs is sorted on disk once it is more than a memtable
       may have. What comes from an encrypted store is encrypted there, under a key that is nowhere
       else.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from walkv import limits
from walkv.engine.cipher import KEY_BYTES
from walkv.engine.keyring import NO_KEYS, Keyring, Secret
from walkv.engine.memtable import ENTRY_OVERHEAD_BYTES
from walkv.engine.ranges import RangeSet
from walkv.engine.snapshot import BlockCache, SnapshotReader, SnapshotWriter
from walkv.engine.vfs import FileSystem
from walkv.ops.repairing.segments import Commit
from walkv.ops.repairing.snapshots import Entry

_KEY: Final = itemgetter(0)
SLICE: Final = 256
"""Entries that are written at once."""

_NO_STORE: Final = bytes(16)


class LogEntries:
    """Operations of logs, given in the order of their sequences.

    Args:
        scratch: a directory for runs that do not fit into memory.
        encrypted: they are sealed there.
    Attributes:
        deletions: (sequence, start, stop) of each deleted range.
        batch_count, operation_count: added so far.
    """

    def __init__(
        self,
        fs: FileSystem,
        scratch: str,
        most_bytes: int = limits.DEFAULT_MEMTABLE_BYTES,
        *,
        encrypted: bool = False,
    ) -> None:
        self._fs = fs
        self._scratch = scratch
        self._most_bytes = most_bytes
        self._keyring = NO_KEYS
        if encrypted:
            self._keyring = Keyring(Secret(fs.random_bytes(KEY_BYTES)), fs.random_bytes)
            self._keyring.begin(_NO_STORE)
        self._table: dict[bytes, tuple[Any, int]] = {}
        self._used_bytes = 0
        self._spilled: list[SnapshotReader] = []
        self.deletions: list[tuple[int, bytes, bytes | None]] = []
        self.batch_count = 0
        self.operation_count = 0

    def add(self, commit: Commit, wanted: RangeSet | None = None) -> None:
        """Take in a batch, or of its puts and deletes only those of wanted keys."""
        operations = commit.operations
        pairs = zip(operations[::2], operations[1::2], strict=True)
        for sequence, (subject, item) in enumerate(pairs, commit.first_sequence):
            if type(subject) is not bytes:
                self.deletions.append((sequence, *subject))
            elif wanted is None or wanted.covers(subject):
                self._table[subject] = (item, sequence)
                size_bytes = 0 if item is None else len(item if type(item) is bytes else item[1])
                self._used_bytes += len(subject) + size_bytes + ENTRY_OVERHEAD_BYTES
        self.batch_count += 1
        self.operation_count += len(operations) // 2
        if self._used_bytes >= self._most_bytes:
            self._spill()

    def _spill(self) -> None:
        number = len(self._spilled) + 1
        self._fs.make_directory(self._scratch)
        keyring = self._keyring
        writer = SnapshotWriter(self._fs, self._scratch, _NO_STORE, number, keyring=keyring)
        try:
            write(writer, self._sorted())
            writer.finish()
        finally:
            writer.close()
        reader = SnapshotReader(self._fs, writer.path, _NO_STORE, number, BlockCache(0), keyring)
        self._spilled.append(reader)
        self._table, self._used_bytes = {}, 0

    def _sorted(self) -> Iterator[Entry]:
        table = self._table
        return ((key, *table[key]) for key in sorted(table))

    def runs(self) -> list[Iterator[Entry]]:
        """What was taken in, each run in key order."""
        return [self._sorted(), *map(_entries, self._spilled)]


def _entries(reader: SnapshotReader) -> Iterator[Entry]:
    for partition in range(len(reader.partitions())):
        for keys, pairs, _ in reader.partition_chunks(partition):
            for key, (item, sequence) in zip(keys, pairs, strict=True):
                yield key, item, sequence


class Deletions:
    """Up to which sequence a key was deleted by a range. Cost: O(log n) a look-up."""

    def __init__(self, ranges: Iterable[tuple[int, bytes, bytes | None]]) -> None:
        """Cost: O(n log n)."""
        begins = sorted(((start, sequence, stop) for sequence, start, stop in ranges), key=_KEY)
        stops = {stop for _, _, stop in begins if stop is not None}
        self._bounds = sorted({start for start, _, _ in begins} | stops)
        self._sequences: list[int] = []
        open_ranges: list[tuple[int, int, bytes | None]] = []
        at = 0
        for bound in self._bounds:
            while at < len(begins) and begins[at][0] <= bound:
                _, sequence, stop = begins[at]
                heapq.heappush(open_ranges, (-sequence, at, stop))
                at += 1
            while open_ranges and (stop := open_ranges[0][2]) is not None and stop <= bound:
                heapq.heappop(open_ranges)
            self._sequences.append(-open_ranges[0][0] if open_ranges else 0)

    def newest(self, key: bytes) -> int:
        """The highest sequence of a deleted range that has the key; 0 if none has."""
        at = bisect_right(self._bounds, key) - 1
        return self._sequences[at] if at >= 0 else 0


def merged(
    logs: list[Iterator[Entry]],
    snapshots: list[tuple[Iterator[Entry], RangeSet]],
    deletions: Deletions,
) -> Iterator[Entry]:
    """Every key that is there, with its newest version, in order.

    Args:
        logs: runs of operations; tombstones are among their items.
        snapshots: newest first; the entries of each, and what newer ones have deleted from it.
    """
    older = [
        (entry for entry in entries if not hidden.covers(entry[0])) if hidden else entries
        for entries, hidden in snapshots
    ]
    newer = [_ranked(entries) for entries in logs]
    streams = [*newer, *(_ranked(entries, from_log=False) for entries in older)]
    for key, versions in groupby(heapq.merge(*streams, key=_KEY), _KEY):
        item, newest = None, 0
        from_snapshot = False
        for _, version, sequence, from_log in versions:
            # The newest snapshot comes first, and those behind it do not count.
            if sequence > newest and not (from_snapshot and not from_log):
                item, newest = version, sequence
            from_snapshot = from_snapshot or not from_log
        if item is not None and newest > deletions.newest(key):
            yield key, item, newest


def _ranked(
    entries: Iterator[Entry], from_log: bool = True
) -> Iterator[tuple[bytes, Any, int, bool]]:
    return ((key, item, sequence, from_log) for key, item, sequence in entries)


def write(
    writer: SnapshotWriter, entries: Iterator[Entry], step: Callable[[], None] = lambda: None
) -> int:
    """Add entries to a snapshot; returns the highest sequence among them.

    Args:
        step: called now and then.
    """
    highest = 0
    keys: list[bytes] = []
    items: list[Any] = []
    sequences: list[int] = []
    for key, item, sequence in entries:
        keys.append(key)
        items.append(item)
        sequences.append(sequence)
        if len(keys) == SLICE:
            writer.add(keys, items, sequences, plain=False)
            highest = max(highest, *sequences)
            keys, items, sequences = [], [], []
            step()
    if keys:
        writer.add(keys, items, sequences, plain=False)
        highest = max(highest, *sequences)
    return highest
