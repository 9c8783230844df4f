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
from collections.abc import Iterator
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
from walkv.errors import CorruptionError, HistoryLostError

POLL_SECONDS: Final = 0.02
"""How often a feed that follows looks whether there is more."""

_TAKEN_BYTES: Final = 1 * limits.MIB
_ATTEMPTS: Final = 50
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
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
        self._next_first = self._find(since)

    def _find(self, since: int | None) -> int:
        """The first sequence of the segment to begin with."""
        unsettled = self._manifest().segments
        firsts = sorted({*keep.kept_segments(self._fs, self._inside), *unsettled})
        oldest = self._oldest(firsts, unsettled[0])
        if since is None:
            return oldest
        if isinstance(self._engine, Engine) and since > self._engine.sequence:
            raise self._ahead(since, self._engine.sequence)
        place = bisect_right(firsts, since + 1) - 1
        if place < 0 or firsts[place] < oldest:
            raise self._lost(since, oldest - 1)
        return firsts[place]

    def _oldest(self, firsts: list[int], unsettled_first: int) -> int:
        """Where the row of segments begins that has no gap up to the unsettled ones."""
        place = firsts.index(unsettled_first)
        while place > 0 and self._sealed_before(firsts[place - 1]) == firsts[place]:
            place -= 1
        return firsts[place]

    def _sealed_before(self, first_sequence: int) -> int | None:
        """The first sequence of the segment that follows a kept one; None if it is gone."""
        try:
            file = self._open(first_sequence)
        except FileNotFoundError:
            return None
        try:
            return self._scan(file, segment.read_header(file, self._store_id)).peek_seal()
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
                    change = _change(found, scanner.header)
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
        yield from scanner.frames()
        if scanner.sealed:
            return
        if scanner.header.first_sequence < self._manifest().segments[-1]:
            yield from scanner.frames()  # it may have been sealed just now
            if not scanner.sealed:
                raise recovery.damage(scanner, "a sealed segment ends before its seal")
        elif reads_only:
            # There is nothing but the file: is this its end, or damage?
            more: list[Frame] = []
            recovery.judge(scanner, lambda: more.extend(scanner.frames()))
            yield from more
            if scanner.next_sequence - 1 < self._since:
                raise self._ahead(self._since, scanner.next_sequence - 1)

    def close(self) -> None:
        """Give the file back."""
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            scanner.file.close()


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


def _change(found: Frame, header: SegmentHeader) -> Change:
    subjects = batch.decode(found.payload)
    operations = tuple(map(_operation, subjects[::2], subjects[1::2]))
    return Change(
        found.first_sequence,
        found.first_sequence + found.operation_count - 1,
        _moment(found.time_ns // 1000),
        operations,
        frame.HEADER_BYTES + len(found.payload) + (SEAL_BYTES if header.key_number else 0),
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
            found = feed.take()
            yield from found
            if not found:
                if not follow:
                    return
                engine.fs.sleep(POLL_SECONDS)
    finally:
        feed.close()
