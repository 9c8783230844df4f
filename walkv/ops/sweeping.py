"""Deleting what has expired.

An entry that has expired is absent for readers, but takes its space until the file it is in is
merged; and the engine merges files for what was deleted and replaced in them, of which it knows
without reading. So a sweep deletes what has expired, and the space comes back in the background.
The index entries of a record expire with it, and are swept like any other.

Invariants:
    1. An entry that was written anew meanwhile stays.
    2. Nothing is deleted that a reader could still see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from walkv.engine.store import Store, Transaction

_AT_ONCE: Final = 1_000
"""Entries deleted by one commit, so that others write in between."""

Progress = Callable[[int, int], None]


class Swept(NamedTuple):
    """What a sweep has deleted, or would delete.

    Attributes:
        size_bytes: of keys and values, before compression.
    """

    entry_count: int
    size_bytes: int


def sweep(store: Store, *, dry_run: bool = False, progress: Progress | None = None) -> Swept:
    """Delete every entry that has expired by now.

    Args:
        store: open for writing, unless ``dry_run``; other threads may go on using it.
        dry_run: only count.
        progress: called with entries looked at, and about how many there are.
    Raises:
        ReadOnlyError: the store is open for reading only.
    Cost: reads the store once. A commit for each 1,000 entries: whoever is interrupted calls again.
    """
    total = Swept(0, 0)
    waiting: list[bytes] = []
    for key, size_bytes in _expired(store, progress):
        if dry_run:
            total = Swept(total.entry_count + 1, total.size_bytes + size_bytes)
            continue
        waiting.append(key)
        if len(waiting) >= _AT_ONCE:
            total = _added(total, _delete(store, waiting))
            waiting = []
    if waiting:
        total = _added(total, _delete(store, waiting))
    return total


def _added(one: Swept, other: Swept) -> Swept:
    return Swept(one.entry_count + other.entry_count, one.size_bytes + other.size_bytes)


def _expired(store: Store, progress: Progress | None) -> Iterator[tuple[bytes, int]]:
    engine = store.engine
    stats = store.stats()
    total = stats.memtable_entries + stats.snapshot_entries
    done = 0
    point = engine.pin()
    try:
        for keys, items, plain in point.chunks(b"", None):
            engine.check()
            if not plain:
                now_ms = engine.now_ms()
                for key, item in zip(keys, items, strict=True):
                    if type(item) is list and item[0] <= now_ms:
                        yield key, len(key) + len(item[1])
            done += len(keys)
            if progress is not None:
                progress(min(done, total), total)
    finally:
        point.release()


def _delete(store: Store, expired: list[bytes]) -> Swept:
    engine = store.engine

    def run(tx: Transaction) -> Swept:
        count = size_bytes = 0
        for key in expired:
            if tx.get(key) is not None:
                continue  # written anew
            entry = engine.newest_entry(key)
            if entry is None or entry[1] is None:
                continue  # deleted meanwhile
            tx.delete(key)
            count += 1
            size_bytes += len(key) + len(entry[1])
        return Swept(count, size_bytes)

    return store.transact(run)
