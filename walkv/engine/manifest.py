"""Which snapshots and segments are the store: one small file, replaced atomically.

Layout (little-endian, checksum big-endian xxh3-64):

    offset  size  field
    ------  ----  ----------------------------------------------------------------
         0     8  magic           b"WALKVMAN"
         8     4  format_version  1, or 2 of an encrypted store
        12     4  payload_length  bytes
        16     8  checksum        of bytes 0 to 15 and the payload
        24     -  payload         one msgpack array, see below

    payload  [store_id, generation, next_snapshot_id, last_sequence, created_ns,
              segments, snapshots]
      generation       grows with every replacement
      last_sequence    every sequence up to this one is in a snapshot, or was dropped by one
      segments         first sequences of the unsettled segments, ascending; the last is the tail
      snapshots        [id, size, entries, tombstones, last_sequence] each, newest first
    of an encrypted store it has two elements more
      ring             the wrapped keys, see ``keyring``
      tag              bin of 32 bytes: authenticates bytes 0 to 15 and the payload before it

Invariants:
    1. At every moment the directory has one whole manifest under its name, the old or the new one.
    2. A manifest names only files that are durable, contents and name, before it is written.
    3. Files the manifest does not name are not part of the store; recovery removes them. Files it
       names and that are missing are damage.
    4. Nothing is taken from the manifest of an encrypted store before its tag was checked, but the
       ring, which is what that takes.

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
from walkv.engine.keyring import NO_KEYS, TAG_BYTES, Keyring, Ring
from walkv.engine.segment import STORE_ID_BYTES
from walkv.engine.snapshot import SnapshotSummary
from walkv.engine.vfs import FileSystem, ensure_synced
from walkv.errors import CorruptionError, FormatError

MAGIC: Final = b"WALKVMAN"
FORMAT_VERSION: Final = 1
ENCRYPTED_VERSION: Final = 2
VERSIONS: Final = (FORMAT_VERSION, ENCRYPTED_VERSION)
HEADER_BYTES: Final = 24
NAME: Final = "MANIFEST"
TEMPORARY_NAME: Final = "MANIFEST.tmp"

_HEADER: Final = struct.Struct("<8sII")
_VERSION_BYTES: Final = [version.to_bytes(4, "little") for version in VERSIONS]
_NO_TAG: Final = bytes(TAG_BYTES)

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
    ring: Ring | None = None

    def next(self, **changes: Any) -> Manifest:
        """The manifest that replaces this one."""
        return replace(self, generation=self.generation + 1, **changes)


def encode(manifest: Manifest, keyring: Keyring = NO_KEYS) -> bytes:
    """The file; ``keyring`` is the one with the manifest's ring."""
    fields = [
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
    ring = manifest.ring
    assert ring == keyring.ring
    if ring is None:
        payload = bytes(msgpack.packb(fields))
        head = _HEADER.pack(MAGIC, FORMAT_VERSION, len(payload))
    else:
        payload = bytes(msgpack.packb([*fields, [ring.kdf, ring.check, ring.keys], _NO_TAG]))
        head = _HEADER.pack(MAGIC, ENCRYPTED_VERSION, len(payload))
        payload = payload[:-TAG_BYTES]
        payload += keyring.tag(head + payload)
    return head + xxh3_64_digest(head + payload) + payload


def decode(data: bytes, path: str) -> Manifest:
    """The manifest in ``data``, as it stands there: that takes no key, and shows no authenticity.

    Raises:
        FormatError: not a walkv manifest, or of a format this version does not read.
        CorruptionError: damaged.
    """
    if data[:8] != MAGIC and len(data) >= 8 and data[8:12] not in _VERSION_BYTES:
        raise FormatError(
            f"{path}: this is not a walkv manifest, so the directory is not a walkv store; "
            "choose another directory",
            path=path,
            supported=VERSIONS,
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
    # flipped bit in the version of a manifest is told from that by the checksum of what it was.
    was_known = data[16:HEADER_BYTES] in [
        xxh3_64_digest(_HEADER.pack(MAGIC, known, length) + payload) for known in VERSIONS
    ]
    if magic == MAGIC and version not in VERSIONS and not was_known:
        raise FormatError(
            f"{path}: this store has format {version}, and this walkv reads formats "
            f"{FORMAT_VERSION} and {ENCRYPTED_VERSION}; open it with a newer walkv",
            path=path,
            found_version=version,
            supported=VERSIONS,
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
        ring = None
        if version == ENCRYPTED_VERSION:
            *fields, found_ring, tag = fields
            ring = Ring.of(found_ring)
            if type(tag) is not bytes or len(tag) != TAG_BYTES:
                raise ValueError("a tag of another length")
        store_id, generation, next_id, last_sequence, created_ns, segments, snapshots = fields
        manifest = Manifest(
            store_id,
            generation,
            next_id,
            last_sequence,
            created_ns,
            tuple(segments),
            tuple(SnapshotSummary(*summary) for summary in snapshots),
            ring,
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


def read(fs: FileSystem, directory: str, keyring: Keyring = NO_KEYS) -> Manifest:
    """The manifest of the store in ``directory``; ``FileNotFoundError`` if there is none.

    Args:
        keyring: takes in the manifest's ring.
    Raises:
        FormatError, CorruptionError: as ``decode``.
        EncryptionError: the key does not fit the store, whatever else is in the manifest.
        TamperedError: it was not written with the store's key.
    """
    path = fs.join(directory, NAME)
    return opened(fs.read_file(path, limits.MAX_MANIFEST_BYTES), path, keyring)


def opened(data: bytes, path: str, keyring: Keyring) -> Manifest:
    """As ``decode``, authenticated, and the ring taken in; raises what ``read`` does."""
    found = decode(data, path)
    keyring.unlock(found.ring, found.store_id, path)
    if found.ring is not None:
        authenticate(data, path, keyring)
    return found


def authenticate(data: bytes, path: str, keyring: Keyring) -> None:
    """Raise ``TamperedError`` unless the keyring has the last data key of the ring in ``data`` as
    its newest, and the manifest was written with it."""
    authentic = data[: _HEADER.size] + data[HEADER_BYTES:-TAG_BYTES]
    keyring.authenticate(authentic, data[-TAG_BYTES:], path)


def look(fs: FileSystem, directory: str) -> Manifest:
    """As ``read``, without a key: what an encrypted store's says may have been forged."""
    path = fs.join(directory, NAME)
    return decode(fs.read_file(path, limits.MAX_MANIFEST_BYTES), path)


def write(fs: FileSystem, directory: str, manifest: Manifest, keyring: Keyring = NO_KEYS) -> None:
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
        file.write(encode(manifest, keyring), 0)
        ensure_synced(file.sync)
    finally:
        file.close()
    fs.rename(temporary, fs.join(directory, NAME))
    ensure_synced(lambda: fs.sync_directory(directory))
