"""What the engine asks of the world: protocols of files, locks and file systems, and two errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

WINDOW_ALIGNMENT_BYTES = 64 * 1024
"""The largest page of the systems that Python runs on."""


class Window(Protocol):
    """Bytes of a file that can be set without a system call, as part of a sequence of bytes.

    What is put there is in the hands of the operating system at once, as after ``File.write``.
    """

    def __setitem__(self, place: slice, data: bytes, /) -> None: ...

    def close(self) -> None:
        """Must come before the file is truncated."""


class ReadableFile(Protocol):
    """An open file, read at explicit offsets."""

    path: str

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Up to ``size_bytes`` from ``offset_bytes``; shorter only where the file ends."""

    def size(self) -> int: ...

    def close(self) -> None:
        """Give the descriptor back. Closing twice is allowed."""


class File(ReadableFile, Protocol):
    """An open file, read and written at explicit offsets."""

    def write(self, data: bytes, offset_bytes: int) -> None:
        """All of ``data`` at ``offset_bytes``, or an ``OSError``."""

    def window(self, offset_bytes: int, size_bytes: int) -> Window | None:
        """A window on bytes that were written before; None where there is none to be had.

        Args:
            offset_bytes: a multiple of ``WINDOW_ALIGNMENT_BYTES``.
        """

    def truncate(self, size_bytes: int) -> None: ...

    def sync_data(self) -> None:
        """Put the file's bytes and size on the medium."""

    def sync(self) -> None:
        """As ``sync_data``, and all other metadata of the file."""

    def link_count(self) -> int:
        """Names this file has in the file system; 0 when it was deleted."""


class Lock(Protocol):
    """A held lock."""

    def tell(self, facts: dict[str, Any]) -> None:
        """Let others know something about the holder; see ``FileSystem.holder``. Costs a write,
        and nothing depends on it: what cannot be told is not."""

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

    def holder(self, path: str) -> dict[str, Any] | None:
        """What the holder of the lock at ``path`` has told of itself; None if nobody holds it.

        Takes and writes nothing. Where the holder is on another host, or died there, that is not
        known, and what it told last is returned.
        """

    def process_id(self) -> int: ...

    def free_bytes(self, path: str) -> int | None:
        """What may still be written to the disk that ``path`` is on; None where that is unknown."""

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


class _NoWindow:
    def __setitem__(self, place: slice, data: bytes, /) -> None:
        raise AssertionError("there is no window")

    def close(self) -> None:
        """There is nothing to close."""


NO_WINDOW: Window = _NoWindow()
"""In the place of a window, where there is none."""
