"""The only door to the operating system: files, directories, locks, clocks, randomness, forks.

Everything the engine does to the world goes through a ``FileSystem``. The real one is
``OsFileSystem``; a simulated one can lose unsynced bytes, fail any call and stop the clock.

Invariants:
    1. No other module of the engine imports ``os``, ``mmap`` or ``fcntl``, or calls ``open``.
       Pauses that only share the processor (``compaction``, retries) use ``time`` directly.
    2. ``File.write`` writes everything or raises. After it raised, nothing is known about the
       bytes in its range; bytes outside its range are untouched.
    3. After ``sync_data`` returned, all bytes written before the call are on the medium. After
       ``sync_directory`` returned, so are all creations, renames and unlinks in it.
    4. A file descriptor lives as long as its ``File``: readers of an unlinked file keep it.

    5. A ``Window`` is given only for bytes that were written before, where the file system keeps
       their space: what is put there needs none that could be missing.

Source: Pebble's ``vfs`` and LevelDB's ``Env``. Mapping space that was not written yet was rejected:
on a full disk that ends in SIGBUS, which kills the process, where ``pwrite`` gives a typed error.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import re
import socket
import stat
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol


class Window(Protocol):
    """Bytes of a file that can be set without a system call, as part of a sequence of bytes.

    What is put there is in the hands of the operating system at once, as after ``File.write``.
    """

    def __setitem__(self, place: slice, data: bytes, /) -> None: ...

    def close(self) -> None:
        """Must come before the file is truncated."""


class File(Protocol):
    """An open file, read and written at explicit offsets."""

    path: str

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Up to ``size_bytes`` from ``offset_bytes``; shorter only where the file ends."""

    def write(self, data: bytes, offset_bytes: int) -> None:
        """All of ``data`` at ``offset_bytes``, or an ``OSError``."""

    def window(self, offset_bytes: int, size_bytes: int) -> Window | None:
        """A window on bytes that were written before; None where there is none to be had.

        Args:
            offset_bytes: a multiple of ``WINDOW_ALIGNMENT_BYTES``.
        """

    def size(self) -> int: ...

    def truncate(self, size_bytes: int) -> None: ...

    def sync_data(self) -> None:
        """Put the file's bytes and size on the medium."""

    def sync(self) -> None:
        """As ``sync_data``, and all other metadata of the file."""

    def link_count(self) -> int:
        """Names this file has in the file system; 0 when it was deleted."""

    def close(self) -> None:
        """Give the descriptor back. Closing twice is allowed."""


class Lock(Protocol):
    """A held lock."""

    def valid(self) -> bool:
        """Whether the lock file is still the one under its path: the directory that it guards may
        have been moved away, and another put in its place."""

    def release(self) -> None: ...


class LockHeldError(Exception):
    """The lock is held elsewhere; ``holder`` is what the holder wrote of itself."""

    def __init__(self, holder: dict[str, Any]) -> None:
        super().__init__("the lock is held by another opener")
        self.holder = holder


class SyncError(Exception):
    """A sync failed, so what it should have covered may be lost although it can still be read.

    Kept apart from ``OSError`` because the two have opposite consequences: a failed write is undone
    and the store goes on; after a failed sync nothing may be retried (the kernel has marked the
    lost pages clean) and the store stops for good.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def ensure_synced(sync: Callable[[], None]) -> None:
    """Call a sync; its ``OSError`` becomes a ``SyncError``."""
    try:
        sync()
    except OSError as error:
        raise SyncError(error) from error


class FileSystem(Protocol):
    """What the engine asks of the world."""

    threads: bool
    """Whether background threads may be started. A simulation says no, and the engine then does
    the same work inline, at the same points every time."""

    def open(self, path: str, *, writable: bool = False) -> File: ...

    def create(self, path: str) -> File:
        """A new file, open for reading and writing; ``FileExistsError`` if there is one."""

    def read_file(self, path: str, max_bytes: int) -> bytes:
        """The first ``max_bytes`` of a file."""

    def list(self, directory: str) -> list[str]:
        """Names in a directory, sorted."""

    def is_directory(self, path: str) -> bool: ...

    def make_directory(self, path: str) -> None:
        """Create a directory; no error if it is there."""

    def rename(self, source: str, target: str) -> None:
        """Atomically give ``source`` the name ``target``, replacing what had it."""

    def unlink(self, path: str) -> None: ...

    def sync_directory(self, path: str) -> None: ...

    def fingerprint(self, path: str) -> tuple[int, ...]:
        """Changes whenever the file at ``path`` is replaced by another."""

    def lock(self, path: str) -> Lock:
        """Take the exclusive lock at ``path`` or raise ``LockHeldError`` at once."""

    def join(self, *parts: str) -> str: ...

    def parent(self, path: str) -> str: ...

    def absolute(self, path: str) -> str: ...

    def wall_time_ns(self) -> int:
        """Time of day, for humans and expiry; may jump."""

    def monotonic(self) -> float:
        """Seconds that never go back, for intervals."""

    def random_bytes(self, size_bytes: int) -> bytes: ...

    def sleep(self, seconds: float) -> None: ...

    def network_name(self, path: str) -> str | None:
        """The type of the network file system ``path`` is on, or None."""

    def on_fork(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call a bound method in every forked child while its object lives.

        Returns a function that ends this.
        """


WINDOW_ALIGNMENT_BYTES = 64 * 1024
"""The largest page of the systems that Python runs on."""

_O_CLOEXEC = os.O_CLOEXEC


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
        written = os.pwrite(self._descriptor, data, offset_bytes)
        if written != len(data):
            self._write_rest(memoryview(data)[written:], offset_bytes + written)

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
        if not _keeps_space(os.fstat(self._descriptor).st_dev):
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


_IN_PLACE = frozenset(("ext2", "ext3", "ext4", "tmpfs"))
"""Linux file systems that always write where the bytes are. Others may need space for a new version
of them (XFS does if the file was cloned), and a process that puts bytes into a mapping when there
is none left is killed."""

_in_place_devices: dict[int, bool] = {}


def _keeps_space(device: int) -> bool:
    """Whether bytes of a file on a device can be set again without further space."""
    known = _in_place_devices.get(device)
    if known is None:
        number = f"{os.major(device)}:{os.minor(device)}"
        kinds = {kind for mounted, _, kind in _mounts() if mounted == number}
        known = _in_place_devices[device] = bool(kinds) and kinds <= _IN_PLACE
    return known


def _mounts() -> list[tuple[str, str, str]]:
    """Device number, mount point and type of what is mounted, in order; on Linux only."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
            lines = [line.split() for line in table]
    except OSError:
        return []
    points = [_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), fields[4]) for fields in lines]
    kinds = [fields[fields.index("-") + 1] for fields in lines]
    return list(zip([fields[2] for fields in lines], points, kinds, strict=True))


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


class OsLock:
    """An ``flock`` on a file that is never unlinked.

    ``fcntl`` locks were rejected: they are granted twice within one process, and dropped when any
    descriptor of the file closes.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def valid(self) -> bool:
        return self._descriptor >= 0 and _same_file(self._descriptor, self._path)

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()


_OCTAL = re.compile(r"\\([0-7]{3})")
"""How the mount table writes blanks in names."""

_NETWORK_TYPES = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs"]
    + [f"fuse.{name}" for name in ("sshfs", "glusterfs", "s3fs", "rclone", "gcsfuse")]
)


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
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same_file(descriptor, path):
                    # Who holds it is a courtesy, and a full disk no reason to refuse the store.
                    with suppress(OSError):
                        holder = {"pid": os.getpid(), "host": socket.gethostname()}
                        os.ftruncate(descriptor, 0)
                        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
                    return OsLock(path, descriptor)
            except BlockingIOError:
                holder = _read_holder(descriptor)
                os.close(descriptor)
                raise LockHeldError(holder) from None
            except BaseException:
                os.close(descriptor)
                raise
            # Somebody replaced the file between open and flock: this lock guards nothing.
            os.close(descriptor)

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
        """Read from the mount table of Linux; elsewhere always None."""
        real = os.path.realpath(path)
        best, found = "", None
        for _, point, kind in _mounts():
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, found = point, kind
        return found if found in _NETWORK_TYPES else None

    def on_fork(self, callback: Callable[[], None]) -> Callable[[], None]:
        return _fork_watch.add(callback)


def _same_file(descriptor: int, path: str) -> bool:
    try:
        named = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    held = os.fstat(descriptor)
    return stat.S_ISREG(held.st_mode) and (named.st_dev, named.st_ino) == (
        held.st_dev,
        held.st_ino,
    )


def _read_holder(descriptor: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


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
