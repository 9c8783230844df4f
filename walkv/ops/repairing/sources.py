"""Which files a damaged store consists of, as far as that can be told.

A manifest that is valid and not older than the log says it. Without one the files themselves do:
their headers say whose they are, and ids of snapshots grow with their age. Of an encrypted store it
has the keys, too; see ``unlocking``.

Invariants:
    1. A file of another store is never used.
    2. A file that the manifest does not name is used only if the manifest is no good, or if a
       snapshot that it names is missing: then its inputs or its output may be what is left of it.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from walkv.engine import files, keep, manifest, segment, snapshot
from walkv.engine.cipher import Sealer
from walkv.engine.keyring import Keyring
from walkv.engine.manifest import Manifest
from walkv.engine.snapshot import layout
from walkv.errors import CorruptionError, FormatError, TamperedError
from walkv.ops.repairing import headers, segments, unlocking
from walkv.ops.repairing.headers import Header
from walkv.ops.repairing.medium import Medium, PatientFile
from walkv.ops.repairing.pages import PageFile
from walkv.ops.repairing.report import Damage, FileReport
from walkv.ops.repairing.segments import SegmentFile

_NO_VERSION: Final = 256
"""A manifest that states such a format, a later one or 0 is damaged: there will be none."""


class SnapshotFile(NamedTuple):
    """A snapshot whose salt is known."""

    number: int
    path: str
    pages: PageFile


@dataclass
class Source:
    """The files of a damaged store.

    Attributes:
        keyring: with the keys of the store; those of none where it is not encrypted.
        store_id: None if nothing tells it.
        manifest: if it could be read; it may be older than the log, see ``trusted``.
        trusted: the manifest is the newest.
        segments: those of the unsettled log, in order.
        history: settled ones that were kept or left over, in order.
        snapshots: newest first.
        damages: what is missing or unreadable as a whole.
        files: reports of those that are not used.
    """

    directory: str
    keyring: Keyring
    store_id: bytes | None = None
    manifest: Manifest | None = None
    trusted: bool = False
    segments: list[SegmentFile] = field(default_factory=list)
    history: list[SegmentFile] = field(default_factory=list)
    snapshots: list[SnapshotFile] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: list[FileReport] = field(default_factory=list)


class _Found(NamedTuple):
    """A file with the name of a segment or a snapshot.

    Attributes:
        named: the number in its name.
        header: None if it cannot be told.
    """

    path: str
    named: int
    file: PatientFile
    header: Header | None

    @property
    def number(self) -> int:
        return self.named if self.header is None else self.header.number


def not_found(directory: str) -> FileNotFoundError:
    """The error for a directory without anything of a store."""
    return FileNotFoundError(errno.ENOENT, "there is no walkv store here to repair", directory)


def look(fs: Medium, directory: str, keyring: Keyring, copy: str | None = None) -> Source:
    """Find the files of a store. Changes nothing.

    Args:
        keyring: takes in the store's ring.
        copy: a manifest of this store to take that from, where its own cannot be read.
    Raises:
        FileNotFoundError: there is no store.
        EncryptionError: the key does not fit the store, or its data keys are lost.
        FormatError: not a store, or of a format that this version does not read.
        OSError: a file may not be read.
    """
    source = Source(directory, keyring)
    _read_manifest(fs, source)
    wals = _find(fs, source, files.LOG_DIRECTORY, segment.parse_file_name, _segment_header)
    kept = _find(fs, source, files.LOG_DIRECTORY, _kept_number, _segment_header)
    snaps = _find(fs, source, files.SNAPSHOT_DIRECTORY, snapshot.parse_file_name, _snapshot_header)
    if not any((wals, kept, snaps, source.manifest)):
        raise not_found(directory)
    _identify(fs, source, [*wals, *kept, *snaps], copy)
    tables = [_by_number(source, found) for found in (wals, kept, snaps)]
    _judge_manifest(source, tables[0])
    _choose_segments(source, tables[0], tables[1])
    _choose_snapshots(source, tables[2])
    return source


def _read_manifest(fs: Medium, source: Source) -> None:
    try:
        known = manifest.read(fs, source.directory, source.keyring)
        if known.segments:
            source.manifest = known
        else:
            _lost_manifest(source, "it names no segment")
    except FileNotFoundError:
        _lost_manifest(source, "it is missing")
    except FormatError as error:
        if error.found_version is not None and 0 < error.found_version < _NO_VERSION:
            raise
        _lost_manifest(source, "it is damaged from its beginning on")
    except (CorruptionError, IsADirectoryError) as error:
        _lost_manifest(source, getattr(error, "reason", "it is no file"))


def _lost_manifest(source: Source, reason: str) -> None:
    source.damages.append(Damage(manifest.NAME, "manifest", reason, lost=False))


def _kept_number(name: str) -> int | None:
    stem = name.removesuffix(keep.SUFFIX)
    return None if stem == name else segment.parse_file_name(stem + segment.SUFFIX)


def _find(
    fs: Medium,
    source: Source,
    folder: str,
    number_of: Callable[[str], int | None],
    header_of: Callable[[PatientFile, str, int], Header | None],
) -> list[_Found]:
    found = []
    inside = fs.join(source.directory, folder)
    for name in fs.regular_files(inside):
        number = number_of(name)
        if number is not None:
            path = f"{folder}/{name}"
            file = fs.open(fs.join(inside, name))
            found.append(_Found(path, number, file, header_of(file, path, number)))
    return found


def _segment_header(file: PatientFile, path: str, number: int) -> Header | None:
    data = file.read(0, segment.HEADER_BYTES)
    as_it_is = int.from_bytes(data[32:40], "little")

    def proves(salt: int) -> bool:
        return segments.proves(file, salt, search=salt == as_it_is)

    return headers.read(data, segment.MAGIC, path, number, proves)


def _snapshot_header(file: PatientFile, path: str, number: int) -> Header | None:
    data = file.read(0, layout.HEADER_BYTES)
    as_it_is = int.from_bytes(data[32:40], "little")

    def proves(salt: int) -> bool:
        pages = PageFile(file, salt)
        if pages.footer() is not None or pages.page_at(layout.HEADER_BYTES, pages.size) is not None:
            return True
        # To see without its key whether an encrypted page is whole takes too long for every salt.
        encrypted = PageFile(file, salt, sealed=True)
        return salt == as_it_is and encrypted.length_at(layout.HEADER_BYTES, pages.size) > 0

    return headers.read(data, layout.MAGIC, path, number, proves)


def _identify(fs: Medium, source: Source, found: list[_Found], copy: str | None) -> None:
    """Tell which store it is, and have its keys."""
    if source.manifest is not None:
        source.store_id = source.manifest.store_id
        return
    known = [each.header for each in found if each.header is not None]
    ids = Counter(header.store_id for header in known if header.store_id is not None)
    source.store_id = own = ids.most_common(1)[0][0] if ids else None
    if own is not None and any(each.store_id == own and each.key_number for each in known):
        reason = source.damages[0].reason
        unlocking.unlock(fs, source.directory, source.keyring, own, copy, reason)
    else:
        source.keyring.unlock(None, own or b"", fs.join(source.directory, manifest.NAME))


def _by_number(source: Source, found: list[_Found]) -> dict[int, _Found]:
    """The files of this store by the numbers in their headers."""
    table: dict[int, _Found] = {}
    for each in found:
        if each.header is not None and each.header.store_id not in (None, source.store_id):
            _not_used(source, each, "it belongs to another store")
            continue
        other = table.get(each.number)
        if other is None or other.number != other.named:
            table[each.number] = each
            each = other  # type: ignore[assignment]  # the one that is not used, if any
        if each is not None:
            _not_used(source, each, "its header says that it is a copy of another file")
    return table


def _not_used(source: Source, found: _Found, reason: str = "") -> None:
    source.files.append(FileReport(found.path, found.file.size(), "not used"))
    if reason:
        source.warnings.append(f"{found.path} was not used: {reason}")


def _judge_manifest(source: Source, wals: dict[int, _Found]) -> None:
    if source.manifest is None:
        return
    newest = source.manifest.segments[-1]
    source.trusted = not any(
        number > newest and found.file.size() > segment.HEADER_BYTES
        for number, found in wals.items()
    )
    if not source.trusted:
        _lost_manifest(source, "it is older than the log: it does not name a segment with commits")


def _choose_segments(source: Source, wals: dict[int, _Found], kept: dict[int, _Found]) -> None:
    known = source.manifest
    numbers = sorted(wals)
    history = dict(kept)
    if known is not None and source.trusted:
        numbers = list(known.segments)
        for number in sorted(wals.keys() - set(numbers)):
            if number < numbers[0]:
                history.setdefault(number, wals[number])
            else:
                _not_used(source, wals[number])
    for at, number in enumerate(numbers):
        follows = numbers[at + 1] if at + 1 < len(numbers) else None
        opened = _segment(source, wals.get(number), number, follows)
        if opened is not None:
            source.segments.append(opened)
    order = [*sorted(history), *numbers[:1]]
    for at, number in enumerate(sorted(history)):
        found = history[number]
        follows = order[at + 1] if at + 1 < len(order) else None
        kept_one = _opened_segment(source, found, number, follows)
        if isinstance(kept_one, SegmentFile):
            source.history.append(kept_one)
        else:
            source.damages.append(
                Damage(found.path, "header", kept_one, 0, found.file.size(), lost=False)
            )
            _not_used(source, found)


def _segment(
    source: Source, found: _Found | None, number: int, follows: int | None
) -> SegmentFile | None:
    """A segment of the unsettled log, opened; None, and a loss, if that cannot be."""
    last = None if follows is None else follows - 1
    if found is None:
        path = f"{files.LOG_DIRECTORY}/{segment.file_name(number)}"
        _missing(source, path, "segment", number, last)
        return None
    _mended(source, found)
    opened = _opened_segment(source, found, number, follows)
    if not isinstance(opened, SegmentFile):
        _unreadable(source, found, "segment", opened, number, last)
        return None
    return opened


def _opened_segment(
    source: Source, found: _Found, number: int, follows: int | None
) -> SegmentFile | str:
    """A segment, or why there is no reading it."""
    file, path = found.file, found.path

    def opens(header: Header) -> bool:
        sealer = source.keyring.for_file(header, path)
        return SegmentFile(file, path, header.salt, number, None, sealer).opens()

    header = _whole_header(source, found, segment.MAGIC, opens)
    if isinstance(header, str):
        return header
    return SegmentFile(file, path, header[0].salt, number, follows, header[1])


def _opened_snapshot(source: Source, found: _Found) -> PageFile | str:
    """A snapshot, or why there is no reading it."""

    def opens(header: Header) -> bool:
        sealer = source.keyring.for_file(header, found.path)
        return PageFile(found.file, header.salt, sealer=sealer).opens()

    header = _whole_header(source, found, layout.MAGIC, opens)
    return (
        header
        if isinstance(header, str)
        else PageFile(found.file, header[0].salt, sealer=header[1])
    )


def _whole_header(
    source: Source, found: _Found, magic: bytes, opens: Callable[[Header], bool]
) -> tuple[Header, Sealer | None] | str:
    """A file's header and what opens it, or why it cannot be opened."""
    header, ring = found.header, source.keyring.ring
    if header is None:
        return "its header is damaged, and with the salt in it nothing else can be checked"
    if ring is not None:
        assert source.store_id is not None, "the ring is for one"
        numbers = [number for number, _ in reversed(ring.keys)]
        header = headers.sealed(header, magic, source.store_id, numbers, opens)
        if header is None:
            return "its header is damaged, and the key of the file is made of all of it"
    try:
        return header, source.keyring.for_file(header, found.path)
    except TamperedError as error:
        return error.reason


def _choose_snapshots(source: Source, snaps: dict[int, _Found]) -> None:
    numbers = set(snaps)
    known = source.manifest
    if known is not None and source.trusted:
        named = {summary.snapshot_id for summary in known.snapshots}
        if named <= numbers:
            for number in sorted(numbers - named):
                _not_used(source, snaps[number])
            numbers = named
        for summary in known.snapshots:
            if summary.snapshot_id not in snaps:
                name = snapshot.file_name(summary.snapshot_id)
                path = f"{files.SNAPSHOT_DIRECTORY}/{name}"
                _missing(source, path, "snapshot", None, None, summary.entry_count)
    elif len(numbers) > 1:
        source.warnings.append(
            "without the manifest it is not known which snapshots were part of the store: what had "
            "been deleted may be back if one of them was left over from a merge"
        )
    for number in sorted(numbers, reverse=True):
        found = snaps[number]
        _mended(source, found)
        pages = _opened_snapshot(source, found)
        if isinstance(pages, PageFile):
            source.snapshots.append(SnapshotFile(number, found.path, pages))
        else:
            _unreadable(source, found, "snapshot", pages, None, None)


def _mended(source: Source, found: _Found) -> None:
    if found.header is not None and found.header.mended:
        reason = "it is damaged; what is needed of it could be told"
        damage = Damage(found.path, "header", reason, 0, segment.HEADER_BYTES, lost=False)
        source.damages.append(damage)


def _missing(
    source: Source,
    path: str,
    part: str,
    first: int | None,
    last: int | None,
    expected: int | None = None,
) -> None:
    reason = f"the manifest names this {part}, and it is missing"
    source.damages.append(Damage(path, part, reason, first_sequence=first, last_sequence=last))
    source.files.append(FileReport(path, 0, "missing", expected_count=expected))


def _unreadable(
    source: Source, found: _Found, part: str, reason: str, first: int | None, last: int | None
) -> None:
    size_bytes = found.file.size()
    source.damages.append(
        Damage(found.path, part, reason, 0, size_bytes, first_sequence=first, last_sequence=last)
    )
    source.files.append(FileReport(found.path, size_bytes, "damaged"))
