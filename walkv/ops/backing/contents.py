"""Is what a snapshot holds what was written there? As far as can be told with the keys at hand."""

from __future__ import annotations

from typing import Literal, cast

from walkv.engine.keyring import Keyring
from walkv.engine.snapshot import BlockCache, SnapshotReader, SnapshotSummary, layout
from walkv.engine.vfs import File, FileSystem
from walkv.errors import CorruptionError
from walkv.ops.backing.pacing import Pace

Checked = Literal["contents", "checksums"]
"""What was held against what: all that is stored; or, of an encrypted store without its key, the
checksums of frames and of the ends of snapshots, while payloads stay sealed."""


def checked(keyring: Keyring | None) -> Checked:
    """What can be checked with these keys."""
    return "checksums" if keyring is None else "contents"


class _Only:
    """A file system of one file, which is open already."""

    def __init__(self, file: File) -> None:
        self._file = file

    def open(self, path: str, *, writable: bool = False) -> File:
        return self._file


def check_snapshot(
    file: File, store_id: bytes, expected: SnapshotSummary, keyring: Keyring | None, pace: Pace
) -> None:
    """Read every page of a snapshot and hold it against its checksum.

    Args:
        expected: what the manifest says of it.
        keyring: the store's keys; without them pages cannot be found, but for the root.
    Raises:
        CorruptionError, FormatError: it is damaged, or another one.
        TamperedError: it is not what was written with the store's keys.
    """
    if keyring is None:
        _check_sealed(file, store_id, expected)
        return
    fs = cast(FileSystem, _Only(file))
    reader = SnapshotReader(fs, file.path, store_id, expected.snapshot_id, BlockCache(0), keyring)
    _compare(file, expected, reader.summary)
    reader.check(pace.passed)


def _check_sealed(file: File, store_id: bytes, expected: SnapshotSummary) -> None:
    header = layout.decode_header(file.read(0, layout.HEADER_BYTES), file.path)
    if header.store_id != store_id:
        raise CorruptionError(
            "this snapshot belongs to another store",
            path=file.path,
            offset_bytes=16,
            expected=store_id.hex(),
            found=header.store_id.hex(),
        )
    size_bytes = file.size()
    offset = max(size_bytes - layout.FOOTER_BYTES, layout.HEADER_BYTES)
    data = file.read(offset, layout.FOOTER_BYTES)
    footer = layout.decode_footer(data, file.path, header.salt, offset)
    found = SnapshotSummary(
        header.snapshot_id,
        size_bytes,
        footer.entry_count,
        footer.tombstone_count,
        footer.last_sequence,
    )
    _compare(file, expected, found)
    page = file.read(footer.root_offset, footer.root_length)
    if layout.place_page(page[8:], header.salt, footer.root_offset) != page:
        raise CorruptionError(
            "page checksum does not match", path=file.path, offset_bytes=footer.root_offset
        )


def _compare(file: File, expected: SnapshotSummary, found: SnapshotSummary) -> None:
    if found != expected:
        raise CorruptionError(
            "this snapshot is not the one the manifest names",
            path=file.path,
            expected=expected,
            found=found,
        )
