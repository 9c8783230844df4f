"""Which snapshots to merge, and when.

Source: size-tiered merging with a bound on space, as RocksDB's universal compaction; but what is
dead is estimated from a sample, where RocksDB goes by sizes, so that data that replaces nothing is
not rewritten. Levels were rejected: they rewrite more, and one program's store is a few files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from walkv import limits
from walkv.engine.snapshot import SnapshotReader

DEAD_RATIO: Final = 0.3
"""Everything is merged once this share of all entries is deleted or replaced. Where entries are of
like sizes, a store then takes at most 1 / (1 - 0.3) times the space of what is alive in it."""

SAMPLE_KEYS: Final = 64
"""So many keys of a snapshot are looked up in older ones to learn how much of it replaces them."""

MERGE_FIRST: Final = 16
"""From so many snapshots on a merge that is due goes before a flush; writers may have to wait."""

TIER_COUNT: Final = 4
"""So many of the newest snapshots are merged into one, or more if the oldest of them is not larger
than all newer ones together: what is rewritten at least doubles each time."""


def pick(sizes: list[int], entry_count: int, dead_count: int) -> int:
    """How many of the newest snapshots to merge now; 0 for none.

    Args:
        sizes: bytes of each snapshot, newest first.
        entry_count: entries in all of them.
        dead_count: about how many of those are tombstones, replaced, or under a deleted range.
    """
    if dead_count > entry_count * DEAD_RATIO or len(sizes) >= limits.MAX_SNAPSHOTS:
        return len(sizes)
    total = picked = 0
    for count, size in enumerate(sizes, 1):
        if count >= TIER_COUNT and size <= total:
            picked = count
        total += size
    return picked


def due(snapshots: Sequence[SnapshotReader], pause: Callable[[], None]) -> int:
    """As ``pick``, for snapshots, newest first.

    Args:
        pause: called between two look-ups.
    Cost: for each new snapshot some look-ups in all older ones.
    """
    entry_count = sum(s.summary.entry_count for s in snapshots)
    dead_count = sum(s.summary.tombstone_count for s in snapshots)
    for number, newer in enumerate(snapshots):
        older = snapshots[number + 1 :]
        if newer.ranges:
            dead_count += sum(s.covered_count(newer.ranges) for s in older)
        if newer.replaced_share is None:
            newer.replaced_share = _replaced_share(newer, older, pause)
        dead_count += int(newer.summary.entry_count * newer.replaced_share)
    return pick([s.summary.size_bytes for s in snapshots], entry_count, dead_count)


def _replaced_share(
    newer: SnapshotReader, older: Sequence[SnapshotReader], pause: Callable[[], None]
) -> float:
    """About which share of a snapshot's entries replace older ones."""
    sample = newer.sample(SAMPLE_KEYS) if older else []
    replaced_count = 0
    for key in sample:
        replaced_count += any(snapshot.find(key) is not None for snapshot in older)
        pause()
    return replaced_count / len(sample) if sample else 0.0
