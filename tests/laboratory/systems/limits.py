"""What a real kernel refuses: space, inodes, large files, descriptors, writes.

1. A refused commit raises an ``OSError`` that says so, and is not there; all before it are.
2. The store goes on once there is room again. Opening it anew finds the same.
3. On a read-only medium nothing is written, and a writable open says what to do instead.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import walkv
from tests.laboratory.job import Figures, Job
from tests.laboratory.kills.commits import POLICIES, Commit, Ledger, perform
from tests.laboratory.kills.process import Heard, Say, Work, forked, write
from tests.laboratory.systems.places import Disk, call, read_only, tmpfs
from walkv.engine.policies import WriteBack

MEMTABLE_BYTES = 65_536
_ROOM_SHARE = 0.55
"""Share of the disk that is given back, so that a merge of all the rest has space beside it."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
TOO_LARGE = (errno.EFBIG,)
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class _Writer:
    """One thread's commits into one store, some of which are refused."""

    def __init__(self, path: str, options: dict[str, str], figures: Figures) -> None:
        self.path = path
        self.policies = options.get("policies", "wal")
        self.memtable_bytes = int(options.get("memtable", str(MEMTABLE_BYTES)))
        self.ledger = Ledger(1)
        self.figures = figures
        self.generation = 0
        self.next_number = 0

    def open(self) -> walkv.Store:
        self.generation += 1
        return walkv.open(
            self.path,
            sync=POLICIES[self.policies],
            memtable_bytes=self.memtable_bytes,
            min_free_bytes=0,  # what happens at the very end of the disk
        )

    def fill(self, store: walkv.Store, most: int) -> OSError | None:
        """Commit until that is refused, or often enough."""
        for _ in range(most):
            try:
                perform(store, Commit(0, self.next_number, self.generation), self.policies)
            except OSError as error:
                return error
            self.next_number += 1
        return None

    def check(self, store: walkv.Store) -> None:
        """What returned is there, and nothing else."""
        self.ledger.advance(store)
        found = self.ledger.next_numbers[0]
        assert found == self.next_number, f"{self.next_number} commits returned, {found} are there"
        self.figures.counts["acknowledged checked after a refusal"] += 1

    def look(self) -> None:
        with walkv.open(self.path, read_only=True) as store:
            self.check(store)
            assert store.verify().ok, store.verify().problems[0]

    def refused(self, error: OSError, numbers: tuple[int, ...]) -> None:
        assert error.errno in numbers, f"not the error of a full disk: {error!r}"
        assert "everything before it is kept" in str(error), str(error)


# -- space ---------------------------------------------------------------------------------------


def full_disk(job: Job, options: dict[str, str], directory: str) -> Figures:
    """``full-disk fs=tmpfs policies=wal memtable=65536 rounds=3``: filled, looked at, emptied."""
    figures, chooser = Figures(), random.Random(job.seed)
    for number in range(int(options["rounds"])):
        size_bytes = (1 << 20) + chooser.randrange(1 << 20)
        place = os.path.join(directory, str(number))
        os.mkdir(place)
        with _small_disk(options["fs"], place, size_bytes) as point:
            writer = _Writer(os.path.join(point, "s"), options, figures)
            for _ in range(2):
                _fill_up(writer, Path(point) / "ballast", chooser)
    return figures


@contextmanager
def _small_disk(kind: str, directory: str, size_bytes: int) -> Iterator[str]:
    if kind == "tmpfs":
        with tmpfs(directory, f"size={size_bytes}") as point:
            yield point
    else:
        with Disk(directory, kind, "", 3 * size_bytes).mounted() as point:
            yield point


def _fill_up(writer: _Writer, ballast: Path, chooser: random.Random) -> None:
    status = os.statvfs(ballast.parent)
    free_bytes = status.f_bavail * status.f_frsize
    ballast_bytes = int(free_bytes * chooser.uniform(0.6, 0.8))
    if ballast_bytes < _ROOM_SHARE * status.f_blocks * status.f_frsize:
        return
    ballast.write_bytes(bytes(ballast_bytes))
    store = writer.open()
    for _ in range(chooser.randint(1, 4)):
        error = writer.fill(store, 20_000)
        assert error is not None, "the disk is never full"
        writer.refused(error, NO_SPACE)
        writer.check(store)
    act = chooser.choice(("go on", "go on", "close", "compact", "kill"))
    if act == "close":
        store.close()
        writer.look()
        _open_on_full_disk(writer)
    elif act == "compact":
        with suppress(OSError):
            store.compact()
        writer.check(store)
    elif act == "kill":
        store.close()
        _killed_on_full_disk(writer)
    ballast.unlink()
    if not store.closed:
        _goes_on(writer, store)
        store.close()
    with writer.open() as store:
        writer.check(store)
        _goes_on(writer, store)
        assert store.verify().ok
    writer.look()
    writer.figures.counts["full disks survived"] += 1


def _goes_on(writer: _Writer, store: walkv.Store) -> None:
    assert writer.fill(store, 5) is None, "there is room again, and a commit is refused"
    writer.check(store)


def _open_on_full_disk(writer: _Writer) -> None:
    """Whether it can be opened or not, nothing is lost by the attempt."""
    try:
        store = writer.open()
    except OSError as error:
        _is_one_of(error, NO_SPACE)
    else:
        writer.check(store)
        store.close()
    writer.look()


def _killed_on_full_disk(writer: _Writer) -> None:
    """Another process fills the rest and dies; what it was told is there."""
    writer.generation += 1
    work = Work(
        path=writer.path,
        face="loop",
        policies=writer.policies,
        generation=writer.generation,
        first=[writer.next_number],
        commits=20_000,
    )
    with forked(partial(write, work)) as child:
        child.listen(lambda heard: bool(heard.errors))
        heard = child.kill()
    assert all("No space left" in error for error in heard.errors), heard.errors
    begun = heard.begun.get(0, writer.next_number - 1)
    with walkv.open(writer.path, read_only=True) as store:
        writer.ledger.advance(store)
    found = writer.ledger.next_numbers[0]
    acknowledged = [number for _, number in heard.acknowledged]
    assert max(acknowledged, default=-1) < found <= begun + 1, "acknowledged on a full disk: lost"
    writer.next_number = found
    _open_on_full_disk(writer)


def no_inodes(job: Job, options: dict[str, str], directory: str) -> Figures:
    """``no-inodes``: file systems that take so many files and no more, from too few to enough."""
    figures = Figures()
    for inodes in range(3, 16):
        with tmpfs(directory, f"size=16m,nr_inodes={inodes}") as point:
            writer = _Writer(os.path.join(point, "s"), options, figures)
            more = partial(call, "mount", "-o", "remount,nr_inodes=10000", point)
            _refused_then_not(writer, NO_SPACE, more)
            figures.counts["file systems without inodes survived"] += 1
    return figures


def _refused_then_not(
    writer: _Writer,
    numbers: tuple[int, ...],
    allow: Callable[[], None],
) -> None:
    """Open and fill under a limit, lift it, and go on."""
    try:
        store = writer.open()
    except (OSError, walkv.StoreFailedError) as error:
        _is_one_of(error, numbers)
        allow()
    else:
        stopped = _fill_under_limit(writer, store, numbers)
        allow()
        if stopped:
            _last_unknown(writer)
        else:
            _goes_on(writer, store)
        with suppress(walkv.StoreFailedError):
            store.close()
    with writer.open() as store:
        writer.check(store)
        _goes_on(writer, store)
    writer.look()


def _is_one_of(error: BaseException, numbers: tuple[int, ...]) -> None:
    """The error, or the one that stopped the store, is what the limit gives."""
    cause = error if isinstance(error, OSError) else error.__cause__
    assert isinstance(cause, OSError), repr(error)
    assert cause.errno in numbers, repr(error)


def _fill_under_limit(writer: _Writer, store: walkv.Store, numbers: tuple[int, ...]) -> bool:
    """Returns whether the store has stopped: something could not even be synced."""
    try:
        error = writer.fill(store, 800)
        if error is not None:
            writer.refused(error, numbers)
            writer.figures.counts["commits refused by a limit"] += 1
        writer.check(store)
    except walkv.StoreFailedError as failure:
        _is_one_of(failure, numbers)
        writer.figures.counts["stores stopped by a limit"] += 1
        return True
    return False


def _last_unknown(writer: _Writer) -> None:
    """A commit that met a store's failure was neither acknowledged nor refused."""
    with walkv.open(writer.path, read_only=True) as reader:
        writer.ledger.advance(reader)
    found = writer.ledger.next_numbers[0]
    assert writer.next_number <= found <= writer.next_number + 1, f"{found} found"
    writer.next_number = found


# -- limits of the process -----------------------------------------------------------------------


def file_size(job: Job, options: dict[str, str], directory: str) -> Figures:
    """``file-size``: no file may grow beyond so many bytes; the signal is ignored, or kills."""
    figures, chooser = Figures(), random.Random(job.seed)
    unlimited = resource.RLIM_INFINITY
    for number in range(int(options["rounds"])):
        writer = _Writer(os.path.join(directory, f"s{number}"), options, figures)
        limit_bytes = int(10 ** chooser.uniform(1.0, 5.3))
        if chooser.random() < 0.3:
            _killed_by_limit(writer, limit_bytes)
            continue
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, unlimited))
        allow = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        _refused_then_not(writer, TOO_LARGE, allow)
        figures.counts["limits on the size of files survived"] += 1
    return figures


def _killed_by_limit(writer: _Writer, limit_bytes: int) -> None:
    writer.generation += 1
    work = Work(writer.path, "loop", writer.policies, writer.generation, [0], 2_000)

    def body(say: Say) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
        write(work, say)

    with forked(body) as child:
        heard = child.wait()
        died = child.status == signal.SIGXFSZ or child.status == signal.SIGXFSZ | 0x80
    assert died or heard.closed, heard.errors
    with writer.open() as store:
        writer.ledger.advance(store)
    found = writer.ledger.next_numbers[0]
    assert len(heard.acknowledged) <= found <= len(heard.acknowledged) + 1
    writer.figures.counts["processes killed by a limit"] += died


def descriptors(job: Job, options: dict[str, str], directory: str) -> Figures:
    """``descriptors``: so many open files and no more, from too few to enough."""
    figures = Figures()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(14):
        writer = _Writer(os.path.join(directory, f"s{spare}"), options, figures)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, hard))
        allow = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        _refused_then_not(writer, NO_DESCRIPTOR, allow)
        figures.counts["limits on open files survived"] += 1
    return figures


# -- a read-only medium --------------------------------------------------------------------------


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    """Every file: its bytes, and when it was changed."""
    return {
        str(file.relative_to(path)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def read_only_medium(job: Job, options: dict[str, str], directory: str) -> Figures:
    """``read-only``: stores that were closed, and that were killed, behind a read-only mount."""
    figures, chooser = Figures(), random.Random(job.seed)
    data = Path(directory) / "data"
    for number in range(int(options["rounds"])):
        path = data / f"s{number}"
        path.mkdir(parents=True)
        work = Work(str(path), "loop", "mixed", 1, [0], chooser.randint(0, 400))
        with forked(partial(write, work)) as child:
            child.listen(partial(_enough, chooser.randint(0, 300)))
            heard = child.kill()
        before = contents(data)
        with read_only(str(data), os.path.join(directory, "mounted")) as point:
            if (path / "MANIFEST").exists():
                _only_read(os.path.join(point, f"s{number}"), len(heard.acknowledged))
        assert contents(data) == before, "something was written"
        figures.counts["read-only mounts read"] += 1
    return figures


def _enough(acknowledgements: int, heard: Heard) -> bool:
    return heard.closed or len(heard.acknowledged) >= acknowledgements


def _only_read(path: str, acknowledged: int) -> None:
    ledger = Ledger(1)
    with walkv.open(path, read_only=True) as store:
        ledger.advance(store)
        assert ledger.next_numbers[0] >= acknowledged, "acknowledged and lost"
        assert store.verify().ok
        assert store.refresh() is False
        _raises(walkv.ReadOnlyError, lambda: store.put(b"k", b"v", sync=WriteBack()))
    error = _raises(OSError, lambda: walkv.open(path))
    assert error.errno == errno.EROFS, repr(error)
    assert "read_only=True" in str(error), str(error)
    _raises(OSError, lambda: walkv.open(path + "-new"))


def _raises(kind: type[Exception], act: Callable[[], object]) -> OSError:
    try:
        act()
    except kind as error:
        return error if isinstance(error, OSError) else OSError(0, str(error))
    raise AssertionError(f"no {kind.__name__} on a read-only medium")
