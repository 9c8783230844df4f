"""The decoders as targets: bytes in, "accepted" or "refused" out, and nothing else may happen.

Each target also has a *forge*: it makes a valid file or frame around any bytes, with the checksums
right, so that what is behind the checksum is reached. Forged checksums are no accident, and their
content may be anything; but neither an untyped exception, nor recursion without end, nor memory
without bound may come of them.
"""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, NamedTuple

import zstandard
from xxhash import xxh3_64_digest

from walkv import limits
from walkv.engine import batch, frame, manifest, opening, segment
from walkv.engine.frame import BadFrame
from walkv.engine.segment import Scanner, SegmentHeader
from walkv.engine.snapshot import BlockCache, SnapshotReader, blocks, layout
from walkv.engine.vfs import locks
from walkv.errors import CorruptionError, FormatError, LockedError, WalkvError
from walkv.testing import Disk, SimulatedFileSystem

STORE_ID: Final = b"fuzzfuzzfuzzfuzz"
SALT: Final = 0x1234_5678_9ABC_DEF1
SNAPSHOT_ID: Final = 7
KEYS: Final = (b"", b"a", b"key/1", b"m", b"\xff")
UNTYPED: Final = "untyped"

MAX_BLOCK_BYTES: Final = 1 << 20
MAX_PAYLOAD_BYTES: Final = 4 << 20
MEMORY_FACTOR: Final = 64
MEMORY_BYTES: Final = 8 << 20
"""A case may take len(input) * MEMORY_FACTOR + MEMORY_BYTES at once, with the limits lowered to the
two above: read buffers, one block at its longest while it is decompressed and decoded, and per byte
of msgpack one object."""

_LIST_BYTES: Final = 81_920
_LIST_DEPTH: Final = 1024
"""msgpack makes room for up to 10,000 elements for each array header it meets, before it finds that
they are missing, and follows up to 1,024 levels of them."""
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


class MemoryExceededError(AssertionError):
    """A case took more memory than it may."""


class Target(NamedTuple):
    """A decoder.

    Attributes:
        decode: True if it accepts the bytes.
        refusals: the errors it may raise.
        forge: a valid wrapping of any bytes.
    """

    decode: Callable[[bytes], bool]
    refusals: tuple[type[Exception], ...]
    forge: Callable[[bytes], bytes]


def try_target(target: Target, data: bytes, *, measured: bool) -> bool:
    """Give bytes to a decoder; whether it accepts them. What it may not raise escapes.

    Raises:
        MemoryExceededError: too much memory was taken; only where ``measured``.
    """
    if measured:
        tracemalloc.start()
    try:
        accepted = target.decode(data)
    except target.refusals:
        accepted = False
    finally:
        taken = tracemalloc.get_traced_memory()[1]
        if measured:
            tracemalloc.stop()
    if taken > memory_bytes(data):
        raise MemoryExceededError(f"{taken} bytes for an input of {len(data)}")
    return accepted


def memory_bytes(data: bytes) -> int:
    """The memory a case may take."""
    headers = data.count(b"\xdc") + data.count(b"\xdd")
    if _ZSTD_MAGIC in data:
        headers = _LIST_DEPTH
    lists = min(headers, _LIST_DEPTH) * _LIST_BYTES
    return len(data) * MEMORY_FACTOR + MEMORY_BYTES + lists


@contextmanager
def lowered_limits() -> Iterator[None]:
    """Limits of some MB in the place of some GB: a case that goes to them is soon told."""
    before = limits.MAX_BLOCK_BYTES, limits.MAX_PAYLOAD_BYTES
    limits.MAX_BLOCK_BYTES, limits.MAX_PAYLOAD_BYTES = MAX_BLOCK_BYTES, MAX_PAYLOAD_BYTES
    try:
        yield
    finally:
        limits.MAX_BLOCK_BYTES, limits.MAX_PAYLOAD_BYTES = before


class BytesFile:
    """An open file that is only read."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self._data = data

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        assert min(offset_bytes, size_bytes) >= 0, "a read at a negative place"
        return self._data[offset_bytes : offset_bytes + size_bytes]

    def size(self) -> int:
        return len(self._data)

    def close(self) -> None:
        pass


# -- log -----------------------------------------------------------------------------------------


def decode_frame(data: bytes) -> bool:
    frame.needed_bytes(data, 0, salt=SALT)
    return not isinstance(frame.decode(data, 0, salt=SALT, offset=segment.HEADER_BYTES), BadFrame)


def forge_frame(data: bytes) -> bytes:
    """The bytes from the mark on: kind, counts, payload. The length is put right."""
    body = bytearray(data.ljust(frame.HEADER_BYTES - frame.CHECKSUM_BYTES + 1, b"\0"))
    body[:3] = frame.mark(SALT).to_bytes(3, "little")
    body[3] = body[3] % 4 + 1
    body[4:8] = (len(body) - frame.HEADER_BYTES + frame.CHECKSUM_BYTES).to_bytes(4, "little")
    return xxh3_64_digest(bytes(body), SALT + segment.HEADER_BYTES) + body


def decode_batch(data: bytes) -> bool:
    operations = batch.decode(data)
    for subject, item in zip(operations[::2], operations[1::2], strict=True):
        if type(subject) is not bytes:
            start, stop = subject
            assert item is None, "a range with a value"
            assert type(start) is bytes, "a range that begins with no key"
            assert stop is None or (type(stop) is bytes and start < stop), "an empty range"
    return True


def decode_segment(data: bytes) -> bool:
    """The header, all frames and their payloads, and the search for what is promised."""
    file: Any = BytesFile(f"/s/log/{segment.file_name(1)}", data)
    scanner = Scanner(file, segment.read_header(file, STORE_ID))
    for found in scanner.frames():
        if found.kind == frame.COMMIT:
            try:
                batch.decode(found.payload)
            except ValueError:
                return False
    scanner.ends_in_zeros()
    return scanner.promised_past() is None


def segment_file(frames: list[tuple[int, int, int, int, bytes]], rest: bytes = b"") -> bytes:
    """A segment of frames, each (kind, operations, first sequence, synced offset, payload)."""
    data = SegmentHeader(STORE_ID, SALT, 1, 0).encode()
    for kind, count, first, synced, payload in frames:
        data += frame.encode(
            payload,
            salt=SALT,
            offset=len(data),
            operation_count=count,
            first_sequence=first,
            time_ns=0,
            synced_offset=synced,
            kind=kind,
        )
    return data + rest


def forge_segment(data: bytes) -> bytes:
    """One commit of these bytes, and another frame behind some of them as rubbish."""
    payload = data or b"\0"
    return segment_file([(frame.COMMIT, 1, 1, 64, payload)], data[::2])


# -- manifest, lock ------------------------------------------------------------------------------


def decode_manifest(data: bytes) -> bool:
    manifest.decode(data, "/s/MANIFEST")
    return True


def forge_manifest(data: bytes) -> bytes:
    head = manifest.MAGIC + (1).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return head + xxh3_64_digest(head + data) + data


@cache
def _lock_descriptor() -> int:
    descriptor, path = tempfile.mkstemp()
    os.unlink(path)
    return descriptor


def decode_lock(data: bytes) -> bool:
    descriptor = _lock_descriptor()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, data, 0)
    holder = locks._read(descriptor)
    error = opening._locked("/s", "/s/LOCK", holder)
    assert isinstance(error, LockedError)
    assert error.pid is None or isinstance(error.pid, int)
    assert error.host is None or isinstance(error.host, str)
    str(error)
    return bool(holder)


# -- snapshots -----------------------------------------------------------------------------------


def decode_page(data: bytes) -> bool:
    layout.decode_page(data, layout.DATA, path="/s/x", salt=SALT, offset=layout.HEADER_BYTES)
    return True


def page(kind: int, codec: int, raw_length: int, body: bytes, offset: int, flags: int = 0) -> bytes:
    """A page with the right checksum for its place."""
    head = bytes((kind & 255, codec & 255)) + flags.to_bytes(2, "little")
    return layout.place_page(
        head + (raw_length & 0xFFFFFFFF).to_bytes(4, "little") + body, SALT, offset
    )


def forge_page(data: bytes) -> bytes:
    """The first byte says the codec, four more the length it claims, the rest is the payload."""
    head = data[:5].ljust(5, b"\0")
    claimed = int.from_bytes(head[1:5], "little")
    body = data[5:]
    return page(layout.DATA, head[0] % 3, claimed if head[0] & 4 else len(body), body, 64)


def decode_footer(data: bytes) -> bool:
    layout.decode_footer(data, "/s/x", SALT, 4096)
    return True


def forge_footer(data: bytes) -> bytes:
    body = data[:48].ljust(48, b"\0") + layout.END_MAGIC
    return xxh3_64_digest(body, SALT + 4096) + body


def decode_data(data: bytes) -> bool:
    block = blocks.decode_data(data, bool(len(data) % 2))
    block.sequences()
    return block.sequence_at(len(block.keys) - 1) >= 0


def decode_index(data: bytes) -> bool:
    index = blocks.decode_index(data)
    for key in KEYS:
        index.may_contain(blocks.hash_key(key))
    return True


def decode_root(data: bytes) -> bool:
    blocks.decode_root(data)
    return True


_SNAPSHOT_PATH: Final = f"/s/snapshots/{layout.file_name(SNAPSHOT_ID)}"


def decode_snapshot(data: bytes) -> bool:
    """A whole file, read in every way a reader can be. Each way is tried, whatever became of the
    one before."""
    fs = SimulatedFileSystem.after_power_failure(
        Disk({_SNAPSHOT_PATH: data}, frozenset(("/s", "/s/snapshots")))
    )
    reader = SnapshotReader(fs, _SNAPSHOT_PATH, STORE_ID, SNAPSHOT_ID, BlockCache(1 << 20))
    ways: list[Callable[[], object]] = [
        lambda: reader.check(lambda _: None),
        lambda: list(reader.chunks(b"", None)),
        lambda: list(reader.chunks(b"a", b"m", reverse=True)),
        lambda: [list(reader.partition_chunks(p.number)) for p in reader.partitions()],
        lambda: [list(reader.raw_partition(p.number)[0]) for p in reader.partitions()],
        lambda: reader.covered_count(reader.ranges.clipped(b"a", None).union(reader.ranges)),
        *(lambda key=key: reader.find(key) for key in KEYS),
        *(lambda key=key: reader.item(key) for key in KEYS),
    ]
    accepted = True
    for way in ways:
        try:
            way()
        except WalkvError:
            accepted = False
    return accepted


def snapshot_file(
    data_pages: list[tuple[int, int, bytes]],
    index: bytes | None,
    root: bytes | None,
    *,
    flags: int = 0,
    compress: bool = False,
) -> bytes:
    """A file of one partition with every checksum right.

    Args:
        data_pages: (codec, claimed length, body) each.
        index: payload of the index page; None: the right one for one page a key of ``KEYS``.
        root: payload of the root; None: the right one.
        compress: index and root are compressed.
    """
    out = layout.SnapshotHeader(STORE_ID, SALT, SNAPSHOT_ID, 0).encode()
    starts = [0]
    for codec, claimed, body in data_pages:
        out += page(layout.DATA, codec, claimed, body, len(out), flags)
        starts.append(len(out) - layout.HEADER_BYTES)
    first_keys = list(KEYS[1 : len(starts)])
    if index is None:
        index = blocks.encode_index(first_keys, starts, [blocks.hash_key(key) for key in KEYS])
    index_offset = len(out)
    out += _page_of(layout.INDEX, index, len(out), compress)
    if root is None:
        made = blocks.Root()
        made.first_keys, made.last_keys = [b"a"], [b"\xff"]
        made.offsets, made.data_lengths = [layout.HEADER_BYTES], [starts[-1]]
        made.index_lengths, made.entry_counts, made.flags = [len(out) - index_offset], [1], [0]
        root = made.encode()
    root_offset = len(out)
    out += _page_of(layout.ROOT, root, len(out), compress)
    footer = layout.SnapshotFooter(root_offset, len(out) - root_offset, 1, 0, 1)
    return out + footer.encode(SALT, len(out))


def _page_of(kind: int, payload: bytes, offset: int, compress: bool) -> bytes:
    body = zstandard.ZstdCompressor(level=1).compress(payload) if compress else payload
    return page(kind, int(compress), len(payload), body, offset)


def forge_snapshot(data: bytes) -> bytes:
    """The first byte says which page the rest becomes; the other pages are right."""
    which, payload = (data[0] if data else 0), data[1:]
    right = blocks.encode_data([b"a", b"key/1"], [b"1", None], [1, 2])
    if which % 4 == 0:
        return snapshot_file([(0, len(payload), payload)], None, None, flags=which & 1)
    if which % 4 == 1:
        return snapshot_file([(0, len(right), right)], payload, None, compress=bool(which & 8))
    if which % 4 == 2:
        return snapshot_file([(0, len(right), right)], None, payload, compress=bool(which & 8))
    return snapshot_file([(1, int.from_bytes(payload[:2], "little"), payload[2:])], None, None)


def as_it_is(data: bytes) -> bytes:
    return data


_BLOCKS: Final = (ValueError, TypeError, IndexError)
"""What a reader turns into a ``CorruptionError``."""

TARGETS: Final[dict[str, Target]] = {
    "frame": Target(decode_frame, (), forge_frame),
    "batch": Target(decode_batch, (ValueError,), as_it_is),
    "segment": Target(decode_segment, (CorruptionError, FormatError), forge_segment),
    "manifest": Target(decode_manifest, (CorruptionError, FormatError), forge_manifest),
    "lock": Target(decode_lock, (), as_it_is),
    "page": Target(decode_page, (CorruptionError,), forge_page),
    "footer": Target(decode_footer, (CorruptionError,), forge_footer),
    "data": Target(decode_data, _BLOCKS, as_it_is),
    "index": Target(decode_index, _BLOCKS, as_it_is),
    "root": Target(decode_root, _BLOCKS, as_it_is),
    "snapshot": Target(decode_snapshot, (CorruptionError, FormatError), forge_snapshot),
}


def split_all(data: bytes) -> tuple[str, bytes]:
    """For the target ``all``: the first byte says which."""
    names = list(TARGETS)
    return names[(data[0] if data else 0) % len(names)], data[1:]
