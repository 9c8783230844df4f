"""Segments: the header, the scanner, and the detector that tells damage from a torn tail."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path

import pytest
from hooked import START_NS, HookedFileSystem
from xxhash import xxh3_64_digest

import walkv
from walkv.engine import frame, segment
from walkv.engine.segment import Scanner, SegmentHeader
from walkv.engine.vfs import OsFileSystem

FS = OsFileSystem()
STORE = b"0123456789abcdef"
SALT = 0xFEDCBA9876543210
HEADER = SegmentHeader(STORE, SALT, 100, START_NS)


def framed(
    offset: int,
    sequence: int,
    payload: bytes = b"payload",
    *,
    kind: int = frame.COMMIT,
    synced: int = 0,
    salt: int = SALT,
) -> bytes:
    return frame.encode(
        payload,
        salt=salt,
        offset=offset,
        operation_count=1 if kind == frame.COMMIT else 0,
        first_sequence=sequence,
        time_ns=START_NS,
        synced_offset=synced,
        kind=kind,
    )


def chain(*payloads: bytes, promise: bool = True) -> tuple[bytes, list[int]]:
    """A segment of commits, each of which promises all before it; and where each frame begins."""
    data = HEADER.encode()
    starts = []
    for number, payload in enumerate(payloads):
        starts.append(len(data))
        data += framed(len(data), 100 + number, payload, synced=len(data) if promise else 0)
    return data, [*starts, len(data)]


def scanner_of(tmp_path: Path, data: bytes) -> Scanner:
    path = tmp_path / segment.file_name(100)
    path.write_bytes(data)
    file = FS.open(str(path))
    return Scanner(file, segment.read_header(file, STORE))


def test_header_layout() -> None:
    data = HEADER.encode()
    assert len(data) == segment.HEADER_BYTES == 64
    assert data[:8] == b"WALKVLOG"
    assert data[8:16] == struct.pack("<II", 1, 0)
    assert data[16:32] == STORE
    assert data[32:56] == struct.pack("<QQQ", SALT, 100, START_NS)
    assert data[56:] == xxh3_64_digest(data[:56])


def test_docstring_layout_matches_the_bytes() -> None:
    rows = re.findall(r"^ +(\d+) +(\d+) +(\w+)", segment.__doc__ or "", re.MULTILINE)
    end = 0
    for offset, size, _ in rows:
        assert int(offset) == end
        end += int(size)
    assert end == segment.HEADER_BYTES
    assert [name for *_, name in rows][:2] == ["magic", "format_version"]


@pytest.mark.parametrize("length", range(64))
def test_a_short_header_is_damage(tmp_path: Path, length: int) -> None:
    with pytest.raises(walkv.CorruptionError):
        scanner_of(tmp_path, HEADER.encode()[:length])


def test_every_bit_of_the_header_counts(tmp_path: Path) -> None:
    original = HEADER.encode()
    for bit in range(64 * 8):
        data = bytearray(original)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(walkv.CorruptionError):
            scanner_of(tmp_path, bytes(data))


def test_names() -> None:
    assert segment.file_name(100) == "00000000000000000100.wal"
    assert segment.parse_file_name("00000000000000000100.wal") == 100
    assert segment.parse_file_name(segment.file_name((1 << 64) - 1)) == (1 << 64) - 1
    for name in ("100.wal", "00000000000000000100", "0000000000000000010x.wal", "x.wal", ".wal"):
        assert segment.parse_file_name(name) is None
    assert segment.parse_file_name("\u0661" * 20 + ".wal") is None
    names = [segment.file_name(n) for n in (1, 9, 10, 99, 10**12)]
    assert names == sorted(names)


def test_create_is_durable_with_its_name(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    file = segment.create(fs, str(tmp_path), HEADER)
    assert [operation for operation, _ in fs.calls] == ["create", "write", "sync", "sync_directory"]
    assert segment.read_header(file, STORE) == HEADER
    with pytest.raises(FileExistsError):
        segment.create(fs, str(tmp_path), HEADER)


def test_scan_of_frames_of_all_sizes(tmp_path: Path) -> None:
    sizes = [1, 2, 100, (1 << 20) - 44, 1 << 20, 3 << 20, 5, 1 << 16, 1, 700_000, 700_000]
    data, starts = chain(*(bytes([65 + n]) * size for n, size in enumerate(sizes)))
    scanner = scanner_of(tmp_path, data)
    found = list(scanner.frames())
    assert [len(each.payload) for each in found] == sizes
    assert [each.first_sequence for each in found] == list(range(100, 100 + len(sizes)))
    assert [each.end_offset for each in found] == starts[1:]
    assert (scanner.offset, scanner.frame_count) == (len(data), len(sizes))
    assert scanner.next_sequence == 100 + len(sizes)
    assert not scanner.sealed
    assert scanner.stop is not None
    assert scanner.ends_in_zeros()
    assert scanner.promised_past() is None


def test_scan_resumes_where_the_file_has_grown(tmp_path: Path) -> None:
    data, starts = chain(*(b"x" * n for n in range(1, 40)))
    path = tmp_path / segment.file_name(100)
    scanner = scanner_of(tmp_path, data[: segment.HEADER_BYTES])
    assert list(scanner.frames()) == []
    count = 0
    for length in range(segment.HEADER_BYTES, len(data) + 1, 13):
        path.write_bytes(data[:length])
        count += len(list(scanner.frames()))
        assert count == sum(1 for start in starts[1:] if start <= length)
        assert scanner.offset == max(start for start in starts if start <= length)
    path.write_bytes(data)
    assert count + len(list(scanner.frames())) == 39


def test_a_seal_ends_the_scan(tmp_path: Path) -> None:
    data, _ = chain(b"a", b"b")
    sealed = data + framed(len(data), 102, b"\0", kind=frame.SEAL, synced=len(data))
    scanner = scanner_of(tmp_path, sealed + framed(len(sealed), 102, synced=len(sealed)))
    assert len(list(scanner.frames())) == 3
    assert scanner.sealed
    assert scanner.offset == len(sealed)
    assert scanner.next_sequence == 102


def test_markers_and_closes_do_not_end_the_scan(tmp_path: Path) -> None:
    data, _ = chain(b"a")
    for kind in (frame.SYNC_MARKER, frame.CLOSE):
        data += framed(len(data), 101, b"\0", kind=kind, synced=len(data))
    data += framed(len(data), 101)
    assert len(list(scanner_of(tmp_path, data).frames())) == 4


@pytest.mark.parametrize(
    ("kind", "sequence", "count"),
    [
        (frame.COMMIT, 102, 1),
        (frame.COMMIT, 100, 1),
        (frame.COMMIT, 101, 0),
        (frame.SYNC_MARKER, 102, 0),
        (frame.SYNC_MARKER, 101, 1),
        (frame.CLOSE, 100, 0),
        (frame.SEAL, 103, 0),
        (frame.SEAL, 100, 0),
    ],
)
def test_valid_frames_that_do_not_continue_are_damage(
    tmp_path: Path, kind: int, sequence: int, count: int
) -> None:
    data, _ = chain(b"a")
    data += frame.encode(
        b"x",
        salt=SALT,
        offset=len(data),
        operation_count=count,
        first_sequence=sequence,
        time_ns=0,
        synced_offset=0,
        kind=kind,
    )
    with pytest.raises(walkv.CorruptionError) as caught:
        list(scanner_of(tmp_path, data).frames())
    assert caught.value.offset_bytes == len(data) - 45


def test_zeros_after_the_frames(tmp_path: Path) -> None:
    data, starts = chain(b"a", b"b")
    for size in (1, 44, 45, 1 << 20, (1 << 20) + 1, 3 << 20):
        scanner = scanner_of(tmp_path, data + bytes(size))
        assert len(list(scanner.frames())) == 2
        assert scanner.offset == starts[-1]
        assert scanner.ends_in_zeros()
        assert scanner.promised_past() is None
        for at in {0, size // 2, size - 1}:
            spoiled = bytearray(data + bytes(size))
            spoiled[len(data) + at] = 1
            scanner = scanner_of(tmp_path, bytes(spoiled))
            list(scanner.frames())
            assert not scanner.ends_in_zeros()


def test_a_frame_of_zeros_is_no_frame(tmp_path: Path) -> None:
    scanner = scanner_of(tmp_path, HEADER.encode() + bytes(1000))
    assert list(scanner.frames()) == []
    assert scanner.stop is not None
    assert "mark" in scanner.stop.reason


def test_the_detector_finds_the_first_frame_that_promises(tmp_path: Path) -> None:
    for sizes in ([1] * 6, [100, 1 << 20, 7, 2 << 20, 50, 9], [(1 << 20) - 44] * 6):
        data, starts = chain(*(b"p" * size for size in sizes))
        for bad in range(5):
            spoiled = bytearray(data)
            spoiled[starts[bad] + 50 if sizes[bad] > 6 else starts[bad] + 20] ^= 1
            scanner = scanner_of(tmp_path, bytes(spoiled))
            assert len(list(scanner.frames())) == bad
            found = scanner.promised_past()
            assert found is not None
            assert found[0] == starts[bad + 1]
            assert found[1].synced_offset == starts[bad + 1]


def test_the_detector_finds_a_promise_across_every_window_edge(tmp_path: Path) -> None:
    edge = segment._READ_BYTES
    for shift in range(-60, 20, 7):
        start = segment.HEADER_BYTES
        promise = start + 1 + edge + shift
        data = bytearray(HEADER.encode() + b"\1" * (promise - start))
        data += framed(promise, 101, synced=promise)
        scanner = scanner_of(tmp_path, bytes(data))
        assert list(scanner.frames()) == []
        found = scanner.promised_past()
        assert found is not None
        assert found[0] == promise


def test_frames_that_promise_nothing_past_it_leave_a_torn_tail(tmp_path: Path) -> None:
    data, starts = chain(b"a", b"b", b"c", b"d", promise=False)
    spoiled = bytearray(data)
    spoiled[starts[1] + 20] ^= 1
    scanner = scanner_of(tmp_path, bytes(spoiled))
    assert len(list(scanner.frames())) == 1
    assert scanner.promised_past() is None
    # A frame that promises exactly up to the bad offset says nothing about what is behind it.
    spoiled = bytearray(data[: starts[2]] + framed(starts[2], 102, b"c", synced=starts[1]))
    spoiled[starts[1] + 20] ^= 1
    scanner = scanner_of(tmp_path, bytes(spoiled))
    list(scanner.frames())
    assert scanner.promised_past() is None
    # One byte more and it does.
    spoiled = bytearray(data[: starts[2]] + framed(starts[2], 102, b"c", synced=starts[1] + 1))
    spoiled[starts[1] + 20] ^= 1
    scanner = scanner_of(tmp_path, bytes(spoiled))
    list(scanner.frames())
    assert scanner.promised_past() is not None


def test_frames_inside_values_are_never_replayed_nor_believed(tmp_path: Path) -> None:
    """A value may hold whole segments, even of this store; only their place makes them valid."""
    inner, _ = chain(b"a" * 50, b"b" * 50, b"c" * 50)
    stale = framed(2000, 101, b"stale", synced=1999)
    other_salt = framed(64 + 44 + 10, 101, b"other", synced=64 + 44, salt=SALT + 1)
    for value in (
        inner,
        stale,
        other_salt,
        inner[64:],
        frame.mark(SALT).to_bytes(3, "little") * 200,
        HEADER.encode(),
    ):
        for torn in (False, True):
            data = HEADER.encode()
            whole = data + framed(64, 100, b"0123456789" + value)
            scanner = scanner_of(tmp_path, whole[:-1] if torn else whole)
            found = list(scanner.frames())
            assert [each.payload for each in found] == ([] if torn else [b"0123456789" + value])
            assert scanner.promised_past() is None


def test_a_segment_copied_into_its_own_value_at_the_very_offset_is_another_place(
    tmp_path: Path,
) -> None:
    rng = random.Random(2)
    data, starts = chain(*(rng.randbytes(60) for _ in range(20)))
    moved = data[: starts[1]] + data[starts[2] :]  # a frame is left out, the rest moves up
    scanner = scanner_of(tmp_path, moved)
    assert len(list(scanner.frames())) == 1
    assert scanner.promised_past() is None
    twice = data[: starts[2]] + data[starts[1] : starts[2]] + data[starts[2] :]
    scanner = scanner_of(tmp_path, twice)
    assert len(list(scanner.frames())) == 2


def test_scanning_a_huge_claim_reads_no_more_than_the_file(tmp_path: Path) -> None:
    data, starts = chain(b"a", b"b" * 30)
    for bit in range(32):
        spoiled = bytearray(data)
        spoiled[starts[1] + 12 + bit // 8] ^= 1 << bit % 8
        scanner = scanner_of(tmp_path, bytes(spoiled))
        assert len(list(scanner.frames())) == 1
        assert scanner.offset == starts[1]
