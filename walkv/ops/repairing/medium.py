"""Reading a store that must not be touched, from a medium that may be failing.

Invariants:
    1. Nothing here opens a file for writing, creates one, or changes a time stamp on purpose.
    2. Bytes that the medium does not give are read as zeros: what they were part of then fails its
       checksum, as any damage does, and what is around them is saved.
    3. While a source is held no writer can open it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from walkv.engine import files
from walkv.engine.vfs import OsFile, OsFileSystem
from walkv.errors import LockedError

_SECTOR_BYTES = 4096


class PatientFile(OsFile):
    """A file that is read as far as it can be."""

    __slots__ = ()

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        try:
            return super().read(offset_bytes, size_bytes)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        stop = min(offset_bytes + size_bytes, self.size())
        parts = []
        while offset_bytes < stop:
            count = min(_SECTOR_BYTES - offset_bytes % _SECTOR_BYTES, stop - offset_bytes)
            parts.append(self._sector(offset_bytes, count))
            offset_bytes += count
        return b"".join(parts)

    def _sector(self, offset_bytes: int, size_bytes: int) -> bytes:
        try:
            return super().read(offset_bytes, size_bytes).ljust(size_bytes, b"\0")
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return bytes(size_bytes)


class Medium(OsFileSystem):
    """The operating system's files, for reading only."""

    def open(self, path: str, *, writable: bool = False) -> PatientFile:
        if writable:
            raise PermissionError(errno.EACCES, "a store under repair is only read", path)
        return PatientFile(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def regular_files(self, directory: str) -> list[str]:
        """Names of the files in a directory, sorted; none if it is not there."""
        if not self.is_directory(directory):
            return []
        return [name for name in self.list(directory) if os.path.isfile(f"{directory}/{name}")]


@contextmanager
def held(directory: str) -> Iterator[None]:
    """Keep writers away from a store until the block ends, without a write to it.

    A shared lock on the lock file does: it works on a file that may only be read, where the file
    system has locks at all.

    Raises:
        LockedError: a writer has the store open.
    """
    path = os.path.join(directory, files.LOCK_NAME)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, IsADirectoryError):
        yield  # no lock, so nobody holds it
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _locked(directory, path, descriptor) from None
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.EROFS):
                raise
        yield
    finally:
        os.close(descriptor)


def _locked(directory: str, path: str, descriptor: int) -> LockedError:
    try:
        holder = json.loads(os.pread(descriptor, _SECTOR_BYTES, 0))
        pid, host = holder["pid"], holder["host"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        pid = host = None
    who = f"process {pid} on {host}" if isinstance(pid, int) else "another program"
    return LockedError(
        f"{directory}: {who} has this store open for writing; close it there, then repair it",
        path=path,
        pid=pid if isinstance(pid, int) else None,
        host=host if isinstance(host, str) else None,
    )
