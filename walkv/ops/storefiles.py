"""The files of a store, looked at without opening it: nothing is locked, changed or replayed.

Invariant: what is said here of a store can be said of one that does not open, as far as its
manifest can be read. No key is taken, so of an encrypted store it is what the files say: who can
write to the directory can have them say what they like.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from walkv.engine import files, keep, manifest, segment, snapshot
from walkv.engine.keep import KeepLog
from walkv.engine.manifest import Manifest
from walkv.engine.vfs import FileSystem, OsFileSystem
from walkv.engine.watch import Published, published
from walkv.errors import FormatError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CREATED_AT: Final = slice(48, 56)
"""Where headers of segments and snapshots have their time; see ``docs/format.md``."""


class SegmentFile(NamedTuple):
    """A segment of the log.

    Attributes:
        state: ``tail`` is being written, ``sealed`` waits to be settled, ``kept`` is settled and
            stays for who looks back.
        created: when it was begun; None if its header cannot be read.
    """

    first_sequence: int
    state: Literal["kept", "sealed", "tail"]
    size_bytes: int
    created: datetime | None


class SnapshotFile(NamedTuple):
    """A snapshot.

    Attributes:
        last_sequence: no entry in it is newer.
        created: None if its header cannot be read.
    """

    snapshot_id: int
    size_bytes: int
    entry_count: int
    tombstone_count: int
    last_sequence: int
    created: datetime | None


@dataclass(frozen=True)
class StoreFiles:
    """A store as its files are.

    Attributes:
        store_id: as hex digits.
        created: when the store was made.
        segments, snapshots: the oldest first.
        keep_log: how much of the settled log is kept; None if nothing is.
        quarantined: names of files in ``quarantine/``.
        leftovers: unfinished files, which the next writer removes.
        holder: who has it open for writing.
    """

    path: str
    format_version: int
    encrypted: bool
    store_id: str
    created: datetime
    segments: tuple[SegmentFile, ...]
    snapshots: tuple[SnapshotFile, ...]
    keep_log: KeepLog | None
    quarantined: tuple[str, ...]
    quarantine_bytes: int
    leftovers: tuple[str, ...]
    holder: Published | None

    @property
    def newest(self) -> datetime:
        """The time of its newest file."""
        times = [each.created for each in self.segments]
        times += [each.created for each in self.snapshots]
        return max([self.created, *(time for time in times if time is not None)])


def examine(directory: str) -> StoreFiles | None:
    """Look at the files of a store; None if there is none.

    Raises:
        FormatError: it holds something else, or a store of a newer format.
        CorruptionError: its manifest is damaged or missing, or what it is set to keep is.
        OSError: from the file system.
    Cost: a read of the manifest, and of the header of each file.
    """
    fs = OsFileSystem()
    path = fs.absolute(directory)
    if os.path.lexists(path) and not os.path.isdir(path):
        raise FormatError(
            f"{path}: this is a file, and a walkv store is a directory; choose another path",
            path=path,
            supported=manifest.VERSIONS,
        )
    if not os.path.isdir(path) or files.is_new(fs, path):
        return None
    known = manifest.look(fs, path)
    encrypted = known.ring is not None
    quarantined = _names(fs, fs.join(path, files.QUARANTINE_DIRECTORY))
    inside = [fs.join(path, files.QUARANTINE_DIRECTORY, name) for name in quarantined]
    return StoreFiles(
        path,
        manifest.ENCRYPTED_VERSION if encrypted else manifest.FORMAT_VERSION,
        encrypted,
        known.store_id.hex(),
        _time(known.created_ns),
        tuple(_segments(fs, path, known)),
        tuple(_snapshots(fs, path, known)),
        keep.read_setting(fs, fs.join(path, files.LOG_DIRECTORY)),
        tuple(quarantined),
        sum(_size(each) or 0 for each in inside),
        tuple(_leftovers(fs, path, known)),
        published(fs, path),
    )


def _segments(fs: FileSystem, path: str, known: Manifest) -> list[SegmentFile]:
    found: list[SegmentFile] = []
    for first_sequence in keep.kept_segments(fs, fs.join(path, files.LOG_DIRECTORY)):
        name = fs.join(path, files.LOG_DIRECTORY, keep.kept_name(first_sequence))
        found.append(SegmentFile(first_sequence, "kept", _size(name) or 0, _created(name)))
    for first_sequence in known.segments:
        name = fs.join(path, files.LOG_DIRECTORY, segment.file_name(first_sequence))
        size_bytes = _size(name)
        if size_bytes is None:
            continue  # settled since the manifest was read, or missing, as opening will say
        newest = first_sequence == known.segments[-1]
        state: Literal["sealed", "tail"] = "tail" if newest else "sealed"
        found.append(SegmentFile(first_sequence, state, size_bytes, _created(name)))
    return found


def _snapshots(fs: FileSystem, path: str, known: Manifest) -> list[SnapshotFile]:
    found = []
    for each in reversed(known.snapshots):
        name = fs.join(path, files.SNAPSHOT_DIRECTORY, snapshot.file_name(each.snapshot_id))
        found.append(
            SnapshotFile(
                each.snapshot_id,
                each.size_bytes,
                each.entry_count,
                each.tombstone_count,
                each.last_sequence,
                _created(name),
            )
        )
    return found


def _leftovers(fs: FileSystem, path: str, known: Manifest) -> list[str]:
    found = [manifest.TEMPORARY_NAME] if manifest.TEMPORARY_NAME in fs.list(path) else []
    wanted = set(known.segments)
    for name in _names(fs, fs.join(path, files.LOG_DIRECTORY)):
        first_sequence = segment.parse_file_name(name)
        if first_sequence is not None and first_sequence not in wanted:
            found.append(f"{files.LOG_DIRECTORY}/{name}")
    named = {snapshot.file_name(each.snapshot_id) for each in known.snapshots}
    for name in _names(fs, fs.join(path, files.SNAPSHOT_DIRECTORY)):
        if snapshot.parse_file_name(name) is not None and name not in named:
            found.append(f"{files.SNAPSHOT_DIRECTORY}/{name}")
    return found


def _names(fs: FileSystem, directory: str) -> list[str]:
    with suppress(FileNotFoundError):
        return fs.list(directory)
    return []


def _size(path: str) -> int | None:
    with suppress(FileNotFoundError):
        return os.stat(path).st_size
    return None


def _created(path: str) -> datetime | None:
    try:
        with open(path, "rb") as file:
            header = file.read(_CREATED_AT.stop)
    except FileNotFoundError:
        return None
    stamp = header[_CREATED_AT]
    return _time(int.from_bytes(stamp, "little")) if len(stamp) == 8 else None


def _time(since_1970_ns: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=since_1970_ns // 1000)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
