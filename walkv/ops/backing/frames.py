"""A segment's frames, scanned from some offset on and handed on as the bytes they are.

Invariants:
    1. Every byte that is handed on belongs to the header or to a frame whose checksum was verified.
    2. Neither zeros written ahead nor a torn end are handed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from walkv.engine import frame, recovery, segment
from walkv.engine.frame import Frame
from walkv.engine.keyring import Keyring
from walkv.engine.segment import Scanner, SegmentHeader
from walkv.engine.vfs import File
from walkv.errors import CorruptionError
from walkv.ops.backing.pacing import CHUNK_BYTES, Pace

_MARK_BYTES = frame.CHECKSUM_BYTES
_HEADER_MARK = segment.HEADER_BYTES - _MARK_BYTES


class Stretch(NamedTuple):
    """The frames from an offset on, in short; the fields are those of ``listings.Piece``."""

    start: int
    end: int
    mark_offset: int
    mark: str
    next_sequence: int
    sealed: bool
    commit_count: int
    first_time_ns: int
    last_time_ns: int
    highest_time_ns: int


class ChangedError(Exception):
    """A segment does not hold any more what it held a moment ago: a commit was taken back."""


class Shifted:
    """A file whose first byte is byte ``start`` of a segment."""

    def __init__(self, file: File, start: int) -> None:
        self._file = file
        self._start = start
        self.path = file.path

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        return self._file.read(offset_bytes - self._start, size_bytes)

    def size(self) -> int:
        return self._start + self._file.size()


def scanner_at(
    file: Any,
    header: SegmentHeader,
    start: int,
    next_sequence: int,
    keyring: Keyring | None = None,
) -> Scanner:
    """A scanner at an offset where a frame begins, or the header (0).

    Args:
        keyring: opens payloads, which else are left as they stand.
    """
    scanner = Scanner(file, header, keyring)
    if start:
        scanner.offset, scanner.next_sequence = start, next_sequence
    return scanner


def survey(scanner: Scanner, start: int, pace: Pace) -> Stretch:
    """Read the frames that a scanner still has, and say what they are."""
    commit_count = first_time_ns = last_time_ns = highest_time_ns = 0
    mark_offset, offset = _HEADER_MARK, scanner.offset
    for found in scanner.frames():
        mark_offset = offset
        pace.passed(found.end_offset - offset)
        offset = found.end_offset
        if found.kind == frame.COMMIT:
            last_time_ns = found.time_ns
            first_time_ns = first_time_ns or last_time_ns
            highest_time_ns = max(highest_time_ns, last_time_ns)
            commit_count += 1
    return Stretch(
        start,
        scanner.offset,
        mark_offset,
        mark_at(scanner.file, mark_offset),
        scanner.next_sequence,
        scanner.sealed,
        commit_count,
        first_time_ns,
        last_time_ns,
        highest_time_ns,
    )


def mark_at(file: Any, offset: int) -> str:
    data: bytes = file.read(offset, _MARK_BYTES)
    return data.hex()


def survey_held(
    file: File,
    header: SegmentHeader,
    start: int,
    next_sequence: int,
    tail: bool,
    keyring: Keyring | None,
    pace: Pace,
) -> Stretch:
    """The frames of a store's segment from an offset on, and a verdict on how they end.

    Raises:
        CorruptionError: durable frames are damaged, or the segment should be sealed and is not.
    """
    scanner = scanner_at(file, header, start, next_sequence, keyring)
    found = survey(scanner, start, pace)

    def read_on() -> None:
        nonlocal found
        found = survey(scanner_at(file, header, start, next_sequence, keyring), start, pace)
        for _ in scanner.frames():
            pass

    state = recovery.judge(scanner, read_on)
    if not tail and (state.torn or not scanner.sealed):
        raise recovery.damage(scanner, "a sealed segment ends before its seal")
    return found


def bytes_of(file: File, header: SegmentHeader, piece: Any, next_sequence: int) -> Iterator[bytes]:
    """The bytes of a stretch that was surveyed before, each frame verified again on its way.

    Args:
        next_sequence: of the first operation behind ``piece.start``.
    Raises:
        ChangedError: they are others now.
    """
    scanner = scanner_at(file, header, piece.start, next_sequence)
    waiting = [file.read(0, segment.HEADER_BYTES)] if piece.start == 0 else []
    waiting_bytes = sum(map(len, waiting))
    mark = waiting[0][_HEADER_MARK:] if waiting else b""
    frames = scanner.frames()
    while scanner.offset < piece.end:
        found = _next(frames)
        if found is None:
            raise ChangedError
        data = _encoded(found, header.salt)
        mark = data[:_MARK_BYTES]
        waiting.append(data)
        waiting_bytes += len(data)
        if waiting_bytes >= CHUNK_BYTES:
            yield b"".join(waiting)
            waiting, waiting_bytes = [], 0
    if scanner.offset != piece.end or mark.hex() != piece.mark:
        raise ChangedError
    if waiting:
        yield b"".join(waiting)


def _next(frames: Iterator[Frame]) -> Frame | None:
    try:
        return next(frames, None)
    except CorruptionError:
        raise ChangedError from None


def _encoded(found: Frame, salt: int) -> bytes:
    """A frame as it stands in its segment: encoding is the inverse of decoding."""
    return frame.encode(
        found.payload,
        salt=salt,
        offset=found.end_offset - frame.HEADER_BYTES - len(found.payload),
        operation_count=found.operation_count,
        first_sequence=found.first_sequence,
        time_ns=found.time_ns,
        synced_offset=found.synced_offset,
        kind=found.kind,
    )


def check_piece(
    file: File, header: SegmentHeader, piece: Any, next_sequence: int, keyring: Keyring | None
) -> None:
    """Hold a piece, alone in a file, against what its listing says of it.

    Raises:
        CorruptionError: it is something else.
    """
    shifted = Shifted(file, piece.start)
    scanner = scanner_at(shifted, header, piece.start, next_sequence, keyring)
    found = survey(scanner, piece.start, Pace())
    expected = tuple(getattr(piece, name) for name in Stretch._fields)
    if tuple(found) != expected or scanner.offset != scanner.file.size():
        raise CorruptionError(
            "these frames are not the ones that the listing names",
            path=file.path,
            offset_bytes=scanner.offset - piece.start,
            expected=f"frames up to byte {piece.end}, sequence {piece.next_sequence}",
            found=f"frames up to byte {found.end}, sequence {found.next_sequence}",
        )


def cut_offset(file: File, header: SegmentHeader, sequence: int, end: int) -> tuple[int, int, int]:
    """Where a segment is to be cut so that a sequence is the last one in it.

    Commits are never split: where the sequence is inside of one, the commit is cut off.

    Args:
        end: where its frames end.
    Returns:
        The offset behind the last commit that is wanted, its last sequence, and its time; the end
        of the header, the sequence before the segment's first, and 0 where none is.
    Raises:
        CorruptionError: they end before.
    """
    scanner = Scanner(file, header, None)
    offset, reached, time_ns = segment.HEADER_BYTES, header.first_sequence - 1, 0
    for found in scanner.frames():
        if found.kind == frame.COMMIT:
            last = found.first_sequence + found.operation_count - 1
            if last > sequence:
                break
            offset, reached, time_ns = found.end_offset, last, found.time_ns
    else:
        if scanner.offset != end:
            raise recovery.damage(scanner, "this segment does not read back as it was written")
    return offset, reached, time_ns


def commits_until(
    file: File, header: SegmentHeader, piece: Any, next_sequence: int, time_ns: int
) -> tuple[int, int]:
    """Last sequence and time of the commits of a piece before the first that is later than a time.

    The sequence before the piece and 0 where the first one is.
    """
    scanner = scanner_at(Shifted(file, piece.start), header, piece.start, next_sequence)
    reached, reached_ns = next_sequence - 1, 0
    for found in scanner.frames():
        if found.kind == frame.COMMIT:
            if found.time_ns > time_ns:
                break
            reached = found.first_sequence + found.operation_count - 1
            reached_ns = found.time_ns
    return reached, reached_ns
