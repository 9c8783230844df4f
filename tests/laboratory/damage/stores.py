"""Stores to damage: their files, every earlier version of them, and what they hold.

A store is made from a form and a seed, in a simulated file system, so the same two always give the
same bytes. What it holds is told by a model that sees the operations and never the store.

Forms:
    killed    a tail whose last commits no sync has covered
    closed    closed cleanly, more than once
    rotated   killed after the tail was sealed and before the next segment was made
    fresh     closed before anything was compacted: no snapshots
    large     killed; about a MB with many blocks, several index pages and several segments
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import walkv
from walkv.engine import frame, manifest, segment
from walkv.engine.ranges import RangeSet
from walkv.engine.segment import Scanner
from walkv.engine.snapshot import BlockCache, SnapshotReader, SnapshotWriter, layout
from walkv.testing import Disk, SimulatedFileSystem

ROOT: Final = "/s"
FORMS: Final = ("killed", "closed", "rotated", "fresh", "large")
DIRECTORIES: Final = ("log", "snapshots", "quarantine")
OPENED_AFTER_SECONDS: Final = 3600
SHORT_SECONDS: Final = 60.0
"""An entry with this time to live is gone when the store is opened to be damaged."""
LONG_SECONDS: Final = 1e9

_LATER: Final = walkv.WriteBack(interval_seconds=1e6)
_AHEAD_BYTES: Final = 20
"""What is written ahead is long: a few zeros of it stand for all."""

State = dict[bytes, bytes]
Files = dict[str, bytes]
Operation = tuple[Any, ...]
"""``("put", key, value, ttl or None)``, ``("delete", key)`` or ``("range", start, stop)``."""


class Piece(NamedTuple):
    """A frame of a segment, or a stretch of a snapshot with a checksum of its own.

    Attributes:
        synced_offset: of a frame; 0 elsewhere.
        commit: it is a frame of a commit.
        close: it is the mark of a clean close.
    """

    start: int
    stop: int
    synced_offset: int = 0
    commit: bool = False
    close: bool = False


@dataclass
class Original:
    """A store as it is before the damage.

    Attributes:
        form: see the module.
        files: by their names below the directory.
        tail: the newest segment.
        pieces: frames of each segment, pages of each snapshot.
        history: for every name there ever was, its earlier bytes, oldest first.
        probes: keys for point reads, some of them absent.
    """

    form: str
    files: Files
    tail: str
    pieces: dict[str, list[Piece]]
    history: dict[str, list[bytes]]
    probes: list[bytes]
    base: State
    commits: list[list[Operation]]
    sealed: bool
    headers: set[bytes] = field(default_factory=set)
    _states: dict[int, State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        versions = [data for older in self.history.values() for data in older]
        self.headers = {data[: segment.HEADER_BYTES] for data in (*versions, *self.files.values())}

    def state(self, frame_count: int) -> State:
        """What the store holds after so many frames of the tail."""
        number = sum(1 for piece in self.pieces[self.tail][:frame_count] if piece.commit)
        if number not in self._states:
            state = dict(self.base)
            for operations in self.commits[:number]:
                apply(state, operations)
            self._states[number] = state
        return self._states[number]

    @property
    def final(self) -> State:
        return self.state(len(self.pieces[self.tail]))

    def promised_count(self) -> int:
        """How many frames of the tail a later frame calls durable."""
        pieces = self.pieces[self.tail]
        promise = max((piece.synced_offset for piece in pieces), default=0)
        return sum(1 for piece in pieces if piece.start < promise)

    def window_bytes(self) -> int:
        """The bytes at the tail's end whose damage looks like a torn tail."""
        return sum(
            piece.stop - piece.start for piece in self.pieces[self.tail][self.promised_count() :]
        )


def apply(state: State, operations: list[Operation]) -> None:
    """Do a commit to a state, as of the moment at which the damaged store is opened."""
    for kind, *rest in operations:
        if kind == "put" and rest[2] != SHORT_SECONDS:
            state[rest[0]] = rest[1]
        elif kind == "range":
            for key in [k for k in state if rest[0] <= k and (rest[1] is None or k < rest[1])]:
                del state[key]
        else:
            state.pop(rest[0], None)


class Life:
    """A store being made: its machine, its model, and the versions its files have had."""

    def __init__(self, seed: int, recorded: tuple[str, ...], **options: Any) -> None:
        self.rng = random.Random(seed)
        self.versions: dict[str, list[bytes]] = {}
        self.base: State = {}
        self.tail_commits: list[list[Operation]] = []
        self._recorded = recorded
        self._options = options
        self._machine = SimulatedFileSystem(seed=seed)
        self._watch()
        self.open()

    def _watch(self) -> None:
        self.fs = self._machine
        self.fs.on_operation = self._note

    def _note(self, operation: str, path: str) -> None:
        if operation in self._recorded:
            data = self.fs.read_file(path, 1 << 30)
            short = data.rstrip(b"\0")
            if len(data) > len(short) + _AHEAD_BYTES and path.endswith(segment.SUFFIX):
                data = short + bytes(_AHEAD_BYTES)
            known = self.versions.setdefault(path.removeprefix(f"{ROOT}/"), [])
            if data not in known:
                known.append(data)

    def open(self) -> None:
        self.store = walkv.open(ROOT, filesystem=self.fs, **self._options)

    def reopen(self) -> None:
        """Close cleanly and go on: in the same segment."""
        self.store.close()
        self.open()

    def kill(self) -> None:
        """Kill and open again: the tail is sealed, and what it held is settled for the model."""
        self._machine = self.fs.after_kill()
        self._watch()
        self.open()
        self.settle()

    def settle(self) -> None:
        for operations in self.tail_commits:
            apply(self.base, operations)
        self.tail_commits = []

    def commit(self, *operations: Operation, sync: Any = None) -> None:
        self.tail_commits.append(list(operations))
        with self.store.batch(sync=sync) as batch:
            for kind, *rest in operations:
                if kind == "put":
                    batch.put(rest[0], rest[1], ttl_seconds=rest[2])
                elif kind == "range":
                    batch.delete_range(start=rest[0], stop=rest[1])
                else:
                    batch.delete(rest[0])

    def layer_snapshot(
        self, ranges: RangeSet, rows: dict[bytes, Any], effect: list[Operation]
    ) -> None:
        """Put a snapshot on top of the others; the store is closed meanwhile."""
        self.store.close()
        known = manifest.read(self.fs, ROOT)
        number = known.next_snapshot_id
        writer = SnapshotWriter(self.fs, f"{ROOT}/snapshots", known.store_id, number, ranges=ranges)
        writer.add(
            sorted(rows), [rows[key] for key in sorted(rows)], [*range(1, len(rows) + 1)], False
        )
        snapshots = (writer.finish(), *known.snapshots)
        manifest.write(self.fs, ROOT, known.next(snapshots=snapshots, next_snapshot_id=number + 1))
        apply(self.base, effect)
        self.open()

    def rotate_cut_short(self) -> Disk:
        """The disk after the seal, before the next segment is there."""
        moments: list[tuple[str, Disk]] = []
        self.fs.on_operation = lambda operation, path: moments.append(
            (operation, self.fs.visible())
        )
        self.store.compact()
        first = next(
            number for number, (operation, _) in enumerate(moments) if operation == "create"
        )
        return moments[first - 1][1]


@lru_cache(maxsize=4)
def build(form: str, seed: int) -> Original:
    """The store of a form and a seed."""
    if form not in FORMS:
        raise ValueError(f"no such form of a store: {form}")
    if form == "large":
        life = Life(seed, ("rename", "sync"), memtable_bytes=1 << 20)
        _live_long(life)
    else:
        life = Life(seed, ("rename", "sync", "sync_data", "write", "truncate"))
        if form != "fresh":
            _live_short(life)
        _end(life)
    disk = life.fs.visible()
    if form in ("closed", "fresh"):
        life.store.close()
        disk = life.fs.visible()
    elif form == "rotated":
        disk = life.rotate_cut_short()
    return _original(form, life, disk)


def _live_short(life: Life) -> None:
    rng, commit = life.rng, life.commit
    for number in range(9):
        commit(("put", b"a/%d" % number, rng.randbytes(3), None))
        commit(("put", b"c/%d" % number, b"compress me " * 4, None))
    life.store.compact()
    commit(("put", b"a/9", b"nine", SHORT_SECONDS), ("put", b"d/1", rng.randbytes(9), None))
    life.store.compact()  # retires the snapshot before it
    life.settle()
    long_ms = 1 << 43
    life.layer_snapshot(
        RangeSet((b"a/7",), (b"a/9",)),
        {b"a/0": None, b"a/2": b"second", b"a/5": [long_ms, b"expires"], b"a/6": [1, b"expired"]},
        [
            ("range", b"a/7", b"a/9"),
            ("delete", b"a/0"),
            ("put", b"a/2", b"second", None),
            ("put", b"a/5", b"expires", None),
            ("delete", b"a/6"),
        ],
    )
    commit(("put", b"k/1", rng.randbytes(rng.randrange(100, 200)), None))
    commit(
        ("put", b"b/1", rng.randbytes(4), None),
        ("put", b"b/2", b"two", LONG_SECONDS),
        ("delete", b"a/3"),
        ("range", b"c/2", b"c/4"),
        ("put", b"c/2", b"after the range", None),
    )
    commit(("delete", b"a/1"))
    life.kill()
    commit(("put", b"s/1", b"in the second segment", None))
    commit(("put", b"s/2", b"gone soon", SHORT_SECONDS))
    commit(("put", b"a/4", rng.randbytes(rng.randrange(60, 200)), None))
    life.kill()


def _end(life: Life) -> None:
    rng, commit = life.rng, life.commit
    commit(("put", b"t/1", b"tail", None))
    commit(("put", b"k/1", rng.randbytes(5), None))
    life.reopen()  # leaves the mark of a clean close in the middle
    for number in range(rng.randrange(1, 4)):
        commit(("put", b"t/%d" % rng.randrange(4), rng.randbytes(rng.randrange(40, 200)), None))
        commit(("delete", b"t/%d" % rng.randrange(4)), ("put", b"n", b"%d" % number, None))
    commit(("range", b"b/", b"b0"))
    commit(("put", b"t/5", b"x" * 30, None))
    commit(("put", b"t/6", b"unsynced", None), sync=_LATER)
    commit(("put", b"t/7", b"unsynced too", None), sync=_LATER)


def _live_long(life: Life) -> None:
    rng, commit = life.rng, life.commit
    words = [rng.randbytes(12) for _ in range(64)]

    def value() -> bytes:
        if rng.random() < 0.3:
            return rng.randbytes(rng.randrange(400))
        return b" ".join(rng.choices(words, k=rng.randrange(1, 60)))

    def some(start: int, stop: int, step: int = 1) -> list[Operation]:
        return [("put", b"key/%06d" % n, value(), None) for n in range(start, stop, step)]

    for first in range(0, 6000, 100):
        commit(*some(first, first + 100))
    life.store.compact()
    for _ in range(25):
        start = rng.randrange(5900)
        commit(*some(start, start + 300, 7))
        commit(("delete", b"key/%06d" % rng.randrange(6000)))
        commit(("put", b"key/%06d" % rng.randrange(6000), b"soon gone", SHORT_SECONDS))
    life.kill()
    commit(("range", b"key/001000", b"key/001200"))
    for _ in range(30):
        start = rng.randrange(5900)
        commit(*some(start, start + 30, 5))
    life.kill()
    for number in range(120):
        start = rng.randrange(6100)
        commit(*some(start, start + 6, 2), ("put", b"n", b"%d" % number, None))
    for _ in range(3):
        commit(*some(7000, 7003), sync=_LATER)


def _original(form: str, life: Life, disk: Disk) -> Original:
    fs = SimulatedFileSystem.after_power_failure(disk)
    files = {path.removeprefix(f"{ROOT}/"): data for path, data in disk.files.items()}
    known = manifest.read(fs, ROOT)
    segments = [f"log/{segment.file_name(first)}" for first in known.segments]
    pieces = {name: _frames(fs, name, known.store_id) for name in segments}
    pieces |= {
        (name := f"snapshots/{layout.file_name(s.snapshot_id)}"): _pages(
            fs, name, known, s.snapshot_id
        )
        for s in known.snapshots
    }
    tail = segments[-1]
    end = pieces[tail][-1].stop
    if not any(files[tail][end:]):
        files[tail] = files[tail][: end + _AHEAD_BYTES]
    files["LOCK"] = b'{"pid": 1, "host": "h"}'
    history = {
        name: [data for data in versions if data != files.get(name)]
        for name, versions in life.versions.items()
        if not name.endswith(".tmp")
    }
    everything = dict(life.base)
    for operations in life.tail_commits:
        apply(everything, operations)
    keys = sorted(everything)
    probes = [
        *keys[:: max(1, len(keys) // 8)],
        b"a/0",
        b"a/7",
        b"a/9",
        b"key/001100",
        b"no such key",
        b"\xff",
    ]
    return Original(
        form,
        files,
        tail,
        pieces,
        history,
        probes,
        life.base,
        life.tail_commits,
        form == "rotated",
    )


def _frames(fs: SimulatedFileSystem, name: str, store_id: bytes) -> list[Piece]:
    file = fs.open(f"{ROOT}/{name}")
    scanner = Scanner(file, segment.read_header(file, store_id))
    pieces, start = [], segment.HEADER_BYTES
    for found in scanner.frames():
        kind = found.kind
        pieces.append(
            Piece(
                start,
                found.end_offset,
                found.synced_offset,
                kind == frame.COMMIT,
                kind == frame.CLOSE,
            )
        )
        start = found.end_offset
    return pieces


def _pages(fs: SimulatedFileSystem, name: str, known: Any, number: int) -> list[Piece]:
    """Data and index pages and the root, in order; header and footer are left out."""
    reader = SnapshotReader(fs, f"{ROOT}/{name}", known.store_id, number, BlockCache(0))
    starts = [layout.HEADER_BYTES]
    root = reader._root
    for partition in range(len(root.offsets)):
        base = root.offsets[partition]
        starts += [base + start for start in reader._index(root, partition).starts[1:]]
        starts.append(base + root.data_lengths[partition] + root.index_lengths[partition])
    starts = sorted({*starts, reader.summary.size_bytes - layout.FOOTER_BYTES})
    return [Piece(start, stop) for start, stop in pairwise(starts)]
