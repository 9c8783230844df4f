"""Settles and merges: memtable -> snapshot, snapshots -> one snapshot.

Both run in one background thread, or inline where the file system has no threads. A flush that
becomes due while a merge runs is done in the middle of it, so writers do not wait for its end.

Invariants:
    1. Inputs are immutable and the output is one new file, so a flush or merge that was killed, or
       failed, is simply done again: its file is removed, by itself or by the next recovery.
    2. The order of durable steps: the snapshot, the manifest that names it, then the unlink of what
       it replaces.
    3. A tombstone, a deleted range or an expired entry is dropped only where no older snapshot
       could still hold what it hides.
    4. Foreground work is let in after at most ``_SLICE_SECONDS`` of work: the interpreter would
       otherwise pass its lock only every 5 ms.

Source: LevelDB's background thread. A process of its own for merges was not tried: it must live, or
die with, its parent at any point.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, compress
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

from walkv.engine import files, picking
from walkv.engine.catalog import Catalog, Frozen
from walkv.engine.merge import Chunk, Run, merge
from walkv.engine.meter import Recorder
from walkv.engine.ranges import NO_RANGES, RangeSet
from walkv.engine.snapshot import BlockCache, SnapshotReader, SnapshotWriter
from walkv.engine.snapshot.reader import Partition
from walkv.engine.vfs import FileSystem, SyncError
from walkv.errors import CorruptionError, FormatError

log = logging.getLogger("walkv")

_SLICE_SECONDS: Final = 0.0003
_REST_SECONDS: Final = 0.001
_RETRY_SECONDS: Final = 1.0

_ENTRIES_A_STEP: Final = 77
"""About so many entries of a memtable does a flush get through between two pauses."""


class Stopped(Exception):
    """The store is closing, or Ctrl-C was pressed: the work in hand is abandoned."""


Entries = Iterator[tuple[Chunk, list[int]]]
"""Entries in key order: chunks, and the sequences of their entries."""


class Part(NamedTuple):
    """A partition of one of the inputs of a merge. ``rank`` 0 is the newest input."""

    rank: int
    partition: Partition


class Compactor:
    """Flushes and merges for one store.

    Attributes:
        progress: how much of what makes the next room is done, from 0 to 1.
        error: why the last attempt failed, or None. A flush is tried again; merges stop for good
            once an input has proved damaged.
        attempt_count: rounds of work begun so far.
        failed_attempt: the last of them that failed.
        flush_count, merge_count: finished so far.
        flush_seconds, merge_seconds: how long they took.
        flushed_bytes, merged_bytes: sizes of what they have written.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        catalog: Catalog,
        cache: BlockCache,
        on_progress: Callable[[], None],
        on_failure: Callable[[BaseException], None],
        activity: Callable[[], int],
    ) -> None:
        """``activity`` gives a number that changes with every commit."""
        self._fs = fs
        self._snapshot_directory = fs.join(directory, files.SNAPSHOT_DIRECTORY)
        self._catalog = catalog
        self._cache = cache
        self._on_progress = on_progress
        self._on_failure = on_failure
        self._activity = activity
        self._seen_activity = 0
        self._start_lock = threading.Lock()
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._work_lock = threading.Lock()
        self._flushing = False
        self._wanted = False
        self._stopping = False
        self._abandoned = False
        self._thread: threading.Thread | None = None
        self._slice_began = 0.0
        self._next_flush = 0.0
        self._damaged: Exception | None = None
        self._hurries: set[object] = set()
        self._flush_seconds = 0.0
        self._steps = 0
        self._steps_in_all = 1
        self._progress_before = 0.0
        self.progress = 0.0
        self.error: BaseException | None = None
        self.attempt_count = 0
        self.failed_attempt = 0
        self.flush_count = 0
        self.merge_count = 0
        self.flush_seconds = Recorder()
        self.merge_seconds = Recorder()
        self.flushed_bytes = 0
        self.merged_bytes = 0

    def wake(self) -> None:
        """There may be something to do.

        Raises:
            RuntimeError: no thread can be started for it.
        """
        if not self._fs.threads:
            self.work(merge_all=False)
            return
        self._wanted = True
        with self._start_lock:
            if self._thread is None and not self._stopping:
                thread = threading.Thread(target=self._run, name="walkv-compaction", daemon=True)
                thread.start()
                self._thread = thread
        self._wakes.put(None)

    def _run(self) -> None:
        retry = False
        while not self._stopping:
            if not self._wanted:
                with suppress(Empty):
                    self._wakes.get(timeout=_RETRY_SECONDS if retry else None)
            if not self._wanted and not retry:
                continue
            self._wanted = False
            try:
                self.work(merge_all=False)
                retry = False
            except Stopped:
                continue
            except Exception as error:  # noqa: BLE001  # the thread outlives whatever a flush meets
                retry = not isinstance(error, (SyncError, CorruptionError, FormatError))
        # Ctrl-C in ``Thread.start`` may have led to a second thread: it ends as well.
        self._wakes.put(None)

    def work(self, *, merge_all: bool) -> None:
        """Flush what is frozen, then merge what is due (or everything).

        Raises:
            OSError: a write failed; nothing has changed, and it may be tried again.
            SyncError: the store has failed.
            CorruptionError: an input is damaged; nothing has changed.
            Stopped: the store is closing.
        """
        with self._work_lock:
            if self._stopping:
                raise Stopped
            self.attempt_count += 1
            self._abandoned = False
            try:
                if merge_all:
                    self._flush_all()
                    self._merge(len(self._catalog.sources.snapshots))
                else:
                    self._settle()
                self.error = self._damaged
            except Stopped:
                raise
            except Exception as error:
                self._note(error)
                raise
            finally:
                self._on_progress()

    def _settle(self) -> None:
        """Flush and merge until neither is due."""
        while True:
            # Flushes go first, until there are so many snapshots that reads would suffer; and then
            # as well if the last merge has failed.
            few = len(self._catalog.sources.snapshots) < picking.MERGE_FIRST
            if self._catalog.sources.frozen and (few or self.error is not None):
                self._flush_oldest()
            elif not self._merge_due():
                if not self._catalog.sources.frozen:
                    return
                self._flush_oldest()

    def _merge_due(self) -> bool:
        """Merge what is due; whether anything was."""
        if self._damaged is not None:
            return False
        try:
            due = picking.due(self._catalog.sources.snapshots, self._pause)
            if due:
                self._merge(due)
            return due > 0
        except OSError:
            # There may be space for a flush where there is none for a merge, and writers wait.
            self._flush_all()
            raise

    def _note(self, error: BaseException) -> None:
        cause = error.error if isinstance(error, SyncError) else error
        if str(cause) != str(self.error):
            log.warning("walkv: a flush or merge failed: %s", cause)
        self.error = cause
        self.failed_attempt = self.attempt_count
        if isinstance(error, SyncError):
            self._on_failure(cause)
        elif isinstance(error, (CorruptionError, FormatError)):
            self._damaged = error

    def stop(self) -> None:
        """Abandon a merge that is running and end the thread. Frozen memtables stay frozen."""
        self._stopping = True
        self._wakes.put(None)
        if self._thread is not None:
            self._thread.join()

    def abandon(self) -> None:
        """Give up a merge that is running; it can be begun again."""
        self._abandoned = True

    @contextmanager
    def stopped(self) -> Iterator[Callable[[], None]]:
        """Stop, and let nobody work until the block ends; gives what flushes all that is frozen."""
        with self.hurried():
            self.stop()
            with self._work_lock:
                yield self._flush_all

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Let nobody flush or merge until the block ends."""
        with self._work_lock:
            yield

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Somebody waits until the block ends: work without rests."""
        token = object()
        try:
            self._hurries.add(token)
            yield
        finally:
            self._hurries.discard(token)

    def _pause(self) -> None:
        """Between two small pieces of work: let the foreground in, see to what is urgent."""
        self._steps += 1
        now = time.perf_counter()
        if now - self._slice_began < _SLICE_SECONDS:
            return
        if self._flushing:
            done = min(self._steps / self._steps_in_all, 1.0)
            self.progress = self._progress_before + (1.0 - self._progress_before) * done
        else:
            if self._stopping or self._abandoned:
                raise Stopped
            if self._catalog.sources.frozen:
                # A merge gets as much time as the flushes in between, or it would never end.
                if now >= self._next_flush:
                    self._flush_oldest()
                else:
                    self.progress = 0.5 - (self._next_flush - now) / self._flush_seconds / 2
        if self._fs.threads:
            if self._hurries:
                self._on_progress()
            # While commits come in rest longer than the slice; sleep(0) still passes the lock on.
            activity = self._activity()
            quiet = activity == self._seen_activity
            self._seen_activity = activity
            time.sleep(0 if quiet or self._hurries else _REST_SECONDS)
        self._slice_began = time.perf_counter()

    def _flush_all(self) -> None:
        while self._catalog.sources.frozen:
            self._flush_oldest()

    def _flush_oldest(self) -> None:
        frozen = self._catalog.sources.frozen[-1]
        memtable = frozen.memtable
        self._flushing = True
        self._progress_before, self._steps = self.progress, 0
        self._steps_in_all = len(memtable) // _ENTRIES_A_STEP + 1
        began = time.perf_counter()
        try:
            self._flush(frozen)
        finally:
            self._flushing = False
            self.progress = 0.0
            ended = time.perf_counter()
            self._flush_seconds = ended - began
            self._next_flush = ended + self._flush_seconds
        self.flush_seconds.record(self._flush_seconds)
        log.debug("walkv: flushed %d entries in %.3f s", len(memtable), self._flush_seconds)
        self._on_progress()

    def _flush(self, frozen: Frozen) -> None:
        bottom = not self._catalog.sources.snapshots
        memtable = frozen.memtable
        ranges = NO_RANGES if bottom else memtable.ranges.flat()
        reader = self._write([memtable.sorted_chunks(self._pause)], ranges, bottom)
        self._install(reader, lambda: self._catalog.install_flush(frozen, reader))
        self.flush_count += 1
        self.flushed_bytes += _size_bytes(reader)

    def _install(self, reader: SnapshotReader | None, install: Callable[[], None]) -> None:
        try:
            install()
        except OSError:
            # The manifest could not be written, so nothing names the new file.
            if reader is not None:
                reader.close()
                self._remove(reader.path)
            raise

    def _remove(self, path: str) -> None:
        try:
            self._catalog.check_in_place()
            self._fs.unlink(path)
        except (OSError, SyncError) as error:
            log.warning("walkv: %s could not be removed, recovery will: %s", path, error)

    def _merge(self, count: int) -> None:
        snapshots = self._catalog.sources.snapshots
        inputs = snapshots[:count]
        bottom = count == len(snapshots)
        newest = self._catalog.keyring.newest
        if not inputs or (len(inputs) == 1 and _settled(inputs[0], newest)):
            return
        ranges = NO_RANGES
        if not bottom:
            for reader in inputs:
                ranges = ranges.union(reader.ranges)
        began = time.perf_counter()
        output = self._write(self._merged(inputs), ranges, bottom)
        self._install(output, lambda: self._catalog.install_merge(inputs, output))
        self.merge_count += 1
        self.merged_bytes += _size_bytes(output)
        seconds = time.perf_counter() - began
        self.merge_seconds.record(seconds)
        log.debug("walkv: merged %d snapshots in %.3f s", len(inputs), seconds)

    def _merged(self, inputs: tuple[SnapshotReader, ...]) -> Iterator[Part | Entries]:
        """What the output is made of, in key order: partitions that overlap nothing, to be copied
        as they are, and entries that were merged."""
        hidden = NO_RANGES
        hidden_by: list[RangeSet] = []
        for reader in inputs:
            hidden_by.append(hidden)
            hidden = hidden.union(reader.ranges)
        for cluster in _clusters(inputs):
            rank, partition = cluster[0]
            touched = hidden_by[rank].touches(partition.first_key, partition.last_key)
            if len(cluster) == 1 and partition.plain and not touched:
                yield cluster[0]
                continue
            runs = []
            for number, reader in enumerate(inputs):
                numbers = [part.number for rank, part in cluster if rank == number]
                chunks = chain.from_iterable(map(reader.partition_chunks, numbers))
                runs.append(Run(chunks, reader.ranges))
            yield (_split(chunk) for chunk in merge(runs))

    def _write(
        self, pieces: Iterable[Part | Entries], ranges: RangeSet, bottom: bool
    ) -> SnapshotReader | None:
        """Write the pieces into a new snapshot, durable; None if nothing is left of them."""
        catalog = self._catalog
        store_id = catalog.manifest.store_id
        snapshots = catalog.sources.snapshots
        catalog.check_in_place()
        number = catalog.take_snapshot_id()
        self._slice_began = time.perf_counter()
        keyring = catalog.keyring
        writer = SnapshotWriter(
            self._fs, self._snapshot_directory, store_id, number, ranges=ranges, keyring=keyring
        )
        try:
            for piece in pieces:
                if isinstance(piece, Part):
                    self._copy(writer, snapshots[piece.rank], piece.partition)
                else:
                    self._rewrite(writer, piece, bottom)
            if not writer.entry_count and not ranges:
                self._discard(writer)
                return None
            writer.finish()
            return SnapshotReader(self._fs, writer.path, store_id, number, self._cache, keyring)
        except BaseException:
            self._discard(writer)
            raise

    def _discard(self, writer: SnapshotWriter) -> None:
        writer.close()
        self._remove(writer.path)

    def _rewrite(self, writer: SnapshotWriter, entries: Entries, bottom: bool) -> None:
        for (keys, items, plain), sequences in entries:
            if not plain and bottom:
                now_ms = self._fs.wall_time_ns() // 1_000_000
                alive = [not _is_dead(item, now_ms) for item in items]
                keys, items = list(compress(keys, alive)), list(compress(items, alive))
                sequences = list(compress(sequences, alive))
            if keys:
                writer.add(keys, items, sequences, plain)
            self._pause()

    def _copy(self, writer: SnapshotWriter, reader: SnapshotReader, part: Partition) -> None:
        pages, index = reader.raw_partition(part.number)

        def in_slices() -> Iterator[bytes]:
            for page in pages:
                yield page
                self._pause()

        writer.copy_partition(
            in_slices(),
            index,
            first_key=part.first_key,
            last_key=part.last_key,
            entry_count=part.entry_count,
            last_sequence=reader.summary.last_sequence,
        )


def _size_bytes(reader: SnapshotReader | None) -> int:
    return 0 if reader is None else reader.summary.size_bytes


def _split(merged: Chunk) -> tuple[Chunk, list[int]]:
    """A chunk whose items are pairs of item and sequence, as a chunk and its sequences."""
    keys, pairs, plain = merged
    return Chunk(keys, [item for item, _ in pairs], plain), [sequence for _, sequence in pairs]


def _is_dead(item: Any, now_ms: int) -> bool:
    return item is None or (type(item) is list and item[0] <= now_ms)


def _settled(reader: SnapshotReader, key_number: int) -> bool:
    """Whether rewriting this snapshot alone would change nothing."""
    if reader.key_number != key_number:
        return False
    return not reader.ranges and all(part.plain for part in reader.partitions())


def _clusters(inputs: tuple[SnapshotReader, ...]) -> Iterator[list[Part]]:
    """Partitions of all inputs in key order, those that overlap each other together."""
    parts = [Part(rank, part) for rank, reader in enumerate(inputs) for part in reader.partitions()]
    parts.sort(key=lambda part: part.partition.first_key)
    cluster: list[Part] = []
    last_key = b""
    for part in parts:
        if cluster and part.partition.first_key > last_key:
            yield cluster
            cluster = []
        cluster.append(part)
        last_key = max(last_key, part.partition.last_key)
    if cluster:
        yield cluster
