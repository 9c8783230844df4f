"""The log as it lies on disk: every frame that is there, with its place.

What a frame holds is not looked into, so no key is needed for an encrypted store.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from walkv.engine import files, frame, keep, manifest, segment
from walkv.engine.frame import Frame
from walkv.engine.segment import Scanner
from walkv.engine.vfs import FileSystem, OsFileSystem

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ATTEMPTS: Final = 20
"""A writer that settles segments again and again lets nobody list them; it has to rest."""

Kind = Literal["commit", "marker", "seal", "close"]

_KINDS: Final[dict[int, Kind]] = {
    frame.COMMIT: "commit",
    frame.SYNC_MARKER: "marker",
    frame.SEAL: "seal",
    frame.CLOSE: "close",
}


class LoggedFrame(NamedTuple):
    """A frame of the log.

    Attributes:
        segment: name of its file.
        offset_bytes: where it begins there.
        first_sequence: of its first operation; of other kinds than commit, of the next one to come.
        operation_count: 0 for other kinds than commit.
        time: by the writer's clock.
        size_bytes: with its header.
        synced_bytes: so much of the segment was known to be on the medium when it was written.
    """

    segment: str
    offset_bytes: int
    kind: Kind
    first_sequence: int
    operation_count: int
    time: datetime
    size_bytes: int
    synced_bytes: int

    @property
    def last_sequence(self) -> int:
        """Of its last operation; of other kinds than commit, as ``first_sequence``."""
        return self.first_sequence + max(self.operation_count - 1, 0)


def frames(
    directory: str, since: int = 0, until: int | None = None, *, reverse: bool = False
) -> Iterator[LoggedFrame]:
    """The frames of the log that is there, kept segments included, oldest first.

    Args:
        since: only frames that have operations after this sequence.
        until: only frames that begin at this sequence or before it.
        reverse: newest first.
    Raises:
        FileNotFoundError, FormatError: there is no store.
        CorruptionError: the manifest, or the header or the order of a segment, is damaged. Bytes
            that are no frame end the reading of a segment without an error: ``verify`` judges.
    Cost: reads the segments that may have such frames.
    """
    fs = OsFileSystem()
    path = fs.absolute(directory)
    segments = _open_segments(fs, path, since, until)
    try:
        for scanner in reversed(segments) if reverse else segments:
            found = _wanted(scanner, since, until)
            yield from reversed(list(found)) if reverse else found
    finally:
        for scanner in segments:
            scanner.file.close()


def _open_segments(fs: FileSystem, path: str, since: int, until: int | None) -> list[Scanner]:
    """Scanners of the segments that may have something, all open, so that none goes meanwhile."""
    inside = fs.join(path, files.LOG_DIRECTORY)
    for attempt in range(_ATTEMPTS):
        known = manifest.look(fs, path)
        names = {first: keep.kept_name(first) for first in keep.kept_segments(fs, inside)}
        names |= {first: segment.file_name(first) for first in known.segments}
        firsts = sorted(names)
        opened: list[Scanner] = []
        try:
            for first, following in zip(firsts, [*firsts[1:], None], strict=True):
                if until is not None and first > until:
                    break
                if following is not None and following <= since + 1:
                    continue
                file = fs.open(fs.join(inside, names[first]))
                opened.append(Scanner(file, segment.read_header(file, known.store_id), None))
        except FileNotFoundError:
            for scanner in opened:
                scanner.file.close()
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return opened
    raise AssertionError("the last attempt returns or raises")


def _wanted(scanner: Scanner, since: int, until: int | None) -> Iterator[LoggedFrame]:
    name = scanner.file.path.rpartition("/")[2]
    for found in scanner.frames():
        if until is not None and found.first_sequence > until:
            return
        made = _logged(name, found)
        if made.last_sequence > since:
            yield made


def _logged(name: str, found: Frame) -> LoggedFrame:
    size_bytes = frame.HEADER_BYTES + len(found.payload)
    return LoggedFrame(
        name,
        found.end_offset - size_bytes,
        _KINDS[found.kind],
        found.first_sequence,
        found.operation_count,
        _EPOCH + timedelta(microseconds=found.time_ns // 1000),
        size_bytes,
        found.synced_offset,
    )
