"""Every damage to every file of a small store: the exact state, a typed refusal, or a legal prefix.

Never wrong data, never an untyped exception, and nothing on disk changed by a refusal. A prefix is
legal only where the damage is in the tail, in frames that no later frame calls durable.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from memory_files import ROOT, MemoryFileSystem

import walkv
from walkv.engine import manifest, segment
from walkv.engine.ranges import RangeSet
from walkv.engine.segment import Scanner
from walkv.engine.snapshot import SnapshotWriter

NOW_NS = 1_700_000_000_000_000_000
State = dict[bytes, bytes]
Files = dict[str, bytes]
Commit = Callable[[walkv.Store], object]
SEED = 20240611


def batched(store: walkv.Store) -> None:
    with store.batch() as batch:
        batch.put(b"b/1", b"one")
        batch.put(b"b/2", b"two", ttl_seconds=1e6)
        batch.delete(b"a/3")
        batch.delete_range(b"c/")
        batch.put(b"c/1", b"after the range")


LATER = walkv.WriteBack(interval_seconds=1e6)

SEALED: list[Commit] = [
    lambda store: store.put(b"k/1", b"sealed"),
    batched,
    lambda store: store.delete(b"a/1"),
]
TAIL: list[Commit] = [
    lambda store: store.put(b"t/1", b"tail"),
    lambda store: store.put(b"k/1", b"changed"),
    lambda store: store.delete_range(b"b/"),
    lambda store: store.put(b"t/2", b"x" * 30),
    lambda store: store.put(b"t/3", b"unsynced", sync=LATER),
    lambda store: store.put(b"t/4", b"unsynced too", sync=LATER),
]


@dataclass
class Original:
    """A store on disk: a sealed segment, a tail, two snapshots and a manifest.

    Attributes:
        states: what the store holds after each commit of the tail, the first before all of them.
        starts: where each commit of the tail begins, and where the last one ends.
        promised: how many commits of the tail some other frame calls durable.
    """

    files: Files
    states: list[State]
    starts: list[int]
    promised: int
    tail: str = field(init=False)

    def __post_init__(self) -> None:
        self.tail = max(name for name in self.files if name.startswith("log/"))

    @property
    def final(self) -> State:
        return self.states[-1]


def build(close: bool) -> Original:
    fs = MemoryFileSystem(now_ns=NOW_NS)
    with walkv.open(ROOT, filesystem=fs) as store:
        for number in range(9):
            store.put(b"a/%d" % number, b"first %d" % number)
            store.put(b"c/%d" % number, b"compress me " * 4)
        store.compact()
    # A second snapshot over the first, with a tombstone, an expiry and a deleted range.
    known = manifest.read(fs, ROOT)
    number = known.next_snapshot_id
    writer = SnapshotWriter(
        fs, f"{ROOT}/snapshots", known.store_id, number, ranges=RangeSet((b"a/7",), (b"a/9",))
    )
    keys, items = [b"a/0", b"a/2", b"a/5"], [None, b"second", [9_000_000_000_000, b"expires"]]
    writer.add(keys, items, [1, 3, 5], False)
    summary = writer.finish()
    snapshots = (summary, *known.snapshots)
    manifest.write(fs, ROOT, known.next(snapshots=snapshots, next_snapshot_id=number + 1))
    store = walkv.open(ROOT, filesystem=fs)
    for commit in SEALED:
        commit(store)
    # Killed here; the next open seals this segment and begins another.
    files = fs.files()
    fs = MemoryFileSystem(files, now_ns=NOW_NS)
    fs._drawn = 100
    store = walkv.open(ROOT, filesystem=fs)
    states = [dict(store.scan())]
    for commit in TAIL:
        commit(store)
        states.append(dict(store.scan()))
    if close:
        store.close()
    files = fs.files()
    tail = max(name for name in files if name.startswith("log/"))
    file = fs.open(f"{ROOT}/{tail}")
    scanner = Scanner(file, segment.read_header(file, known.store_id))
    frames = list(scanner.frames())
    starts = [segment.HEADER_BYTES, *(each.end_offset for each in frames)]
    promise = max(each.synced_offset for each in frames)
    promised = sum(1 for start in starts[: len(TAIL)] if start < promise)
    if not close:  # what was written ahead is long: a few zeros of it stand for all
        files[tail] = files[tail][: scanner.offset] + bytes(20)
    files["LOCK"] = b'{"pid": 1, "host": "h"}'
    return Original(files, states, starts, promised)


ORIGINALS = {"killed": build(False), "closed": build(True)}


@dataclass
class Outcome:
    """What came of opening, reading and verifying a damaged store."""

    state: State | None = None
    error: walkv.CorruptionError | walkv.FormatError | None = None
    opened: bool = False
    verified: bool = False
    report: walkv.RecoveryReport | None = None


def attempt(files: Files, *, read_only: bool = False) -> Outcome:
    """Open, verify, read everything in three ways; anything but a typed error escapes."""
    fs = MemoryFileSystem(files, now_ns=NOW_NS)
    outcome = Outcome()
    try:
        store = walkv.open(ROOT, filesystem=fs, read_only=read_only, create=False)
    except (walkv.CorruptionError, walkv.FormatError) as error:
        outcome.error = error
    if outcome.error is not None:
        # A refusal names a file of the store, leaves it as it was, and holds no lock.
        assert outcome.error.path.startswith(ROOT), outcome.error
        assert fs.changes == [], outcome.error
        assert not fs.locked
        return outcome
    outcome.opened = True
    outcome.report = store.recovery_report
    outcome.verified = store.verify().ok
    try:
        state = dict(store.scan())
        assert dict(store.scan(reverse=True)) == state
        outcome.state = state
    except walkv.CorruptionError as error:
        outcome.error = error
    assert outcome.error is None or outcome.error.path.startswith(ROOT)
    if read_only:
        assert fs.changes == []
    check_reads(store, outcome)
    return outcome


def check_reads(store: walkv.Store, outcome: Outcome) -> None:
    """Point reads agree with the scan, or are refused."""
    assert outcome.state is None or store.count() == len(outcome.state)
    for key in (b"a/0", b"a/1", b"a/2", b"a/5", b"a/7", b"b/1", b"c/1", b"c/5", b"k/1", b"t/1"):
        try:
            value = store.get(key)
        except walkv.CorruptionError:
            continue
        legal = [outcome.state] if outcome.state is not None else ORIGINALS["killed"].states
        assert value in [state.get(key) for state in legal]


def exact(original: Original, files: Files, *, noticed: bool) -> Outcome:
    """The exact state or a refusal; with ``noticed``, the damage does not go unseen."""
    outcome = attempt(files)
    if outcome.error is None:
        assert outcome.state == original.final
        assert outcome.verified != noticed
    return outcome


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def settled_files(original: Original) -> Iterator[str]:
    return (name for name in original.files if name not in (original.tail, "LOCK"))


@pytest.fixture(params=sorted(ORIGINALS))
def original(request: pytest.FixtureRequest) -> Original:
    return ORIGINALS[request.param]


def test_the_original_is_what_it_should_be(original: Original) -> None:
    assert len(original.files) == 6
    assert sum(map(len, original.files.values())) < 3500
    outcome = attempt(original.files)
    assert outcome.state == original.final
    assert outcome.verified
    assert len({tuple(sorted(state.items())) for state in original.states}) == len(TAIL) + 1
    assert b"a/7" not in original.final
    assert original.final[b"a/2"] == b"second"
    for name in settled_files(original):
        assert original.files[name] == ORIGINALS["killed"].files[name]
    # All but the commits behind the last sync are promised; after a close, all are.
    closed = original is ORIGINALS["closed"]
    assert original.promised == (len(TAIL) if closed else len(TAIL) - 2)
    assert attempt(original.files, read_only=True).state == original.final


def test_every_bit_of_every_settled_file() -> None:
    """Manifest, sealed segment, snapshots: refused at the open, or at the latest by verify."""
    original = ORIGINALS["killed"]  # the settled files of the closed one are the same
    for name in settled_files(original):
        for bit in range(len(original.files[name]) * 8):
            damaged = flipped(original.files[name], bit)
            outcome = exact(original, {**original.files, name: damaged}, noticed=True)
            if outcome.error is not None:
                assert outcome.error.path == f"{ROOT}/{name}", (bit, outcome.error)


def test_every_bit_of_the_tail(original: Original) -> None:
    data = original.files[original.tail]
    starts = original.starts
    for bit in range(len(data) * 8):
        at = bit // 8
        outcome = attempt({**original.files, original.tail: flipped(data, bit)})
        frame_number = sum(1 for start in starts if start <= at) - 1
        if at < segment.HEADER_BYTES or frame_number < original.promised:
            assert outcome.error is not None, bit
            assert outcome.error.path == f"{ROOT}/{original.tail}"
            assert not outcome.opened
            if at >= segment.HEADER_BYTES:
                assert isinstance(outcome.error, walkv.CorruptionError)
                assert outcome.error.offset_bytes == starts[frame_number]
        else:
            assert outcome.error is None, bit
            assert outcome.state == original.states[min(frame_number, len(TAIL))]
            assert outcome.report is not None
            assert outcome.report.cut_bytes == len(data) - starts[frame_number]


def test_every_bit_read_only_gives_the_same_verdict(original: Original) -> None:
    rng = random.Random(SEED)
    for name, data in original.files.items():
        if name == "LOCK":
            continue
        for at in range(len(data)):
            files = {**original.files, name: flipped(data, at * 8 + rng.randrange(8))}
            one, other = attempt(files), attempt(files, read_only=True)
            assert (one.state, type(one.error)) == (other.state, type(other.error)), (name, at)


def test_every_truncation(original: Original) -> None:
    for name, data in original.files.items():
        for length in range(len(data)):
            outcome = attempt({**original.files, name: data[:length]})
            if name == "LOCK":
                assert outcome.state == original.final
            elif name != original.tail or length < segment.HEADER_BYTES:
                assert outcome.error is not None, (name, length)
                assert outcome.error.path == f"{ROOT}/{name}"
                assert not outcome.opened
            else:
                whole = sum(1 for start in original.starts[1:] if start <= length)
                assert outcome.error is None
                assert outcome.state == original.states[min(whole, len(TAIL))]
                assert outcome.verified


def test_every_zeroed_stretch_of_the_tail(original: Original) -> None:
    """From every offset on, to the end of the file and for 16 bytes: what lost pages look like."""
    data = original.files[original.tail]
    for at in range(segment.HEADER_BYTES, len(data)):
        frame_number = sum(1 for start in original.starts if start <= at) - 1
        outcome = attempt({**original.files, original.tail: data[:at] + bytes(len(data) - at)})
        # What would have promised is gone as well, so this cannot be told from a lost tail ...
        assert outcome.error is None
        assert outcome.state in original.states[: len(TAIL) + 1]
        legal = original.states[min(frame_number, len(TAIL)) :]
        assert outcome.state in legal
        # ... but a hole before frames that promise can.
        hole = data[:at] + bytes(16) + data[at + 16 :]
        if hole == data or len(hole) > len(data):
            continue
        outcome = attempt({**original.files, original.tail: hole})
        if frame_number < original.promised and at + 16 < original.starts[frame_number + 1]:
            assert outcome.state in (None, original.final)
            assert outcome.error is not None or hole == data
        elif outcome.error is None:
            assert outcome.state in legal


def test_every_file_deleted(original: Original) -> None:
    for name in original.files:
        files = dict(original.files)
        del files[name]
        outcome = attempt(files)
        if name == "LOCK":
            assert outcome.state == original.final
        else:
            assert isinstance(outcome.error, walkv.CorruptionError)
            assert outcome.error.path == f"{ROOT}/{name}"
            assert "missing" in outcome.error.reason


def test_every_two_files_swapped(original: Original) -> None:
    for one, two in itertools.combinations(original.files, 2):
        files = {**original.files, one: original.files[two], two: original.files[one]}
        assert attempt(files).error is not None, (one, two)
        assert attempt(files, read_only=True).error is not None, (one, two)


def test_every_file_in_the_place_of_every_other(original: Original) -> None:
    for one, two in itertools.permutations(original.files, 2):
        outcome = attempt({**original.files, two: original.files[one]})
        if two == "LOCK":
            assert outcome.state == original.final
        else:
            assert outcome.error is not None, (one, two)
            assert outcome.error.path == f"{ROOT}/{two}"


def test_every_file_doubled_lengthened_and_overwritten(original: Original) -> None:
    rng = random.Random(SEED)
    for name, data in original.files.items():
        for damaged in (
            data + data,
            data + b"\0",
            data + b"x",
            data + bytes(5000),
            data + rng.randbytes(5000),
            bytes(len(data)),
            b"\xff" * len(data),
            rng.randbytes(len(data)),
            rng.randbytes(100_000),
            b"",
            data[len(data) // 2 :],
        ):
            outcome = attempt({**original.files, name: damaged})
            if name == "LOCK" or (name == original.tail and damaged.startswith(data)):
                assert outcome.state == original.final
            else:
                assert outcome.error is not None, (name, damaged[:80])


def test_copies_under_names_of_ours_are_removed_and_change_nothing(original: Original) -> None:
    for name, data in original.files.items():
        for copy in ("log/00000000000000009999.wal", "snapshots/0000009999.snap", "MANIFEST.tmp"):
            fs = MemoryFileSystem({**original.files, copy: data}, now_ns=NOW_NS)
            with walkv.open(ROOT, filesystem=fs) as store:
                assert store.recovery_report.removed_files == (f"{ROOT}/{copy}",), name
                assert dict(store.scan()) == original.final
            assert copy not in fs.files()


def test_pairs_of_damages(original: Original) -> None:
    """Two files damaged at once: still never anything but an exact state or a refusal."""
    rng = random.Random(SEED)
    names = [name for name in original.files if name != "LOCK"]
    for _ in range(1500):
        files = dict(original.files)
        for name in rng.choices(names, k=2):
            if files[name]:
                files[name] = flipped(files[name], rng.randrange(len(files[name]) * 8))
        outcome = attempt(files)
        if outcome.error is None:
            assert outcome.state in original.states
            settled = any(files[name] != original.files[name] for name in settled_files(original))
            assert not (settled and outcome.verified)


def test_a_refused_store_opens_again_once_the_file_is_restored(original: Original) -> None:
    for name in settled_files(original):
        data = original.files[name]
        fs = MemoryFileSystem({**original.files, name: flipped(data, 77)}, now_ns=NOW_NS)
        with pytest.raises((walkv.CorruptionError, walkv.FormatError)):
            walkv.open(ROOT, filesystem=fs)
        fs.open(f"{ROOT}/{name}").write(data, 0)
        with walkv.open(ROOT, filesystem=fs) as store:
            assert dict(store.scan()) == original.final


def test_recovery_of_a_torn_tail_is_final(original: Original) -> None:
    """What was cut stays cut: opening again gives the same state, whatever was torn."""
    data = original.files[original.tail]
    rng = random.Random(SEED)
    for start, stop in itertools.pairwise(original.starts):
        if start < original.starts[original.promised]:
            continue
        torn = data[: rng.randrange(start + 1, stop)] + rng.randbytes(9)
        fs = MemoryFileSystem({**original.files, original.tail: torn}, now_ns=NOW_NS)
        first = walkv.open(ROOT, filesystem=fs)
        state = dict(first.scan())
        assert first.recovery_report.cut_bytes == len(torn) - start
        again = MemoryFileSystem(fs.files(), now_ns=NOW_NS)  # killed right after the recovery
        with walkv.open(ROOT, filesystem=again) as store:
            assert dict(store.scan()) == state
            assert store.recovery_report.cut_bytes == 0
        saved = [b for name, b in fs.files().items() if name.startswith("quarantine/")]
        assert saved == [torn[start:]]
