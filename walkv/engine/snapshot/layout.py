"""Bytes of a snapshot file: header, pages, footer.

Layout of the file (little-endian, checksums big-endian xxh3-64):

    header                                            64 bytes
    partition, any number:  data pages, index page    as long as they are
    root page
    footer                                            64 bytes, at the very end

Layout of the header:

    offset  size  field
    ------  ----  ----------------------------------------------------------
         0     8  magic           b"WALKVSNP"
         8     4  format_version  1
        12     2  features        bit 0: encrypted; other bits are refused with FormatError
        14     2  key_number      number of the data key; 0 where not encrypted
        16    16  store_id        random; the same in every file of a store
        32     8  salt            random; seeds every checksum of this file
        40     8  snapshot_id     also the file's name
        48     8  created_ns      wall clock, ns since 1970
        56     8  checksum        of bytes 0 to 55

Layout of the footer:

    offset  size  field
    ------  ----  ----------------------------------------------------------
         0     8  checksum         of bytes 8 to 63, seeded with the salt + the footer's offset
         8     8  root_offset
        16     8  root_length      bytes on disk, page header included
        24     8  entry_count      tombstones included
        32     8  tombstone_count
        40     8  last_sequence    no sequence in the file is higher
        48     8  reserved         0
        56     8  magic            b"WALKVEND"

Layout of a page:

    offset  size  field
    ------  ----  ----------------------------------------------------------
         0     8  checksum     of bytes 8 to the end, seeded with the salt + the page's offset
         8     1  kind         1 data, 2 index, 3 root
         9     1  codec        0 as it is, 1 zstd
        10     2  flags        bit 0: every item is a plain value
        12     4  raw_length   bytes of the payload once decoded
        16     -  payload

In an encrypted file the payload is a sealed one, see ``cipher``. It is compressed before.

A page is valid if and only if its checksum matches, its kind is the one expected there, its codec
is known, and its payload decodes to exactly raw_length bytes.

Invariants:
    1. The length of a page is known from the page that points at it, so no length is read from a
       page before its checksum was verified.
    2. The seed binds a page to its file and place.
    3. zstd frames declare their size, and the declared size is held against raw_length and the
       limit before anything is decompressed: the library ignores its own output cap otherwise.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from typing import Any, Final

import zstandard
from xxhash import xxh3_64_digest

from walkv import limits
from walkv.engine.cipher import Sealer
from walkv.errors import CorruptionError, FormatError

MAGIC: Final = b"WALKVSNP"
END_MAGIC: Final = b"WALKVEND"
FORMAT_VERSION: Final = 1
HEADER_BYTES: Final = 64
FOOTER_BYTES: Final = 64
PAGE_HEADER_BYTES: Final = 16
SUFFIX: Final = ".snap"

DATA: Final = 1
INDEX: Final = 2
ROOT: Final = 3
STORED: Final = 0
ZSTD: Final = 1
FLAG_PLAIN: Final = 1
ENCRYPTED: Final = 1

_SEED_MASK: Final = (1 << 64) - 1
_HEADER: Final = struct.Struct("<8sIHH16sQQQ")
_FOOTER: Final = struct.Struct("<QQQQQQ8s")
_PAGE: Final = struct.Struct("<BBHI")
_ZSTD_LEVEL: Final = 1
_ZSTD_WORTH: Final = 0.875
"""A page is kept compressed only if that saves an eighth: less does not pay for decompressing."""

assert _HEADER.size + 8 == HEADER_BYTES
assert _FOOTER.size + 8 == FOOTER_BYTES
assert _PAGE.size + 8 == PAGE_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    store_id: bytes
    salt: int
    snapshot_id: int
    created_ns: int
    key_number: int = 0

    def encode(self) -> bytes:
        body = _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            ENCRYPTED if self.key_number else 0,
            self.key_number,
            self.store_id,
            self.salt,
            self.snapshot_id,
            self.created_ns,
        )
        return body + xxh3_64_digest(body)


@dataclass(frozen=True, slots=True)
class SnapshotFooter:
    root_offset: int
    root_length: int
    entry_count: int
    tombstone_count: int
    last_sequence: int

    def encode(self, salt: int, offset: int) -> bytes:
        body = _FOOTER.pack(
            self.root_offset,
            self.root_length,
            self.entry_count,
            self.tombstone_count,
            self.last_sequence,
            0,
            END_MAGIC,
        )
        return xxh3_64_digest(body, (salt + offset) & _SEED_MASK) + body


def file_name(snapshot_id: int) -> str:
    return f"{snapshot_id:010d}{SUFFIX}"


def parse_file_name(name: str) -> int | None:
    """The id a snapshot's name states, or None if it is no snapshot's name."""
    stem = name.removesuffix(SUFFIX)
    if stem == name or len(stem) != 10 or not stem.isascii() or not stem.isdigit():
        return None
    return int(stem)


def decode_header(data: bytes, path: str) -> SnapshotHeader:
    """The header in the first 64 bytes.

    Raises:
        FormatError: a format this version does not read.
        CorruptionError: damaged.
    """
    if len(data) < HEADER_BYTES:
        raise CorruptionError(
            "the file ends inside the snapshot header",
            path=path,
            offset_bytes=0,
            expected=HEADER_BYTES,
            found=len(data),
        )
    fields = _HEADER.unpack_from(data)
    magic, version, features, key_number, store_id, salt, snapshot_id, created_ns = fields
    actual = xxh3_64_digest(data[: _HEADER.size])
    known = version == FORMAT_VERSION and features == (ENCRYPTED if key_number else 0)
    if magic == MAGIC and not known and actual == data[_HEADER.size :]:
        raise FormatError(
            f"{path}: snapshot of format {version}, features {features:#x}, and this walkv reads "
            f"format {FORMAT_VERSION}; open it with a newer walkv",
            path=path,
            found_version=version,
            supported=(FORMAT_VERSION,),
        )
    if magic != MAGIC or actual != data[_HEADER.size : HEADER_BYTES]:
        raise CorruptionError(
            "snapshot header checksum does not match",
            path=path,
            offset_bytes=0,
            expected=data[_HEADER.size :].hex(),
            found=actual.hex(),
        )
    return SnapshotHeader(store_id, salt, snapshot_id, created_ns, key_number)


def decode_footer(data: bytes, path: str, salt: int, offset: int) -> SnapshotFooter:
    """The footer, read from the last 64 bytes of the file."""
    actual = xxh3_64_digest(data[8:], (salt + offset) & _SEED_MASK)
    if len(data) != FOOTER_BYTES or actual != data[:8]:
        raise CorruptionError(
            "snapshot footer checksum does not match",
            path=path,
            offset_bytes=offset,
            expected=data[:8].hex(),
            found=actual.hex(),
        )
    root_offset, root_length, entries, tombstones, last, _, magic = _FOOTER.unpack_from(data, 8)
    if magic != END_MAGIC or root_offset + root_length != offset or root_offset < HEADER_BYTES:
        raise CorruptionError("snapshot footer is inconsistent", path=path, offset_bytes=offset)
    return SnapshotFooter(root_offset, root_length, entries, tombstones, last)


def place_page(body: bytes, salt: int, offset: int, sealer: Sealer | None = None) -> bytes:
    """A page body (header fields and payload), sealed and with the checksum for its place."""
    if sealer is not None:
        head = body[: _PAGE.size]
        body = head + sealer.seal(memoryview(body)[_PAGE.size :], head, offset)
    return xxh3_64_digest(body, (salt + offset) & _SEED_MASK) + body


class PageEncoder:
    """Payload -> page body, compressing where that pays. One per writer.

    After pages that did not shrink, compression is tried only now and then, so that data that
    cannot be compressed costs next to nothing.
    """

    _PATIENCE: Final = 16

    def __init__(self) -> None:
        self._compress = zstandard.ZstdCompressor(
            level=_ZSTD_LEVEL, write_content_size=True, write_checksum=False
        ).compress
        self._misses = 0
        self._pages = 0

    def encode(self, kind: int, payload: bytes, *, plain: bool = False) -> bytes:
        flags = FLAG_PLAIN if plain else 0
        self._pages += 1
        if self._misses < 4 or self._pages % self._PATIENCE == 0:
            packed = self._compress(payload)
            if len(packed) <= len(payload) * _ZSTD_WORTH:
                self._misses = 0
                return _PAGE.pack(kind, ZSTD, flags, len(payload)) + packed
            self._misses += 1
        return _PAGE.pack(kind, STORED, flags, len(payload)) + payload


_threads = threading.local()


def _decompressor() -> Any:
    # One a thread: the object keeps state while it works.
    try:
        return _threads.decompressor
    except AttributeError:
        made = zstandard.ZstdDecompressor()
        _threads.decompressor = made
        return made


# Hot: every page read from a file.
def decode_page(
    data: bytes | memoryview,
    kind: int,
    *,
    path: str,
    salt: int,
    offset: int,
    sealer: Sealer | None = None,
) -> tuple[bytes, bool]:
    """Payload and plain flag of the page that is ``data``.

    Args:
        sealer: the file's, where it is encrypted.
    Raises:
        CorruptionError: not a valid page of that kind for this place.
        TamperedError: its checksum is right, and it was not sealed there.
    Cost: one pass to hash, and one to decompress where compressed.
    """
    view = memoryview(data)
    actual = xxh3_64_digest(view[8:], (salt + offset) & _SEED_MASK)
    if actual != view[:8] or len(data) < PAGE_HEADER_BYTES:
        raise CorruptionError(
            "page checksum does not match",
            path=path,
            offset_bytes=offset,
            expected=bytes(view[:8]).hex(),
            found=actual.hex(),
        )
    packed: bytes | memoryview = view[PAGE_HEADER_BYTES:]
    if sealer is not None:
        packed = sealer.open(packed, bytes(view[8:PAGE_HEADER_BYTES]), offset)
    found_kind, codec, flags, raw_length = _PAGE.unpack_from(data, 8)
    if found_kind != kind or codec > ZSTD or raw_length > limits.MAX_BLOCK_BYTES:
        raise CorruptionError(
            "page header is inconsistent",
            path=path,
            offset_bytes=offset,
            expected=f"kind {kind}",
            found=f"kind {found_kind}, codec {codec}, {raw_length} bytes",
        )
    if codec == ZSTD:
        packed = _decompressed(packed, raw_length, path, offset)
    payload = bytes(packed)
    if len(payload) != raw_length:
        raise CorruptionError(
            "page has the wrong length",
            path=path,
            offset_bytes=offset,
            expected=raw_length,
            found=len(payload),
        )
    return payload, bool(flags & FLAG_PLAIN)


def opened_body(data: bytes | memoryview, offset: int, sealer: Sealer | None) -> bytes:
    """The body of a page whose checksum was verified, as ``place_page`` takes it for elsewhere."""
    if sealer is None:
        return bytes(data[8:])
    view = memoryview(data)
    head = bytes(view[8:PAGE_HEADER_BYTES])
    return head + sealer.open(view[PAGE_HEADER_BYTES:], head, offset)


def _decompressed(packed: bytes | memoryview, raw_length: int, path: str, offset: int) -> bytes:
    try:
        if zstandard.frame_content_size(packed) != raw_length:
            raise zstandard.ZstdError("the frame declares another size")
        return bytes(_decompressor().decompress(packed, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise CorruptionError(
            f"page does not decompress: {error}", path=path, offset_bytes=offset
        ) from None
