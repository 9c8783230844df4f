"""Locks between processes, and what their holders tell of themselves.

Layout of a lock file: one JSON object, for messages only, and blanks behind it.

Invariants:
    1. The file is never unlinked: a lock on a name that others no longer see guards nothing.
    2. What is in the file decides nothing. It may be stale, torn or missing.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
from contextlib import suppress
from typing import Any, Final

from walkv.engine.vfs.protocols import LockHeldError

_MOST_BYTES: Final = 64 * 1024
_LOCK_TABLE: Final = "/proc/locks"
_ATTEMPTS: Final = 3


class OsLock:
    """An ``flock`` on a file that is never unlinked.

    ``fcntl`` locks were rejected: they are granted twice within one process, and dropped when any
    descriptor of the file closes.
    """

    __slots__ = ("_descriptor", "_path", "_told_bytes")

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._told_bytes = 0

    def tell(self, facts: dict[str, Any]) -> None:
        data = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), **facts}).encode()
        size = len(data)
        if size > _MOST_BYTES:
            return
        # In one write, over all that was there: who reads meanwhile sees no end of an older text.
        with suppress(OSError):
            os.pwrite(self._descriptor, data.ljust(self._told_bytes), 0)
            self._told_bytes = max(self._told_bytes, size)

    def valid(self) -> bool:
        return self._descriptor >= 0 and _same_file(self._descriptor, self._path)

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()


def take_lock(path: str) -> OsLock:
    """The exclusive lock at a path.

    Raises:
        LockHeldError: somebody else has it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        lock = OsLock(path, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(descriptor, path):
                # Who holds it is a courtesy, and a full disk no reason to refuse the store.
                with suppress(OSError):
                    os.ftruncate(descriptor, 0)
                lock.tell({})
                return lock
        except BlockingIOError:
            told = _read(descriptor)
            lock.release()
            raise LockHeldError(told) from None
        except BaseException:
            lock.release()
            raise
        # Somebody replaced the file between open and flock: this lock guards nothing.
        lock.release()


def read_holder(path: str) -> dict[str, Any] | None:
    """What the holder of the lock at a path has told of itself; None if nobody holds it.

    Taking the lock to see whether it is free would make an opener fail who comes at that moment.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        told = _read(descriptor)
        for _ in range(_ATTEMPTS):
            if told:
                break
            told = _read(descriptor)  # it was being written
        if told.get("host") == socket.gethostname() and not _is_held(descriptor, told):
            return None
        return told or None
    finally:
        os.close(descriptor)


def _is_held(descriptor: int, told: dict[str, Any]) -> bool:
    """Whether a process of this host has the lock, by the kernel's table of locks or else by
    whether that process is there."""
    status = os.fstat(descriptor)
    try:
        with open(_LOCK_TABLE, encoding="ascii", errors="replace") as table:
            rows = [line.split() for line in table]
    except OSError:
        return _is_running(told.get("pid"))
    number = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any("FLOCK" in row and number in row for row in rows)


def _is_running(pid: Any) -> bool:
    if type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


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


def _read(descriptor: int) -> dict[str, Any]:
    try:
        told = json.loads(os.pread(descriptor, _MOST_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
