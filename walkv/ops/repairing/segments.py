"""One segment of a damaged store: every frame that is valid, and what is between them.

A frame validates in its own place of its own segment only, so going on behind bad bytes cannot take
a value for a frame. What a gap has cost is told by the sequences on both sides of it.

Invariant: of an encrypted segment no frame counts that does not open, a seal neither: it would hide
what is behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from walkv import limits
from walkv.engine import batch
from walkv.engine import frame as frames
from walkv.engine.cipher import Sealer
from walkv.engine.frame import Frame
from walkv.engine.segment import HEADER_BYTES, Scanner, SegmentHeader, file_name
from walkv.engine.vfs import File
from walkv.errors import CorruptionError, TamperedError
from walkv.ops.repairing.report import CHANGED, Damage

_WINDOW_BYTES: Final = 1 * limits.MIB


class Commit(NamedTuple):
    """A committed batch.

    Attributes:
        operations: subjects and items in turn, as in ``engine.batch``.
    """

    first_sequence: int
    operations: list[Any]


class SegmentFile:
    """An open segment and its salt: the one place where frames become operations.

    Args:
        path: for reports.
        first_sequence: of its first operation.
        follows: the sequence that the next segment begins with, or None for the newest one.
        sealer: what opens it, where it is encrypted.
    Attributes:
        damages: what is wrong with it, once ``commits`` has ended.
        next_sequence: the one behind its last operation, as far as it could be read.
        size: in bytes.
    """

    def __init__(
        self,
        file: File,
        path: str,
        salt: int,
        first_sequence: int,
        follows: int | None,
        sealer: Sealer | None = None,
    ) -> None:
        self._file = file
        self._salt = salt
        self._sealer = sealer
        self._follows = follows
        self.path = path
        self.first_sequence = first_sequence
        self.next_sequence = first_sequence
        self.size = file.size()
        self.damages: list[Damage] = []

    def commits(self) -> Iterator[Commit]:
        """Every batch that can be read, in order. May be called again."""
        self.damages = []
        scanner = self._scanner()
        while True:
            yield from self._valid(scanner)
            if scanner.sealed or not self._pass_over(scanner):
                break
        self._look_at_the_end(scanner)
        self.next_sequence = scanner.next_sequence

    def _scanner(self) -> Scanner:
        # Of the header the scanner needs no more than this.
        return Scanner(self._file, SegmentHeader(b"", self._salt, self.first_sequence, 0))

    def _valid(self, scanner: Scanner) -> Iterator[Commit]:
        """The batches up to where frames are not valid, or do not follow each other."""
        start = scanner.offset
        while True:
            try:
                for found in scanner.frames():
                    opened = self._opened(found, start)
                    commit = None if opened is None else self._commit(opened, start)
                    if opened is None and scanner.sealed:
                        scanner.last = None
                    start = found.end_offset
                    if commit is not None:
                        yield commit
                return
            except CorruptionError as error:
                self._step_into(scanner, error.reason)
                start = scanner.offset

    def _opened(self, found: Frame, start: int) -> Frame | None:
        if self._sealer is None:
            return found
        try:
            return frames.unseal(found, salt=self._salt, offset=start, sealer=self._sealer)
        except TamperedError:
            count = found.operation_count
            # What says that it is no commit has been changed, too.
            last = found.first_sequence + count - 1 if count else None
            self._damage(CHANGED, start, found.end_offset, found.first_sequence, last)
            return None

    def _commit(self, found: Frame, start: int) -> Commit | None:
        if found.kind != frames.COMMIT:
            return None
        try:
            operations = batch.decode(found.payload)
            if len(operations) != 2 * found.operation_count:
                raise ValueError(f"{len(operations) // 2} operations")
        except ValueError as error:
            last = found.first_sequence + found.operation_count - 1
            self._damage(
                f"a valid frame does not decode: {error}",
                start,
                found.end_offset,
                found.first_sequence,
                last,
            )
            return None
        return Commit(found.first_sequence, operations)

    def _step_into(self, scanner: Scanner, reason: str) -> None:
        """Let a scanner go on at a valid frame that does not continue the one before."""
        found = self._frame_at(scanner.offset)
        assert found is not None, "the scanner has just decoded it"
        expected = scanner.next_sequence
        if (found.kind == frames.COMMIT) != (found.operation_count > 0):
            self._damage(reason, scanner.offset, found.end_offset, expected, None)
            scanner.offset = found.end_offset
            return
        self._damage(reason, scanner.offset, scanner.offset, expected, found.first_sequence - 1)
        scanner.next_sequence = found.first_sequence

    def _pass_over(self, scanner: Scanner) -> bool:
        """Move a scanner over bad bytes to the next valid frame; False if there is none to take."""
        start, expected = scanner.offset, scanner.next_sequence
        reason = scanner.stop.reason if scanner.stop else ""
        if start >= self.size or scanner.ends_in_zeros():
            return False
        newest = self._follows is None
        if newest and scanner.promised_past() is None:
            # As recovery judges it: nothing says that these bytes were ever durable.
            self._damage(reason, start, self.size, expected, None, part="torn tail", lost=False)
            return False
        following = self._next_frame(start + 1)
        if following is None:
            last = None if self._follows is None else self._follows - 1
            self._damage(reason, start, self.size, expected, last)
            scanner.next_sequence = self._follows or expected
            return False
        offset, found = following
        self._damage(reason, start, offset, expected, found.first_sequence - 1)
        scanner.offset, scanner.next_sequence = offset, found.first_sequence
        return True

    def _look_at_the_end(self, scanner: Scanner) -> None:
        if scanner.sealed:
            if not scanner.ends_in_zeros():
                reason = "bytes follow the seal"
                expected = scanner.next_sequence
                self._damage(reason, scanner.offset, self.size, expected, expected - 1)
            if self._follows not in (None, scanner.next_sequence):
                self._missing_next(scanner.next_sequence)
        elif self._follows is not None and scanner.next_sequence != self._follows:
            reason = "the segment ends before its seal"
            expected, last = scanner.next_sequence, self._follows - 1
            self._damage(reason, scanner.offset, scanner.offset, expected, last)
            scanner.next_sequence = self._follows

    def _missing_next(self, first_sequence: int) -> None:
        assert self._follows is not None
        if first_sequence < self._follows:
            folder = self.path.rpartition("/")[0]
            path = f"{folder}/{file_name(first_sequence)}"
            reason = "the seal of the segment before names it, and there is no such file"
            last = self._follows - 1
            self.damages.append(
                Damage(path, "segment", reason, first_sequence=first_sequence, last_sequence=last)
            )

    def _damage(
        self,
        reason: str,
        start: int,
        stop: int,
        first: int,
        last: int | None,
        *,
        part: str = "frames",
        lost: bool = True,
    ) -> None:
        # Without a sequence between the two sides it was a marker, which holds nothing.
        empty = last is not None and last < first
        lost = lost and not empty
        sequences = (None, None) if empty else (first, last)
        damage = Damage(self.path, part, reason, start, stop - start, lost, *sequences)
        self.damages.append(damage)

    def opens(self) -> bool:
        """Whether the first valid frame opens."""
        offset = HEADER_BYTES
        found = self._frame_at(offset)
        if found is None:
            following = self._next_frame(offset + 1)
            if following is None:
                return False
            offset, found = following
        return self._opened(found, offset) is not None

    # -- looking for frames ----------------------------------------------------------------------

    def _next_frame(self, start: int) -> tuple[int, Frame] | None:
        """The first valid frame at or behind a place, and where it is."""
        mark = frames.mark(self._salt).to_bytes(3, "little")
        base = start
        while base + frames.HEADER_BYTES < self.size:
            window = self._file.read(base, min(_WINDOW_BYTES, self.size - base))
            at = window.find(mark, frames.CHECKSUM_BYTES)
            while at >= 0:
                offset = base + at - frames.CHECKSUM_BYTES
                found = self._frame_at(offset)
                if found is not None:
                    return offset, found
                at = window.find(mark, at + 1)
            if len(window) <= frames.HEADER_BYTES or base + len(window) >= self.size:
                return None
            base += len(window) - frames.HEADER_BYTES
        return None

    def _frame_at(self, offset: int) -> Frame | None:
        head = self._file.read(offset, frames.HEADER_BYTES)
        claimed = frames.needed_bytes(head, 0, salt=self._salt)
        if claimed <= frames.HEADER_BYTES or offset + claimed > self.size:
            return None
        found = frames.decode(self._file.read(offset, claimed), 0, salt=self._salt, offset=offset)
        return found if isinstance(found, Frame) else None


def proves(file: File, salt: int, *, search: bool) -> bool:
    """Whether a salt makes a frame of a segment valid.

    Args:
        search: look behind the first frame as well.
    """
    segment = SegmentFile(file, "", salt, 0, None)
    if segment._frame_at(HEADER_BYTES) is not None:
        return True
    return search and segment._next_frame(HEADER_BYTES + 1) is not None
