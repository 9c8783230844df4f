"""The operating system's own files, clocks and forks."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

from walkv.engine.vfs.locks import OsLock, read_holder, take_lock
from walkv.engine.vfs.mounts import keeps_space, network_type
from walkv.engine.vfs.protocols import Window

_O_CLOEXEC = os.O_CLOEXEC
environment: Callable[[str], str | None] = os.environ.get


class OsFile:
    """A file of the operating system."""

    __slots__ = ("__weakref__", "_descriptor", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        data = os.pread(self._descriptor, size_bytes, offset_bytes)
        if len(data) == size_bytes or not data:
            return data
        parts = [data]
        done = len(data)
        while done < size_bytes:
            data = os.pread(self._descriptor, size_bytes - done, offset_bytes + done)
            if not data:
                break
            parts.append(data)
            done += len(data)
        return b"".join(parts)

    def write(self, data: bytes, offset_bytes: int) -> None:
        try:
            written = os.pwrite(self._descriptor, data, offset_bytes)
            if written != len(data):
                self._write_rest(memoryview(data)[written:], offset_bytes + written)
        except OSError as error:
            error.filename = self.path  # pwrite knows it not, and who has a full disk wants to
            raise

    def _write_rest(self, data: memoryview, offset_bytes: int) -> None:
        # The kernel may take less than it was given (a nearly full disk, a signal, more than
        # 2 GiB at once). The next call either goes on or says why not.
        while data:
            written = os.pwrite(self._descriptor, data, offset_bytes)
            if written == 0:
                raise OSError(errno.EIO, "write made no progress", self.path)
            data = data[written:]
            offset_bytes += written

    def window(self, offset_bytes: int, size_bytes: int) -> Window | None:
        if not keeps_space(os.fstat(self._descriptor).st_dev):
            return None
        try:
            return mmap.mmap(self._descriptor, size_bytes, offset=offset_bytes)
        except OSError:
            return None  # no address space, or no more maps: then without

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._descriptor, size_bytes)

    if sys.platform == "darwin":  # pragma: no cover - exercised with a fake in the unit tests

        def sync_data(self) -> None:
            full_sync(self._descriptor)

        def sync(self) -> None:
            full_sync(self._descriptor)

    else:

        def sync_data(self) -> None:
            os.fdatasync(self._descriptor)

        def sync(self) -> None:
            os.fsync(self._descriptor)

    def link_count(self) -> int:
        return os.fstat(self._descriptor).st_nlink

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def full_sync(descriptor: int) -> None:
    """Sync on macOS, where ``fsync`` leaves the data in the drive's cache.

    Some file systems there do not know ``F_FULLFSYNC``; for them ``fsync`` is all there is.
    """
    try:
        fcntl.fcntl(descriptor, getattr(fcntl, "F_FULLFSYNC", 51))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
            raise
        os.fsync(descriptor)


class OsFileSystem:
    """The operating system's own files."""

    threads = True

    def open(self, path: str, *, writable: bool = False) -> OsFile:
        mode = os.O_RDWR if writable else os.O_RDONLY
        return OsFile(path, os.open(path, mode | _O_CLOEXEC))

    def create(self, path: str) -> OsFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _O_CLOEXEC
        return OsFile(path, os.open(path, flags, 0o666))

    def read_file(self, path: str, max_bytes: int) -> bytes:
        file = self.open(path)
        try:
            return file.read(0, min(file.size(), max_bytes))
        finally:
            file.close()

    def list(self, directory: str) -> list[str]:
        return sorted(os.listdir(directory))

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def make_directory(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def fingerprint(self, path: str) -> tuple[int, ...]:
        status = os.stat(path)
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def lock(self, path: str) -> OsLock:
        return take_lock(path)

    def holder(self, path: str) -> dict[str, Any] | None:
        return read_holder(path)

    def process_id(self) -> int:
        return os.getpid()

    def free_bytes(self, path: str) -> int | None:
        try:
            status = os.statvfs(path)
        except OSError:
            return None
        if not status.f_blocks:
            return None  # a file system that does not tell
        return status.f_bavail * status.f_frsize

    def join(self, *parts: str) -> str:
        return os.path.join(*parts)

    def parent(self, path: str) -> str:
        return os.path.dirname(path)

    def absolute(self, path: str) -> str:
        return os.path.abspath(path)

    # Not methods of their own: a commit reads the clock, and a Python call costs more than that.
    wall_time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)

    def random_bytes(self, size_bytes: int) -> bytes:
        return os.urandom(size_bytes)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def network_name(self, path: str) -> str | None:
        return network_type(path)

    def on_fork(self, callback: Callable[[], None]) -> Callable[[], None]:
        return _fork_watch.add(callback)


class _ForkWatch:
    """Tells live objects that they woke up in a forked child.

    A hook costs the hot path nothing, where comparing ``os.getpid()`` costs a system call a write.
    """

    def __init__(self) -> None:
        self._callbacks: dict[int, weakref.WeakMethod[Callable[[], None]]] = {}
        os.register_at_fork(after_in_child=self._in_child)

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        token = id(callback.__self__)  # type: ignore[attr-defined]  # a bound method, by contract
        self._callbacks[token] = weakref.WeakMethod(callback)
        return lambda: self._remove(token)

    def _remove(self, token: int) -> None:
        self._callbacks.pop(token, None)

    def _in_child(self) -> None:
        callbacks, self._callbacks = self._callbacks, {}
        for reference in callbacks.values():
            callback = reference()
            if callback is not None:
                callback()


_fork_watch = _ForkWatch()
