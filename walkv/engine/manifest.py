"""Which snapshots and segments are the store: one small file, replaced atomically.

Layout (little-endian, checksum big-endian xxh3-64):

    offset  size  field
    ------  ----  ----------------------------------------------------------------
         0     8  magic           b"WALKVMAN"
         8     4  format_version  1
        12     4  payload_length  bytes
        16     8  checksum        of bytes 0 to 15 and the payload
        24     -  payload         one msgpack array, see below

    payload  [store_id, generation, next_snapshot_id, last_sequence, created_ns,
              segments, snapshots]
      generation       grows with every replacement
      last_sequence    every sequence up to this one is in a snapshot, or was dropped by one
      segments         first sequences of the unsettled segments, ascending; the last is the tail
      snapshots        [id, size, entries, tombstones, last_sequence] each, newest first

Invariants:
    1. At every moment the directory has one whole manifest under its name, the old or the new one.
    2. A manifest names only files that are durable, contents and name, before it is written.
    3. Files the manifest does not name are not part of the store; recovery removes them. Files it
       names and that are missing are damage.

Source: LevelDB's MANIFEST is a log of edits with a CURRENT pointer; rewriting one small file was
chosen because it is bounded and has no replay of its own to get wrong.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any, Final

import msgpack
from xxhash import xxh3_64_digest

from walkv import limits
from walkv.engine.segment import STORE_ID_BYTES
from walkv.engine.snapshot import SnapshotSummary
from walkv.engine.vfs import FileSystem, ensure_synced
from walkv.errors import CorruptionError, FormatError

MAGIC: Final = b"WALKVMAN"
FORMAT_VERSION: Final = 1
HEADER_BYTES: Final = 24
NAME: Final = "MANIFEST"
TEMPORARY_NAME: Final = "MANIFEST.tmp"

_HEADER: Final = struct.Struct("<8sII")

assert _HEADER.size + 8 == HEADER_BYTES


@dataclass(frozen=True, slots=True)
class Manifest:
    """The store as of its last rotation, flush or merge; the fields are those of the layout."""

    store_id: bytes
    generation: int
    next_snapshot_id: int
    last_sequence: int
    created_ns: int
    segments: tuple[int, ...]
    snapshots: tuple[SnapshotSummary, ...]

    def next(self, **changes: Any) -> Manifest:
        """The manifest that replaces this one."""
        return replace(self, generation=self.generation + 1, **changes)


def encode(manifest: Manifest) -> bytes:
    payload = msgpack.packb(
        [
            manifest.store_id,
            manifest.generation,
            manifest.next_snapshot_id,
            manifest.last_sequence,
            manifest.created_ns,
            manifest.segments,
            [
                [s.snapshot_id, s.size_bytes, s.entry_count, s.tombstone_count, s.last_sequence]
                for s in manifest.snapshots
            ],
        ]
    )
    head = _HEADER.pack(MAGIC, FORMAT_VERSION, len(payload))
    return head + xxh3_64_digest(head + payload) + bytes(payload)


def decode(data: bytes, path: str) -> Manifest:
    """The manifest in ``data``.

    Raises:
        FormatError: not a walkv manifest, or of a format this version does not read.
        CorruptionError: damaged.
    """
    if data[:8] != MAGIC and len(data) >= 8 and data[8:12] != b"\x01\0\0\0":
        raise FormatError(
            f"{path}: this is not a walkv manifest, so the directory is not a walkv store; "
            "choose another directory",
            path=path,
            supported=(FORMAT_VERSION,),
        )
    if len(data) < HEADER_BYTES:
        raise CorruptionError(
            "the file ends inside the manifest header",
            path=path,
            offset_bytes=0,
            expected=HEADER_BYTES,
            found=len(data),
        )
    magic, version, length = _HEADER.unpack_from(data)
    payload = data[HEADER_BYTES:]
    actual = xxh3_64_digest(data[:16] + payload)
    matches = actual == data[16:HEADER_BYTES]
    # A newer format may have changed everything behind the first 12 bytes, its checksum too. One
    # flipped bit in the version of a format-1 manifest is told from that by the checksum of 1.
    as_first = xxh3_64_digest(_HEADER.pack(MAGIC, FORMAT_VERSION, length) + payload)
    if magic == MAGIC and version != FORMAT_VERSION and as_first != data[16:HEADER_BYTES]:
        raise FormatError(
            f"{path}: this store has format {version}, and this walkv reads format "
            f"{FORMAT_VERSION}; open it with a newer walkv",
            path=path,
            found_version=version,
            supported=(FORMAT_VERSION,),
        )
    if not matches or magic != MAGIC or length != len(payload):
        raise CorruptionError(
            "manifest checksum does not match",
            path=path,
            offset_bytes=0,
            expected=data[16:HEADER_BYTES].hex(),
            found=actual.hex(),
        )
    try:
        fields = msgpack.unpackb(payload, raw=False, use_list=False, strict_map_key=True)
        store_id, generation, next_id, last_sequence, created_ns, segments, snapshots = fields
        manifest = Manifest(
            store_id,
            generation,
            next_id,
            last_sequence,
            created_ns,
            tuple(segments),
            tuple(SnapshotSummary(*summary) for summary in snapshots),
        )
        numbers = [generation, next_id, last_sequence, created_ns, *segments]
        numbers += [number for summary in snapshots for number in summary]
        if set(map(type, numbers)) != {int} or type(store_id) is not bytes:
            raise ValueError("a field of another type")
        ordered = list(segments) == sorted(set(segments))
        if len(store_id) != STORE_ID_BYTES or not ordered or min(numbers) < 0:
            raise ValueError("store id or segments out of bounds")
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise CorruptionError(
            f"manifest does not decode: {error}", path=path, offset_bytes=HEADER_BYTES
        ) from None
    return manifest


def read(fs: FileSystem, directory: str) -> Manifest:
    """The manifest of the store in ``directory``; ``FileNotFoundError`` if there is none."""
    path = fs.join(directory, NAME)
    return decode(fs.read_file(path, limits.MAX_MANIFEST_BYTES), path)


def write(fs: FileSystem, directory: str, manifest: Manifest) -> None:
    """Replace the manifest, durably.

    Raises:
        OSError: from the write or rename; the old manifest is still in place.
        SyncError: a sync failed; which of the two is in place after a crash is not known.
    Cost: two syncs.
    """
    temporary = fs.join(directory, TEMPORARY_NAME)
    if TEMPORARY_NAME in fs.list(directory):
        fs.unlink(temporary)
    file = fs.create(temporary)
    try:
        file.write(encode(manifest), 0)
        ensure_synced(file.sync)
    finally:
        file.close()
    fs.rename(temporary, fs.join(directory, NAME))
    ensure_synced(lambda: fs.sync_directory(directory))
