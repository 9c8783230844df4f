"""Makes a backup: what is new goes into the pool, then the listing is put.

Invariants:
    1. The source is neither locked nor written to, and may be open anywhere.
    2. A damaged file of the source ends the backup with ``CorruptionError``, before anything names
       a copy of it. A kept segment does not: the store does not need it, and a gap is left there.
    3. Killed at any point, it leaves the backups before as they were, and what it has put is used
       by the next one.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from walkv.engine.inspect import Progress
from walkv.engine.keyring import Key
from walkv.engine.snapshot import layout
from walkv.engine.vfs import File
from walkv.errors import BackupError, CorruptionError, FormatError, WalkvError
from walkv.ops.backing import frames, listings
from walkv.ops.backing.contents import Checked, check_snapshot, checked
from walkv.ops.backing.frames import ChangedError, Stretch
from walkv.ops.backing.listings import Listing, Piece, SegmentPart, SnapshotPart
from walkv.ops.backing.pacing import CHUNK_BYTES, Pace
from walkv.ops.backing.places import open_target
from walkv.ops.backing.pool import Pool
from walkv.ops.backing.retention import Retention, remove
from walkv.ops.backing.sources import HeldSegment, HeldSnapshot, Source
from walkv.ops.backing.targets import BACKUPS, Target
from walkv.ops.keys import secret_for

log = logging.getLogger("walkv")

MOST_PIECES: Final = 64
"""A segment in more pieces than this is copied as one again."""

_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup holds, and what it took.

    Attributes:
        name: of the backup; sorts by time.
        target: where it is.
        time: when the store was looked at, in UTC.
        sequence: the last operation in it.
        copied_objects, copied_bytes: what was new.
        skipped_objects, skipped_bytes: what was there already.
        removed: names of older backups that were removed.
        checked: what was new was held against all that is stored in it, ``"contents"``; or, of an
            encrypted store without its key, ``"checksums"`` alone.
        warnings: what was passed over: kept segments that are damaged. Moments before them cannot
            be restored from this backup.
        elapsed_seconds: time that it took.
    """

    name: str
    target: str
    time: datetime
    sequence: int
    copied_objects: int
    copied_bytes: int
    skipped_objects: int
    skipped_bytes: int
    removed: tuple[str, ...]
    checked: Checked
    warnings: tuple[str, ...]
    elapsed_seconds: float


def backup(
    store: Any,
    target: str | os.PathLike[str],
    *,
    keep: int | None = None,
    keep_days: float | None = None,
    key: Key | None = None,
    progress: Progress | None = None,
    max_bytes_per_second: float | None = None,
) -> BackupReport:
    """Back up a store, while anybody writes to it.

    Args:
        store: its path; or a store or an agent's store, open or not.
        target: a directory, or the URL of an object store such as ``s3://bucket/prefix``.
        keep, keep_days: older backups are removed afterwards: all but the newest ``keep`` and those
            of the last ``keep_days`` days. Without either, none is.
        key: of an encrypted store, which is backed up without one as well, and checked less. By
            default that of the store, if it is open, or ``WALKV_KEY``.
        progress: called with bytes copied and bytes to copy; what it raises ends the backup.
        max_bytes_per_second: most bytes to read and write a second, checks included.
    Raises:
        FileNotFoundError: there is no store.
        CorruptionError: the store is damaged, or something does not read back as it was written.
        BackupError: the target holds something else, or another store's backups, or cannot be
            reached.
        EncryptionError: there is a key, and it does not fit the store.
        OSError: something could not be read or written. Whatever is raised, the backups before are
            as they were.
    Cost: reads and checks what is new, writes it and reads it back. For a segment or snapshot that
        an earlier backup has, one read of some bytes.
    Durability: the backup is durable; commits that the store had not synced yet may be in it.
    """
    began = time.monotonic()
    retention = Retention.checked(keep, keep_days)
    path = os.fsdecode(getattr(store, "path", store))
    place = open_target(target)
    _check_apart(path, place)
    pace = Pace(progress, max_bytes_per_second)
    with Source(path, secret_for(store, key), pace) as source:
        place.prepare()
        with place.lock(pace):
            newest = _newest(place)
            if newest is not None and newest.store_id != source.store_id.hex():
                raise BackupError(
                    f"{place.path}: the backups here are of another store ({newest.source}); "
                    "choose another target",
                    target=place.path,
                )
            pool = Pool(place, newest, pace)
            making = _Making(source, pool, newest, pace)
            listing = making.run()
            if not place.exclusive:
                pool.check_complete(listing.objects())
            _put_listing(place, listing)
            removed: tuple[str, ...] = ()
            try:
                if retention.superfluous(listings.names(place), datetime.now(UTC)):
                    removed = remove(place, retention, pace).removed
            except (OSError, WalkvError) as error:
                # The backup is there; the next one, or a prune, tries again.
                log.warning("walkv: %s: old backups were not removed: %s", place.path, error)
    return BackupReport(
        name=listing.name,
        target=place.path,
        time=listing.time,
        sequence=listing.sequence,
        copied_objects=pool.copied_count,
        copied_bytes=pool.copied_bytes,
        skipped_objects=pool.skipped_count,
        skipped_bytes=pool.skipped_bytes,
        removed=removed,
        checked=checked(source.keyring),
        warnings=tuple(map(str, making.passed_over)),
        elapsed_seconds=time.monotonic() - began,
    )


def _check_apart(path: str, place: Target) -> None:
    if place.exclusive:
        inside = os.path.realpath(place.path) + os.sep
        if inside.startswith(os.path.realpath(path) + os.sep):
            raise BackupError(
                f"{place.path}: backups cannot be inside the store itself", target=place.path
            )


def _newest(place: Target) -> Listing | None:
    for name in listings.names(place):
        try:
            return listings.read(place, name)
        except (CorruptionError, FileNotFoundError) as error:
            log.warning("walkv: %s: this backup cannot be used: %s", place.path, error)
    return None


def _put_listing(place: Target, listing: Listing) -> None:
    data = listings.encode(listing)
    file_name = listing.name + listings.SUFFIX
    place.put(BACKUPS, file_name, [data], len(data))
    if b"".join(listings.bounded(place.read(BACKUPS, file_name), len(data))) != data:
        place.remove(BACKUPS, [file_name])
        raise CorruptionError(
            "this listing does not read back as it was written",
            path=f"{place.path}/{BACKUPS}/{file_name}",
        )


class _Making:
    """One backup of one source.

    Attributes:
        passed_over: what is wrong with kept segments.
    """

    def __init__(self, source: Source, pool: Pool, newest: Listing | None, pace: Pace) -> None:
        self._source = source
        self._pool = pool
        self._newest = newest
        self._pace = pace
        self._earlier: list[Listing] | None = None
        self.passed_over = source.passed_over
        for error in self.passed_over:
            _warn(error)

    def run(self) -> Listing:
        source = self._source
        surveyed = self._survey_log()
        missing = [s for s in source.snapshots if not self._has(s)]
        self._pace.expect(sum(s.summary.size_bytes for s in missing))
        for _, pieces, new in surveyed:
            lost = [piece for piece in pieces if not self._in_pool(piece)]
            self._pace.expect(sum(piece.end - piece.start for piece in lost))
            self._pace.expect(0 if new is None else new.end - new.start)
        snapshots = tuple(self._snapshot(each) for each in source.snapshots)
        segments: list[SegmentPart] = []
        for each in surveyed:
            try:
                segments.append(self._segment(*each))
            except (FileNotFoundError, CorruptionError) as error:
                self._leave_gap(each[0], error)
                segments.clear()
        settled = source.manifest.last_sequence
        newest_name = None if self._newest is None else self._newest.name
        return Listing(
            name=listings.new_name(source.time_ns, newest_name, secrets.token_hex(2)),
            time_ns=source.time_ns,
            store_id=source.store_id.hex(),
            source=source.path,
            settled_sequence=settled,
            sequence=max(settled, segments[-1].last.next_sequence - 1),
            first_unsettled=source.manifest.segments[0],
            manifest=source.manifest_bytes,
            keep=source.keep_bytes,
            snapshots=snapshots,
            segments=tuple(segments),
        )

    # -- snapshots -------------------------------------------------------------------------------

    def _has(self, held: HeldSnapshot) -> bool:
        return self._pool.has(_snapshot_identity(held), held.summary.size_bytes) is not None

    def _snapshot(self, held: HeldSnapshot) -> SnapshotPart:
        size_bytes = held.summary.size_bytes
        identity = _snapshot_identity(held)
        found = self._pool.has(identity, size_bytes)
        if found is None:
            source = self._source
            check_snapshot(held.file, source.store_id, held.summary, source.keyring, self._pace)
            found = self._pool.add(identity, size_bytes, lambda: _whole(held.file))
        else:
            self._pool.skip(size_bytes)
        header = layout.decode_header(held.file.read(0, layout.HEADER_BYTES), held.file.path)
        return SnapshotPart(found[0], header.snapshot_id, size_bytes, found[1], header.key_number)

    # -- the log ---------------------------------------------------------------------------------

    def _survey_log(self) -> list[tuple[HeldSegment, tuple[Piece, ...], Stretch | None]]:
        """Each segment with the pieces of it that there are, and the stretch that is new."""
        surveyed: list[tuple[HeldSegment, tuple[Piece, ...], Stretch | None]] = []
        expected_first: int | None = None
        for held in self._source.segments:
            first_sequence = held.header.first_sequence
            if expected_first is not None and first_sequence != expected_first:
                if first_sequence > self._source.manifest.segments[0]:
                    raise CorruptionError(
                        "this segment does not continue the one before it",
                        path=held.file.path,
                        offset_bytes=40,
                        expected=f"sequence {expected_first}",
                        found=f"sequence {first_sequence}",
                    )
                surveyed.clear()  # kept ones with a gap behind them lead nowhere
            try:
                pieces, new, expected_first = self._survey_segment(held)
            except (FileNotFoundError, CorruptionError) as error:
                self._leave_gap(held, error)
                surveyed.clear()
                expected_first = None
                continue
            surveyed.append((held, pieces, new))
        return surveyed

    def _leave_gap(self, held: HeldSegment, error: FileNotFoundError | CorruptionError) -> None:
        """Go on without a segment that is kept no more, or is damaged; those before it lead
        nowhere then. Raises the error where the store needs the segment, or it is not to blame."""
        if held.header.first_sequence >= self._source.manifest.segments[0]:
            raise error
        if isinstance(error, CorruptionError):
            if error.path != held.file.path:
                raise error
            self.passed_over.append(error)
            _warn(error)

    def _survey_segment(self, held: HeldSegment) -> tuple[tuple[Piece, ...], Stretch | None, int]:
        """The pieces that there are, the stretch that is new, and the sequence that follows."""
        pieces = self._known_pieces(held)
        start, next_sequence = _after(pieces, held)
        if pieces and pieces[-1].sealed:
            return pieces, None, next_sequence
        found = self._survey(held, start, next_sequence)
        if found.end > start and len(pieces) >= MOST_PIECES:
            pieces = ()
            found = self._survey(held, 0, held.header.first_sequence)
        new = found if found.end > start or not pieces else None
        return pieces, new, found.next_sequence

    def _survey(self, held: HeldSegment, start: int, next_sequence: int) -> Stretch:
        return frames.survey_held(
            held.file,
            held.header,
            start,
            next_sequence,
            held.tail,
            self._source.keyring,
            self._pace,
        )

    def _known_pieces(self, held: HeldSegment) -> tuple[Piece, ...]:
        """The pieces that this segment begins with, by what listings say."""
        identity = (held.header.first_sequence, held.header.salt)
        best: tuple[Piece, ...] = ()
        for listing in self._listings_with(held):
            for part in listing.segments:
                if part.identity == identity:
                    pieces = self._common(part, held)
                    if pieces and (not best or pieces[-1].end > best[-1].end):
                        best = pieces
        return best

    def _listings_with(self, held: HeldSegment) -> Iterator[Listing]:
        newest = self._newest
        if newest is None:
            return
        yield newest
        known = {part.identity for part in newest.segments}
        identity = (held.header.first_sequence, held.header.salt)
        if identity not in known and held.header.first_sequence <= newest.sequence:
            # The store went back in time, or the newest backup is not of its newest moment.
            if self._earlier is None:
                self._earlier = list(self._pool.learn_all())
            yield from self._earlier

    def _common(self, part: SegmentPart, held: HeldSegment) -> tuple[Piece, ...]:
        for count in range(len(part.pieces), 0, -1):
            last = part.pieces[count - 1]
            if frames.mark_at(held.file, last.mark_offset) == last.mark:
                return part.pieces[:count]
        return ()

    def _in_pool(self, piece: Piece) -> bool:
        return self._pool.is_there(piece.object, piece.end - piece.start)

    def _segment(
        self, held: HeldSegment, pieces: tuple[Piece, ...], new: Stretch | None
    ) -> SegmentPart:
        next_sequence = held.header.first_sequence
        for piece in pieces:
            if self._in_pool(piece):
                self._pool.skip(piece.end - piece.start)
            else:
                self._put_again(held, piece, next_sequence)
            next_sequence = piece.next_sequence
        if new is not None:
            pieces = (*pieces, self._piece(held, pieces, new))
        header = held.header
        return SegmentPart(
            header.first_sequence, header.salt, header.created_ns, header.key_number, pieces
        )

    def _put_again(self, held: HeldSegment, piece: Piece, next_sequence: int) -> None:
        """Put a piece that is missing from the pool, for all the backups that name it."""

        def chunks() -> Iterator[bytes]:
            return frames.bytes_of(held.file, held.header, piece, next_sequence)

        try:
            self._pool.put_again(piece.object, piece.hash, piece.end - piece.start, chunks)
        except ChangedError:
            raise CorruptionError(
                "this segment does not hold any more what was backed up of it",
                path=held.file.path,
                offset_bytes=piece.start,
            ) from None

    def _piece(self, held: HeldSegment, before: tuple[Piece, ...], new: Stretch) -> Piece:
        start, next_sequence = _after(before, held)
        for _ in range(_ATTEMPTS):
            found = new
            identity = (
                f"log-{held.header.first_sequence:020d}-{held.header.salt:016x}"
                f"-{found.start}-{found.end}-{found.mark}"
            )

            def chunks(found: Stretch = found) -> Iterator[bytes]:
                return frames.bytes_of(held.file, held.header, found, next_sequence)

            try:
                name, digest = self._pool.add(identity, found.end - found.start, chunks)
                return Piece(name, digest, **found._asdict())
            except ChangedError:
                new = self._survey(held, start, next_sequence)
        raise CorruptionError("this segment has changed each time it was read", path=held.file.path)


def _warn(error: CorruptionError | FormatError) -> None:
    log.warning("walkv: backed up without a kept segment and those before it: %s", error)


def _after(pieces: tuple[Piece, ...], held: HeldSegment) -> tuple[int, int]:
    """Where a segment goes on behind some pieces: the offset and the next sequence."""
    if not pieces:
        return 0, held.header.first_sequence
    return pieces[-1].end, pieces[-1].next_sequence


def _snapshot_identity(held: HeldSnapshot) -> str:
    salt = int.from_bytes(held.file.read(32, 8), "little")
    return f"snapshot-{held.summary.snapshot_id:010d}-{salt:016x}-{held.summary.size_bytes}"


def _whole(file: File) -> Iterator[bytes]:
    offset = 0
    while data := file.read(offset, CHUNK_BYTES):
        yield data
        offset += len(data)
