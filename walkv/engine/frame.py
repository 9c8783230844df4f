"""Bytes <-> frame: one committed batch in a segment. Pure: no input, no output.

Layout (little-endian, ``checksum`` big-endian as xxHash's canonical form):

    offset  size  field
    ------  ----  -----------------------------------------------------------------------
         0     8  checksum         xxh3-64 of bytes 8 to the end of the payload, seeded
         8     3  mark             low 24 bits of the salt, bit 0 set: lets a scan find candidates
        11     1  kind             1 commit, 2 sync marker, 3 seal, 4 close
        12     4  payload_length   bytes; never 0
        16     4  operation_count  operations in the payload; 0 unless a commit
        20     8  first_sequence   sequence of the first operation, or of the next one to come
        28     8  time_ns          wall clock at the commit, ns since 1970; never relied on
        36     8  synced_offset    bytes of this segment known to be on the medium
        44     -  payload

    The seed is (salt of the segment + offset of the frame in it) mod 2**64. In an encrypted segment
    the payload is a sealed one, see ``cipher``, and the lengths here are its.

A frame is valid if and only if:
    1. the segment has at least 44 + payload_length bytes from its offset on,
    2. the mark is right, the kind known and payload_length between 1 and the limit,
    3. synced_offset is not past the frame's own offset,
    4. the checksum matches.

Invariants:
    1. A frame is whole or it is not a frame: there are no partial batches.
    2. The seed binds a frame to its segment and place, so a stale frame, a moved one, or a value
       that happens to hold a frame's bytes is not valid.
    3. The mark differs from segment to segment, so that nobody who may only choose values can
       fill a segment with candidates for a scan past damage to look at.
    4. ``synced_offset`` only ever states what a completed sync covered. It is what tells damage
       from a torn tail: bytes before it were durable when this frame was written.

Source: LevelDB's ``log_format.md`` and Pebble's synced offsets. Splitting records over fixed blocks
(LevelDB) was rejected: it buys resynchronisation after damage, which walkv refuses to do silently.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest

from walkv import limits
from walkv.engine.cipher import SEAL_BYTES, Sealer

COMMIT: Final = 1
SYNC_MARKER: Final = 2
SEAL: Final = 3
CLOSE: Final = 4
KINDS: Final = frozenset((COMMIT, SYNC_MARKER, SEAL, CLOSE))

CHECKSUM_BYTES: Final = 8
HEADER_BYTES: Final = 44
SEED_MASK: Final = (1 << 64) - 1

# The mark and the kind travel as one 32-bit number, the mark in the low bytes.
_BODY: Final = struct.Struct("<IIIQQQ")
_MARK_BITS: Final = 0xFFFFFF
_COPIED_BYTES: Final = 4096
pack_body = _BODY.pack

assert CHECKSUM_BYTES + _BODY.size == HEADER_BYTES


class Frame(NamedTuple):
    """A valid frame, its payload still encoded."""

    kind: int
    operation_count: int
    first_sequence: int
    time_ns: int
    synced_offset: int
    payload: bytes
    end_offset: int


class BadFrame(NamedTuple):
    """Why there is no valid frame at an offset."""

    reason: str
    expected: object = None
    found: object = None


def mark(salt: int) -> int:
    """The mark of the frames of a segment."""
    return salt & _MARK_BITS | 1


def tag(salt: int, kind: int) -> int:
    """Mark and kind, as they stand in a frame."""
    return mark(salt) | kind << 24


def encode(
    payload: bytes,
    *,
    salt: int,
    offset: int,
    operation_count: int,
    first_sequence: int,
    time_ns: int,
    synced_offset: int,
    kind: int = COMMIT,
    sealer: Sealer | None = None,
) -> bytes:
    """One frame, to be written at ``offset`` of the segment that has ``salt``.

    Args:
        sealer: the segment's, where it is encrypted.

    Cost: one pass over the payload to copy and one to hash it.
    """
    body = (
        _BODY.pack(
            tag(salt, kind),
            len(payload),
            operation_count,
            first_sequence,
            time_ns,
            synced_offset,
        )
        + payload
    )
    if sealer is not None:
        body = seal(body, offset, sealer)
    return xxh3_64_digest(body, (salt + offset) & SEED_MASK) + body


# Hot: every commit to an encrypted store.
def seal(body: bytes, offset: int, sealer: Sealer) -> bytes:
    """What follows a frame's checksum, with the payload sealed for its place."""
    length = len(body) - _BODY.size + SEAL_BYTES
    head = body[:4] + length.to_bytes(4, "little") + body[8 : _BODY.size]
    return head + sealer.seal(memoryview(body)[_BODY.size :], head, offset)


def unseal(found: Frame, *, salt: int, offset: int, sealer: Sealer) -> Frame:
    """A valid frame with its payload opened; ``TamperedError`` if it was not sealed there."""
    head = _BODY.pack(
        tag(salt, found.kind),
        len(found.payload),
        found.operation_count,
        found.first_sequence,
        found.time_ns,
        found.synced_offset,
    )
    return found._replace(payload=sealer.open(found.payload, head, offset))


# Hot: every frame of a replay.
def decode(data: bytes | memoryview, start: int, *, salt: int, offset: int) -> Frame | BadFrame:
    """The frame at ``data[start]``, which is at ``offset`` of its segment.

    ``data`` must reach to the end of the frame or to the end of the segment: a frame that does not
    fit is reported as not valid. Nothing is allocated before the length was checked.
    """
    available = len(data) - start
    if available < HEADER_BYTES:
        return BadFrame("the file ends inside a frame header", HEADER_BYTES, available)
    found, length, operation_count, first_sequence, time_ns, synced_offset = _BODY.unpack_from(
        data, start + CHECKSUM_BYTES
    )
    kind = found >> 24
    if found & _MARK_BITS != salt & _MARK_BITS | 1 or kind not in KINDS:
        return BadFrame("no frame mark", f"{mark(salt):#08x}", f"{found:#010x}")
    if not 0 < length <= limits.MAX_PAYLOAD_BYTES:
        return BadFrame("payload length out of bounds", limits.MAX_PAYLOAD_BYTES, length)
    end = start + HEADER_BYTES + length
    if end > len(data):
        return BadFrame("the file ends inside a frame", HEADER_BYTES + length, available)
    # A copy is cheaper than a view of a small frame.
    whole = data if length < _COPIED_BYTES else memoryview(data)
    body = whole[start + CHECKSUM_BYTES : end]
    checksum = data[start : start + CHECKSUM_BYTES]
    actual = xxh3_64_digest(body, (salt + offset) & SEED_MASK)
    if actual != checksum:
        return BadFrame("frame checksum does not match", bytes(checksum).hex(), actual.hex())
    if synced_offset > offset:
        return BadFrame("synced offset lies past the frame itself", offset, synced_offset)
    payload = bytes(body[HEADER_BYTES - CHECKSUM_BYTES :])
    return Frame(
        kind,
        operation_count,
        first_sequence,
        time_ns,
        synced_offset,
        payload,
        offset + HEADER_BYTES + length,
    )


def needed_bytes(data: bytes | memoryview, start: int, *, salt: int) -> int:
    """How many bytes from ``start`` the frame there claims, as far as the header can be believed.

    Returns ``HEADER_BYTES`` where there is no plausible header. For readers that fetch a segment
    in pieces; the claim is bounded by the limit and must be bounded by the file by the caller.
    """
    if len(data) - start < HEADER_BYTES:
        return HEADER_BYTES
    found, length = struct.unpack_from("<II", data, start + CHECKSUM_BYTES)
    if found & _MARK_BITS != mark(salt) or not 0 < length <= limits.MAX_PAYLOAD_BYTES:
        return HEADER_BYTES
    return HEADER_BYTES + int(length)
