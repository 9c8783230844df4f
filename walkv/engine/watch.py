"""A store in numbers, in the process that has it open and in others; and how it fares."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from walkv import limits
from walkv.engine import files, keep, segment
from walkv.engine.core import Engine
from walkv.engine.follower import Follower
from walkv.engine.keep import KeptLog
from walkv.engine.meter import Histogram
from walkv.engine.recovery import RecoveryReport
from walkv.engine.snapshot import BlockCache
from walkv.engine.vfs import FileSystem
from walkv.errors import CorruptionError, FormatError, WalkvError


@dataclass(frozen=True, slots=True)
class Stats:
    """A store in numbers, at one moment. Counters begin anew with every opening.

    Attributes:
        path: the directory.
        read_only: opened without the right to write.
        sync_policy: as given to ``open``.
        last_sequence: operations ever committed, about: the highest sequence.
        memtable_entries, memtable_bytes: unsettled writes, those being flushed included.
        memtable_budget_bytes: what they may take.
        snapshot_count, snapshot_entries, snapshot_bytes: compacted files; entries that a newer
            file replaces or deletes are counted too.
        tombstone_count: deletions among those entries.
        segment_count, log_bytes: unsettled segments of the log.
        kept_segment_count, kept_bytes: settled segments that are kept; see ``KeepLog``.
        unsynced_bytes: bytes of the log that no sync has covered yet.
        commit_count: batches committed since the store was opened.
        written_bytes: bytes of the log written since then.
        sync_count: syncs of the log since then.
        sync_seconds: how long they took.
        group_sizes: how many commits each of them covered.
        stall_seconds: how long commits waited for room in the memtable, of a millisecond or more.
        cache_bytes, cache_budget_bytes, cache_pages, cache_evictions: the block cache.
        cache_hits, cache_misses: look-ups that needed a data page, and found it there or not. What
            is looked up again and again needs none, and is not counted.
        flush_count, merge_count: finished since the store was opened.
        flush_seconds, merge_seconds: how long they took.
        flushed_bytes, merged_bytes: what they wrote.
        background_error: why the last flush or merge failed; empty if it did not.
        disk_bytes: snapshots and log together, with what is kept.
        free_bytes: free space of the disk; None where that is unknown.
        min_free_bytes: what puts leave of it.
        pid: the process.
        opened_at: when it opened the store, in UTC.
        uptime_seconds: how long ago that was.
        encrypted: what is written is encrypted.
    """

    path: str
    read_only: bool
    sync_policy: str
    last_sequence: int
    memtable_entries: int
    memtable_bytes: int
    memtable_budget_bytes: int
    snapshot_count: int
    snapshot_entries: int
    snapshot_bytes: int
    tombstone_count: int
    segment_count: int
    log_bytes: int
    kept_segment_count: int
    kept_bytes: int
    unsynced_bytes: int
    commit_count: int
    written_bytes: int
    sync_count: int
    sync_seconds: Histogram
    group_sizes: Histogram
    stall_seconds: Histogram
    cache_bytes: int
    cache_budget_bytes: int
    cache_pages: int
    cache_evictions: int
    cache_hits: int
    cache_misses: int
    flush_count: int
    merge_count: int
    flush_seconds: Histogram
    merge_seconds: Histogram
    flushed_bytes: int
    merged_bytes: int
    background_error: str
    disk_bytes: int
    free_bytes: int | None
    min_free_bytes: int
    pid: int
    opened_at: datetime
    uptime_seconds: float
    encrypted: bool


_NOTHING_WRITTEN: Final = {
    "sync_policy": "",
    "memtable_budget_bytes": 0,
    "unsynced_bytes": 0,
    "commit_count": 0,
    "written_bytes": 0,
    "sync_count": 0,
    "sync_seconds": Histogram(),
    "group_sizes": Histogram(),
    "stall_seconds": Histogram(),
    "flush_count": 0,
    "merge_count": 0,
    "flush_seconds": Histogram(),
    "merge_seconds": Histogram(),
    "flushed_bytes": 0,
    "merged_bytes": 0,
    "background_error": "",
    "min_free_bytes": 0,
}
"""What a reader has of what only a writer does."""


def stats(engine: Engine | Follower) -> Stats:
    """Cost: a ``stat`` per segment, and one of the disk."""
    engine.check()
    fs, catalog, cache = engine.fs, engine.catalog, engine.cache
    sources = catalog.sources
    memtables = [sources.memtable, *(f.memtable for f in sources.frozen)]
    summaries = [snapshot.summary for snapshot in sources.snapshots]
    snapshot_bytes = sum(s.size_bytes for s in summaries)
    unsettled_bytes = log_bytes(engine)
    kept = kept_sizes(engine)
    kept_bytes = sum(kept.values())
    written = _written(engine) if isinstance(engine, Engine) else _NOTHING_WRITTEN
    return Stats(
        path=engine.path,
        read_only=isinstance(engine, Follower),
        last_sequence=engine.sequence,
        memtable_entries=sum(map(len, memtables)),
        memtable_bytes=sum(memtable.bytes_used for memtable in memtables),
        snapshot_count=len(summaries),
        snapshot_entries=sum(s.entry_count for s in summaries),
        snapshot_bytes=snapshot_bytes,
        tombstone_count=sum(s.tombstone_count for s in summaries),
        segment_count=len(catalog.manifest.segments),
        log_bytes=unsettled_bytes,
        kept_segment_count=len(kept),
        kept_bytes=kept_bytes,
        disk_bytes=snapshot_bytes + unsettled_bytes + kept_bytes,
        free_bytes=fs.free_bytes(engine.path),
        pid=fs.process_id(),
        opened_at=_moment(engine.opened_ns),
        uptime_seconds=fs.monotonic() - engine.began,
        encrypted=catalog.keyring.ring is not None,
        **_cached(cache),
        **written,
    )


def kept_sizes(engine: Engine | Follower) -> dict[int, int]:
    """Bytes of each kept segment, by its first sequence."""
    kept = engine.catalog.kept
    if isinstance(engine, Follower):
        # The writer changes what there is.
        inside = engine.fs.join(engine.path, files.LOG_DIRECTORY)
        kept = KeptLog(engine.fs, inside, keep.ALL)
    return {} if kept is None else kept.sizes


def _cached(cache: BlockCache) -> dict[str, Any]:
    return {
        "cache_bytes": cache.used_bytes,
        "cache_budget_bytes": cache.budget_bytes,
        "cache_pages": len(cache.pages),
        "cache_evictions": cache.evictions,
        "cache_hits": cache.hits,
        "cache_misses": cache.misses,
    }


def _written(engine: Engine) -> dict[str, Any]:
    log, compactor = engine.write_log, engine.compactor
    error = compactor.error
    return {
        "sync_policy": str(engine.policy),
        "memtable_budget_bytes": engine.memtable_bytes,
        "unsynced_bytes": log.position - log.durable,
        "commit_count": log.commit_count,
        "written_bytes": log.position,
        "sync_count": log.sync_count,
        "sync_seconds": log.sync_seconds.histogram(),
        "group_sizes": log.group_sizes.histogram(),
        "stall_seconds": engine.stall_seconds.histogram(),
        "flush_count": compactor.flush_count,
        "merge_count": compactor.merge_count,
        "flush_seconds": compactor.flush_seconds.histogram(),
        "merge_seconds": compactor.merge_seconds.histogram(),
        "flushed_bytes": compactor.flushed_bytes,
        "merged_bytes": compactor.merged_bytes,
        "background_error": "" if error is None else str(error),
        "min_free_bytes": engine.min_free_bytes,
    }


def log_bytes(engine: Engine | Follower) -> int:
    """Bytes of the unsettled segments. Cost: a ``stat`` each."""
    fs, total = engine.fs, 0
    for first_sequence in engine.catalog.manifest.segments:
        name = segment.file_name(first_sequence)
        path = fs.join(engine.path, files.LOG_DIRECTORY, name)
        try:
            file = fs.open(path)
        except FileNotFoundError:
            continue  # flushed since the manifest was read
        total += file.size()
        file.close()
    return total


# -- health ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Health:
    """How a store fares.

    Attributes:
        status: ``ok``; ``degraded``: it works, and somebody should see to it; ``failed``: it does
            not, until it is opened again.
        reasons: why it is not ``ok``, a sentence each.
    """

    status: Literal["ok", "degraded", "failed"]
    reasons: tuple[str, ...] = ()


def health(engine: Engine | Follower) -> Health:
    """Cost: one look at the disk's free space."""
    try:
        engine.check()
    except Exception as stopped:  # noqa: BLE001  # whatever keeps it from working is the answer
        return Health("failed", (str(stopped),))
    if isinstance(engine, Follower):
        return Health("ok")
    reasons = []
    error = engine.compactor.error
    if error is not None:
        damaged = isinstance(error, (CorruptionError, FormatError))
        what = "merges have stopped" if damaged else "a flush or merge failed, and is retried"
        reasons.append(f"{what}: {error}")
    if not engine.in_place():
        return Health("failed", ("the store's directory was moved, removed or replaced",))
    free_bytes = engine.fs.free_bytes(engine.path)
    if free_bytes is not None and free_bytes < engine.min_free_bytes:
        reasons.append(
            f"puts are refused: the disk has {free_bytes:,} bytes left, below the floor of "
            f"{engine.min_free_bytes:,}"
        )
    if len(engine.catalog.sources.snapshots) >= limits.MAX_SNAPSHOTS:
        reasons.append("merges are behind: commits wait for them")
    return Health("degraded", tuple(reasons)) if reasons else Health("ok")


# -- to and from other processes -------------------------------------------------------------------


class Published(NamedTuple):
    """What the process that has a store open for writing has told of it.

    Attributes:
        pid, host: the process, and where it runs.
        time: when it told that, in UTC. It does so about once a second while there are commits.
        stats: as ``Store.stats`` gives them there; None if it is another version of walkv, or has
            failed.
        recovery: what opening it there has found and done; None likewise.
        failure: why the store has failed there; empty if it has not.
    """

    pid: int | None
    host: str | None
    time: datetime | None
    stats: Stats | None
    recovery: RecoveryReport | None
    failure: str


def publish(engine: Engine) -> None:
    """Write the engine's numbers where ``published`` finds them. Cost: ``stats``, and a write."""
    if engine.failure is not None or engine.closed:
        return
    try:
        fields = dataclasses.asdict(stats(engine))
    except (OSError, WalkvError):
        return  # the next time, then: nothing depends on it
    fields["opened_at"] = engine.opened_ns
    recovery = dataclasses.asdict(engine.report)
    time_ns = engine.fs.wall_time_ns()
    engine.tell({"time_ns": time_ns, "stats": fields, "recovery": recovery})


def published(fs: FileSystem, directory: str) -> Published | None:
    """What a store's writer has told; None if nobody has it open for writing.

    Takes no lock and writes nothing. Of a writer on another host it is not known whether it is
    still there.
    """
    told = fs.holder(fs.join(directory, files.LOCK_NAME))
    if told is None:
        return None
    pid, host, time_ns = told.get("pid"), told.get("host"), told.get("time_ns")
    failure = told.get("failure")
    return Published(
        pid if type(pid) is int else None,
        host if type(host) is str else None,
        _moment(time_ns) if type(time_ns) is int and 0 <= time_ns < 1 << 62 else None,
        _stats_from(told.get("stats")),
        _recovery_from(told.get("recovery")),
        failure if type(failure) is str else "",
    )


def _stats_from(fields: Any) -> Stats | None:
    names = {field.name: field.type for field in dataclasses.fields(Stats)}
    try:
        if set(fields) != set(names):
            return None
        made: dict[str, Any] = {
            name: _histogram_from(value) if names[name] == "Histogram" else value
            for name, value in fields.items()
        }
        made["opened_at"] = _moment(made["opened_at"])
        return Stats(**made)
    except (TypeError, ValueError, KeyError, OverflowError, OSError):
        return None


def _recovery_from(fields: Any) -> RecoveryReport | None:
    try:
        return RecoveryReport(**{**fields, "removed_files": tuple(fields["removed_files"])})
    except (TypeError, KeyError):
        return None


def _histogram_from(fields: dict[str, Any]) -> Histogram:
    buckets = tuple((float(bound), int(count)) for bound, count in fields["buckets"])
    return Histogram(fields["count"], fields["total"], fields["largest"], buckets)


def _moment(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, UTC)
