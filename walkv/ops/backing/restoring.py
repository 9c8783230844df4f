"""Puts a store together from backups, as it was at some moment.

Invariants:
    1. A restore never touches a store: the path must be free. It is built in a directory beside it,
       checked, and renamed to the path in one step. Whatever happens before leaves nothing there.
    2. Every byte was held against the hash in a listing, and the whole store was verified.
    3. The tail ends with a commit, without the mark of a clean close. So the first opener seals it
       and goes on in a new segment, whose salt no backup has: a sequence that was given twice is
       never confused.
    4. A batch is restored whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import time as clock
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from walkv.engine import files, keep, manifest, segment, snapshot
from walkv.engine.manifest import Manifest
from walkv.engine.store import open as open_store
from walkv.engine.vfs import Lock, LockHeldError, OsFileSystem
from walkv.errors import BackupError, CorruptionError
from walkv.ops.backing import frames, listings, moments
from walkv.ops.backing.listings import Listing, Piece, SegmentPart, size_of
from walkv.ops.backing.moments import Moment
from walkv.ops.backing.pacing import Pace, Progress
from walkv.ops.backing.places import open_target
from walkv.ops.backing.reading import read_object
from walkv.ops.backing.targets import Target, make_directory

_CACHE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored.

    Attributes:
        path: the new store.
        backups: names of the backups that it was made of, the newest first.
        sequence: its last operation; where a batch was cut off, less than was asked for.
        time: of its last commit, in UTC; None where its log has none.
        file_count, size_bytes: what was written.
        elapsed_seconds: time that it took.
    """

    path: str
    backups: tuple[str, ...]
    sequence: int
    time: datetime | None
    file_count: int
    size_bytes: int
    elapsed_seconds: float


def restore(
    target: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    backup: str | None = None,
    sequence: int | None = None,
    time: datetime | None = None,
    key: Any = None,
    progress: Progress | None = None,
) -> RestoreReport:
    """Make a store from backups: as the newest one has it, or as it was at some moment.

    Args:
        target: where the backups are.
        path: where the store is to be; there is nothing yet, or an empty directory.
        backup: the name of a backup; with ``sequence`` or ``time`` nothing but this one is used.
        sequence: the last operation that is to be in the store.
        time: the store as it was then, with a time zone: the longest run of commits of which none
            is later. Where the clock was set back, that is less than everything from before.
        key: of an encrypted store.
        progress: called with bytes written and bytes to write; what it raises ends the restore.
    Raises:
        FileNotFoundError: there are no backups, or none of this name.
        BackupError: the moment cannot be reached (``sequences`` and ``times`` say which can), or
            there is something at the path.
        CorruptionError: an object or listing is damaged or missing.
        ValueError: both a sequence and a time; or a time without a zone.
        OSError: it cannot be written. Whatever is raised, there is nothing at the path.
    Cost: reads what is needed from the target, writes it, and reads it again to verify it.
    Durability: the store is durable when this returns.
    """
    began = clock.monotonic()
    if sequence is not None and time is not None:
        raise ValueError("give a sequence or a time, not both")
    place = open_target(target)
    pace = Pace(progress)
    wanted = moments.find(place, backup, sequence, time, pace)
    final = os.path.abspath(os.fsdecode(path))
    with _building(final) as built:
        builder = _Builder(place, built, pace)
        reached, reached_ns = builder.build(wanted)
        _verify(built, reached, key)
        _put_in_place(built, final)
    return RestoreReport(
        path=final,
        backups=wanted.plan.used,
        sequence=reached,
        time=listings.moment(reached_ns) if reached_ns else None,
        file_count=builder.file_count,
        size_bytes=pace.done_bytes,
        elapsed_seconds=clock.monotonic() - began,
    )


# -- the place -------------------------------------------------------------------------------------


def _check_free(path: str) -> None:
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise BackupError(
            f"{path}: there is something here already, and a restore replaces nothing; choose "
            "another path, or move it away"
        )


@contextmanager
def _building(path: str) -> Iterator[str]:
    """A directory beside the path to build in, which goes if the block raises."""
    _check_free(path)
    fs = OsFileSystem()
    above, name = os.path.split(path)
    built = os.path.join(above, f".{name}.restoring")
    make_directory(built)
    lock = _locked(fs, built)
    try:
        for left in os.listdir(built):
            # By a restore that was killed: its lock is free.
            if left != files.LOCK_NAME:
                inside = os.path.join(built, left)
                shutil.rmtree(inside) if os.path.isdir(inside) else os.unlink(inside)
        yield built
    except BaseException:
        shutil.rmtree(built, ignore_errors=True)
        raise
    finally:
        lock.release()


def _locked(fs: OsFileSystem, built: str) -> Lock:
    try:
        return fs.lock(os.path.join(built, files.LOCK_NAME))
    except LockHeldError as error:
        raise BackupError(
            f"{built}: process {error.holder.get('pid')} is restoring to the same path; wait until "
            "it is done"
        ) from None


def _put_in_place(built: str, path: str) -> None:
    fs = OsFileSystem()
    _check_free(path)
    # Over an empty directory or over nothing: the system refuses everything else.
    os.rename(built, path)
    fs.sync_directory(os.path.dirname(path))


def _verify(path: str, sequence: int, key: Any) -> None:
    options = {} if key is None else {"key": key}
    with open_store(path, read_only=True, cache_bytes=_CACHE_BYTES, **options) as store:
        for problem in store.verify().problems:
            raise problem
        found = store.stats().last_sequence
        if found != sequence:
            raise CorruptionError(
                "the restored store does not end where it should",
                path=path,
                expected=f"sequence {sequence}",
                found=f"sequence {found}",
            )


# -- the files -------------------------------------------------------------------------------------


class _Builder:
    """Writes the files of a store into a directory."""

    def __init__(self, place: Target, directory: str, pace: Pace) -> None:
        self._place = place
        self._directory = directory
        self._pace = pace
        self._fs = OsFileSystem()
        self.file_count = 0

    def build(self, wanted: Moment) -> tuple[int, int]:
        """Write them, durably; returns the last sequence, and the time of its commit or 0."""
        plan, fs = wanted.plan, self._fs
        base = plan.base
        parts = [
            part
            for part in plan.segments
            if part.first_sequence <= wanted.sequence or part is plan.segments[0]
        ]
        snapshots = () if base is None else base.snapshots
        self._pace.expect(sum(size_of(piece) for piece in _pieces(parts)))
        self._pace.expect(sum(each.size_bytes for each in snapshots))
        for name in (files.LOG_DIRECTORY, files.SNAPSHOT_DIRECTORY, files.QUARANTINE_DIRECTORY):
            fs.make_directory(fs.join(self._directory, name))
        for each in snapshots:
            name = snapshot.file_name(each.snapshot_id)
            self._write(files.SNAPSHOT_DIRECTORY, name, self._content([each]))
        for part in parts:
            name = segment.file_name(part.first_sequence)
            self._write(files.LOG_DIRECTORY, name, self._content(part.pieces))
        reached = max(plan.settled_sequence, *(p.last.next_sequence - 1 for p in parts[:-1]), 0)
        store_id = bytes.fromhex(plan.history.store_id)
        cut, reached_ns = self._cut(parts[-1], store_id, wanted.sequence)
        reached = max(reached, cut)
        if not reached_ns:
            earlier = [piece for piece in _pieces(parts[:-1]) if piece.commit_count]
            reached_ns = earlier[-1].last_time_ns if earlier else 0
        if plan.history.keep is not None:
            self._write(files.LOG_DIRECTORY, keep.NAME, [plan.history.keep])
        self._write("", manifest.NAME, [self._manifest(plan.base, plan.history, parts)])
        for name in (files.LOG_DIRECTORY, files.SNAPSHOT_DIRECTORY, ""):
            fs.sync_directory(fs.join(self._directory, name))
        return reached, reached_ns

    def _content(self, parts: Any) -> Iterator[bytes]:
        for part in parts:
            yield from read_object(self._place, part)

    def _write(self, folder: str, name: str, chunks: Any) -> None:
        file = self._fs.create(self._fs.join(self._directory, folder, name))
        try:
            offset = 0
            for chunk in chunks:
                file.write(chunk, offset)
                offset += len(chunk)
                self._pace.done(len(chunk))
            file.sync()
        finally:
            file.close()
        self.file_count += 1

    def _cut(self, part: SegmentPart, store_id: bytes, sequence: int) -> tuple[int, int]:
        """Cut the tail behind the last commit that is wanted; returns its sequence and time."""
        name = segment.file_name(part.first_sequence)
        path = self._fs.join(self._directory, files.LOG_DIRECTORY, name)
        file = self._fs.open(path, writable=True)
        try:
            header = segment.read_header(file, store_id)
            offset, reached, time_ns = frames.cut_offset(file, header, sequence)
            file.truncate(offset)
            file.sync()
        finally:
            file.close()
        return reached, time_ns

    def _manifest(self, base: Listing | None, history: Listing, parts: list[SegmentPart]) -> bytes:
        """The manifest of the moment; the base's own bytes where it is the same."""
        source = history if base is None else base
        known = manifest.decode(source.manifest, f"{self._place.path}: {source.name}")
        wanted = tuple(part.first_sequence for part in parts)
        if base is not None and known.segments == wanted:
            return base.manifest
        if base is not None:
            return manifest.encode(known.next(segments=wanted))
        return manifest.encode(_first(known, wanted))


def _pieces(parts: list[SegmentPart]) -> list[Piece]:
    return [piece for part in parts for piece in part.pieces]


def _first(known: Manifest, segments: tuple[int, ...]) -> Manifest:
    """The manifest of a store whose log has everything."""
    return replace(
        known, generation=1, next_snapshot_id=1, last_sequence=0, segments=segments, snapshots=()
    )
