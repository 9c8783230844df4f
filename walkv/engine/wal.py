"""The log: segments in order, appended to, rotated, and made durable in groups.

A *position* counts the bytes of the log over all its segments since it was opened; it only grows.
Two positions say everything about durability: ``position`` (appended, in the OS's hands) and
``durable`` (covered by a completed sync).

Invariants:
    1. Appending happens under the engine's commit lock. Syncing happens under the sync lock, so
       that commits go on while a sync runs. Where both are held, the commit lock was taken first.
    2. ``durable`` is raised only after a sync returned, to the position read before it began.
    3. ``wait`` returns only once ``durable`` covers the position asked for, or raises.
    4. After a sync has failed nothing is synced again: every waiter gets the error.
    5. A segment is created only after the seal of the one before it is durable, and is appended to
       only after its own creation is durable.
    6. A frame that could not be written whole is cut off again, durably, before anything else is
       written.
    7. A window lies within the file, on zeros that were written; it is closed before the file is
       cut, and before anything else is written behind it.

Source: group commit as in PostgreSQL's ``XLogFlush`` (the first waiter syncs for all who came
before the sync began). A dedicated sync thread for every commit was rejected: it adds two thread
switches to a lone commit.
"""

from __future__ import annotations

import errno
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from xxhash import xxh3_64_digest

from walkv import limits
from walkv.engine import frame, segment
from walkv.engine.frame import SEED_MASK, pack_body
from walkv.engine.keyring import NO_KEYS, Keyring
from walkv.engine.meter import Recorder
from walkv.engine.segment import Tail
from walkv.engine.vfs import NO_WINDOW, WINDOW_ALIGNMENT_BYTES, FileSystem, Window
from walkv.errors import StoreFailedError

_AHEAD: Final = bytes(256 * limits.KIB)
"""Zeros written ahead of small commits: of durable ones, because a sync that changes no file size
is cheaper; of write-back ones, to have a window on them, through which a commit costs no system
call."""

_SMALL_FRAME_BYTES: Final = 8 * limits.KIB
_SMALL_FRAMES: Final = 16
"""So many small frames in a row make it worth while to open a window for the next ones."""

_NO_SPACE_FRAMES: Final = 4096
"""Where there was no space for zeros, so many more have to come before they are tried again."""

_NOTHING: Final = b"\0"
"""The payload of a frame that only marks something: a payload is never empty."""

_SMALL_GROUP_BYTES: Final = 32 * limits.KIB
CROWD: Final = 16
GATHER_SECONDS: Final = 0.000008
"""After a group of at least CROWD the next leader waits so long for each of as many members before
it syncs: with many threads the interpreter lock is what is scarce, and every sync less leaves more
of it."""

_NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class Log:
    """Appends frames to the tail and makes them durable.

    Attributes:
        position: end of what has been appended. Raised by the engine, in the same step that makes
            the commit visible; see ``writes``.
        durable: end of what is on the medium.
        sync_count: completed syncs of frames.
        commit_count: batches written.
        sync_seconds: how long syncs took.
        group_sizes: how many batches a sync covered.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        store_id: bytes,
        tail: Tail,
        on_failure: Callable[[BaseException], None],
        *,
        windowed: bool = False,
        slow_seconds: float = math.inf,
        on_slow: Callable[[str, float], None] = lambda what, seconds: None,
        keyring: Keyring = NO_KEYS,
    ) -> None:
        """Continue a tail that is durable up to its ``offset``.

        Args:
            keyring: the store's keys; new segments are under the newest.
            windowed: write small frames through windows, as most will not be synced one by one.
            slow_seconds: what takes so long is slow.
            on_slow: told what was done and how many seconds it took; called without a lock.
        """
        self._fs = fs
        self._directory = directory
        self._store_id = store_id
        self._keyring = keyring
        self._on_failure = on_failure
        self._on_slow = on_slow
        self._slow_seconds = slow_seconds
        self._slow: deque[tuple[str, float]] = deque()
        self._telling = threading.Lock()
        self._sync_lock = threading.Lock()
        self._group_lock = threading.Lock()
        self._gathering: threading.Lock | None = None
        self._joined = 0
        self._crowd = 0
        self._failure: BaseException | None = None
        self._closed = False
        self._told = False
        self._created: Tail | None = None
        self._windowed = windowed
        self._window: Window = NO_WINDOW
        self._wall_time_ns = fs.wall_time_ns
        self._monotonic = fs.monotonic
        self.sync_count = 0
        self.commit_count = 0
        self.sync_seconds = Recorder()
        self.group_sizes = Recorder()
        self._grouped_count = 0
        self.position = 0
        self.durable = 0
        self._enter(tail)

    def _enter(self, tail: Tail) -> None:
        self._base = tail.base = self.position - tail.offset
        self._salt = tail.header.salt
        self._commit_tag = frame.tag(self._salt, frame.COMMIT)
        self._sealer = self._keyring.for_file(tail.header, tail.file.path)
        self._write_file = tail.file.write
        self._ahead_end = 0
        self._write_ahead = False
        self._close_window()
        self._small_frames = 0
        self._sealed = tail.sealed
        self._marked_at = -1
        self.durable = self.position
        # Last: who finds the new tail here finds its numbers as well.
        self._tail = tail

    @property
    def first_sequence(self) -> int:
        """The first sequence of the tail; it names the segment."""
        return self._tail.header.first_sequence

    @property
    def key_number(self) -> int:
        """The number of the data key that the tail is under; 0 where it is not encrypted."""
        return self._tail.header.key_number

    # Hot: every commit comes through here.
    def write(self, payload: bytes, operation_count: int, first_sequence: int) -> int:
        """Hand one frame to the OS; returns the position after it.

        The caller then either sets ``position`` to that, or calls ``undo``.
        """
        position = self.position
        offset = position - self._base
        body = (
            pack_body(
                self._commit_tag,
                len(payload),
                operation_count,
                first_sequence,
                self._wall_time_ns(),
                self.durable - self._base,
            )
            + payload
        )
        if self._sealer is not None:
            body = frame.seal(body, offset, self._sealer)
        data = xxh3_64_digest(body, (self._salt + offset) & SEED_MASK) + body
        end = position + len(data)
        if end <= self._window_end:
            start = position - self._window_start
            self._window[start : start + len(data)] = data
        elif end <= self._ahead_end or not (self._write_ahead or self._windowed):
            self._write_file(data, offset)
        else:
            self._write_further(data, offset, end)
        self.commit_count += 1
        return end

    def _write_further(self, data: bytes, offset: int, end: int) -> None:
        """Write a frame behind all zeros, and new zeros behind it if more like it will come."""
        self._close_window()
        self._small_frames = self._small_frames + 1 if len(data) <= _SMALL_FRAME_BYTES else 0
        wants_window = self._windowed and self._small_frames >= _SMALL_FRAMES
        if not self._write_ahead and not wants_window:
            self._write_file(data, offset)
            return
        try:
            self._write_file(data + _AHEAD, offset)
            self._ahead_end = end + len(_AHEAD)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            # The zeros are a luxury: the frame alone may still fit.
            self._write_ahead = False
            self._small_frames = -_NO_SPACE_FRAMES
            self._tail.file.truncate(offset)
            self._write_file(data, offset)
            return
        if wants_window:
            self._open_window(offset)

    def _open_window(self, offset: int) -> None:
        start = offset - offset % WINDOW_ALIGNMENT_BYTES
        size = self._ahead_end - self._base - start
        window = self._tail.file.window(start, size)
        if window is not None:
            self._window = window
            self._window_start = self._base + start
            self._window_end = self._ahead_end

    def _close_window(self) -> None:
        self._window_end = 0
        window, self._window = self._window, NO_WINDOW
        window.close()

    def undo(self) -> None:
        """Cut off what a ``write`` that is not to count has left, durably: the caller is told that
        the commit was not made, and a power failure must not bring it back. It may have reached the
        file whole, if only the zeros behind it did not.

        The caller holds the commit lock.

        Raises:
            StoreFailedError: it could not be cut off, so the log cannot go on.
        """
        self._cut_back()
        with self._sync_lock:
            self._sync_tail()

    def _cut_back(self) -> None:
        self._close_window()
        try:
            self._tail.file.truncate(self.position - self._base)
        except OSError as error:
            self._poison(error)
            raise failed(error) from error
        self._ahead_end = self.position

    def _poison(self, error: BaseException) -> None:
        self._failure = error
        self._on_failure(error)
        self._told = True

    def wait(self, position: int) -> None:
        """Return once everything before ``position`` is durable.

        Whoever finds no group gathering begins one and leads it: it waits for the sync that is
        running, closes the group, and syncs for all who joined. Members wait at the group's gate
        and not for the sync lock, where they would queue behind the next sync.

        Raises:
            StoreFailedError: that sync, or an earlier one, failed.
        """
        while self.durable < position:
            mine = threading.Lock()
            mine.acquire()
            # All of it under one ``finally``: a Ctrl-C at any point must not leave a gate shut.
            try:
                with self._group_lock:
                    gate = self._gathering
                    self._joined += 1
                    if gate is None:
                        self._gathering = mine
                if gate is not None:
                    # Opened by the leader, then passed from member to member.
                    with gate:
                        continue
                with self._sync_lock:
                    if self._crowd >= CROWD:
                        self._fs.sleep(self._crowd * GATHER_SECONDS)
                    with self._group_lock:
                        self._gathering = None
                        self._crowd, self._joined = self._joined, 0
                    if self.durable < position:
                        self._sync_tail()
            finally:
                if self._gathering is mine:
                    self._gathering = None
                mine.release()
        self._tell_slow()

    def sync(self) -> None:
        """A sync of its own for everything appended so far."""
        with self._sync_lock:
            if not self._closed:
                self._sync_tail()
        self._tell_slow()

    def note_slow(self, what: str, seconds: float) -> None:
        """Something took so long. It is told once no lock is held: whoever listens may want to
        write to this store, or be slow."""
        if seconds >= self._slow_seconds:
            self._slow.append((what, seconds))

    def _tell_slow(self) -> None:
        # What is told may be slow itself, and have a commit of its own: that is told by the next.
        if not self._slow or not self._telling.acquire(blocking=False):
            return
        try:
            for _ in range(len(self._slow)):
                self._on_slow(*self._slow.popleft())
        finally:
            self._telling.release()

    def _sync_tail(self) -> None:
        if self._failure is not None:
            if not self._told:
                self._poison(self._failure)
            raise failed(self._failure) from self._failure
        target, count = self.position, self.commit_count
        began = self._monotonic()
        try:
            self._tail.file.sync_data()
        except OSError as error:
            # Noted before anything is called: Ctrl-C must not make a failed sync forgotten.
            self._failure = error
            self._poison(error)
            raise failed(error) from error
        except BaseException as error:
            if isinstance(error.__context__, OSError):
                self._poison(error.__context__)
            raise
        self._write_ahead = 0 < target - self.durable <= _SMALL_GROUP_BYTES
        self.durable = target
        self.sync_count += 1
        seconds = self._monotonic() - began
        self.sync_seconds.record(seconds)
        if count > self._grouped_count:
            self.group_sizes.record(count - self._grouped_count)
            self._grouped_count = count
        self.note_slow("a sync of the log", seconds)

    def durable_offset_of(self, first_sequence: int) -> int:
        """How far a segment is known to be durable, if it is the tail; else 0."""
        tail, durable, base = self._tail, self.durable, self._base
        if tail is not self._tail or tail.header.first_sequence != first_sequence:
            return 0
        return durable - base

    def readable_offset_of(self, first_sequence: int, durable: bool) -> int | None:
        """How far a segment may be read, if it is the tail; None if it is not: then to its end."""
        while True:
            tail = self._tail
            end = self.durable if durable else self.position
            if tail is self._tail:
                return end - tail.base if tail.header.first_sequence == first_sequence else None

    @property
    def sealed(self) -> bool:
        """Whether the tail is closed for good, so that a new one must be entered first."""
        return self._sealed

    @property
    def unmarked(self) -> bool:
        """Whether the last frame's durability is not yet stated by a later frame."""
        return self._marked_at != self.position and not self._sealed

    def mark(self, kind: int, next_sequence: int) -> None:
        """Append a frame that only says how far the segment is durable.

        It shrinks the window in which damage to the last commits looks like a torn tail. Itself it
        need not be synced: it is evidence, not data. A seal or close mark also ends the file where
        it ends itself. The caller holds the commit lock.

        Raises:
            OSError: it could not be written; the log is as before.
            StoreFailedError: it could not be taken back.
        """
        before = self.position
        offset = before - self._base
        data = frame.encode(
            _NOTHING,
            salt=self._salt,
            offset=offset,
            operation_count=0,
            first_sequence=next_sequence,
            time_ns=self._wall_time_ns(),
            synced_offset=self.durable - self._base,
            kind=kind,
            sealer=self._sealer,
        )
        try:
            self._write_file(data, offset)
            if kind != frame.SYNC_MARKER:
                self._close_window()
                self._tail.file.truncate(offset + len(data))
        except BaseException:
            self._cut_back()
            if kind == frame.SEAL:
                # If it came back, with commits behind it, that would be damage. Other marks say
                # nothing that is not so, and do no harm. ``seal`` holds the sync lock.
                self._sync_tail()
            raise
        self._marked_at = self.position = before + len(data)

    def seal(self, next_sequence: int) -> None:
        """Close the tail for good, durably. Sealing a sealed tail does nothing.

        The caller holds the commit lock.

        Raises:
            OSError: the seal could not be written; the tail is as before.
            StoreFailedError: the segment was deleted underneath, or its sync failed.
        """
        with self._sync_lock:
            if self._sealed:
                if self.durable < self.position:
                    self._sync_tail()  # a former attempt came no further than to here
                return
            file = self._tail.file
            if file.link_count() == 0:
                gone = FileNotFoundError(
                    errno.ENOENT, "the segment was deleted while it was in use", file.path
                )
                self._poison(gone)
                raise failed(gone) from gone
            self.mark(frame.SEAL, next_sequence)
            self._write_file = _refuse_write
            self._sealed = True
            self._sync_tail()

    def create_next(self, first_sequence: int) -> Tail:
        """The segment after the sealed tail, durable and empty, not yet in use.

        Called again after an attempt that went no further, it gives the same one: a manifest may
        already name it.

        Raises:
            OSError: it could not be made; nothing is left of it.
            SyncError: it could not be made durable.
        """
        if self._created is None or self._created.header.first_sequence != first_sequence:
            self._created = segment.begin(
                self._fs, self._directory, self._store_id, first_sequence, self._keyring
            )
        return self._created

    def enter(self, tail: Tail) -> None:
        """Go on in a segment made by ``create_next``. The caller holds the commit lock."""
        with self._sync_lock:
            old = self._tail.file
            # A segment begins behind its header, so the position moves by that much.
            self.position += tail.offset
            self._enter(tail)
        self._created = None
        old.close()

    def close(self, next_sequence: int) -> None:
        """Sync what is left and say in the log that it ended cleanly.

        The caller holds the commit lock and has seen to it that nothing more is written.
        """
        with self._sync_lock:
            if self._failure is None and not self._sealed:
                self._sync_tail()
                try:
                    self.mark(frame.CLOSE, next_sequence)
                except OSError:
                    # No space for the mark: the store only opens as if it had not been closed.
                    pass
                else:
                    self._sync_tail()
            self._closed = True
        self._tail.file.close()

    def abandon(self) -> None:
        """Close the descriptor and nothing else."""
        self._close_window()
        self._tail.file.close()


def _refuse_write(data: bytes, offset_bytes: int) -> None:
    raise AssertionError("nothing is ever appended behind a seal")


def failed(cause: BaseException) -> StoreFailedError:
    """The error of a store that stopped because of ``cause``."""
    return StoreFailedError(
        f"the store stopped because an earlier write or sync failed ({cause}). What was "
        "acknowledged before is kept; close this store, see to the disk, and open it again"
    )
