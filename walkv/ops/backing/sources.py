"""The files of a store that may be written to meanwhile, held open so that they stay.

Invariants:
    1. What is held is a moment of the store: a manifest and every file that it names. Files that
       are merged or flushed away afterwards live on while they are open. Segments that are kept
       beyond that are read as long as they are there.
    2. Nothing is locked and nothing is written.

Source: as ``engine.follower`` does it, whose attempts are the same. A hard link to each file was
rejected: it needs the same file system, and leaves links behind when the process is killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Final, NamedTuple, Self, cast

from walkv import limits
from walkv.engine import files, keep, manifest, segment, snapshot
from walkv.engine.keyring import Keyring, Secret
from walkv.engine.manifest import Manifest
from walkv.engine.segment import SegmentHeader
from walkv.engine.snapshot import SnapshotSummary
from walkv.engine.vfs import File, OsFileSystem
from walkv.errors import CorruptionError, FormatError
from walkv.ops.backing.pacing import Pace
from walkv.ops.backing.rings import unlocked

_ATTEMPTS: Final = 200
_LONGEST_KEEP: Final = 64 * limits.KIB


class HeldSnapshot(NamedTuple):
    """A snapshot file, open."""

    summary: SnapshotSummary
    file: File


class HeldSegment(NamedTuple):
    """A segment file, open; or a settled one, which goes when it is kept no more.

    ``tail``: it is the newest, and may be growing.
    """

    header: SegmentHeader
    file: File
    tail: bool


class Source:
    """The store as it is right now. A context manager that lets go of the files.

    Raises:
        FileNotFoundError: there is no store.
        FormatError: not a store, or of a format that this version does not read.
        CorruptionError: the manifest is damaged, or a file that it names is missing.
        EncryptionError: the key does not fit the store.

    Attributes:
        time_ns: when it was looked at.
        manifest, manifest_bytes: decoded, and as it was.
        keyring: the store's keys; None where it is encrypted and there is no key.
        keep_bytes: what ``log/KEEP`` holds, or None.
        snapshots: as the manifest names them.
        segments: kept ones first, then those the manifest names; each continues the one before.
        passed_over: what is wrong with a kept segment. It leaves a gap, and nothing else needs it.
    """

    manifest: Manifest
    manifest_bytes: bytes
    keyring: Keyring | None
    keep_bytes: bytes | None
    snapshots: list[HeldSnapshot]
    segments: list[HeldSegment]
    passed_over: list[CorruptionError | FormatError]

    def __init__(self, path: str, secret: Secret | None, pace: Pace) -> None:
        self._fs = OsFileSystem()
        self._secret = secret
        self.path = self._fs.absolute(path)
        if not self._fs.is_directory(self.path) or files.is_new(self._fs, self.path):
            raise FileNotFoundError(2, "there is no walkv store here", self.path)
        for attempt in range(_ATTEMPTS):
            self._files = ExitStack()
            try:
                self._hold()
                return
            except (FileNotFoundError, CorruptionError) as error:
                # The files may have changed hands while they were opened.
                self._files.close()
                if attempt == _ATTEMPTS - 1 or (attempt > 1 and self._unchanged()):
                    raise _damaged(error) from None
                pace.nap(0.01)
            except BaseException:
                self._files.close()
                raise

    def _hold(self) -> None:
        fs, path = self._fs, self.path
        manifest_path = fs.join(path, manifest.NAME)
        self._fingerprint = fs.fingerprint(manifest_path)
        self.time_ns = fs.wall_time_ns()
        self.manifest_bytes = fs.read_file(manifest_path, limits.MAX_MANIFEST_BYTES)
        self.manifest, self.keyring = unlocked(self.manifest_bytes, manifest_path, self._secret)
        known = self.manifest
        log_directory = fs.join(path, files.LOG_DIRECTORY)
        self.snapshots = [
            HeldSnapshot(
                summary,
                self._open(files.SNAPSHOT_DIRECTORY, snapshot.file_name(summary.snapshot_id)),
            )
            for summary in known.snapshots
        ]
        self.segments = [
            self._segment(first, first == known.segments[-1]) for first in known.segments
        ]
        self.segments = [*self._settled(log_directory, known.segments[0]), *self.segments]
        self.keep_bytes = None
        if keep.NAME in fs.list(log_directory):
            self.keep_bytes = fs.read_file(fs.join(log_directory, keep.NAME), _LONGEST_KEEP)

    def _settled(self, log_directory: str, oldest: int) -> list[HeldSegment]:
        """The segments before the oldest unsettled one: kept, or about to get that name."""
        fs = self._fs
        logged = set(filter(None, map(segment.parse_file_name, fs.list(log_directory))))
        held = []
        self.passed_over = []
        for first in sorted({*keep.kept_segments(fs, log_directory), *logged}, reverse=True):
            if first < oldest:
                file = cast(File, _Reopened(fs, log_directory, first))
                try:
                    held.append(HeldSegment(self._header(file, first), file, False))
                except FileNotFoundError:
                    break  # the oldest are removed as time goes by
                except (CorruptionError, FormatError) as error:
                    self.passed_over.append(error)
                    break
        return held[::-1]

    def _unchanged(self) -> bool:
        try:
            found = self._fs.fingerprint(self._fs.join(self.path, manifest.NAME))
        except FileNotFoundError:
            return False
        return found == self._fingerprint

    def _open(self, folder: str, name: str) -> File:
        file = self._fs.open(self._fs.join(self.path, folder, name))
        self._files.callback(file.close)
        return file

    def _segment(self, first_sequence: int, tail: bool) -> HeldSegment:
        file = self._open(files.LOG_DIRECTORY, segment.file_name(first_sequence))
        return HeldSegment(self._header(file, first_sequence), file, tail)

    def _header(self, file: File, first_sequence: int) -> SegmentHeader:
        header = segment.peek_header(file)
        if (header.store_id, header.first_sequence) != (self.store_id, first_sequence):
            raise CorruptionError(
                "this segment belongs to another store or has another segment's name",
                path=file.path,
                offset_bytes=16,
                expected=f"{self.store_id.hex()} {first_sequence}",
                found=f"{header.store_id.hex()} {header.first_sequence}",
            )
        return header

    @property
    def store_id(self) -> bytes:
        return self.manifest.store_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.close()


def _damaged(error: FileNotFoundError | CorruptionError) -> CorruptionError:
    if isinstance(error, CorruptionError):
        return error
    return CorruptionError(
        "the manifest names this file, and it is missing", path=str(error.filename)
    )


class _Reopened:
    """A settled segment, opened for each read: there may be more of them than a process may hold.

    Raises:
        FileNotFoundError: from any method, once it is kept no more.
    """

    def __init__(self, fs: OsFileSystem, log_directory: str, first_sequence: int) -> None:
        self._fs = fs
        self._log_directory = log_directory
        self._first = first_sequence
        self.path = fs.join(log_directory, keep.kept_name(first_sequence))

    @contextmanager
    def _opened(self) -> Iterator[File]:
        file = self._open()
        try:
            yield file
        finally:
            file.close()

    def _open(self) -> File:
        # By the name that it keeps last: it may get that while it is looked for under the other.
        unsettled = self._fs.join(self._log_directory, segment.file_name(self._first))
        for path in (self.path, unsettled):
            with suppress(FileNotFoundError):
                return self._fs.open(path)
        return self._fs.open(self.path)

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        with self._opened() as file:
            return file.read(offset_bytes, size_bytes)

    def size(self) -> int:
        with self._opened() as file:
            return file.size()
