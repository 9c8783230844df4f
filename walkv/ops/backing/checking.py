"""Lists backups, and checks that each can be restored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from walkv.engine import manifest, segment
from walkv.engine.inspect import Progress
from walkv.engine.keyring import Key, Keyring, Secret
from walkv.engine.opening import given_secret
from walkv.engine.vfs import File
from walkv.errors import CorruptionError, EncryptionError, FormatError
from walkv.ops.backing import frames, listings, rings
from walkv.ops.backing.contents import check_snapshot
from walkv.ops.backing.listings import Listing, Piece, SegmentPart, SnapshotPart, size_of
from walkv.ops.backing.pacing import Pace
from walkv.ops.backing.places import open_target
from walkv.ops.backing.reading import fetched, is_whole, missing
from walkv.ops.backing.retention import no_backups
from walkv.ops.backing.targets import OBJECTS, Target


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """A backup, in short.

    Attributes:
        name: sorts by when it was made.
        time: when the store was looked at, in UTC.
        store: the path of the store, as it was.
        sequence: the last operation in it.
        settled_sequence: from here on each sequence can be restored from this backup alone.
        size_bytes, object_count: of what it names, much of which other backups name too.
        problem: why it cannot be read, or None; then the numbers are 0, and the time is that of the
            name.
    """

    name: str
    time: datetime
    store: str
    sequence: int
    settled_sequence: int
    size_bytes: int
    object_count: int
    problem: CorruptionError | FormatError | None = None


@dataclass(frozen=True, slots=True)
class BackupProblem:
    """Something that is damaged or missing, and the backups that need it."""

    error: CorruptionError | FormatError
    backups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackupsReport:
    """What ``verify_backups`` found.

    Attributes:
        backup_count, object_count, checked_bytes: what was read.
        problems: everything that was found, each once.
        sealed: names of the backups of an encrypted store of which checksums alone were checked:
            there is no key, or they are under another one.
        set_aside: names of the objects that were moved to ``damaged/``.
        damaged: names of the backups that cannot be restored.
    """

    backup_count: int
    object_count: int
    checked_bytes: int
    problems: tuple[BackupProblem, ...]
    sealed: tuple[str, ...]
    set_aside: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every backup can be restored."""
        return not self.problems

    @property
    def damaged(self) -> tuple[str, ...]:
        return tuple(sorted({name for problem in self.problems for name in problem.backups}))


def backups(target: str | os.PathLike[str]) -> list[BackupInfo]:
    """The backups in a target, newest first.

    Raises:
        FileNotFoundError: there are none.
        BackupError, OSError: the target cannot be read.
    Cost: reads every listing.
    """
    place = open_target(target)
    found = []
    for name in listings.names(place):
        try:
            listing = listings.read(place, name)
        except FileNotFoundError:
            continue  # removed just now
        except (CorruptionError, FormatError) as error:
            found.append(BackupInfo(name, listings.named_time(name), "", 0, 0, 0, 0, error))
            continue
        objects = listing.objects()
        found.append(
            BackupInfo(
                name=name,
                time=listing.time,
                store=listing.source,
                sequence=listing.sequence,
                settled_sequence=listing.settled_sequence,
                size_bytes=sum(objects.values()),
                object_count=len(objects),
            )
        )
    if not found:
        raise no_backups(place)
    return found


def verify_backups(
    target: str | os.PathLike[str],
    *,
    key: Key | None = None,
    set_aside: bool = False,
    progress: Progress | None = None,
    max_bytes_per_second: float | None = None,
) -> BackupsReport:
    """Read everything that backups name, and check that each can be restored.

    Held against each other are listings, hashes, frames and pages, and the manifests. Goes on after
    damage, so that the report has all of it.

    Args:
        key: of an encrypted store; by default ``WALKV_KEY``. What it does not open is checked by
            checksums alone.
        set_aside: move damaged objects to ``damaged/``, so that the next backup copies them again,
            for all that name them, if the store still has what was in them. Else nothing is
            changed. In an object store, where there are no locks, not while a backup is made: that
            one may fail then.
        progress: called with bytes checked and bytes to check.
        max_bytes_per_second: most bytes to read a second.
    Raises:
        FileNotFoundError: there are none.
        EncryptionError: there is a key, and it opens none of them.
        BackupError, OSError: the target cannot be read.
    Cost: reads each object once, through a temporary file.
    """
    place = open_target(target)
    pace = Pace(progress, max_bytes_per_second)
    names = listings.names(place)
    if not names:
        raise no_backups(place)
    report = _Check(place, given_secret(key), pace).run(names)
    return replace(report, set_aside=_set_aside(place, report, pace)) if set_aside else report


def _set_aside(place: Target, report: BackupsReport, pace: Pace) -> tuple[str, ...]:
    """Move objects that do not have their hash out of the way."""
    moved = []
    paths = {problem.error.path for problem in report.problems}
    with place.lock(pace):
        entries = place.entries(OBJECTS)
        for name in listings.names(place):
            try:
                parts = listings.read(place, name).parts()
            except (CorruptionError, FormatError, FileNotFoundError):
                continue
            for part in parts:
                path = f"{place.path}/{OBJECTS}/{part.object}"
                if part.object in entries and path in paths:
                    paths.discard(path)
                    pace.proceed()
                    # It may have been put anew since it was checked.
                    if not is_whole(place, part):
                        place.set_aside(part.object)
                        moved.append(part.object)
    return tuple(moved)


class _Check:
    """One look at everything in a target."""

    def __init__(self, place: Target, secret: Secret | None, pace: Pace) -> None:
        self._place = place
        self._secret = secret
        self._pace = pace
        self._keyrings: dict[str, Keyring | None] = {}
        self._problems: list[BackupProblem] = []

    def run(self, names: list[str]) -> BackupsReport:
        found: list[Listing] = []
        for name in names:
            self._pace.proceed()
            try:
                listing = listings.read(self._place, name)
                _check_whole(listing, listings.path_of(self._place, name))
                self._keyrings[name] = self._keyring(listing)
                found.append(listing)
            except FileNotFoundError:
                continue  # removed just now
            except (CorruptionError, FormatError) as error:
                self._problems.append(BackupProblem(error, (name,)))
        sealed = [name for name, keyring in self._keyrings.items() if keyring is None]
        if self._secret is not None and sealed and len(sealed) == len(found):
            raise rings.other_key(self._place.path)
        # What several name is checked by one that the key opens, if there is one.
        found.sort(key=lambda each: each.name in sealed)
        needs: dict[str, list[Listing]] = {}
        for listing in found:
            for name in listing.objects():
                needs.setdefault(name, []).append(listing)
        self._pace.expect(sum(needs[name][0].objects()[name] for name in needs))
        entries = self._place.entries(OBJECTS)
        checked: set[str] = set()
        for listing in found:
            for part, before in _parts(listing):
                if part.object not in checked:
                    checked.add(part.object)
                    users = tuple(each.name for each in needs[part.object])
                    self._check(listing, part, before, users, part.object in entries)
        return BackupsReport(
            len(names),
            len(checked),
            self._pace.done_bytes,
            tuple(self._problems),
            sealed=tuple(sealed),
            set_aside=(),
        )

    def _keyring(self, listing: Listing) -> Keyring | None:
        """The keys in a listing, as far as the key at hand opens them."""
        try:
            return rings.of_listing(self._place, listing, self._secret)[1]
        except EncryptionError as error:
            if error.reason != "wrong":
                raise
            return None

    def _check(
        self,
        listing: Listing,
        part: SnapshotPart | Piece,
        before: tuple[SegmentPart, int] | None,
        users: tuple[str, ...],
        there: bool,
    ) -> None:
        path = f"{self._place.path}/{OBJECTS}/{part.object}"
        try:
            if not there:
                raise missing(path)
            with fetched(self._place, part, self._pace) as file:
                self._check_content(listing, part, before, file)
        except (CorruptionError, FormatError) as error:
            # What is read is a copy, of which nobody has to know.
            error.path = path
            self._problems.append(BackupProblem(error, users))
        self._pace.done_bytes += size_of(part)
        self._pace.proceed()

    def _check_content(
        self,
        listing: Listing,
        part: SnapshotPart | Piece,
        before: tuple[SegmentPart, int] | None,
        file: File,
    ) -> None:
        keyring = self._keyrings[listing.name]
        if isinstance(part, SnapshotPart):
            known = manifest.decode(listing.manifest, listing.name)
            (summary,) = (s for s in known.snapshots if s.snapshot_id == part.snapshot_id)
            check_snapshot(file, known.store_id, summary, keyring, Pace())
            return
        assert before is not None
        owner, next_sequence = before
        header = owner.header(listing.store_id)
        if part.start == 0 and file.read(0, segment.HEADER_BYTES) != header.encode():
            raise CorruptionError(
                "this segment's header is not the one that the listing names",
                path=f"{self._place.path}/{OBJECTS}/{part.object}",
                offset_bytes=0,
            )
        frames.check_piece(file, header, part, next_sequence, keyring)


def _parts(
    listing: Listing,
) -> Iterator[tuple[SnapshotPart | Piece, tuple[SegmentPart, int] | None]]:
    """Everything a listing names; with a piece its segment and the sequence that it begins with."""
    for each in listing.snapshots:
        yield each, None
    for owner in listing.segments:
        next_sequence = owner.first_sequence
        for piece in owner.pieces:
            yield piece, (owner, next_sequence)
            next_sequence = piece.next_sequence


def _check_whole(listing: Listing, path: str) -> None:
    """Hold a listing against itself: it names what its manifest needs, without gaps.

    Raises:
        CorruptionError: it does not, so nothing could be restored from it.
    """
    known = manifest.decode(listing.manifest, path)
    snapshots = [(each.snapshot_id, each.size_bytes) for each in listing.snapshots]
    whole = snapshots == [(s.snapshot_id, s.size_bytes) for s in known.snapshots]
    whole = whole and known.store_id.hex() == listing.store_id
    firsts = tuple(part.first_sequence for part in listing.unsettled)
    whole = whole and firsts == known.segments
    expected_first = listing.segments[0].first_sequence
    for part in listing.segments:
        whole = whole and part.first_sequence == expected_first and part.pieces[0].start == 0
        for before, after in zip(part.pieces, part.pieces[1:], strict=False):
            whole = whole and before.end == after.start and not before.sealed
        whole = whole and (part.last.sealed or part is listing.segments[-1])
        expected_first = part.last.next_sequence
    if not whole:
        raise CorruptionError("the parts in this listing do not make a store", path=path)
