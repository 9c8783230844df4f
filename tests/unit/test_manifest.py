"""The manifest: round trip, damage, formats, and the order in which it is replaced."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import msgpack
import pytest
from hooked import HookedFileSystem, fail
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_digest

import walkv
from walkv.engine import manifest
from walkv.engine.manifest import Manifest
from walkv.engine.snapshot import SnapshotSummary
from walkv.engine.vfs import SyncError

NUMBERS = st.integers(0, (1 << 64) - 1)
SUMMARIES = st.builds(SnapshotSummary, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
MANIFESTS = st.builds(
    Manifest,
    st.binary(min_size=16, max_size=16),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.sets(NUMBERS, max_size=5).map(lambda found: tuple(sorted(found))),
    st.lists(SUMMARIES, max_size=4).map(tuple),
)
ONE = Manifest(bytes(range(16)), 3, 4, 5, 6, (7, 9), (SnapshotSummary(1, 2, 3, 4, 5),))


@given(MANIFESTS)
def test_round_trip(known: Manifest) -> None:
    assert manifest.decode(manifest.encode(known), "p") == known


def test_layout() -> None:
    data = manifest.encode(ONE)
    assert data[:8] == b"WALKVMAN"
    assert data[8:12] == (1).to_bytes(4, "little")
    assert int.from_bytes(data[12:16], "little") == len(data) - 24
    assert data[16:24] == xxh3_64_digest(data[:16] + data[24:])
    payload = [bytes(range(16)), 3, 4, 5, 6, [7, 9], [[1, 2, 3, 4, 5]]]
    assert msgpack.unpackb(data[24:]) == payload
    rows = re.findall(r"^ +(\d+) +(\d+|-) +(\w+)", manifest.__doc__ or "", re.MULTILINE)
    assert [int(offset) for offset, *_ in rows] == [0, 8, 12, 16, 24]


def test_every_bit_and_every_truncation() -> None:
    data = manifest.encode(ONE)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((walkv.CorruptionError, walkv.FormatError)) as caught:
            manifest.decode(bytes(damaged), "where")
        assert getattr(caught.value, "path", None) == "where"
        # A flipped bit in the version is damage, and no newer format.
        if 8 <= bit // 8 < 12:
            assert isinstance(caught.value, walkv.CorruptionError)
    for length in range(len(data)):
        with pytest.raises(walkv.CorruptionError):
            manifest.decode(data[:length], "where")
    for more in (b"\0", b"x", data):
        with pytest.raises(walkv.CorruptionError):
            manifest.decode(data + more, "where")


def sealed(payload: bytes, version: int = 1) -> bytes:
    head = b"WALKVMAN" + version.to_bytes(4, "little") + len(payload).to_bytes(4, "little")
    return head + xxh3_64_digest(head + payload) + payload


def test_a_newer_format_and_something_else() -> None:
    for data in (sealed(b"whatever", 3), sealed(b"", 7), b"WALKVMAN" + b"\3\0\0\0" + b"x" * 50):
        with pytest.raises(walkv.FormatError) as caught:
            manifest.decode(data, "where")
        assert caught.value.found_version == data[8]
        assert "newer" in str(caught.value)
    with pytest.raises(walkv.FormatError, match="not a walkv"):
        manifest.decode(b"<!DOCTYPE html>" + b"x" * 50, "where")


@pytest.mark.parametrize(
    "fields",
    [
        7,
        [],
        [b"x" * 15, 1, 1, 1, 1, [1], []],
        [b"x" * 16, 1, 1, 1, 1, [2, 1], []],
        [b"x" * 16, 1, 1, 1, 1, [1, 1], []],
        [b"x" * 16, 1, 1, 1, 1, 5, []],
        [b"x" * 16, 1, 1, 1, 1, [1], [[1, 2, 3]]],
        [b"x" * 16, 1, 1, 1, 1, [1], [5]],
        [None, 1, 1, 1, 1, [1], []],
    ],
)
def test_payloads_that_are_no_manifest(fields: object) -> None:
    with pytest.raises(walkv.CorruptionError):
        manifest.decode(sealed(msgpack.packb(fields)), "where")


def test_next_grows_by_one() -> None:
    changed = ONE.next(last_sequence=8)
    assert (changed.generation, changed.last_sequence, changed.segments) == (4, 8, (7, 9))


def test_replacing_is_durable_and_in_order(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    manifest.write(fs, str(tmp_path), ONE)
    expected = ["create", "write", "sync", "rename", "sync_directory"]
    assert [operation for operation, _ in fs.calls] == expected
    assert manifest.read(fs, str(tmp_path)) == ONE
    (tmp_path / "MANIFEST.tmp").write_bytes(b"left over")
    manifest.write(fs, str(tmp_path), ONE.next())
    assert manifest.read(fs, str(tmp_path)) == ONE.next()
    assert os.listdir(tmp_path) == ["MANIFEST"]


@pytest.mark.parametrize("operation", ["create", "write", "rename"])
def test_a_failed_write_leaves_the_old_one(tmp_path: Path, operation: str) -> None:
    fs = HookedFileSystem()
    manifest.write(fs, str(tmp_path), ONE)
    fs.hook = fail(operation, "", errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        manifest.write(fs, str(tmp_path), ONE.next())
    assert manifest.read(fs, str(tmp_path)) == ONE
    fs.hook = None
    manifest.write(fs, str(tmp_path), ONE.next())
    assert manifest.read(fs, str(tmp_path)) == ONE.next()


@pytest.mark.parametrize("operation", ["sync", "sync_directory"])
def test_a_failed_sync_is_a_sync_error(tmp_path: Path, operation: str) -> None:
    fs = HookedFileSystem(hook=fail(operation, "", errno.EIO))
    with pytest.raises(SyncError) as caught:
        manifest.write(fs, str(tmp_path), ONE)
    assert caught.value.error.errno == errno.EIO


def test_a_missing_one_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        manifest.read(HookedFileSystem(), str(tmp_path))
