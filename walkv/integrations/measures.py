"""What monitoring is told of a store: one table, from which every exporter takes its names.

A name is words with dots between them. OpenTelemetry gets ``walkv.log.written`` in ``By``;
Prometheus gets ``walkv_log_written_bytes_total``.

Invariants:
    1. A measure that was released keeps its name, unit and meaning: dashboards are built on them.
    2. A store that was closed gives nothing, and one that has failed gives its health.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple

from walkv.agent import AgentStore, AsyncAgentStore
from walkv.engine.store import AsyncStore, Store
from walkv.engine.watch import Stats
from walkv.errors import ClosedError, StoreFailedError

Source = Store | AsyncStore | AgentStore | AsyncAgentStore
"""What can be watched: each of them stands for the store below it."""

HEALTH: Final = ("ok", "degraded", "failed")
"""Every status that ``store.health()`` may give."""


class Kind(Enum):
    """How a measure moves: only up, up and down, or as a spread of values."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Measure(NamedTuple):
    """One thing that is told.

    Attributes:
        unit: "seconds", "bytes", or what is counted.
        text: what it is, in a sentence without its full stop.
        read: gives a number, or a ``walkv.Histogram`` for a histogram; None if it is not known.
    """

    name: str
    kind: Kind
    unit: str
    text: str
    read: Callable[[Stats], Any]


def _field(name: str, kind: Kind, unit: str, text: str, field: str) -> Measure:
    return Measure(name, kind, unit, text, lambda stats: getattr(stats, field))


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

MEASURES: Final = (
    _field("commits", _C, "commits", "Commits since the store was opened", "commit_count"),
    _field("log.written", _C, "bytes", "Bytes written to the log", "written_bytes"),
    _field("log.syncs", _C, "syncs", "Syncs of the log", "sync_count"),
    _field("flushes", _C, "flushes", "Memtables written out as snapshots", "flush_count"),
    _field("flushed", _C, "bytes", "Bytes of snapshots that flushes wrote", "flushed_bytes"),
    _field("merges", _C, "merges", "Merges of snapshots", "merge_count"),
    _field("merged", _C, "bytes", "Bytes of snapshots that merges wrote", "merged_bytes"),
    _field("cache.hits", _C, "pages", "Pages found in the block cache", "cache_hits"),
    _field("cache.misses", _C, "pages", "Pages read from disk", "cache_misses"),
    _field("cache.evictions", _C, "pages", "Pages dropped for others", "cache_evictions"),
    _field("log.sync.duration", _H, "seconds", "How long a sync of the log took", "sync_seconds"),
    _field("log.group.size", _H, "commits", "Commits that one sync covered", "group_sizes"),
    _field(
        "stall.duration",
        _H,
        "seconds",
        "How long a commit waited for room, of a millisecond or more",
        "stall_seconds",
    ),
    _field("flush.duration", _H, "seconds", "How long a flush took", "flush_seconds"),
    _field("merge.duration", _H, "seconds", "How long a merge took", "merge_seconds"),
    _field("uptime", _G, "seconds", "Since the store was opened", "uptime_seconds"),
    _field("last.sequence", _G, "operations", "Sequence of the last operation", "last_sequence"),
    _field("memtable.entries", _G, "entries", "Unsettled writes", "memtable_entries"),
    _field("memtable.used", _G, "bytes", "Memory of unsettled writes", "memtable_bytes"),
    _field("memtable.budget", _G, "bytes", "What they may take", "memtable_budget_bytes"),
    _field("cache.used", _G, "bytes", "Memory of the block cache", "cache_bytes"),
    _field("cache.budget", _G, "bytes", "What it may take", "cache_budget_bytes"),
    _field("cache.pages", _G, "pages", "Pages in the block cache", "cache_pages"),
    _field("snapshots", _G, "files", "Compacted files", "snapshot_count"),
    _field(
        "snapshot.entries", _G, "entries", "Entries in them, replaced ones too", "snapshot_entries"
    ),
    _field(
        "snapshot.tombstones", _G, "entries", "Deletions among those entries", "tombstone_count"
    ),
    _field("snapshot.used", _G, "bytes", "Disk space of snapshots", "snapshot_bytes"),
    _field("log.segments", _G, "files", "Unsettled segments of the log", "segment_count"),
    _field("log.used", _G, "bytes", "Disk space of unsettled segments", "log_bytes"),
    _field("log.unsynced", _G, "bytes", "Bytes of the log not yet synced", "unsynced_bytes"),
    _field(
        "log.kept.segments", _G, "files", "Settled segments that are kept", "kept_segment_count"
    ),
    _field("log.kept", _G, "bytes", "Disk space of kept segments", "kept_bytes"),
    _field(
        "disk.used", _G, "bytes", "Disk space of snapshots and log, with what is kept", "disk_bytes"
    ),
    _field("disk.free", _G, "bytes", "Free space of the disk", "free_bytes"),
    _field("disk.floor", _G, "bytes", "Free space below which puts are refused", "min_free_bytes"),
    Measure(
        "background.failing",
        _G,
        "",
        "1 if the last flush or merge failed",
        lambda stats: int(bool(stats.background_error)),
    ),
)
"""In the order in which they are shown."""


def store_of(source: Source) -> Store:
    """The store below something, as threads see it.

    Raises:
        TypeError: it is none of those in ``Source``.
        ClosedError: an ``AsyncAgentStore`` that is not open yet.
    """
    found = source.store if isinstance(source, AgentStore | AsyncAgentStore) else source
    if isinstance(found, AsyncStore):
        found = found.as_sync()
    if not isinstance(found, Store):
        raise TypeError(
            "what is watched is an open walkv store or agent, not a "
            f"{type(source).__name__}; open it first"
        )
    return found


def stats_of(store: Store) -> Stats | None:
    """The numbers of a store; None if it was closed, has failed, or its files cannot be seen."""
    try:
        return None if store.closed else store.stats()
    except (ClosedError, StoreFailedError, OSError):
        return None


def status_of(store: Store) -> str | None:
    """One of ``HEALTH``; None if the store was closed."""
    return None if store.closed else store.health().status
