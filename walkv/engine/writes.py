"""The write side of an engine: commits, and the rotation that makes room for them.

The life of a commit:

    1. under the commit lock: sequence numbers, one frame handed to the OS, then published: the
       log's position, the sequence and the memtable move together. Now it is visible, and it
       survives ``kill -9``.
    2. outside the lock: wait as the sync policy asks. Now it is acknowledged.

Invariants:
    1. Publishing is a row of plain assignments without a Python call, so that no signal handler
       (Ctrl-C) can come between them; before it, a commit can be undone, after it, it has happened.
    2. The memtable never shows what the log does not hold.

Source: the split of "visible" and "durable" is every group-committing log's; see
``docs/durability.md`` for what follows for readers.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from walkv import limits
from walkv.engine import batch, wal
from walkv.engine.batch import DELETION, KEY_HEADS, SMALL_BYTES, VALUE_HEADS
from walkv.engine.compaction import Compactor
from walkv.engine.memtable import ENTRY_OVERHEAD_BYTES, NO_VIEW, Memtable
from walkv.engine.meter import Recorder
from walkv.engine.policies import SyncPolicy, WriteBack, WriteThrough
from walkv.engine.reads import ReadSide
from walkv.engine.shield import shielded
from walkv.engine.syncer import IDLE_SECONDS, Syncer
from walkv.engine.vfs import SyncError
from walkv.engine.wal import Log
from walkv.errors import CorruptionError, DiskSpaceError, FormatError, WalkvError

log = logging.getLogger("walkv")
slow_log = logging.getLogger("walkv.slow")

T = TypeVar("T")

_STALL_SECONDS: Final = 0.1
_SHORTEST_STALL_SECONDS: Final = 0.001

_CHECKED_BYTES: Final = 1 * limits.MIB
"""After so much more in the memtable the free space of the disk is looked at again."""

_HEAD_START: Final = 0.1
_PACED: Final = 0.6
"""Of the room beside a flush, writers have the first share at once, and the second as fast as the
flush goes on. The rest is for its last syncs, which take as long as they take."""

_TRICKLE_SECONDS: Final = 0.002
_TRICKLE_BYTES: Final = 64 * limits.KIB
"""Who is ahead of the flush may write so much after each wait of so long, while there is room."""

Check = Callable[[], None]
"""Called under the commit lock before a commit is written; raises to refuse it."""


class WriteSide(ReadSide):
    """See the module. What it is made of is set up by ``core.Engine``.

    Attributes:
        policy: the store's sync policy.
        memtable_bytes: budget of the memtables.
        syncer, compactor: the threads of the engine.
        failure: why the store has stopped for good, or None.
        min_free_bytes: puts are refused where the disk has less; 0 for never.
        slow_seconds: what waits longer for the medium is logged.
        stall_seconds: how long commits waited for room.
    """

    policy: SyncPolicy
    memtable_bytes: int
    syncer: Syncer
    compactor: Compactor
    failure: BaseException | None
    _log: Log
    _memtable: Memtable
    _pack: Callable[[Any], bytes]
    min_free_bytes: int
    slow_seconds: float
    stall_seconds: Recorder
    _room: threading.Condition
    _room_at: int
    """A commit that finds so many bytes in the memtable has to see to something first: to room in
    it, or to whether the disk still has space."""
    _budget_at: int
    _checked_to: float

    def _fail(self, error: BaseException) -> None:
        """Stop for good: what comes next may not be written over lost data."""
        if self.failure is None:
            self.failure = error
            log.error("walkv: %s: the store has failed: %s", self.path, error)
        if self._stop is None:
            self._stop = self._refuse_failed

    def _refuse_failed(self) -> WalkvError:
        error = wal.failed(self.failure or OSError("unknown"))
        error.__cause__ = self.failure
        return error

    # Hot: one put, the commonest commit, or one deletion.
    def append_one(self, key: bytes, value: bytes | None) -> tuple[int, int]:
        """As ``append`` for one put, or for a deletion (None); the commit lock is held."""
        if self._stop is not None:
            raise self._stop()
        memtable = self._memtable
        if memtable.bytes_used >= self._room_at:
            memtable = self._make_room(value is not None)
        older = None
        if memtable.newest_view != NO_VIEW:
            self._drain_released()
            older = memtable.kept_version(memtable.table.get(key))
        sequence = self._sequence + 1
        key_bytes = len(key)
        value_bytes = len(value) if value is not None else 0
        added_bytes = key_bytes + value_bytes + ENTRY_OVERHEAD_BYTES
        tail_log = self._log
        try:
            if value is None:
                memtable.plain = False
            if value is None and key_bytes < SMALL_BYTES:
                payload = KEY_HEADS[key_bytes] + key + DELETION
            elif value is not None and key_bytes < SMALL_BYTES and value_bytes < SMALL_BYTES:
                payload = KEY_HEADS[key_bytes] + key + VALUE_HEADS[value_bytes] + value
            else:
                if value_bytes > _CHECKED_BYTES:
                    self._check_space(value_bytes)
                payload = self._pack((key, value))
            end = tail_log.write(payload, 1, sequence)
        except DiskSpaceError:
            raise  # nothing was begun
        except BaseException as error:
            self._undo(error)
            raise
        # Published: no call below, see invariant 1.
        try:
            tail_log.position = end
            self._sequence = sequence
            memtable.table[key] = (sequence, value, 0, older)
            memtable.bytes_used += added_bytes
        except MemoryError as error:
            self._fail(error)
            raise
        return end, sequence

    def append(self, operations: list[Any], check: Check | None = None) -> tuple[int, int]:
        """Commit a batch; the commit lock is held.

        Args:
            operations: subjects and items in turn, as in ``batch``; not empty, within limits.
        Returns:
            Its position in the log, and the sequence of its last operation.
        """
        self.check()
        memtable = self._memtable
        if memtable.bytes_used >= self._room_at:
            memtable = self._make_room(batch.takes_space(operations))
        if check is not None:
            check()
        self._drain_released()
        first_sequence = self._sequence + 1
        prepared = memtable.prepare(operations, first_sequence)
        count = len(operations) // 2
        changes, update = prepared.changes, memtable.table.update
        added_bytes = prepared.bytes_used - memtable.bytes_used
        if added_bytes > _CHECKED_BYTES and batch.takes_space(operations):
            self._check_space(added_bytes)
        last_sequence = self._sequence + count
        try:
            end = self._log.write(batch.encode(operations), count, first_sequence)
        except BaseException as error:
            self._undo(error)
            raise
        # Published, as above. The one call is of C code, which no signal handler interrupts;
        # readers wait it out, and look at the ranges before they look at the table.
        self._log.position = end
        self._sequence = last_sequence
        memtable.plain = prepared.plain
        self._applying = True
        try:
            update(changes)
        except MemoryError as error:
            self._fail(error)
            raise
        finally:
            memtable.ranges = prepared.ranges
            memtable.range_writes += prepared.range_writes
            memtable.bytes_used = prepared.bytes_used
            self._applying = False
        return end, last_sequence

    def commit(
        self, operations: list[Any], policy: SyncPolicy | None, check: Check | None = None
    ) -> int:
        """Commit a batch and wait as the policy asks; returns its last sequence."""
        with self.commit_lock:
            end, sequence = self.append(operations, check)
        self.acknowledge(end, policy)
        return sequence

    def without_waiting(self, append: Callable[..., T], *arguments: Any) -> T | None:
        """Call what appends, with the commit lock held, if it need not wait; else None."""
        if not self.commit_lock.acquire(blocking=False):
            return None
        try:
            if self._memtable.bytes_used >= self._budget_at and self._stop is None:
                return None
            return append(*arguments)
        finally:
            self.commit_lock.release()

    def ensure_room(self) -> None:
        """See to it that the next append need not wait for room. The commit lock is held.

        It may be let go meanwhile; on return it has been held since there was room.
        """
        self.check()
        while self._memtable.bytes_used >= self._budget_at:
            self._make_room(adds=False)

    # Hot.
    def acknowledge(self, position: int, policy: SyncPolicy | None) -> None:
        """Wait until a commit that ends at ``position`` is acknowledged under a policy.

        Raises:
            StoreFailedError: the sync failed; the commit is visible and may not be durable.
        """
        if policy is None:
            policy = self.policy
        kind = type(policy)
        if kind is WriteBack:
            self.acknowledge_back(position, policy)  # type: ignore[arg-type]  # told by its type
            return
        if kind is WriteThrough:
            self._log.sync()
        else:
            self._log.wait(position)
        self.arm_mark()

    def arm_mark(self) -> None:
        """See to it that a sync marker follows a durable commit, once the log rests."""
        if self.syncer.armed_seconds > IDLE_SECONDS:
            self.syncer.arm(IDLE_SECONDS)

    def acknowledge_back(self, position: int, policy: WriteBack) -> None:
        unsynced_bytes = position - self._log.durable
        syncer = self.syncer
        if unsynced_bytes * 2 > policy.max_unsynced_bytes:
            if unsynced_bytes > policy.max_unsynced_bytes:
                self._log.wait(position - policy.max_unsynced_bytes)
            elif not syncer.requested:
                syncer.request()
        if syncer.armed_seconds > policy.interval_seconds:
            syncer.arm(policy.interval_seconds)
        if not syncer.running:
            if self._fs.threads:
                self._log.wait(position)  # nobody else would sync it in time
            else:
                syncer.poll()
        elif policy == self.policy:
            syncer.allow_quiet(self._log.durable + policy.max_unsynced_bytes // 2)

    @property
    def write_log(self) -> Log:
        return self._log

    def _undo(self, error: BaseException) -> None:
        """Take back a frame that was not written whole.

        Raises:
            OSError: in place of an ``OSError``, and saying more.
            StoreFailedError: it could not be taken back.
        """
        self._log.undo()
        if isinstance(error, OSError):
            raise OSError(
                error.errno,
                f"{error.strerror}: this commit was not written, everything before it is kept, and "
                "the store goes on; free some space or see to the disk, and try again",
                self.path,
            ) from error

    # -- rotation --------------------------------------------------------------------------------

    def _rotate(self) -> None:
        """Seal the tail and go on in a new segment. The commit lock is held.

        Raises:
            OSError: it could not be done; the store is as before, except that the tail may be
                sealed, and the next attempt goes on from there.
        """
        next_sequence = self._sequence + 1
        if next_sequence == self._log.first_sequence:
            next_sequence += 1
        try:
            self._catalog.check_in_place()
            self._log.seal(next_sequence)
            tail = self._log.create_next(next_sequence)
            self._catalog.add_segment(next_sequence)
            self._log.enter(tail)
            self._sequence = next_sequence - 1
        except SyncError as error:
            self._fail(error.error)
            raise wal.failed(error.error) from error.error
        finally:
            self._set_room()

    def _freeze(self) -> None:
        self._drain_released()
        self._rotate()
        self._memtable = self._catalog.freeze(self._sequence + 1)
        self._checked_to = min(self._checked_to, 0)
        self._set_room()

    def _set_room(self) -> None:
        # With nothing frozen, half of the budget fills before the next freeze. While a flush runs
        # writers may use the other half, about as fast as the flush goes on: to wait often for a
        # millisecond or two is better than once for all of it.
        frozen = self._catalog.sources.frozen
        if self._log.sealed:
            # A rotation failed half way: no commit before it has been completed.
            room = 0
        elif frozen:
            whole = max(self.memtable_bytes - sum(f.memtable.bytes_used for f in frozen), 0)
            pace = _HEAD_START + _PACED * self.compactor.progress
            # A flush that fails goes on at no pace: then all of the room is there to be used.
            room = whole if self.compactor.error else int(whole * pace)
        else:
            room = self.memtable_bytes // 2
        self._limit(room)

    def _limit(self, room: int) -> None:
        self._budget_at = room
        self._room_at = room if room < self._checked_to else int(self._checked_to)

    def _check_space(self, added_bytes: int) -> None:
        """See that the disk has space, for a commit and for those after it.

        Raises:
            DiskSpaceError: it has less than it is to keep.
        """
        free_bytes = self._fs.free_bytes(self.path) if self.min_free_bytes else None
        if free_bytes is None:
            self._checked_to = math.inf
            return
        spare_bytes = free_bytes - self.min_free_bytes - added_bytes
        if spare_bytes < 0:
            self._checked_to = 0
            raise DiskSpaceError(
                f"the disk has {free_bytes:,} bytes left, and this store leaves "
                f"{self.min_free_bytes:,} free (min_free_bytes); this commit was not written, "
                "everything before it is kept, reads and deletes go on; free some space",
                path=self.path,
                free_bytes=free_bytes,
                min_free_bytes=self.min_free_bytes,
            )
        self._checked_to = self._memtable.bytes_used + min(spare_bytes // 2, _CHECKED_BYTES)

    def _make_room(self, adds: bool = True) -> Memtable:
        """Freeze the memtable, waiting for the flush before if there must be. Holds the lock.

        Args:
            adds: the commit that wants room puts something.
        Raises:
            OSError: the flush that would make room fails (a full disk, most likely).
            DiskSpaceError: it puts something, and the disk is to be left alone.
        """
        if adds and self._memtable.bytes_used >= self._checked_to:
            self._check_space(0)
            self._limit(self._budget_at)
        if self._memtable.bytes_used < self._budget_at:
            # There is the room that there was: whoever made sure of it must not have to wait.
            return self._memtable
        self._set_room()
        if self._memtable.bytes_used < self._budget_at:
            return self._memtable
        began = self._fs.monotonic()
        try:
            with self.compactor.hurried():
                if self._wait_for_room():
                    return self._memtable
        finally:
            self._note_stall(self._fs.monotonic() - began)
        self._set_room()
        if self._memtable.bytes_used >= self._budget_at:
            try:
                shielded(self._freeze)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{error.strerror}: a new log segment could not be begun; this commit was not "
                    "written, everything before it is kept; free some space",
                    self.path,
                ) from error
            self._start_flush()
        return self._memtable

    def _note_stall(self, seconds: float) -> None:
        if seconds >= _SHORTEST_STALL_SECONDS:
            self.stall_seconds.record(seconds)
            self._log.note_slow("a commit that waited for room in the memtable", seconds)

    def _tell_slow(self, what: str, seconds: float) -> None:
        slow_log.warning("walkv: %s: %s took %.3f s", self.path, what, seconds)

    def _wait_for_room(self) -> bool:
        """Return once there is room in the memtable (True), or it may be frozen."""
        compactor = self.compactor
        attempt = compactor.attempt_count
        paced = False
        while self._catalog.sources.frozen or self._crowded():
            if not self._fs.threads:
                self._flush_inline()
            elif not paced:
                self._wake_compactor()
                paced = not self._wait(_TRICKLE_SECONDS)
            else:
                used, frozen = self._memtable.bytes_used, self._catalog.sources.frozen
                room = self.memtable_bytes - sum(f.memtable.bytes_used for f in frozen)
                if frozen and used < room and not self._log.sealed:
                    self._limit(min(used + _TRICKLE_BYTES, room))
                    return True
                self._wait(_STALL_SECONDS)
            self.check()
            error = compactor.error if compactor.failed_attempt > attempt else None
            # A merge that failed is no reason as long as the flush beside it could make room.
            if error is not None and (self._catalog.sources.frozen or self._crowded()):
                self._refuse_for(error)
            if self._memtable.bytes_used < self._budget_at:
                return True
        return False

    def _wait(self, seconds: float) -> bool:
        """Wait until somebody tells of room; False if nobody did.

        Shielded, since Ctrl-C inside a ``Condition`` can leave it without the lock that it had.
        """
        return shielded(lambda: self._room.wait(seconds))

    def _start_flush(self) -> None:
        if self._fs.threads:
            # Without a thread the next one who needs room tries again.
            with suppress(RuntimeError):
                self.compactor.wake()
        else:
            self._flush_inline()
            self.check()

    def _wake_compactor(self) -> None:
        try:
            self.compactor.wake()
        except RuntimeError as error:
            raise OSError(
                errno.EAGAIN,
                f"the store's memory is full and {error} to write it out; this commit was not "
                "written, everything before it is kept; try again when threads can be had",
                self.path,
            ) from error

    def _refuse_for(self, error: BaseException) -> None:
        """Refuse a commit because the flush that would make room for it has failed."""
        if isinstance(error, OSError):
            raise OSError(
                error.errno,
                f"{error.strerror}: the store's memory is full and cannot be written out, or its "
                "snapshots are too many and cannot be merged; this commit was not written, "
                "everything before it is kept; free some space",
                self.path,
            ) from error
        raise error

    def _flush_inline(self) -> None:
        # The commit that happened to trigger the flush is not its owner: the compactor keeps the
        # error, and whoever runs out of room gets it.
        with suppress(OSError, SyncError, WalkvError):
            self.compactor.work(merge_all=False)

    def _crowded(self) -> bool:
        many = len(self._catalog.sources.snapshots) >= limits.MAX_SNAPSHOTS
        # Where a merge met damage there will be no further one, and commits go on without.
        return many and not isinstance(self.compactor.error, (CorruptionError, FormatError))
