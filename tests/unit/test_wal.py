"""The log: positions, group commit, rotation, undo, and that a failure is for good."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hooked import HookedFileSystem, fail

import walkv
from walkv.engine import frame, segment, wal
from walkv.engine.core import Engine
from walkv.engine.segment import Scanner
from walkv.engine.vfs import SyncError
from walkv.engine.wal import Log

STORE = b"0123456789abcdef"
HEADER = segment.HEADER_BYTES


class Bench:
    """A log in a directory of its own."""

    def __init__(self, directory: Path, *, windowed: bool = False) -> None:
        self.directory = str(directory)
        self.fs = HookedFileSystem()
        self.failures: list[BaseException] = []
        tail = segment.begin(self.fs, self.directory, STORE, 1)
        self.log = Log(
            self.fs, self.directory, STORE, tail, self.failures.append, windowed=windowed
        )
        self.sequence = 0
        self.fs.calls.clear()

    def append(self, payload: bytes = b"payload") -> int:
        self.sequence += 1
        self.log.position = self.log.write(payload, 1, self.sequence)
        return self.log.position

    def syncs(self) -> int:
        return sum(1 for operation, _ in self.fs.calls if operation == "sync_data")

    def scan(self, first: int = 1) -> Scanner:
        file = self.fs.open(os.path.join(self.directory, segment.file_name(first)))
        scanner = Scanner(file, segment.read_header(file, STORE))
        self.frames = list(scanner.frames())
        return scanner


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_write_back_refuses_a_bad_interval(interval: float) -> None:
    with pytest.raises(ValueError, match="interval_seconds"):
        walkv.WriteBack(interval_seconds=interval)


@pytest.mark.parametrize("size", [0, -1])
def test_write_back_refuses_bad_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="max_unsynced_bytes"):
        walkv.WriteBack(max_unsynced_bytes=size)


def test_policies_are_values() -> None:
    assert walkv.Wal() == walkv.Wal()
    assert walkv.WriteBack(2.0) == walkv.WriteBack(interval_seconds=2.0)
    assert len({walkv.Wal(), walkv.WriteThrough(), walkv.WriteBack(), walkv.WriteBack(2)}) == 4
    with pytest.raises(AttributeError):
        walkv.WriteBack().interval_seconds = 5  # type: ignore[misc]  # the point of the test


def test_positions_count_bytes_and_frames_state_what_is_synced(bench: Bench) -> None:
    log = bench.log
    assert (log.position, log.durable, log.first_sequence) == (0, 0, 1)
    ends = [bench.append(b"x" * n) for n in (1, 50, 3)]
    assert ends == [45, 45 + 94, 45 + 94 + 47]
    assert log.durable == 0
    log.wait(ends[0])
    assert log.durable == ends[-1]
    log.wait(ends[-1])
    assert (bench.syncs(), log.sync_count) == (1, 1)
    bench.append()
    log.sync()
    log.sync()
    assert bench.syncs() == 3
    bench.append()
    bench.scan()
    assert [each.synced_offset for each in bench.frames] == [
        HEADER,
        HEADER,
        HEADER,
        HEADER + ends[-1],
        HEADER + ends[-1] + 51,
    ]


def test_zeros_are_written_ahead_of_small_groups_and_synced_bytes_keep_the_size(
    bench: Bench,
) -> None:
    log = bench.log
    log.wait(bench.append())
    path = os.path.join(bench.directory, segment.file_name(1))
    bench.append()
    size = os.path.getsize(path)
    assert size > HEADER + log.position + 200_000
    for _ in range(100):
        log.wait(bench.append())
    assert os.path.getsize(path) == size
    scanner = bench.scan()
    assert len(bench.frames) == 102
    assert scanner.ends_in_zeros()
    # Not ahead of bulk, where it would only double the bytes written.
    log.wait(bench.append(b"x" * 300_000))
    bench.append(b"x" * 300_000)
    assert os.path.getsize(path) == HEADER + log.position
    bench.scan()
    assert len(bench.frames) == 104


def test_no_space_for_the_zeros_is_no_error(bench: Bench) -> None:
    bench.log.wait(bench.append())
    bench.fs.hook = fail("write", ".wal", errno.ENOSPC)
    bench.append()
    bench.fs.hook = None
    bench.append()
    bench.log.wait(bench.log.position)
    bench.scan()
    assert len(bench.frames) == 3
    assert bench.failures == []


def size_of(bench: Bench) -> int:
    return os.path.getsize(os.path.join(bench.directory, segment.file_name(1)))


def test_small_frames_go_through_a_window_and_large_ones_do_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path, windowed=True)
    payloads = [b"%d" % number for number in range(wal._SMALL_FRAMES - 1)]
    for payload in payloads:
        bench.append(payload)
    assert size_of(bench) == HEADER + bench.log.position
    assert bench.log._window is wal.NO_WINDOW
    for number in range(3000):
        payloads.append(b"%d" % number * 50)
        bench.append(payloads[-1])
        assert bench.log._window is not wal.NO_WINDOW
    ahead = len(wal._AHEAD)
    assert HEADER + bench.log.position < size_of(bench) <= HEADER + bench.log.position + ahead
    payloads.append(b"x" * ahead)
    bench.append(payloads[-1])
    assert bench.log._window is wal.NO_WINDOW
    assert size_of(bench) == HEADER + bench.log.position
    payloads.append(b"behind it")
    bench.append(payloads[-1])
    bench.log.wait(bench.log.position)
    bench.scan()
    assert [each.payload for each in bench.frames] == payloads
    assert bench.failures == []


def test_a_window_is_closed_before_the_file_is_cut(tmp_path: Path) -> None:
    bench = Bench(tmp_path, windowed=True)
    log = bench.log

    def fill() -> None:
        for _ in range(wal._SMALL_FRAMES + 1):
            bench.append()
        assert log._window is not wal.NO_WINDOW

    fill()
    log.write(b"not to be", 1, 99)
    log.undo()
    assert log._window is wal.NO_WINDOW
    assert size_of(bench) == HEADER + log.position
    fill()
    log.mark(frame.SYNC_MARKER, bench.sequence + 1)
    bench.append()
    assert log._window is not wal.NO_WINDOW
    log.seal(bench.sequence + 1)
    assert log._window is wal.NO_WINDOW
    assert size_of(bench) == HEADER + log.position
    bench.scan()
    kinds = [each.kind for each in bench.frames]
    assert kinds.count(frame.COMMIT) == bench.sequence
    assert kinds[-3:] == [frame.SYNC_MARKER, frame.COMMIT, frame.SEAL]


def test_no_space_for_a_window_is_no_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path, windowed=True)
    for _ in range(wal._SMALL_FRAMES - 1):
        bench.append()
    bench.fs.hook = fail("write", ".wal", errno.ENOSPC)
    bench.append()
    bench.fs.hook = None
    for _ in range(wal._NO_SPACE_FRAMES + wal._SMALL_FRAMES - 1):
        bench.append()
        assert bench.log._window is wal.NO_WINDOW
    bench.append()
    assert bench.log._window is not wal.NO_WINDOW
    bench.scan()
    assert len(bench.frames) == bench.sequence
    assert bench.failures == []


def test_undo_cuts_what_a_failed_write_left(bench: Bench) -> None:
    log = bench.log
    end = bench.append()
    log.write(b"not to be", 1, 2)
    log.undo()
    path = os.path.join(bench.directory, segment.file_name(1))
    assert os.path.getsize(path) == HEADER + end
    bench.append(b"short")
    bench.scan()
    assert [each.payload for each in bench.frames] == [b"payload", b"short"]
    assert bench.failures == []


def test_an_undo_that_fails_poisons(bench: Bench) -> None:
    bench.append()
    bench.fs.hook = fail("truncate", ".wal", errno.EIO)
    with pytest.raises(walkv.StoreFailedError):
        bench.log.undo()
    assert len(bench.failures) == 1
    with pytest.raises(walkv.StoreFailedError):
        bench.log.wait(bench.log.position)
    assert bench.syncs() == 0


def test_waiters_who_come_while_a_sync_runs_share_the_next_one(bench: Bench) -> None:
    log = bench.log
    entered, let_go = threading.Event(), threading.Event()
    first = True

    def hold_first(operation: str, path: str) -> None:
        nonlocal first
        if operation == "sync_data" and first:
            first = False
            entered.set()
            let_go.wait(30)

    bench.fs.hook = hold_first
    lock = threading.Lock()
    done: list[tuple[int, int]] = []
    appended = threading.Semaphore(0)

    def commit() -> None:
        with lock:
            end = bench.append()
        appended.release()
        log.wait(end)
        done.append((end, log.durable))

    leader = threading.Thread(target=commit)
    leader.start()
    assert entered.wait(30)
    others = [threading.Thread(target=commit) for _ in range(20)]
    for thread in others:
        thread.start()
    for _ in range(21):
        appended.acquire()
    assert done == []
    let_go.set()
    for thread in [leader, *others]:
        thread.join()
    assert bench.syncs() == 2
    assert len(done) == 21
    assert all(durable >= end for end, durable in done)


def test_nobody_returns_before_a_sync_that_covers_him(bench: Bench) -> None:
    log = bench.log
    lock = threading.Lock()
    wrong: list[int] = []

    def work() -> None:
        for _ in range(40):
            with lock:
                end = bench.append()
            log.wait(end)
            if log.durable < end:
                wrong.append(end)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert bench.syncs() <= 240
    bench.scan()
    assert len(bench.frames) == 240


def test_a_failed_sync_is_for_good_and_reaches_every_waiter(bench: Bench) -> None:
    log = bench.log
    entered, let_go = threading.Event(), threading.Event()

    def fail_all(operation: str, path: str) -> None:
        if operation == "sync_data":
            entered.set()
            let_go.wait(30)
            raise OSError(errno.EIO, "I/O error")

    bench.fs.hook = fail_all
    errors: list[BaseException] = []
    ends = [bench.append() for _ in range(5)]

    def wait(end: int) -> None:
        try:
            log.wait(end)
        except walkv.StoreFailedError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait, args=(end,)) for end in ends]
    for thread in threads:
        thread.start()
    assert entered.wait(30)
    let_go.set()
    for thread in threads:
        thread.join()
    assert len(errors) == 5
    assert all(isinstance(error.__cause__, OSError) for error in errors)
    bench.fs.hook = None
    with pytest.raises(walkv.StoreFailedError):
        log.wait(ends[-1])
    with pytest.raises(walkv.StoreFailedError):
        log.sync()
    assert bench.syncs() == 1  # never tried again
    assert len(bench.failures) == 1
    assert log.durable == 0


def test_seal_and_rotation(bench: Bench) -> None:
    log = bench.log
    ends = [bench.append(), bench.append()]
    log.seal(3)
    log.seal(3)
    assert log.sealed
    assert log.durable == log.position
    with pytest.raises(AssertionError):
        bench.append()
    bench.sequence = 2
    scanner = bench.scan()
    assert scanner.sealed
    assert scanner.offset == scanner.file.size()
    assert bench.frames[-1].kind == frame.SEAL
    assert bench.frames[-1].first_sequence == 3
    order = [op for op, _ in bench.fs.calls if op != "open"]
    assert order[-3:] == ["write", "truncate", "sync_data"]
    bench.fs.calls.clear()
    tail = log.create_next(3)
    assert [op for op, _ in bench.fs.calls] == ["create", "write", "sync", "sync_directory"]
    before = log.position
    log.enter(tail)
    assert log.position == log.durable == before + HEADER
    assert (log.first_sequence, log.sealed) == (3, False)
    end = bench.append()
    assert end > before > ends[-1]
    log.wait(end)
    bench.scan(3)
    assert [each.first_sequence for each in bench.frames] == [3]
    assert bench.frames[0].synced_offset == HEADER


def test_a_seal_that_cannot_be_written_leaves_the_tail_as_it_was(bench: Bench) -> None:
    log = bench.log
    bench.append()
    for operation in ("write", "truncate"):
        bench.fs.hook = fail(operation, ".wal", errno.ENOSPC)
        with pytest.raises(OSError, match="No space"):
            log.seal(2)
        bench.fs.hook = None
        assert not log.sealed
        log.wait(bench.append())
    scanner = bench.scan()
    assert not scanner.sealed
    assert [each.kind for each in bench.frames] == [frame.COMMIT] * 3
    assert bench.failures == []


def test_a_next_segment_that_cannot_be_made_leaves_nothing(bench: Bench) -> None:
    bench.log.seal(1)
    for operation, error in (("create", OSError), ("write", OSError), ("sync", SyncError)):
        bench.fs.hook = fail(operation, ".wal", errno.ENOSPC)
        with pytest.raises(error):
            bench.log.create_next(2)
        bench.fs.hook = None
    bench.log.enter(bench.log.create_next(2))
    assert sorted(os.listdir(bench.directory)) == [segment.file_name(1), segment.file_name(2)]


def test_a_segment_deleted_underneath_is_noticed_at_rotation(bench: Bench) -> None:
    bench.log.wait(bench.append())
    os.unlink(os.path.join(bench.directory, segment.file_name(1)))
    with pytest.raises(walkv.StoreFailedError, match="deleted"):
        bench.log.seal(2)
    assert len(bench.failures) == 1


def test_close_marks_the_end_and_syncs_it(bench: Bench) -> None:
    bench.log.wait(bench.append())
    bench.append()
    bench.log.close(3)
    scanner = bench.scan()
    assert [each.kind for each in bench.frames] == [frame.COMMIT, frame.COMMIT, frame.CLOSE]
    assert scanner.offset == scanner.file.size()
    # The mark says that everything before it is durable.
    assert bench.frames[-1].synced_offset == bench.frames[-2].end_offset
    order = [op for op, _ in bench.fs.calls if op != "open"]
    assert order[-4:] == ["sync_data", "write", "truncate", "sync_data"]
    bench.log.sync()  # after the close there is nothing to sync, and no error


def test_markers_say_what_is_durable(bench: Bench) -> None:
    log = bench.log
    log.wait(bench.append())
    assert log.unmarked
    log.mark(frame.SYNC_MARKER, 2)
    assert not log.unmarked
    bench.append()
    assert log.unmarked
    bench.scan()
    assert [each.kind for each in bench.frames] == [
        frame.COMMIT,
        frame.SYNC_MARKER,
        frame.COMMIT,
    ]
    assert bench.frames[1].synced_offset == bench.frames[0].end_offset


def test_write_back_is_synced_in_the_background(tmp_path: Path) -> None:
    """The interval of the real clock: waits for the sync itself, whenever it comes."""
    fs = HookedFileSystem()
    synced = threading.Event()

    def note(operation: str, path: str) -> None:
        if operation == "sync_data":
            synced.set()

    policy = walkv.WriteBack(interval_seconds=0.01)
    with walkv.open(tmp_path / "s", filesystem=fs, sync=policy) as store:
        for number in range(3):
            synced.clear()
            fs.hook = note
            store.put(b"k", b"%d" % number)
            assert synced.wait(60)
            fs.hook = None


def test_an_idle_store_marks_what_it_synced(tmp_path: Path) -> None:
    """So that damage to the last commits is told from a torn tail."""
    fs = HookedFileSystem()
    marked = threading.Event()
    armed = False

    def note(operation: str, path: str) -> None:
        if operation == "write" and armed:
            marked.set()

    with walkv.open(tmp_path / "s", filesystem=fs) as store:
        fs.hook = note
        store.put(b"k", b"v")
        armed = True
        assert marked.wait(60)
        fs.hook = None
        store.put(b"l", b"v")  # takes the commit lock, so the mark is whole
        path = str(tmp_path / "s" / "log" / segment.file_name(1))
        file = fs.open(path)
        header = segment.SegmentHeader(*_header_fields(file.read(0, HEADER)))
        kinds = [each.kind for each in Scanner(file, header).frames()]
        assert kinds == [frame.COMMIT, frame.SYNC_MARKER, frame.COMMIT]


def _header_fields(data: bytes) -> tuple[bytes, int, int, int]:
    numbers = [int.from_bytes(data[at : at + 8], "little") for at in (32, 40, 48)]
    return (data[16:32], numbers[0], numbers[1], numbers[2])


def test_only_a_leader_after_a_crowd_waits_for_members(tmp_path: Path) -> None:
    naps: list[float] = []

    class Sleepless(HookedFileSystem):
        def sleep(self, seconds: float) -> None:
            naps.append(seconds)

    with walkv.open(tmp_path / "s", filesystem=Sleepless()) as store:
        for number in range(20):
            store.put(b"%d" % number, b"")
        assert naps == []
        engine = store.engine
        assert isinstance(engine, Engine)
        engine.write_log._crowd = wal.CROWD
        store.put(b"after a crowd", b"")
        assert naps == [wal.CROWD * wal.GATHER_SECONDS]
        store.put(b"alone again", b"")
        assert naps == [wal.CROWD * wal.GATHER_SECONDS]
