"""The feed of committed batches, read from the segments of the log.

A feed reads the files for itself: from the kept segments, if it has to go back that far, through
the unsettled ones, to the end of the tail; and on from there as more comes. It neither holds up the
writer nor keeps segments from being removed.

Invariants:
    1. Batches come whole, in commit order, each once, and none is left out: where one is no longer
       to be had, ``HistoryLostError`` says so.
    2. On a writing store nothing is read that is not yet published, and with ``durable`` nothing
       that a crash could still take.

Source: PostgreSQL's logical decoding. A queue filled by the commits was rejected: it costs each of
them something, begins only when somebody listens, and has to drop what nobody takes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from walkv import limits
from walkv.engine import batch, frame, keep, manifest, recovery, segment
from walkv.engine.cipher import SEAL_BYTES
from walkv.engine.core import Engine
from walkv.engine.files import LOG_DIRECTORY
from walkv.engine.follower import Follower
from walkv.engine.frame import Frame
from walkv.engine.segment import Scanner, SegmentHeader
from walkv.engine.vfs import File, FileSystem, ReadableFile
from walkv.errors import ClosedError, CorruptionError, HistoryLostError

POLL_SECONDS: Final = 0.02
"""How often a feed that follows looks whether there is more."""

_TAKEN_BYTES: Final = 1 * limits.MIB
_ATTEMPTS: Final = 50
_LATEST: Final = datetime.max.replace(tzinfo=UTC)


class Put(NamedTuple):
    """A key was set; ``expires_at`` is in UTC, None if it does not expire."""

    key: bytes
    value: bytes
    expires_at: datetime | None = None


class Delete(NamedTuple):
    """A key was deleted, if it was there."""

    key: bytes


class DeleteRange(NamedTuple):
    """All keys with ``start <= key < stop`` were deleted; a stop of None has no end."""

    start: bytes
    stop: bytes | None


@dataclass(frozen=True, slots=True)
class Change:
    """One committed batch.

    Attributes:
        first_sequence, last_sequence: of its operations, one number each, in their order.
        time: when it was committed, by the wall clock, in UTC; the clock may have been set since.
        operations: in their order; the last one on a key wins.
        size_bytes: of its frame in the log.
    """

    first_sequence: int
    last_sequence: int
    time: datetime
    operations: tuple[Put | Delete | DeleteRange, ...]
    size_bytes: int


class Feed:
    """Where somebody is in the log of a store; see the module."""

    def __init__(self, engine: Engine | Follower, since: int | None, durable: bool) -> None:
        """Find the place.

        Args:
            since: batches with operations after this sequence; None for all there are.
        Raises:
            HistoryLostError: the log does not reach back so far, or the store has not come so far.
        """
        engine.check()
        if since is not None and (type(since) is not int or since < 0):
            raise ValueError(f"since is a sequence, 0 or more, or None, not {since!r}")
        self._engine = engine
        self._fs: FileSystem = engine.fs
        self._inside = self._fs.join(engine.path, LOG_DIRECTORY)
        self._store_id = engine.catalog.manifest.store_id
        self._durable = durable
        self._keyring = engine.catalog.keyring
        if isinstance(engine, Follower):
            # The manifest is read anew each time, and the reader stays at its own.
            self._keyring = self._keyring.copy()
        self._scanner: Scanner | None = None
        self._since = -1 if since is None else since
        for _ in range(_ATTEMPTS):
            self._next_first = self._find(since)
            # What is open can be read to its end, whatever becomes of its name.
            with suppress(HistoryLostError):
                self._enter()
                return
        raise self._lost(self._next_first - 1, self._manifest().segments[0] - 1)

    def _find(self, since: int | None) -> int:
        """The first sequence of the segment to begin with."""
        engine = self._engine
        if since is not None and isinstance(engine, Engine) and since > engine.sequence:
            raise self._ahead(since, engine.sequence)
        wanted = -1 if since is None else since + 1
        row: list[int] = []
        for _ in range(_ATTEMPTS):
            # A file that changes its name just now may be listed under neither name.
            before, row = row, self._row(wanted)
            if row == before or row[0] <= wanted:
                break
        if since is None:
            return row[0]
        place = bisect_right(row, wanted) - 1
        if place < 0:
            raise self._lost(since, row[0] - 1)
        return row[place]

    def _row(self, wanted: int) -> list[int]:
        """First sequences of segments without a gap up to the tail, back to one that has
        ``wanted``, or as far as there are any."""
        row = list(self._manifest().segments)
        settled = keep.settled_segments(self._fs, self._inside, row[0])
        while settled and row[0] > wanted and self._sealed_before(settled[-1]) == row[0]:
            row.insert(0, settled.pop())
        return row

    def _sealed_before(self, first_sequence: int) -> int | None:
        """The first sequence of the segment that follows a settled one; None if that is gone."""
        try:
            file = self._open(first_sequence)
        except FileNotFoundError:
            return None
        try:
            scanner = self._scan(file, segment.read_header(file, self._store_id))
            found = scanner.peek_seal()
            if found is None:
                # Zeros may stand behind the seal.
                deque(scanner.frames(), maxlen=0)
                found = scanner.next_sequence if scanner.sealed else None
            return found
        finally:
            file.close()

    def _manifest(self) -> manifest.Manifest:
        if isinstance(self._engine, Engine):
            return self._engine.catalog.manifest
        return manifest.read(self._fs, self._engine.path, self._keyring)

    def _scan(self, file: ReadableFile, header: SegmentHeader) -> Scanner:
        return Scanner(file, header, self._keyring)

    def _ahead(self, since: int, last_sequence: int) -> HistoryLostError:
        return HistoryLostError(
            f"{self._engine.path}: the store has come to sequence {last_sequence}, and not to "
            f"{since}; it may have been restored to an earlier moment. Read what it holds, and go "
            "on from its last_sequence",
            since=since,
            oldest=last_sequence,
        )

    def _lost(self, since: int, oldest: int) -> HistoryLostError:
        return HistoryLostError(
            f"{self._engine.path}: the log no longer reaches back to sequence {since}, but to "
            f"{oldest}. Read what the store holds, and go on from its last_sequence; open it with "
            "keep_log=walkv.KeepLog(...) to keep more of the log",
            since=since,
            oldest=oldest,
        )

    def take(self) -> list[Change]:
        """What there is next, about a mebibyte of it; nothing if all that there is was taken.

        Raises:
            HistoryLostError: a segment that was to be read next is gone.
            CorruptionError: the log is damaged.
            ClosedError, StoreFailedError: the store was closed, or has failed.
        """
        self._engine.check()
        changes: list[Change] = []
        try:
            for change in self._further():
                changes.append(change)
                self._since = change.last_sequence
        except (CorruptionError, HistoryLostError):
            # It stands before what is lost: that is said the next time, after what came before.
            if not changes:
                raise
        return changes

    def _further(self) -> Iterator[Change]:
        taken_bytes = 0
        while True:
            scanner = self._scanner or self._enter()
            if scanner is None:
                return
            for found in self._frames(scanner):
                last_sequence = found.first_sequence + found.operation_count - 1
                if found.kind == frame.COMMIT and last_sequence > self._since:
                    change = _change(found, scanner)
                    yield change
                    taken_bytes += change.size_bytes
                    if taken_bytes >= _TAKEN_BYTES:
                        return
            if not scanner.sealed:
                return
            self._next_first = scanner.next_sequence
            self.close()

    def _enter(self) -> Scanner | None:
        """Begin the next segment; None if it is not there yet."""
        for _ in range(_ATTEMPTS):
            # Before the file is looked for: it goes, or changes its name, only after that.
            unsettled = self._manifest().segments
            try:
                file = self._open(self._next_first)
            except FileNotFoundError:
                if self._next_first > unsettled[-1]:
                    return None
                if self._next_first >= unsettled[0]:
                    continue  # settled just now
                raise self._lost(self._next_first - 1, unsettled[0] - 1) from None
            if self._next_first > unsettled[-1]:
                # Nothing is in it before the manifest names it, and it may be made once more.
                file.close()
                return None
            try:
                header = segment.read_header(file, self._store_id)
                readable = _Readable(file, self._engine, header, self._durable)
                self._scanner = self._scan(readable, header)
            except BaseException:
                file.close()
                raise
            return self._scanner
        raise recovery.missing(
            self._fs.join(self._inside, segment.file_name(self._next_first)), "segment"
        )

    def _open(self, first_sequence: int) -> File:
        try:
            return self._fs.open(self._fs.join(self._inside, segment.file_name(first_sequence)))
        except FileNotFoundError:
            return self._fs.open(self._fs.join(self._inside, keep.kept_name(first_sequence)))

    def _frames(self, scanner: Scanner) -> Iterator[Frame]:
        """The frames that may be read now."""
        reads_only = isinstance(self._engine, Follower)
        last = scanner.last
        if reads_only and last is not None and not scanner.still_there():
            # The writer has taken it back, as nobody had been told that it is there to stay.
            self._since = min(self._since, last.first_sequence - 1)
            scanner.rewind()
        readable = scanner.file.size()
        yield from scanner.frames()
        if scanner.sealed:
            return
        if scanner.header.first_sequence < self._manifest().segments[-1]:
            yield from scanner.frames()  # it may have been sealed just now
            if not scanner.sealed:
                raise recovery.damage(scanner, "a sealed segment ends before its seal")
        elif not reads_only:
            if scanner.offset < readable:
                raise recovery.damage(scanner, "a frame that was published is damaged")
        else:
            # There is nothing but the file: is this its end, or damage?
            before = scanner.place
            try:
                recovery.judge(scanner, lambda: _read_on(scanner))
            finally:
                # Whoever takes frames may stop between any two: they are read again, one by one.
                scanner.place = before
            yield from scanner.frames()
            if scanner.next_sequence - 1 < self._since:
                raise self._ahead(self._since, scanner.next_sequence - 1)

    def close(self) -> None:
        """Give the file back."""
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            scanner.file.close()


def _read_on(scanner: Scanner) -> None:
    deque(scanner.frames(), maxlen=0)


class _Readable:
    """A segment as far as a feed may read it; see ``vfs.ReadableFile``."""

    def __init__(
        self, file: File, engine: Engine | Follower, header: SegmentHeader, durable: bool
    ) -> None:
        self._file = file
        self._engine = engine
        self._header = header
        self._durable = durable
        self.path = file.path

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        return self._file.read(offset_bytes, min(size_bytes, max(self.size() - offset_bytes, 0)))

    def size(self) -> int:
        size = self._file.size()
        if isinstance(self._engine, Engine):
            log = self._engine.write_log
            readable = log.readable_offset_of(self._header.first_sequence, self._durable)
            if readable is not None:
                return min(readable, size)
        return size

    def close(self) -> None:
        self._file.close()


def _change(found: Frame, scanner: Scanner) -> Change:
    sealed_bytes = SEAL_BYTES if scanner.header.key_number else 0
    size_bytes = frame.HEADER_BYTES + len(found.payload) + sealed_bytes
    try:
        subjects = batch.decode(found.payload)
    except ValueError as error:
        raise CorruptionError(
            f"a valid frame does not decode: {error}",
            path=scanner.file.path,
            offset_bytes=found.end_offset - size_bytes,
        ) from None
    operations = tuple(map(_operation, subjects[::2], subjects[1::2]))
    return Change(
        found.first_sequence,
        found.first_sequence + found.operation_count - 1,
        _moment(found.time_ns // 1000),
        operations,
        size_bytes,
    )


def _operation(subject: Any, item: Any) -> Put | Delete | DeleteRange:
    if type(subject) is list:
        return DeleteRange(subject[0], subject[1])
    if item is None:
        return Delete(subject)
    if type(item) is list:
        return Put(subject, item[1], _moment(item[0] * 1000))
    return Put(subject, item)


def _moment(microseconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(microseconds / 1e6, UTC)
    except (OverflowError, ValueError, OSError):
        return _LATEST


def changes(
    engine: Engine | Follower, since: int | None, *, follow: bool, durable: bool
) -> Iterator[Change]:
    """See ``Store.changes``."""
    return _iterate(Feed(engine, since, durable), engine, follow)


def _iterate(feed: Feed, engine: Engine | Follower, follow: bool) -> Iterator[Change]:
    try:
        while not engine.closed:
            try:
                found = feed.take()
            except ClosedError:
                return
            yield from found
            if not found:
                if not follow:
                    return
                engine.fs.sleep(POLL_SECONDS)
    finally:
        feed.close()
