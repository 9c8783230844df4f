"""A file system in memory: a damaged store costs microseconds to set up and leaves nothing."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from walkv.engine.vfs import File, LockHeldError

ROOT = "/s"


class Blob:
    """An inode: bytes until somebody writes to it."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = data
        self.links = 1

    def writable(self) -> bytearray:
        if not isinstance(self.data, bytearray):
            self.data = bytearray(self.data)
        return self.data


class MemoryFile:
    def __init__(self, path: str, blob: Blob, fs: MemoryFileSystem) -> None:
        self.path = path
        self._blob = blob
        self._fs = fs

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        return bytes(self._blob.data[offset_bytes : offset_bytes + size_bytes])

    def write(self, data: bytes, offset_bytes: int) -> None:
        self._fs.changes.append(("write", self.path))
        mine = self._blob.writable()
        if len(mine) < offset_bytes:
            mine += bytes(offset_bytes - len(mine))
        mine[offset_bytes : offset_bytes + len(data)] = data

    def size(self) -> int:
        return len(self._blob.data)

    def truncate(self, size_bytes: int) -> None:
        self._fs.changes.append(("truncate", self.path))
        mine = self._blob.writable()
        del mine[size_bytes:]
        mine += bytes(size_bytes - len(mine))

    def sync_data(self) -> None:
        pass

    def sync(self) -> None:
        pass

    def link_count(self) -> int:
        return self._blob.links

    def close(self) -> None:
        pass


class MemoryLock:
    def __init__(self, fs: MemoryFileSystem) -> None:
        self._fs = fs

    def valid(self) -> bool:
        return True

    def release(self) -> None:
        self._fs.locked = False


class MemoryFileSystem:
    """Files below ``/s``, from a dict of relative names to bytes.

    Attributes:
        changes: every operation that changed something, and its path.
    """

    def __init__(self, files: dict[str, bytes] | None = None, *, now_ns: int = 0) -> None:
        self.threads = False
        self.blobs = {f"{ROOT}/{name}": Blob(data) for name, data in (files or {}).items()}
        self.directories = {"/", ROOT, f"{ROOT}/log", f"{ROOT}/snapshots", f"{ROOT}/quarantine"}
        if files is None:
            self.directories = {"/"}
        self.changes: list[tuple[str, str]] = []
        self.locked = False
        self.now_ns = now_ns
        self._drawn = 0

    def files(self) -> dict[str, bytes]:
        """All files, the lock left out."""
        found = {posixpath.relpath(path, ROOT): bytes(b.data) for path, b in self.blobs.items()}
        found.pop("LOCK", None)
        return found

    def open(self, path: str, *, writable: bool = False) -> File:
        blob = self.blobs.get(path)
        if blob is None:
            raise FileNotFoundError(2, "no such file", path)
        return MemoryFile(path, blob, self)

    def create(self, path: str) -> File:
        if path in self.blobs:
            raise FileExistsError(17, "file exists", path)
        self.changes.append(("create", path))
        self.blobs[path] = Blob(bytearray())
        return MemoryFile(path, self.blobs[path], self)

    def read_file(self, path: str, max_bytes: int) -> bytes:
        return self.open(path).read(0, max_bytes)

    def list(self, directory: str) -> list[str]:
        if directory not in self.directories:
            raise FileNotFoundError(2, "no such directory", directory)
        parent = posixpath.dirname
        inside = [*self.blobs, *(path for path in self.directories if path != "/")]
        return sorted(posixpath.basename(path) for path in inside if parent(path) == directory)

    def is_directory(self, path: str) -> bool:
        return path in self.directories

    def make_directory(self, path: str) -> None:
        if path not in self.directories:
            self.changes.append(("make_directory", path))
            self.directories.add(path)

    def rename(self, source: str, target: str) -> None:
        self.changes.append(("rename", target))
        if target in self.blobs:
            self.blobs[target].links = 0
        self.blobs[target] = self.blobs.pop(source)

    def unlink(self, path: str) -> None:
        if path not in self.blobs:
            raise FileNotFoundError(2, "no such file", path)
        self.changes.append(("unlink", path))
        self.blobs.pop(path).links = 0

    def sync_directory(self, path: str) -> None:
        pass

    def fingerprint(self, path: str) -> tuple[int, ...]:
        if path not in self.blobs:
            raise FileNotFoundError(2, "no such file", path)
        return (id(self.blobs[path]),)

    def lock(self, path: str) -> MemoryLock:
        if self.locked:
            raise LockHeldError({})
        self.locked = True
        self.blobs.setdefault(path, Blob(b""))
        return MemoryLock(self)

    def join(self, *parts: str) -> str:
        return posixpath.join(*parts)

    def parent(self, path: str) -> str:
        return posixpath.dirname(path)

    def absolute(self, path: str) -> str:
        return path

    def wall_time_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return 0.0

    def random_bytes(self, size_bytes: int) -> bytes:
        self._drawn += 1
        return self._drawn.to_bytes(size_bytes, "big")

    def sleep(self, seconds: float) -> None:
        pass

    def network_name(self, path: str) -> str | None:
        return None

    def on_fork(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None
