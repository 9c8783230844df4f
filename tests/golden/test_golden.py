"""Today's code reads the files of every format version, and writes the current one byte for byte.

The expected content is spelled out by ``make.py``. If this fails, the format has changed: that
takes a new format version and new golden files beside the old ones, never new files in their place.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import make
import pytest

import walkv
from walkv.engine import batch, frame, manifest, segment
from walkv.engine.segment import Scanner
from walkv.engine.snapshot import BlockCache, SnapshotReader, file_name
from walkv.engine.vfs import OsFileSystem

FS = OsFileSystem()
V1 = Path(__file__).parent / "v1"
SEGMENT = V1 / segment.file_name(make.HEADER.first_sequence)


def expected_store() -> dict[bytes, bytes]:
    found = {}
    for line in (V1 / "store.expected").read_text().splitlines():
        key, value = line.split()
        found[bytes.fromhex(key)] = b"" if value == "-" else bytes.fromhex(value)
    return found


def scanner() -> Scanner:
    file = FS.open(str(SEGMENT))
    return Scanner(file, segment.read_header(file, make.STORE_ID))


def test_segment_is_read_to_the_exact_content() -> None:
    found = scanner()
    assert found.header == make.HEADER
    kinds, payloads = [], []
    for each in found.frames():
        kinds.append(each.kind)
        if each.kind == frame.COMMIT:
            assert each.operation_count == len(batch.decode(each.payload)) // 2
            payloads.append(batch.decode(each.payload))
    assert payloads == make.OPERATIONS
    assert kinds == [1, 1, 2, 1, 2, 4, 1, 3]
    assert found.sealed
    assert found.offset == SEGMENT.stat().st_size
    assert found.next_sequence == make.HEADER.first_sequence + 8


def test_segment_is_written_byte_for_byte() -> None:
    data = SEGMENT.read_bytes()
    assert make.HEADER.encode() == data[:64]
    assert make.segment_bytes() == data
    found = scanner()
    at = segment.HEADER_BYTES
    for each in found.frames():
        again = frame.encode(
            each.payload,
            salt=found.header.salt,
            offset=at,
            operation_count=each.operation_count,
            first_sequence=each.first_sequence,
            time_ns=each.time_ns,
            synced_offset=each.synced_offset,
            kind=each.kind,
        )
        assert again == data[at : each.end_offset]
        if each.kind == frame.COMMIT:
            assert batch.encode(batch.decode(each.payload)) == each.payload
        at = each.end_offset


def test_manifest_is_read_and_written_byte_for_byte() -> None:
    assert manifest.read(FS, str(V1)) == make.MANIFEST
    assert manifest.encode(make.MANIFEST) == (V1 / "MANIFEST").read_bytes()


def test_snapshot_is_read_to_the_exact_content() -> None:
    path = str(V1 / file_name(5))
    reader = SnapshotReader(FS, path, make.STORE_ID, 5, BlockCache(1 << 20))
    found: list[tuple[bytes, Any, int]] = []
    for part in reader.partitions():
        for keys, pairs, _ in reader.partition_chunks(part.number):
            found += [(key, item, at) for key, (item, at) in zip(keys, pairs, strict=True)]
    assert found == make.ENTRIES
    assert list(reader.ranges) == list(make.RANGES)
    assert all(reader.find(key) == (item, at) for key, item, at in make.ENTRIES)
    reader.check(lambda size: None)


@pytest.mark.parametrize("read_only", [True, False])
def test_store_is_read_to_the_exact_content(tmp_path: Path, read_only: bool) -> None:
    store_path = tmp_path / "store.walkv"
    shutil.copytree(V1 / "store", store_path)
    (store_path / "quarantine").mkdir(exist_ok=True)  # git keeps no empty directory
    expected = expected_store()
    with walkv.open(store_path, read_only=read_only, create=False) as store:
        assert store.recovery_report.clean
        assert dict(store.scan()) == expected
        assert all(store.get(key) == value for key, value in expected.items())
        assert store.get(b"user/000") is None
        assert store.get(b"user/100") is None
        assert expected[b"user/150"] == b"after the range"
        assert store.verify().ok
        stats = store.stats()
        assert (stats.snapshot_count, stats.segment_count) == (2, 2)
        if not read_only:
            store.compact()
            store.put(b"new", b"1")
            assert dict(store.scan()) == {**expected, b"new": b"1"}


def test_the_generator_refuses_to_overwrite(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in V1.rglob("*") if path.is_file()}
    monkeypatch.setattr("sys.argv", ["make.py"])
    assert make.main() == 1
    assert "for ever" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in V1.rglob("*") if path.is_file()} == before


def test_the_generator_makes_these_very_files(tmp_path: Path) -> None:
    make.make(tmp_path / "again")
    for path in V1.rglob("*"):
        if path.suffix == ".snap":
            continue  # another release of zstd may compress differently; reading is what is pinned
        if path.is_file() and "store" not in path.parts:
            assert (tmp_path / "again" / path.relative_to(V1)).read_bytes() == path.read_bytes()
