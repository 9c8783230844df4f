"""The engine: one writing opener of a store, from its recovery to its close.

Invariants:
    1. Once the store has failed, was closed, or woke up in a forked child, nothing is written.
    2. The lock is given back last, when no thread of the engine can write any more.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

from walkv import limits
from walkv.engine import batch, files, frame, keep, manifest, recovery, segment, wal
from walkv.engine.catalog import Catalog, ReadPoint, Sources
from walkv.engine.compaction import Compactor, Stopped
from walkv.engine.keep import KeepLog, KeptLog
from walkv.engine.keyring import Keyring, Secret
from walkv.engine.memtable import Memtable
from walkv.engine.meter import Recorder
from walkv.engine.policies import SyncPolicy, WriteBack
from walkv.engine.recovery import RecoveryReport
from walkv.engine.segment import Tail
from walkv.engine.shield import shielded
from walkv.engine.snapshot import BlockCache
from walkv.engine.syncer import Syncer
from walkv.engine.vfs import FileSystem, Lock, SyncError
from walkv.engine.wal import Log
from walkv.engine.writes import WriteSide
from walkv.errors import CorruptionError, EncryptionError, WalkvError

log = logging.getLogger("walkv")

_MANY_SEGMENTS: Final = 16
"""Each unclean end adds a segment; with more than these the log is settled at open, so that a
process that is killed again and again does not open slower and slower."""

_REST_SECONDS: Final = 0.99
"""``on_rest`` is called once in so long, however often the log rests."""

_CLOSE_FLUSH_BYTES: Final = 256 * limits.KIB
"""A memtable larger than this is settled at close, so that the next open has little to replay."""


class Engine(WriteSide):
    """See the module. Made by ``opening.start_engine``.

    Attributes:
        report: what recovery found and did.
        policy: the store's sync policy.
        opening: differs with every opening of every store.
        shared: for what all users of this opening have to agree on; the engine does not look at it.
        opened_ns, began: when it was opened, by the wall clock and by the monotonic one.
        on_rest: called by a thread of the engine about once a second while there are commits.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        policy: SyncPolicy,
        lock: Lock,
        cache: BlockCache,
        memtable_bytes: int,
        min_free_bytes: int,
        slow_seconds: float,
        keyring: Keyring,
    ) -> None:
        super().__init__()
        self._fs = fs
        self.path = directory
        self.policy = policy
        self.opening = uuid4().hex
        self.shared: dict[str, Any] = {}
        self._file_lock = lock
        self._cache = cache
        self._keyring = keyring
        self._rekey_lock = threading.Lock()
        self.memtable_bytes = memtable_bytes
        self.min_free_bytes = min_free_bytes
        self.slow_seconds = slow_seconds
        self.stall_seconds = Recorder()
        self.opened_ns = fs.wall_time_ns()
        self.began = fs.monotonic()
        self.on_rest: Callable[[], None] = lambda: None
        self._rested = self.began
        self._room = threading.Condition(self.commit_lock)
        self._pack = batch.make_packer()
        self._sequence = 0
        self._room_at = self._budget_at = memtable_bytes // 2
        self._checked_to = 0
        self.failure: BaseException | None = None
        self._close_lock = threading.Lock()
        self._forget_fork = fs.on_fork(self._in_child)

    def start(self, create: bool, keep_log: KeepLog | None) -> None:
        """Recover, or create, the store; the lock is held.

        Args:
            keep_log: what to keep of the settled log from now on; None for what it has been.
        """
        fs, directory = self._fs, self.path
        if files.is_new(fs, directory):
            if not create:
                raise files.not_found(directory)
            tail = files.create(fs, directory, self._make_first, self._keyring)
            known = manifest.read(fs, directory, self._keyring)
            sources = Sources(Memtable(), (), ())
            report = RecoveryReport(created=True)
        else:
            findings = recovery.look(fs, directory, self._cache, self._keyring)
            tail, report = recovery.act(fs, directory, findings)
            known = findings.manifest
            sources = Sources(findings.memtable, (), findings.snapshots)
            self._sequence = findings.last_sequence
        self._catalog = Catalog(
            fs, directory, known, sources, self._cache, self._file_lock, self._keyring
        )
        setting = self._set_keep_log(keep_log)
        if setting is not None:
            inside = fs.join(directory, files.LOG_DIRECTORY)
            self._catalog.keep_settled(KeptLog(fs, inside, setting))
        self._memtable = sources.memtable
        self._log = Log(
            fs,
            fs.join(directory, files.LOG_DIRECTORY),
            known.store_id,
            tail,
            self._fail,
            windowed=type(self.policy) is WriteBack,
            slow_seconds=self.slow_seconds,
            on_slow=self._tell_slow,
            keyring=self._keyring,
        )
        self.syncer = Syncer(self._log, fs, self._mark_idle, self._fail)
        self.compactor = Compactor(
            fs,
            directory,
            self._catalog,
            self._cache,
            self._on_compacted,
            self._fail,
            lambda: self._sequence,
        )
        with self.commit_lock:
            many_segments = len(known.segments) > _MANY_SEGMENTS
            if many_segments:
                self._freeze()
            elif not report.clean:
                self._rotate()
            self._set_room()
            if self._memtable.bytes_used >= self._budget_at:
                self._make_room(adds=False)
        if many_segments:
            # Before anything is served: who is killed at once would never get to it.
            with self.compactor.hurried():
                self._flush_inline()
            self.check()
        self.report = replace(report, elapsed_seconds=fs.monotonic() - self.began)
        if not report.clean or report.removed_files:
            log.info("walkv: %s: %s", directory, self.report)

    def _set_keep_log(self, keep_log: KeepLog | None) -> KeepLog | None:
        inside = self._fs.join(self.path, files.LOG_DIRECTORY)
        try:
            known = keep.read_setting(self._fs, inside)
        except CorruptionError as error:
            # Rather too much than what somebody may want to go back to.
            log.warning("walkv: the settled log is kept, all of it: %s", error)
            known = keep.ALL
        if keep_log is not None and keep_log != known:
            keep.write_setting(self._fs, inside, keep_log)
            known = keep_log
        return known if known is not None and known.max_bytes else None

    def _make_first(self, directory: str, store_id: bytes) -> Tail:
        return segment.begin(self._fs, directory, store_id, 1, self._keyring)

    def _on_compacted(self) -> None:
        if self._fs.threads:
            with self._room:
                self._set_room()
                self._room.notify_all()
        else:
            self._set_room()

    def compact(self) -> None:
        """Write everything into one snapshot without anything deleted; waits for it."""
        shielded(self._compact, on_interrupt=self.compactor.abandon)

    def _compact(self) -> None:
        with self.commit_lock:
            self.check()
            if len(self._memtable) or self._memtable.ranges:
                self._freeze()
        try:
            with self.compactor.hurried():
                self.compactor.work(merge_all=True)
        except SyncError as error:
            raise wal.failed(error.error) from error.error
        except Stopped:
            self.check()
            raise InterruptedError(
                errno.EINTR,
                "somebody else's interruption has stopped this; do it again",
                self.path,
            ) from None

    def rekey(self, secret: Secret, *, rotate: bool) -> None:
        """Change the key that opens the store, and with ``rotate`` what its files are under.

        Killed or failing at any point it leaves a store that one of the two keys opens, the new one
        from the first durable step on; it may be done again.
        """
        shielded(lambda: self._rekey(secret, rotate), on_interrupt=self.compactor.abandon)

    def _rekey(self, secret: Secret, rotate: bool) -> None:
        self.check()
        if self._keyring.ring is None:
            raise EncryptionError(
                f"{self.path}: this store is not encrypted, so it has no key to change; move its "
                "data to a new store that is made with the key",
                path=self.path,
                reason="not-encrypted",
            )
        with self._rekey_lock:
            self._replace_keys(self._keyring.rewrapped(secret, rotate=rotate))
            if not rotate:
                return
            try:
                self._write_anew()
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{error.strerror}: the store's key was changed, and some of its files are "
                    "still under an older data key; free some space and do it again",
                    self.path,
                ) from error

    def _replace_keys(self, changed: Keyring) -> None:
        # Under the commit lock, as every other change of the manifest by a caller: ``close`` takes
        # it, so nothing is written once the store is closed, and it waits for what is under way.
        with self.commit_lock:
            self.check()
            try:
                self._catalog.replace_keys(changed)
            except SyncError as error:
                self._fail(error.error)
                raise wal.failed(error.error) from error.error

    def _write_anew(self) -> None:
        """Bring everything under the newest data key, and drop those that are not needed then."""
        with self.commit_lock:
            # A segment that was created before, and was not entered, is under an older one.
            while self._log.key_number != self._keyring.newest:
                self.check()
                self._freeze()
        self._compact()
        with self.compactor.resting():
            # Nothing is renamed meanwhile: a file under neither of its names would seem gone.
            used = files.key_numbers(self._fs, self.path)
            if used is not None:
                self._replace_keys(self._keyring.only(used))

    # -- life ------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Make everything committed so far durable."""
        self.check()
        self._log.wait(self._log.position)

    def _mark_idle(self) -> None:
        with self.commit_lock:
            write_ahead_log = self._log
            quiet = write_ahead_log.durable == write_ahead_log.position
            if self._stop is None and quiet and write_ahead_log.unmarked:
                # What it raises ends in the syncer: nobody waits for a mark.
                write_ahead_log.mark(frame.SYNC_MARKER, self._sequence + 1)
        self._rest()

    def _rest(self) -> None:
        now = self._fs.monotonic()
        if now - self._rested >= _REST_SECONDS:
            self._rested = now
            try:
                self.on_rest()
            except Exception as error:  # noqa: BLE001  # nothing depends on it
                log.warning("walkv: %s: %s", self.path, error)

    def in_place(self) -> bool:
        """Whether the directory under the store's path is still the one that was opened."""
        return self._file_lock.valid()

    def tell(self, facts: dict[str, Any]) -> None:
        """Write something about this opening into the lock file, for others to see."""
        if self._stop is None:
            self._file_lock.tell(facts)

    def _fail(self, error: BaseException) -> None:
        first = self.failure is None
        super()._fail(error)
        if first:
            with suppress(Exception):  # nothing depends on it
                self._file_lock.tell({"time_ns": self._fs.wall_time_ns(), "failure": str(error)})

    def _in_child(self) -> None:
        # Other threads do not exist here and may have held the locks.
        self._stop = self._refuse_forked
        self.commit_lock = threading.Lock()
        self._room = threading.Condition(self.commit_lock)
        self._file_lock.release()

    def abort(self) -> None:
        """Stop what a ``start`` that failed has begun; the caller releases the lock."""
        compactor = getattr(self, "compactor", None)
        if compactor is not None:
            compactor.stop()

    def close(self) -> None:
        """Settle what is unsettled, say so in the log, and give the lock back.

        Raises:
            StoreFailedError: the store had failed before, or a sync failed now.
        """
        shielded(self._close)

    def _close(self) -> None:
        with self._close_lock:
            if self.closed or self._stop == self._refuse_forked:
                return
            with self.commit_lock:
                healthy = self._stop is None
                self._stop = self._refuse_closed
                self._room.notify_all()
            self._forget_fork()
            with self.compactor.stopped() as flush:
                try:
                    if healthy:
                        self._settle_at_close(flush)
                    self.syncer.stop()
                    if self.failure is None:
                        self._log.close(self._sequence + 1)
                finally:
                    self._log.abandon()
                    self.syncer.tell()
                    self._catalog.clear()
                    # The lock last, when no thread of ours can write any more.
                    self._file_lock.release()
            if self.failure is not None:
                raise wal.failed(self.failure) from self.failure

    def _settle_at_close(self, flush: Callable[[], None]) -> None:
        try:
            with self.commit_lock:
                if self._memtable.bytes_used > _CLOSE_FLUSH_BYTES:
                    self._freeze()
                elif self._log.sealed:
                    self._rotate()  # it had failed half way: a sealed log cannot be closed
            flush()
        except (OSError, SyncError, WalkvError) as error:
            # Nothing is lost: the log has it, and the next open replays it.
            log.warning("walkv: %s: not settled at close: %s", self.path, error)
            if isinstance(error, SyncError):
                self._fail(error.error)

    def point_in_commit(self) -> ReadPoint:
        """A read point taken while the commit lock is held, to validate a transaction."""
        return self._pin()
