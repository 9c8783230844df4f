"""Puts a store together from backups, as it was at some moment.

Invariants:
    1. A restore never touches a store: the path must be free, and a store appears there in one
       step, whole and checked.
    2. Every byte was held against the hash in a listing, and the whole store was verified; or, of
       an encrypted store without its key, what can be told by checksums.
    3. The tail ends with a commit, without the mark of a clean close. So the first opener seals it
       and goes on in a new segment, whose salt no backup has: a sequence that was given twice is
       never confused.
    4. A batch is restored whole or not at all.
    5. The manifest of an encrypted store has the data keys of every file that it names. With a key,
       that is the one that opens the store; without, the one that the store had.
"""

from __future__ import annotations

import os
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from walkv import limits
from walkv.engine import files, keep, manifest, recovery, segment, snapshot
from walkv.engine.inspect import Progress
from walkv.engine.keyring import Key, Keyring, Secret
from walkv.engine.manifest import Manifest
from walkv.engine.opening import given_secret
from walkv.engine.store import open as open_store
from walkv.engine.vfs import OsFileSystem
from walkv.errors import CorruptionError
from walkv.ops.backing import frames, listings, moments, rings
from walkv.ops.backing.contents import Checked, check_snapshot, checked
from walkv.ops.backing.listings import Piece, SegmentPart, size_of
from walkv.ops.backing.pacing import Pace
from walkv.ops.backing.places import open_target
from walkv.ops.backing.plans import Moment
from walkv.ops.backing.reading import read_object
from walkv.ops.backing.targets import Target
from walkv.ops.placing import building

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
        checked: the store was read and verified, ``"contents"``; or, encrypted and without a key,
            its ``"checksums"`` alone.
        elapsed_seconds: time that it took.
    """

    path: str
    backups: tuple[str, ...]
    sequence: int
    time: datetime | None
    file_count: int
    size_bytes: int
    checked: Checked
    elapsed_seconds: float


def restore(
    target: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    backup: str | None = None,
    sequence: int | None = None,
    time: datetime | None = None,
    key: Key | None = None,
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
        key: of an encrypted store; by default ``WALKV_KEY``. It opens the restored store. Without
            one a backup is restored as it is, and then the key is that which the store had.
        progress: called with bytes written and bytes to write; what it raises ends the restore.
    Raises:
        FileNotFoundError: there are no backups, or none of this name.
        BackupError: the moment cannot be reached (``sequences`` and ``times`` say which can).
        FileExistsError: there is something at the path.
        LockedError: somebody else is restoring to it.
        EncryptionError: there is no key, and one is needed for a moment between backups; or the key
            is not that of these backups.
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
    secret = given_secret(key)
    as_it_was = sequence is None and time is None
    made = _manifest(place, wanted, secret, as_it_was)
    final = os.path.abspath(os.fsdecode(path))
    with building(final, "restoring") as built:
        builder = _Builder(place, built, pace)
        reached, reached_ns = builder.build(wanted, made)
        _verify(built, reached, secret)
    return RestoreReport(
        path=final,
        backups=tuple(each.name for each in wanted.plan.used),
        sequence=reached,
        time=listings.moment(reached_ns) if reached_ns else None,
        file_count=builder.file_count,
        size_bytes=pace.done_bytes,
        checked=checked(made.keyring),
        elapsed_seconds=clock.monotonic() - began,
    )


# -- the manifest ----------------------------------------------------------------------------------


class _Made(NamedTuple):
    """A manifest as bytes, the segments that make up the log, and the keys of it all, as far as
    there are any at hand."""

    data: bytes
    parts: list[SegmentPart]
    keyring: Keyring | None


def _manifest(place: Target, wanted: Moment, secret: Secret | None, as_it_was: bool) -> _Made:
    """The manifest of a moment. Without a key it is that of the backup, byte for byte."""
    plan = wanted.plan
    source = plan.base or plan.history
    known = manifest.decode(source.manifest, listings.path_of(place, source.name))
    parts = [
        part
        for part in plan.segments
        if part.first_sequence <= wanted.sequence or part is plan.segments[0]
    ]
    keyring: Keyring | None
    if known.ring is None or as_it_was:
        known, keyring = rings.of_listing(place, source, secret)
    elif secret is None:
        raise rings.no_key(place)
    else:
        numbers = {part.key_number for part in parts}
        numbers |= {each.key_number for each in (plan.base.snapshots if plan.base else ())}
        known, keyring = rings.joined(place, wanted, source, numbers, secret)
    if keyring is None:
        return _Made(source.manifest, list(plan.segments), None)
    firsts = tuple(part.first_sequence for part in parts)
    made = known
    if (firsts, keyring.ring) != (known.segments, known.ring):
        made = known.next(segments=firsts, ring=keyring.ring)
    if plan.base is None:
        # The store begins with its log, which has everything.
        made = replace(made, generation=1, next_snapshot_id=1, last_sequence=0, snapshots=())
    return _Made(manifest.encode(made, keyring), parts, keyring)


def _verify(path: str, sequence: int, secret: Secret | None) -> None:
    fs = OsFileSystem()
    manifest_path = fs.join(path, manifest.NAME)
    data = fs.read_file(manifest_path, limits.MAX_MANIFEST_BYTES)
    known, keyring = rings.unlocked(data, manifest_path, secret)
    if keyring is None:
        found = _check_sealed(fs, path, known)
    else:
        with open_store(path, read_only=True, cache_bytes=_CACHE_BYTES, key=secret) as store:
            for problem in store.verify().problems:
                raise problem
            found = store.last_sequence
    if found != sequence:
        raise CorruptionError(
            "the restored store does not end where it should",
            path=path,
            expected=f"sequence {sequence}",
            found=f"sequence {found}",
        )


def _check_sealed(fs: OsFileSystem, path: str, known: Manifest) -> int:
    """Check what can be checked without a key; returns the last sequence."""
    for summary in known.snapshots:
        name = snapshot.file_name(summary.snapshot_id)
        file = fs.open(fs.join(path, files.SNAPSHOT_DIRECTORY, name))
        try:
            check_snapshot(file, known.store_id, summary, None, Pace())
        finally:
            file.close()
    last_sequence = known.last_sequence
    for first_sequence in known.segments:
        name = fs.join(path, files.LOG_DIRECTORY, segment.file_name(first_sequence))
        scanner = recovery.open_segment(fs, name, known.store_id, None)
        try:
            for _ in scanner.frames():
                pass
        finally:
            scanner.file.close()
        if not scanner.sealed and first_sequence != known.segments[-1]:
            raise recovery.damage(scanner, "a sealed segment ends before its seal")
        last_sequence = max(last_sequence, scanner.next_sequence - 1)
    return last_sequence


# -- the files -------------------------------------------------------------------------------------


class _Builder:
    """Writes the files of a store into a directory."""

    def __init__(self, place: Target, directory: str, pace: Pace) -> None:
        self._place = place
        self._directory = directory
        self._pace = pace
        self._fs = OsFileSystem()
        self.file_count = 0

    def build(self, wanted: Moment, made: _Made) -> tuple[int, int]:
        """Write them, durably; returns the last sequence, and the time of its commit or 0."""
        plan, parts, fs = wanted.plan, made.parts, self._fs
        snapshots = () if plan.base is None else plan.base.snapshots
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
        self._write("", manifest.NAME, [made.data])
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
            offset, reached, time_ns = frames.cut_offset(file, header, sequence, part.last.end)
            file.truncate(offset)
            file.sync()
        finally:
            file.close()
        return reached, time_ns


def _pieces(parts: list[SegmentPart]) -> list[Piece]:
    return [piece for part in parts for piece in part.pieces]
