"""What the store is made of right now: the manifest on disk and the sources in memory.

Every change of the set of files goes through here, in the one order that is safe: new files are
durable, then the manifest names them, then readers see them, then old files are removed.

Invariants:
    1. ``sources`` is replaced, never changed: whoever reads it once has a consistent set.
    2. The union of ``sources`` is the whole store at every moment: a memtable leaves it in the same
       step in which the snapshot made of it enters.
    3. Nothing is created, replaced or removed by path unless the directory is still the one that
       was opened.
    4. The catalog lock is taken after the commit lock, never before.

Source: LevelDB's ``VersionSet``; reference counts are the interpreter's own.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from walkv.engine import manifest, segment
from walkv.engine.batch import Item
from walkv.engine.files import LOG_DIRECTORY
from walkv.engine.keep import KeptLog
from walkv.engine.keyring import NO_KEYS, Keyring
from walkv.engine.manifest import Manifest
from walkv.engine.memtable import Entry, Memtable
from walkv.engine.merge import Chunk, Run, merge
from walkv.engine.ranges import NONE_GROWN, GrowingRanges
from walkv.engine.snapshot import ABSENT, BlockCache, SnapshotReader, SnapshotSummary
from walkv.engine.vfs import FileSystem, Lock, SyncError
from walkv.errors import CorruptionError, EncryptionError, FormatError, WouldBlockError

log = logging.getLogger("walkv")


class Frozen(NamedTuple):
    """A memtable on its way into a snapshot.

    Attributes:
        next_sequence: the first sequence of the segment begun after it; the segments before that
            one hold nothing else than this memtable and older ones.
    """

    memtable: Memtable
    next_sequence: int


class Sources:
    """The memtables and snapshots that together are the store, newest first. Never changed.

    Attributes:
        next_hot: the hot items of what a look-up comes to after the active memtable, if that is a
            snapshot. What is here needs no further search; what is not may be anywhere.
    """

    __slots__ = ("frozen", "memtable", "next_hot", "snapshots")

    def __init__(
        self,
        memtable: Memtable,
        frozen: tuple[Frozen, ...],
        snapshots: tuple[SnapshotReader, ...],
    ) -> None:
        self.memtable = memtable
        self.frozen = frozen
        self.snapshots = snapshots
        self.next_hot: Mapping[bytes, Item] = {} if frozen or not snapshots else snapshots[0].hot

    # Hot.
    def older_item(self, key: bytes, cached_only: bool = False) -> Item:
        """The item of a key below the active memtable; None where there is none or a tombstone.

        Returns ``UNREAD`` if ``cached_only`` and the answer would take a read.
        """
        for memtable, _ in self.frozen:
            entry = memtable.table.get(key)
            if entry is not None:
                return [entry[2], entry[1]] if entry[2] else entry[1]
            ranges = memtable.ranges
            if ranges is not NONE_GROWN and ranges.covers(key):
                return None
        for snapshot in self.snapshots:
            hot = snapshot.hot
            item = hot.get(key, ABSENT)
            if item is ABSENT and len(hot) == hot.complete_at:
                # All of it is there, since just now perhaps; unless something was taken out again.
                item = hot.get(key, ABSENT)
                if item is ABSENT and hot.complete_at >= 0:
                    continue
            if item is ABSENT:
                item = snapshot.item(key, cached_only)
                if item is ABSENT:
                    continue
            return item
        return None

    def older_entry(self, key: bytes) -> Entry | None:
        """As ``older_item``, with the sequence; tombstones are entries."""
        for memtable, _ in self.frozen:
            entry = memtable.table.get(key)
            if entry is not None:
                return entry
            if memtable.ranges.covers(key):
                return None
        for snapshot in self.snapshots:
            found = snapshot.find(key)
            if found is not None:
                item, sequence = found
                if type(item) is list:
                    return (sequence, item[1], item[0], None)
                return (sequence, item, 0, None)
            if snapshot.ranges.covers(key):
                return None
        return None


class Pin:
    """Alive as long as a read point needs the versions of its moment."""

    __slots__ = ("__weakref__",)


class ReadPoint:
    """The store at one moment: a sequence, and the sources pinned at it.

    It keeps what it needs alive. ``pin`` is there to be dropped, with this object or by
    ``release``: a weak reference to it tells the engine.
    """

    __slots__ = ("pin", "ranges", "sequence", "sources")

    def __init__(
        self, sources: Sources, ranges: GrowingRanges, sequence: int, pin: Pin | None
    ) -> None:
        self.sources = sources
        self.ranges = ranges
        self.sequence = sequence
        self.pin = pin

    def item(self, key: bytes) -> Item:
        entry = self.sources.memtable.get(key, self.sequence)
        if entry is not None:
            return [entry[2], entry[1]] if entry[2] else entry[1]
        if self.ranges is not NONE_GROWN and self.ranges.covers(key):
            return None
        return self.sources.older_item(key)

    def entry(self, key: bytes) -> Entry | None:
        entry = self.sources.memtable.get(key, self.sequence)
        if entry is not None:
            return entry
        if self.ranges is not NONE_GROWN and self.ranges.covers(key):
            return None
        return self.sources.older_entry(key)

    def chunks(
        self,
        start: bytes,
        stop: bytes | None,
        *,
        reverse: bool = False,
        cached_only: bool = False,
    ) -> Iterator[Chunk]:
        """Entries with ``start <= key < stop`` in order, tombstones included.

        Raises:
            WouldBlockError: ``cached_only``, and what comes next takes a read, or much sorting, or
                going through many entries.
        """
        sources = self.sources
        runs: list[Run] = []
        memtables = [(sources.memtable, self.ranges)]
        memtables += [(frozen.memtable, frozen.memtable.ranges) for frozen in sources.frozen]
        for memtable, ranges in memtables:
            if cached_only and memtable.unordered_count > _QUICKLY_ORDERED:
                raise WouldBlockError
            if memtable.table or ranges is not NONE_GROWN:
                found = memtable.chunks(start, stop, sequence=self.sequence, reverse=reverse)
                found = _few(found) if cached_only else found
                runs.append(Run(found, ranges.flat(start, stop)))
        for snapshot in sources.snapshots:
            if cached_only and not snapshot.loaded:
                raise WouldBlockError
            found = snapshot.chunks(start, stop, reverse=reverse, cached_only=cached_only)
            found = _few(found) if cached_only else found
            runs.append(Run(found, snapshot.ranges.clipped(start, stop)))
        return runs[0].chunks if len(runs) == 1 else merge(runs, reverse=reverse)

    def release(self) -> None:
        self.pin = None


_QUICKLY_ORDERED: Final = 256
"""So many new keys of a memtable are put in order in no time."""

_QUICKLY_READ: Final = 512
"""So many entries of a run are gone through in no time, deleted and hidden ones included."""


def _few(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    left = _QUICKLY_READ
    for chunk in chunks:
        left -= len(chunk.keys)
        if left < 0:
            raise WouldBlockError
        yield chunk


_NO_FILES: Final[tuple[SnapshotReader, ...]] = ()


class Catalog:
    """Changes the set of files, and publishes it.

    Attributes:
        manifest: as it is on disk.
        sources: what readers read.
        kept: the settled segments that are kept; None where none are.
        keyring: the keys of the store, as of the manifest.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        known: Manifest,
        sources: Sources,
        cache: BlockCache,
        guard: Lock | None = None,
        keyring: Keyring = NO_KEYS,
    ) -> None:
        self._guard = guard
        self._fs = fs
        self._directory = directory
        self._cache = cache
        self._lock = threading.Lock()
        self.manifest = known
        self.sources = sources
        self.kept: KeptLog | None = None
        self.keyring = keyring

    def check_in_place(self) -> None:
        """Make sure that the directory under the store's path is still the one that was opened.

        Raises:
            SyncError: it was moved, removed or replaced; nothing may be written there any more.
        """
        if self._guard is not None and not self._guard.valid():
            text = "the store's directory was moved, removed or replaced while it was open"
            raise SyncError(FileNotFoundError(errno.ENOENT, text, self._directory))

    def _replace(self, **changes: Any) -> None:
        self.check_in_place()
        known = self.manifest.next(**changes)
        manifest.write(self._fs, self._directory, known, self.keyring)
        self.manifest = known

    def replace_keys(self, changed: Keyring) -> None:
        """Let the keyring become another one of the same store, durably."""
        with self._lock:
            self.check_in_place()
            known = self.manifest.next(ring=changed.ring)
            manifest.write(self._fs, self._directory, known, changed)
            self.manifest = known
            self.keyring.become(changed)

    def check_manifest(self) -> None:
        """Hold the manifest on disk against what this opener knows.

        Raises:
            CorruptionError: it is damaged, another store's, or not the newest.
        """
        with self._lock:
            known = self.manifest
            try:
                found = manifest.read(self._fs, self._directory, self.keyring.copy())
            except EncryptionError as error:
                if self._guard is None:
                    raise  # the writer may have changed the key
                raise CorruptionError(
                    "the manifest has other keys than the store",
                    path=self._fs.join(self._directory, manifest.NAME),
                ) from error
        if found.store_id != known.store_id:
            reason = "the manifest belongs to another store"
        elif self._guard is None:
            # A reader may be behind the writer, and never before it.
            if found.generation >= known.generation:
                return
            reason = "the manifest was replaced by an older one"
        elif (found.last_sequence, found.segments, found.snapshots) == (
            known.last_sequence,
            known.segments,
            known.snapshots,
        ):
            return
        else:
            reason = "the manifest is not the one that was written last"
        raise CorruptionError(
            reason,
            path=self._fs.join(self._directory, manifest.NAME),
            expected=f"generation {known.generation}",
            found=f"generation {found.generation}",
        )

    def add_segment(self, first_sequence: int) -> None:
        """Name a new tail in the manifest. The caller holds the commit lock."""
        with self._lock:
            if self.manifest.segments[-1] != first_sequence:
                self._replace(segments=(*self.manifest.segments, first_sequence))

    def freeze(self, next_sequence: int) -> Memtable:
        """Set the active memtable aside and begin a new one. The caller holds the commit lock."""
        with self._lock:
            sources, fresh = self.sources, Memtable()
            frozen = (Frozen(sources.memtable, next_sequence), *sources.frozen)
            self.sources = Sources(fresh, frozen, sources.snapshots)
            return fresh

    def take_snapshot_id(self) -> int:
        """A new snapshot's id. It becomes durable with the manifest that names the snapshot."""
        with self._lock:
            number = self.manifest.next_snapshot_id
            self.manifest = self.manifest.next(next_snapshot_id=number + 1)
            return number

    def install_flush(self, flushed: Frozen, snapshot: SnapshotReader | None) -> None:
        """Put a durable snapshot (None: nothing was left) in the place of the oldest frozen
        memtable, and remove or keep the segments it covers."""
        with self._lock:
            kept = tuple(f for f in self.manifest.segments if f >= flushed.next_sequence)
            dropped = [f for f in self.manifest.segments if f < flushed.next_sequence]
            added = (snapshot,) if snapshot else _NO_FILES
            self._replace(
                segments=kept,
                last_sequence=max(self.manifest.last_sequence, flushed.next_sequence - 1),
                snapshots=(*(s.summary for s in added), *self.manifest.snapshots),
            )
            sources = self.sources
            self.sources = Sources(
                sources.memtable, sources.frozen[:-1], (*added, *sources.snapshots)
            )
        inside = self._fs.join(self._directory, LOG_DIRECTORY)
        if self.kept is not None:
            self.keep_settled(self.kept)
            return
        for first_sequence in dropped:
            self._remove(self._fs.join(inside, segment.file_name(first_sequence)))

    def keep_settled(self, kept: KeptLog) -> None:
        """Keep the settled segments, as many as are to be kept."""
        self.kept = kept
        try:
            kept.take_in(self.manifest.segments[0])
        except (OSError, CorruptionError, FormatError) as error:
            log.warning(
                "walkv: %s: the settled log is not kept in order, it is tried again with the next "
                "flush: %s",
                self._directory,
                error,
            )

    def install_merge(
        self, inputs: tuple[SnapshotReader, ...], output: SnapshotReader | None
    ) -> None:
        """Put a durable snapshot (None: nothing was left) in the place of neighbouring ones."""
        with self._lock:
            snapshots = self.sources.snapshots
            at = snapshots.index(inputs[0])
            made = (output,) if output else _NO_FILES
            merged = (*snapshots[:at], *made, *snapshots[at + len(inputs) :])
            summaries: tuple[SnapshotSummary, ...] = tuple(s.summary for s in merged)
            self._replace(snapshots=summaries)
            sources = self.sources
            self.sources = Sources(sources.memtable, sources.frozen, merged)
        for reader in inputs:
            reader.forget()
            self._remove(reader.path)

    def _remove(self, path: str) -> None:
        # What cannot be removed now is removed by the next recovery: no manifest names it.
        try:
            self._fs.unlink(path)
        except OSError:
            return

    def clear(self) -> None:
        """Let go of the files, once the store is closed."""
        self.sources = Sources(Memtable(), (), ())
