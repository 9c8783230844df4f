"""What every engine is to the workloads: the `Engine` protocol, and what its words mean."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from typing import ClassVar, Literal, Protocol

from benchmarks.dataset import Item

Guarantee = Literal["durable", "process"]
Feature = Literal["seek", "millions"]
"""Reading from a key on; and work on millions of entries within minutes."""
Get = Callable[[bytes], bytes | None]
Put = Callable[[bytes, bytes], object]

MIB = 1 << 20
WRITE_BUFFER_BYTES = 64 * MIB
"""Of LevelDB and RocksDB, which hold two of them: as much as walkv's memtables by default."""
CACHE_BYTES = 64 * MIB
"""Of every engine that has a cache of its own: as much as walkv's by default."""
SQLITE_PAGE_BYTES = 4096
WAL_AUTOCHECKPOINT_PAGES: dict[Guarantee, int] = {
    "durable": 1_000,
    "process": 64 * MIB // SQLITE_PAGE_BYTES,
}
"""SQLite's log, before it is copied into the database. In the process class a commit then seldom
waits for that. In the durable class the log must stay small, as by SQLite's default, and be written
over: a sync of a file that grows costs half as much again."""
BLOOM_FILTER_BITS = 10
"""A key, about one false positive in a hundred: what LevelDB's and RocksDB's guides name."""


class Writer(Protocol):
    """A handle for one thread."""

    def put(self, key: bytes, value: bytes, /) -> object:
        """Commits one entry."""

    def close(self) -> None:
        """Lets go of the handle."""


class Engine(Writer, Protocol):
    """An open store of one engine. A store is a directory, made if missing."""

    configuration: ClassVar[str]
    """How it is set up, in words."""
    group_commits: ClassVar[bool]
    """Whether commits of several threads share a sync; if not, more threads only wait."""
    unsupported: ClassVar[Mapping[Feature, str]]
    """What its Python interface cannot do, and why; such rows show "-"."""

    def __init__(self, path: Path, guarantee: Guarantee, *, value_bytes: int) -> None:
        """Opens it; `value_bytes` is the size its values have, for engines that depend on it."""

    @staticmethod
    def version() -> str:
        """Imports the engine and names its version; raises `ImportError` if it is absent."""

    def get(self, key: bytes, /) -> bytes | None:
        """Returns the value of `key`, or None."""

    def delete(self, key: bytes, /) -> object:
        """Commits the removal of one entry."""

    def reading(self) -> AbstractContextManager[Get]:
        """The engine's cheapest `get` for many keys in a row: inside one transaction, if any."""

    def write_batch(self, items: Sequence[Item]) -> None:
        """Commits `items` atomically."""

    def scan(self, *, reverse: bool = False) -> Iterator[Item]:
        """Iterates over all entries in key order."""

    def read_from(self, start: bytes, count: int, /) -> list[Item]:
        """The first `count` entries whose keys are not before `start`. Feature: seek."""

    def compact(self) -> None:
        """Rewrites the store into its smallest, best ordered form, where the engine can."""

    def for_thread(self) -> Writer:
        """A handle for one more thread: itself, where one handle may be shared."""

    def close(self) -> None:
        """Closes the store cleanly."""


class SerializedWriter:
    """One handle for the threads of an engine whose commits share no sync, behind a lock.

    SQLite's own way to wait for the writer is to sleep and try again, for up to a tenth of a
    second: with 64 threads that costs nine tenths of the rate that a lock gives it.
    """

    def __init__(self, put: Put) -> None:
        self._put = put
        self._lock = Lock()

    def put(self, key: bytes, value: bytes, /) -> None:
        with self._lock:
            self._put(key, value)

    def close(self) -> None:
        """Nothing: the store belongs to the engine."""
