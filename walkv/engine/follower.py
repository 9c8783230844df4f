"""A read-only opener: follows a store that another process may be writing, and writes nothing.

Invariants:
    1. No lock is taken and nothing on disk changes, not even a time stamp that the file system
       does not set by itself.
    2. Between two calls of ``refresh`` reads give the same answers.
    3. What a live writer is in the middle of writing is not yet there; only what stays bad when
       read again is damage.

Source: tailing the log, as a PostgreSQL standby does. Reading the writer's memory was rejected: it
ties the reader to a living writer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from walkv.engine import manifest, recovery
from walkv.engine.catalog import Catalog, Sources
from walkv.engine.keyring import NO_KEYS, Keyring
from walkv.engine.reads import ReadSide
from walkv.engine.recovery import Findings, RecoveryReport
from walkv.engine.snapshot import BlockCache, SnapshotReader
from walkv.engine.vfs import FileSystem
from walkv.errors import CorruptionError, ReadOnlyError

_ATTEMPTS: Final = 200
"""A writer that rotates again and again lets nobody read the store whole; it has to rest."""
_PAUSE_SECONDS: Final = 0.01


class Follower(ReadSide):
    """See the module.

    Attributes:
        report: what was found when it was opened.
        opened_ns, began: when that was, by the wall clock and by the monotonic one.
    """

    def __init__(
        self, fs: FileSystem, directory: str, cache: BlockCache, keyring: Keyring = NO_KEYS
    ) -> None:
        super().__init__()
        self._fs = fs
        self._keyring = keyring
        self.path = directory
        self._cache = cache
        self._readers: tuple[SnapshotReader, ...] = ()
        self.opened_ns = fs.wall_time_ns()
        self.began = fs.monotonic()
        self._load()
        found = self._findings
        self.report = RecoveryReport(
            clean=found.tail.clean,
            segment_count=len(found.manifest.segments),
            frame_count=found.frame_count,
            operation_count=found.operation_count,
            last_sequence=found.last_sequence,
            elapsed_seconds=fs.monotonic() - self.began,
        )
        self._forget_fork: Callable[[], None] = fs.on_fork(self._in_child)

    def _load(self) -> None:
        """Read the store anew. The files may change hands while they are read: try again then."""
        path = self._fs.join(self.path, manifest.NAME)
        for attempt in range(_ATTEMPTS):
            before = self._fs.fingerprint(path)
            try:
                found = recovery.look(self._fs, self.path, self._cache, self._keyring)
            except (CorruptionError, FileNotFoundError):
                if attempt == _ATTEMPTS - 1:
                    raise
                if self._fs.fingerprint(path) == before and attempt > 1:
                    raise
                self._fs.sleep(_PAUSE_SECONDS)
                continue
            self._keep_readers(found)
            self._findings: Findings = found
            self._fingerprint = before
            self._sequence = found.last_sequence
            sources = Sources(found.memtable, (), found.snapshots)
            self._catalog = Catalog(
                self._fs, self.path, found.manifest, sources, self._cache, keyring=self._keyring
            )
            return

    def _keep_readers(self, found: Findings) -> None:
        """Go on with the readers of files that are still there, and with what is cached of them."""
        known = {(reader.path, reader.salt): reader for reader in self._readers}
        found.snapshots = tuple(known.pop((s.path, s.salt), s) for s in found.snapshots)
        for retired in known.values():
            retired.forget()
        self._readers = found.snapshots

    def refresh(self) -> bool:
        """Take in what the writer has committed since; returns whether there was anything.

        Raises:
            CorruptionError: what was there is damaged.
            EncryptionError: the store's key was changed; open it again with the new one.
        Cost: one ``stat`` and one read of the log's end; after a flush or merge by the writer, a
            replay of the unsettled log.
        """
        with self.commit_lock:
            self.check()
            before = (self._findings.manifest.store_id, self._sequence)
            path = self._fs.join(self.path, manifest.NAME)
            found = self._findings
            scanner = found.tail.scanner
            if self._fs.fingerprint(path) != self._fingerprint or not scanner.still_there():
                self._load()
                return (self._findings.manifest.store_id, self._sequence) != before
            # Scans that are running read at their own sequence; keep what they may need.
            self._drain_released()

            def read_on() -> None:
                recovery.replay(scanner, found)

            self._applying = True
            try:
                read_on()
                if scanner.next_sequence - 1 == before[1]:
                    # Nothing new: then see whether that is because of damage.
                    recovery.judge(scanner, read_on)
            except BaseException:
                # As far as it was taken in, it is a moment of the store too; but what comes after
                # is not known: read everything anew next time.
                self._sequence = scanner.next_sequence - 1
                self._fingerprint = ()
                raise
            finally:
                self._applying = False
            self._sequence = scanner.next_sequence - 1
            return self._sequence != before[1]

    def refuse_write(self) -> ReadOnlyError:
        return ReadOnlyError(
            f"{self.path}: this store was opened with read_only=True; open it without to write"
        )

    def _in_child(self) -> None:
        # Other threads do not exist here and may have held the lock.
        self._stop = self._refuse_forked
        self.commit_lock = threading.Lock()

    def close(self) -> None:
        with self.commit_lock:
            if self._stop is None:
                self._stop = self._refuse_closed
                self._forget_fork()
                self._findings.tail.scanner.file.close()
                self._findings.snapshots = self._readers = ()
                self._catalog.clear()
