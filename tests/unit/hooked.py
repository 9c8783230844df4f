"""The real file system with a clock that can be set, calls that can be watched, and faults."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from walkv.engine.vfs import OsFile, OsFileSystem, Window
from walkv.testing.windows import WritingWindow

START_NS = 1_700_000_000_000_000_000
Hook = Callable[[str, str], None]


class HookedFile(OsFile):
    """A real file that tells its file system what is about to be done to it."""

    def __init__(self, path: str, descriptor: int, fs: HookedFileSystem) -> None:
        super().__init__(path, descriptor)
        self._fs = fs

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        self._fs.meet("read", self.path)
        return super().read(offset_bytes, size_bytes)

    def write(self, data: bytes, offset_bytes: int) -> None:
        self._fs.meet("write", self.path)
        super().write(data, offset_bytes)

    def window(self, offset_bytes: int, size_bytes: int) -> Window | None:
        return WritingWindow(self, offset_bytes)

    def size(self) -> int:
        self._fs.meet("size", self.path)
        return super().size()

    def truncate(self, size_bytes: int) -> None:
        self._fs.meet("truncate", self.path)
        super().truncate(size_bytes)

    def sync_data(self) -> None:
        self._fs.meet("sync_data", self.path)
        super().sync_data()

    def sync(self) -> None:
        self._fs.meet("sync", self.path)
        super().sync()


class HookedFileSystem(OsFileSystem):
    """Calls ``hook(operation, path)`` before each operation; it may raise to make that fail.

    Attributes:
        now_ns: the wall clock, which stands still until it is set.
        calls: operations so far, in order, reads left out.
    """

    def __init__(self, *, threads: bool = True, hook: Hook | None = None) -> None:
        self.threads = threads
        self.hook = hook
        self.now_ns = START_NS
        self.calls: list[tuple[str, str]] = []

    def meet(self, operation: str, path: str) -> None:
        if operation not in ("read", "size", "list"):
            self.calls.append((operation, path))
        hook = self.hook
        if hook is not None:
            hook(operation, path)

    def open(self, path: str, *, writable: bool = False) -> OsFile:
        self.meet("open_writable" if writable else "open", path)
        mode = os.O_RDWR if writable else os.O_RDONLY
        return HookedFile(path, os.open(path, mode | os.O_CLOEXEC), self)

    def create(self, path: str) -> OsFile:
        self.meet("create", path)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return HookedFile(path, os.open(path, flags, 0o666), self)

    def list(self, directory: str) -> list[str]:
        self.meet("list", directory)
        return super().list(directory)

    def make_directory(self, path: str) -> None:
        self.meet("make_directory", path)
        super().make_directory(path)

    def rename(self, source: str, target: str) -> None:
        self.meet("rename", target)
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self.meet("unlink", path)
        super().unlink(path)

    def sync_directory(self, path: str) -> None:
        self.meet("sync_directory", path)
        super().sync_directory(path)

    def wall_time_ns(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


def fail(operation: str, suffix: str, number: int, *, times: int = 1) -> Hook:
    """A hook that makes an operation on paths with a suffix fail with an errno, so many times."""
    left = times

    def hook(met: str, path: str) -> None:
        nonlocal left
        if met == operation and path.endswith(suffix) and left:
            left -= 1
            raise OSError(number, os.strerror(number), path)

    return hook


def listing(directory: str | Path) -> dict[str, tuple[int, int, bytes]]:
    """Size, modification time and bytes of every file below a directory."""
    found = {}
    for path in sorted(Path(directory).rglob("*")):
        status = path.stat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(directory))] = (status.st_size, status.st_mtime_ns, data)
    return found


def contents(directory: str | Path) -> dict[str, bytes]:
    """Bytes of every file below a directory, the lock file left out."""
    return {
        name: data for name, (_, _, data) in listing(directory).items() if not name.endswith("LOCK")
    }
