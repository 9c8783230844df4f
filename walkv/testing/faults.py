"""A file system over another that counts every call and fails the one it is told to.

Calls that can fail on a real disk are numbered from 0. Naming, clocks, randomness and ``close`` are
passed on: an error of ``close`` after a good sync says nothing about the data.

Over a ``SimulatedFileSystem`` a failed sync loses what it should have covered: it can be read, no
later sync makes it durable, and a power failure shows that.

    >>> import walkv
    >>> from walkv.testing import SimulatedFileSystem
    >>> fs = FaultyFileSystem(SimulatedFileSystem())
    >>> store = walkv.open("/s", filesystem=fs)
    >>> fs.fault = Fault(lambda call: call.operation == "sync_data")
    >>> store.put(b"k", b"v")
    Traceback (most recent call last):
        ...
    walkv.errors.StoreFailedError: the store stopped because ...
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from walkv.engine.vfs import File, FileSystem, Lock, OsFileSystem, Window
from walkv.testing.clock import ManualClock
from walkv.testing.simulated import SimulatedHandle
from walkv.testing.windows import WritingWindow

SYNCS: Final = frozenset(("sync", "sync_data", "sync_directory"))
SPACE_TAKERS: Final = frozenset(("write", "create", "make_directory", "rename"))
"""What goes on failing on a full disk; reads, truncates and unlinks work there."""


class Call(NamedTuple):
    """One call: its number, the operation, and the path it was about."""

    number: int
    operation: str
    path: str


@dataclass(frozen=True)
class Fault:
    """What is to fail.

    Attributes:
        at: number of the first call that fails, or a test of calls.
        code: the ``errno``.
        forever: later calls fail as well: on a full disk those that take space, with ``EIO`` all.
        short: a ``write`` writes half of its bytes first.
        operations: which operations go on failing; None for the rule above.
    """

    at: int | Callable[[Call], bool]
    code: int = errno.EIO
    forever: bool = False
    short: bool = False
    operations: frozenset[str] | None = None

    def goes_on_with(self, operation: str) -> bool:
        if not self.forever:
            return False
        if self.operations is not None:
            return operation in self.operations
        return self.code == errno.EIO or operation in SPACE_TAKERS

    def begins_with(self, call: Call) -> bool:
        return call.number == self.at if isinstance(self.at, int) else self.at(call)


class FaultyFileSystem:
    """See the module.

    Attributes:
        base: the file system below.
        threads: whether the engine may start threads; None for what the one below says.
        calls: every call so far, from opening on; look here for the number to fail.
        fault: what is to fail; None for nothing.
        paused: calls are passed on, not counted: it is the test that looks.
        raised: the errors raised so far.
        failed_calls: the calls that raised them.
        before: called with each call before it happens, outside of any lock.
        clock: a clock in place of the system's, if given.
    """

    def __init__(
        self,
        base: FileSystem | None = None,
        *,
        threads: bool | None = None,
        clock: ManualClock | None = None,
        fault: Fault | None = None,
    ) -> None:
        self.base: FileSystem = OsFileSystem() if base is None else base
        self.threads = self.base.threads if threads is None else threads
        self.clock = clock
        self.calls: list[Call] = []
        self.fault = fault
        self.paused = False
        self.raised: list[OSError] = []
        self.failed_calls: list[Call] = []
        self.before: Callable[[Call], None] | None = None
        self._begun = False
        self._counting = threading.Lock()
        self._locks: list[Lock] = []

    def heal(self) -> None:
        """Nothing fails from now on."""
        self.fault = None
        self._begun = False

    def kill(self) -> None:
        """What the kernel does when the process is killed: give back the locks, sync nothing."""
        for lock in self._locks:
            lock.release()
        self._locks.clear()

    def check(self, operation: str, path: str) -> OSError | None:
        """Count a call; the error that it is to raise, if any."""
        if self.paused:
            return None
        with self._counting:
            call = Call(len(self.calls), operation, path)
            self.calls.append(call)
            fault = self.fault
            if fault is None:
                error = None
            elif self._begun:
                error = self._error(fault, call) if fault.goes_on_with(operation) else None
            elif fault.begins_with(call):
                self._begun = True
                error = self._error(fault, call)
            else:
                error = None
        if self.before is not None:
            self.before(call)
        return error

    def _error(self, fault: Fault, call: Call) -> OSError:
        error = OSError(fault.code, os.strerror(fault.code), call.path)
        self.raised.append(error)
        self.failed_calls.append(call)
        return error

    def passes(self, operation: str, path: str) -> None:
        error = self.check(operation, path)
        if error is not None:
            raise error

    # -- the FileSystem protocol -----------------------------------------------------------------

    def open(self, path: str, *, writable: bool = False) -> File:
        self.passes("open", path)
        return _FaultyFile(self, self.base.open(path, writable=writable))

    def create(self, path: str) -> File:
        self.passes("create", path)
        return _FaultyFile(self, self.base.create(path))

    def read_file(self, path: str, max_bytes: int) -> bytes:
        self.passes("read_file", path)
        return self.base.read_file(path, max_bytes)

    def list(self, directory: str) -> list[str]:
        self.passes("list", directory)
        return self.base.list(directory)

    def is_directory(self, path: str) -> bool:
        return self.base.is_directory(path)

    def make_directory(self, path: str) -> None:
        self.passes("make_directory", path)
        self.base.make_directory(path)

    def rename(self, source: str, target: str) -> None:
        self.passes("rename", target)
        self.base.rename(source, target)

    def unlink(self, path: str) -> None:
        self.passes("unlink", path)
        self.base.unlink(path)

    def sync_directory(self, path: str) -> None:
        self.passes("sync_directory", path)
        self.base.sync_directory(path)

    def fingerprint(self, path: str) -> tuple[int, ...]:
        self.passes("fingerprint", path)
        return self.base.fingerprint(path)

    def lock(self, path: str) -> Lock:
        self.passes("lock", path)
        lock = self.base.lock(path)
        self._locks.append(lock)
        return lock

    def holder(self, path: str) -> dict[str, Any] | None:
        return self.base.holder(path)

    def process_id(self) -> int:
        return self.base.process_id()

    def free_bytes(self, path: str) -> int | None:
        return self.base.free_bytes(path)

    def join(self, *parts: str) -> str:
        return self.base.join(*parts)

    def parent(self, path: str) -> str:
        return self.base.parent(path)

    def absolute(self, path: str) -> str:
        return self.base.absolute(path)

    def wall_time_ns(self) -> int:
        return self.base.wall_time_ns() if self.clock is None else self.clock.wall_ns

    def monotonic(self) -> float:
        return self.base.monotonic() if self.clock is None else self.clock.monotonic_seconds

    def random_bytes(self, size_bytes: int) -> bytes:
        return self.base.random_bytes(size_bytes)

    def sleep(self, seconds: float) -> None:
        if self.clock is None:
            self.base.sleep(seconds)
        else:
            self.clock.advance(seconds)

    def network_name(self, path: str) -> str | None:
        return self.base.network_name(path)

    def on_fork(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self.base.on_fork(callback)


class _FaultyFile:
    def __init__(self, fs: FaultyFileSystem, base: File) -> None:
        self._fs = fs
        self._base = base
        self.path = base.path

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        self._fs.passes("read", self.path)
        return self._base.read(offset_bytes, size_bytes)

    def write(self, data: bytes, offset_bytes: int) -> None:
        error = self._fs.check("write", self.path)
        if error is not None:
            if self._fs.fault is not None and self._fs.fault.short:
                self._base.write(data[: len(data) // 2], offset_bytes)
            raise error
        self._base.write(data, offset_bytes)

    def window(self, offset_bytes: int, size_bytes: int) -> Window | None:
        return WritingWindow(self, offset_bytes)

    def size(self) -> int:
        self._fs.passes("size", self.path)
        return self._base.size()

    def truncate(self, size_bytes: int) -> None:
        self._fs.passes("truncate", self.path)
        self._base.truncate(size_bytes)

    def sync_data(self) -> None:
        self._passes_sync("sync_data")
        self._base.sync_data()

    def sync(self) -> None:
        self._passes_sync("sync")
        self._base.sync()

    def _passes_sync(self, operation: str) -> None:
        error = self._fs.check(operation, self.path)
        if error is not None:
            if isinstance(self._base, SimulatedHandle):
                self._base.lose_unsynced()
            raise error

    def link_count(self) -> int:
        self._fs.passes("link_count", self.path)
        return self._base.link_count()

    def close(self) -> None:
        self._base.close()
