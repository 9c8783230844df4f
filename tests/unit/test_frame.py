"""Frames: the layout, each field, and that a frame is valid only in its own place."""

from __future__ import annotations

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_digest

from walkv import limits
from walkv.engine import frame
from walkv.engine.frame import BadFrame, Frame

SALT = 0xFFFFFFFFFFFFFFF0
MARK = frame.mark(SALT).to_bytes(3, "little")
PAYLOAD = b"some payload"
OFFSET = 4096


def encoded(payload: bytes = PAYLOAD, *, offset: int = OFFSET, kind: int = frame.COMMIT) -> bytes:
    return frame.encode(
        payload,
        salt=SALT,
        offset=offset,
        operation_count=3,
        first_sequence=77,
        time_ns=1_700_000_000_000_000_000,
        synced_offset=offset - 5,
        kind=kind,
    )


def decoded(data: bytes, *, start: int = 0, salt: int = SALT, offset: int = OFFSET) -> object:
    return frame.decode(data, start, salt=salt, offset=offset)


def test_layout_field_by_field() -> None:
    data = encoded()
    assert len(data) == frame.HEADER_BYTES + len(PAYLOAD)
    assert data[:8] == xxh3_64_digest(data[8:], (SALT + OFFSET) % (1 << 64))
    assert data[8:11] == MARK == (SALT & 0xFFFFFF | 1).to_bytes(3, "little")
    assert data[11] == 1
    assert struct.unpack("<II", data[12:20]) == (len(PAYLOAD), 3)
    expected = (77, 1_700_000_000_000_000_000, OFFSET - 5)
    assert struct.unpack("<QQQ", data[20:44]) == expected
    assert data[44:] == PAYLOAD


def test_docstring_layout_matches_the_bytes() -> None:
    rows = re.findall(r"^ +(\d+) +(\d+|-) +(\w+)", frame.__doc__ or "", re.MULTILINE)
    end = 0
    for offset, size, _ in rows:
        assert int(offset) == end
        end += int(size) if size != "-" else 0
    assert end == frame.HEADER_BYTES
    names = [name for *_, name in rows]
    assert names == [
        "checksum",
        "mark",
        "kind",
        "payload_length",
        "operation_count",
        "first_sequence",
        "time_ns",
        "synced_offset",
        "payload",
    ]


@given(
    st.binary(min_size=1, max_size=300),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 1 << 40),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from(sorted(frame.KINDS)),
    st.integers(0, 50),
)
def test_round_trip(
    payload: bytes,
    salt: int,
    offset: int,
    count: int,
    sequence: int,
    time_ns: int,
    kind: int,
    start: int,
) -> None:
    data = bytes(start) + frame.encode(
        payload,
        salt=salt,
        offset=offset,
        operation_count=count,
        first_sequence=sequence,
        time_ns=time_ns,
        synced_offset=offset // 2,
        kind=kind,
    )
    end = offset + frame.HEADER_BYTES + len(payload)
    expected = Frame(kind, count, sequence, time_ns, offset // 2, payload, end)
    for raw in (data, memoryview(data), data + b"what follows"):
        assert frame.decode(raw, start, salt=salt, offset=offset) == expected
        assert frame.needed_bytes(raw, start, salt=salt) == frame.HEADER_BYTES + len(payload)


def test_every_bit_counts() -> None:
    data = encoded()
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert isinstance(decoded(bytes(damaged)), BadFrame), bit
        assert isinstance(decoded(bytes(damaged) + bytes(100)), BadFrame), bit


def test_every_bit_of_the_length_claims_no_more_than_the_limit() -> None:
    for bit in range(32):
        damaged = bytearray(encoded())
        damaged[12 + bit // 8] ^= 1 << bit % 8
        assert isinstance(decoded(bytes(damaged)), BadFrame)
        claimed = frame.needed_bytes(bytes(damaged), 0, salt=SALT)
        assert frame.HEADER_BYTES <= claimed <= frame.HEADER_BYTES + limits.MAX_PAYLOAD_BYTES


def test_every_truncation_is_told() -> None:
    data = encoded()
    for length in range(len(data)):
        found = decoded(data[:length])
        assert isinstance(found, BadFrame)
        assert "ends inside" in found.reason


def test_another_place_or_segment_makes_it_invalid() -> None:
    data = encoded()
    assert isinstance(decoded(data), Frame)
    for offset in (OFFSET - 1, OFFSET + 1, OFFSET + 4096, OFFSET + (1 << 32)):
        assert isinstance(decoded(data, offset=offset), BadFrame)
    for salt in (SALT + 1, SALT ^ 1 << 63, 0):
        assert isinstance(decoded(data, salt=salt), BadFrame)
    assert isinstance(decoded(b"x" + data, start=1, offset=OFFSET), Frame)


def test_a_value_containing_a_frame_is_only_a_value() -> None:
    inner = encoded(offset=OFFSET)
    outer = encoded(b"prefix" + inner + b"suffix")
    assert isinstance(decoded(outer), Frame)
    at = outer.index(inner)
    assert isinstance(decoded(outer, start=at, offset=OFFSET + at), BadFrame)


def test_length_zero_and_all_zeros_are_invalid() -> None:
    for payload_length in (0, limits.MAX_PAYLOAD_BYTES + 1):
        body = struct.pack("<3sBIIQQQ", MARK, 1, payload_length, 1, 1, 0, 0)
        data = xxh3_64_digest(body, (SALT + OFFSET) % (1 << 64)) + body
        found = decoded(data + bytes(100))
        assert isinstance(found, BadFrame)
        assert "out of bounds" in found.reason
        assert frame.needed_bytes(data, 0, salt=SALT) == frame.HEADER_BYTES
    for size in (0, 1, 43, 44, 45, 1000):
        assert isinstance(frame.decode(bytes(size), 0, salt=0, offset=0), BadFrame)
        assert frame.needed_bytes(bytes(size), 0, salt=SALT) == frame.HEADER_BYTES


@pytest.mark.parametrize("kind", [0, 5, 255])
def test_unknown_kinds_are_invalid(kind: int) -> None:
    assert isinstance(decoded(encoded(kind=kind)), BadFrame)


def test_a_synced_offset_past_the_frame_is_invalid() -> None:
    for synced, valid in ((OFFSET, True), (OFFSET + 1, False), ((1 << 64) - 1, False)):
        data = frame.encode(
            PAYLOAD,
            salt=SALT,
            offset=OFFSET,
            operation_count=1,
            first_sequence=1,
            time_ns=0,
            synced_offset=synced,
        )
        assert isinstance(decoded(data), Frame) == valid
