"""What a store did in an interval: the difference of its numbers at two moments."""

from __future__ import annotations

from typing import NamedTuple

from walkv.engine.meter import Histogram
from walkv.engine.watch import Stats


class Rates(NamedTuple):
    """What a store did in an interval.

    Attributes:
        commits, operations, written_bytes, syncs, flushes, flushed_bytes, merges, merged_bytes,
            evictions: a second.
        sync_seconds: latencies of the syncs of the log.
        group_sizes: commits that one sync covered.
        stall_seconds: times that a commit waited for room.
        cache_hit_ratio: of look-ups of pages, 0 to 1; None if there were none.
    """

    interval_seconds: float
    commits: float
    operations: float
    written_bytes: float
    syncs: float
    sync_seconds: Histogram
    group_sizes: Histogram
    stall_seconds: Histogram
    cache_hit_ratio: float | None
    flushes: float
    flushed_bytes: float
    merges: float
    merged_bytes: float
    evictions: float


def rates(before: Stats, after: Stats, interval_seconds: float) -> Rates:
    """What one opening of a store did between two moments.

    Args:
        interval_seconds: above 0, between the two.
    """

    def per_second(name: str) -> float:
        return float(getattr(after, name) - getattr(before, name)) / interval_seconds

    hits = after.cache_hits - before.cache_hits
    lookups = hits + after.cache_misses - before.cache_misses
    return Rates(
        interval_seconds,
        per_second("commit_count"),
        per_second("last_sequence"),
        per_second("written_bytes"),
        per_second("sync_count"),
        after.sync_seconds.since(before.sync_seconds),
        after.group_sizes.since(before.group_sizes),
        after.stall_seconds.since(before.stall_seconds),
        hits / lookups if lookups > 0 else None,
        per_second("flush_count"),
        per_second("flushed_bytes"),
        per_second("merge_count"),
        per_second("merged_bytes"),
        per_second("cache_evictions"),
    )
