"""What a directory's file system really does: syncs are timed, locks taken, clocks compared.

Invariant: what is made for it is gone when the block ends, also after Ctrl-C. Only a kill leaves
an empty or small directory behind, whose name says what it is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from walkv.engine.vfs import WINDOW_ALIGNMENT_BYTES, OsFileSystem

_PREFIX: Final = ".walkv-doctor-"
_APPEND_BYTES: Final = 256
"""About a small commit."""
_MOST_SYNCS: Final = 200
_MOST_SECONDS: Final = 1.0
_FEWEST_SYNCS: Final = 10


class SyncCost(NamedTuple):
    """How long syncs took, each after a small append.

    Attributes:
        sync_count: how many were timed.
    """

    sync_count: int
    median_seconds: float
    p99_seconds: float
    largest_seconds: float


@contextmanager
def workplace(directory: str) -> Iterator[str]:
    """A directory in ``directory``, removed with all that is in it when the block ends.

    Raises:
        OSError: it cannot be made.
    """
    made = tempfile.mkdtemp(prefix=_PREFIX, dir=directory)
    try:
        yield made
    finally:
        shutil.rmtree(made)


def append_sync(place: str) -> SyncCost:
    """What a durable commit waits for: an append to a file, then a sync of its data."""
    fs = OsFileSystem()
    file = fs.create(os.path.join(place, "appends"))
    data = os.urandom(_APPEND_BYTES)
    try:
        return _timed(lambda number: file.write(data, number * _APPEND_BYTES), file.sync_data)
    finally:
        file.close()


def directory_sync(place: str) -> SyncCost:
    """What a new file waits for: its name in the directory, then a sync of that."""
    fs = OsFileSystem()

    def make(number: int) -> None:
        fs.create(os.path.join(place, str(number))).close()

    return _timed(make, lambda: fs.sync_directory(place))


def _timed(prepare: Callable[[int], None], sync: Callable[[], None]) -> SyncCost:
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < _MOST_SYNCS:
        prepare(len(seconds))
        before = time.perf_counter()
        sync()
        after = time.perf_counter()
        seconds.append(after - before)
        if len(seconds) >= _FEWEST_SYNCS and after - began > _MOST_SECONDS:
            break
    seconds.sort()
    count = len(seconds)
    return SyncCost(count, seconds[count // 2], seconds[-1 - count // 100], seconds[-1])


def lock_works(place: str) -> bool:
    """Whether a lock that is held keeps others out.

    Raises:
        OSError: there are no locks here.
    """
    path = os.path.join(place, "lock")
    with open(path, "wb") as first, open(path, "rb") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def window_works(place: str) -> bool:
    """Whether write-back commits are put into mapped files here, without a system call each."""
    file = OsFileSystem().create(os.path.join(place, "window"))
    try:
        file.write(bytes(WINDOW_ALIGNMENT_BYTES), 0)
        window = file.window(0, WINDOW_ALIGNMENT_BYTES)
        if window is None:
            return False
        window.close()
        return True
    finally:
        file.close()


def clock_difference_seconds(place: str) -> float:
    """How far the file system's clock is ahead of this machine's; 0 but for its granularity."""
    path = os.path.join(place, "clock")
    before = time.time()
    with open(path, "wb"):
        pass
    after = time.time()
    made = os.stat(path).st_mtime
    return made - min(max(made, before), after)
