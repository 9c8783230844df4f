"""Builds the golden files of the current format: ``python tests/golden/make.py``.

They pin what this format looks like on disk for ever: every later version must read them. So this
refuses to overwrite; while a format is not yet released, ``--overwrite`` builds it anew.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import walkv
from walkv import limits
from walkv.engine import batch, frame, manifest, segment
from walkv.engine.manifest import Manifest
from walkv.engine.ranges import RangeSet
from walkv.engine.segment import SegmentHeader
from walkv.engine.snapshot import SnapshotSummary, SnapshotWriter, file_name
from walkv.engine.vfs import OsFileSystem

HERE = Path(__file__).parent
VERSION = segment.FORMAT_VERSION
START_NS = 1_700_000_000_123_456_789
STORE_ID = bytes(range(16))
SALT = 0x0123456789ABCDEF


class GoldenFileSystem(OsFileSystem):
    """The real one with a clock and a randomness that give the same every time; no threads."""

    threads = False

    def __init__(self) -> None:
        self._now_ns = START_NS
        self._drawn = 0

    def wall_time_ns(self) -> int:
        self._now_ns += 1_000_000
        return self._now_ns

    def monotonic(self) -> float:
        return 0.0

    def random_bytes(self, size_bytes: int) -> bytes:
        self._drawn += 1
        return hashlib.sha256(b"golden %d" % self._drawn).digest()[:size_bytes]


HEADER = SegmentHeader(STORE_ID, SALT, 7, START_NS)

OPERATIONS: list[list[Any]] = [
    [b"key", b"value"],
    [b"expires", [1_800_000_000_000, b"later"], b"gone", None, b"empty", b""],
    [[b"range/", b"range0"], None, [b"\xff", None], None, b"range/after", b"kept"],
    [b"\x00" * 300, bytes(range(256)) * 4],
]

MANIFEST = Manifest(
    STORE_ID,
    12,
    9,
    1 << 40,
    START_NS,
    ((1 << 40) + 1, (1 << 40) + 500),
    (
        SnapshotSummary(8, 4096, 30, 4, 1 << 40),
        SnapshotSummary(3, 1 << 33, 70_000_000, 0, 1 << 39),
    ),
)

ENTRIES: list[tuple[bytes, Any, int]] = [
    *((b"plain/%04d" % n, b"text %d " % n * 9, 1000 + n) for n in range(400)),
    (b"q/deleted", None, 5),
    (b"q/expires", [1_800_000_000_000, b"later"], 1 << 41),
    (b"r/noise", hashlib.shake_256(b"noise").digest(6000), 7),
]
RANGES = RangeSet((b"a", b"x"), (b"b", None))


def segment_bytes() -> bytes:
    """A sealed segment with every kind of operation and of frame."""
    data = HEADER.encode()
    sequence, synced = HEADER.first_sequence, 0
    kinds = [frame.COMMIT, frame.SYNC_MARKER, frame.CLOSE]
    for number, operations in enumerate(OPERATIONS):
        for kind in kinds[: 1 + number % 3]:
            commit = kind == frame.COMMIT
            count = len(operations) // 2 if commit else 0
            data += frame.encode(
                batch.encode(operations) if commit else b"\0",
                salt=SALT,
                offset=len(data),
                operation_count=count,
                first_sequence=sequence,
                time_ns=START_NS + number,
                synced_offset=synced,
                kind=kind,
            )
            sequence += count
            synced = len(data)
    return data + frame.encode(
        b"\0",
        salt=SALT,
        offset=len(data),
        operation_count=0,
        first_sequence=sequence,
        time_ns=START_NS + 99,
        synced_offset=synced,
        kind=frame.SEAL,
    )


def make_store(directory: Path) -> dict[bytes, bytes]:
    """A small store: two snapshots, a sealed segment, a tail. Returns what is in it."""
    fs = GoldenFileSystem()
    small = limits.MIN_MEMTABLE_BYTES
    with walkv.open(directory, filesystem=fs, memtable_bytes=small) as store:
        for number in range(300):
            store.put(b"user/%03d" % number, hashlib.sha512(b"%d" % number).digest())
        store.compact()
        store.delete_range(b"user/1")
        store.delete(b"user/000")
        store.put(b"user/001", b"changed", ttl_seconds=1e9)
        store.put(b"user/150", b"after the range")
        for number in range(150):  # over the budget, so that a second snapshot comes of it
            store.put(b"more/%03d" % number, b"%d" % number)
        with store.batch() as more:
            more.put(b"tail/1", b"1")
            more.put(b"tail/2", b"2", ttl_seconds=1e9)
            more.delete(b"user/002")
    # An unclean end: take the mark of the close away, so that the next open seals and rotates.
    tail = max((directory / "log").iterdir())
    data = tail.read_bytes()
    tail.write_bytes(data[: -frame.HEADER_BYTES - 1])
    with walkv.open(directory, filesystem=fs) as store:
        store.put(b"tail/3", b"3")
        expected = dict(store.scan())
    (directory / "LOCK").write_bytes(b"")
    return expected


def make(target: Path) -> None:
    target.mkdir(parents=True)
    (target / segment.file_name(HEADER.first_sequence)).write_bytes(segment_bytes())
    (target / "MANIFEST").write_bytes(manifest.encode(MANIFEST))
    writer = SnapshotWriter(GoldenFileSystem(), str(target), STORE_ID, 5, ranges=RANGES)
    for plain, part in ((True, ENTRIES[:400]), (False, ENTRIES[400:])):
        keys, items, sequences = (list(column) for column in zip(*part, strict=True))
        writer.add(keys, items, sequences, plain)
    writer.finish()
    assert (target / file_name(5)).exists()
    expected = make_store(target / "store")
    lines = [f"{key.hex()} {value.hex() or '-'}" for key, value in sorted(expected.items())]
    (target / "store.expected").write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--overwrite", action="store_true", help="only before a format is released")
    options = parser.parse_args()
    target = HERE / f"v{VERSION}"
    if target.exists() and not options.overwrite:
        sys.stderr.write(f"{target} exists, and golden files are for ever; see --help\n")
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "made"
        make(made)
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(made, target)
    sys.stdout.write(f"made {target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
