"""One log file: a header, frames, and a seal once it is closed for good.

Layout of the header (little-endian):

    offset  size  field
    ------  ----  ------------------------------------------------------------------
         0     8  magic           b"WALKVLOG"
         8     4  format_version  1
        12     2  features        bit 0: encrypted; other bits are refused with FormatError
        14     2  key_number      number of the data key; 0 where not encrypted
        16    16  store_id        random; the same in every file of a store
        32     8  salt            random; seeds every checksum of this segment
        40     8  first_sequence  sequence of its first operation; also the file's name
        48     8  created_ns      wall clock, ns since 1970
        56     8  checksum        xxh3-64 of bytes 0 to 55, big-endian

    Frames follow from byte 64 on, without gaps. A tail may end in zeros that were written ahead:
    a sync of bytes that change no file size is about a third cheaper.

Invariants:
    1. Frames follow each other in sequence: each begins with the sequence after the one before.
    2. A sealed segment ends with the seal; nothing follows. The seal names the first sequence of
       the next segment.
    3. Reading changes nothing. Where a scan ended, and why, is the caller's to judge.

Source: etcd's ``wal`` for the vocabulary; unlike there, zeros inside the log do not end the read
silently: the caller tells a clean end from a torn one and a torn one from damage.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from xxhash import xxh3_64_digest

from walkv import limits
from walkv.engine import frame as frames
from walkv.engine.cipher import SEAL_BYTES
from walkv.engine.frame import BadFrame, Frame
from walkv.engine.keyring import NO_KEYS, Keyring
from walkv.engine.vfs import File, FileSystem, ReadableFile, SyncError, ensure_synced
from walkv.errors import CorruptionError, FormatError

MAGIC: Final = b"WALKVLOG"
FORMAT_VERSION: Final = 1
HEADER_BYTES: Final = 64
STORE_ID_BYTES: Final = 16
SUFFIX: Final = ".wal"

ENCRYPTED: Final = 1

_HEADER: Final = struct.Struct("<8sIHH16sQQQ")
_READ_BYTES: Final = 1 * limits.MIB
_NO_DESCRIPTOR: Final = frozenset((errno.EMFILE, errno.ENFILE))

assert _HEADER.size + frames.CHECKSUM_BYTES == HEADER_BYTES


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What the first 64 bytes of a segment say."""

    store_id: bytes
    salt: int
    first_sequence: int
    created_ns: int
    key_number: int = 0

    def encode(self) -> bytes:
        body = _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            ENCRYPTED if self.key_number else 0,
            self.key_number,
            self.store_id,
            self.salt,
            self.first_sequence,
            self.created_ns,
        )
        return body + xxh3_64_digest(body)


def file_name(first_sequence: int) -> str:
    """The name of the segment that begins with a sequence: sorts like the sequence."""
    return f"{first_sequence:020d}{SUFFIX}"


def parse_file_name(name: str) -> int | None:
    """The first sequence a segment's name states, or None if it is no segment's name."""
    stem = name.removesuffix(SUFFIX)
    if stem == name or len(stem) != 20 or not stem.isascii() or not stem.isdigit():
        return None
    return int(stem)


def key_number_of(header: bytes) -> int | None:
    """The data key that a file with these first 64 bytes is under, also if it is a snapshot, whose
    header is alike; None where they are damaged."""
    if xxh3_64_digest(header[: _HEADER.size]) != header[_HEADER.size : HEADER_BYTES]:
        return None
    return int(_HEADER.unpack_from(header)[3])


def create(fs: FileSystem, directory: str, header: SegmentHeader) -> File:
    """Create a segment, durable with its name before this returns.

    Raises:
        OSError: it could not be created or written; the file may be left behind.
        SyncError: it could not be made durable.
    Cost: two syncs.
    """
    file = fs.create(fs.join(directory, file_name(header.first_sequence)))
    file.write(header.encode(), 0)
    ensure_synced(file.sync)
    try:
        fs.sync_directory(directory)
    except OSError as error:
        if error.errno in _NO_DESCRIPTOR:
            raise  # it was not even tried, and nothing depends on this segment yet
        raise SyncError(error) from error
    return file


def begin(
    fs: FileSystem,
    directory: str,
    store_id: bytes,
    first_sequence: int,
    keyring: Keyring = NO_KEYS,
) -> Tail:
    """A new segment with a new salt, durable and empty; under the newest of the keys."""
    header = SegmentHeader(
        store_id,
        int.from_bytes(fs.random_bytes(8), "little"),
        first_sequence,
        fs.wall_time_ns(),
        keyring.newest,
    )
    name = file_name(first_sequence)
    if name in fs.list(directory):
        # Left by an attempt that failed half way; nothing was ever appended to it.
        fs.unlink(fs.join(directory, name))
    try:
        file = create(fs, directory, header)
    except OSError:
        if name in fs.list(directory):
            fs.unlink(fs.join(directory, name))
        raise
    return Tail(file, header, HEADER_BYTES)


@dataclass(slots=True)
class Tail:
    """The segment being appended to."""

    file: File
    header: SegmentHeader
    offset: int
    """End of its last frame."""
    sealed: bool = False
    base: int = 0
    """The log's position at its first byte, once the log has entered it."""


def read_header(file: ReadableFile, store_id: bytes) -> SegmentHeader:
    """The header of an open segment.

    Raises:
        FormatError: a format this version does not read.
        CorruptionError: damaged, or the segment of another store, or under another's name.
    """
    header = peek_header(file)
    if header.store_id != store_id:
        raise CorruptionError(
            "this segment belongs to another store",
            path=file.path,
            offset_bytes=16,
            expected=store_id.hex(),
            found=header.store_id.hex(),
        )
    name = file.path.replace("\\", "/").rpartition("/")[2]
    # Under which suffix says whether it is settled, and not which segment it is.
    if parse_file_name(name.partition(".")[0] + SUFFIX) != header.first_sequence:
        raise CorruptionError(
            "this segment has another segment's name",
            path=file.path,
            offset_bytes=40,
            expected=file_name(header.first_sequence),
            found=name,
        )
    return header


def peek_header(file: ReadableFile) -> SegmentHeader:
    """The header of an open segment, whatever store and name it has.

    Raises:
        FormatError: a format this version does not read.
        CorruptionError: damaged.
    """
    data = file.read(0, HEADER_BYTES)
    if len(data) < HEADER_BYTES:
        raise CorruptionError(
            "the file ends inside the segment header",
            path=file.path,
            offset_bytes=0,
            expected=HEADER_BYTES,
            found=len(data),
        )
    fields = _HEADER.unpack_from(data)
    magic, version, features, key_number, store_id, salt, first_sequence, created_ns = fields
    body, checksum = data[: _HEADER.size], data[_HEADER.size :]
    actual = xxh3_64_digest(body)
    known = version == FORMAT_VERSION and features == (ENCRYPTED if key_number else 0)
    if magic == MAGIC and not known and actual == checksum:
        raise FormatError(
            f"{file.path}: segment of format {version}, features {features:#x}, and this walkv "
            f"reads format {FORMAT_VERSION}; open it with a newer walkv",
            path=file.path,
            found_version=version,
            supported=(FORMAT_VERSION,),
        )
    if actual != checksum or magic != MAGIC:
        raise CorruptionError(
            "segment header checksum does not match",
            path=file.path,
            offset_bytes=0,
            expected=checksum.hex(),
            found=actual.hex(),
        )
    return SegmentHeader(store_id, salt, first_sequence, created_ns, key_number)


class Scanner:
    """Reads the frames of a segment in order, and says where and how that ended.

    Attributes:
        offset: end of the last valid frame; where the next one begins.
        next_sequence: the sequence the next frame must begin with.
        last: the last valid frame, its payload as it stands in the file, or None.
        frame_count: valid frames so far.
        stop: why there is no valid frame at ``offset``, once ``frames()`` has ended.
    """

    def __init__(
        self, file: ReadableFile, header: SegmentHeader, keyring: Keyring | None = NO_KEYS
    ) -> None:
        """Begin behind the header.

        Args:
            keyring: the store's keys; None leaves payloads sealed, to look at frames without a key.
        Raises:
            TamperedError: the segment is encrypted and the store is not, or the reverse.
        """
        self.file = file
        self._sealer = None if keyring is None else keyring.for_file(header, file.path)
        self.header = header
        self.rewind()

    def rewind(self) -> None:
        """Begin again with the first frame."""
        self.offset = HEADER_BYTES
        self.next_sequence = self.header.first_sequence
        self.last: Frame | None = None
        self.frame_count = 0
        self.stop: BadFrame | None = None

    @property
    def place(self) -> tuple[int, int, Frame | None, int]:
        """Where it stands, to come back to."""
        return self.offset, self.next_sequence, self.last, self.frame_count

    @place.setter
    def place(self, place: tuple[int, int, Frame | None, int]) -> None:
        self.offset, self.next_sequence, self.last, self.frame_count = place

    @property
    def sealed(self) -> bool:
        return self.last is not None and self.last.kind == frames.SEAL

    def frames(self) -> Iterator[Frame]:
        """The frames from ``offset`` on. May be called again when the file has grown.

        Raises:
            TamperedError: a frame with the right checksum that was not sealed there.
            CorruptionError: a frame with the right checksum that does not continue the one before:
                no crash leaves that behind.
        Cost: reads the file in pieces of 1 MiB, or of one frame where that is longer.
        """
        self.stop = None
        salt = self.header.salt
        decode = frames.decode
        data = b""
        base = self.offset
        while not self.sealed:
            found = decode(data, self.offset - base, salt=salt, offset=self.offset)
            if isinstance(found, BadFrame):
                # Perhaps it only reaches past what was read so far: read from here and look again.
                claimed = frames.needed_bytes(data, self.offset - base, salt=salt)
                if self.offset == base and claimed <= len(data):
                    self.stop = found
                    return
                wanted = min(max(_READ_BYTES, claimed), self.file.size() - self.offset)
                if self.offset == base and wanted <= len(data):
                    self.stop = found
                    return
                data = self.file.read(self.offset, max(wanted, 0))
                base = self.offset
                continue
            opened = self._opened(found, self.offset)
            self._accept(found)
            yield opened

    def _opened(self, found: Frame, offset: int) -> Frame:
        if self._sealer is None:
            return found
        return frames.unseal(found, salt=self.header.salt, offset=offset, sealer=self._sealer)

    def _accept(self, found: Frame) -> None:
        count = found.operation_count
        continues = found.first_sequence == self.next_sequence
        if found.kind == frames.SEAL:
            # A sequence may be left out at a rotation, so that no two segments share a name.
            continues = found.first_sequence - self.next_sequence in (0, 1)
        if not continues or (found.kind == frames.COMMIT) != (count > 0):
            raise CorruptionError(
                "a frame does not continue the one before it",
                path=self.file.path,
                offset_bytes=self.offset,
                expected=f"sequence {self.next_sequence}",
                found=f"sequence {found.first_sequence}, {count} operations",
            )
        self.offset = found.end_offset
        self.next_sequence = found.first_sequence + count
        self.last = found
        self.frame_count += 1

    def peek_seal(self) -> int | None:
        """The first sequence of the next segment, by the seal at the very end of the file; None if
        there is no seal there. Cost: one small read."""
        size = frames.HEADER_BYTES + 1 + (SEAL_BYTES if self.header.key_number else 0)
        offset = max(self.file.size() - size, 0)
        data = self.file.read(offset, size)
        found = frames.decode(data, 0, salt=self.header.salt, offset=offset)
        if not isinstance(found, Frame) or found.kind != frames.SEAL:
            return None
        return self._opened(found, offset).first_sequence

    def still_there(self) -> bool:
        """Whether the last frame is still as it was read: a writer may take back a commit that it
        could not finish, and then write another one in its place."""
        last = self.last
        if last is None:
            return True
        start = last.end_offset - frames.HEADER_BYTES - len(last.payload)
        data = self.file.read(start, last.end_offset - start)
        return frames.decode(data, 0, salt=self.header.salt, offset=start) == last

    def ends_in_zeros(self) -> bool:
        """Whether nothing but zeros follows ``offset``: a clean end, or one lost to a crash."""
        offset, size = self.offset, self.file.size()
        while offset < size:
            data = self.file.read(offset, min(_READ_BYTES, size - offset))
            if not data:
                break
            if data.count(0) != len(data):
                return False
            offset += len(data)
        return True

    def promised_past(self) -> tuple[int, Frame] | None:
        """The first valid frame after ``offset`` that says ``offset`` was already durable.

        Returns its offset and the frame, or None. This is the detector that tells damage from a
        torn tail; what it finds is evidence only and is never replayed.

        Cost: a search for the frame mark, and a checksum for each candidate whose header makes
        that claim.
        """
        size = self.file.size()
        overlap = frames.HEADER_BYTES
        mark = frames.mark(self.header.salt).to_bytes(3, "little")
        base = self.offset + 1
        while base + frames.HEADER_BYTES < size:
            window = self.file.read(base, min(_READ_BYTES, size - base))
            at = window.find(mark, frames.CHECKSUM_BYTES)
            while at >= 0:
                start = at - frames.CHECKSUM_BYTES
                found = self._promise_at(window, start, base + start, size)
                if found is not None:
                    return base + start, found
                at = window.find(mark, at + 1)
            if len(window) <= overlap or base + len(window) >= size:
                return None
            base += len(window) - overlap
        return None

    def _promise_at(self, window: bytes, start: int, offset: int, size: int) -> Frame | None:
        header = window[start : start + frames.HEADER_BYTES]
        claimed = frames.needed_bytes(header, 0, salt=self.header.salt)
        if len(header) < frames.HEADER_BYTES or claimed <= frames.HEADER_BYTES:
            return None
        synced_offset = int.from_bytes(header[36:44], "little")
        if not self.offset < synced_offset <= offset or offset + claimed > size:
            return None
        data = self.file.read(offset, claimed)
        found = frames.decode(data, 0, salt=self.header.salt, offset=offset)
        return found if isinstance(found, Frame) else None
