"""A backend in memory: the same backend over a file system that is gone with the process.

Source: a second implementation over dictionaries was rejected: two things to keep alike, and a test
that runs over one would say nothing about the other.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

from walkv.engine.policies import WriteBack
from walkv.interfaces.storage_backend.backend import WalkvStorageBackend
from walkv.namespaces.faces import CLASSES
from walkv.testing.medium import SimulatedFile, apply_write
from walkv.testing.simulated import SimulatedFileSystem, SimulatedHandle

_NOTHING_TO_SYNC: Final = WriteBack()


class _MemoryFile(SimulatedFile):
    """A file that does not keep what a power failure might leave of it."""

    __slots__ = ()

    def apply(self, offset: int, data: bytes | None) -> None:
        apply_write(self.data, offset, data)
        self.version += 1


class MemoryFileSystem(SimulatedFileSystem):
    """Files in memory, with the time and the randomness of the system."""

    def create(self, path: str) -> SimulatedHandle:
        handle = super().create(path)
        directory, name = self._parent(path)
        handle._node = directory.entries[name] = _MemoryFile(handle._node.number)
        directory.sync()
        return handle

    def wall_time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    def random_bytes(self, size_bytes: int) -> bytes:
        return secrets.token_bytes(size_bytes)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class MemoryStorageBackend(WalkvStorageBackend):
    """A ``WalkvStorageBackend`` without a disk. What was closed can be opened again.

    Args:
        options: as for ``WalkvStorageBackend``, but for ``filesystem``.
    Durability: none; commits are acknowledged at once.
    """

    def __init__(self, **options: Any) -> None:
        policies = dict.fromkeys(CLASSES, _NOTHING_TO_SYNC)
        chosen = {"sync": _NOTHING_TO_SYNC, "policies": policies, **options}
        super().__init__("/memory.walkv", filesystem=MemoryFileSystem(), **chosen)
